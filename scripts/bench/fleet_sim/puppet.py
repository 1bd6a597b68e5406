"""Blocking code on the virtual loop: it runs in a thread, one step at a time.

`await run(function)` starts the function in a thread of its own and lets the loop stand still until
it waits; `wait(make)` in that thread hands the wait to the loop and sleeps until it is over. One
thread runs at any moment, so that runs repeat exactly, and locks are never contended. What would
block in any other way stops the world; `Lock` and `Future` are for code that needs those.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Generic, TypeVar, cast

T = TypeVar("T")


class _Ended(BaseException):
    """The run is over: unwind whatever the function is doing."""


class _Puppet:
    """A thread that runs one function after another, and its strings."""

    def __init__(self) -> None:
        self._go = threading.Semaphore(0)
        self._stopped = threading.Semaphore(0)
        self.function: Callable[[], Any] = lambda: None
        self.request: Callable[[], Awaitable[Any]] | None = None  # None: the function has ended
        self.value: Any = None
        self.error: BaseException | None = None
        self.is_ended = False
        threading.Thread(target=self._live, name="puppet", daemon=True).start()

    def step(self) -> None:
        """Let the thread run until it waits or its function ends."""
        self._go.release()
        self._stopped.acquire()

    def hand_over(self, request: Callable[[], Awaitable[T]]) -> T:
        """In the thread: have the loop wait."""
        if self.is_ended:
            raise _Ended
        self.request = request
        self._stopped.release()
        self._go.acquire()
        if self.is_ended:
            raise _Ended
        if self.error is not None:
            error, self.error = self.error, None
            raise error
        return cast("T", self.value)

    def _live(self) -> None:
        _strings.puppet = self
        while True:
            self._go.acquire()
            self.value = self.error = None
            try:
                self.value = self.function()
            except BaseException as e:  # noqa: BLE001 - it is raised again where it is awaited
                self.error = e
            self.request = None
            self._stopped.release()


_strings = threading.local()
_idle: deque[_Puppet] = deque()  # threads are dear to make: 500 nodes make 100,000 calls


async def run(function: Callable[[], T]) -> T:
    """What `function` returns or raises; its waits take the loop's time."""
    puppet = _idle.pop() if _idle else _Puppet()
    puppet.function, puppet.is_ended = function, False
    puppet.step()
    try:
        while puppet.request is not None:
            try:
                puppet.value = await puppet.request()
            except Exception as e:  # noqa: BLE001 - the function's to handle
                puppet.error = e
            puppet.step()
    except BaseException:  # the task is cancelled
        puppet.is_ended = True
        while puppet.request is not None:
            puppet.step()
        _idle.append(puppet)
        raise
    _idle.append(puppet)
    if puppet.error is not None:
        raise puppet.error
    return cast("T", puppet.value)


def wait(request: Callable[[], Awaitable[T]]) -> T:
    """In a function that `run` runs: await what `request` makes, on the loop."""
    return cast("_Puppet", _strings.puppet).hand_over(request)


def sleep(seconds: float) -> None:
    """time.sleep in the loop's time."""
    wait(lambda: asyncio.sleep(seconds))


class Lock:
    """threading.Lock between functions that `run` runs."""

    def __init__(self) -> None:
        self._is_held = False
        self._released = asyncio.Event()

    def __enter__(self) -> None:
        while self._is_held:
            self._released.clear()
            wait(self._released.wait)
        self._is_held = True

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._is_held = False
        self._released.set()


class Future(Generic[T]):
    """concurrent.futures.Future between functions that `run` runs."""

    def __init__(self) -> None:
        self._done = asyncio.Event()
        self._value: T | None = None
        self._error: BaseException | None = None

    def set_result(self, value: T) -> None:
        self._value = value
        self._done.set()

    def set_exception(self, error: BaseException) -> None:
        self._error = error
        self._done.set()

    def result(self) -> T:
        if not self._done.is_set():
            wait(self._done.wait)
        if self._error is not None:
            raise self._error
        return cast("T", self._value)
