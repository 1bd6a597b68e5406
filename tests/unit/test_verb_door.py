"""The verbs' door, both halves over a real socket: answers, errors, ends, nonsense."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import socket
import stat
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from cni_shim import ipam_client
from cni_shim.ipam_client import IpamClient, IpamdError, VerbDoorClient
from ipam_api.v1 import door
from ipam_api.v1 import ipam_pb2 as pb

from ipamd import clock
from ipamd.handlers import NAME_LIMIT, Handlers
from ipamd.metrics import Metrics
from ipamd.model import AddressState
from ipamd.verb_door import VerbDoor
from tests.engine import Engine, new_store, running
from tests.memory_cloud import AsyncMemoryCloud, MemoryCloud

Work = Callable[["Bench"], None]


class Bench:
    """A client, the socket, and the engine behind it (on another thread's loop)."""

    def __init__(self, path: Path, engine: Engine) -> None:
        self.path = path
        self.engine = engine
        self.client = VerbDoorClient(path)

    def request(self, name: str = "c1", wait: float = 5.0) -> pb.AllocateRequest:
        return pb.AllocateRequest(
            key=pb.AttachmentKey(container_id=name, ifname="eth0"),
            attempt_id="0123456789abcdef",
            netns_cookie=7,
            wait_seconds=wait,
            began_boottime=clock.boottime(),
        )

    def allocate(self, name: str = "c1", wait: float = 5.0, seconds: float = 10.0) -> object:
        return self.client.call(door.Method.ALLOCATE, self.request(name, wait), seconds)

    def raw(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(5)
        connection.connect(str(self.path))
        return connection


def serve(tmp_path: Path, work: Work, cloud: MemoryCloud | None = None) -> None:
    async def main() -> None:
        store = new_store(tmp_path)
        engine = Engine(store, AsyncMemoryCloud(cloud or MemoryCloud(), delay_seconds=0))
        made = VerbDoor(Handlers(engine.keeper, engine.allocations, Metrics()))
        path = tmp_path / door.SOCKET_NAME
        await made.start(path)

        def run() -> None:
            bench = Bench(path, engine)
            try:
                work(bench)
            finally:
                bench.client.drop()

        try:
            async with running(engine):
                await asyncio.to_thread(run)
        finally:
            made.close()
            store.close()

    asyncio.run(main())


def test_a_call_is_answered_and_the_connection_kept(tmp_path: Path) -> None:
    def work(bench: Bench) -> None:
        first = bench.allocate("c1")
        second = bench.allocate("c2")
        assert isinstance(first, pb.AllocateReply)
        assert isinstance(second, pb.AllocateReply)
        assert first.allocation.address != second.allocation.address
        key = pb.AttachmentKey(container_id="c1", ifname="eth0")
        got = bench.client.call(door.Method.GET, pb.GetRequest(key=key), 5.0)
        assert got == first.allocation
        gone = bench.client.call(door.Method.RELEASE, pb.ReleaseRequest(key=key), 5.0)
        assert isinstance(gone, pb.ReleaseReply)
        assert gone.outcome == pb.ReleaseReply.RELEASED

    serve(tmp_path, work)


def test_an_error_keeps_its_status_and_detail(tmp_path: Path) -> None:
    memory = MemoryCloud()
    memory.free.clear()

    def work(bench: Bench) -> None:
        with pytest.raises(IpamdError) as caught:
            bench.allocate(wait=0.3)
        assert caught.value.status is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert caught.value.reason == pb.ErrorDetail.NO_ADDRESS
        assert "subnet-01" in caught.value.cni.details
        assert not caught.value.is_away

    serve(tmp_path, work, memory)


def test_a_caller_that_goes_leaves_the_queue(tmp_path: Path) -> None:
    memory = MemoryCloud()
    memory.free.clear()

    def work(bench: Bench) -> None:
        with pytest.raises(IpamdError) as caught:
            bench.allocate(wait=30.0, seconds=0.3)
        assert caught.value.status is grpc.StatusCode.DEADLINE_EXCEEDED
        assert _wait(lambda: bench.engine.allocations.waiting == 0)

    serve(tmp_path, work, memory)


@pytest.fixture
def hung(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The listener of an ipamd that answers nobody; who gives up waits for 10 ms."""
    monkeypatch.setattr(ipam_client, "GRACE_SECONDS", 0.01)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / door.SOCKET_NAME))
        listener.listen()
        yield listener


def test_who_gives_up_does_not_wait_for_an_ipamd_that_hangs(
    hung: socket.socket, tmp_path: Path
) -> None:
    client = IpamClient(tmp_path / "ipamd.sock")
    began = time.monotonic()
    with pytest.raises(IpamdError) as caught:
        client.allocate(
            pb.AllocateRequest(wait_seconds=20.0),
            deadline_monotonic=began + 30,
            is_over=lambda: True,
        )
    client.close()
    assert caught.value.is_away
    assert time.monotonic() - began < 5


def test_who_does_not_give_up_gets_the_late_answer(hung: socket.socket) -> None:
    client, asked = VerbDoorClient(Path(hung.getsockname())), iter(range(9))
    connections: list[socket.socket] = []

    def answer_late() -> bool:
        if next(asked) == 3:
            connections.append(hung.accept()[0])
            connections[0].sendall(door.pack(0, pb.AllocateReply(is_repeat=True)))
        return False

    request = pb.AllocateRequest()
    got = client.call(door.Method.ALLOCATE, request, 30.0, is_over=answer_late)
    client.drop()
    connections[0].close()
    assert got == pb.AllocateReply(is_repeat=True)


def test_nobody_there_is_away(tmp_path: Path) -> None:
    client = VerbDoorClient(tmp_path / "nothing.sock")
    with pytest.raises(IpamdError) as caught:
        client.call(door.Method.GET, pb.GetRequest(), 1.0)
    assert caught.value.is_away
    assert "nothing.sock" in str(caught.value)


def test_a_connection_of_a_dead_ipamd_is_replaced_at_once(tmp_path: Path) -> None:
    path = tmp_path / "door.sock"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    served: list[int] = []

    def answer() -> None:
        for number in (1, 2):
            connection, _ = listener.accept()
            with connection:
                length, _ = door.unpack_header(connection.recv(door.HEADER.size))
                connection.recv(length)
                connection.sendall(door.pack(0, pb.Allocation(address=f"10.0.0.{number}")))
                served.append(number)

    thread = threading.Thread(target=answer)
    thread.start()
    client = VerbDoorClient(path)
    for number in (1, 2):
        key = pb.AttachmentKey(container_id="c", ifname="e")
        got = client.call(door.Method.GET, pb.GetRequest(key=key), 5.0)
        assert isinstance(got, pb.Allocation)
        assert got.address == f"10.0.0.{number}"
    thread.join(5)
    listener.close()
    client.drop()
    assert served == [1, 2]


@pytest.mark.parametrize(
    "frame",
    [
        door.HEADER.pack(door.MESSAGE_LIMIT + 1, 1),
        door.HEADER.pack(0, 99),
        door.HEADER.pack(0, 3) * 2,
    ],
    ids=["too long", "unknown method", "two calls at once"],
)
def test_nonsense_ends_the_connection_and_nothing_else(tmp_path: Path, frame: bytes) -> None:
    def work(bench: Bench) -> None:
        with bench.raw() as connection:
            connection.sendall(frame)
            with contextlib.suppress(ConnectionResetError):
                assert connection.recv(1) == b""
        assert isinstance(bench.allocate(), pb.AllocateReply)

    serve(tmp_path, work)


def test_a_message_that_cannot_be_decoded_is_a_bad_request(tmp_path: Path) -> None:
    def work(bench: Bench) -> None:
        with bench.raw() as connection:
            connection.sendall(door.HEADER.pack(3, door.Method.GET) + b"\xff\xff\xff")
            length, status = door.unpack_header(connection.recv(door.HEADER.size))
            detail = pb.ErrorDetail.FromString(connection.recv(length))
        assert status == grpc.StatusCode.INVALID_ARGUMENT.value[0]
        assert detail.reason == pb.ErrorDetail.BAD_REQUEST

    serve(tmp_path, work)


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), float("-inf")], ids=str)
@pytest.mark.parametrize("field", ["wait_seconds", "began_boottime"])
def test_a_time_that_is_no_number_is_a_bad_request(
    tmp_path: Path, field: str, seconds: float
) -> None:
    """A NaN among the timers of the loop would put all of them out of order."""
    memory = MemoryCloud()
    memory.free.clear()  # so that it would wait

    def work(bench: Bench) -> None:
        request = bench.request()
        setattr(request, field, seconds)
        with pytest.raises(IpamdError, match="numbers of seconds") as caught:
            bench.client.call(door.Method.ALLOCATE, request, 5.0)
        assert caught.value.reason == pb.ErrorDetail.BAD_REQUEST

    serve(tmp_path, work, memory)


@pytest.mark.parametrize("field", ["network_name", "pod_namespace", "pod_name", "pod_uid", "eni"])
def test_a_name_longer_than_any_is_a_bad_request_and_not_kept(tmp_path: Path, field: str) -> None:
    def work(bench: Bench) -> None:
        request = bench.request()
        setattr(request, field, "x" * (NAME_LIMIT + 1))
        with pytest.raises(IpamdError, match="over the limit") as caught:
            bench.client.call(door.Method.ALLOCATE, request, 5.0)
        assert caught.value.reason == pb.ErrorDetail.BAD_REQUEST
        assert not bench.engine.keeper.ledger.allocations

    serve(tmp_path, work)


def test_a_peer_that_calls_and_never_reads_is_ended(tmp_path: Path) -> None:
    """Else its answers would fill the daemon's memory."""

    def work(bench: Bench) -> None:
        bench.allocate()
        key = pb.AttachmentKey(container_id="c1", ifname="eth0")
        frame = door.pack(door.Method.GET, pb.GetRequest(key=key))
        with bench.raw() as connection:
            unread = -1
            while _unread(connection) > unread:  # until the kernel keeps no more of them
                unread = _unread(connection)
                connection.sendall(frame)
                _wait(lambda: _unread(connection) > unread, seconds=0.1)  # noqa: B023 - called here
            with pytest.raises(OSError, match=r"Broken pipe|reset by peer"):
                _send_often(connection, frame)
        assert isinstance(bench.allocate("c2"), pb.AllocateReply)

    serve(tmp_path, work)


def test_a_request_in_pieces_is_one_request(tmp_path: Path) -> None:
    def work(bench: Bench) -> None:
        key = pb.AttachmentKey(container_id="c9", ifname="eth0")
        frame = door.pack(door.Method.RELEASE, pb.ReleaseRequest(key=key))
        with bench.raw() as connection:
            for byte in frame:
                connection.sendall(bytes([byte]))
            length, status = door.unpack_header(connection.recv(door.HEADER.size))
            reply = pb.ReleaseReply.FromString(connection.recv(length))
        assert status == door.STATUS_OK
        assert reply.outcome == pb.ReleaseReply.UNKNOWN_KEY

    serve(tmp_path, work)


def test_the_door_is_its_owners_alone(tmp_path: Path) -> None:
    def work(bench: Bench) -> None:
        assert stat.S_IMODE(bench.path.stat().st_mode) == 0o600
        assert bench.engine.count(AddressState.ALLOCATED) == 0

    serve(tmp_path, work)


def _send_often(connection: socket.socket, frame: bytes) -> None:
    for _ in range(3):
        connection.sendall(frame)
        _wait(lambda: False, seconds=0.1)


def _unread(connection: socket.socket) -> int:
    """Bytes of answers that wait in the kernel."""
    return int.from_bytes(fcntl.ioctl(connection, termios.FIONREAD, b"\0" * 4), sys.byteorder)


def _wait(condition: Callable[[], bool], seconds: float = 5.0) -> bool:
    """Whether it came to hold in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.0005)
    return True
