"""The one writer of pool state: checks a change, stores it, then makes it visible.

Lives on the event loop. `commit` has no await, so every reader sees the ledger before or after a
change and never half of it (I3).
"""

from __future__ import annotations

from collections.abc import Callable

from ipamd.pool.ledger import Change, Ledger
from ipamd.store import Store

Listener = Callable[[Change, Ledger], None]


class Keeper:
    """Owns the store and the current ledger."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._listeners: list[Listener] = []
        self.ledger = store.load()

    def listen(self, listener: Listener) -> None:
        """Call `listener(change, ledger_after)` after every commit, on the loop."""
        self._listeners.append(listener)

    def commit(self, change: Change) -> None:
        """Store and apply. On StoreError or IllegalTransition nothing has changed anywhere."""
        if not change:
            return
        after = self.ledger.applied(change)
        self._store.commit(change)
        self.ledger = after
        for listener in self._listeners:
            listener(change, after)

    def note(self, name: str, value: str) -> None:
        """Keep a fact beside the ledger."""
        self._store.note(name, value)

    def noted(self, name: str) -> str:
        """A fact kept earlier, or an empty string."""
        return self._store.noted(name)
