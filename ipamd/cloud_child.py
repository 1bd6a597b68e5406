"""The cloud child: one process that holds the credentials and the SDK, and its binding in ipamd.

A thread that parses EC2's XML beside the ledger takes one Allocate from 1.3 to 12-28 ms, and a hung
SDK call cannot be ended from within its process. So the provider lives in a child: requests and
answers are frozen values, pickled over one socket pair (both ends are this same build). A call that
outlives its deadline ends the child; the next call starts a new one. Only a change of addresses
that has a deadline of its own, and of which the child still tells calls, is let come to its end
first: it may take minutes, and what it did would be known later still.

This is the parent's half, on asyncio; `ipamd.cloud_process` is the child's. `InProcessCloud` binds
a provider without a process, for tests.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, Protocol

import structlog

from ipamd.api_calls import ApiCall
from ipamd.cloud import (
    AddressChange,
    AddressOutcome,
    Capabilities,
    CloudEni,
    CloudProvider,
    CloudSnapshot,
    Hint,
    InterfaceRequest,
    NodeIdentity,
    NodeLimits,
    Orphan,
    Subnet,
)
from ipamd.cloud_messages import Answer, Call, Reply
from ipamd.errors import Transient
from ipamd.model import EniId, SubnetId

log = structlog.get_logger()

LONG_SECONDS = 150.0
"""For what takes many calls. Creating waits for `attached`, for which EC2 takes seconds and in bad
times a minute, and each of its calls may wait for the budget."""


ARENAS = "2"
"""glibc gives each thread memory of its own, and keeps it: 16 threads that each read an answer of
200 ENIs left the child with 68 MB, with two arenas 58."""


class Cloud(Protocol):
    """The provider's contract (see ipamd.cloud.CloudProvider) as the event loop calls it."""

    async def capabilities(self) -> Capabilities:
        """See CloudProvider.capabilities."""

    async def discover_node(self) -> NodeIdentity:
        """See CloudProvider.discover_node."""

    async def limits(self) -> NodeLimits:
        """See CloudProvider.limits."""

    async def snapshot(self) -> CloudSnapshot:
        """See CloudProvider.snapshot."""

    async def hint(self) -> Hint:
        """See CloudProvider.hint."""

    async def apply(self, change: AddressChange) -> AddressOutcome:
        """See CloudProvider.apply."""

    async def subnets(self, subnet_ids: tuple[SubnetId, ...]) -> tuple[Subnet, ...]:
        """See CloudProvider.subnets."""

    async def create_interface(self, request: InterfaceRequest) -> CloudEni:
        """See CloudProvider.create_interface."""

    async def delete_interface(self, eni_id: EniId) -> None:
        """See CloudProvider.delete_interface."""

    async def orphans(self) -> tuple[Orphan, ...]:
        """See CloudProvider.orphans."""

    async def mark_created(self, eni_id: EniId, unix: float) -> None:
        """See CloudProvider.mark_created."""

    async def delete_orphan(self, eni_id: EniId) -> None:
        """See CloudProvider.delete_orphan."""


class _Bound:
    """The methods over one `_call`; both bindings share them."""

    apply_seconds: float | None = None  # the deadline of `apply`; None: as for every call

    async def _call(self, method: str, *arguments: Any, seconds: float | None = None) -> Any:
        raise AssertionError(f"a binding defines _call for {method}{arguments} ({seconds})")

    async def capabilities(self) -> Capabilities:
        answer: Capabilities = await self._call("capabilities")
        return answer

    async def discover_node(self) -> NodeIdentity:
        answer: NodeIdentity = await self._call("discover_node")
        return answer

    async def limits(self) -> NodeLimits:
        answer: NodeLimits = await self._call("limits")
        return answer

    async def snapshot(self) -> CloudSnapshot:
        answer: CloudSnapshot = await self._call("snapshot")
        return answer

    async def hint(self) -> Hint:
        answer: Hint = await self._call("hint")
        return answer

    async def apply(self, change: AddressChange) -> AddressOutcome:
        answer: AddressOutcome = await self._call("apply", change, seconds=self.apply_seconds)
        return answer

    async def subnets(self, subnet_ids: tuple[SubnetId, ...]) -> tuple[Subnet, ...]:
        answer: tuple[Subnet, ...] = await self._call("subnets", subnet_ids)
        return answer

    async def create_interface(self, request: InterfaceRequest) -> CloudEni:
        answer: CloudEni = await self._call("create_interface", request, seconds=LONG_SECONDS)
        return answer

    async def delete_interface(self, eni_id: EniId) -> None:
        await self._call("delete_interface", eni_id, seconds=LONG_SECONDS)

    async def orphans(self) -> tuple[Orphan, ...]:
        answer: tuple[Orphan, ...] = await self._call("orphans", seconds=LONG_SECONDS)
        return answer

    async def mark_created(self, eni_id: EniId, unix: float) -> None:
        await self._call("mark_created", eni_id, unix)

    async def delete_orphan(self, eni_id: EniId) -> None:
        await self._call("delete_orphan", eni_id)


class InProcessCloud(_Bound):
    """A provider bound without a process; calls run in threads."""

    def __init__(self, provider: CloudProvider) -> None:
        self._provider = provider

    async def _call(self, method: str, *arguments: Any, seconds: float | None = None) -> Any:
        del seconds  # a thread cannot be ended; only the child can
        return await asyncio.to_thread(getattr(self._provider, method), *arguments)


class CloudChild(_Bound):
    """The parent's half. Starts the child on the first call and again after it died or hung.

    `on_api_call` hears of every call to the cloud's API when it has ended, on the event loop.
    """

    def __init__(
        self,
        cloud: str,
        *,
        call_seconds: float,
        apply_seconds: float | None = None,
        on_api_call: Callable[[ApiCall], None] | None = None,
    ) -> None:
        self._cloud = cloud
        self._call_seconds = call_seconds
        self.apply_seconds = apply_seconds
        self.on_api_call = on_api_call
        self._numbers = itertools.count(1)
        self._pending: dict[int, asyncio.Future[Answer]] = {}
        self._changes: set[int] = set()  # calls in flight that are not cut short
        self._heard = 0  # messages of this child
        self._is_to_end = False  # as soon as no such call is in flight
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: Connection | None = None

    @property
    def pid(self) -> int | None:
        """The running child's pid, for the log and for tests that end it."""
        return self._process.pid if self._process else None

    async def _call(self, method: str, *arguments: Any, seconds: float | None = None) -> Any:
        try:
            self._ensure_started()
        except OSError as e:  # no process or descriptor to be had: the node is short of them
            raise Transient(f"{method}: cannot start the cloud child: {e}", operation=method) from e
        assert self._pipe is not None
        number = next(self._numbers)
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._pending[number] = answer
        if method == "apply" and seconds is not None:
            self._changes.add(number)
        heard = self._heard
        try:
            self._pipe.send(Call(number=number, method=method, arguments=arguments))
            async with asyncio.timeout(seconds or self._call_seconds):
                got = await answer
        except TimeoutError:
            self._changes.discard(number)
            self._is_to_end = bool(self._changes) and self._heard > heard
            if not self._is_to_end:
                self._end("a call outlived its deadline", method=method)
            raise Transient(
                f"{method} gave no answer in {seconds or self._call_seconds:.0f} s; the cloud "
                f"child {'will be' if self._is_to_end else 'was'} ended",
                operation=method,
            ) from None
        except OSError as e:
            self._end("the pipe broke", method=method)
            raise Transient(f"{method}: the cloud child is gone", operation=method) from e
        finally:
            self._pending.pop(number, None)
            self._changes.discard(number)
            if self._is_to_end and not self._changes:
                self._end("a call had outlived its deadline")
        if got.error is not None:
            raise got.error
        return got.value

    def close(self) -> None:
        """End the child; calls in flight fail with Transient."""
        self._end("closing")

    def _ensure_started(self) -> None:
        if self._process is not None and self._process.poll() is None:
            return
        self._end("the child had ended")
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "ipamd.cloud_process", self._cloud, str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                env={"MALLOC_ARENA_MAX": ARENAS, **os.environ},
                stdin=subprocess.DEVNULL,
            )
        self._pipe = Connection(ours.detach())
        loop = asyncio.get_running_loop()
        threading.Thread(
            target=self._read, args=(self._pipe, loop), name="cloud-child-reader", daemon=True
        ).start()
        log.info("cloud_child_started", pid=self._process.pid)

    def _read(self, pipe: Connection, loop: asyncio.AbstractEventLoop) -> None:
        """Hand answers to the loop until the child goes; runs in a thread of its own."""
        with contextlib.suppress(RuntimeError):  # the loop has closed: nobody waits any more
            try:
                while True:
                    loop.call_soon_threadsafe(self._settle, pipe.recv())
            except (EOFError, OSError):
                pass
            except Exception:  # an answer that cannot be read: that child is of no use any more
                log.exception("cloud_child_unreadable")
            loop.call_soon_threadsafe(self._lost, pipe)

    def _settle(self, answer: Reply) -> None:
        self._heard += 1
        if isinstance(answer, ApiCall):
            if self.on_api_call is not None:
                self.on_api_call(answer)
            return
        waiting = self._pending.get(answer.number)
        if waiting is not None and not waiting.done():
            waiting.set_result(answer)

    def _lost(self, pipe: Connection) -> None:
        if pipe is self._pipe:
            self._end("the child ended by itself")

    def _end(self, reason: str, **facts: str) -> None:
        process, pipe = self._process, self._pipe
        self._process = self._pipe = None
        self._is_to_end = False
        if process is not None:
            process.kill()
            process.wait()
            log.info("cloud_child_ended", pid=process.pid, reason=reason, **facts)
        if pipe is not None:
            # The reader thread may be inside recv on this descriptor: shut it down, let it notice.
            with contextlib.suppress(OSError), socket.socket(fileno=os.dup(pipe.fileno())) as half:
                half.shutdown(socket.SHUT_RDWR)
            pipe.close()
        gone = Transient(f"the cloud child ended: {reason}", operation="child")
        for number, waiting in list(self._pending.items()):
            if not waiting.done():
                waiting.set_result(Answer(number=number, error=gone))
