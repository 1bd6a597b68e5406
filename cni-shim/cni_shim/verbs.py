"""ADD and DEL: what happens between a request and its answer.

ADD: an address from ipamd, the wiring, the result; whatever fails undoes what was done, by the name
of this attempt. DEL, in this order: the address from the cache or from ipamd's ledger; rules, route
and link removed and their removal seen; the release, whose commit starts the cooldown; the answer.
If the kernel refuses, the address stays allocated and the runtime tries again; if ipamd is away,
the release goes into the durable queue and the runtime gets its success.

What aws-node's plugin wired carries no name of ours: only the ledger's word of this moment says
whose it is. So such attachments are not cached, and without that word their DEL waits in the queue.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from ipaddress import ip_address
from typing import Protocol

import structlog
from ipam_api.v1 import ipam_pb2 as pb

from cni_shim.attempt import ROLLBACK_SECONDS, Attempt, pb_key
from cni_shim.datapath.errors import AddressInUse, DatapathError, ForeignInterface
from cni_shim.datapath.families import ANYWHERE, Address, host_on_link
from cni_shim.datapath.names import PEER_FURTHER_IFNAME, POD_GATEWAYS, eni_mark
from cni_shim.datapath.pods import PodWiring, Wired
from cni_shim.errors import CniError, CniErrorCode
from cni_shim.ipam_client import IpamdError
from cni_shim.key_locks import KeyLocks
from cni_shim.results import Interface, Ip, Result, Route
from cni_shim.settings import DEFAULT_VETH_PREFIX
from cni_shim.spec import AttachmentKey, CniRequest, Pod

log = structlog.get_logger()

ADD_WAIT_SECONDS = 25.0
"""How long an ADD waits for an address. A failed ADD costs the pod 10 s and more in the kubelet's
back-off, so waiting is better; past half a minute it only blocks the runtime's locks."""

ANSWER_MARGIN_SECONDS = 1.0
"""Kept back from the launcher's deadline for undoing and answering."""

ADDRESS_TRIES = 4
"""Addresses tried when the kernel already uses the one that was given: each is quarantined."""

PEER = "peer"
"""In Allocation.wired_by: aws-node's plugin wired the pod. That plugin unwires it, or we do where
the runtime has come to call vpc-cni for the DEL."""

GET_SECONDS = 1.0


class Ipam(Protocol):
    """The calls that the verbs make; `ipam_client.IpamClient` makes them over gRPC."""

    def allocate(
        self, request: pb.AllocateRequest, *, deadline_monotonic: float
    ) -> pb.AllocateReply:
        """See IpamClient.allocate."""

    def release(self, request: pb.ReleaseRequest, *, deadline_monotonic: float) -> pb.ReleaseReply:
        """See IpamClient.release."""

    def get(self, key: pb.AttachmentKey, *, deadline_monotonic: float) -> pb.Allocation | None:
        """See IpamClient.get."""

    def list(self, *, deadline_monotonic: float) -> pb.ListReply:
        """See IpamClient.list."""


class Datapath(Protocol):
    """The kernel work that the verbs ask for; `datapath.pods.PodDatapath` does it."""

    def netns_cookie(self, netns_fd: int) -> int:
        """See PodDatapath.netns_cookie."""

    def wire(self, netns_fd: int, wiring: PodWiring) -> Wired:
        """See PodDatapath.wire."""

    def inspect(self, netns_fd: int, wiring: PodWiring) -> Wired | None:
        """See PodDatapath.inspect."""

    def unwire(
        self,
        container_id: str,
        ifname: str,
        pod_namespace: str,
        pod_name: str,
        veth_prefix: str,
        addresses: tuple[Address, ...],
    ) -> bool:
        """See PodDatapath.unwire."""

    def unwire_peers(
        self,
        container_id: str,
        ifname: str,
        pod_namespace: str,
        pod_name: str,
        addresses: tuple[Address, ...],
    ) -> bool:
        """See PodDatapath.unwire_peers."""


class Verbs:
    """Serves ADD and DEL for all launchers; one method call per request, on its worker thread."""

    def __init__(
        self,
        ipam: Ipam,
        datapath: Datapath,
        *,
        queue_release: Callable[[CniRequest], None],
        finish_queued: Callable[[AttachmentKey], None],
    ) -> None:
        """`queue_release` puts a DEL into the durable queue; `finish_queued` does one that waits
        there, with the key's lock held. Both raise CniError."""
        self._ipam = ipam
        self._datapath = datapath
        self._queue_release = queue_release
        self._finish_queued = finish_queued
        self._locks = KeyLocks()
        self._cache: dict[AttachmentKey, pb.Allocation] = {}

    def remember(self, allocations: tuple[pb.Allocation, ...]) -> None:
        """Fill the cache from ipamd's list, after a start."""
        for allocation in allocations:
            if allocation.wired_by != PEER:
                self._cache.setdefault(_key_of(allocation), allocation)

    def locked(self, key: AttachmentKey, *, timeout_seconds: float) -> AbstractContextManager[None]:
        """The lock that verbs for this key hold; for the queue and the sweep of leftovers."""
        return self._locks.held(key, timeout_seconds=timeout_seconds)

    def add(self, request: CniRequest, netns_fd: int, attempt: Attempt) -> Result:
        """Give the attachment an address and wire it. Raises CniError; then nothing stays."""
        left = attempt.deadline_monotonic - time.monotonic() - ANSWER_MARGIN_SECONDS
        try:
            with self._locks.held(attempt.key, timeout_seconds=left):
                self._finish_queued(attempt.key)
                # What released the key before we held its lock was of an earlier try.
                attempt.restart_clock()
                return self._add_held(request, netns_fd, attempt)
        except TimeoutError as e:
            raise CniError(CniErrorCode.TRY_AGAIN_LATER, "the attachment is busy", str(e)) from e

    def _add_held(self, request: CniRequest, netns_fd: int, attempt: Attempt) -> Result:
        """The key is held. Whatever goes wrong, an answer that was lost included, is undone."""
        try:
            return self._add_locked(request, netns_fd, attempt)
        except CniError:
            if attempt.is_wiring:
                self.undo(request, attempt)
            elif not attempt.is_settled:
                attempt.release_soon()  # nothing is wired, and the answer must not wait for ipamd
            raise
        except Exception:
            self.undo(request, attempt)
            raise

    def _add_locked(self, request: CniRequest, netns_fd: int, attempt: Attempt) -> Result:
        cookie = self._cookie(netns_fd, request)
        in_use = ""
        for _ in range(ADDRESS_TRIES):
            reply = self._allocate(request, cookie, attempt)
            _refuse_peers(reply.allocation, attempt)
            if not attempt.may_wire():
                raise CniError(CniErrorCode.TRY_AGAIN_LATER, "the launcher has gone")
            wiring = _wiring(request, attempt.key, reply.allocation)
            try:
                wired = self._wire(netns_fd, wiring, is_repeat=reply.is_repeat)
            except AddressInUse as e:
                in_use = str(e)
                self._give_back(attempt, reply.allocation, in_use, is_foreign_use=True)
                if attempt.is_cancelled:
                    break
                continue
            except DatapathError as e:
                if reply.is_repeat:  # what an earlier try wired goes before its address does
                    self._unwire(request, attempt.key, reply.allocation)
                self._give_back(attempt, reply.allocation, str(e))
                raise _setup_error(e, request) from e
            self._cache[attempt.key] = reply.allocation
            if attempt.is_cancelled:
                raise CniError(CniErrorCode.TRY_AGAIN_LATER, "the launcher has gone")
            return _result(request, wiring, wired)
        raise CniError(
            CniErrorCode.TRY_AGAIN_LATER,
            "the kernel already uses every address that was tried",
            f"{in_use}; they are quarantined, see ipamctl status",
        )

    def _cookie(self, netns_fd: int, request: CniRequest) -> int:
        try:
            return self._datapath.netns_cookie(netns_fd)
        except DatapathError as e:
            raise CniError(
                CniErrorCode.INVALID_NETNS,
                "CNI_NETNS is no network namespace",
                f"{request.netns_path}: {e}",
            ) from e

    def _allocate(self, request: CniRequest, cookie: int, attempt: Attempt) -> pb.AllocateReply:
        """Ask ipamd; an attachment that still stands in another namespace is torn down first."""
        deadline = attempt.deadline_monotonic - ANSWER_MARGIN_SECONDS
        for is_last in (False, True):
            wanted = pb.AllocateRequest(
                key=pb_key(attempt.key),
                network_name=request.network_name,
                attempt_id=attempt.attempt_id,
                netns_cookie=cookie,
                pod_namespace=request.pod.namespace,
                pod_name=request.pod.name,
                pod_uid=request.pod.uid,
                wait_seconds=ADD_WAIT_SECONDS,
                began_boottime=attempt.began_boottime,
            )
            attempt.is_settled = False
            try:
                return self._ipam.allocate(wanted, deadline_monotonic=deadline)
            except IpamdError as e:
                # ipamd's own word means that nothing was given; silence means anything.
                attempt.is_settled = not e.is_away
                if is_last or e.reason != pb.ErrorDetail.ATTACHMENT_CONFLICT:
                    raise e.cni from e
            log.info("old_attachment_torn_down", key=str(attempt.key))
            self._tear_down_old(request, attempt)
        raise AssertionError("the loop returns or raises")

    def _tear_down_old(self, request: CniRequest, attempt: Attempt) -> None:
        """Same key, other namespace: the runtime lost a DEL. Take the old one down by generation.

        By generation, because a plain release would also refuse this very attempt afterwards.
        """
        deadline = attempt.deadline_monotonic - ANSWER_MARGIN_SECONDS
        try:
            old = self._ipam.get(pb_key(attempt.key), deadline_monotonic=deadline)
            if old is None:
                return
            _refuse_peers(old, attempt)
            self._unwire(request, attempt.key, old)
            self._ipam.release(
                pb.ReleaseRequest(
                    key=pb_key(attempt.key),
                    generation=old.generation,
                    reason="the attachment came back in another namespace",
                ),
                deadline_monotonic=deadline,
            )
        except IpamdError as e:
            raise e.cni from e
        self._cache.pop(attempt.key, None)
        attempt.restart_clock()

    def _wire(self, netns_fd: int, wiring: PodWiring, *, is_repeat: bool) -> Wired:
        standing = self._datapath.inspect(netns_fd, wiring) if is_repeat else None
        return standing or self._datapath.wire(netns_fd, wiring)

    def _give_back(
        self, attempt: Attempt, allocation: pb.Allocation, why: str, *, is_foreign_use: bool = False
    ) -> None:
        """Release what a failed try was given, by its generation."""
        request = pb.ReleaseRequest(
            key=pb_key(attempt.key),
            generation=allocation.generation,
            is_foreign_use=is_foreign_use,
            reason=why,
        )
        try:
            self._ipam.release(request, deadline_monotonic=time.monotonic() + ROLLBACK_SECONDS)
        except IpamdError as e:
            raise e.cni from e
        attempt.is_settled = True
        attempt.ask_again()
        # The release left a tombstone for tries that began before it; this one goes on.
        attempt.restart_clock()

    def undo(self, request: CniRequest, attempt: Attempt) -> None:
        """Take back an ADD that failed or was cancelled: first the wiring, then the address."""
        held = self._cache.pop(attempt.key, None)
        try:
            self._unwire(request, attempt.key, held)
        except CniError as e:
            # The address stays allocated; the runtime's DEL comes, and tries again.
            log.warning("undo_failed", key=str(attempt.key), error=str(e))
            return
        attempt.release()
        log.info("undone", key=str(attempt.key))

    def undo_locked(self, request: CniRequest, attempt: Attempt) -> None:
        """`undo` for a caller that does not hold the key: the answer could not be delivered."""
        with self._locks.held(attempt.key, timeout_seconds=60.0):
            held = self._cache.get(attempt.key)
            if held is not None and held.attempt_id == attempt.attempt_id:
                self.undo(request, attempt)

    def delete(self, request: CniRequest, key: AttachmentKey, *, deadline_monotonic: float) -> None:
        """Tear the attachment down and release its address. Success for what never was.

        Raises CniError 11 when the kernel refuses, or when neither ipamd nor the queue takes the
        release; the runtime then tries again.
        """
        left = deadline_monotonic - time.monotonic()
        try:
            with self._locks.held(key, timeout_seconds=left):
                self.delete_held(request, key, deadline_monotonic=deadline_monotonic)
        except TimeoutError as e:
            raise CniError(CniErrorCode.TRY_AGAIN_LATER, "the attachment is busy", str(e)) from e

    def delete_held(
        self, request: CniRequest, key: AttachmentKey, *, deadline_monotonic: float
    ) -> bool:
        """`delete` for a caller that holds the key's lock; False if the release was only queued."""
        try:
            standing = self._standing(key, deadline_monotonic)
        except IpamdError as e:
            self._unwire(request, key, None)  # what is ours is found by its names and its alias
            return self._put_off(request, key, e)
        had_link = [self._unwire(request, k, held) for k, held in standing.items()]
        self._cache.pop(key, None)
        try:
            addresses = [self._release(k, deadline_monotonic) for k in standing]
        except IpamdError as e:
            return self._put_off(request, key, e)
        log.info("detached", key=str(key), address=" ".join(addresses), had_link=any(had_link))
        return True

    def _put_off(self, request: CniRequest, key: AttachmentKey, error: IpamdError) -> bool:
        """Queue a DEL that ipamd could not serve; False. Raises CniError where it would not."""
        if not (error.is_away or error.reason == pb.ErrorDetail.STORE_FAILED):
            raise error.cni from error
        log.warning("release_queued", key=str(key), error=str(error))
        self._queue_release(request)
        return False

    def _standing(
        self, key: AttachmentKey, deadline_monotonic: float
    ) -> Mapping[AttachmentKey, pb.Allocation | None]:
        """What a DEL of this key ends, the key itself last: a pod of aws-node's may have further
        interfaces, which the runtime does not name. Raises IpamdError."""
        held = self._cache.get(key)
        if held is not None:
            return {key: held}
        now = time.monotonic()
        patience = now + min(GET_SECONDS, (deadline_monotonic - now) / 3)
        held = self._ipam.get(pb_key(key), deadline_monotonic=patience)
        if held is None or held.wired_by != PEER:
            return {key: held}
        everything = self._ipam.list(deadline_monotonic=patience).allocations
        return {_key_of(a): a for a in everything if _is_further(a, held)} | {key: held}

    def _release(self, key: AttachmentKey, deadline_monotonic: float) -> str:
        """The address that cools from now on. Raises IpamdError."""
        release = pb.ReleaseRequest(key=pb_key(key), reason="DEL")
        # Half of what is left: if ipamd hangs, there must be time to write the queue.
        now = time.monotonic()
        patience = min(max((deadline_monotonic - now) / 2, 0.1), ROLLBACK_SECONDS)
        return self._ipam.release(release, deadline_monotonic=now + patience).address

    def _unwire(self, request: CniRequest, key: AttachmentKey, held: pb.Allocation | None) -> bool:
        pod = request.pod if held is None else Pod(namespace=held.pod_namespace, name=held.pod_name)
        addresses = addresses_of(held) if held else ()
        try:
            if held is not None and held.wired_by == PEER:
                pod = pod if pod.name else request.pod  # aws-node before 1.6 kept no names
                return self._datapath.unwire_peers(
                    key.container_id, key.ifname, pod.namespace, pod.name, addresses
                )
            prefix = request.config.veth_prefix or DEFAULT_VETH_PREFIX
            return self._datapath.unwire(
                key.container_id, key.ifname, pod.namespace, pod.name, prefix, addresses
            )
        except DatapathError as e:
            raise CniError(
                CniErrorCode.TRY_AGAIN_LATER,
                "the pod's network could not be removed",
                f"{e}; the address stays allocated until it can",
            ) from e


def _key_of(allocation: pb.Allocation) -> AttachmentKey:
    return AttachmentKey(container_id=allocation.key.container_id, ifname=allocation.key.ifname)


def _is_further(allocation: pb.Allocation, first: pb.Allocation) -> bool:
    """Whether it is one of the interfaces that aws-node's plugin made beside a pod's first."""
    return (
        allocation.wired_by == PEER
        and allocation.key.container_id == first.key.container_id
        and allocation.key.ifname.startswith(PEER_FURTHER_IFNAME)
        and allocation.key.ifname != first.key.ifname
        and allocation.network_name == first.network_name
    )


def addresses_of(allocation: pb.Allocation) -> tuple[Address, ...]:
    """The pod's addresses, one of each family that the node serves, IPv4 first."""
    return tuple(map(ip_address, allocation.addresses or (allocation.address,)))


def _refuse_peers(allocation: pb.Allocation, attempt: Attempt) -> None:
    """Raise CniError for an attachment that aws-node's plugin wired; it keeps its address."""
    if allocation.wired_by != PEER:
        return
    attempt.is_settled = True
    raise CniError(
        CniErrorCode.INTERFACE_SETUP,
        "another plugin has wired this attachment",
        f"{attempt.key} has {allocation.address} from aws-node's; delete it before it is added",
    )


def _wiring(request: CniRequest, key: AttachmentKey, allocation: pb.Allocation) -> PodWiring:
    mark = 0
    if allocation.device_index > 0:
        mark = eni_mark(device_index=allocation.device_index, network_card=allocation.network_card)
    return PodWiring(
        container_id=key.container_id,
        ifname=key.ifname,
        network_name=request.network_name,
        pod_namespace=request.pod.namespace,
        pod_name=request.pod.name,
        addresses=addresses_of(allocation),
        mark=mark,
        mtu=request.config.mtu,
        veth_prefix=request.config.veth_prefix,
    )


def _setup_error(error: DatapathError, request: CniRequest) -> CniError:
    details = str(error)
    if isinstance(error, ForeignInterface):
        details += "; something else made it, and vpc-cni does not touch it"
    return CniError(
        CniErrorCode.INTERFACE_SETUP,
        f"cannot set {request.netns_path} up",
        details,
    )


def _result(request: CniRequest, wiring: PodWiring, wired: Wired) -> Result:
    """Host end first, pod end second: portmap and bandwidth look for them in this order."""
    return Result(
        interfaces=(
            Interface(name=wired.host_ifname, mac=wired.host_mac),
            Interface(name=wiring.ifname, mac=wired.pod_mac, sandbox=request.netns_path),
        ),
        ips=tuple(
            Ip(address=host_on_link(address), interface=1, gateway=POD_GATEWAYS[address.version])
            for address in wiring.addresses
        ),
        routes=tuple(
            Route(dst=ANYWHERE[address.version], gateway=POD_GATEWAYS[address.version])
            for address in wiring.addresses
        ),
    )
