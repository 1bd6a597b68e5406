"""An event loop whose clock jumps to the next timer when nothing else is left to do.

`run(main)` runs a coroutine on it with ipamd.clock following; ten minutes of back-off take
milliseconds. Only for code that waits by timers and events alone: no threads, no sockets.
"""

from __future__ import annotations

import asyncio
import random
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar
from unittest import mock

T = TypeVar("T")

START = 1000.0


class _JumpingSelector(selectors.SelectSelector):
    def __init__(self) -> None:
        super().__init__()
        self.jump: Callable[[float], None] = lambda seconds: None

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        if ready or timeout == 0:
            return ready
        if timeout is None:
            raise AssertionError("nothing is left to happen: the code under test waits for ever")
        self.jump(timeout)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """A selector loop on its own clock."""

    def __init__(self) -> None:
        self.now = START
        selector = _JumpingSelector()
        selector.jump = self._jump
        super().__init__(selector)

    def time(self) -> float:
        return self.now

    def _jump(self, seconds: float) -> None:
        # asyncio compares deadlines with a resolution of its own: never stop just short of one.
        self.now += seconds + 1e-6


def run(main: Callable[[VirtualLoop], Coroutine[Any, Any, T]]) -> T:
    """Run `main(loop)` to its end in virtual time; boottime and wall clock follow the loop, and
    every run draws the same jitter, so that what fails once fails again."""
    loop = VirtualLoop()
    random.seed(0)
    try:
        with (
            mock.patch("ipamd.clock.boottime", loop.time),
            mock.patch("ipamd.clock.unix", loop.time),
        ):
            return loop.run_until_complete(main(loop))
    finally:
        loop.close()
