"""What the core asks of a cloud, and the values that cross the pipe to the cloud child.

Implemented by `providers.aws` (and any other cloud), called by `ipamd.cloud_child` only, judged by
the contract suite in tests/contract. Methods block; the child runs each in a thread of its own.
Every method may raise `ipamd.errors.CloudError` and nothing else. Answers are hints: whoever got a
`Transient` must assume that the call may have had its effect, and read back with `snapshot`.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Protocol

from ipamd.model import EniId, InstanceId, IPAddress, IPNetwork, SubnetId


class EniStatus(enum.Enum):
    """The attachment status of an ENI, in EC2's words; `available` is attached to nothing."""

    ATTACHING = "attaching"
    ATTACHED = "attached"
    DETACHING = "detaching"
    AVAILABLE = "available"


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What this cloud can do at run time, and how slowly.

    `write_seconds` is how long a change of addresses mostly takes until pods may use it, and
    `write_interval_seconds` how far apart changes of one node must be in the long run. 0: so short
    that nothing needs to be planned ahead for it. `resync_seconds`: a look at the cloud without
    any reason is due after a time between these two.
    """

    can_create_interfaces: bool
    has_prefixes: bool
    replaces_whole_interface: bool  # Azure, which knows a change by its token; EC2 adds and removes
    write_seconds: float = 0.0
    write_interval_seconds: float = 0.0
    resync_seconds: tuple[float, float] = (20 * 3600.0, 28 * 3600.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeIdentity:
    """Who this node is, as its metadata service says."""

    instance_id: InstanceId
    instance_type: str
    region: str
    zone: str
    vpc_id: str
    primary_eni_id: EniId
    primary_mac: str
    primary_subnet_id: SubnetId
    security_group_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeLimits:
    """What the instance type allows.

    `max_enis` is that of the default network card. `addresses_per_eni` counts the ENI's own primary
    address: m5.large has 3 ENIs of 10 addresses, of which 9 each can go to pods.
    """

    max_enis: int
    addresses_per_eni: int
    has_prefixes: bool = False  # EC2: Nitro and bare metal (EC2 guide, "Prefix delegation")
    default_card: int = 0
    card_enis: tuple[int, ...] = ()  # ENIs by card index, the default card included; empty: one

    @property
    def slots_per_eni(self) -> int:
        """Addresses (or prefixes, each takes one slot) assignable to one ENI beside its primary."""
        return self.addresses_per_eni - 1

    def enis_of_card(self, network_card: int) -> int:
        """The ENIs that one card takes; 0 for a card that the type does not have."""
        if network_card == self.default_card:
            return self.max_enis
        return self.card_enis[network_card] if network_card < len(self.card_enis) else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CloudEni:
    """One ENI as the cloud describes it.

    `addresses` are the secondary IPv4 addresses assigned one by one: neither the ENI's own primary
    address nor those inside `prefixes` (/28 for IPv4, /80 for IPv6).
    """

    eni_id: EniId
    mac: str
    status: EniStatus
    subnet_id: SubnetId
    subnet_cidr: IPv4Network
    primary_address: IPv4Address
    addresses: tuple[IPAddress, ...]
    device_index: int  # -1 while attached to nothing
    network_card: int
    is_primary: bool
    is_managed: bool  # False: somebody else's by tag; counted, never touched
    version: str = ""  # an ETag where the cloud has one
    prefixes: tuple[IPNetwork, ...] = ()
    interface_type: str = "interface"  # EC2's InterfaceType: interface, trunk, efa, efa-only ...
    subnet_cidr_v6: IPv6Network | None = None
    primary_address_v6: IPv6Address | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CloudSnapshot:
    """All ENIs attached to this node, and unattached ones that this node created."""

    enis: tuple[CloudEni, ...]
    vpc_cidrs: tuple[IPNetwork, ...]


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class EniHint:
    """One ENI as the metadata service shows it: what is assigned to it, the primary excluded."""

    eni_id: EniId
    items: tuple[str, ...]  # secondary addresses and prefixes as text, sorted


@dataclass(frozen=True, slots=True, kw_only=True)
class Hint:
    """The metadata service's picture: this node's ENIs, and the networks of its VPC."""

    enis: tuple[EniHint, ...]
    vpc_cidrs: tuple[IPNetwork, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class InterfaceRequest:
    """An ENI to create and attach. `token` makes a repeated request return the same ENI."""

    token: str
    subnet_id: SubnetId
    security_group_ids: tuple[str, ...]
    secondary_addresses: int  # asked in the create call itself, like the prefixes
    device_index: int
    network_card: int
    reason: str
    prefixes: int = 0  # /28; EC2 takes these or secondary_addresses, never both
    prefixes_v6: int = 0  # /80


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressChange:
    """Addresses and prefixes to assign to and unassign from one ENI.

    `token` names what is added, where the cloud has names for it (Azure): a repeat with the same
    token then adds nothing twice. EC2 has none.
    """

    eni_id: EniId
    add: int = 0
    add_prefixes: int = 0  # /28
    add_prefixes_v6: int = 0  # /80
    remove: tuple[IPAddress, ...] = ()
    remove_prefixes: tuple[IPNetwork, ...] = ()
    token: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressOutcome:
    """What the cloud says it did: the newly assigned addresses and prefixes only."""

    eni_id: EniId
    added: tuple[IPAddress, ...]
    added_prefixes: tuple[IPNetwork, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Subnet:
    """One subnet, with its free addresses as the cloud counts them; -1 where it does not say.

    `is_candidate`: new ENIs of this node may be made in it. `is_excluded`: pods get no addresses of
    it (aws-node: tag kubernetes.io/role/cni=0).
    """

    subnet_id: SubnetId
    cidr: IPv4Network
    free_addresses: int
    cidr_v6: IPv6Network | None = None
    is_candidate: bool = False
    is_excluded: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Orphan:
    """An ENI attached to nothing that some node of this cluster made, by its tags.

    `created_unix` is None where the ENI does not say when it was made.
    """

    eni_id: EniId
    instance_id: InstanceId
    created_unix: float | None


class CloudProvider(Protocol):
    """One cloud, seen from one node."""

    def capabilities(self) -> Capabilities:
        """Constant once `discover_node` has answered (Azure's depend on the kind of machine);
        makes no call."""

    def discover_node(self) -> NodeIdentity:
        """Who we are, from the metadata service. `Transient` while it does not answer."""

    def limits(self) -> NodeLimits:
        """The limits of this node's instance type."""

    def snapshot(self) -> CloudSnapshot:
        """Every ENI that is this node's, read from the API and not from metadata.

        May lag a change of seconds ago (EC2 is eventually consistent).
        """

    def hint(self) -> Hint:
        """What the node's metadata service shows: costs no API call, lags, and has been wrong.

        Of ENIs it is never evidence; a difference is a reason to look. `Unsupported` where there is
        none.
        """

    def apply(self, change: AddressChange) -> AddressOutcome:
        """Assign and unassign addresses on one ENI.

        Returns when pods may use what was added. `add` is not idempotent but by `token`: a repeat
        after a lost answer assigns again. `remove` is: what is already gone is no error. Raises
        `SubnetExhausted` (`NoPrefixFree` where only prefixes are short), `LimitReached`, `Busy`,
        `NotFound`.
        """

    def subnets(self, subnet_ids: tuple[SubnetId, ...]) -> tuple[Subnet, ...]:
        """The named subnets and, where discovery is on, every other candidate; in one call."""

    def create_interface(self, request: InterfaceRequest) -> CloudEni:
        """Create, attach and protect an ENI; returns once the cloud says `attached`.

        Idempotent by `token`. When attaching fails for good, the created ENI is deleted before the
        error is raised. `Unsupported` where a cloud cannot add interfaces at run time.
        """

    def delete_interface(self, eni_id: EniId) -> None:
        """Detach and delete, waiting for each; an ENI that is already gone is success."""

    def orphans(self) -> tuple[Orphan, ...]:
        """ENIs of the VPC, of any node of this cluster, that agents like this one made (by tag and
        description) and that are attached to nothing."""

    def mark_created(self, eni_id: EniId, unix: float) -> None:
        """Have an orphan without a creation time say this one, so that its age can be told."""

    def delete_orphan(self, eni_id: EniId) -> None:
        """Delete an unattached ENI; never detaches. Gone already is success; one that was attached
        meanwhile is a `CloudError`."""
