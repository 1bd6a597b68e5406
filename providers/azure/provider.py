"""Azure behind `ipamd.cloud.CloudProvider`: one node's view, put together from its parts.

`node` finds out who we are, `api` is the door to ARM, `shapes` reads answers, `subnets` knows what
is free, `writer` changes NICs.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import Any, NoReturn

from ipamd.api_calls import ApiCall
from ipamd.cloud import (
    AddressChange,
    AddressOutcome,
    Capabilities,
    CloudEni,
    CloudSnapshot,
    Hint,
    InterfaceRequest,
    NodeIdentity,
    NodeLimits,
    Orphan,
    Subnet,
)
from ipamd.errors import NotFound, Transient, Unsupported
from ipamd.model import EniId, SubnetId
from providers.azure import node, shapes
from providers.azure.api import ArmApi
from providers.azure.bodies import MAX_CONFIGS
from providers.azure.config import AzureConfig
from providers.azure.credentials import RenewableCredential, default_credential
from providers.azure.imds import Imds
from providers.azure.journal import Journal, Note, silent
from providers.azure.node import MachineKind, Node
from providers.azure.pipeline import Pipeline, understood
from providers.azure.purse import Api, Purse
from providers.azure.settle import Clock
from providers.azure.shapes import NOTHING_TOLD, NicShape, Told
from providers.azure.subnets import Subnets
from providers.azure.writer import Writer
from providers.shared_reads import FRESH_SECONDS, SharedReads

WRITE_SECONDS = {MachineKind.VM: 5.0, MachineKind.SCALE_SET: 60.0}
"""How long a change mostly takes. A NIC: 5 s in Azure CLI's recordings of real traffic. An update
of an instance: tens of seconds to minutes by users' reports; Microsoft gives no figure."""

WRITE_INTERVAL_SECONDS = {MachineKind.VM: 0.0, MachineKind.SCALE_SET: 15.0}
"""Updates of an instance: 4 a minute ("Troubleshooting API throttling errors"). A NIC's are counted
by subscription alone, where the purse keeps to a share."""

NO_NEW_NICS = (
    "Azure attaches a NIC to a machine that is stopped (deallocated) only: stop it, add a NIC that "
    "exists (az vm nic add) or put one more into the scale set's model, and start it again; "
    "a NIC that the machine has is used"
)


class AzureProvider:
    """One node's view of Azure. Thread-safe.

    `tell` gets each API call, `note` what nobody waits for, for the log.
    `credential` is any of azure-identity's, for tests; the clock, the pauses and the chance are
    injected for a virtual time. `transport` is azure-core's.
    """

    def __init__(
        self,
        config: AzureConfig,
        *,
        tell: Callable[[ApiCall], None] | None = None,
        note: Note = silent,
        credential: Any = None,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        chance: Callable[[], float] = random.random,
        transport: Any = None,
        imds: Imds | None = None,
    ) -> None:
        self._config = config
        self._found: Node | None = None
        self._node_lock = threading.Lock()
        self._look: tuple[NicShape, ...] = ()
        self._known: set[object] = set()  # whatever was once usable; bounded by the VNET
        self._reads = SharedReads(monotonic)
        self._imds = imds or Imds(config.metadata_endpoint, sleep=sleep)
        self._api = ArmApi(
            Pipeline(
                arm_endpoint=config.arm_endpoint,
                credential=RenewableCredential(
                    lambda: credential or default_credential(config.client_id)
                ),
                purse=Purse(monotonic=monotonic, sleep=sleep, chance=chance),
                tell=tell or _nobody,
                timeout_seconds=config.api_timeout_seconds,
                monotonic=monotonic,
                transport=transport,
            ),
            scale_set_nic_api_version=config.scale_set_nic_api_version,
        )
        self._subnets = Subnets(self._api, self._imds, monotonic=monotonic)
        self._journal = Journal(config.journal_path, note=note)
        self._writer = Writer(
            self._api,
            self._journal,
            clock=Clock(monotonic=monotonic, sleep=sleep, chance=chance),
            note=note,
        )
        self._kind = MachineKind.VM

    def close(self) -> None:
        """Close the connections; the child ends without it, tests do not."""
        self._api.close()
        self._imds.close()

    def capabilities(self) -> Capabilities:
        """A NIC is written as a whole, slowly; before discovery, as if the machine were a VM."""
        kind, config = self._kind, self._config
        return Capabilities(
            can_create_interfaces=False,
            has_prefixes=True,
            replaces_whole_interface=True,
            write_seconds=config.write_seconds or WRITE_SECONDS[kind],
            write_interval_seconds=config.write_interval_seconds or WRITE_INTERVAL_SECONDS[kind],
            resync_seconds=(config.resync_seconds * 2 / 3, config.resync_seconds * 4 / 3),
        )

    def discover_node(self) -> NodeIdentity:
        """Who we are, from the metadata service and ARM; see `node.discover`."""
        with self._node_lock:
            return self._discovered().identity

    def limits(self) -> NodeLimits:
        """The NICs that are there, since none can be added, and 256 configurations on each: the
        same for all sizes of machines ("Azure networking limits"). A block counts as one. What
        others hold is theirs; where a NIC has less room than the rest, `apply` says so."""
        found = self._node()
        return NodeLimits(
            max_enis=len(found.nic_ids),
            addresses_per_eni=max(MAX_CONFIGS - found.others, 1),
            has_prefixes=True,
        )

    def snapshot(self) -> CloudSnapshot:
        """All NICs of the machine: each one's GET on a VM, two calls on a scale set."""
        return self._reads.read("snapshot", self._looked)

    def _looked(self) -> CloudSnapshot:
        found = self._node()
        self._writer.resume()
        try:
            nics = self._nics(found)
        except NotFound:
            self._found = None  # the machine has other NICs than we thought: ask again
            raise
        enis = tuple(self._eni(nic, index) for index, nic in enumerate(nics))
        for nic in nics:
            self._known.update(nic.addresses, nic.blocks)
        self._look = nics
        return CloudSnapshot(enis=enis, vpc_cidrs=self._subnets.space(found.identity.vpc_id))

    def _nics(self, found: Node) -> tuple[NicShape, ...]:
        if found.kind is MachineKind.VM:
            return tuple(self._nic(found, nic_id) for nic_id in found.nic_ids)
        before = {nic_id: self._told(nic_id) for nic_id in found.nic_ids}
        # The views before the model: what the model does not have any more is on its way out.
        views = node.views_in_order(found.resource, self._api, found.nic_ids)
        model = self._api.instance(found.resource.text).body

        def told(nic_id: EniId) -> Told:
            return before.get(nic_id, NOTHING_TOLD).joined(self._told(nic_id))

        return understood(
            Api.INSTANCE_NICS, lambda raw: shapes.joined(raw, model, told=told), tuple(views)
        )

    def _nic(self, found: Node, nic_id: EniId) -> NicShape:
        before = self._told(nic_id)
        answered = node.nic_of(found.resource, nic_id, self._api)
        told = before.joined(self._told(nic_id))
        return understood(
            Api.NIC_GET, lambda raw: shapes.nic(raw, told=told, etag=answered.etag), answered.body
        )

    def _told(self, nic_id: EniId) -> Told:
        """As it is now; taken before and after a look, since a write may begin or end meanwhile."""
        return Told(
            hidden=self._writer.hidden(nic_id),
            adding=self._journal.adding(nic_id),
            known=self._known if self._look else None,
        )

    def _eni(self, nic: NicShape, index: int) -> CloudEni:
        facts = self._subnets.facts(nic.subnet_id, mac=nic.mac)
        return understood(Api.SUBNET_GET, lambda one: nic.eni(one, device_index=index), facts)

    def hint(self) -> Hint:
        """The metadata service's picture, in terms of the last look at ARM."""
        if not self._config.has_hints:
            raise Unsupported("AZURE_METADATA_HINTS is off", operation="hint")
        known = self._look
        if not known:
            raise Transient("no look at ARM yet to compare with", operation="hint")
        return Hint(
            enis=shapes.hinted(self._imds.interfaces(), known),
            vpc_cidrs=self._subnets.known_space(shapes.vnet_id_of(known[0].subnet_id)),
        )

    def apply(self, change: AddressChange) -> AddressOutcome:
        """See `writer.Writer.apply`."""
        with self._reads.changing():
            outcome = self._writer.apply(change)
            self._known.update(outcome.added, outcome.added_prefixes)
            return outcome

    def subnets(self, subnet_ids: tuple[SubnetId, ...]) -> tuple[Subnet, ...]:
        """The NICs' own subnets: all configurations of a NIC are in one, so no other is of use."""
        return self._reads.read(
            ("subnets", tuple(sorted(subnet_ids))),
            lambda: self._subnets.seen(subnet_ids),
            fresh_seconds=FRESH_SECONDS,
        )

    def create_interface(self, request: InterfaceRequest) -> CloudEni:  # noqa: ARG002 - contract's
        """Unsupported."""
        _unsupported("create_interface")

    def delete_interface(self, eni_id: EniId) -> None:  # noqa: ARG002 - the contract's
        """Unsupported: a NIC can be taken from a stopped machine only."""
        _unsupported("delete_interface")

    def orphans(self) -> tuple[Orphan, ...]:
        """None: no NIC is ever made here."""
        return ()

    def mark_created(self, eni_id: EniId, unix: float) -> None:  # noqa: ARG002 - the contract's
        """Unsupported: there are no orphans."""
        _unsupported("mark_created")

    def delete_orphan(self, eni_id: EniId) -> None:  # noqa: ARG002 - the contract's
        """Unsupported: there are no orphans."""
        _unsupported("delete_orphan")

    def _node(self) -> Node:
        with self._node_lock:
            return self._found or self._discovered()

    def _discovered(self) -> Node:
        found = self._found = node.discover(self._imds, self._api)
        self._kind = found.kind
        return found


def _unsupported(operation: str) -> NoReturn:
    raise Unsupported(f"{operation}: {NO_NEW_NICS}", operation=operation)


def _nobody(call: ApiCall) -> None:
    """Tell nobody of a call."""
