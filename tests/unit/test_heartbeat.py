"""The files that tell of vpc-cnid while it is away."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from cni_shim.heartbeat import Heartbeat, seen_at
from cni_shim.status import SILENCE_SECONDS, Silence, status_error
from structlog.testing import capture_logs


def age(path: Path, seconds: float) -> None:
    """As if it had been touched so long ago."""
    os.utime(path, (time.time() - seconds,) * 2)


@pytest.mark.parametrize(
    ("is_answered", "touched"), [(True, {"alive", "heartbeat"}), (False, {"alive"})]
)
def test_the_heartbeat_is_of_a_node_that_works_and_alive_of_vpc_cnid(
    tmp_path: Path, is_answered: bool, touched: set[str]
) -> None:
    Heartbeat(tmp_path, is_answered=lambda: is_answered).beat()
    assert {path.name for path in tmp_path.iterdir()} == touched


def test_a_beat_makes_old_files_young(tmp_path: Path) -> None:
    beat = Heartbeat(tmp_path, is_answered=lambda: True).beat
    beat()
    for path in tmp_path.iterdir():
        age(path, 3600)
    beat()
    assert all(time.time() - path.stat().st_mtime < 60 for path in tmp_path.iterdir())


def test_a_directory_that_is_gone_is_told(tmp_path: Path) -> None:
    with capture_logs() as logs:
        Heartbeat(tmp_path / "gone", is_answered=lambda: True).beat()
    assert [line["event"] for line in logs] == ["heartbeat_failed"]


@pytest.mark.parametrize("restarts", [0, 1, 5])
def test_restarts_of_vpc_cnid_do_not_make_ipamds_minute_longer(
    tmp_path: Path, restarts: int
) -> None:
    silence = Silence(seen_at=None)
    heartbeat = Heartbeat(tmp_path, is_answered=lambda: silence.since is None)
    silence.heard()
    heartbeat.beat()
    silence.unheard(time.monotonic())
    age(tmp_path / "heartbeat", SILENCE_SECONDS - 1)
    for _ in range(restarts):
        silence = Silence(seen_at=seen_at(tmp_path))
        heartbeat.beat()
    since = seen_at(tmp_path) if not restarts else silence.since
    assert since is not None
    now = time.monotonic()
    assert status_error(since, "", now) is None
    assert status_error(since, "", now + 2) is not None


def test_a_node_that_never_worked_is_not_ready_after_a_restart_either(tmp_path: Path) -> None:
    silence = Silence(seen_at=seen_at(tmp_path))
    Heartbeat(tmp_path, is_answered=lambda: silence.since is None).beat()
    again = Silence(seen_at=seen_at(tmp_path))
    assert status_error(again.since, "", time.monotonic()) is not None
