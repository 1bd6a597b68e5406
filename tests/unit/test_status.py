"""STATUS by what was last seen, in virtual time; and who notices a silence."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path

import pytest
from cni_shim.ipam_client import IpamClient, IpamdError
from cni_shim.status import NEVER, SILENCE_SECONDS, Silence, status_error
from ipam_api.v1 import door
from ipam_api.v1 import ipam_pb2 as pb

NOW = 1000.0
BROKEN = "cannot write rule 512"


@pytest.mark.parametrize(
    ("silent_for", "host_problem", "code"),
    [
        pytest.param(None, "", 0, id="all-well"),
        pytest.param(None, BROKEN, 0, id="ipamd-answers-and-the-host-is-mended-soon"),
        pytest.param(0.0, "", 0, id="just-gone"),
        pytest.param(SILENCE_SECONDS, "", 0, id="an-upgrade"),
        pytest.param(SILENCE_SECONDS, BROKEN, 0, id="an-upgrade-of-a-damaged-node"),
        pytest.param(SILENCE_SECONDS + 0.1, "", 50, id="away"),
        pytest.param(SILENCE_SECONDS + 0.1, BROKEN, 51, id="away-and-damaged"),
        pytest.param(float("inf"), "", 50, id="never-seen"),
        pytest.param(float("inf"), BROKEN, 51, id="never-seen-and-damaged"),
    ],
)
def test_status_is_an_error_only_after_a_minute_of_silence(
    silent_for: float | None, host_problem: str, code: int
) -> None:
    since = None if silent_for is None else NOW - silent_for
    error = status_error(since, host_problem, NOW)
    assert (0 if error is None else int(error.code)) == code


@pytest.mark.parametrize(
    ("silent_for", "words"), [(75.0, "not for 75 s"), (float("inf"), "not yet")]
)
def test_the_error_says_how_long_and_what_to_do(silent_for: float, words: str) -> None:
    error = status_error(NOW - silent_for, "", NOW)
    assert error is not None
    assert words in error.details
    assert "check that ipamd runs" in error.details


def test_a_damaged_network_is_named() -> None:
    error = status_error(NEVER, BROKEN, NOW)
    assert error is not None
    assert BROKEN in error.details


def test_a_silence_lasts_from_the_first_call_without_an_answer() -> None:
    silence = Silence(seen_at=None)
    silence.heard()
    for now in (10.0, 20.0, 30.0):
        silence.unheard(now)
    assert silence.since == 10.0
    silence.heard()
    assert silence.since is None
    silence.unheard(40.0)
    assert silence.since == 40.0


@pytest.mark.parametrize(("seen_at", "since"), [(5.0, 5.0), (None, NEVER)], ids=["traces", "fresh"])
def test_a_start_goes_on_where_an_earlier_process_ended(
    seen_at: float | None, since: float
) -> None:
    silence = Silence(seen_at=seen_at)
    silence.unheard(10.0)  # it was silent before that already
    assert silence.since == since


def test_calls_without_an_answer_are_noticed(tmp_path: Path) -> None:
    silence = Silence(seen_at=None)
    silence.heard()
    client = IpamClient(tmp_path / door.SOCKET_NAME, silence)
    began = time.monotonic()
    with pytest.raises(IpamdError):
        client.get(pb.AttachmentKey(), deadline_monotonic=began + 0.02)
    client.close()
    assert silence.since is not None
    assert began <= silence.since <= time.monotonic()


def test_an_answer_ends_the_silence_also_if_it_is_a_no(tmp_path: Path) -> None:
    silence = Silence(seen_at=None)
    no = pb.ErrorDetail(reason=pb.ErrorDetail.UNKNOWN_ATTACHMENT)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / door.SOCKET_NAME))
        listener.listen()
        thread = threading.Thread(target=answer_once, args=(listener, 5, no))
        thread.start()
        client = IpamClient(tmp_path / door.SOCKET_NAME, silence)
        assert client.get(pb.AttachmentKey(), deadline_monotonic=time.monotonic() + 5) is None
        thread.join(5)
        client.close()
    assert silence.since is None


def answer_once(listener: socket.socket, status: int, message: pb.ErrorDetail) -> None:
    connection, _ = listener.accept()
    with connection:
        connection.recv(100)
        connection.sendall(door.pack(status, message))
