"""The pipe to the cloud child, with real processes: killed, hung and talking nonsense."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable
from multiprocessing.connection import Connection
from pathlib import Path
from subprocess import Popen
from threading import Thread
from typing import Any, TypeVar
from unittest import mock

import pytest

from ipamd import cloud_process
from ipamd.api_calls import ApiCall
from ipamd.app import APPLY_SECONDS
from ipamd.cloud import AddressChange
from ipamd.cloud_child import CloudChild, InProcessCloud
from ipamd.cloud_messages import Answer, Call
from ipamd.errors import SubnetExhausted, Transient
from ipamd.plain_log import PlainLog
from providers.sim import bench_kinds
from tests import builders as b
from tests.memory_cloud import MemoryCloud

T = TypeVar("T")

# A child with the memory cloud; "limits" ends it at once, "subnets" never answers, "apply" takes as
# many tenths of a second as it is to add, and tells of a call in each unless it has a token.
CHILD = """
import os, sys, time
sys.path[:0] = [{root!r}]
from multiprocessing.connection import Connection
from ipamd.api_calls import ApiCall
from ipamd.cloud_process import serve
from ipamd.plain_log import PlainLog
from tests.memory_cloud import MemoryCloud

class Cloud(MemoryCloud):
    def __init__(self, tell):
        super().__init__()
        self.tell = tell
    def discover_node(self):
        self.tell(ApiCall(api="Whoami", seconds=0.25))
        return super().discover_node()
    def limits(self):
        os._exit(9)
    def subnets(self, subnet_ids):
        time.sleep(600)
    def apply(self, change):
        for _ in range(change.add):
            time.sleep(0.1)
            if not change.token:
                self.tell(ApiCall(api="Poll"))
        return super().apply(change)
    def capabilities(self):
        raise ZeroDivisionError("a bug in a provider")

serve(Cloud, Connection(int(sys.argv[-1])), PlainLog("error", process="cloud"))
os._exit(0)
"""


def with_child(
    tmp_path: Path,
    work: Callable[[CloudChild], Awaitable[T]],
    *,
    call_seconds: float = 20.0,
    apply_seconds: float | None = None,
    on_api_call: Callable[[ApiCall], None] | None = None,
) -> T:
    """Run `work` with a child that is the program above in place of a cloud SDK."""
    program = tmp_path / "child.py"
    program.write_text(CHILD.format(root=str(Path(__file__).resolve().parents[2])))
    launcher = tmp_path / "python"
    launcher.write_text(f'#!/bin/sh\nexec {sys.executable} {program} "$@"\n')
    launcher.chmod(0o755)

    async def main() -> T:
        child = CloudChild(
            "memory",
            call_seconds=call_seconds,
            apply_seconds=apply_seconds,
            on_api_call=on_api_call,
        )
        try:
            return await work(child)
        finally:
            child.close()

    with mock.patch("ipamd.cloud_child.sys.executable", str(launcher)):
        return asyncio.run(main())


def test_calls_run_in_the_child_and_in_parallel(tmp_path: Path) -> None:
    async def work(child: CloudChild) -> None:
        identity, snapshot = await asyncio.gather(child.discover_node(), child.snapshot())
        assert identity.instance_id == "i-01"
        assert len(snapshot.enis) == 1
        assert child.pid not in (None, os.getpid())

    with_child(tmp_path, work)


def test_the_child_gives_way_to_the_daemons() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        descriptor = theirs.fileno()
        with Popen(
            [sys.executable, "-m", "ipamd.cloud_process", "aws", str(descriptor)],
            pass_fds=[descriptor],
        ) as child:
            theirs.close()
            mine = os.getpriority(os.PRIO_PROCESS, 0)
            until = time.monotonic() + 10
            while os.getpriority(os.PRIO_PROCESS, child.pid) == mine and time.monotonic() < until:
                time.sleep(0.01)
            niceness = os.getpriority(os.PRIO_PROCESS, child.pid)
            ours.close()  # the parent has gone, and so does the child
        assert (niceness, child.returncode) == (mine + cloud_process.NICENESS, 0)


def test_the_benchmarks_busy_process_is_as_nice() -> None:
    assert bench_kinds.CHILD_NICENESS == cloud_process.NICENESS


def test_the_parent_hears_of_every_api_call_before_the_answer(tmp_path: Path) -> None:
    heard: list[ApiCall] = []

    async def work(child: CloudChild) -> None:
        await child.discover_node()
        assert [(c.api, c.seconds) for c in heard] == [("Whoami", 0.25)]

    with_child(tmp_path, work, on_api_call=heard.append)


def test_a_killed_child_fails_its_calls_and_the_next_call_starts_another(tmp_path: Path) -> None:
    async def work(child: CloudChild) -> None:
        await child.discover_node()
        first = child.pid
        assert first is not None
        hanging = asyncio.create_task(child.subnets(()))
        await asyncio.sleep(0.05)
        os.kill(first, signal.SIGKILL)
        with pytest.raises(Transient, match="the cloud child"):
            await hanging
        await child.discover_node()
        assert child.pid not in (None, first)

    with_child(tmp_path, work)


def test_a_child_that_ends_by_itself_is_a_transient_error(tmp_path: Path) -> None:
    async def work(child: CloudChild) -> None:
        with pytest.raises(Transient):
            await child.limits()
        await child.discover_node()

    with_child(tmp_path, work)


def test_a_call_that_hangs_ends_the_child_and_names_itself(tmp_path: Path) -> None:
    async def work(child: CloudChild) -> None:
        with pytest.raises(Transient, match=r"subnets gave no answer in 1 s"):
            await child.subnets(())
        assert child.pid is None

    with_child(tmp_path, work, call_seconds=1.0)


def test_a_look_that_hangs_lets_a_change_that_goes_on_come_to_its_end_first(
    tmp_path: Path,
) -> None:
    async def work(child: CloudChild) -> None:
        await child.orphans()  # which may take its time, as a start does
        change = asyncio.create_task(child.apply(AddressChange(eni_id=b.PRIMARY, add=8)))
        with pytest.raises(Transient, match=r"subnets gave no answer in 0 s"):
            await child.subnets(())
        assert len((await change).added) == 8
        assert child.pid is None, "what hangs is ended with it"

    with_child(tmp_path, work, call_seconds=0.4, apply_seconds=20.0)


@pytest.mark.parametrize(
    ("token", "apply_seconds"), [("t", 20.0), ("", None)], ids=["silent", "as any call"]
)
def test_a_look_that_hangs_ends_a_child_from_which_nothing_else_is_heard(
    tmp_path: Path, token: str, apply_seconds: float | None
) -> None:
    async def work(child: CloudChild) -> None:
        await child.orphans()
        made = AddressChange(eni_id=b.PRIMARY, add=9, token=token)
        change = asyncio.create_task(child.apply(made))
        with pytest.raises(Transient):
            await child.subnets(())
        with pytest.raises(Transient):
            await change

    with_child(tmp_path, work, call_seconds=0.4, apply_seconds=apply_seconds)


@pytest.mark.parametrize(
    ("cloud", "seconds"), [("aws", None), ("azure", 600.0)], ids=["as any call", "its own"]
)
def test_a_change_of_addresses_has_the_deadline_of_its_cloud(
    cloud: str, seconds: float | None
) -> None:
    asked: dict[str, float | None] = {}

    class Recording(CloudChild):
        async def _call(self, method: str, *arguments: Any, seconds: float | None = None) -> Any:
            asked[method] = seconds

    async def main() -> None:
        child = Recording(cloud, call_seconds=30.0, apply_seconds=APPLY_SECONDS.get(cloud))
        await child.apply(AddressChange(eni_id=b.PRIMARY, add=1))
        await child.snapshot()

    asyncio.run(main())
    assert asked == {"apply": seconds, "snapshot": None}


def test_a_bug_in_a_provider_is_an_answer_and_not_silence(tmp_path: Path) -> None:
    async def work(child: CloudChild) -> None:
        with pytest.raises(Transient, match="ZeroDivisionError: a bug in a provider"):
            await child.capabilities()
        await child.discover_node()

    with_child(tmp_path, work)


def test_a_child_that_cannot_start_is_a_transient_error() -> None:
    async def main() -> None:
        child = CloudChild("memory", call_seconds=20.0)
        try:
            with pytest.raises(Transient):
                await child.discover_node()
        finally:
            child.close()

    with mock.patch("ipamd.cloud_child.sys.executable", "/bin/false"):
        asyncio.run(main())


def test_the_child_serves_until_its_parent_has_gone() -> None:
    ours, theirs = socket.socketpair()
    log = PlainLog("error", process="cloud")
    parent, child = Connection(ours.detach()), Connection(theirs.detach())
    thread = Thread(target=cloud_process.serve, args=(lambda tell: MemoryCloud(), child, log))
    thread.start()
    parent.send(Call(number=7, method="limits", arguments=()))
    answer = parent.recv()
    assert isinstance(answer, Answer)
    assert (answer.number, answer.value.max_enis) == (7, 3)
    parent.close()
    thread.join(timeout=10)
    assert not thread.is_alive()
    child.close()


def test_the_binding_without_a_process_raises_the_same_errors() -> None:
    async def main() -> None:
        memory = MemoryCloud()
        memory.free.clear()
        with pytest.raises(SubnetExhausted):
            await InProcessCloud(memory).apply(AddressChange(eni_id=b.PRIMARY, add=1))

    asyncio.run(main())
