"""Faults on demand: which call shall fail, how, how often and until when.

No clock, no I/O: the book only says what shall happen to a call; `ec2` makes it happen.
"""

from __future__ import annotations

import enum
import itertools
from collections.abc import Collection
from dataclasses import dataclass, replace

from providers.sim.ec2_errors import Ec2Error, status_of, throttled

# Beyond any client's patience that a test would wait for; the connection is closed then.
DEFAULT_HOLD_SECONDS = 30.0


class FaultKind(enum.Enum):
    """What happens to a call."""

    THROTTLE = "throttle"  # RequestLimitExceeded, 503, no effect
    ERROR = "error"  # any code, message and status, no effect
    TIMEOUT_BEFORE = "timeout_before"  # held, closed without an answer, no effect
    TIMEOUT_AFTER = "timeout_after"  # the effect happens; held, closed without an answer
    LATENCY = "latency"  # `seconds` later, otherwise as usual
    LOST = "lost"  # an attach or detach is answered, and never happens
    STUCK = "stuck"  # attaching or detaching takes `seconds`; 0: for ever


# The actions whose effect can go missing or last.
_ATTACHING = ("AttachNetworkInterface", "DetachNetworkInterface")
_MISHAPS = (FaultKind.LOST, FaultKind.STUCK)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One fault. Matches an API action ("*": every one) and, if given, one instance.

    `seconds` is the latency, how long the connection is held, or how long it is stuck. `remaining`
    None: any number of calls. `until_unix` None: at any time. `status` 0: the code's own.
    """

    fault_id: int
    action: str
    kind: FaultKind
    code: str = ""
    message: str = ""
    status: int = 0
    seconds: float = 0.0
    remaining: int | None = None
    instance_id: str = ""
    until_unix: float | None = None

    def __post_init__(self) -> None:
        if self.kind is FaultKind.ERROR and not self.code:
            raise ValueError("an error fault needs a code")
        if self.seconds < 0 or (self.remaining is not None and self.remaining < 1):
            raise ValueError("seconds must not be negative and count must be at least 1")
        if self.is_mishap and self.action not in _ATTACHING:
            raise ValueError(f"{self.kind.value} is for {' or '.join(_ATTACHING)}")

    @property
    def is_mishap(self) -> bool:
        """The call takes place, otherwise than it should."""
        return self.kind in _MISHAPS

    def is_over(self, now: float) -> bool:
        """Whether its time is up."""
        return self.until_unix is not None and now >= self.until_unix

    def matches(self, action: str, instances: Collection[str]) -> bool:
        """Whether the fault is meant for a call of `action` that concerns `instances`."""
        if self.action not in ("*", action):
            return False
        return not self.instance_id or self.instance_id in instances

    @property
    def error(self) -> Ec2Error | None:
        """The answer that replaces the call; None when the kind is not an answer."""
        if self.kind is FaultKind.THROTTLE:
            return throttled()
        if self.kind is FaultKind.ERROR:
            status = self.status or status_of(self.code)
            return Ec2Error(self.code, self.message or self.code, status)
        return None

    @property
    def hold_seconds(self) -> float:
        """How long a connection without an answer stays open."""
        return self.seconds or DEFAULT_HOLD_SECONDS


class FaultBook:
    """The faults in force, oldest first."""

    def __init__(self) -> None:
        self._faults: dict[int, Fault] = {}
        self._ids = itertools.count(1)

    def add(
        self,
        action: str,
        kind: FaultKind,
        *,
        code: str = "",
        message: str = "",
        status: int = 0,
        seconds: float = 0.0,
        count: int | None = None,
        instance_id: str = "",
        until_unix: float | None = None,
    ) -> int:
        """Put a fault in force; returns its id."""
        fault = Fault(
            fault_id=next(self._ids),
            action=action,
            kind=kind,
            code=code,
            message=message,
            status=status,
            seconds=seconds,
            remaining=count,
            instance_id=instance_id,
            until_unix=until_unix,
        )
        self._faults[fault.fault_id] = fault
        return fault.fault_id

    def clear(self) -> None:
        """Remove every fault."""
        self._faults.clear()

    def take(self, action: str, instances: Collection[str], now: float) -> list[Fault]:
        """The faults for this call, counted as used: every latency, and the first of the rest."""
        self._faults = {one.fault_id: one for one in self._faults.values() if not one.is_over(now)}
        hit = [fault for fault in self._faults.values() if fault.matches(action, instances)]
        slow = [fault for fault in hit if fault.kind is FaultKind.LATENCY]
        taken = slow + [fault for fault in hit if fault.kind is not FaultKind.LATENCY][:1]
        for fault in taken:
            self._use(fault)
        return taken

    def _use(self, fault: Fault) -> None:
        if fault.remaining is None:
            return
        if fault.remaining == 1:
            del self._faults[fault.fault_id]
        else:
            self._faults[fault.fault_id] = replace(fault, remaining=fault.remaining - 1)
