"""An event loop on virtual time: when nothing is ready, the clock jumps to the next timer.

Hosts 500 engines at once, so it never asks the kernel: nothing on it may use sockets or threads.
"""

from __future__ import annotations

import asyncio
import random
import selectors
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, TypeVar
from unittest import mock

T = TypeVar("T")

START = 1_000_000.0
"""Boot and wall time at which every run begins; any number far from zero does."""


class _JumpingSelector(selectors.BaseSelector):
    """Waits for nobody. Registered files (the loop's own wake-up pipe) are never ready."""

    def __init__(self) -> None:
        self.jump: Callable[[float], None] = self._refuse
        self._keys: dict[Any, selectors.SelectorKey] = {}

    @staticmethod
    def _refuse(seconds: float) -> None:
        raise RuntimeError(f"no clock to move by {seconds} s")

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        number = fileobj if isinstance(fileobj, int) else fileobj.fileno()
        key = selectors.SelectorKey(fileobj, number, events, data)
        self._keys[fileobj] = key
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._keys.pop(fileobj)

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._keys

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("nothing is left to happen on this loop, and somebody still waits")
        if timeout > 0:
            self.jump(timeout)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop on its own clock."""

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


def run(main: Callable[[], Coroutine[Any, Any, T]], *, seed: str) -> T:
    """Run `main()` to its end; ipamd's clocks follow the loop, its jitter the seed."""
    loop = VirtualLoop()
    random.seed(seed)
    try:
        with (
            mock.patch("ipamd.clock.boottime", loop.time),
            mock.patch("ipamd.clock.unix", loop.time),
        ):
            return loop.run_until_complete(main())
    finally:
        loop.close()
