"""Long-running operations of the emulated ARM: what is under way, until when, and how it ends.

Owned by `arm_state`, used under its lock, no thread of its own. Time is an argument: what is due is
settled when somebody asks, or by the server's timer. Source of the two styles: Azure Resource
Manager documentation, "Track asynchronous Azure operations".
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Callable
from dataclasses import dataclass

from providers.sim.arm_errors import ArmError, JsonObject

# The status of an operation, in ARM's words.
IN_PROGRESS, SUCCEEDED, FAILED = "InProgress", "Succeeded", "Failed"


@dataclass(slots=True, kw_only=True)
class Operation:
    """One operation. `provider` is "Microsoft.Network" or "Microsoft.Compute".

    `due_unix` is infinite for one that never ends. `result` makes the body that the Location URL
    shows in the end; without it that URL answers 204.
    """

    operation_id: str
    provider: str
    kind: str
    resource_id: str
    began_unix: float
    due_unix: float
    retry_after_seconds: int = 0
    finish: Callable[[], None] | None = None
    fail: ArmError | None = None
    result: Callable[[], JsonObject] | None = None
    status: str = IN_PROGRESS
    error: ArmError | None = None

    def end(self) -> None:
        """Let it have its effect; what `finish` raises, else `fail`, is its error."""
        try:
            if self.finish is not None:
                self.finish()
            self.error = self.fail
        except ArmError as error:
            self.error = error
        self.status = SUCCEEDED if self.error is None else FAILED

    @property
    def shown(self) -> JsonObject:
        """The body of its Azure-AsyncOperation URL; Microsoft.Compute says more."""
        shown: JsonObject = {"status": self.status}
        if self.provider == "Microsoft.Compute":
            shown = {"startTime": _written(self.began_unix), **shown, "name": self.operation_id}
            if self.status != IN_PROGRESS:
                shown["endTime"] = _written(self.due_unix)
        if self.error is not None:
            shown["error"] = self.error.error
        return shown


class Operations:
    """Every operation since the start or the last reset; use it under the state's lock."""

    def __init__(self, new_id: Callable[[], str]) -> None:
        self._new_id = new_id
        self._operations: dict[str, Operation] = {}
        self._running: dict[str, Operation] = {}

    def begin(
        self,
        provider: str,
        kind: str,
        resource_id: str,
        seconds: float,
        now: float,
        *,
        finish: Callable[[], None] | None = None,
        fail: ArmError | None = None,
        result: Callable[[], JsonObject] | None = None,
        retry_after_seconds: int = 0,
    ) -> Operation:
        """Begin one that ends after `seconds`; with 0 it is over before this returns.

        `finish` runs once, at the end, under the lock; an ArmError from it makes the operation
        fail. `fail` makes it fail although `finish` ran: that is how a failed operation may have
        been applied.
        """
        operation = Operation(
            operation_id=self._new_id(),
            provider=provider,
            kind=kind,
            resource_id=resource_id,
            began_unix=now,
            due_unix=now + seconds,
            retry_after_seconds=retry_after_seconds,
            finish=finish,
            fail=fail,
            result=result,
        )
        self._operations[operation.operation_id] = operation
        self._running[operation.operation_id] = operation
        if seconds <= 0:
            self._end(operation)
        return operation

    def find(self, operation_id: str) -> Operation | None:
        """The operation of that id, whatever its status."""
        return self._operations.get(operation_id.lower())

    def settle(self, now: float) -> None:
        """End everything that is due, in the order of its time."""
        due = [one for one in self._running.values() if one.due_unix <= now]
        for operation in sorted(due, key=lambda one: one.due_unix):
            self._end(operation)

    def next_due_unix(self) -> float | None:
        """When the next one ends; None when none is going to."""
        ends = [one.due_unix for one in self._running.values() if not math.isinf(one.due_unix)]
        return min(ends, default=None)

    def running_on(self, resource_id: str) -> Operation | None:
        """The operation under way on a resource, its id in any case."""
        key = resource_id.lower()
        found = (one for one in self._running.values() if one.resource_id.lower() == key)
        return next(found, None)

    def forget(self) -> None:
        """Forget all of them; none has its effect any more."""
        self._operations.clear()
        self._running.clear()

    def _end(self, operation: Operation) -> None:
        del self._running[operation.operation_id]
        operation.end()


def _written(unix: float) -> str:
    return dt.datetime.fromtimestamp(unix, tz=dt.UTC).isoformat()
