"""The frames as bytes, and as they arrive on a real socket."""

from __future__ import annotations

import array
import contextlib
import os
import socket
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from cni_shim import frames
from hypothesis import given
from hypothesis import strategies as st

REQUEST = frames.Request(
    deadline_ms=30000,
    env=(frames.EnvVar(name="CNI_COMMAND", value="ADD"),),
    stdin=b'{"name": "net"}',
)
ANSWER = frames.Answer(exit_status=3, stdout=b"{}\n", stderr=b"why\n")
NULL = Path(os.devnull)
names = st.text(
    st.characters(codec="utf-8", exclude_characters="=\0", exclude_categories=["Cs"]), min_size=1
)
values = st.text(st.characters(codec="utf-8", exclude_characters="\0"))
requests = st.builds(
    frames.Request,
    has_netns=st.booleans(),
    deadline_ms=st.integers(0, 2**32 - 1),
    netns_errno=st.integers(0, 200),
    env=st.lists(st.builds(frames.EnvVar, name=names, value=values), max_size=5).map(tuple),
    stdin=st.binary(max_size=200),
)


def header(
    magic: bytes = b"VCNI",
    *,
    protocol: int = 1,
    flags: int = 0,
    env_bytes: int = 0,
    stdin_bytes: int = 0,
) -> bytes:
    return struct.pack("<4sHHIIII", magic, protocol, flags, 1000, 0, env_bytes, stdin_bytes)


@given(requests)
def test_a_request_comes_back_as_it_went(request: frames.Request) -> None:
    assert frames.parse_request(frames.pack_request(request)) == request


@given(st.integers(0, 255), st.binary(max_size=99), st.binary(max_size=99))
def test_an_answer_comes_back_as_it_went(status: int, stdout: bytes, stderr: bytes) -> None:
    answer = frames.Answer(exit_status=status, stdout=stdout, stderr=stderr)
    assert frames.parse_answer(frames.pack_answer(answer)) == answer


@given(st.binary(max_size=200))
def test_bytes_are_a_frame_that_packs_to_the_same_or_a_frame_error(data: bytes) -> None:
    with contextlib.suppress(frames.FrameError):
        assert frames.pack_request(frames.parse_request(data)) == data
    with contextlib.suppress(frames.FrameError):
        assert frames.pack_answer(frames.parse_answer(data)) == data


def test_the_layout_of_a_request_is_the_documented_one() -> None:
    request = replace(REQUEST, has_netns=True, netns_errno=2, stdin=b"{}")
    assert frames.pack_request(request) == (
        b"VCNI\x01\x00\x01\x00\x30\x75\x00\x00\x02\x00\x00\x00"
        b"\x10\x00\x00\x00\x02\x00\x00\x00CNI_COMMAND=ADD\0{}"
    )  # fmt: skip


def test_the_layout_of_an_answer_is_the_documented_one() -> None:
    assert frames.pack_answer(ANSWER) == (
        b"VCNA\x01\x00\x03\x00\x03\x00\x00\x00\x04\x00\x00\x00{}\nwhy\n"
    )  # fmt: skip


BAD_REQUESTS = {
    "magic": (header(b"HTTP"), "begins with b'HTTP'"),
    "protocol": (header(protocol=2), "protocol 2 is unknown"),
    "flags": (header(flags=2), "unknown flags 0x2"),
    "env-over-the-limit": (header(env_bytes=(64 << 10) + 1), "env of 65537 bytes"),
    "stdin-over-the-limit": (header(stdin_bytes=(4 << 20) + 1), "stdin of 4194305 bytes"),
    "env-without-nul": (header(env_bytes=3) + b"A=1", "not NUL-terminated"),
    "env-without-equals": (header(env_bytes=2) + b"A\0", "not KEY=VALUE"),
    "env-without-a-name": (header(env_bytes=3) + b"=1\0", "not KEY=VALUE"),
}


@pytest.mark.parametrize(("frame", "message"), BAD_REQUESTS.values(), ids=BAD_REQUESTS)
def test_a_bad_request_is_named(frame: bytes, message: str) -> None:
    with pytest.raises(frames.FrameError, match=message):
        frames.parse_request(frame)


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(b"VCNI", id="half-a-header"),
        pytest.param(header(stdin_bytes=2) + b"{", id="too-short"),
        pytest.param(header(stdin_bytes=2) + b"{}}", id="too-long"),
    ],
)
def test_a_request_of_another_length_is_refused(frame: bytes) -> None:
    with pytest.raises(frames.FrameError, match="bytes"):
        frames.parse_request(frame)


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(b"VCNA", id="half-a-header"),
        pytest.param(b"VCNI" + frames.pack_answer(ANSWER)[4:], id="magic"),
        pytest.param(frames.pack_answer(ANSWER)[:-1], id="too-short"),
        pytest.param(frames.pack_answer(ANSWER) + b"x", id="too-long"),
        pytest.param(struct.pack("<4sHHII", b"VCNA", 1, 256, 0, 0), id="exit-status"),
        pytest.param(struct.pack("<4sHHII", b"VCNA", 1, 0, 5 << 20, 0), id="stdout-over"),
    ],
)
def test_a_bad_answer_is_refused(frame: bytes) -> None:
    with pytest.raises(frames.FrameError):
        frames.parse_answer(frame)


@pytest.mark.parametrize(
    "request_over",
    [
        pytest.param(replace(REQUEST, stdin=bytes((4 << 20) + 1)), id="stdin"),
        pytest.param(
            replace(REQUEST, env=(frames.EnvVar(name="CNI_ARGS", value="x" * (64 << 10)),)),
            id="env",
        ),
    ],
)
def test_a_request_over_its_limits_cannot_be_packed(request_over: frames.Request) -> None:
    with pytest.raises(frames.FrameError, match="over the limit"):
        frames.pack_request(request_over)


def test_an_answer_over_its_limits_cannot_be_packed() -> None:
    with pytest.raises(frames.FrameError, match="over the limit"):
        frames.pack_answer(frames.Answer(exit_status=0, stderr=bytes((64 << 10) + 1)))


def test_an_exit_status_that_no_process_has_is_impossible() -> None:
    with pytest.raises(ValueError, match="256"):
        frames.Answer(exit_status=256)


def test_the_first_of_a_repeated_variable_counts_and_an_absent_one_is_empty() -> None:
    env = (frames.EnvVar(name="A", value="1"), frames.EnvVar(name="A", value="2"))
    request = replace(REQUEST, env=env)
    assert (request.value("A"), request.value("B")) == ("1", "")


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    near, far = socket.socketpair()
    with near, far:
        yield near, far


def count_fds() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.fixture
def open_fds() -> Iterator[None]:
    """Fails the test if it leaves more file descriptors open than it found."""
    before = count_fds()
    yield
    assert count_fds() == before


Pair = tuple[socket.socket, socket.socket]


def soon() -> float:
    return time.monotonic() + 10


def send_with_fds(sock: socket.socket, data: bytes, *fds: int) -> None:
    sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))])


def receive(sock: socket.socket) -> tuple[frames.Request, int | None]:
    return frames.recv_request(sock, soon())


def test_a_request_is_received_with_its_fd(open_fds: None, pair: Pair) -> None:
    near, far = pair
    with NULL.open("rb") as file:
        send_with_fds(near, frames.pack_request(replace(REQUEST, has_netns=True)), file.fileno())
    request, fd = receive(far)
    assert fd is not None
    assert os.get_inheritable(fd) is False
    assert os.fstat(fd).st_rdev == NULL.stat().st_rdev
    os.close(fd)
    assert request == replace(REQUEST, has_netns=True)


def test_a_request_without_an_fd_is_received(pair: Pair) -> None:
    near, far = pair
    near.sendall(frames.pack_request(REQUEST))
    assert receive(far) == (REQUEST, None)


def test_a_request_in_single_bytes_is_received(pair: Pair) -> None:
    near, far = pair
    for byte in frames.pack_request(REQUEST):
        near.sendall(bytes([byte]))
    assert receive(far) == (REQUEST, None)


def test_a_large_request_is_received(pair: Pair) -> None:
    near, far = pair
    large = replace(REQUEST, stdin=os.urandom(3 << 20))
    sender = threading.Thread(target=near.sendall, args=(frames.pack_request(large),))
    sender.start()
    assert receive(far) == (large, None)
    sender.join()


def test_only_the_request_is_taken_from_the_stream(pair: Pair) -> None:
    near, far = pair
    near.sendall(frames.pack_request(REQUEST) + b"more")
    receive(far)
    assert far.recv(10) == b"more"


@pytest.mark.parametrize(
    ("flags", "count", "message"),
    [
        pytest.param(1, 2, "announces 1 file descriptors and carries 2", id="two"),
        pytest.param(1, 0, "announces 1 file descriptors and carries 0", id="none"),
        pytest.param(0, 1, "announces 0 file descriptors and carries 1", id="unannounced"),
        pytest.param(1, 100, "more file descriptors came", id="a-hundred"),
    ],
)
def test_a_wrong_number_of_fds_is_refused_and_all_are_closed(
    open_fds: None, pair: Pair, flags: int, count: int, message: str
) -> None:
    near, far = pair
    with NULL.open("rb") as file:
        send_with_fds(near, header(flags=flags), *[file.fileno()] * count)
    with pytest.raises(frames.FrameError, match=message):
        receive(far)


def test_fds_of_a_bad_frame_are_closed(open_fds: None, pair: Pair) -> None:
    near, far = pair
    with NULL.open("rb") as file:
        send_with_fds(near, header(b"HTTP", flags=1), file.fileno())
    with pytest.raises(frames.FrameError, match="HTTP"):
        receive(far)


def test_an_fd_that_comes_late_is_seen_and_closed(open_fds: None, pair: Pair) -> None:
    near, far = pair
    near.sendall(header(stdin_bytes=1))
    with NULL.open("rb") as file:
        send_with_fds(near, b"{", file.fileno())
    with pytest.raises(frames.FrameError, match="announces 0 file descriptors and carries 1"):
        receive(far)


@pytest.mark.parametrize("sent", [0, 3, 24, 30])
def test_a_connection_that_ends_early_is_named(open_fds: None, pair: Pair, sent: int) -> None:
    near, far = pair
    near.sendall(frames.pack_request(REQUEST)[:sent])
    near.close()
    with pytest.raises(frames.FrameError, match="ended after"):
        receive(far)


def test_a_request_that_does_not_come_ends_at_the_deadline(pair: Pair) -> None:
    near, far = pair
    near.sendall(b"VCNI")
    with pytest.raises(frames.FrameError, match="not complete at its deadline"):
        frames.recv_request(far, time.monotonic() + 0.02)


def test_a_deadline_in_the_past_is_one_too(pair: Pair) -> None:
    with pytest.raises(frames.FrameError, match="not complete at its deadline"):
        frames.recv_request(pair[1], time.monotonic() - 1)


def test_an_answer_is_sent_whole(pair: Pair) -> None:
    near, far = pair
    frames.send_answer(far, ANSWER, soon())
    far.close()
    assert frames.parse_answer(near.recv(1000)) == ANSWER


def test_an_answer_to_nobody_is_an_os_error(pair: Pair) -> None:
    near, far = pair
    near.close()
    with pytest.raises(BrokenPipeError):
        frames.send_answer(far, ANSWER, soon())


def test_an_answer_that_is_not_read_ends_at_the_deadline(pair: Pair) -> None:
    large = frames.Answer(exit_status=0, stdout=bytes(4 << 20))
    with pytest.raises(TimeoutError):
        frames.send_answer(pair[1], large, time.monotonic() + 0.02)
