"""A short run of the fuzzer of vpc-cnid's door; `python -m tests.fuzz_cni` is the long one."""

from __future__ import annotations

import os

import pytest
from cni_shim import serving
from structlog.testing import capture_logs

from tests import fuzz_cni

INPUTS = 2000


@pytest.mark.parametrize("seed", [1, int.from_bytes(os.urandom(3), "big")], ids=["fixed", "new"])
def test_no_input_crashes_hangs_or_leaks(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    monkeypatch.setattr(serving, "_is_root", lambda connection: True)
    with capture_logs():
        answers = fuzz_cni.run(INPUTS, seed)  # a failure names seed and input
    assert answers.total() == INPUTS
    assert {"success", "code 1", "code 4", "code 6", "code 7", "code 8"} <= set(answers)


def test_the_judge_sees_a_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fuzzer itself can fail."""

    def crash(config: object) -> frozenset[tuple[str, str]]:
        raise RuntimeError(config)

    monkeypatch.setattr(serving, "_is_root", lambda connection: True)
    monkeypatch.setattr("cni_shim.runtime_keys.valid_attachments", crash)
    with capture_logs(), pytest.raises(fuzz_cni.Failure, match="RuntimeError"):
        fuzz_cni.run(INPUTS, seed=1)
