"""WatchNode, ReportNode and ReportFlushed as functions from message to message, for both doors.

On the event loop. Raise IpamError, as `handlers` does for the calls of attachments.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from ipaddress import ip_address

import structlog
from ipam_api.v1 import ipam_pb2 as pb

from ipamd import clock
from ipamd.errors import BadRequest
from ipamd.handlers import NAME_LIMIT, attachment_key
from ipamd.host_policy import host_policy
from ipamd.keeper import Keeper
from ipamd.migration_leaks import Leaks
from ipamd.model import Eni, EniId, IPAddress
from ipamd.pool import blocks, migrate, reports
from ipamd.pool.cooling import Cooldown
from ipamd.pool.ledger import Change, Ledger
from ipamd.reconciler import Reconciler

log = structlog.get_logger()

NOTES_LIMIT = 16
"""Of a report; vpc-cnid has one for each thing that it may be in doubt about."""


class NodeCalls:
    """What the node is told and what it tells. Keeps the last report, for people."""

    def __init__(self, keeper: Keeper, reconciler: Reconciler, leaks: Leaks | None = None) -> None:
        self._leaks = leaks
        self._keeper = keeper
        self._reconciler = reconciler
        self._watchers: set[asyncio.Event] = set()
        self._sequence = 0
        self.reported_boottime = 0.0
        self.reports: dict[str, pb.EniReport] = {}
        self.notes: tuple[str, ...] = ()
        self._unknown: tuple[IPAddress, ...] = ()
        keeper.listen(self._on_commit)
        reconciler.listen(self.network_changed)

    @property
    def watchers(self) -> int:
        """How many streams of changes are open."""
        return len(self._watchers)

    async def changes(self) -> AsyncGenerator[pb.NodeNetwork, None]:
        """The wanted network, complete, at once and after each change, for ever; close it.

        Says nothing before the network is known: silence is not "no ENIs". Whoever takes his time
        with a message gets the newest next, whatever was between.
        """
        changed = asyncio.Event()
        self._watchers.add(changed)
        last = None
        try:
            while True:
                changed.clear()
                wanted = self._network()
                if wanted is not None and wanted != last:
                    self._sequence += 1
                    last = wanted
                    message = pb.NodeNetwork(sequence=self._sequence)
                    message.MergeFrom(wanted)
                    yield message
                await changed.wait()
        finally:
            self._watchers.discard(changed)

    def _network(self) -> pb.NodeNetwork | None:
        facts, ledger = self._reconciler.facts, self._keeper.ledger
        if facts is None or not ledger.enis:
            return None
        has_v6 = 6 in self._reconciler.rules().versions
        settings = self._reconciler.settings
        return pb.NodeNetwork(
            epoch=ledger.epoch,
            vpc_cidrs=[str(c) for c in facts.vpc_cidrs],
            wants_report=not ledger.has_heard_node,
            enis=[
                _node_eni(e, has_v6=has_v6)
                for e in sorted(ledger.enis.values(), key=lambda e: e.device_index)
                if e.is_managed or (settings.has_pod_eni and e.is_trunk)
            ],
            policy=host_policy(settings),
            flushes=[
                pb.CooledAddress(address=str(address), since_boottime=since)
                for address, since in sorted(self._reconciler.cooldowns.asked, key=_by_time)
            ],
        )

    def _on_commit(self, change: Change, after: Ledger) -> None:
        del after
        if change.put_enis or change.drop_enis or change.has_heard_node is not None:
            self.network_changed()

    def network_changed(self) -> None:
        """Have every watcher look again."""
        for changed in self._watchers:
            changed.set()

    def report(self, request: pb.ReportNodeRequest) -> pb.ReportNodeReply:
        """See ipam.proto."""
        ledger = self._keeper.ledger
        # A new store knows its addresses only after the first look at the cloud: until then a
        # report cannot be judged, and vpc-cnid repeats it.
        if request.epoch != ledger.epoch or not ledger.enis:
            return pb.ReportNodeReply(is_accepted=False)
        ready = {EniId(e.eni_id): e.is_ready for e in request.enis}
        pods = [_observed(a) for a in request.addresses]
        if self._is_picture_doubtful(pods):
            return pb.ReportNodeReply(is_accepted=False)
        readiness = reports.readiness(ledger, ready, now=clock.boottime())
        self._keeper.commit(readiness)
        findings = self._take_in(pods, clock.boottime())
        self._note_report(request, findings)
        self._reconciler.report_accepted(readiness.merged(findings.change))
        return pb.ReportNodeReply(
            is_accepted=True, unknown_addresses=[str(a) for a in findings.unknown]
        )

    def report_flushed(self, request: pb.ReportFlushedRequest) -> pb.ReportFlushedReply:
        """See ipam.proto. Nobody is told: the list that watchers hold only became shorter."""
        if request.epoch != self._keeper.ledger.epoch:
            return pb.ReportFlushedReply(is_accepted=False)
        self._reconciler.cleared([_cooldown(a) for a in request.addresses])
        return pb.ReportFlushedReply(is_accepted=True)

    def _take_in(self, pods: list[reports.ObservedPod], now: float) -> reports.NodeFindings:
        if not self._keeper.ledger.has_heard_node:
            self._keeper.commit(migrate.outranked(self._keeper.ledger, pods, now=now))
        findings = reports.node(self._keeper.ledger, pods, now=now, now_unix=clock.unix())
        self._keeper.commit(findings.change)
        if self._leaks is not None:
            self._leaks.heard({p.address for p in pods}, now=now)
        return findings

    def _is_picture_doubtful(self, pods: list[reports.ObservedPod]) -> bool:
        """A lost store, and pods whose addresses the first look at the cloud did not show.

        The API lags by seconds now and then; to take such pods for leftovers on one look would cut
        them off (I5).
        """
        ledger = self._keeper.ledger
        if ledger.has_heard_node:
            return False
        unseen = [
            p
            for p in pods
            if p.key is not None
            and p.address not in ledger.addresses
            and blocks.prefix_of(ledger, p.address) is None
        ]
        return bool(unseen) and not self._reconciler.is_picture_certain(clock.boottime())

    def _note_report(self, request: pb.ReportNodeRequest, findings: reports.NodeFindings) -> None:
        self.reported_boottime = clock.boottime()
        for report in request.enis:
            before = self.reports.get(report.eni_id)
            if before is None or before != report:
                log.info(
                    "eni_reported",
                    eni=report.eni_id,
                    is_ready=report.is_ready,
                    link=report.link_name,
                    message=report.message,
                )
        self.reports = {r.eni_id: r for r in request.enis}
        self.notes = tuple(note[:NAME_LIMIT] for note in request.notes[:NOTES_LIMIT])
        is_news = findings.unknown != self._unknown
        self._unknown = findings.unknown
        if findings.adopted or (findings.unknown and is_news):
            log.warning(
                "kernel_addresses_reported",
                adopted=[str(a) for n in findings.adopted for a in n.addresses],
                unknown=[str(a) for a in findings.unknown],
            )


def _node_eni(eni: Eni, *, has_v6: bool) -> pb.NodeEni:
    """Without its IPv6 where no pod has any: the node's own is then nobody's business here."""
    message = pb.NodeEni(
        eni_id=eni.eni_id,
        mac=eni.mac,
        primary_address=str(eni.primary_address),
        subnet_cidr=str(eni.subnet_cidr),
        gateway=str(eni.gateway),
        device_index=eni.device_index,
        network_card=eni.network_card,
        route_table_id=eni.route_table_id,
        is_primary=eni.is_primary,
        is_trunk=eni.is_trunk,
    )
    if has_v6 and eni.subnet_cidr_v6 is not None:
        message.subnet_cidr_v6 = str(eni.subnet_cidr_v6)
        message.gateway_v6 = str(eni.gateway_v6)
        message.primary_address_v6 = str(eni.primary_address_v6 or "")
    return message


def _by_time(cooldown: Cooldown) -> tuple[float, int, int]:
    address, since = cooldown
    return since, address.version, int(address)


def _cooldown(message: pb.CooledAddress) -> Cooldown:
    try:
        return ip_address(message.address), message.since_boottime
    except ValueError as e:
        raise BadRequest(f"flushed address: {e}") from e


def _observed(message: pb.ObservedAddress) -> reports.ObservedPod:
    try:
        address = ip_address(message.address)
    except ValueError as e:
        raise BadRequest(f"observed address: {e}") from e
    return reports.ObservedPod(
        address=address,
        link_name=message.link_name,
        key=attachment_key(message.key) if message.HasField("key") else None,
        netns_cookie=message.netns_cookie,
        # Cut, not refused: one name must not keep a whole report from being heard.
        network_name=message.network_name[:NAME_LIMIT],
        pod_namespace=message.pod_namespace[:NAME_LIMIT],
        pod_name=message.pod_name[:NAME_LIMIT],
        is_on_host=message.is_on_host,
    )
