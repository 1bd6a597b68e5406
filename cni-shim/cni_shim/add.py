"""The way up of an attachment: an address from ipamd, the wiring, the result.

Whatever fails undoes what was done, by the name of this attempt. What comes between the pod's
wiring and its result belongs into `_finish`, and what it built into `Teardown.delete` and `undo`.

Every method wants the key's lock held by its caller (`verbs.Verbs`).
"""

from __future__ import annotations

import errno
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import structlog
from ipam_api.v1 import ipam_pb2 as pb

from cni_shim import ipam_only
from cni_shim.allocations import PEER, branch_wiring_of, pair_of, pb_key, wiring_of
from cni_shim.attempt import ROLLBACK_SECONDS, Attempt
from cni_shim.datapath.begun import Begun
from cni_shim.datapath.branch import BranchLink
from cni_shim.datapath.errors import AddressInUse, DatapathError, ForeignInterface
from cni_shim.datapath.families import ANYWHERE, host_on_link
from cni_shim.datapath.names import POD_GATEWAYS
from cni_shim.datapath.wiring import PodWiring, Wired
from cni_shim.delete import Teardown
from cni_shim.errors import CniError, CniErrorCode
from cni_shim.ipam_client import IpamdError
from cni_shim.ipam_only import IpamOnly
from cni_shim.own_enis import OwnEnis
from cni_shim.pod_mtu import PodMtu
from cni_shim.ports import Datapath, Delegates, Ipam, Policies
from cni_shim.results import Interface, Ip, Result, Route
from cni_shim.spec import AttachmentKey, CniRequest
from cni_shim.wanted import WantedNetwork

log = structlog.get_logger()

ADD_WAIT_SECONDS = 25.0
"""How long an ADD waits for an address. A failed ADD costs the pod 10 s and more in the kubelet's
back-off, so waiting is better; past half a minute it only blocks the runtime's locks."""

ANSWER_MARGIN_SECONDS = 1.0
"""Kept back from the launcher's deadline for undoing and answering."""

ADDRESS_TRIES = 4
"""Addresses tried when the kernel already uses the one that was given: each is quarantined."""


class Setup:
    """Gives attachments their addresses and wires them."""

    def __init__(
        self,
        ipam: Ipam,
        datapath: Datapath,
        delegates: Delegates,
        cache: dict[AttachmentKey, pb.Allocation],
        teardown: Teardown,
        policies: Policies,
        own_enis: OwnEnis,
        wanted: WantedNetwork,
        pod_mtu: PodMtu,
    ) -> None:
        self._ipam = ipam
        self._datapath = datapath
        self._delegates = delegates
        self._cache = cache
        self._teardown = teardown
        self._policies = policies
        self._own_enis = own_enis
        self._wanted = wanted
        self._pod_mtu = pod_mtu

    def add(self, request: CniRequest, netns_fd: int, attempt: Attempt) -> Result:
        """The result, or CniError with everything undone, an answer that was lost included."""
        try:
            return self._add(request, netns_fd, attempt)
        except CniError:
            if attempt.is_wiring:
                self._teardown.undo(request, attempt)
            elif not attempt.is_settled:
                attempt.release_soon()  # nothing is wired, and the answer must not wait for ipamd
            raise
        except Exception:
            self._teardown.undo(request, attempt)
            raise

    def _add(self, request: CniRequest, netns_fd: int, attempt: Attempt) -> Result:
        if request.ipam_only is None:
            self._policies.refuse_early(
                request.pod, attempt.key, deadline_monotonic=_deadline(attempt)
            )
            request = self._with_mtu(request, attempt)
        link = self._own_enis.link_for(request, deadline_monotonic=_deadline(attempt))
        with self._begun(netns_fd, request) as begun:
            if link is not None:
                return self._add_branch(request, netns_fd, begun, attempt, link)
            return self._add_begun(request, netns_fd, begun, attempt)

    def _with_mtu(self, request: CniRequest, attempt: Attempt) -> CniRequest:
        """The request, with an MTU where its configuration names none."""
        if request.config.mtu:
            return request
        mtu = self._pod_mtu.now(deadline_monotonic=_deadline(attempt))
        return replace(request, config=replace(request.config, mtu=mtu))

    def _add_branch(
        self,
        request: CniRequest,
        netns_fd: int,
        begun: Begun,
        attempt: Attempt,
        link: BranchLink,
    ) -> Result:
        """A pod with an ENI of its own: its address is in its annotation, none of ipamd's."""
        wiring = branch_wiring_of(request, attempt.key, link)
        if not attempt.may_wire():
            raise _cancelled()
        try:
            wired = self._wire(netns_fd, wiring, begun, is_repeat=True)
        except DatapathError as e:
            raise _setup_error(e, request) from e
        self._own_enis.note(attempt.key, attempt.attempt_id)
        return self._finish(request, attempt, None, wiring, wired)

    def _add_begun(
        self, request: CniRequest, netns_fd: int, begun: Begun, attempt: Attempt
    ) -> Result:
        in_use = ""
        for _ in range(ADDRESS_TRIES):
            reply = self._allocate(request, begun, attempt)
            _refuse_peers(reply.allocation, attempt)
            if not attempt.may_wire():
                if reply.is_repeat:  # the attempt's release ends what an earlier one wired
                    self._teardown.undo(request, attempt)
                raise _cancelled()
            try:
                if request.ipam_only is not None:
                    return self._delegate(request.ipam_only, attempt, reply)
                wiring = wiring_of(
                    request,
                    attempt.key,
                    reply.allocation,
                    egress_version=self._egress_version(attempt),
                )
                wired = self._wire(netns_fd, wiring, begun, is_repeat=reply.is_repeat)
            except AddressInUse as e:
                in_use = str(e)
                self._give_back(attempt, reply.allocation, in_use, is_foreign_use=True)
                if attempt.is_cancelled:
                    break
                continue
            except DatapathError as e:
                # What an earlier try wired, or this one could not undo, goes before its address.
                self._teardown.unwire(request, attempt.key, reply.allocation)
                self._give_back(attempt, reply.allocation, str(e))
                raise _setup_error(e, request) from e
            return self._finish(request, attempt, reply.allocation, wiring, wired)
        raise CniError(
            CniErrorCode.TRY_AGAIN_LATER,
            "the kernel already uses every address that was tried",
            f"{in_use}; they are quarantined, see ipamctl status",
        )

    def _delegate(self, wish: IpamOnly, attempt: Attempt, reply: pb.AllocateReply) -> Result:
        """Another plugin wires the pod: what the host needs, and its answer."""
        delegation = ipam_only.delegation_of(wish, reply.allocation)
        self._delegates.put(attempt.key, delegation, is_repeat=reply.is_repeat)
        self._cache[attempt.key] = reply.allocation
        if attempt.is_cancelled:
            raise _cancelled()
        return ipam_only.result_of(wish, reply.allocation)

    def _finish(
        self,
        request: CniRequest,
        attempt: Attempt,
        allocation: pb.Allocation | None,
        wiring: PodWiring,
        wired: Wired,
    ) -> Result:
        """The pod is wired; a CniError from here on has everything undone by `add`."""
        if allocation is not None:
            self._cache[attempt.key] = allocation
        if not attempt.is_cancelled:
            self._policies.enforce(request.pod, attempt.key, deadline_monotonic=_deadline(attempt))
        if attempt.is_cancelled:
            raise _cancelled()
        return _result(request, wiring, wired)

    @contextmanager
    def _begun(self, netns_fd: int, request: CniRequest) -> Iterator[Begun]:
        with ExitStack() as stack:
            try:
                begun = stack.enter_context(self._datapath.begun(netns_fd))
            except DatapathError as e:
                is_none = e.errno == errno.EINVAL
                raise CniError(
                    CniErrorCode.INVALID_NETNS if is_none else CniErrorCode.TRY_AGAIN_LATER,
                    f"CNI_NETNS {'is no network namespace' if is_none else 'cannot be used now'}",
                    f"{request.netns_path}: {e}",
                ) from e
            yield begun

    def _allocate(self, request: CniRequest, begun: Begun, attempt: Attempt) -> pb.AllocateReply:
        """Ask ipamd; an attachment that still stands in another namespace is torn down first."""
        deadline = _deadline(attempt)

        def meanwhile() -> None:
            if request.ipam_only is None:
                begun.make_pair(pair_of(request, attempt.key))
                begun.list_rules()

        for is_last in (False, True):
            wanted = pb.AllocateRequest(
                key=pb_key(attempt.key),
                network_name=request.network_name,
                attempt_id=attempt.attempt_id,
                netns_cookie=begun.netns_cookie,
                pod_namespace=request.pod.namespace,
                pod_name=request.pod.name,
                pod_uid=request.pod.uid,
                wait_seconds=ADD_WAIT_SECONDS,
                began_boottime=attempt.began_boottime,
                eni=request.ipam_only.eni if request.ipam_only else "",
                is_ipam_only=request.ipam_only is not None,
            )
            attempt.is_settled = False
            try:
                return self._ipam.allocate(
                    wanted,
                    deadline_monotonic=deadline,
                    meanwhile=meanwhile,
                    is_over=lambda: attempt.is_cancelled,
                )
            except IpamdError as e:
                # ipamd's own word means that nothing was given; silence means anything.
                attempt.is_settled = not e.is_away
                if is_last or e.reason != pb.ErrorDetail.ATTACHMENT_CONFLICT:
                    raise e.cni from e
            log.info("old_attachment_torn_down", key=str(attempt.key))
            begun.discard_pair()  # it would be taken for a link of the old one
            self._tear_down_old(request, attempt)
        raise AssertionError("the loop returns or raises")

    def _tear_down_old(self, request: CniRequest, attempt: Attempt) -> None:
        """Same key, other namespace: the runtime lost a DEL. Take the old one down by generation.

        By generation, because a plain release would also refuse this very attempt afterwards.
        """
        deadline = _deadline(attempt)
        try:
            old = self._ipam.get(pb_key(attempt.key), deadline_monotonic=deadline)
            if old is None:
                return
            _refuse_peers(old, attempt)
            self._teardown.unwire(request, attempt.key, old)
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

    def _egress_version(self, attempt: Attempt) -> int:
        """The family of which a pod's first attachment gets a node-local address; 0 for none."""
        network = self._wanted.now(deadline_monotonic=_deadline(attempt))
        if attempt.key.ifname != "eth0":
            return 0
        return 4 if network.policy.v4_egress else 6 if network.policy.v6_egress else 0

    def _wire(self, netns_fd: int, wiring: PodWiring, begun: Begun, *, is_repeat: bool) -> Wired:
        standing = self._datapath.inspect(netns_fd, wiring) if is_repeat else None
        return standing or self._datapath.wire(netns_fd, wiring, begun)

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


def _deadline(attempt: Attempt) -> float:
    return attempt.deadline_monotonic - ANSWER_MARGIN_SECONDS


def _cancelled() -> CniError:
    return CniError(
        CniErrorCode.TRY_AGAIN_LATER,
        "the ADD was cancelled",
        "its launcher has gone, or a DEL came",
    )


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


def _setup_error(error: DatapathError, request: CniRequest) -> CniError:
    details = str(error)
    if isinstance(error, ForeignInterface):
        details += "; something else made it, and vpc-cni does not touch it"
    return CniError(
        CniErrorCode.INTERFACE_SETUP,
        f"cannot set {request.netns_path} up",
        details,
    )


_DEFAULT_ROUTES = {
    version: Route(dst=ANYWHERE[version], gateway=gateway)
    for version, gateway in POD_GATEWAYS.items()
}


def _result(request: CniRequest, wiring: PodWiring, wired: Wired) -> Result:
    """Host end first, pod end second: portmap and bandwidth look for them in this order. A further
    attachment of a pod has no part in the default route, and says so."""
    return Result(
        interfaces=(
            Interface(name=wired.host_ifname, mac=wired.host_mac, mtu=wiring.mtu),
            Interface(
                name=wiring.ifname,
                mac=wired.pod_mac,
                mtu=wiring.mtu,
                sandbox=request.netns_path,
            ),
        ),
        ips=tuple(
            Ip(address=host_on_link(address), interface=1, gateway=POD_GATEWAYS[address.version])
            for address in wiring.addresses
        ),
        routes=tuple(
            _DEFAULT_ROUTES[address.version]
            for address in wiring.addresses
            if address.version not in wired.own_table_versions
        ),
    )
