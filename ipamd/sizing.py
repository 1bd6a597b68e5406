"""How many pods a node can carry: one calculation for the daemon, `ipamctl max-pods` and the docs.

Pure. An answer is a list of steps whose running total is the number, so that what is explained and
what is answered cannot differ. Example: m5.large has 3 ENIs of 10 addresses, one of them the ENI's
own: 3 x 9 + 2 = 29; with prefixes and custom networking (3 - 1) x 9 x 16 + 2 = 290.

Sources: EC2 user guide, "Maximum IP addresses per network interface" and "Prefix delegation"; EKS
best practices, "Prefix mode for Linux"; max-pods-calculator.sh of amazon-eks-ami (gone since March
2026), whose flags and numbers are kept where they are right.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from ipamd.errors import IpamError

HOST_NETWORK_PODS = 2
"""Pods of every node that use the node's own address: kube-proxy and the network agent."""

PREFIX_ADDRESSES = 16
"""A /28 takes one slot of an ENI (EC2 user guide, "Prefix delegation")."""

PREFIX_V6_ADDRESSES = 2**48
"""A /80, of which an IPv6 node has one, on its primary ENI."""

AZURE_PODS_MOST = 250
"""What AKS takes as max pods at most, in any mode; a NIC has 255 addresses for them."""

CAP_PODS, CAP_PODS_LARGE, CAP_LARGE_ABOVE_VCPUS = 110, 250, 30
"""The recommended cap: 110 is Kubernetes' own bound for a node; 250 above 30 vCPUs is EKS's."""


class CannotSize(IpamError):
    """What was asked for excludes itself, or the instance type has no such mode."""


class Mode(enum.Enum):
    """Where pod addresses come from."""

    SECONDARY = "secondary"
    PREFIXES = "prefixes"
    IPV6 = "ipv6"


class EniLimits(Protocol):
    """What the calculation reads. `ipamd.cloud.NodeLimits` is one, `InstanceType` another."""

    @property
    def max_enis(self) -> int:
        """ENIs on the default card."""

    @property
    def addresses_per_eni(self) -> int:
        """IPv4 addresses of an ENI, its own included."""

    @property
    def has_prefixes(self) -> bool:
        """Nitro or bare metal."""

    @property
    def default_card(self) -> int:
        """The card of the primary ENI."""

    @property
    def card_enis(self) -> tuple[int, ...]:
        """ENIs by card index."""

    def enis_of_card(self, network_card: int) -> int:
        """ENIs of one card."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceType:
    """One EC2 instance type: the fields of DescribeInstanceTypes that bound pods.

    `hypervisor` is nitro or xen; EC2 gives none for bare metal, which is Nitro hardware too.
    """

    name: str
    vcpus: int
    hypervisor: str
    is_bare_metal: bool
    default_card: int
    card_enis: tuple[int, ...]
    addresses_per_eni: int
    addresses_v6_per_eni: int

    def __post_init__(self) -> None:
        if not 0 <= self.default_card < len(self.card_enis):
            raise ValueError(f"{self.name} has no network card {self.default_card}")
        if min(self.vcpus, self.max_enis, self.addresses_per_eni) < 1:
            raise ValueError(f"{self.name} cannot have {self}")

    @property
    def max_enis(self) -> int:
        """ENIs on the default network card."""
        return self.card_enis[self.default_card]

    @property
    def has_prefixes(self) -> bool:
        """Prefixes exist on Nitro, which bare metal is (EC2 user guide, "Prefix delegation")."""
        return self.hypervisor == "nitro" or self.is_bare_metal

    @property
    def has_trunk(self) -> bool:
        """Whether security groups for pods can work: Nitro, but no T family (EKS user guide).

        EC2's answers do not say it, so this is the guide's rule and not a fact per type.
        """
        family = self.name.partition(".")[0]
        is_burstable = family[0] == "t" and family[1:2].isdigit()
        return self.has_prefixes and not is_burstable

    def enis_of_card(self, network_card: int) -> int:
        """ENIs of one card; 0 for a card that the type does not have."""
        return self.card_enis[network_card] if network_card < len(self.card_enis) else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PodNetwork:
    """How the node is set up. The fields are aws-node's settings under our names.

    `max_enis` is MAX_ENI, on each card, 0 for the type's limit; `reserved_enis` are slots of the
    default card that others hold (unmanaged or EFA-only ENIs); `all_cards` is ENABLE_MULTI_NIC.
    """

    prefixes: bool = False
    custom_networking: bool = False
    pod_eni: bool = False
    ipv6: bool = False
    all_cards: bool = False
    max_enis: int = 0
    reserved_enis: int = 0

    def __post_init__(self) -> None:
        if self.ipv6 and self.custom_networking:
            raise CannotSize(
                "IPv6 and custom networking exclude each other: IPv6 pods get their addresses from "
                "a prefix on the primary ENI, which custom networking keeps free of pods"
            )
        if self.max_enis < 0 or self.reserved_enis < 0:
            raise CannotSize("a number of ENIs cannot be below 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One line of the calculation: `sign` says what `value` does to the running total.

    Signs: "" starts, "+", "-" and "x" calculate, "min" and "max" bound, "=" only states the total.
    """

    sign: str
    value: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizing:
    """The answer. `pods` is for kubelet's maxPods; `pod_addresses` is what the pool may grow to.

    `enis` are those that carry pods. `notes` are sentences on what was asked for and not counted.
    """

    mode: Mode
    pods: int
    pod_addresses: int
    enis: int
    steps: tuple[Step, ...]
    notes: tuple[str, ...] = ()


def max_pods(
    limits: EniLimits, network: PodNetwork, *, vcpus: int = 0, is_capped: bool = False
) -> Sizing:
    """The size of a node. `vcpus` (0: not known) matter to the cap and to IPv6 only.

    Raises CannotSize for IPv6 without prefixes. IPv4 prefixes on a type that has none are counted
    as single addresses, with a note, because that is how the daemon would run there.
    """
    if network.ipv6:
        return _size_ipv6(limits, vcpus)
    uses_prefixes = network.prefixes and limits.has_prefixes
    steps = _pod_enis(limits, network)
    enis = total(steps)
    steps += [_state(steps, "ENIs for pods"), *_per_eni(limits, uses_prefixes=uses_prefixes)]
    pod_addresses = total(steps)
    steps += [
        _state(steps, "addresses for pods"),
        Step(sign="+", value=HOST_NETWORK_PODS, text="pods with the node's own address"),
        *([_cap(vcpus)] if is_capped else []),
    ]
    return Sizing(
        mode=Mode.PREFIXES if uses_prefixes else Mode.SECONDARY,
        pods=total(steps),
        pod_addresses=pod_addresses,
        enis=enis,
        steps=(*steps, _state(steps, "pods")),
        notes=_notes(network, enis, uses_prefixes=uses_prefixes),
    )


def recommended_cap(vcpus: int) -> int:
    """110, or 250 above 30 vCPUs. An unknown count (0) gets the smaller. 32 vCPUs: 250."""
    return CAP_PODS_LARGE if vcpus > CAP_LARGE_ABOVE_VCPUS else CAP_PODS


def total(steps: Sequence[Step]) -> int:
    """The running total after all steps: 3, x 9, + 2 -> 29."""
    result = 0
    for step in steps:
        match step.sign:
            case "":
                result = step.value
            case "+":
                result += step.value
            case "-":
                result -= step.value
            case "x":
                result *= step.value
            case "min":
                result = min(result, step.value)
            case "max":
                result = max(result, step.value)
    return result


def _pod_enis(limits: EniLimits, network: PodNetwork) -> list[Step]:
    """Own card first: what is taken there must not eat into the others."""
    card = limits.default_card
    steps = [
        Step(
            sign="",
            value=_allowed(limits.max_enis, network),
            text=f"ENIs on network card {card}, the default{_lowered(network)}",
        )
    ]
    if network.custom_networking:
        steps.append(Step(sign="-", value=1, text="the primary ENI (custom networking)"))
    if network.pod_eni:
        steps.append(Step(sign="-", value=1, text="the trunk ENI (security groups for pods)"))
    if network.reserved_enis:
        steps.append(Step(sign="-", value=network.reserved_enis, text="ENIs of others"))
    if total(steps) < 0:
        steps.append(Step(sign="max", value=0, text="more was taken than is there"))
    if network.all_cards and (others := _other_cards(limits)):
        enis = sum(_allowed(limits.enis_of_card(c), network) for c in others)
        text = f"ENIs on the {len(others)} other network cards{_lowered(network)}"
        steps.append(Step(sign="+", value=enis, text=text))
    return steps


def _other_cards(limits: EniLimits) -> list[int]:
    return [c for c in range(len(limits.card_enis)) if c != limits.default_card]


def _allowed(enis: int, network: PodNetwork) -> int:
    return min(enis, network.max_enis) if network.max_enis else enis


def _lowered(network: PodNetwork) -> str:
    return f" (at most {network.max_enis}: MAX_ENI)" if network.max_enis else ""


def _per_eni(limits: EniLimits, *, uses_prefixes: bool) -> list[Step]:
    slots = limits.addresses_per_eni - 1
    text = f"slots of an ENI: {limits.addresses_per_eni} addresses less its own"
    steps = [Step(sign="x", value=slots, text=text)]
    if uses_prefixes:
        steps.append(Step(sign="x", value=PREFIX_ADDRESSES, text="addresses of a /28 in a slot"))
    return steps


def _size_ipv6(limits: EniLimits, vcpus: int) -> Sizing:
    """Addresses bound nothing, so what is recommended for the vCPUs is the only number there is."""
    if not limits.has_prefixes:
        raise CannotSize(
            "IPv6 pods need a /80 prefix, which EC2 gives to Nitro and bare-metal instances only"
        )
    steps = [
        Step(sign="", value=PREFIX_V6_ADDRESSES, text="addresses of the /80 on the primary ENI"),
        Step(sign="+", value=HOST_NETWORK_PODS, text="pods with the node's own address"),
        _cap(vcpus),
    ]
    return Sizing(
        mode=Mode.IPV6,
        pods=total(steps),
        pod_addresses=PREFIX_V6_ADDRESSES,
        enis=1,
        steps=(*steps, _state(steps, "pods")),
        notes=("addresses bound nothing here: the number is what is recommended for the vCPUs",),
    )


def _cap(vcpus: int) -> Step:
    known = f"for {vcpus} vCPUs" if vcpus else "for an unknown number of vCPUs"
    return Step(sign="min", value=recommended_cap(vcpus), text=f"pods recommended {known}")


def _state(steps: Sequence[Step], text: str) -> Step:
    return Step(sign="=", value=total(steps), text=text)


def _notes(network: PodNetwork, enis: int, *, uses_prefixes: bool) -> tuple[str, ...]:
    notes = []
    if network.prefixes and not uses_prefixes:
        notes.append("prefixes need Nitro or bare metal: single addresses are counted")
    if enis == 0:
        notes.append("no ENI is left for pods: only pods with the node's own address can run")
    return tuple(notes)
