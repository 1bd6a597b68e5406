"""What the sources of the launchers promise about themselves."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.shim.launchers import (
    SOURCES,
    CompilerMissing,
    build_launcher,
    interpreter,
    pack_launcher,
)

C_LINES_LIMIT = 300


def test_the_c_launcher_can_be_read_in_one_sitting() -> None:
    assert len((SOURCES / "vpc_cni.c").read_text().splitlines()) < C_LINES_LIMIT


def test_the_python_launcher_imports_only_what_is_loaded_anyway() -> None:
    tree = ast.parse((SOURCES / "vpc_cni.py").read_text())
    at_start = {
        alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names
    }
    assert at_start == {"_socket", "posix", "sys", "time"}


def test_the_python_launcher_loads_one_module_more_than_the_bare_interpreter() -> None:
    def loaded(*arguments: str) -> set[str]:
        process = subprocess.run(
            [interpreter(), "-IS", "-X", "importtime", *arguments],
            env={"CNI_COMMAND": "VERSION"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=True,
        )
        return {line.rpartition("|")[2].strip() for line in process.stderr.splitlines()}

    bare = loaded("-c", "pass")
    assert loaded(str(SOURCES / "vpc_cni.py")) - bare == {"_socket"}
    assert loaded(str(pack_launcher())) - bare == {"_socket"}


def test_the_python_launcher_can_be_started_by_its_first_line() -> None:
    script = SOURCES / "vpc_cni.py"
    assert script.read_text().startswith("#!/usr/bin/python3 -IS\n")
    assert os.access(script, os.X_OK)


def version_by(script: Path) -> bytes:
    return subprocess.run(
        [interpreter(), "-IS", str(script)],
        env={"CNI_COMMAND": "VERSION"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=True,
    ).stdout


def test_the_packed_launcher_is_an_executable_with_the_same_first_line() -> None:
    packed = pack_launcher()
    assert packed.read_text().startswith("#!/usr/bin/python3 -IS\n")
    assert packed.stat().st_mode & 0o777 == 0o755


def test_the_packed_launcher_runs_from_its_bytecode(tmp_path: Path) -> None:
    text = pack_launcher().read_text()
    without_source = tmp_path / "launcher"
    without_source.write_text(re.sub(r"(?m)^SOURCE = .*$", "SOURCE = ''", text))
    assert version_by(without_source) == version_by(SOURCES / "vpc_cni.py") != b""


def test_another_python_runs_the_packed_launcher_from_its_source(tmp_path: Path) -> None:
    text = pack_launcher().read_text()
    foreign = tmp_path / "launcher"
    foreign.write_text(
        re.sub(r"(?m)^BYTECODE = .*$", "BYTECODE = b''", text).replace(
            "MAGIC_NUMBER == b", "MAGIC_NUMBER == b'another' + b"
        )
    )
    assert version_by(foreign) == version_by(SOURCES / "vpc_cni.py") != b""


def build(directory: Path) -> Path:
    try:
        return build_launcher(directory)
    except CompilerMissing as e:
        pytest.skip(str(e))


def test_a_build_makes_the_program_and_nothing_else(tmp_path: Path) -> None:
    binary = build(tmp_path / "made")
    assert [path.name for path in (tmp_path / "made").iterdir()] == ["vpc-cni"]
    assert binary.stat().st_mode & 0o777 == 0o755


def test_a_second_build_does_nothing(tmp_path: Path) -> None:
    before = build(tmp_path).stat()
    after = build(tmp_path).stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_a_newer_source_is_built_again(tmp_path: Path) -> None:
    binary = build(tmp_path)
    os.utime(binary, (0, 0))
    build(tmp_path)
    assert binary.stat().st_mtime > 0


def test_without_a_compiler_the_build_says_what_to_install(tmp_path: Path) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("sh", "dirname", "mkdir", "mktemp", "rm"):
        found = shutil.which(name)
        assert found is not None
        (tools / name).symlink_to(found)
    made = subprocess.run(
        [str(SOURCES / "build.sh"), str(tmp_path / "out")],
        env={"PATH": str(tools)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 3
    assert "apt-get install gcc musl-tools" in made.stderr
