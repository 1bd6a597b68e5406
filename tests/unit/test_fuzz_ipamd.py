"""A short run of the fuzzer of ipamd's doors; `python -m tests.fuzz_ipamd` is the long one."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import structlog
from ipam_api.v1 import ipam_pb2 as pb

from ipamd.handlers import Handlers
from tests import fuzz_ipamd
from tests.fuzz_requests import ATTEMPTS

INPUTS = 2000


@pytest.fixture(autouse=True)
def _logs() -> Iterator[None]:
    """The fuzzer keeps the logs to itself; the next test wants them as they were."""
    before = structlog.get_config()
    yield
    structlog.configure(**before)


def test_no_request_crashes_hangs_or_leaks() -> None:
    answers = fuzz_ipamd.run(INPUTS, seed=int.from_bytes(os.urandom(3), "big"))
    assert {"door: OK", "door: BAD_REQUEST", "door: nothing", "grpc: OK"} <= set(answers)
    assert {
        "grpc: INVALID_ARGUMENT",
        "grpc: UNIMPLEMENTED",
        "stream",
        "door stream",
        "bytes",
    } <= set(answers)


def test_the_judge_sees_an_exception(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fuzzer itself can fail."""

    def crash(self: Handlers, request: object) -> object:
        raise RuntimeError(request)

    monkeypatch.setattr(Handlers, "get", crash)
    with pytest.raises(fuzz_ipamd.Failure, match=r"RuntimeError|no answer"):
        fuzz_ipamd.run(INPUTS, seed=1)


def test_the_judge_sees_an_address_that_nobody_was_told_of(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = Handlers.release

    def leak(self: Handlers, request: pb.ReleaseRequest) -> object:
        allocate = pb.AllocateRequest(
            key=pb.AttachmentKey(container_id="leak", ifname="eth0"),
            attempt_id=ATTEMPTS[0],
            netns_cookie=1,
        )
        self.allocate_now(allocate)
        return real(self, request)

    monkeypatch.setattr(Handlers, "release", leak)
    with pytest.raises(fuzz_ipamd.Failure, match="leak"):
        fuzz_ipamd.run(INPUTS, seed=1)
