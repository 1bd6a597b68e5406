"""The gRPC door: messages to values and back, errors to status codes. No decisions here.

The socket is made with a umask (grpcio creates it 0755 and cannot check peer credentials), in a
directory that only root and one group may enter.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator
from ipaddress import ip_address
from pathlib import Path
from typing import NoReturn

import grpc
import grpc.aio
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from ipam_api.v1 import ipam_pb2 as pb
from ipam_api.v1 import ipam_pb2_grpc as pb_grpc

from ipamd import clock, status
from ipamd.allocations import Allocations
from ipamd.errors import (
    AttachmentConflict,
    AttemptRevoked,
    IpamError,
    NoAddressAvailable,
    NotReady,
    StoreError,
    UnknownAttachment,
)
from ipamd.keeper import Keeper
from ipamd.metrics import Metrics
from ipamd.model import Allocation, AttachmentKey, AttemptId, ContainerId, EniId
from ipamd.pool import observe
from ipamd.pool.attachments import Granted, Outcome, Request
from ipamd.pool.ledger import Change, Ledger
from ipamd.reconciler import Reconciler

log = structlog.get_logger()

MAX_WAIT_SECONDS = 60.0
ERROR_METADATA = "ipam-error-bin"

_R = pb.ErrorDetail.Reason
STATUS_OF: dict[type[IpamError], tuple[grpc.StatusCode, _R]] = {
    NoAddressAvailable: (grpc.StatusCode.RESOURCE_EXHAUSTED, _R.NO_ADDRESS),
    NotReady: (grpc.StatusCode.UNAVAILABLE, _R.NOT_READY),
    AttachmentConflict: (grpc.StatusCode.FAILED_PRECONDITION, _R.ATTACHMENT_CONFLICT),
    AttemptRevoked: (grpc.StatusCode.ABORTED, _R.ATTEMPT_REVOKED),
    UnknownAttachment: (grpc.StatusCode.NOT_FOUND, _R.UNKNOWN_ATTACHMENT),
    StoreError: (grpc.StatusCode.INTERNAL, _R.STORE_FAILED),
}
"""Error class -> gRPC status and reason; cni_shim.errors continues the table to CNI codes."""

OUTCOMES = {
    Outcome.RELEASED: pb.ReleaseReply.RELEASED,
    Outcome.UNKNOWN_KEY: pb.ReleaseReply.UNKNOWN_KEY,
    Outcome.OTHER_GENERATION: pb.ReleaseReply.OTHER_GENERATION,
}

_CONTAINER_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,252}")
_IFNAME = re.compile(r"[^/:\s]{1,15}")
_ATTEMPT = re.compile(r"[0-9a-f]{16,64}")

Context = grpc.aio.ServicerContext[object, object]


class BadRequest(IpamError):
    """A request whose fields cannot be; nothing was looked up."""


class IpamServicer(pb_grpc.IpamServicer):
    """The service. One instance, on the event loop."""

    def __init__(
        self, keeper: Keeper, allocations: Allocations, reconciler: Reconciler, metrics: Metrics
    ) -> None:
        self._keeper = keeper
        self._allocations = allocations
        self._reconciler = reconciler
        self._metrics = metrics
        self._watchers: set[asyncio.Event] = set()
        self._sequence = 0
        self.reported_boottime = 0.0
        self.reports: dict[str, pb.EniReport] = {}
        keeper.listen(self._on_commit)

    async def Allocate(self, request: pb.AllocateRequest, context: Context) -> pb.AllocateReply:
        """See ipam.proto."""
        began = clock.boottime()
        try:
            wanted = _request(request)
            granted = await self._allocations.allocate(
                wanted, wait_seconds=min(max(request.wait_seconds, 0.0), MAX_WAIT_SECONDS)
            )
        except IpamError as e:
            self._metrics.allocated(type(e).__name__, clock.boottime() - began)
            log.warning("allocate_refused", key=_text(request.key), error=str(e))
            await abort(context, e)
        seconds = clock.boottime() - began
        self._metrics.allocated("repeat" if granted.is_repeat else "granted", seconds)
        allocation = granted.allocation
        # Told on the loop's next turn, when the answer is on its way.
        asyncio.get_running_loop().call_soon(_tell_allocated, granted, seconds)
        ledger = self._keeper.ledger
        return pb.AllocateReply(
            allocation=allocation_message(ledger, allocation),
            is_repeat=granted.is_repeat,
            epoch=ledger.epoch,
        )

    async def Release(self, request: pb.ReleaseRequest, context: Context) -> pb.ReleaseReply:
        """See ipam.proto."""
        try:
            released = self._allocations.release(
                _key(request.key),
                generation=request.generation,
                attempt_id=AttemptId(request.attempt_id) if request.attempt_id else None,
                is_foreign_use=request.is_foreign_use,
                reason=request.reason,
            )
        except IpamError as e:
            log.warning("release_refused", key=_text(request.key), error=str(e))
            await abort(context, e)
        self._metrics.released(released.outcome.value)
        address = str(released.allocation.address) if released.allocation else ""
        log.info(
            "released",
            key=_text(request.key),
            address=address,
            outcome=released.outcome.value,
            reason=request.reason,
        )
        return pb.ReleaseReply(outcome=OUTCOMES[released.outcome], address=address)

    async def Get(self, request: pb.GetRequest, context: Context) -> pb.Allocation:
        """See ipam.proto."""
        try:
            key = _key(request.key)
            held = self._allocations.get(key)
            if held is None:
                raise UnknownAttachment(f"no allocation stands under {key}")
        except IpamError as e:
            await abort(context, e)
        return allocation_message(self._keeper.ledger, held)

    async def List(self, request: pb.ListRequest, context: Context) -> pb.ListReply:
        """See ipam.proto."""
        ledger = self._keeper.ledger
        return pb.ListReply(
            epoch=ledger.epoch,
            allocations=[allocation_message(ledger, a) for a in ledger.allocations.values()],
        )

    async def WatchNode(
        self, request: pb.WatchNodeRequest, context: Context
    ) -> AsyncIterator[pb.NodeNetwork]:
        """See ipam.proto. Says nothing before the network is known: silence is not "no ENIs"."""
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
        return pb.NodeNetwork(
            epoch=ledger.epoch,
            vpc_cidrs=[str(c) for c in facts.vpc_cidrs],
            wants_report=not ledger.has_heard_node,
            enis=[
                pb.NodeEni(
                    eni_id=e.eni_id,
                    mac=e.mac,
                    primary_address=str(e.primary_address),
                    subnet_cidr=str(e.subnet_cidr),
                    gateway=str(e.gateway),
                    device_index=e.device_index,
                    network_card=e.network_card,
                    route_table_id=e.route_table_id,
                    is_primary=e.is_primary,
                )
                for e in sorted(ledger.enis.values(), key=lambda e: e.device_index)
                if e.is_managed
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

    async def ReportNode(
        self, request: pb.ReportNodeRequest, context: Context
    ) -> pb.ReportNodeReply:
        """See ipam.proto."""
        ledger = self._keeper.ledger
        # A new store knows its addresses only after the first look at the cloud: until then a
        # report cannot be judged, and vpc-cnid repeats it.
        if request.epoch != ledger.epoch or not ledger.enis:
            return pb.ReportNodeReply(is_accepted=False)
        try:
            ready = {EniId(e.eni_id): e.is_ready for e in request.enis}
            pods = [_observed(a) for a in request.addresses]
            readiness = observe.readiness(ledger, ready)
            self._keeper.commit(readiness)
            findings = observe.node(
                self._keeper.ledger, pods, now=clock.boottime(), now_unix=clock.unix()
            )
            self._keeper.commit(findings.change)
        except IpamError as e:
            await abort(context, e)
        self._note_report(request, findings)
        self._reconciler.report_accepted(readiness.merged(findings.change))
        return pb.ReportNodeReply(
            is_accepted=True, unknown_addresses=[str(a) for a in findings.unknown]
        )

    def _note_report(self, request: pb.ReportNodeRequest, findings: observe.NodeFindings) -> None:
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
        if findings.adopted or findings.unknown:
            log.warning(
                "kernel_addresses_reported",
                adopted=[str(a.address) for a in findings.adopted],
                unknown=[str(a) for a in findings.unknown],
            )

    async def GetStatus(self, request: pb.GetStatusRequest, context: Context) -> pb.Status:
        """See ipam.proto."""
        return status.build(
            self._keeper.ledger,
            self._reconciler,
            waiting=self._allocations.waiting,
            reports=self.reports,
            reported_boottime=self.reported_boottime,
            now=clock.boottime(),
        )


def _tell_allocated(granted: Granted, seconds: float) -> None:
    allocation = granted.allocation
    log.info(
        "allocated",
        key=str(allocation.key),
        address=str(allocation.address),
        eni=allocation.eni_id,
        generation=allocation.generation,
        pod=f"{allocation.pod_namespace}/{allocation.pod_name}",
        is_repeat=granted.is_repeat,
        waited_ms=round(seconds * 1000, 1),
    )


async def abort(context: Context, error: IpamError) -> NoReturn:
    """End the call with the status and detail that the table gives for the error's class."""
    kinds = (k for k in type(error).__mro__ if k in STATUS_OF)
    kind = next(kinds, None)
    if kind is not None:
        code, reason = STATUS_OF[kind]
    elif isinstance(error, BadRequest):
        code, reason = grpc.StatusCode.INVALID_ARGUMENT, _R.BAD_REQUEST
    else:
        code, reason = grpc.StatusCode.INTERNAL, _R.REASON_UNSPECIFIED
    detail = pb.ErrorDetail(reason=reason, message=str(error))
    if isinstance(error, NoAddressAvailable):
        detail.retry_after_seconds = error.retry_after_seconds
        detail.subnet_id, detail.eni_id = error.subnet_id, error.eni_id
    await context.abort(code, str(error), ((ERROR_METADATA, detail.SerializeToString()),))
    raise AssertionError("abort returns never")


def _key(message: pb.AttachmentKey) -> AttachmentKey:
    if not _CONTAINER_ID.fullmatch(message.container_id):
        raise BadRequest(f"container_id {message.container_id!r} is not a CNI container id")
    if not _IFNAME.fullmatch(message.ifname) or message.ifname in (".", ".."):
        raise BadRequest(f"ifname {message.ifname!r} is not an interface name")
    return AttachmentKey(container_id=ContainerId(message.container_id), ifname=message.ifname)


def _text(message: pb.AttachmentKey) -> str:
    return f"{message.container_id}/{message.ifname}"


def _request(message: pb.AllocateRequest) -> Request:
    if not _ATTEMPT.fullmatch(message.attempt_id):
        raise BadRequest(f"attempt_id {message.attempt_id!r} must be 16 to 64 hex digits")
    if message.netns_cookie == 0:
        raise BadRequest("netns_cookie is missing")
    return Request(
        key=_key(message.key),
        network_name=message.network_name,
        attempt_id=AttemptId(message.attempt_id),
        netns_cookie=message.netns_cookie,
        pod_namespace=message.pod_namespace,
        pod_name=message.pod_name,
        pod_uid=message.pod_uid,
        began_boottime=message.began_boottime,
    )


def _observed(message: pb.ObservedAddress) -> observe.ObservedPod:
    try:
        address = ip_address(message.address)
    except ValueError as e:
        raise BadRequest(f"observed address: {e}") from e
    return observe.ObservedPod(
        address=address,
        link_name=message.link_name,
        key=_key(message.key) if message.HasField("key") else None,
        netns_cookie=message.netns_cookie,
        network_name=message.network_name,
        pod_namespace=message.pod_namespace,
        pod_name=message.pod_name,
    )


def allocation_message(ledger: Ledger, allocation: Allocation) -> pb.Allocation:
    """An allocation with the facts of its ENI; those are empty while the ENI is unknown."""
    message = pb.Allocation(
        key=pb.AttachmentKey(
            container_id=allocation.key.container_id, ifname=allocation.key.ifname
        ),
        network_name=allocation.network_name,
        attempt_id=allocation.attempt_id,
        generation=allocation.generation,
        netns_cookie=allocation.netns_cookie,
        pod_namespace=allocation.pod_namespace,
        pod_name=allocation.pod_name,
        pod_uid=allocation.pod_uid,
        address=str(allocation.address),
        eni_id=allocation.eni_id,
        allocated_unix=allocation.allocated_unix,
    )
    eni = ledger.enis.get(allocation.eni_id)
    if eni is not None:
        message.eni_mac = eni.mac
        message.eni_primary_address = str(eni.primary_address)
        message.device_index = eni.device_index
        message.network_card = eni.network_card
        message.route_table_id = eni.route_table_id
        message.subnet_cidr = str(eni.subnet_cidr)
        message.gateway = str(eni.gateway)
    return message


async def start(servicer: IpamServicer, socket_path: Path) -> grpc.aio.Server:
    """Listen on the unix socket, 0660, replacing what a dead process left there."""
    server = grpc.aio.server()
    pb_grpc.add_IpamServicer_to_server(servicer, server)
    checks = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    socket_path.unlink(missing_ok=True)  # noqa: ASYNC240 - before anything is served
    before = os.umask(0o117)
    try:
        server.add_insecure_port(f"unix:{socket_path}")
        await server.start()
    finally:
        os.umask(before)
    serving = health_pb2.HealthCheckResponse.SERVING
    await checks.set("", serving)
    await checks.set("ipam_api.v1.Ipam", serving)
    return server
