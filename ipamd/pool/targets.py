"""How many addresses the pool should have: the arithmetic of the WARM_* settings.

Where this differs from aws-node on purpose: cooling addresses are not available; attachments that
wait for an address count as demand at once; nothing grows past max_pods.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Targets:
    """The user's wishes; `warm_addresses` or `minimum_addresses` above 0 is target mode."""

    warm_enis: int
    warm_addresses: int
    minimum_addresses: int
    max_pods: int

    @property
    def is_target_mode(self) -> bool:
        """WARM_IP_TARGET or MINIMUM_IP_TARGET is set; then WARM_ENI_TARGET has no effect."""
        return self.warm_addresses > 0 or self.minimum_addresses > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """The pool in numbers. `incoming` are addresses that calls in flight will bring."""

    allocated: int
    available: int
    preparing: int
    cooling: int
    incoming: int
    waiting: int  # attachments that wait for an address

    @property
    def supply(self) -> int:
        """Addresses that are free or soon will be, less those that waiting attachments take."""
        return self.available + self.preparing + self.incoming - self.waiting

    @property
    def committed(self) -> int:
        """What max_pods caps (I8): in use, or ready to be used; cooling comes on top."""
        return self.allocated + self.available + self.preparing + self.incoming


def deficit(targets: Targets, counts: Counts, *, slots_per_eni: int) -> int:
    """How many addresses to ask the cloud for now; 0 when the targets are met.

    Examples: WARM_IP_TARGET 5, 3 allocated, 4 available -> 1. WARM_ENI_TARGET 1 with 9 slots and 4
    available -> 5. WARM_ENI_TARGET 0 with none available -> one ENI's worth (9).
    """
    if targets.is_target_mode:
        total = counts.committed + counts.cooling
        wanted = max(targets.warm_addresses - counts.supply, targets.minimum_addresses - total, 0)
    elif targets.warm_enis > 0:
        wanted = max(targets.warm_enis * slots_per_eni - counts.supply, 0)
    else:
        wanted = max(slots_per_eni, -counts.supply) if counts.supply <= 0 else 0
    # Cooling addresses will be available soon: beyond max_pods only while somebody waits for one.
    held = counts.committed + (0 if counts.waiting else counts.cooling)
    return max(min(wanted, targets.max_pods - held), 0)


def excess(targets: Targets, counts: Counts) -> int:
    """How many available addresses are too many: above the targets, or above max_pods.

    In WARM_ENI mode only whole ENIs go back for the targets' sake.

    Example: WARM_IP_TARGET 2, MINIMUM_IP_TARGET 10, 3 allocated, 9 available -> 2 (the minimum
    keeps 10 of the 12).
    """
    if counts.waiting:
        return 0
    over = counts.allocated + counts.available - targets.max_pods
    if targets.is_target_mode:
        total = counts.allocated + counts.available + counts.cooling
        above = min(counts.available - targets.warm_addresses, total - targets.minimum_addresses)
        over = max(over, above)
    return max(min(over, counts.available), 0)


def can_lose(targets: Targets, counts: Counts, *, available: int, slots_per_eni: int) -> bool:
    """Whether the pool still meets its targets without an idle ENI's `available` addresses."""
    if counts.waiting:
        return False
    remaining = counts.available - available
    if targets.is_target_mode:
        total = counts.allocated + counts.available + counts.cooling - available
        return remaining >= targets.warm_addresses and total >= targets.minimum_addresses
    return remaining >= max(targets.warm_enis * slots_per_eni, 1)
