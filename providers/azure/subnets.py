"""Subnets and the VNET: their networks, and how many addresses are free."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from ipamd.cloud import Subnet
from ipamd.errors import Busy, CloudError, Denied, Throttled, Transient
from ipamd.model import IPNetwork, SubnetId
from providers.azure import shapes
from providers.azure.api import ArmApi
from providers.azure.errors import NOT_TAKEN
from providers.azure.ids import Kind, canonical
from providers.azure.imds import Imds
from providers.azure.pipeline import odd, understood
from providers.azure.purse import Api
from providers.azure.shapes import SubnetFacts

T = TypeVar("T")

FACTS_SECONDS = 3600.0
"""A subnet can be given more networks, which people do when it is full; an hour is soon enough."""

SPACE_SECONDS = 300.0
"""The address space of a VNET grows when people add to it; pods' traffic to what is new leaves with
the node's address until then."""

DENIED_SECONDS = 600.0
"""A right that is missing stays missing until a human acts, or until what a human did has spread:
a role that was assigned holds after up to ten minutes ("Troubleshoot Azure RBAC")."""


PASSING = (Busy, Throttled, Transient)
"""Refusals after which what was known before goes on to hold: a look at the NICs must not fail for
what changes once in months. It is asked for again with the next look."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Known(Generic[T]):
    """A value and since when it is known (monotonic)."""

    value: T
    since: float


def _canonical(subnet_id: str) -> str:
    try:
        return canonical(subnet_id, Kind.SUBNET)
    except ValueError as e:
        raise CloudError(str(e), operation="subnets", code="BadId", subnet_id=subnet_id) from e


class Subnets:
    """What is known of subnets; safe to call from several threads."""

    def __init__(
        self, api: ArmApi, imds: Imds, *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._api = api
        self._imds = imds
        self._monotonic = monotonic
        self._lock = threading.Lock()  # of the maps below; never held across a call
        self._facts: dict[str, _Known[SubnetFacts]] = {}
        self._spaces: dict[str, _Known[tuple[IPNetwork, ...]]] = {}
        self._denied: dict[str, float] = {}

    def seen(self, subnet_ids: tuple[SubnetId, ...]) -> tuple[Subnet, ...]:
        """The named subnets with their free counts: one call for each VNET, which is one.

        Where the VNET's usage does not count a subnet, or must not be read, the subnet's own list
        of references is the hint; the least that is known is its size. `SubnetIsFull` is the truth.
        """
        subnet_ids = tuple(SubnetId(_canonical(subnet_id)) for subnet_id in subnet_ids)
        counted: dict[SubnetId, int] = {}
        for vnet_id in dict.fromkeys(shapes.vnet_id_of(subnet_id) for subnet_id in subnet_ids):
            counted |= self._counted(vnet_id)
        return tuple(self._subnet(one, counted.get(one)) for one in dict.fromkeys(subnet_ids))

    def _subnet(self, subnet_id: SubnetId, free: int | None) -> Subnet:
        facts = self.facts(subnet_id) if free is not None else self._counting(subnet_id)
        free = free if free is not None else max(facts.sizes - (facts.references or 0), 0)
        return Subnet(subnet_id=subnet_id, cidr=facts.cidrs[0], free_addresses=free)

    def _counted(self, vnet_id: str) -> dict[SubnetId, int]:
        asked = self._unless_denied(f"usages of {vnet_id}", lambda: self._api.usages(vnet_id))
        return understood(Api.USAGES, shapes.free_by_subnet, asked or ())

    def _counting(self, subnet_id: SubnetId) -> SubnetFacts:
        """The subnet as it is now; its networks alone where it must not be read."""
        return self._unless_denied(subnet_id, lambda: self._look(subnet_id)) or self.facts(
            subnet_id
        )

    def facts(self, subnet_id: SubnetId, *, mac: str = "") -> SubnetFacts:
        """One subnet's networks: from memory, by looking, or, where the rights for that are
        missing, from the metadata service's picture of the interface with `mac`. Raises Denied
        where that is of no help either."""
        with self._lock:
            known = self._facts.get(subnet_id)
        if known is not None and self._monotonic() - known.since < FACTS_SECONDS:
            return known.value
        try:
            facts = self._unless_denied(subnet_id, lambda: self._look(subnet_id))
        except PASSING:
            if known is None:
                raise
            return known.value
        if facts is None:
            facts = known.value if known is not None else self._hinted(subnet_id, mac)
            self._learn(facts)
        return facts

    def _look(self, subnet_id: SubnetId) -> SubnetFacts:
        facts = understood(Api.SUBNET_GET, shapes.subnet_facts, self._api.subnet(subnet_id).body)
        if facts.subnet_id != subnet_id:
            raise odd(Api.SUBNET_GET, f"asked for {subnet_id}", facts.subnet_id)
        if not facts.cidrs:
            raise Transient(f"{subnet_id} has no IPv4 network", operation=Api.SUBNET_GET.value)
        self._learn(facts)
        return facts

    def _learn(self, facts: SubnetFacts) -> None:
        with self._lock:
            self._facts[facts.subnet_id] = _Known(value=facts, since=self._monotonic())

    def _hinted(self, subnet_id: SubnetId, mac: str) -> SubnetFacts:
        shown = next((one for one in self._imds.interfaces() if one.mac == mac), None)
        if shown is None or not shown.subnets:
            raise Denied(
                f"the identity may not read {subnet_id} (Microsoft.Network/virtualNetworks/subnets/"
                "read), and the metadata service does not show its network",
                operation=Api.SUBNET_GET.value,
                code="AuthorizationFailed",
                subnet_id=subnet_id,
            )
        return SubnetFacts(subnet_id=subnet_id, cidrs=shown.subnets)

    def space(self, vnet_id: str) -> tuple[IPNetwork, ...]:
        """The VNET's IPv4 address space, empty where the right to read it is missing; from memory
        for some minutes."""
        with self._lock:
            stored = self._spaces.get(vnet_id)
        known = stored.value if stored is not None else ()
        if stored is not None and self._monotonic() - stored.since < SPACE_SECONDS:
            return known
        try:
            answered = self._unless_denied(vnet_id, lambda: self._api.vnet(vnet_id).body)
        except PASSING:
            if stored is None:
                raise
            return known
        if answered is None:
            return known
        space = understood(Api.VNET_GET, shapes.vnet_cidrs, answered)
        with self._lock:
            self._spaces[vnet_id] = _Known(value=space, since=self._monotonic())
        return space

    def known_space(self, vnet_id: str) -> tuple[IPNetwork, ...]:
        """The same without any call, of whatever age."""
        with self._lock:
            stored = self._spaces.get(vnet_id)
        return stored.value if stored is not None else ()

    def _unless_denied(self, what: str, ask: Callable[[], T]) -> T | None:
        """The answer, or None where the rights for it are missing; then not asked for a while."""
        with self._lock:
            denied = self._denied.get(what)
        if denied is not None and self._monotonic() - denied < DENIED_SECONDS:
            return None
        try:
            return ask()
        except Denied as e:
            if e.code.lower() in NOT_TAKEN:
                raise  # not a right of this one call
            with self._lock:
                self._denied[what] = self._monotonic()
            return None
