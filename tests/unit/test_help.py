"""Each program tells its options and exit statuses, and refuses what it does not know, at once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

PROGRAMS = {
    "ipamd": ["-m", "ipamd"],
    "vpc-cnid": ["-m", "cni_shim"],
    "status": ["-m", "ipamd.cli.main", "status"],
    "max-pods": ["-m", "ipamd.cli.main", "max-pods"],
    "migrate check": ["-m", "ipamd.cli.main", "migrate", "check"],
    "migrate back": ["-m", "ipamd.cli.main", "migrate", "back"],
    "demo": ["-m", "providers.sim.demo"],
}


def ran(command: list[str], run_dir: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        env={"PATH": os.environ["PATH"], "VPC_IPAMD_RUN_DIR": str(run_dir)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize("name", PROGRAMS)
def test_help_names_the_exit_statuses(name: str, tmp_path: Path) -> None:
    done = ran([sys.executable, *PROGRAMS[name], "--help"], tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert "Exit status: 0" in " ".join(done.stdout.split())
    assert not (tmp_path / "run").exists(), "it has begun to work"


@pytest.mark.parametrize("name", PROGRAMS)
def test_an_unknown_option_is_refused_before_anything_starts(name: str, tmp_path: Path) -> None:
    done = ran([sys.executable, *PROGRAMS[name], "--nonsense"], tmp_path / "run")
    assert done.returncode == 2
    assert "--nonsense" in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["check", "gen", "lock"])
def test_a_script_shows_its_head_and_refuses_what_it_does_not_know(
    name: str, tmp_path: Path
) -> None:
    script = str(ROOT / "scripts" / name)
    shown, refused = ran([script, "--help"], tmp_path), ran([script, "--nonsense"], tmp_path)
    assert (shown.returncode, refused.returncode) == (0, 2)
    assert len(shown.stdout.splitlines()) >= 1
    assert "unknown arguments: --nonsense" in refused.stderr
