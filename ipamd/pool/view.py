"""What a plan depends on, and what it is made of: frozen values, no decisions.

A `View` is the pool of one network card at one moment. Durations are seconds before or after the
moment of planning.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ipamd.model import EniId, IPAddress, IPNetwork, SubnetId
from ipamd.pool.ahead import INSTANT, Writes
from ipamd.pool.targets import Counts, Targets


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixView:
    """One IPv4 prefix as the planner sees it."""

    prefix: IPNetwork
    allocated: int
    available: int
    held: int  # cooling, quarantined, preparing
    idle_seconds: float  # since the last of its addresses was in use

    @property
    def is_idle(self) -> bool:
        """Whether nothing stands against giving it back: no pod, nothing that cools."""
        return self.allocated == self.held == 0


@dataclass(frozen=True, slots=True, kw_only=True)
class EniView:
    """One attached ENI as the planner sees it. `allocated`, `idle` and `held` are single addresses;
    what prefixes hold is in `prefixes`."""

    eni_id: EniId
    subnet_id: SubnetId
    device_index: int
    is_primary: bool
    is_managed: bool
    is_busy: bool  # a cloud call for it is in flight, or somebody else is changing it
    allocated: int
    idle: tuple[IPAddress, ...]  # available, the longest idle first
    held: int  # cooling, quarantined, preparing
    unassigning: tuple[IPAddress, ...]  # to be given back, call not in flight
    incoming: int  # slots that a call in flight will take
    age_seconds: float
    is_excluded: bool = False  # carries no new pods
    prefixes: tuple[PrefixView, ...] = ()
    unassigning_prefixes: tuple[IPNetwork, ...] = ()
    is_stuck: bool = False  # the node does not get it ready: nothing is bought on it
    idle_seconds: float = 0.0  # since the last of its addresses was in use, or was assigned
    lacks_prefix_v6: bool = False  # pods on it need a /80, and it has none

    @property
    def takes_pods(self) -> bool:
        """Whether new pods may get its addresses."""
        return self.is_managed and not self.is_excluded

    @property
    def pods(self) -> int:
        """Addresses of pods on it, of either kind."""
        return self.allocated + sum(p.allocated for p in self.prefixes)

    @property
    def available(self) -> int:
        """Addresses that pods could get at once, of either kind."""
        return len(self.idle) + sum(p.available for p in self.prefixes)

    @property
    def idle_prefixes(self) -> tuple[PrefixView, ...]:
        """Prefixes that could go back, the longest idle first."""
        return tuple(sorted((p for p in self.prefixes if p.is_idle), key=lambda p: -p.idle_seconds))

    @property
    def is_idle(self) -> bool:
        """Whether nothing of it is in use or cools."""
        leaving = self.unassigning or self.unassigning_prefixes
        return self.allocated == self.held == 0 and not leaving and self._all_prefixes_idle()

    def _all_prefixes_idle(self) -> bool:
        return all(p.is_idle for p in self.prefixes)

    def room(self, slots_per_eni: int) -> int:
        """Slots that are free: each takes an address or a prefix."""
        singles = self.allocated + len(self.idle) + self.held + len(self.unassigning)
        prefixes = len(self.prefixes) + len(self.unassigning_prefixes)
        return max(slots_per_eni - singles - prefixes - self.incoming, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """All that a plan depends on."""

    targets: Targets
    counts: Counts
    enis: tuple[EniView, ...]
    slots_per_eni: int
    max_enis: int
    creating: tuple[int, ...]  # device indexes that creations in flight will take
    creating_room: int  # slots those ENIs will have beside what they were asked to bring
    candidate_subnets: tuple[SubnetId, ...]  # where new ENIs may be made, the best first
    exhausted_subnets: dict[SubnetId, float]  # -> seconds until the next try
    subnet_room: dict[SubnetId, int]  # at most this many, where a larger request was refused
    eni_caps: dict[EniId, int]  # at most this many at once, where EC2 saw a limit; 0: none for now
    paused_seconds: float  # the cloud throttles us: no calls before this
    growth_paused_seconds: float  # it refuses to assign or create
    creation_paused_seconds: float  # it refuses to create ENIs; those that have room grow
    shrink_paused_seconds: float  # it refuses to unassign or delete
    stray_enis: tuple[EniId, ...]
    can_create_interfaces: bool
    seconds_since_change: float  # since the pool last grew or shrank
    network_card: int = 0
    # What may be bought there ahead of demand; a subnet that is not named has plenty.
    subnet_spare: dict[SubnetId, int] = field(default_factory=dict)
    prefixless_subnets: dict[SubnetId, float] = field(default_factory=dict)  # no block of 16 free
    is_fallback: bool = False  # prefixes are wanted, no subnet has one: single addresses instead
    is_scarce: bool = False  # the subnets run low: next to nothing is kept warm
    reserved_enis: int = 0  # to be left for others: the trunk ENI of security groups for pods
    provisions: bool = True  # False: DISABLE_NETWORK_RESOURCE_PROVISIONING
    has_ipv4: bool = True  # False: pods have IPv6 only, and the IPv4 pool stays as it is
    has_ipv6: bool = False  # a new ENI brings a /80
    # What attachments that insist on an ENI lack there; `counts.waiting` is without them.
    pinned: dict[EniId, int] = field(default_factory=dict)
    writes: Writes = INSTANT
    gives_enis_back: bool = True  # False where the cloud cannot take an ENI from a running machine

    @property
    def uses_prefixes(self) -> bool:
        """Whether growth asks for prefixes now."""
        return self.targets.use_prefixes and not self.is_fallback


@dataclass(frozen=True, slots=True, kw_only=True)
class AssignAddresses:
    """Assign addresses, /28 prefixes or a /80 to an ENI that has room; one of the three per call,
    since EC2 takes no more."""

    eni_id: EniId
    subnet_id: SubnetId
    addresses: int = 0
    prefixes: int = 0
    prefixes_v6: int = 0
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateEni:
    """Create and attach an ENI with addresses or prefixes beside its primary address."""

    subnet_id: SubnetId
    device_index: int
    network_card: int
    addresses: int = 0
    prefixes: int = 0
    prefixes_v6: int = 0
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class UnassignAddresses:
    """Give idle addresses and prefixes back."""

    eni_id: EniId
    addresses: tuple[IPAddress, ...] = ()
    prefixes: tuple[IPNetwork, ...] = ()
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteEni:
    """Detach and delete an ENI on which nothing is used or cooling."""

    eni_id: EniId
    reason: str


Action = AssignAddresses | CreateEni | UnassignAddresses | DeleteEni


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to do now, and one sentence why it is that and not more."""

    actions: tuple[Action, ...]
    summary: str
