"""What one row of the settings table is."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ipamd.settings.values import Parser


class OnBad(enum.Enum):
    """What an unusable value does."""

    FALL_BACK = "default, with a warning"  # as aws-node does, so that its env starts us too
    REFUSE = "ends the start"


class Group(enum.Enum):
    """The headings of the reference."""

    POOL = "Pool sizing"
    ENI = "ENIs, subnets, tags"
    WIRING = "IP family, egress, host wiring"
    RUNTIME = "Runtime, logging, Kubernetes"
    AZURE = "Azure"
    OURS = "Only ours"


class Weight(enum.Enum):
    """How a start treats what is to be said about a value."""

    NOTE = "note"  # off, or without effect
    WARNING = "warning"  # what was asked for is missing, yet it is aws-node's default
    REFUSAL = "refusal"  # what was asked for is missing: the start ends


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """One sentence about a value that was set; NAME=value is put before it."""

    weight: Weight
    text: str


Values = Mapping[str, object]
"""The value of every variable by name."""

Judge = Callable[[object, Values], Said | None]
"""What is to be said about a value, given all others; None: nothing, it does what it says."""


def works(value: object, values: Values) -> Said | None:  # noqa: ARG001 - a Judge
    """The judge of all that does what it says."""
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One row of the reference, and how its text is read.

    `default` is ours, also used for a bad value that falls back. `chart` is what aws-node's Helm
    chart sets, None where it sets nothing. `differs` says in what we differ from aws-node, empty
    where we do not. An empty value counts as unset, unless it `means_something_empty`. `fixed` is
    the value that holds whatever is asked for, None where the asked one holds.
    """

    name: str
    group: Group
    default: str
    parse: Parser
    on_bad: OnBad
    range: str
    meaning: str
    chart: str | None = None
    differs: str = ""
    is_built: bool = True
    judge: Judge = works
    fixed: str | None = None
    means_something_empty: bool = False

    @property
    def status(self) -> str:
        """The word of the reference: works, works differently, not yet."""
        if not self.is_built:
            return f"not yet: {self.differs}" if self.differs else "not yet"
        return f"works differently: {self.differs}" if self.differs else "works"
