"""ipamd's doors under requests that nobody would send: `python -m tests.fuzz_ipamd`.

Three doors on real sockets - the gRPC service, aws-node's rpc.CNIBackend and vpc-cnid's door - with
the pool engine behind them on a cloud in memory. Each input begins as a request that a client might
send, and is then bent: its fields, its bytes, its frame, or how it is sent (slowly, cut off, not
read, hung up on). Always demanded: an answer within seconds, or the end of the connection where
the frame was none of ours; a status that says whose fault it was; no exception; a ledger as before
where the answer was no. Every 50 inputs an honest client is served beside all that, and the
ledger's invariants are checked. At the end: everything released; no waiting attachment, watcher,
connection or descriptor left; no more memory taken than a daemon may.

Exit status: 0, or 1 with the input's number, which with the seed brings it back.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import gc
import logging
import os
import random
import signal
import socket
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import structlog
from compat import rpc_pb2 as peer_pb
from google.protobuf.message import DecodeError, Message
from ipam_api.v1 import door
from ipam_api.v1 import ipam_pb2 as pb

from ipamd import clock, cni_backend, grpc_server, verb_door
from ipamd.metrics import Metrics
from ipamd.pool.ledger import Ledger
from tests import builders as b
from tests.engine import Engine, new_store, running
from tests.fuzz_messages import bend_bytes
from tests.fuzz_requests import (
    ATTEMPTS,
    BACKEND,
    IPAM,
    VERBS,
    add_network,
    allocate,
    body_of,
    empty,
    key_of_some,
)
from tests.memory_cloud import AsyncMemoryCloud, MemoryCloud

PATIENCE_SECONDS = 10
HANG_UP_SECONDS = 0.05
"""After so long a client that waits for an address goes away."""

MEMORY_LIMIT_BYTES = 64 << 20
"""More than that after the first fifth of the inputs is a leak: measured growth is below half."""

HONEST_EVERY = 50
MOST_HELD = 15


class Failure(AssertionError):
    """What was demanded and did not hold."""


class World:
    """The doors, what is behind them, and what came of each input."""

    def __init__(self, engine: Engine, directory: Path) -> None:
        self.engine = engine
        self.directory = directory
        self.answers: Counter[str] = Counter()
        self.named: set[str] = set()  # container ids that may hold an address
        self.troubles: list[str] = []  # exceptions that were logged
        self.slow: list[socket.socket] = []  # connections that said half of something
        self.streams: list[Any] = []
        self.servicer: grpc_server.IpamServicer
        self.door: verb_door.VerbDoor
        self.ipam: grpc.aio.Channel
        self.backend: grpc.aio.Channel

    @property
    def verbs_path(self) -> Path:
        return self.directory / door.SOCKET_NAME

    @property
    def ledger(self) -> Ledger:
        return self.engine.keeper.ledger

    def release_surplus(self, most: int) -> None:
        """Keep the pool able to serve."""
        held = self.ledger.allocations
        for key in list(held)[: max(len(held) - most, 0)]:
            self.engine.allocations.release(key)

    def check(self) -> None:
        """What holds at every moment."""
        self.engine.check()
        held = {str(key.container_id) for key in self.ledger.allocations}
        if not held <= self.named:
            raise Failure(f"addresses for {held - self.named}, who were told of none")
        if self.troubles:
            raise Failure("\n".join(self.troubles))


async def by_verb_door(chance: random.Random, world: World) -> str:
    """One frame, of which any part may be wrong; the kind of answer."""
    method = chance.choice(list(VERBS))
    body = body_of(VERBS[method], chance, world.ledger)
    kind, length = int(method), len(body)
    if chance.random() < 0.05:
        kind, length = chance.choice((0, 4, 255)), chance.choice((0, length + 1, 2**32 - 1))
    frame = door.HEADER.pack(length, kind) + body
    if chance.random() < 0.05:
        frame = bend_bytes(frame, chance)
    before = world.ledger.allocations
    answer = await _ask_verb_door(world, frame)
    if answer is None:
        if not _is_whole(frame):
            return "door: nothing"
        if not _may_wait(frame):
            raise Failure(f"no answer to a whole frame: {frame[:200]!r}")
        _name(world, frame[door.HEADER.size :], pb.AllocateRequest)
        await _settle(world)
        return "door: hung up"
    status, reply = answer
    if status == door.Status.OK:
        made = door.REPLIES[door.Method(frame[4])].FromString(reply)
        if isinstance(made, pb.AllocateReply):
            world.named.add(made.allocation.key.container_id)
        return "door: OK"
    detail = pb.ErrorDetail.FromString(reply)
    if detail.reason == pb.ErrorDetail.REASON_UNSPECIFIED or not detail.message:
        raise Failure(f"an error without a reason: {detail}")
    if world.ledger.allocations != before:
        raise Failure(f"{detail}: a refused request changed the ledger: {frame[:200]!r}")
    return f"door: {pb.ErrorDetail.Reason.Name(detail.reason)}"


def _is_whole(frame: bytes) -> bool:
    if len(frame) < door.HEADER.size:
        return False
    try:
        length, _ = door.request_header(frame[: door.HEADER.size])
    except door.DoorError:
        return False
    return len(frame) == door.HEADER.size + length


def _may_wait(frame: bytes) -> bool:
    """Whether it asks to wait: a call that decodes, for longer than we do."""
    if frame[4] != door.Method.ALLOCATE:
        return False
    try:
        request = pb.AllocateRequest.FromString(frame[door.HEADER.size :])
    except DecodeError:
        return False
    return request.wait_seconds > HANG_UP_SECONDS / 2


async def _ask_verb_door(world: World, frame: bytes) -> tuple[int, bytes] | None:
    """(status, reply), or None for a connection that ended, or that we hung up on."""
    reader, writer = await asyncio.open_unix_connection(world.verbs_path)
    hangs_up = _is_whole(frame) and _may_wait(frame)
    try:
        writer.write(frame)
        if not _is_whole(frame):
            writer.write_eof()
        async with asyncio.timeout(HANG_UP_SECONDS if hangs_up else PATIENCE_SECONDS):
            header = await reader.readexactly(door.HEADER.size)
            length, status = door.answer_header(header)
            return status, await reader.readexactly(length)
    except TimeoutError:
        if not hangs_up:
            raise Failure(f"neither an answer nor the end: {frame[:200]!r}") from None
        return None
    except (asyncio.IncompleteReadError, OSError):
        return None
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def by_grpc(chance: random.Random, world: World) -> str:
    """One unary call with any bytes in it; its status."""
    if chance.random() < 0.25:
        name = chance.choice(list(BACKEND))
        make, channel, path = BACKEND[name], world.backend, f"/{name}"
    else:
        name = chance.choice(list(IPAM))
        make, channel, path = IPAM[name], world.ipam, f"/ipam_api.v1.Ipam/{name}"
    body = body_of(make, chance, world.ledger)
    seconds = chance.choice((PATIENCE_SECONDS, HANG_UP_SECONDS))
    if make in (allocate, add_network):
        seconds = HANG_UP_SECONDS  # it may wait for an address, and nobody has time
    before = world.ledger.allocations
    call: Any = _raw(channel.unary_unary, path)(body, timeout=seconds)
    if chance.random() < 0.02:
        await asyncio.sleep(0)
        call.cancel()
    try:
        reply = await call
    except asyncio.CancelledError:
        _name_all(world, body)
        await _settle(world)
        return "grpc: hung up"
    except grpc.aio.AioRpcError as e:
        if e.code() in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED):
            _name_all(world, body)
            await _settle(world)
            return f"grpc: {e.code().name}"
        return _judge_status(world, e, before)
    if name == "Allocate":
        world.named.add(pb.AllocateReply.FromString(reply).allocation.key.container_id)
    if name.endswith("AddNetwork"):
        _name(world, body, peer_pb.AddNetworkRequest)
    return "grpc: OK"


def _raw(kind: Callable[..., Any], path: str) -> Any:
    """A call of bytes: without a serialiser grpc sends what it is given."""
    return kind(path)


async def _settle(world: World) -> None:
    """Until what nobody waits for any more has ended: it may still change the ledger."""
    await asyncio.sleep(HANG_UP_SECONDS)
    for channel, path in (  # calls of one connection are begun in their order
        (world.ipam, "/ipam_api.v1.Ipam/GetStatus"),
        (world.backend, "/rpc.ConfigServerBackend/GetNetworkPolicyConfigs"),
    ):
        await _raw(channel.unary_unary, path)(b"")
    await until(lambda: not world.engine.allocations.waiting, "nobody asks, and it waits")


def _judge_status(world: World, error: grpc.aio.AioRpcError, before: object) -> str:
    code, details = error.code(), error.details() or ""
    is_unknown_pod = cni_backend.UNKNOWN_POD in details
    is_undecodable = "DecodeError" in details  # grpcio's own words for bytes that are no message
    is_wrong = code in (grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL)
    if is_wrong and not is_unknown_pod and not is_undecodable:
        raise Failure(f"{code.name}: {details}")
    if world.ledger.allocations != before:
        raise Failure(f"a call that ended with {code.name} changed the ledger")
    return f"grpc: {code.name}"


def _name_all(world: World, body: bytes) -> None:
    _name(world, body, pb.AllocateRequest)
    _name(world, body, peer_pb.AddNetworkRequest)


def _name(world: World, body: bytes, kind: type[Message]) -> None:
    """Whoever hung up may hold an address: it takes that back by its attempt, or the DEL does."""
    with contextlib.suppress(DecodeError):
        request: Any = kind.FromString(body)
        is_ours = isinstance(request, pb.AllocateRequest)
        world.named.add(request.key.container_id if is_ours else request.ContainerID)


async def by_stream(chance: random.Random, world: World) -> str:
    """A watch that is opened, read or not, and kept, cancelled or dropped."""
    watch = _raw(world.ipam.unary_stream, "/ipam_api.v1.Ipam/WatchNode")
    stream = watch(body_of(empty, chance, world.ledger) if chance.random() < 0.2 else b"")
    how = chance.randrange(3)
    with contextlib.suppress(grpc.aio.AioRpcError):
        if how:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await stream.read()
    if how == 2:
        world.streams.append(stream)
        if len(world.streams) > 10:
            world.streams.pop(0).cancel()
    else:
        stream.cancel()
    return "stream"


async def by_door_stream(chance: random.Random, world: World) -> str:
    """A watch of the door that is never read, or read once and left or spoken into."""
    frame = door.pack(door.Method.WATCH_NODE, pb.WatchNodeRequest())
    if chance.random() < 0.3:
        _say_and_stay(world, world.verbs_path, frame)
        return "door stream: unread"
    reader, writer = await asyncio.open_unix_connection(world.verbs_path)
    try:
        writer.write(frame)
        async with asyncio.timeout(PATIENCE_SECONDS):
            length, status = door.answer_header(await reader.readexactly(door.HEADER.size))
            network = pb.NodeNetwork.FromString(await reader.readexactly(length))
            if status is not door.Status.OK or network.epoch != world.ledger.epoch:
                raise Failure(f"a watch began with {status.name}: {network}")
            if chance.random() < 0.5:
                writer.write(door.HEADER.pack(0, chance.choice((door.Method.LIST, 0, 255))))
                with contextlib.suppress(ConnectionResetError):
                    await reader.read()  # to the end, which must come
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
    return "door stream"


async def by_bytes(chance: random.Random, world: World) -> str:
    """Bytes that are no call at all, on any of the sockets; half of them say no more."""
    path = world.directory / chance.choice(("ipamd.sock", "plugin.sock", door.SOCKET_NAME))
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    frame = struct.pack(">I", chance.randrange(1 << 16))[1:] + chance.randbytes(6)
    data = chance.choice(
        (b"", b"G", preface[:9], preface, preface + frame, chance.randbytes(40), b"\0" * 9)
    )
    if path == world.verbs_path:
        data = door.HEADER.pack(100, chance.randrange(1, 8)) + b"\x0a"  # a slow sender
    _say_and_stay(world, path, data)
    return "bytes"


def _say_and_stay(world: World, path: Path, data: bytes) -> None:
    """Send it, and keep the connection for a while without a word."""
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(0)
    with contextlib.suppress(OSError):
        connection.connect(str(path))
        connection.send(data)
    world.slow.append(connection)
    if len(world.slow) > 20:
        world.slow.pop(0).close()


async def by_deaf_peer(chance: random.Random, world: World) -> str:
    """Calls whose answers are never read: the connection stays, or ends."""
    get = door.pack(door.Method.GET, pb.GetRequest(key=key_of_some(chance)))
    frame = chance.choice((get, door.pack(door.Method.LIST, pb.ListRequest())))
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(0)
    with contextlib.suppress(OSError):
        connection.connect(str(world.verbs_path))
        for _ in range(chance.choice((1, 20, 400))):
            connection.send(frame)
            await asyncio.sleep(0)
            await asyncio.sleep(0)  # the daemon reads each by itself
    world.slow.append(connection)
    return "deaf peer"


async def be_honest(world: World, number: int) -> None:
    """A client as it should be is served, whatever the others do."""
    key = pb.AttachmentKey(container_id=f"honest-{number}", ifname="eth0")
    world.named.add(key.container_id)
    add = pb.AllocateRequest(
        key=key,
        attempt_id=ATTEMPTS[0],
        netns_cookie=9,
        wait_seconds=5.0,
        began_boottime=clock.boottime(),
    )
    async with asyncio.timeout(PATIENCE_SECONDS):
        reader, writer = await asyncio.open_unix_connection(world.verbs_path)
        try:
            for method, request in (
                (door.Method.ALLOCATE, add),
                (door.Method.GET, pb.GetRequest(key=key)),
                (door.Method.LIST, pb.ListRequest()),
                (door.Method.RELEASE, pb.ReleaseRequest(key=key)),
            ):
                writer.write(door.pack(method, request))
                try:
                    length, status = door.answer_header(await reader.readexactly(door.HEADER.size))
                    reply = await reader.readexactly(length)
                except asyncio.IncompleteReadError:
                    raise Failure(f"{method.name}: no answer") from None
                if status != door.Status.OK:
                    raise Failure(f"{method.name}: {pb.ErrorDetail.FromString(reply)}")
        finally:
            writer.close()
        for path in ("GetStatus", "List"):
            await _raw(world.ipam.unary_unary, f"/ipam_api.v1.Ipam/{path}")(b"")
    world.check()


class _Recorder(logging.Handler):
    """What libraries log as an error: grpc says there that a handler raised."""

    def __init__(self, troubles: list[str]) -> None:
        super().__init__(logging.ERROR)
        self._troubles = troubles

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record)
        # Bytes that are no message, and answers to nobody: the client's doing, which grpc logs.
        if not any(name in text for name in ("DecodeError", "ExecuteBatchError")):
            self._troubles.append(text)


def record_logs(troubles: list[str]) -> None:
    """Keep what ipamd logs as an error, and nothing else."""

    def keep(logger: object, method: str, event: Any) -> Any:
        if method in ("error", "exception", "critical"):
            troubles.append(str(structlog.processors.format_exc_info(logger, method, dict(event))))
        raise structlog.DropEvent

    structlog.configure(processors=[keep], cache_logger_on_first_use=False)


@asynccontextmanager
async def serving(directory: Path) -> AsyncIterator[World]:
    """Three doors on one engine."""
    store = new_store(directory)
    environ = {"IP_COOLDOWN_PERIOD": "0", "VPC_IPAMD_RUN_DIR": str(directory)}
    engine = Engine(store, AsyncMemoryCloud(MemoryCloud(), delay_seconds=0), **environ)
    world = World(engine, directory)
    record_logs(world.troubles)
    recorder = _Recorder(world.troubles)
    logging.getLogger().addHandler(recorder)
    parts = (engine.keeper, engine.allocations, engine.reconciler, Metrics())
    world.servicer = grpc_server.IpamServicer(*parts)
    backend = cni_backend.CniBackend(*parts, b.settings(**environ))
    world.door = verb_door.VerbDoor(world.servicer.handlers, world.servicer.node)
    await world.door.start(world.verbs_path)
    servers = [
        await grpc_server.start(world.servicer, directory / "ipamd.sock"),
        await cni_backend.start(backend, directory / "plugin.sock"),
    ]
    try:
        async with (
            running(engine),
            grpc.aio.insecure_channel(f"unix:{directory}/ipamd.sock") as world.ipam,
            grpc.aio.insecure_channel(f"unix:{directory}/plugin.sock") as world.backend,
        ):
            await until(lambda: engine.keeper.ledger.has_heard_node, "the pool does not start")
            yield world
    finally:
        logging.getLogger().removeHandler(recorder)
        for server in servers:
            await server.stop(0)
        world.door.close()
        store.close()


async def until(condition: Callable[[], bool], otherwise: str) -> None:
    """Wait for what another task or thread has to do; Failure with `otherwise` if it does not."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise Failure(otherwise)
        await asyncio.sleep(0.005)


WAYS = (
    (by_verb_door, 60),
    (by_grpc, 33),
    (by_stream, 3),
    (by_door_stream, 3),
    (by_bytes, 3),
    (by_deaf_peer, 1),
)


async def _play(world: World, chance: random.Random, inputs: int, seed: int) -> None:
    ways = [way for way, weight in WAYS for _ in range(weight)]
    settled = 0
    for number in range(inputs):
        signal.alarm(PATIENCE_SECONDS * 3)  # its default action ends the process: the loop hangs
        try:
            world.answers[await chance.choice(ways)(chance, world)] += 1
            world.release_surplus(MOST_HELD)
            if number % HONEST_EVERY == 0:
                world.engine.report()
                await be_honest(world, number)
        except Exception as e:
            raise Failure(f"seed {seed}, input {number}: {e!r}") from e
        finally:
            signal.alarm(0)
        if number == inputs // 5:
            settled = kept_bytes()
    grown = kept_bytes() - settled
    if grown > MEMORY_LIMIT_BYTES:
        raise Failure(f"seed {seed}: {grown >> 20} MiB more than after the first fifth")
    world.answers["MiB grown"] = grown >> 20


async def _end(world: World) -> None:
    """Everything is released, and nothing is left."""
    for connection in world.slow:
        connection.close()
    for stream in world.streams:
        stream.cancel()
    await until(lambda: not world.door._connections, "a connection of the verbs' door stays")
    await until(lambda: not world.servicer.node.watchers, "a watcher stays")
    await until(lambda: not world.engine.allocations.waiting, "an attachment waits for ever")
    world.release_surplus(0)
    world.check()
    if world.ledger.allocations:
        raise Failure("an allocation cannot be released")


def kept_bytes() -> int:
    """Memory that is really held: without cycles that wait for the collector, and without what
    malloc keeps of requests of many megabytes, which is 60 to 100 MiB by chance."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return resident_bytes()


def resident_bytes() -> int:
    """This process's resident memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _open_descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


async def _run(inputs: int, seed: int, directory: Path) -> Counter[str]:
    async with serving(directory) as world:
        for _ in range(20):  # what grpc opens once is no leak
            await by_grpc(random.Random(0), world)
        before = _open_descriptors()
        await _play(world, random.Random(seed), inputs, seed)
        await _end(world)
        await until(lambda: _open_descriptors() <= before + 2, "descriptors are left open")
        return world.answers


def run(inputs: int, seed: int) -> Counter[str]:
    """How often each kind of answer came. Raises Failure with the input's number."""
    with tempfile.TemporaryDirectory() as directory:
        return asyncio.run(_run(inputs, seed, Path(directory)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(3), "big"))
    wanted = parser.parse_args()
    began = time.monotonic()
    try:
        answers = run(wanted.inputs, wanted.seed)
    except Failure as e:
        sys.exit(str(e))
    took = time.monotonic() - began
    print(f"seed {wanted.seed}: {wanted.inputs} inputs in {took:.0f} s")
    for answer, count in answers.most_common():
        print(f"{count:8} {answer}")


if __name__ == "__main__":
    main()
