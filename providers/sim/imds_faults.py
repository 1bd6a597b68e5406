"""Faults of an emulated metadata service, EC2's or Azure's: what is wrong, for whom, until when.

Pure: `imds` and `azure_imds` make it happen.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Protocol

# After so long the connection is closed. A client is expected to have given up before.
DOWN_HOLD_SECONDS = 10.0


class ImdsFaultKind(enum.Enum):
    """What is wrong with the service."""

    DOWN = "down"  # connections are accepted and held, nothing is answered
    ERROR = "error"  # 500 for everything; from Azure's the status in `value`, if there is one
    WRONG_VALUE = "wrong_value"  # `value` at `path` (below /latest/, /metadata/instance/), or none
    MISSING_ENI = "missing_eni"  # the ENI named by `value` (id or MAC) is not listed


@dataclass(frozen=True, slots=True, kw_only=True)
class ImdsFault:
    """One fault, for one machine or, with an empty `instance_id`, for all.

    `until_unix` None: until it is cleared.
    """

    kind: ImdsFaultKind
    path: str = ""
    value: str = ""
    instance_id: str = ""
    until_unix: float | None = None

    def __post_init__(self) -> None:
        if self.kind is ImdsFaultKind.WRONG_VALUE and not self.path.strip("/"):
            raise ValueError("a wrong value needs a path")
        if self.kind is ImdsFaultKind.MISSING_ENI and not self.value:
            raise ValueError("a missing ENI needs an id or a MAC")
        if self.kind is ImdsFaultKind.ERROR and not (self.value or "500").isdecimal():
            raise ValueError("the value of an error is its HTTP status")

    def strikes(self, now: float, *names: str) -> bool:
        """Whether it is in force now for the machine of these names, their case ignored."""
        is_over = self.until_unix is not None and now >= self.until_unix
        named = self.instance_id.lower()
        return not is_over and named in ("", *(name.lower() for name in names))


class FaultySettings(Protocol):
    """Settings of a service that have its faults."""

    faults: list[ImdsFault]
