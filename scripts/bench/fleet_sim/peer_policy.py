"""aws-node's pool decisions as pure functions: what it would do with a pool as it stands.

Written from a description of amazon-vpc-cni-k8s v1.23.1 (pkg/ipamd/ipamd.go,
pkg/ipamd/datastore/data_store.go) and judged by tests/fleet/test_peer_tables.py. IPv4, network card
0, no security groups for pods. Its quirks are kept: cooling addresses count as available; WARM_ENI
growth looks at addresses and prefix shrink at whole prefixes; nothing is ever asked for ahead.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil

from scripts.bench.fleet_sim.shapes import PREFIX_ADDRESSES, NodeType

POOL_PAUSE_SECONDS = 2.5  # ipPoolMonitorInterval 5 s: half before the update, half after
RECONCILE_SECONDS = 60.0  # nodeIPPoolReconcileInterval
SHRINK_SECONDS = 30.0  # decreaseIPPoolInterval
CAPACITY_PAUSE_SECONDS = 120.0  # insufficientCidrErrorCooldown
MINIMUM_ENI_SECONDS = 60.0  # minENILifeTime
COOLDOWN_SECONDS = 30.0  # IP_COOLDOWN_PERIOD


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerSettings:
    """The environment and the limits of the node."""

    slots: int
    max_enis: int
    max_pods: int
    warm_enis: int = 1
    warm_addresses: int = 0
    minimum_addresses: int = 0
    warm_prefixes: int = 0
    use_prefixes: bool = False

    @property
    def is_target_mode(self) -> bool:
        """WARM_IP_TARGET or MINIMUM_IP_TARGET overrides the other two."""
        return self.warm_addresses > 0 or self.minimum_addresses > 0

    @property
    def unit(self) -> int:
        """Addresses that one slot brings."""
        return PREFIX_ADDRESSES if self.use_prefixes else 1

    @property
    def addresses_per_eni(self) -> int:
        """maxIPsPerENI."""
        return self.slots * self.unit


def from_environ(environ: Mapping[str, str], node_type: NodeType) -> PeerSettings:
    """The settings of one node. The code's own defaults, not the chart's."""
    use_prefixes = environ.get("ENABLE_PREFIX_DELEGATION") == "true"
    return PeerSettings(
        slots=node_type.slots,
        max_enis=node_type.max_enis,
        max_pods=node_type.max_pods(use_prefixes=use_prefixes),
        warm_enis=int(environ.get("WARM_ENI_TARGET", "1")),
        warm_addresses=int(environ.get("WARM_IP_TARGET", "0")),
        minimum_addresses=int(environ.get("MINIMUM_IP_TARGET", "0")),
        warm_prefixes=int(environ.get("WARM_PREFIX_TARGET", "0")),
        use_prefixes=use_prefixes,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class EniCounts:
    """One ENI of the datastore. `items` are /32s, or /28s in prefix mode."""

    eni_id: str
    items: int
    assigned: int  # addresses that pods hold
    free_items: int  # items of which no pod holds an address
    is_primary: bool = False
    is_protected: bool = False  # trunk or EFA
    is_cooling: bool = False
    age_seconds: float = 1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The datastore: its ENIs in the order in which a walk meets them, and the sums."""

    total: int  # addresses
    assigned: int
    enis: tuple[EniCounts, ...] = ()

    @property
    def available(self) -> int:
        """AvailableAddresses: what is cooling is in it."""
        return self.total - self.assigned

    @property
    def free_items(self) -> int:
        """Wholly unused /32s or /28s (GetFreePrefixes in prefix mode)."""
        return sum(e.free_items for e in self.enis)


@dataclass(frozen=True, slots=True, kw_only=True)
class Assign:
    """AssignPrivateIpAddresses for so many items on one ENI."""

    eni_id: str
    items: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Create:
    """A new ENI with so many items."""

    items: int


def short_and_over(settings: PeerSettings, pool: Snapshot) -> tuple[int, int]:
    """datastoreTargetState: items missing and items too many, in target mode.

    Example: 14 addresses, 8 assigned, WARM_IP_TARGET 2, MINIMUM_IP_TARGET 12 -> (0, 2).
    """
    warm, minimum = settings.warm_addresses, settings.minimum_addresses
    short = max(warm - pool.available, minimum - pool.total, 0)
    if settings.use_prefixes:
        prefixes = pool.total // PREFIX_ADDRESSES
        needed = max(
            ceil((pool.assigned + warm) / PREFIX_ADDRESSES), ceil(minimum / PREFIX_ADDRESSES)
        )
        return ceil(short / PREFIX_ADDRESSES), max(min(pool.free_items, prefixes - needed), 0)
    over = max(pool.available - warm, 0)
    return short, max(min(over, pool.total - minimum), 0)


def is_too_low(settings: PeerSettings, pool: Snapshot) -> bool:
    """isDatastorePoolTooLow."""
    if pool.total >= settings.max_pods:
        return False
    if settings.is_target_mode:
        return short_and_over(settings, pool)[0] > 0
    warm = settings.warm_prefixes if settings.use_prefixes else settings.warm_enis
    each = PREFIX_ADDRESSES if settings.use_prefixes else settings.addresses_per_eni
    return pool.available < warm * each or (warm == 0 and pool.available == 0)


def items_over(settings: PeerSettings, pool: Snapshot) -> int:
    """How many items a shrink would give back; above 0 the pool is too high."""
    if settings.is_target_mode:
        return short_and_over(settings, pool)[1]
    if settings.use_prefixes and settings.warm_prefixes > 0:
        return max(pool.free_items - settings.warm_prefixes, 0)
    return 0


def items_wanted(settings: PeerSettings, pool: Snapshot) -> int:
    """How many items a growth asks for, before the room on the ENI bounds it."""
    if settings.is_target_mode:
        short = short_and_over(settings, pool)[0]
        return max(short, 1) if settings.use_prefixes else short
    if settings.use_prefixes:
        return max(settings.warm_prefixes - pool.free_items, 1)
    return settings.slots


def growth(settings: PeerSettings, pool: Snapshot) -> Assign | Create | None:
    """The one growth step of an iteration: fill an ENI that has room, else make one."""
    wanted = items_wanted(settings, pool)
    for eni in pool.enis:
        if eni.items < settings.slots and not eni.is_protected and wanted > 0:
            return Assign(eni_id=eni.eni_id, items=min(settings.slots - eni.items, wanted))
    if wanted > 0 and has_room_for_eni(len(pool.enis), settings.max_enis):
        return Create(items=min(wanted, settings.slots))
    return None


def has_room_for_eni(
    attached: int,
    limit: int,
    *,
    unmanaged: int = 0,
    excluded: int = 0,
    is_trunk_missing: bool = False,
) -> bool:
    """hasRoomForEni. `is_trunk_missing`: a trunk ENI is wanted, possible and not there yet."""
    return attached - excluded < limit - unmanaged - excluded - is_trunk_missing


def looks_for_spare_eni(settings: PeerSettings, pool: Snapshot) -> bool:
    """shouldRemoveExtraENIs."""
    if settings.is_target_mode:
        return True
    warm = settings.warm_prefixes if settings.use_prefixes else settings.warm_enis
    if pool.available >= (warm + 1) * settings.addresses_per_eni:
        return True
    return settings.use_prefixes and any(
        e.assigned == 0 and not e.is_primary and not e.is_protected for e in pool.enis
    )


def spare_eni(settings: PeerSettings, pool: Snapshot) -> str | None:
    """getDeletableENI: the first ENI of the walk that may go."""
    for eni in pool.enis:
        if eni.is_primary or eni.is_protected or eni.is_cooling or eni.assigned:
            continue
        if eni.age_seconds < MINIMUM_ENI_SECONDS or _is_needed(settings, pool, eni):
            continue
        return eni.eni_id
    return None


def _is_needed(settings: PeerSettings, pool: Snapshot, eni: EniCounts) -> bool:
    """Whether the other ENIs alone miss one of the targets."""
    unit = settings.unit
    others_total = pool.total - eni.items * unit
    warm = ceil(settings.warm_addresses / unit) * unit
    minimum = ceil(settings.minimum_addresses / unit) * unit
    if settings.warm_addresses and others_total - (pool.assigned - eni.assigned) < warm:
        return True
    if settings.minimum_addresses and others_total < minimum:
        return True
    is_warm_prefixes = settings.use_prefixes and settings.warm_prefixes > 0
    return is_warm_prefixes and pool.free_items - eni.free_items < settings.warm_prefixes


def settled(settings: PeerSettings, pods: int) -> Snapshot:
    """The pool at which a node with `pods` pods comes to rest, from an empty primary ENI on.

    Example: m5.large, WARM_ENI_TARGET 1, no pods -> one ENI with 9 addresses.
    """
    pool = _pool(settings, [0], pods)
    while is_too_low(settings, pool):
        step = growth(settings, pool)
        items = [e.items for e in pool.enis]
        match step:
            case None:
                break
            case Assign(eni_id=eni_id):
                items[int(eni_id)] += step.items
            case Create():
                items.append(step.items)
        pool = _pool(settings, items, pods)
    return pool


def _pool(settings: PeerSettings, items: list[int], pods: int) -> Snapshot:
    """ENIs with so many items each, as many pods on them as fit, the first filled first."""
    enis, left = [], pods
    for number, count in enumerate(items):
        assigned = min(left, count * settings.unit)
        left -= assigned
        enis.append(
            EniCounts(
                eni_id=str(number),
                items=count,
                assigned=assigned,
                free_items=count - ceil(assigned / settings.unit),
                is_primary=number == 0,
            )
        )
    return Snapshot(total=sum(items) * settings.unit, assigned=pods - left, enis=tuple(enis))
