"""Questions to the cloud that run beside the reconciler's loop: an answer may take a minute, and
pods may need the pool to grow meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine

from ipamd.errors import StoreError


class Questions:
    """One question of each kind at a time. `answered` is called after each, with the error if the
    answer could not be stored."""

    group: asyncio.TaskGroup

    def __init__(self, answered: Callable[[StoreError | None], None]) -> None:
        self._answered = answered
        self._asking: set[str] = set()

    def __contains__(self, kind: object) -> bool:
        """Whether one of this kind is under way."""
        return kind in self._asking

    def ask(self, kind: str, question: Callable[[], Coroutine[None, None, None]]) -> None:
        """Begin it, unless one of its kind is under way."""
        if kind not in self._asking:
            self._asking.add(kind)
            self.group.create_task(self._run(kind, question), name=kind)

    async def _run(self, kind: str, question: Callable[[], Coroutine[None, None, None]]) -> None:
        error = None
        try:
            await question()
        except StoreError as e:
            error = e
        finally:
            self._asking.discard(kind)
        self._answered(error)
