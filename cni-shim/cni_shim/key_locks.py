"""One lock per attachment: verbs of one key run one after the other, all others in parallel."""

from __future__ import annotations

import threading
from collections.abc import Collection, Hashable, Iterator
from contextlib import contextmanager


class KeyLocks:
    """Locks by key, kept only while somebody holds or waits for them."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._locks: dict[Hashable, tuple[threading.Lock, int]] = {}
        self._noted: set[Hashable] | None = None

    @contextmanager
    def held(self, key: Hashable, *, timeout_seconds: float) -> Iterator[None]:
        """Hold the key's lock within the block. Raises TimeoutError when it stays taken."""
        lock = self._join(key)
        try:
            if not lock.acquire(timeout=max(timeout_seconds, 0.0)):
                raise TimeoutError(f"another verb for {key} is still running")
            try:
                yield
            finally:
                noted = self._noted
                if noted is not None:
                    noted.add(key)
                lock.release()
        finally:
            self._leave(key)

    @contextmanager
    def noting(self) -> Iterator[Collection[Hashable]]:
        """The keys whose lock somebody let go within the block, so far. For one thread."""
        noted: set[Hashable] = set()
        self._noted = noted
        try:
            yield noted
        finally:
            self._noted = None

    def is_held(self, key: Hashable) -> bool:
        """Whether somebody holds the key's lock or waits for it, at this moment."""
        with self._guard:
            return key in self._locks

    def _join(self, key: Hashable) -> threading.Lock:
        with self._guard:
            lock, users = self._locks.get(key) or (threading.Lock(), 0)
            self._locks[key] = (lock, users + 1)
            return lock

    def _leave(self, key: Hashable) -> None:
        with self._guard:
            lock, users = self._locks[key]
            if users == 1:
                del self._locks[key]
            else:
                self._locks[key] = (lock, users - 1)
