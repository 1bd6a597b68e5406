"""scripts/bench/rtt on the real thing, with few pods and few turns."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.netns

SCRIPT = Path(__file__).parents[2] / "scripts" / "bench" / "rtt"


def test_both_paths_are_measured_in_both_modes() -> None:
    done = subprocess.run(
        [str(SCRIPT), "--quick", "-o", "json"],
        capture_output=True, text=True, check=False, timeout=180,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["rows"]
    assert [(r["mode"], r["pods"], r["path"]) for r in rows] == [
        (mode, pods, path)
        for pods in (0, 30)
        for mode in ("grouped", "per-pod")
        for path in ("pod-pod", "pod-eni")
    ]
    assert all(0 < r["median_us"] <= r["p95_us"] and r["round_trips"] == 250 for r in rows)
