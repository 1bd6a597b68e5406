"""How many addresses the pool should have: the arithmetic of the WARM_* settings.

Everything is counted in addresses; with prefixes a want is rounded up to whole /28s by the planner.

Where this differs from aws-node on purpose: cooling addresses are not available; attachments that
wait for an address count as demand at once; nothing grows past max_pods; addresses of the kind that
is not in use any more (single ones in prefix mode and the other way round) do not meet a target.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil

from ipamd.sizing import PREFIX_ADDRESSES

SOON_SECONDS = 30.0
"""What cools for longer is not worth waiting for. The default cooldown: then none does."""

SCARCE_WARM_ADDRESSES = 1
"""What is kept available while the subnet runs low: one pod starts at once, the next waits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Targets:
    """The user's wishes; `warm_addresses` or `minimum_addresses` above 0 is target mode.

    Precedence (aws-node's): WARM_IP_TARGET and MINIMUM_IP_TARGET, then WARM_PREFIX_TARGET with
    prefixes or WARM_ENI_TARGET without.
    """

    warm_enis: int
    warm_addresses: int
    minimum_addresses: int
    max_pods: int
    warm_prefixes: int = 0
    use_prefixes: bool = False
    is_exact: bool = True  # False while pods come and go: half of the warm target is a band
    ahead: int = 0  # to be bought beyond the target while pods come (ipamd.pool.ahead)
    reserve: int = 0  # fewer than this are too few although the target is met

    @property
    def is_target_mode(self) -> bool:
        """WARM_IP_TARGET or MINIMUM_IP_TARGET is set; the targets in prefixes or ENIs then have no
        effect."""
        return self.warm_addresses > 0 or self.minimum_addresses > 0

    @property
    def unit(self) -> int:
        """Addresses that one slot of an ENI brings: 16 with prefixes, else 1."""
        return PREFIX_ADDRESSES if self.use_prefixes else 1

    def in_scarcity(self) -> Targets:
        """The targets while the subnet runs low: what demand needs, and next to nothing warm."""
        return replace(
            self, warm_addresses=SCARCE_WARM_ADDRESSES, minimum_addresses=0, ahead=0, reserve=0
        )

    def warm(self, slots_per_eni: int) -> int:
        """Addresses to keep available. t3.small, WARM_PREFIX_TARGET 1 -> 16; WARM_ENI 1 -> 3."""
        if self.is_target_mode:
            return self.warm_addresses
        if self.use_prefixes:
            return self.warm_prefixes * PREFIX_ADDRESSES
        return self.warm_enis * slots_per_eni

    def slack(self, slots_per_eni: int) -> int:
        """How far below the warm target the pool may be while pods come and go.

        WARM_IP_TARGET 5 -> 2; a prefix or an ENI is bought when half of one is missing.
        """
        if self.is_exact:
            return 0
        if self.is_target_mode:
            return self.warm_addresses // 2
        return min(self.least(slots_per_eni) // 2, self.warm(slots_per_eni))

    def least(self, slots_per_eni: int) -> int:
        """What one growth brings when the target is 0 and nothing is free: a prefix, or an ENI."""
        return PREFIX_ADDRESSES if self.use_prefixes else slots_per_eni


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """The pool in numbers. `incoming` are addresses that calls in flight will bring."""

    allocated: int
    available: int  # of the kind in use, on ENIs that take pods
    preparing: int
    cooling: int
    incoming: int
    waiting: int  # attachments that wait for an address, or pods bound here that have none yet
    late: int = 0  # of the cooling ones, those that need longer than SOON_SECONDS
    inactive: int = 0  # available, of the other kind: served, but not counted as warm

    @property
    def supply(self) -> int:
        """Addresses that are free or soon will be, less those that waiting attachments take."""
        return self.available + self.preparing + self.incoming - self.waiting

    @property
    def committed(self) -> int:
        """What max_pods caps (I8): in use, or ready to be used; cooling comes on top."""
        return self.allocated + self.available + self.inactive + self.preparing + self.incoming

    @property
    def total(self) -> int:
        """Everything that is there or on its way."""
        return self.committed + self.cooling


def deficit(targets: Targets, counts: Counts, *, slots_per_eni: int) -> int:
    """How many addresses to ask the cloud for now; 0 when the targets are met.

    Examples: WARM_IP_TARGET 5, 3 allocated, 4 available -> 1. WARM_ENI_TARGET 1 with 9 slots and 4
    available -> 5. WARM_ENI_TARGET 0 with none available -> one ENI's worth (9). WARM_PREFIX_TARGET
    1 with 15 available -> 1, for which the planner asks one /28. While pods come and go,
    WARM_IP_TARGET 5 with 4 or 3 available -> 0, with 2 -> 3. Where 23 more are expected to be
    needed until the next write, WARM_PREFIX_TARGET 2 with 23 available -> 24 + 23 - 23 = 24.
    """
    warm = targets.warm(slots_per_eni)
    # What cools comes back within the cooldown, and is worth that wait (if it is not long), or pods
    # that are replaced cost two calls each, or an ENI made and deleted. Under WARM_IP_TARGET only
    # while there is one to hand out: that is what was asked for (amazon-vpc-cni-k8s issue 2896).
    has_one = counts.supply > 0 or not targets.is_target_mode
    coming = counts.cooling - counts.late if has_one and not counts.waiting else 0
    floor = warm - targets.slack(slots_per_eni)
    wanted = 0
    if counts.supply + coming < max(floor, targets.reserve):
        # Single addresses are bought up to the target; prefixes and ENIs come in their own size.
        goal = (warm if targets.is_target_mode else floor) + targets.ahead
        wanted = goal - counts.supply - coming
    if targets.is_target_mode:
        wanted = max(wanted, targets.minimum_addresses - counts.total)
    elif warm == 0 and counts.supply <= 0:
        wanted = max(targets.least(slots_per_eni), targets.ahead - counts.supply)
    # Cooling addresses will be available soon: beyond max_pods only while somebody waits for one.
    held = counts.committed + (0 if counts.waiting else counts.cooling)
    return max(min(wanted, targets.max_pods - held), 0)


def excess(targets: Targets, counts: Counts) -> int:
    """How many available single addresses are too many: above the targets, or above max_pods.

    In WARM_ENI mode only whole ENIs go back for the targets' sake.

    Example: WARM_IP_TARGET 2, MINIMUM_IP_TARGET 10, 3 allocated, 9 available -> 2 (the minimum
    keeps 10 of the 12).
    """
    if counts.waiting:
        return 0
    over = counts.allocated + counts.available - targets.max_pods
    if targets.is_target_mode:
        above = _above(targets, counts)
        # One more than wanted is not worth a call while the next pod may be about to come.
        over = max(over, above if targets.is_exact or above > 1 else 0)
    return max(min(over, counts.available), 0)


def excess_prefixes(targets: Targets, counts: Counts, *, idle: int, slots_per_eni: int) -> int:
    """How many of the `idle` prefixes (all 16 addresses available) are too many.

    Examples (aws-node's numbers): 2 prefixes, 15 allocated, WARM_IP_TARGET 1 -> 1 of 1 idle;
    3 idle prefixes, MINIMUM_IP_TARGET 20 -> 1; 2 idle, WARM_PREFIX_TARGET 1 -> 1.
    """
    if counts.waiting:
        return 0
    above_cap = ceil(
        (counts.allocated + counts.available - _rounded(targets.max_pods)) / PREFIX_ADDRESSES
    )
    if targets.is_target_mode:
        over = _above(targets, counts) // PREFIX_ADDRESSES
    else:
        keep = max(targets.warm(slots_per_eni), 1)
        over = min(idle - targets.warm_prefixes, (counts.available - keep) // PREFIX_ADDRESSES)
    return max(min(max(over, above_cap), idle), 0)


def can_lose(targets: Targets, counts: Counts, *, available: int, slots_per_eni: int) -> bool:
    """Whether the pool still meets its targets without an idle ENI's `available` addresses."""
    if counts.waiting:
        return False
    # While pods come and go it is bought below the band, and goes back above the same much.
    remaining = counts.available - available - targets.slack(slots_per_eni)
    if targets.is_target_mode:
        total = counts.allocated + counts.available + counts.cooling - available
        return remaining >= targets.warm_addresses and total >= targets.minimum_addresses
    # Nothing to lose: an ENI that carries no pods any more, whatever the others hold.
    return available == 0 or remaining >= max(targets.warm(slots_per_eni), 1)


def _above(targets: Targets, counts: Counts) -> int:
    """Addresses above WARM_IP_TARGET that MINIMUM_IP_TARGET does not keep."""
    total = counts.allocated + counts.available + counts.cooling
    return min(counts.available - targets.warm_addresses, total - targets.minimum_addresses)


def _rounded(addresses: int) -> int:
    return ceil(addresses / PREFIX_ADDRESSES) * PREFIX_ADDRESSES
