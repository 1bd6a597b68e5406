"""ARM's NICs, subnets and VNETs as the core's values (pure).

A body that is not as Azure's API specifications say raises what `pipeline.understood` makes the
provider's error of.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from ipamd.cloud import CloudEni, EniHint, EniStatus
from ipamd.errors import NotFound
from ipamd.model import EniId, IPNetwork, SubnetId
from providers.azure.bodies import nics_of
from providers.azure.configs import BLOCK_LENGTH, FAILED, Body, Config, configs_of, is_block, key_of
from providers.azure.ids import ArmId, Kind, arm_id, canonical
from providers.azure.imds import ShownInterface, mac_of
from providers.azure.names import is_ours

RESERVED = 5
"""Addresses of a subnet that Azure keeps: network, gateway, two for DNS, broadcast."""

NO_MANAGE_TAG = "ipamd-no-manage"
"""A NIC with this tag, of whatever value but "false", is counted and never touched. The "/" in
aws-node's tag for the same is not allowed in the name of an Azure tag."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SubnetFacts:
    """One subnet; `cidrs` are its IPv4 networks, `references` how many ipConfigurations it lists,
    None where it lists none: then they are hidden, or there are none."""

    subnet_id: SubnetId
    cidrs: tuple[IPv4Network, ...]
    references: int | None = None

    @property
    def sizes(self) -> int:
        """All addresses that could be assigned in an empty subnet."""
        return sum(max(cidr.num_addresses - RESERVED, 0) for cidr in self.cidrs)

    def cidr_of(self, address: IPv4Address) -> IPv4Network:
        """The network of the subnet that an address is in; ValueError where it is in none."""
        found = next((cidr for cidr in self.cidrs if address in cidr), None)
        if found is None:
            raise ValueError(f"{address} is not in {self.subnet_id}: {self.cidrs}")
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class NicShape:
    """One NIC as read. `foreign` are addresses of configurations that are not ours to give to pods,
    the primary one's included; `others` how many configurations others have beside the primary."""

    eni_id: EniId
    mac: str
    subnet_id: SubnetId
    primary_address: IPv4Address
    addresses: tuple[IPv4Address, ...]
    blocks: tuple[IPv4Network, ...]
    foreign: frozenset[IPv4Address | IPv4Network]
    others: int
    version: str
    is_managed: bool

    def eni(self, facts: SubnetFacts, *, device_index: int) -> CloudEni:
        """As the core sees it."""
        return CloudEni(
            eni_id=self.eni_id,
            mac=self.mac,
            status=EniStatus.ATTACHED,
            subnet_id=self.subnet_id,
            subnet_cidr=facts.cidr_of(self.primary_address),
            primary_address=self.primary_address,
            addresses=self.addresses,
            device_index=device_index,
            network_card=0,
            is_primary=device_index == 0,
            is_managed=self.is_managed,
            version=self.version,
            prefixes=self.blocks,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What is known of one NIC beside what ARM shows, by names in lower case.

    `hidden`: nobody may be told of these (`writer.Writer.hidden`). `adding`: what a write that is
    under way adds. `known`: addresses and blocks that were usable before; None: no look has been
    before this one.
    """

    hidden: frozenset[str] = frozenset()
    adding: frozenset[str] = frozenset()
    known: Container[object] | None = None

    def joined(self, later: Told) -> Told:
        """What holds for a look between the two."""
        return Told(
            hidden=self.hidden | later.hidden,
            adding=self.adding | later.adding,
            known=later.known,
        )

    def counts(self, config: Config, primary: Config) -> bool:
        """Whether a configuration of ours is pods'. One that is still being made is not. One that
        was usable before is, whatever its state: while a NIC is changed, or when that has failed,
        ARM may say so of all its configurations, and what they carry stays theirs. Where nothing is
        known of before, as after a boot, one that failed by itself was never made."""
        if config.carries is None or config.key in self.hidden:
            return False
        if config.is_usable:
            return True
        if config.key in self.adding:
            return False
        if self.known is None:
            return config.state != FAILED or primary.state == FAILED
        return config.carries in self.known


NOTHING_TOLD = Told()


def nic(
    raw: Body,
    *,
    blocks: Container[str] = frozenset(),
    told: Told = NOTHING_TOLD,
    etag: str = "",
) -> NicShape:
    """A NIC of a VM, or the view of an instance's; `blocks` are the names, in lower case, that the
    instance's model says are blocks.
    """
    properties = raw["properties"]
    configs = configs_of(raw, blocks=blocks)
    pods = {c.key for c in configs if c.is_pods and c.key not in told.hidden}
    primary = _primary(raw, configs)
    if not isinstance(primary.carries, IPv4Address):
        raise ValueError(f"the primary ipConfiguration {primary.name!r} has no IPv4 address")
    ours = [c for c in configs if c.key in pods and told.counts(c, primary) and _has_known_size(c)]
    return NicShape(
        eni_id=_eni_id(raw),
        mac=mac_of(properties["macAddress"]),
        subnet_id=SubnetId(canonical(_subnet_of(properties), Kind.SUBNET)),
        primary_address=primary.carries,
        addresses=tuple(c.carries for c in ours if isinstance(c.carries, IPv4Address)),
        blocks=tuple(c.carries for c in ours if isinstance(c.carries, IPv4Network)),
        foreign=frozenset(
            c.carries
            for c in configs
            if c.key not in pods and isinstance(c.carries, IPv4Address | IPv4Network)
        ),
        others=sum(not c.is_primary and not is_ours(c.name) for c in configs),
        version=etag or str(raw.get("etag") or ""),
        is_managed=_is_managed(raw.get("tags") or {}),
    )


def _primary(raw: Body, configs: tuple[Config, ...]) -> Config:
    """The NIC's own. A guess among several could make a pod's address the node's."""
    listed = raw["properties"].get("ipConfigurations") or []
    said = sum(config["properties"].get("primary") is True for config in listed)
    if said != 1 and len(configs) != 1:
        raise ValueError(f"{said} of {len(configs)} ipConfigurations are the primary one")
    return configs[0]


def _eni_id(raw: Body) -> EniId:
    return EniId(canonical(raw["id"], Kind.NIC, Kind.INSTANCE_NIC))


def _has_known_size(config: Config) -> bool:
    """Whether it is one address or a /28, the only length that Azure has at present."""
    return not isinstance(config.carries, IPv4Network) or config.carries.prefixlen == BLOCK_LENGTH


def _subnet_of(properties: Body) -> object:
    """All configurations of a NIC are in one subnet."""
    subnets = (config["properties"].get("subnet") for config in properties["ipConfigurations"])
    found = next((subnet for subnet in subnets if subnet), None)
    if found is None:
        raise ValueError("no ipConfiguration is in a subnet")
    return found["id"]


def _is_managed(tags: Mapping[str, object]) -> bool:
    value = next((v for k, v in tags.items() if k.lower() == NO_MANAGE_TAG), "false")
    return str(value).lower() == "false"


def blocks_by_nic(instance: Body) -> Mapping[str, frozenset[str]]:
    """The names of configurations that are blocks by the name of their NIC, all in lower case, as
    an instance's model says."""
    return {
        nic: frozenset(key_of(config) for config in configs if is_block(config))
        for nic, configs in _modelled(instance).items()
    }


def configs_by_nic(instance: Body) -> Mapping[str, frozenset[str]]:
    """The names of all configurations in an instance's model, like `blocks_by_nic`."""
    return {nic: frozenset(map(key_of, configs)) for nic, configs in _modelled(instance).items()}


def _modelled(instance: Body) -> Mapping[str, list[Body]]:
    return {
        key_of(one): one["properties"].get("ipConfigurations") or [] for one in nics_of(instance)
    }


def joined(
    views: Iterable[Body],
    instance: Body,
    *,
    told: Callable[[EniId], Told] = lambda _: NOTHING_TOLD,
) -> tuple[NicShape, ...]:
    """The NICs of an instance as views, with what their names mean in its model; `told` by NIC.

    A configuration of ours that the model no longer has is being removed, and left out: what it was
    cannot be told, and it is no pod's any more.
    """
    blocks, modelled = blocks_by_nic(instance), configs_by_nic(instance)
    return tuple(
        nic(
            _only(view, modelled.get(key_of(view), frozenset())),
            blocks=blocks.get(key_of(view), frozenset()),
            told=told(_eni_id(view)),
        )
        for view in views
    )


def _only(view: Body, names: Container[str]) -> Body:
    properties = view["properties"]
    kept = [
        config
        for config in properties["ipConfigurations"]
        if key_of(config) in names or not is_ours(key_of(config))
    ]
    return {**view, "properties": {**properties, "ipConfigurations": kept}}


def nic_ids(machine: Body) -> tuple[EniId, ...]:
    """The NICs that a VM or an instance names, once each, the primary one first, then in order."""
    listed = (machine["properties"].get("networkProfile") or {}).get("networkInterfaces") or []
    ordered = sorted(listed, key=lambda one: not _says_primary(one))
    ids = (EniId(canonical(one["id"], Kind.NIC, Kind.INSTANCE_NIC)) for one in ordered)
    return tuple(dict.fromkeys(ids))


def _says_primary(reference: Body) -> bool:
    return bool((reference.get("properties") or {}).get("primary"))


def in_order(views: Iterable[Body], instance: ArmId, listed: tuple[EniId, ...]) -> list[Body]:
    """The views of an instance's NICs in the order of `listed`; what is not in it comes after
    them, the primary one first, then by name.

    A NIC's place is its device index, which must not change with the order of an answer. ValueError
    where one is twice or of another machine; NotFound where one of `listed` is not shown.
    """
    views = list(views)
    by_id = {_eni_id(view): view for view in views}
    ids = [arm_id(eni_id) for eni_id in by_id]
    if any(one.kind is not Kind.INSTANCE_NIC or one.parent != instance for one in ids):
        raise ValueError(f"a NIC is not of {instance.text}: {', '.join(by_id)}")
    if len(by_id) != len(views):
        raise ValueError(f"a NIC is shown twice: {', '.join(by_id)}")
    if hidden := set(listed) - set(by_id):
        raise NotFound(f"ARM does not show {', '.join(sorted(hidden))}", code="NicNotShown")
    more = (eni_id for eni_id in by_id if eni_id not in listed)
    rest = sorted(more, key=lambda eni_id: (not by_id[eni_id]["properties"].get("primary"), eni_id))
    return [by_id[eni_id] for eni_id in (*listed, *rest)]


def primary_first(views: Iterable[Body]) -> list[Body]:
    """The primary NIC before all others, which stay in order. An instance names its NICs without
    saying which it is (Azure CLI's recording test_vmss_nics); the views say it."""
    return sorted(views, key=lambda raw: raw["properties"].get("primary") is not True)


def machine_of(nic: Body) -> ArmId | None:
    """The machine that a NIC says it is on; None where it does not say."""
    machine = nic["properties"].get("virtualMachine")
    return arm_id(machine["id"], Kind.VM, Kind.INSTANCE) if machine else None


def subnet_facts(raw: Body) -> SubnetFacts:
    """One subnet. Either `addressPrefix` or `addressPrefixes` may be there; IPv6 is left out."""
    properties = raw["properties"]
    texts = properties.get("addressPrefixes") or [properties["addressPrefix"]]
    listed = properties.get("ipConfigurations")
    return SubnetFacts(
        subnet_id=SubnetId(canonical(raw["id"], Kind.SUBNET)),
        cidrs=_v4(texts),
        references=len(listed) if isinstance(listed, list) else None,
    )


def _v4(texts: Iterable[str]) -> tuple[IPv4Network, ...]:
    return tuple(IPv4Network(text) for text in texts if ":" not in text)


def vnet_cidrs(raw: Body) -> tuple[IPNetwork, ...]:
    """The IPv4 address space of a VNET, in its order."""
    return _v4(raw["properties"]["addressSpace"]["addressPrefixes"])


def free_by_subnet(usages: Iterable[Body]) -> dict[SubnetId, int]:
    """Free addresses of the subnets that are counted: `limit`, which leaves the reserved ones out,
    less `currentValue`. Numbers come as floats; -1 means not counted, and such are left out.

    What a block counts, 1 or 16, no document says: the subnet is full when ARM says so.
    """
    found = {}
    for one in usages:
        limit, used = float(one["limit"]), float(one["currentValue"])
        if limit >= 0 and used >= 0 and (subnet_id := _subnet_id(one.get("id"))):
            found[subnet_id] = max(int(limit - used), 0)
    return found


def _subnet_id(text: object) -> SubnetId | None:
    try:
        return SubnetId(canonical(text, Kind.SUBNET))
    except ValueError:
        return None


def vnet_id_of(subnet_id: str) -> str:
    """The VNET that a subnet is in."""
    return arm_id(subnet_id, Kind.SUBNET).parent.text


def hinted(shown: Iterable[ShownInterface], known: Iterable[NicShape]) -> tuple[EniHint, ...]:
    """What IMDS shows, in terms of the last look at ARM, so that only news is different.

    Addresses of other people's configurations are left out, and so is what lies in a known block:
    IMDS may list a block, its addresses, or nothing of it. An interface that no look has shown is
    named by its MAC.
    """
    by_mac = {nic.mac: nic for nic in known}
    return tuple(sorted(_hint(one, by_mac.get(one.mac)) for one in shown))


def _hint(shown: ShownInterface, known: NicShape | None) -> EniHint:
    if known is None:
        return EniHint(eni_id=EniId(f"mac/{shown.mac}"), items=())
    news = {
        str(item)
        for item in shown.items
        if item not in known.foreign and not any(_is_in(item, block) for block in known.blocks)
    }
    return EniHint(
        eni_id=known.eni_id, items=tuple(sorted(news | {str(block) for block in known.blocks}))
    )


def _is_in(item: IPv4Address | IPv4Network, block: IPv4Network) -> bool:
    return item in block if isinstance(item, IPv4Address) else item.subnet_of(block)
