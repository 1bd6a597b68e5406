"""rpc.CNIBackend: aws-node's plugin is given addresses of our ledger, whatever its version.

The plugin wires and unwires the pods itself; its attachments are marked `wired_by` peer, and the
links and rules behind them are nobody's to sweep. The contract is proto/compat/rpc.proto; where we
differ from aws-node's agent, and how to run the plugin against us, is in docs/cni-backend.md.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import grpc
import grpc.aio
import structlog
from compat import rpc_pb2 as pb
from compat import rpc_pb2_grpc as pb_grpc
from google.protobuf import empty_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from ipam_api.v1 import ipam_pb2

from ipamd import clock
from ipamd.allocations import Allocations
from ipamd.errors import BadRequest, IpamError, NoAddressAvailable, NotReady, SettingsError
from ipamd.grpc_server import Context, abort
from ipamd.handlers import attachment_key, require_names
from ipamd.keeper import Keeper
from ipamd.metrics import Metrics
from ipamd.model import Allocation, AttachmentKey, AttemptId, Eni, IPAddress, WiredBy
from ipamd.node import NodeFacts
from ipamd.peer_socket import HEALTH_SERVICE, answers
from ipamd.pool import peer
from ipamd.pool.attachments import Granted, Request
from ipamd.reconciler import Reconciler
from ipamd.settings import Settings

log = structlog.get_logger()

ADD_WAIT_SECONDS = 25.0
"""How long an AddNetwork waits for an address, as long as an ADD of ours does: the plugin sets no
deadline, and the runtimes end an ADD after 2 minutes and more."""

ANSWER_MARGIN_SECONDS = 1.0
"""Kept back from a caller's own deadline, where it has one, for the answer."""

UNKNOWN_POD = "datastore: unknown pod"
"""The plugin takes an error with these words for success: there is nothing to tear down."""

MAIN_TABLE = 254


@dataclass(frozen=True, slots=True, kw_only=True)
class _Attach:
    """One AddNetwork: whose interface, and what of every interface's request is the same."""

    key: AttachmentKey
    network_name: str
    pod_namespace: str
    pod_name: str
    attempt_id: AttemptId
    began_boottime: float
    deadline_boottime: float

    def request(self, number: int, network_card: int) -> Request:
        """What the pod's interface of this number asks for."""
        return Request(
            key=peer.interface_key(self.key.container_id, self.key.ifname, number),
            network_name=self.network_name,
            attempt_id=self.attempt_id,
            netns_cookie=peer.PEER_COOKIE,
            pod_namespace=self.pod_namespace,
            pod_name=self.pod_name,
            pod_uid="",
            began_boottime=self.began_boottime,
            network_card=network_card,
            wired_by=WiredBy.PEER,
        )


class CniBackend(pb_grpc.CNIBackendServicer, pb_grpc.ConfigServerBackendServicer):
    """Both services: to aws-node's plugin, and to its network policy agent. One instance, on the
    event loop."""

    def __init__(
        self,
        keeper: Keeper,
        allocations: Allocations,
        reconciler: Reconciler,
        metrics: Metrics,
        settings: Settings,
    ) -> None:
        self._keeper = keeper
        self._allocations = allocations
        self._reconciler = reconciler
        self._metrics = metrics
        self._settings = settings

    async def AddNetwork(
        self, request: pb.AddNetworkRequest, context: Context
    ) -> pb.AddNetworkReply:
        """See rpc.proto. Repeating it for an attachment that stands answers the same addresses."""
        try:
            key = _key(request.ContainerID, request.IfName, request.NetworkName)
            if self._settings.has_pod_eni:
                raise BadRequest("ENABLE_POD_ENI=true: vpc-cnid alone can tell whose ENI a pod has")
            require_names(request.NetworkName, request.K8S_POD_NAMESPACE, request.K8S_POD_NAME)
        except BadRequest as e:
            log.warning("add_network_refused", error=str(e), pod=_pod(request))
            return pb.AddNetworkReply(Success=False)
        now = clock.boottime()
        attach = _Attach(
            key=key,
            network_name=request.NetworkName,
            pod_namespace=request.K8S_POD_NAMESPACE,
            pod_name=request.K8S_POD_NAME,
            attempt_id=AttemptId(uuid.uuid4().hex),
            began_boottime=now,
            deadline_boottime=now + _patience(context.time_remaining()),
        )
        try:
            granted = await self._attach(attach, is_multi=request.RequiresMultiNICAttachment)
            reply = self._reply(tuple(g.allocation for g in granted))
        except IpamError as e:
            self._metrics.allocated(type(e).__name__, clock.boottime() - now)
            log.warning("add_network_refused", key=str(key), error=str(e), pod=_pod(request))
            await abort(context, e)
        self._tell_added(granted, request, clock.boottime() - now)
        return reply

    async def _attach(self, attach: _Attach, *, is_multi: bool) -> tuple[Granted, ...]:
        """Every interface of the pod, or none: what was given before a failure is taken back."""
        cards = cards_of(self._reconciler.facts, self._settings) if is_multi else (0,)
        granted: list[Granted] = []
        try:
            for number, card in enumerate(cards):
                request = attach.request(number, card)
                left = attach.deadline_boottime - clock.boottime()
                granted.append(
                    await self._allocations.allocate(request, wait_seconds=max(left, 0.0))
                )
                if is_multi and not granted[-1].is_repeat:
                    self._require_card(granted[-1].allocation, card)
        except BaseException:  # the caller who goes away, too
            self._undo(granted, attach.attempt_id)
            raise
        return tuple(granted)

    def _require_card(self, allocation: Allocation, card: int) -> None:
        """A single interface may be served by any card, one of several by its own only."""
        eni = self._keeper.ledger.enis.get(allocation.eni_id)
        if eni is not None and eni.network_card != card:
            raise NoAddressAvailable(
                f"network card {card} has no address left, and the pod asks for one of every card",
                retry_after_seconds=1.0,
            )

    def _undo(self, granted: Iterable[Granted], attempt_id: AttemptId) -> None:
        for given in granted:
            if not given.is_repeat:
                self._allocations.release(
                    given.allocation.key,
                    attempt_id=attempt_id,
                    reason="not every interface of the pod could be served",
                )

    def _reply(self, held: tuple[Allocation, ...]) -> pb.AddNetworkReply:
        facts, enis = self._reconciler.facts, self._keeper.ledger.enis
        missing = [a for a in held if a.eni_id not in enis]
        if facts is None or missing:
            raise NotReady(f"the cloud has not yet shown the ENI of {(missing or held)[0].address}")
        v4 = [str(c) for c in facts.vpc_cidrs if c.version == 4 and self._settings.has_ipv4]
        v6 = [str(c) for c in facts.vpc_cidrs if c.version == 6 and self._settings.has_ipv6]
        return pb.AddNetworkReply(
            Success=True,
            # The stub's field hides the message of the same name.
            IPAllocationMetadata=[
                _metadata(a.addresses, enis.get(a.eni_id))  # type: ignore[misc]
                for a in held
            ],
            UseExternalSNAT=self._settings.has_external_snat,
            VPCv4CIDRs=v4,
            VPCv6CIDRs=v6,
            NetworkPolicyMode=self._settings.network_policy_mode,
        )

    def _tell_added(
        self, granted: tuple[Granted, ...], request: pb.AddNetworkRequest, seconds: float
    ) -> None:
        for given in granted:
            self._metrics.allocated("repeat" if given.is_repeat else "granted", seconds)
            log.info(
                "allocated",
                key=str(given.allocation.key),
                address=" ".join(map(str, given.allocation.addresses)),
                eni=given.allocation.eni_id,
                generation=given.allocation.generation,
                pod=_pod(request),
                is_repeat=given.is_repeat,
                waited_ms=round(seconds * 1000, 1),
                wired_by="peer",
                client_version=request.ClientVersion,
            )

    async def DelNetwork(
        self, request: pb.DelNetworkRequest, context: Context
    ) -> pb.DelNetworkReply:
        """See rpc.proto. The cooldown begins with the answer, and anew with each repeat."""
        try:
            key = _key(request.ContainerID, request.IfName, request.NetworkName)
        except BadRequest as e:
            log.warning("del_network_refused", error=str(e), pod=_pod(request))
            return pb.DelNetworkReply(Success=False)
        try:
            ended = peer.ended(self._keeper.ledger, key, now=clock.boottime())
            self._keeper.commit(ended.change)
        except IpamError as e:
            log.warning("del_network_refused", key=str(key), error=str(e), pod=_pod(request))
            await abort(context, e)
        self._reconciler.wake()  # the cooldown that just began is the next thing to end
        self._tell_deleted(key, ended, request)
        if not ended.interfaces:
            await context.abort(grpc.StatusCode.UNKNOWN, f"{UNKNOWN_POD} {key}")
        enis = self._keeper.ledger.enis
        return pb.DelNetworkReply(
            Success=True,
            IPAllocationMetadata=[
                _metadata((a.address for a in rows), enis.get(rows[0].eni_id))  # type: ignore[misc]
                for rows in ended.interfaces
            ],
            NetworkPolicyMode=self._settings.network_policy_mode,
        )

    async def GetNetworkPolicyConfigs(
        self, request: empty_pb2.Empty, context: Context
    ) -> pb.NetworkPolicyAgentConfigReply:
        """See rpc.proto. What the cloud has not told yet is left empty, as the network policy agent
        reads mode and switch alone."""
        facts = self._reconciler.facts
        primary = next((e for e in self._keeper.ledger.enis.values() if e.is_primary), None)
        return pb.NetworkPolicyAgentConfigReply(
            NetworkPolicyMode=self._settings.network_policy_mode,
            MultiNICEnabled=self._settings.has_multi_nic,
            NodeIPv4=str(primary.primary_address) if primary else "",
            NodeIPv6=str(primary.primary_address_v6 or "") if primary else "",
            InstanceID=facts.identity.instance_id if facts else "",
            Region=facts.identity.region if facts else "",
        )

    def _tell_deleted(
        self, key: AttachmentKey, ended: peer.Ended, request: pb.DelNetworkRequest
    ) -> None:
        known = "repeated" if ended.is_repeat else "released"
        outcome = known if ended.interfaces else "unknown_key"
        self._metrics.released(outcome)
        log.info(
            "released",
            key=str(key),
            address=" ".join(str(a.address) for rows in ended.interfaces for a in rows),
            outcome=outcome,
            reason=request.Reason,
            wired_by="peer",
            client_version=request.ClientVersion,
        )


def _key(container_id: str, ifname: str, network_name: str) -> AttachmentKey:
    """The key of a call; BadRequest where a name is missing or cannot be."""
    if not network_name:
        raise BadRequest("NetworkName is missing")
    return attachment_key(ipam_pb2.AttachmentKey(container_id=container_id, ifname=ifname))


def _pod(request: pb.AddNetworkRequest | pb.DelNetworkRequest) -> str:
    return f"{request.K8S_POD_NAMESPACE}/{request.K8S_POD_NAME}"


def _patience(remaining_seconds: float | None) -> float:
    if remaining_seconds is None:
        return ADD_WAIT_SECONDS
    return max(min(ADD_WAIT_SECONDS, remaining_seconds - ANSWER_MARGIN_SECONDS), 0.0)


def cards_of(facts: NodeFacts | None, settings: Settings) -> tuple[int, ...]:
    """The network cards with a pool: what a pod that asks for one of each gets.

    Card 0 alone while ENABLE_MULTI_NIC is off, as in aws-node's agent.
    """
    if facts is None or not settings.has_multi_nic:
        return (0,)
    further = range(1, len(facts.limits.card_enis))
    return (0, *(card for card in further if facts.limits.enis_of_card(card)))


def _metadata(addresses: Iterable[IPAddress], eni: Eni | None) -> pb.IPAllocationMetadata:
    """One interface. An ENI that is gone has no table left: the primary's stands in for it."""
    message = pb.IPAllocationMetadata(
        DeviceNumber=eni.device_index if eni else 0,
        RouteTableId=eni.route_table_id if eni else MAIN_TABLE,
    )
    for address in addresses:
        if address.version == 4:
            message.IPv4Addr = str(address)
        else:
            message.IPv6Addr = str(address)
    return message


async def start(servicer: CniBackend, path: Path) -> grpc.aio.Server:
    """Listen on the plugin's socket, 0600, in place of what a dead process left there.

    Raises SettingsError where the socket cannot be made, or another process listens on it.
    """
    _make_room(path)
    server = grpc.aio.server()
    pb_grpc.add_CNIBackendServicer_to_server(servicer, server)
    pb_grpc.add_ConfigServerBackendServicer_to_server(servicer, server)
    checks = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    before = os.umask(0o177)
    try:
        server.add_insecure_port(f"unix:{path}")
        await server.start()
    except RuntimeError as e:  # grpc's word for an address that cannot be bound
        raise SettingsError(f"cannot use VPC_IPAMD_CNI_BACKEND_SOCKET {path}: {e}") from e
    finally:
        os.umask(before)
    for name in ("", HEALTH_SERVICE, "rpc.CNIBackend"):
        await checks.set(name, health_pb2.HealthCheckResponse.SERVING)
    return server


def _make_room(path: Path) -> None:
    """Remove a dead process's socket; never one that a process listens on."""
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        if answers(path):
            raise SettingsError(f"VPC_IPAMD_CNI_BACKEND_SOCKET {path}: a process listens on it")
        path.unlink(missing_ok=True)
    except OSError as e:
        raise SettingsError(f"cannot use VPC_IPAMD_CNI_BACKEND_SOCKET {path}: {e}") from e
