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
from cni_shim.status import Silence
from ipam_api.v1 import door
from ipam_api.v1 import ipam_pb2 as pb

from ipamd import clock, verb_door
from ipamd.handlers import NAME_LIMIT, Handlers
from ipamd.metrics import Metrics
from ipamd.model import AddressState
from ipamd.node_calls import NodeCalls
from ipamd.pool.ledger import Change
from ipamd.verb_door import VerbDoor
from tests import builders as b
from tests.engine import Engine, new_store, running
from tests.memory_cloud import AsyncMemoryCloud, MemoryCloud

Work = Callable[["Bench"], None]


class Bench:
    """A client, the socket, and the engine behind it (on another thread's loop)."""

    def __init__(
        self, path: Path, engine: Engine, made: VerbDoor, loop: asyncio.AbstractEventLoop
    ) -> None:
        self.path = path
        self.engine = engine
        self.door = made
        self.loop = loop
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


def serve(tmp_path: Path, work: Work, cloud: MemoryCloud | None = None, **environ: str) -> None:
    async def main() -> None:
        store = new_store(tmp_path)
        engine = Engine(store, AsyncMemoryCloud(cloud or MemoryCloud(), delay_seconds=0), **environ)
        handlers = Handlers(engine.keeper, engine.allocations, Metrics())
        made = VerbDoor(handlers, NodeCalls(engine.keeper, engine.reconciler))
        path = tmp_path / door.SOCKET_NAME
        loop = asyncio.get_running_loop()
        await made.start(path)

        def run() -> None:
            bench = Bench(path, engine, made, loop)
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
        assert caught.value.status is door.Status.RESOURCE_EXHAUSTED
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
        assert caught.value.status is door.Status.DEADLINE_EXCEEDED
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
    client = IpamClient(tmp_path / door.SOCKET_NAME)
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
                length, _ = door.answer_header(connection.recv(door.HEADER.size))
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
        door.HEADER.pack(door.VERB_LIMIT + 1, door.Method.ALLOCATE),
        door.HEADER.pack(door.VERB_LIMIT + 1, door.Method.LIST),
        door.HEADER.pack(door.LIST_LIMIT + 1, door.Method.REPORT_NODE),
        door.HEADER.pack(0, 0),
        door.HEADER.pack(0, 99),
        door.HEADER.pack(0, 3) * 2,
        door.HEADER.pack(0, door.Method.WATCH_NODE) * 2,
    ],
    ids=[
        "a verb too long",
        "a list too long",
        "a report too long",
        "method 0",
        "unknown method",
        "two calls at once",
        "two watches at once",
    ],
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
            length, status = door.answer_header(connection.recv(door.HEADER.size))
            detail = pb.ErrorDetail.FromString(connection.recv(length))
        assert status == door.Status.INVALID_ARGUMENT
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
            length, status = door.answer_header(connection.recv(door.HEADER.size))
            reply = pb.ReleaseReply.FromString(connection.recv(length))
        assert status == door.Status.OK
        assert reply.outcome == pb.ReleaseReply.UNKNOWN_KEY

    serve(tmp_path, work)


def test_the_door_is_its_owners_alone(tmp_path: Path) -> None:
    def work(bench: Bench) -> None:
        assert stat.S_IMODE(bench.path.stat().st_mode) == 0o600
        assert bench.engine.count(AddressState.ALLOCATED) == 0

    serve(tmp_path, work)


def watch(bench: Bench) -> Iterator[pb.NodeNetwork]:
    """A stream of the node's network, once the engine has looked at the cloud."""
    bench.allocate("first")
    return IpamClient(bench.path).watch()


def in_loop(bench: Bench, work: Callable[[], object]) -> None:
    """Have the engine's thread do it."""
    done = threading.Event()

    def run() -> None:
        work()
        done.set()

    bench.loop.call_soon_threadsafe(run)
    assert done.wait(5)


def another_eni(bench: Bench, number: int) -> None:
    """A change that every watcher is told of."""
    eni = b.eni(f"eni-{number:03}", index=2 + number % 10)
    in_loop(bench, lambda: bench.engine.keeper.commit(Change(put_enis=(eni,))))


def test_every_attachment_is_listed(tmp_path: Path) -> None:
    def work(bench: Bench) -> None:
        names = {f"c{number}" for number in range(5)}
        for name in names:
            bench.allocate(name)
        client = IpamClient(bench.path)
        reply = client.list(deadline_monotonic=time.monotonic() + 5)
        client.close()
        assert {a.key.container_id for a in reply.allocations} == names
        assert reply.epoch == bench.engine.keeper.ledger.epoch

    serve(tmp_path, work)


def test_a_watch_tells_the_whole_network_at_once_and_after_a_change(tmp_path: Path) -> None:
    def work(bench: Bench) -> None:
        stream = watch(bench)
        first = next(stream)
        assert [e.is_primary for e in first.enis][:1] == [True]
        another_eni(bench, 7)
        told = next(n for n in stream if any(e.eni_id == "eni-007" for e in n.enis))
        assert told.sequence > first.sequence
        assert {e.eni_id for e in first.enis} < {e.eni_id for e in told.enis}

    serve(tmp_path, work)


def test_a_watch_says_nothing_before_the_network_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known: list[pb.NodeNetwork | None] = [None]
    monkeypatch.setattr(NodeCalls, "_network", lambda self: known[0])

    def work(bench: Bench) -> None:
        with bench.raw() as connection:
            connection.sendall(door.pack(door.Method.WATCH_NODE, pb.WatchNodeRequest()))
            assert _wait(lambda: bench.door.node.watchers == 1)
            in_loop(bench, bench.door.node.network_changed)
            assert _unread(connection) == 0
            known[0] = pb.NodeNetwork(epoch="e")
            in_loop(bench, bench.door.node.network_changed)
            assert _next_network(connection) == known[0]

    serve(tmp_path, work)


def test_a_watch_that_is_closed_leaves_nobody_watching(tmp_path: Path) -> None:
    def work(bench: Bench) -> None:
        stream = watch(bench)
        next(stream)
        assert bench.door.node.watchers == 1
        stream.close()  # type: ignore[attr-defined]  # a generator's
        assert _wait(lambda: bench.door.node.watchers == 0)

    serve(tmp_path, work)


def test_a_watch_whose_ipamd_goes_ends_at_once_and_counts_as_silence(tmp_path: Path) -> None:
    silence = Silence(seen_at=None)

    def work(bench: Bench) -> None:
        bench.allocate()
        stream = IpamClient(bench.path, silence).watch()
        next(stream)
        assert silence.since is None
        in_loop(bench, bench.door.close)
        with pytest.raises(IpamdError) as caught:
            for _ in stream:
                pass
        assert caught.value.is_away
        assert silence.since is not None

    serve(tmp_path, work)


def test_a_watch_of_nobody_is_away(tmp_path: Path) -> None:
    with pytest.raises(IpamdError) as caught:
        next(VerbDoorClient(tmp_path / "nothing.sock").watch())
    assert caught.value.is_away


def test_a_slow_watcher_costs_one_message_and_gets_the_newest(tmp_path: Path) -> None:
    def work(bench: Bench) -> None:
        bench.allocate()
        with bench.raw() as connection:
            connection.sendall(door.pack(door.Method.WATCH_NODE, pb.WatchNodeRequest()))
            last = 0
            while last < 5 or not _is_full(bench):
                last += 1
                another_eni(bench, last)
                assert last < 20_000
            for _ in range(50):
                last += 1
                another_eni(bench, last)
            assert max(_unwritten(bench)) < 2 * len(_network(bench).SerializeToString())
            assert _wait(lambda: _next_network(connection) == _network(bench))

    serve(tmp_path, work)


def test_a_watcher_that_never_reads_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verb_door, "UNREAD_SECONDS", 0.1)

    def work(bench: Bench) -> None:
        bench.allocate()
        with bench.raw() as connection:
            connection.sendall(door.pack(door.Method.WATCH_NODE, pb.WatchNodeRequest()))
            assert _wait(lambda: bench.door.node.watchers == 1)
            number = 0
            while not _is_full(bench) and bench.door.node.watchers:
                number += 1
                another_eni(bench, number)
            assert _wait(lambda: bench.door.node.watchers == 0)

    serve(tmp_path, work)


def test_a_report_is_judged_as_by_the_other_door(tmp_path: Path) -> None:
    def work(bench: Bench) -> None:
        bench.allocate()
        client = IpamClient(bench.path)
        epoch = bench.engine.keeper.ledger.epoch
        stray = pb.ObservedAddress(address="10.0.0.99", link_name="eniX")
        report = pb.ReportNodeRequest(epoch=epoch, addresses=[stray])
        reply = client.report(report, seconds=5.0)
        assert (reply.is_accepted, list(reply.unknown_addresses)) == (True, ["10.0.0.99"])
        report.epoch = "other"
        assert not client.report(report, seconds=5.0).is_accepted
        client.close()

    serve(tmp_path, work)


def test_a_report_with_nonsense_is_a_bad_request_and_no_silence(tmp_path: Path) -> None:
    silence = Silence(seen_at=None)

    def work(bench: Bench) -> None:
        bench.allocate()
        client = IpamClient(bench.path, silence)
        epoch = bench.engine.keeper.ledger.epoch
        wrong = pb.ObservedAddress(address="ten dot one")
        with pytest.raises(IpamdError, match="observed address") as caught:
            client.report(pb.ReportNodeRequest(epoch=epoch, addresses=[wrong]), seconds=5.0)
        assert caught.value.reason == pb.ErrorDetail.BAD_REQUEST
        assert silence.since is None
        cooled = pb.CooledAddress(address="x")
        with pytest.raises(IpamdError, match="flushed address"):
            client.report_flushed(
                pb.ReportFlushedRequest(epoch=epoch, addresses=[cooled]), seconds=5.0
            )
        client.close()

    serve(tmp_path, work)


def test_a_flush_ends_the_cooldown_that_asked_for_it(tmp_path: Path) -> None:
    def work(bench: Bench) -> None:
        bench.engine.can_flush = False
        stream = watch(bench)
        key = pb.AttachmentKey(container_id="first", ifname="eth0")
        bench.client.call(door.Method.RELEASE, pb.ReleaseRequest(key=key), 5.0)
        network = next(n for n in stream if n.flushes)
        client = IpamClient(bench.path)
        request = pb.ReportFlushedRequest(epoch=network.epoch, addresses=network.flushes)
        assert client.report_flushed(request, seconds=5.0).is_accepted
        client.close()
        assert _wait(lambda: bench.engine.count(AddressState.COOLING) == 0)

    serve(tmp_path, work, IP_COOLDOWN_PERIOD="0")


def test_an_ipamd_that_hangs_over_a_report_is_noticed(hung: socket.socket) -> None:
    silence = Silence(seen_at=None)
    silence.heard()
    client = IpamClient(Path(hung.getsockname()), silence)
    with pytest.raises(IpamdError) as caught:
        client.report(pb.ReportNodeRequest(), seconds=0.05)
    client.close()
    assert caught.value.status is door.Status.DEADLINE_EXCEEDED
    assert silence.since is not None


@pytest.mark.parametrize(
    "answer",
    [
        door.HEADER.pack(door.LIST_LIMIT + 1, 0),
        door.HEADER.pack(2, 0) + b"\xff\xff",
        door.HEADER.pack(2, 13) + b"\xff\xff",
        door.HEADER.pack(9, 0) + b"\x0a",
    ],
    ids=["too long", "no message", "no error", "cut off"],
)
def test_an_answer_that_is_none_is_as_no_answer(hung: socket.socket, answer: bytes) -> None:
    def serve_once() -> None:
        connection, _ = hung.accept()
        with connection:
            connection.recv(100)
            connection.sendall(answer)

    thread = threading.Thread(target=serve_once)
    thread.start()
    with pytest.raises(IpamdError) as caught:
        next(VerbDoorClient(Path(hung.getsockname())).watch())
    thread.join(5)
    assert caught.value.is_away


def test_lists_and_reports_of_five_thousand_attachments_fit() -> None:
    """With the longest names and both families."""
    key = pb.AttachmentKey(container_id="a" * 64, ifname="e" * 15)
    names = {"network_name": "n" * 64, "pod_namespace": "y" * 63, "pod_name": "x" * 253}
    v6 = "2001:db8:abcd:ef00:1234:5678:9abc:def0"
    held = pb.Allocation(
        key=key, attempt_id="f" * 64, generation=2**60, netns_cookie=2**60, pod_uid="u" * 36,
        address="10.100.100.100", addresses=["10.100.100.100", v6], eni_id="e" * 300,
        eni_mac="m" * 17, eni_primary_address="10.100.100.100", device_index=14, network_card=8,
        route_table_id=10999, subnet_cidr="10.100.100.0/24", gateway="10.100.100.1",
        allocated_unix=1.0, subnet_cidr_v6=v6, gateway_v6=v6, wired_by="main-plugin", **names,
    )  # fmt: skip
    seen = pb.ObservedAddress(
        address=v6, link_name="l" * 15, key=key, netns_cookie=2**60, is_on_host=True,
        network_name="n" * 64, pod_namespace="y" * 63, pod_name="x" * 253,
    )  # fmt: skip
    for message in (
        pb.ListReply(allocations=[held] * 5000),
        pb.ReportNodeRequest(addresses=[seen] * 10_000),
    ):
        assert message.ByteSize() * 2 < door.LIST_LIMIT


def test_the_statuses_are_grpcs() -> None:
    assert {s.name: int(s) for s in door.Status} == {c.name: c.value[0] for c in grpc.StatusCode}


def _network(bench: Bench) -> pb.NodeNetwork:
    network = bench.door.node._network()
    assert network is not None
    return network


def _next_network(connection: socket.socket) -> pb.NodeNetwork:
    header = connection.recv(door.HEADER.size, socket.MSG_WAITALL)
    length, _ = door.answer_header(header)
    network = pb.NodeNetwork.FromString(connection.recv(length, socket.MSG_WAITALL))
    network.ClearField("sequence")
    return network


def _unwritten(bench: Bench) -> list[int]:
    """Bytes of answers that wait in the daemon, by connection."""
    made = (c._transport for c in tuple(bench.door._connections))
    return [t.get_write_buffer_size() for t in made if t is not None]


def _is_full(bench: Bench) -> bool:
    return any(_unwritten(bench))


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
