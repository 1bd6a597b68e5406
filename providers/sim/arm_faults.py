"""Faults on demand for the emulated ARM: which request shall fail, how, how often.

No clock, no I/O: the book only says what shall happen to a request; `arm` makes it happen.
"""

from __future__ import annotations

import enum
import fnmatch
import itertools
from dataclasses import dataclass, replace

from providers.sim.arm_errors import ArmError

# Beyond any client's patience that a test would wait for; the connection is closed then.
DEFAULT_HOLD_SECONDS = 30.0


class ArmFaultKind(enum.Enum):
    """What happens to a request."""

    ERROR = "error"  # any status, code and Retry-After, no effect
    DELAY = "delay"  # `seconds` later, otherwise as usual
    LOST = "lost"  # the effect happens; held `seconds`, closed without an answer
    DROPPED = "dropped"  # held `seconds`, closed without an answer, no effect
    RESET = "reset"  # the connection is reset, no effect
    MALFORMED = "malformed"  # the effect happens; the body ends in the middle
    TRUNCATED = "truncated"  # a list misses its second half and has no nextLink
    OPERATION_FAILS = "operation_fails"  # accepted; the operation fails with `code`
    OPERATION_LASTS = "operation_lasts"  # accepted; the operation takes `seconds`; 0: for ever


_ANSWERED = (ArmFaultKind.MALFORMED, ArmFaultKind.TRUNCATED)
_OPERATIONS = (ArmFaultKind.OPERATION_FAILS, ArmFaultKind.OPERATION_LASTS)


class Applies(enum.Enum):
    """How much of a failing operation is applied all the same."""

    NOTHING = "nothing"
    PART = "part"  # the first half of what is new, rounded up
    ALL = "all"


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmFault:
    """One fault. `method` "*": any. `path` is a pattern with * and ?, case and query ignored.

    It passes over the first `nth - 1` requests that match, then meets the next `remaining`
    (None: all that follow).
    """

    fault_id: int
    method: str
    path: str
    kind: ArmFaultKind
    nth: int = 1
    remaining: int | None = None
    status: int = 500
    code: str = "InternalServerError"
    message: str = ""
    retry_after_seconds: int = 0
    seconds: float = 0.0
    applies: Applies = Applies.NOTHING

    def __post_init__(self) -> None:
        if self.nth < 1 or self.seconds < 0 or (self.remaining is not None and self.remaining < 1):
            raise ValueError("nth and count must be at least 1, and seconds not negative")

    @property
    def is_of_operation(self) -> bool:
        """Whether the request is accepted, and its operation goes wrong."""
        return self.kind in _OPERATIONS

    @property
    def has_effect(self) -> bool:
        """Whether the request has its effect."""
        return self.kind in (*_ANSWERED, *_OPERATIONS, ArmFaultKind.LOST, ArmFaultKind.DELAY)

    @property
    def error(self) -> ArmError:
        """The refusal, or the error of the operation."""
        headers = {}
        if self.retry_after_seconds:
            headers["Retry-After"] = str(self.retry_after_seconds)
        return ArmError(self.status, self.code, self.message or self.code, headers=headers)

    @property
    def hold_seconds(self) -> float:
        """How long a connection without an answer stays open."""
        return self.seconds or DEFAULT_HOLD_SECONDS

    def matches(self, method: str, path: str) -> bool:
        """Whether the fault is meant for a request of `method` for `path` (without its query)."""
        if self.method not in ("*", method.upper()):
            return False
        return fnmatch.fnmatchcase(path.lower(), self.path.lower())


class ArmFaultBook:
    """The faults in force, oldest first."""

    def __init__(self) -> None:
        self._faults: dict[int, ArmFault] = {}
        self._ids = itertools.count(1)

    def add(
        self,
        method: str,
        path: str,
        kind: ArmFaultKind,
        *,
        nth: int = 1,
        count: int | None = 1,
        status: int = 500,
        code: str = "InternalServerError",
        message: str = "",
        retry_after_seconds: int = 0,
        seconds: float = 0.0,
        applies: Applies = Applies.NOTHING,
    ) -> int:
        """Put a fault in force, for one request unless `count` says more; returns its id."""
        fault = ArmFault(
            fault_id=next(self._ids),
            method=method.upper(),
            path=path,
            kind=kind,
            nth=nth,
            remaining=count,
            status=status,
            code=code,
            message=message,
            retry_after_seconds=retry_after_seconds,
            seconds=seconds,
            applies=applies,
        )
        self._faults[fault.fault_id] = fault
        return fault.fault_id

    def remove(self, fault_id: int) -> None:
        """Remove one fault, which may be used up."""
        self._faults.pop(fault_id, None)

    def clear(self) -> None:
        """Remove every fault."""
        self._faults.clear()

    def take(self, method: str, path: str) -> list[ArmFault]:
        """The faults that meet this request, counted: every delay, and the first of the rest."""
        hit = [fault for fault in self._faults.values() if fault.matches(method, path)]
        met = [fault for fault in hit if fault.nth == 1]
        slow = [fault for fault in met if fault.kind is ArmFaultKind.DELAY]
        taken = slow + [fault for fault in met if fault.kind is not ArmFaultKind.DELAY][:1]
        for fault in hit:
            if fault.nth > 1:
                self._faults[fault.fault_id] = replace(fault, nth=fault.nth - 1)
        for fault in taken:
            self._use(fault)
        return taken

    def _use(self, fault: ArmFault) -> None:
        if fault.remaining == 1:
            del self._faults[fault.fault_id]
        elif fault.remaining is not None:
            self._faults[fault.fault_id] = replace(fault, remaining=fault.remaining - 1)
