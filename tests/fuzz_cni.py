"""vpc-cnid's door under inputs that nobody would send: `python -m tests.fuzz_cni`.

Each input begins as a request that a runtime might send, and is then bent: its variables, its
configuration (prevResult, GC's lists, runtimeConfig), its bytes, its descriptors. It goes through a
real socket to `serving.Server`, behind which an ipamd and a kernel are fakes that sometimes refuse.
Always demanded: an end within seconds; one whole frame, or none where the request was no frame of
ours; in it one JSON document or nothing, an error document exactly with a failure. At the end:
every pod deleted, and no address, link, descriptor or thread is left.

Exit status: 0, or 1 with the input's number, which with the seed brings it back.
"""

from __future__ import annotations

import argparse
import array
import contextlib
import json
import logging
import os
import random
import signal
import socket
import struct
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import structlog
from cni_shim import frames, serving, spec
from cni_shim.datapath.errors import AddressInUse, DatapathError, ForeignInterface
from cni_shim.hangups import Hangups
from cni_shim.results import RESULT_VERSIONS
from cni_shim.serving import Server
from cni_shim.spec import AttachmentKey, Verb
from cni_shim.status import Silence

from tests.cni_bench import Bench, R, away, refusal

PATIENCE_SECONDS = 10
VERBS = ("ADD", "DEL", "CHECK", "GC", "STATUS")
IDS = ("c1", "c2", "c3", "a" * 64, "default-x1")
IFNAMES = ("eth0", "net1")
NETNS = Path("/proc/self/ns/net")
ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 2**70, 1e308, "", " ", "x", "\x00", "\ud800", "é" * 300, "../..",
    "eth0", "10.0.0.5/32", "::/0", "9.9.9", "1.1.0", [], [None], [[]], {}, {"": {}}, ["a"] * 50,
)  # fmt: skip


class Failure(AssertionError):
    """What was demanded and did not hold."""


class Door:
    """A server on fakes, and what came of each input."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.bench = Bench()
        self.hangups = Hangups()
        self.silence = Silence(seen_at=None)
        self.silence.heard()
        self.host_problem = ""
        self.server = Server(
            self.bench.verbs,
            self.bench.ipam,
            self.hangups,
            silence=self.silence,
            host_problem=lambda: self.host_problem,
        )
        self.answers: Counter[str] = Counter()

    def ask(self, frame: bytes, fds: list[int]) -> bytes:
        """Everything that is answered to one connection's bytes."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with ours, theirs:
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
            ours.sendmsg([frame], rights)
            ours.shutdown(socket.SHUT_WR)  # so that what is cut short ends at once
            self.server.handle(theirs)
            theirs.close()
            return _read_all(ours)

    def judge(self, frame: bytes, riding: int, answer: bytes) -> None:
        """Raise Failure unless the answer is one that a launcher can use."""
        if not answer:
            with contextlib.suppress(frames.FrameError):
                if int(frames.parse_request(frame).has_netns) == riding:
                    raise Failure("a whole request had no answer")
            self.answers["none"] += 1
            return
        told = frames.parse_answer(answer)
        documents = told.stdout.decode().splitlines()
        if len(documents) > 1:
            raise Failure(f"{len(documents)} documents")
        document = json.loads(documents[0]) if documents else {}
        if ("code" in document) != (told.exit_status != 0):
            raise Failure(f"exit status {told.exit_status} with {document}")
        if "vpc-cnid failed" in document.get("msg", ""):
            raise Failure(f"a crash: {document}")
        self.answers[f"code {document['code']}" if "code" in document else "success"] += 1

    def end(self) -> None:
        """Delete everything; Failure if anything is left."""
        for script in (self.bench.ipam.script, self.bench.datapath.script):
            script.clear()
        _until(lambda: not [t for t in threading.enumerate() if t.name == "release"])
        request = replace(self.bench.request(Verb.DEL))
        for held in tuple(self.bench.ipam.held.values()):
            key = AttachmentKey(container_id=held.key.container_id, ifname=held.key.ifname)
            deadline = time.monotonic() + 5
            self.bench.verbs.delete(replace(request, key=key), key, deadline_monotonic=deadline)
        left = (self.bench.ipam.held, self.bench.datapath.links, self.bench.verbs._locks._locks)
        if any(left):
            raise Failure(f"left behind: {left}")


def _read_all(sock: socket.socket) -> bytes:
    data = bytearray()
    with contextlib.suppress(ConnectionResetError):
        while block := sock.recv(1 << 20):
            data += block
    return bytes(data)


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise Failure("a thread of an undone ADD does not end")
        time.sleep(0.005)


def plausible_env(chance: random.Random) -> dict[str, str]:
    """What a runtime sets."""
    pairs = [
        f"K8S_POD_NAME={chance.choice(('web', ''))}",
        "K8S_POD_NAMESPACE=ns",
        "IgnoreUnknown=1",
    ]
    chance.shuffle(pairs)
    return {
        "CNI_COMMAND": chance.choice(VERBS),
        "CNI_CONTAINERID": chance.choice(IDS),
        "CNI_IFNAME": chance.choice(IFNAMES),
        "CNI_NETNS": str(NETNS),
        "CNI_PATH": "/opt/cni/bin",
        "CNI_ARGS": ";".join(pairs),
        "CNI_NETNS_OVERRIDE": chance.choice(("1", "true", "")),
    }


def plausible_config(chance: random.Random, door: Door) -> dict[str, Any]:
    """What a runtime hands over, of any version and verb."""
    version = chance.choice((*spec.SUPPORTED_VERSIONS, "", None, *("1.0.0", "1.1.0") * 5))
    named = [{"containerID": chance.choice(IDS), "ifname": "eth0"}]
    config: dict[str, Any] = {
        "name": chance.choice(("net", "other")),
        "type": "vpc-cni",
        "cniVersion": version,
        "mtu": chance.choice(("9001", 1500)),
        "capabilities": {"io.kubernetes.cri.pod-annotations": True},
        "runtimeConfig": {"io.kubernetes.cri.pod-annotations": {"a": "b"}},
        "prevResult": plausible_result(chance, door),
        "cni.dev/valid-attachments": chance.choice((None, [], named)),
        "cni.dev/attachments": chance.choice((None, [], named)),
        "ipam": {},
    }
    if version is None:
        del config["cniVersion"]
    for key in chance.sample(sorted(config), chance.randrange(4)):
        if key != "name":
            config.pop(key)
    return config


def plausible_result(chance: random.Random, door: Door) -> dict[str, Any]:
    """The result of an ADD of ours, in some version's shape."""
    version = chance.choice(RESULT_VERSIONS)
    held = next(iter(door.bench.ipam.held.values()), None)
    address = held.address if held is not None else "10.0.0.5"
    if version < "0.3":
        return {"cniVersion": version, "ip4": {"ip": f"{address}/32", "routes": [{"dst": "0/0"}]}}
    return {
        "cniVersion": version,
        "interfaces": [
            {"name": "eni1", "mac": "0a:00:00:00:00:01"},
            {"name": "eth0", "mac": "0a:00:00:00:00:02", "sandbox": "/run/netns/x"},
        ],
        "ips": [{"version": "4", "interface": 1, "address": f"{address}/32"}],
        "routes": [{"dst": "0.0.0.0/0", "gw": "169.254.1.1"}],
    }


def bent(value: Any, chance: random.Random) -> Any:
    """The value with one node of it replaced, dropped, doubled or put deeper."""
    if isinstance(value, dict) and value and chance.random() < 0.8:
        key = chance.choice(sorted(value))
        if chance.random() < 0.15:
            return {k: v for k, v in value.items() if k != key}
        if chance.random() < 0.1:
            return value | {chance.choice((key.upper(), key + "x", "")): value[key]}
        return value | {key: bent(value[key], chance)}
    if isinstance(value, list) and value and chance.random() < 0.7:
        place = chance.randrange(len(value))
        return [*value[:place], bent(value[place], chance), *value[place + chance.randrange(2) :]]
    if chance.random() < 0.05:
        return _deep(value, chance.choice((3, 400)))
    return chance.choice(ODD)


def _deep(value: Any, levels: int) -> Any:
    for _ in range(levels):
        value = [value]
    return value


def bent_bytes(data: bytes, chance: random.Random) -> bytes:
    """The bytes with some flipped, cut, doubled or put in."""
    place = chance.randrange(len(data) + 1)
    match chance.randrange(5):
        case 0:
            return data[:place]
        case 1:
            return data[:place] + bytes([chance.randrange(256)]) + data[place + 1 :]
        case 2:
            return data[:place] + chance.randbytes(chance.randrange(9)) + data[place:]
        case 3:
            return (
                data[:place]
                + struct.pack("<I", chance.choice((0, 1, 2**31, 2**32 - 1)))
                + data[place + 4 :]
            )
        case _:
            return data + data[place:]


def make_input(chance: random.Random, door: Door) -> tuple[bytes, int]:
    """A frame and how many descriptors ride on it."""
    env = plausible_env(chance)
    config: Any = plausible_config(chance, door)
    for _ in range(chance.choice((0, 0, 1, 1, 2, 5))):
        key = chance.choice(sorted(config))
        config[key] = bent(config[key], chance)
    if chance.random() < 0.05:
        config = bent(config, chance)
    if chance.random() < 0.3:
        name = chance.choice(sorted(env))
        odd = chance.choice([value for value in ODD if isinstance(value, str)])
        env[name] = odd.replace("\0", "").replace("\ud800", "\udcff")  # what bytes can become
    stdin = json.dumps(config).encode()
    if chance.random() < 0.15:
        stdin = bent_bytes(stdin, chance)
    wants_netns = env["CNI_COMMAND"] in ("ADD", "CHECK", "DEL") and chance.random() < 0.95
    request = frames.Request(
        has_netns=wants_netns,
        deadline_ms=chance.choice((5000, 5000, 5000, 1)),
        env=tuple(frames.EnvVar(name=name, value=value) for name, value in env.items()),
        stdin=stdin,
    )
    frame = frames.pack_request(request)
    descriptors = int(wants_netns)
    if chance.random() < 0.1:
        frame = bent_bytes(frame, chance)
    if chance.random() < 0.03:
        descriptors = chance.randrange(4)
    return frame or b"V", descriptors


def make_trouble(chance: random.Random, door: Door) -> None:
    """What the next calls of ipamd and of the kernel answer in place of doing it."""
    for script in (door.bench.ipam.script, door.bench.datapath.script):
        script.clear()
    door.silence.unheard(time.monotonic() - 61) if chance.random() < 0.2 else door.silence.heard()
    if door.bench.ipam.next > 250:
        door.bench.ipam.next = 5  # the fake counts up for ever, and an address ends at 255
    door.host_problem = chance.choice(("", "", "no rule"))
    door.bench.datapath.missing = chance.choice(((), (), ("a route is gone",)))
    if chance.random() < 0.85:
        return
    status = away().status
    errors = (away(), refusal(status, R.NO_ADDRESS), refusal(status, R.STORE_FAILED))
    call = chance.choice(("allocate", "release", "get", "list"))
    door.bench.ipam.script[call] = [chance.choice(errors)]
    broken = (
        DatapathError("add route", 105),
        ForeignInterface("eth0"),
        AddressInUse(IPv4Address("10.0.0.5"), "a route"),
    )
    call = chance.choice(("wire", "unwire", "check", "cookie", "has_link"))
    door.bench.datapath.script[call] = [broken[0] if call != "wire" else chance.choice(broken)]


def _open_descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def run(inputs: int, seed: int) -> Counter[str]:
    """How often each kind of answer came. Raises Failure with the input's number."""
    chance = random.Random(seed)
    door = Door(chance)
    before = _open_descriptors()
    netns_fd = os.open(NETNS, os.O_RDONLY | os.O_CLOEXEC)
    try:
        for number in range(inputs):
            try:
                _play(door, chance, netns_fd)
            except Exception as e:
                raise Failure(f"seed {seed}, input {number}: {e!r}") from e
    finally:
        os.close(netns_fd)
    door.end()
    after = _open_descriptors()
    if after > before:  # fewer: what others left, such as gRPC's channels, was closed meanwhile
        raise Failure(f"seed {seed}: {after - before} descriptors are left open")
    return door.answers


def _play(door: Door, chance: random.Random, netns_fd: int) -> None:
    make_trouble(chance, door)
    frame, riding = make_input(chance, door)
    signal.alarm(PATIENCE_SECONDS)  # its default action ends the process: a hang is no success
    try:
        door.judge(frame, riding, door.ask(frame, [netns_fd] * riding))
    except Exception as e:
        e.add_note(repr(frame))
        raise
    finally:
        signal.alarm(0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(3), "big"))
    wanted = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    serving._is_root = lambda connection: True
    began = time.monotonic()
    try:
        answers = run(wanted.inputs, wanted.seed)
    except Failure as e:
        notes = getattr(e.__cause__, "__notes__", [])
        sys.exit("\n".join([str(e), *notes]))
    took = time.monotonic() - began
    print(f"seed {wanted.seed}: {wanted.inputs} inputs in {took:.0f} s")
    for answer, count in answers.most_common():
        print(f"{count:8} {answer}")


if __name__ == "__main__":
    main()
