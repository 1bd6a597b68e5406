"""One writer at a time for each write target, and the wants that wait for it.

Wants that come while nobody writes are taken together by the first of their threads; those that
come later form the next write. Whoever's want is taken by another waits for its result.
"""

from __future__ import annotations

import contextlib
import copy
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from ipamd.cloud import AddressChange, AddressOutcome
from ipamd.errors import CloudError, LimitReached, NoPrefixFree, SubnetExhausted, Transient


@dataclass(slots=True, kw_only=True, eq=False)
class Want:
    """One caller's change, and what became of it. `deadline` is monotonic."""

    change: AddressChange
    deadline: float
    result: AddressOutcome | CloudError | None = None
    is_apart: bool = False  # was refused in company, and shall not be so again

    @property
    def is_open(self) -> bool:
        """Whether the caller still waits."""
        return self.result is None

    @property
    def grows(self) -> bool:
        """Whether anything is to be added."""
        return bool(self.change.add or self.change.add_prefixes)

    def fail(self, error: CloudError) -> None:
        """An error of its own for each caller: threads that raise one object would share its
        traceback."""
        own = _for_want(copy.copy(error), self.change)
        own.__cause__ = error.__cause__
        own.eni_id = self.change.eni_id
        self.result = own

    def outcome(self) -> AddressOutcome:
        """The result, raised where it is an error."""
        if isinstance(self.result, AddressOutcome):
            return self.result
        assert self.result is not None  # a lane lets nobody go before
        raise self.result


def _for_want(error: CloudError, change: AddressChange) -> CloudError:
    """The refusal of a write in terms of what one want asks for.

    What is short is what was asked for: ARM has several codes for it (cilium's operator takes each
    for a lack of blocks), and a subnet that is too full for a block may have addresses. And blocks
    that are refused for whatever reason (a region or a subscription without them: nobody knows the
    code) are none to be had, while single addresses may be.
    """
    asks_for_blocks = bool(change.add_prefixes) and not change.add
    is_refused = type(error) in (CloudError, LimitReached) and bool(error.subnet_id)
    if asks_for_blocks and (is_refused or isinstance(error, SubnetExhausted)):
        return NoPrefixFree(error.args[0], **vars(error))
    if isinstance(error, SubnetExhausted) and not change.add_prefixes:
        return SubnetExhausted(error.args[0], **vars(error))
    return error


@dataclass(slots=True, kw_only=True)
class Lane:
    """The wants for one target."""

    _changed: threading.Condition = field(default_factory=threading.Condition)
    _waiting: list[Want] = field(default_factory=list)
    _taken: list[Want] = field(default_factory=list)
    _is_held: bool = False

    def ask(self, want: Want) -> None:
        """Let the next write have it."""
        with self._changed:
            self._waiting.append(want)

    def take(self) -> list[Want]:
        """The wants of the next write, for whoever holds the lane: all that wait, unless some are
        apart. Of these first what only removes, together, then each growth by itself."""
        with self._changed:
            apart = [want for want in self._waiting if want.is_apart]
            removals = [want for want in apart if not want.grows]
            return self._take(removals or apart[:1] or self._waiting)

    def company(self) -> list[Want]:
        """Wants that came since the write began."""
        with self._changed:
            return self._take([want for want in self._waiting if not want.is_apart])

    def give_back(self, wants: Iterable[Want]) -> None:
        """Let these be tried again, apart."""
        with self._changed:
            for want in wants:
                want.is_apart = True
                self._taken.remove(want)
                self._waiting.append(want)

    def tell(self) -> None:
        """Some of what was taken may have its result."""
        with self._changed:
            self._changed.notify_all()

    def _take(self, wants: list[Want]) -> list[Want]:
        taken = list(wants)
        self._waiting = [want for want in self._waiting if want not in taken]
        self._taken += taken
        return taken

    @contextlib.contextmanager
    def held(self, want: Want | None = None) -> Iterator[bool]:
        """Hold the lane; False, without holding it, when another's write had the want with it."""
        with self._changed:
            self._changed.wait_for(lambda: not self._is_held or not _is_open(want))
            leads = _is_open(want)
            self._is_held = self._is_held or leads
        try:
            yield leads
        finally:
            if leads:
                self._let_go()

    @contextlib.contextmanager
    def held_if_free(self) -> Iterator[bool]:
        """Hold the lane; False, without holding it, when somebody else does."""
        with self._changed:
            is_free = not self._is_held
            self._is_held = True
        try:
            yield is_free
        finally:
            if is_free:
                self._let_go()

    def _let_go(self) -> None:
        with self._changed:
            for want in self._taken:
                if want.is_open:  # the writer broke off: nobody must wait for ever
                    want.fail(Transient("the write broke off; see the log", code="BrokenOff"))
            self._taken = []
            self._is_held = False
            self._changed.notify_all()


def _is_open(want: Want | None) -> bool:
    return want is None or want.is_open
