"""The way down of an attachment: for a DEL, for an ADD that failed, and for the delete queue.

In this order: the address from the cache or from ipamd's ledger; rules, route and link removed and
their removal seen; the release, whose commit starts the cooldown; the answer. If the kernel
refuses, the address stays allocated and the runtime tries again; if ipamd is away, the release goes
into the durable queue and the runtime gets its success.

What aws-node's plugin wired carries no name of ours: only the ledger's word of this moment says
whose it is. So such attachments are not cached, and without that word their DEL waits in the queue.

Every method wants the key's lock held by its caller (`verbs.Verbs`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import structlog
from ipam_api.v1 import ipam_pb2 as pb

from cni_shim import spec
from cni_shim.allocations import PEER, addresses_of, is_further, key_of, pb_key
from cni_shim.attempt import ROLLBACK_SECONDS, Attempt
from cni_shim.datapath.errors import DatapathError
from cni_shim.errors import CniError, CniErrorCode
from cni_shim.ipam_client import IpamdError
from cni_shim.ipam_only import MAIN_PLUGIN, previous_addresses
from cni_shim.own_enis import OwnEnis
from cni_shim.ports import Datapath, Delegates, Ipam, Policies
from cni_shim.settings import DEFAULT_VETH_PREFIX
from cni_shim.spec import AttachmentKey, CniRequest, Pod

log = structlog.get_logger()

GET_SECONDS = 1.0


def _nothing() -> None:
    """Of a release that waits in the queue there is nothing to tell yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deleted:
    """What came of a DEL; `tell` logs it, once its answer is out."""

    is_queued: bool = False
    tell: Callable[[], None] = _nothing


_QUEUED = Deleted(is_queued=True)


class Teardown:
    """Unwires attachments and releases their addresses."""

    def __init__(
        self,
        ipam: Ipam,
        datapath: Datapath,
        delegates: Delegates,
        cache: dict[AttachmentKey, pb.Allocation],
        queue_release: Callable[[CniRequest], None],
        policies: Policies,
        own_enis: OwnEnis,
    ) -> None:
        """`queue_release` puts a DEL into the durable queue; it raises CniError."""
        self._ipam = ipam
        self._datapath = datapath
        self._delegates = delegates
        self._cache = cache
        self._queue_release = queue_release
        self._policies = policies
        self._own_enis = own_enis

    def delete(
        self,
        request: CniRequest,
        key: AttachmentKey,
        *,
        deadline_monotonic: float,
        reason: str = "DEL",
    ) -> Deleted:
        """Tear down and release, or have the release queued. Raises CniError 11."""
        has_branch = key not in self._cache and self._has_branch(request, key)
        self._own_enis.forget(key)  # also where its link went with the namespace
        if has_branch:
            self.unwire(request, key, None)
            self._forget_pod(request, key, None, deadline_monotonic)
            return Deleted(tell=lambda: log.info("branch_detached", key=str(key)))
        try:
            standing = self._standing(key, deadline_monotonic)
        except IpamdError as e:
            # What is ours is found by its names and its alias.
            if self.unwire(request, key, None):
                self._forget_pod(request, key, None, deadline_monotonic)
            return self._put_off(request, e)
        had_link = [self.unwire(request, k, held) for k, held in standing.items()]
        try:
            if request.ipam_only and standing[key] is None:
                self._remove_forgotten(request, deadline_monotonic)
        except IpamdError as e:
            return self._put_off(request, e)
        self._cache.pop(key, None)
        is_queued = False
        addresses: list[str] = []
        try:
            addresses = [self._release(k, deadline_monotonic, reason) for k in standing]
        except IpamdError as e:
            self._put_off(request, e)
            is_queued = True
        if any(had_link) or standing[key] is not None:
            self._forget_pod(request, key, standing[key], deadline_monotonic)
        if is_queued:
            return _QUEUED
        return Deleted(
            tell=lambda: log.info(
                "detached", key=str(key), address=" ".join(addresses), had_link=any(had_link)
            )
        )

    def end(
        self, held: pb.Allocation, *, reason: str, deadline_monotonic: float
    ) -> pb.ReleaseReply:
        """Tear down and release this very allocation, which no runtime will name again.

        By its generation: an attachment that has come back meanwhile loses nothing. Raises CniError
        where the kernel refuses (it stays allocated), IpamdError where ipamd does.
        """
        key = key_of(held)
        self.unwire(spec.blank_delete(key), key, held)
        release = pb.ReleaseRequest(key=pb_key(key), generation=held.generation, reason=reason)
        reply = self._ipam.release(release, deadline_monotonic=deadline_monotonic)
        self._cache.pop(key, None)
        self._forget_pod(spec.blank_delete(key), key, held, deadline_monotonic)
        return reply

    def undo(self, request: CniRequest, attempt: Attempt) -> None:
        """Take back an ADD that failed or was cancelled: first the wiring, then the address."""
        held = self._cache.pop(attempt.key, None)
        self._own_enis.forget(attempt.key)
        try:
            had_link = self.unwire(request, attempt.key, held)
        except CniError as e:
            # The address stays allocated; the runtime's DEL comes, and tries again.
            log.warning("undo_failed", key=str(attempt.key), error=str(e))
            return
        attempt.release()
        if held is not None or had_link:  # the policy agent may have been told
            deadline = time.monotonic() + ROLLBACK_SECONDS
            self._forget_pod(request, attempt.key, held, deadline)
        log.info("undone", key=str(attempt.key))

    def _has_branch(self, request: CniRequest, key: AttachmentKey) -> bool:
        """Whether the pod has an ENI of its own: the kernel alone knows."""
        pod, prefix = request.pod, request.config.veth_prefix or DEFAULT_VETH_PREFIX
        try:
            found = self._datapath.find_branch(
                key.container_id, key.ifname, pod.namespace, pod.name, prefix
            )
        except DatapathError as e:
            raise _refused(e) from e
        return found is not None

    def unwire(self, request: CniRequest, key: AttachmentKey, held: pb.Allocation | None) -> bool:
        """Remove what stands in the kernel; True if anything did. Raises CniError 11."""
        pod = _pod_of(request, held)
        addresses = addresses_of(held) if held else ()
        try:
            if held is not None and held.wired_by == PEER:
                pod = pod if pod.name else request.pod  # aws-node before 1.6 kept no names
                return self._datapath.unwire_peers(
                    key.container_id, key.ifname, pod.namespace, pod.name, addresses
                )
            if request.ipam_only if held is None else held.wired_by == MAIN_PLUGIN:
                return self._delegates.remove(key, addresses)
            prefix = request.config.veth_prefix or DEFAULT_VETH_PREFIX
            return self._datapath.unwire(
                key.container_id, key.ifname, pod.namespace, pod.name, prefix, addresses
            )
        except DatapathError as e:
            raise _refused(e) from e

    def _forget_pod(
        self,
        request: CniRequest,
        key: AttachmentKey,
        held: pb.Allocation | None,
        deadline_monotonic: float,
    ) -> None:
        """Tell the network policy agent, unless another plugin wired the pod."""
        if request.ipam_only is not None or (held is not None and held.wired_by == MAIN_PLUGIN):
            return
        pod = _pod_of(request, held)

        def is_followed() -> bool:
            return any(
                Pod(namespace=a.pod_namespace, name=a.pod_name) == pod
                for k, a in list(self._cache.items())
                if k != key and k.ifname == key.ifname
            )

        self._policies.forget(
            pod, key, is_followed=is_followed, deadline_monotonic=deadline_monotonic
        )

    def _remove_forgotten(self, request: CniRequest, deadline_monotonic: float) -> None:
        """A lost store does not know an attachment that another plugin wired, as nothing in the
        kernel names it. Its rules go by the runtime's word of the addresses, unless somebody else
        has them by now, as the ledger says, or an ADD that is under way; the quarantine of the
        addresses ends with the next report. Raises IpamdError."""
        named = previous_addresses(request.prev_result)
        if not named:
            return
        everything = self._ipam.list(deadline_monotonic=_patience(deadline_monotonic)).allocations
        held = {address for allocation in everything for address in addresses_of(allocation)}
        try:
            self._delegates.remove_unknown([a for a in named if a not in held])
        except DatapathError as e:
            raise _refused(e) from e

    def _put_off(self, request: CniRequest, error: IpamdError) -> Deleted:
        """Queue a DEL that ipamd could not serve. Raises CniError where it would not."""
        if not (error.is_away or error.reason == pb.ErrorDetail.STORE_FAILED):
            raise error.cni from error
        self._queue_release(request)
        return _QUEUED

    def _standing(
        self, key: AttachmentKey, deadline_monotonic: float
    ) -> Mapping[AttachmentKey, pb.Allocation | None]:
        """What a DEL of this key ends, the key itself last: a pod of aws-node's may have further
        interfaces, which the runtime does not name. Raises IpamdError."""
        held = self._cache.get(key)
        if held is not None:
            return {key: held}
        patience = _patience(deadline_monotonic)
        held = self._ipam.get(pb_key(key), deadline_monotonic=patience)
        if held is None or held.wired_by != PEER:
            return {key: held}
        everything = self._ipam.list(deadline_monotonic=patience).allocations
        return {key_of(a): a for a in everything if is_further(a, held)} | {key: held}

    def _release(self, key: AttachmentKey, deadline_monotonic: float, reason: str) -> str:
        """The address that cools from now on. Raises IpamdError."""
        release = pb.ReleaseRequest(key=pb_key(key), reason=reason)
        # Half of what is left: if ipamd hangs, there must be time to write the queue.
        now = time.monotonic()
        patience = min(max((deadline_monotonic - now) / 2, 0.1), ROLLBACK_SECONDS)
        return self._ipam.release(release, deadline_monotonic=now + patience).address


def _patience(deadline_monotonic: float) -> float:
    """Until when a question about the ledger is awaited: what follows needs time, too."""
    now = time.monotonic()
    return now + min(GET_SECONDS, (deadline_monotonic - now) / 3)


def _pod_of(request: CniRequest, held: pb.Allocation | None) -> Pod:
    """The pod by its names, as the ledger has them, else as the runtime says them."""
    named = request.pod if held is None else held
    if isinstance(named, Pod):
        return Pod(namespace=named.namespace, name=named.name)
    return Pod(namespace=named.pod_namespace, name=named.pod_name)


def _refused(error: DatapathError) -> CniError:
    return CniError(
        CniErrorCode.TRY_AGAIN_LATER,
        "the pod's network could not be removed",
        f"{error}; the address stays allocated until it can",
    )
