"""The service's calls as functions from message to message; both doors are thin around them.

Raise IpamError; `describe` turns that into a status and a detail. Logging is left to the next turn
of the loop, when the answer is on its way.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager

import grpc
import structlog
from ipam_api.v1 import ipam_pb2 as pb
from ipam_api.v1 import reasons

from ipamd import clock, model
from ipamd.allocations import Allocations
from ipamd.errors import (
    AttachmentConflict,
    AttemptRevoked,
    BadRequest,
    IpamError,
    NoAddressAvailable,
    NotReady,
    StoreError,
    UnknownAttachment,
)
from ipamd.keeper import Keeper
from ipamd.metrics import Metrics
from ipamd.model import Allocation, AttachmentKey, AttemptId, WiredBy
from ipamd.pool.attachments import Granted, Outcome, Request
from ipamd.pool.ledger import Ledger

log = structlog.get_logger()

MAX_WAIT_SECONDS = 60.0

NAME_LIMIT = 1024
"""Characters of a network's or pod's name, which the ledger keeps. Kubernetes' longest has 253."""

_R = pb.ErrorDetail.Reason
STATUS_OF: dict[type[IpamError], tuple[grpc.StatusCode, _R]] = {
    NoAddressAvailable: (grpc.StatusCode.RESOURCE_EXHAUSTED, _R.NO_ADDRESS),
    NotReady: (grpc.StatusCode.UNAVAILABLE, _R.NOT_READY),
    AttachmentConflict: (grpc.StatusCode.FAILED_PRECONDITION, _R.ATTACHMENT_CONFLICT),
    AttemptRevoked: (grpc.StatusCode.ABORTED, _R.ATTEMPT_REVOKED),
    UnknownAttachment: (grpc.StatusCode.NOT_FOUND, _R.UNKNOWN_ATTACHMENT),
    BadRequest: (grpc.StatusCode.INVALID_ARGUMENT, _R.BAD_REQUEST),
    StoreError: (grpc.StatusCode.INTERNAL, _R.STORE_FAILED),
    IpamError: (grpc.StatusCode.INTERNAL, _R.REASON_UNSPECIFIED),
}
"""Error class -> gRPC status and reason; cni_shim.errors continues the table to CNI codes."""

OUTCOMES = {
    Outcome.RELEASED: pb.ReleaseReply.RELEASED,
    Outcome.UNKNOWN_KEY: pb.ReleaseReply.UNKNOWN_KEY,
    Outcome.OTHER_GENERATION: pb.ReleaseReply.OTHER_GENERATION,
}

_ATTEMPT = re.compile(r"[0-9a-f]{16,64}")


class Handlers:
    """Allocate, Release, Get and List, on the event loop."""

    def __init__(self, keeper: Keeper, allocations: Allocations, metrics: Metrics) -> None:
        self._keeper = keeper
        self._allocations = allocations
        self._metrics = metrics

    async def allocate(self, request: pb.AllocateRequest) -> pb.AllocateReply:
        """See ipam.proto."""
        began = clock.boottime()
        with self._told_if_refused(request, began):
            granted = await self._allocations.allocate(
                _request(request),
                wait_seconds=min(max(request.wait_seconds, 0.0), MAX_WAIT_SECONDS),
            )
        return self._allocated(granted, began)

    def allocate_now(self, request: pb.AllocateRequest) -> pb.AllocateReply | None:
        """The answer, if there is one without waiting; None where `allocate` has to wait."""
        began = clock.boottime()
        with self._told_if_refused(request, began):
            granted = self._allocations.take(_request(request))
        return None if granted is None else self._allocated(granted, began)

    @contextmanager
    def _told_if_refused(self, request: pb.AllocateRequest, began: float) -> Iterator[None]:
        try:
            yield
        except IpamError as e:
            self._metrics.allocated(type(e).__name__, clock.boottime() - began)
            log.warning("allocate_refused", key=_text(request.key), error=str(e))
            raise

    def _allocated(self, granted: Granted, began: float) -> pb.AllocateReply:
        seconds = clock.boottime() - began
        asyncio.get_running_loop().call_soon(self._tell_allocated, granted, seconds)
        ledger = self._keeper.ledger
        return pb.AllocateReply(
            allocation=allocation_message(ledger, granted.allocation),
            is_repeat=granted.is_repeat,
            epoch=ledger.epoch,
        )

    def _tell_allocated(self, granted: Granted, seconds: float) -> None:
        self._metrics.allocated("repeat" if granted.is_repeat else "granted", seconds)
        allocation = granted.allocation
        log.info(
            "allocated",
            key=str(allocation.key),
            address=" ".join(map(str, allocation.addresses)),
            eni=allocation.eni_id,
            generation=allocation.generation,
            pod=f"{allocation.pod_namespace}/{allocation.pod_name}",
            is_repeat=granted.is_repeat,
            waited_ms=round(seconds * 1000, 1),
        )

    def release(self, request: pb.ReleaseRequest) -> pb.ReleaseReply:
        """See ipam.proto."""
        try:
            released = self._allocations.release(
                attachment_key(request.key),
                generation=request.generation,
                attempt_id=AttemptId(request.attempt_id) if request.attempt_id else None,
                is_foreign_use=request.is_foreign_use,
                reason=request.reason[:NAME_LIMIT],
            )
        except IpamError as e:
            log.warning("release_refused", key=_text(request.key), error=str(e))
            raise
        address = str(released.allocation.address) if released.allocation else ""
        asyncio.get_running_loop().call_soon(
            self._tell_released, request, released.outcome.value, address
        )
        return pb.ReleaseReply(outcome=OUTCOMES[released.outcome], address=address)

    def _tell_released(self, request: pb.ReleaseRequest, outcome: str, address: str) -> None:
        self._metrics.released(counted_as(request.reason, outcome))
        log.info(
            "released",
            key=_text(request.key),
            address=address,
            outcome=outcome,
            reason=request.reason,
        )

    def get(self, request: pb.GetRequest) -> pb.Allocation:
        """See ipam.proto."""
        key = attachment_key(request.key)
        held = self._allocations.get(key)
        if held is None:
            raise UnknownAttachment(f"no allocation stands under {key}")
        return allocation_message(self._keeper.ledger, held)

    def list(self) -> pb.ListReply:
        """See ipam.proto."""
        ledger = self._keeper.ledger
        return pb.ListReply(
            epoch=ledger.epoch,
            allocations=[allocation_message(ledger, a) for a in ledger.allocations.values()],
        )


def counted_as(reason: str, outcome: str) -> str:
    """The label of a release in the metrics: its outcome, or "reclaimed" where vpc-cnid found that
    the runtime had lost the DEL."""
    is_reclaimed = outcome == Outcome.RELEASED.value and reason.startswith(reasons.LOST_DEL)
    return "reclaimed" if is_reclaimed else outcome


def describe(error: IpamError) -> tuple[grpc.StatusCode, pb.ErrorDetail]:
    """The status and detail that the table gives for the error's class."""
    code, reason = next(STATUS_OF[k] for k in type(error).__mro__ if k in STATUS_OF)
    detail = pb.ErrorDetail(reason=reason, message=str(error))
    if isinstance(error, NoAddressAvailable):
        detail.retry_after_seconds = error.retry_after_seconds
        detail.subnet_id, detail.eni_id = error.subnet_id, error.eni_id
    return code, detail


def attachment_key(message: pb.AttachmentKey) -> AttachmentKey:
    """The key of a request; BadRequest for names that CNI does not allow."""
    try:
        return model.attachment_key(message.container_id, message.ifname)
    except ValueError as e:
        raise BadRequest(str(e)) from None


def require_names(*names: str) -> None:
    """BadRequest for a name that is longer than anything is named."""
    longest = max(map(len, names))
    if longest > NAME_LIMIT:
        raise BadRequest(f"a name of {longest} characters is over the limit of {NAME_LIMIT}")


def _text(message: pb.AttachmentKey) -> str:
    return f"{message.container_id}/{message.ifname}"


def _request(message: pb.AllocateRequest) -> Request:
    if not _ATTEMPT.fullmatch(message.attempt_id):
        raise BadRequest(f"attempt_id {message.attempt_id!r} must be 16 to 64 hex digits")
    if message.netns_cookie == 0:
        raise BadRequest("netns_cookie is missing")
    if not (math.isfinite(message.wait_seconds) and math.isfinite(message.began_boottime)):
        raise BadRequest("wait_seconds and began_boottime must be numbers of seconds")
    require_names(
        message.network_name, message.pod_namespace, message.pod_name, message.pod_uid, message.eni
    )
    return Request(
        key=attachment_key(message.key),
        network_name=message.network_name,
        attempt_id=AttemptId(message.attempt_id),
        netns_cookie=message.netns_cookie,
        pod_namespace=message.pod_namespace,
        pod_name=message.pod_name,
        pod_uid=message.pod_uid,
        began_boottime=message.began_boottime,
        network_card=message.network_card,
        eni=message.eni,
        wired_by=WiredBy.MAIN_PLUGIN if message.is_ipam_only else WiredBy.US,
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
        addresses=[str(a) for a in allocation.addresses],
        eni_id=allocation.eni_id,
        allocated_unix=allocation.allocated_unix,
        wired_by="" if allocation.wired_by is WiredBy.US else allocation.wired_by.value,
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
        if eni.subnet_cidr_v6 is not None:
            message.subnet_cidr_v6 = str(eni.subnet_cidr_v6)
            message.gateway_v6 = str(eni.gateway_v6)
    return message
