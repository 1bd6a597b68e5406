"""Rules of the house that no tool knows."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
GENERATED = re.compile(r"proto/(ipam_api/v1/ipam|compat/rpc|cri_api/runtime)_pb2|requirements/")


def tracked(*patterns: str) -> list[Path]:
    """Files of the tree: what git tracks and what it would, so that new ones count at once."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", *patterns],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\n")
    found = [ROOT / name for name in listed if name and not GENERATED.search(name)]
    return [path for path in found if path.is_file()]


def python_files(*parts: str) -> Iterator[Path]:
    """Python files below the given folders."""
    return (p for p in tracked("*.py") if p.relative_to(ROOT).parts[0] in parts)


def test_every_module_says_what_it_owns() -> None:
    missing = [
        str(path.relative_to(ROOT))
        for path in python_files("ipamd", "providers", "cni-shim", "proto")
        if ast.get_docstring(ast.parse(path.read_text())) is None
    ]
    assert missing == []


def test_nothing_is_left_for_later() -> None:
    marks = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b|raise NotImplementedError")
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in tracked("*.py", "*.c", "*.md", "*.proto", "scripts/*")
        if path != Path(__file__)
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if marks.search(line)
    ]
    assert found == []


def test_no_path_of_a_machine_and_no_registry_host_is_in_the_tree() -> None:
    forbidden = re.compile(r"/work/|/root/|/home/[a-z]|pypi\.org|files\.pythonhosted|deb\.debian")
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}"
        for path in tracked()
        if path != Path(__file__)
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
        if forbidden.search(line)
    ]
    assert found == []


@pytest.mark.parametrize("folder", ["ipamd", "providers", "cni-shim"])
def test_modules_stay_small(folder: str) -> None:
    long = {
        str(path.relative_to(ROOT)): lines
        for path in python_files(folder)
        if (lines := path.read_text().count("\n")) > 500
    }
    assert long == {}, "look for the second idea"


def test_functions_stay_one_thought() -> None:
    long = []
    for path in python_files("ipamd", "providers", "cni-shim"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or 0) - node.lineno
                if length > 60:
                    long.append(f"{path.relative_to(ROOT)}: {node.name} has {length} lines")
    assert long == []


def test_every_test_can_fail() -> None:
    checks = re.compile(r"\bassert|raises|check|expect|warns|verify|wait_until")
    toothless = [
        f"{path.relative_to(ROOT)}: {node.name}"
        for path in python_files("tests")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
        and not checks.search(ast.unparse(node))
    ]
    assert toothless == []


def test_every_module_of_the_daemon_is_in_the_architecture() -> None:
    page = (ROOT / "ARCHITECTURE.md").read_text()
    table = page.split("## Modules of ipamd")[1].split("## Layers")[0]
    named = {name.split("/")[-1] for name in re.findall(r"`([a-z_/]+)`", table)}
    modules = {p.stem for folder in ("ipamd", "ipamd/pool") for p in (ROOT / folder).glob("*.py")}
    assert modules - {"__init__", "__main__"} - named == set()
