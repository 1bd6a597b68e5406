"""CHECK: whether an attachment still is what its ADD made it.

Three witnesses: ipamd's ledger (cached where we have it), the runtime's prevResult, and the
kernel. Whatever they say that differs is told at once. What later plugins of the chain added is no
fault. A runtime may take a failed CHECK for a broken sandbox (CRI-O does after every ADD), so
everything that only means "not now" is code 11.

The caller (`verbs.Verbs`) holds the key's lock.
"""

from __future__ import annotations

from collections.abc import Mapping

from ipam_api.v1 import ipam_pb2 as pb

from cni_shim import prev_result
from cni_shim.allocations import PEER, addresses_of, branch_wiring_of, pb_key, wiring_of
from cni_shim.datapath.branch import Branch, BranchLink
from cni_shim.datapath.errors import DatapathError
from cni_shim.datapath.families import Address
from cni_shim.errors import CniError, CniErrorCode
from cni_shim.ipam_client import IpamdError
from cni_shim.ipam_only import MAIN_PLUGIN, delegation_of
from cni_shim.ports import Datapath, Delegates, Ipam
from cni_shim.results import Interface, Result
from cni_shim.spec import AttachmentKey, CniRequest


class Checker:
    """Compares what is recorded, what was answered and what stands."""

    def __init__(
        self,
        ipam: Ipam,
        datapath: Datapath,
        delegates: Delegates,
        cache: Mapping[AttachmentKey, pb.Allocation],
    ) -> None:
        self._ipam = ipam
        self._datapath = datapath
        self._delegates = delegates
        self._cache = cache

    def check(
        self,
        request: CniRequest,
        key: AttachmentKey,
        netns_fd: int,
        *,
        deadline_monotonic: float,
    ) -> None:
        """Nothing, or CniError: 7 without a usable prevResult, 11 where nobody can tell now, 103
        with everything that differs."""
        answered = _answered(request)
        branch = self._branch(request, key) if key not in self._cache else None
        if branch is not None:
            self._check_branch(request, key, netns_fd, branch, answered)
            return
        held = self._held(key, deadline_monotonic)
        problems = (
            *prev_result_problems(request.prev_result or {}, answered, key, addresses_of(held)),
            *self._kernel_problems(request, key, netns_fd, held, answered),
        )
        _refuse(key, problems)

    def _branch(self, request: CniRequest, key: AttachmentKey) -> Branch | None:
        """The pod's own ENI, as the kernel shows it: ipamd knows nothing of it."""
        pod, prefix = request.pod, request.config.veth_prefix
        try:
            return self._datapath.find_branch(
                key.container_id, key.ifname, pod.namespace, pod.name, prefix
            )
        except DatapathError as e:
            raise _not_now(e) from e

    def _check_branch(
        self,
        request: CniRequest,
        key: AttachmentKey,
        netns_fd: int,
        branch: Branch,
        answered: Result,
    ) -> None:
        link = BranchLink(branch=branch, mac="", trunk_mac="", mtu=request.config.mtu)
        wiring = branch_wiring_of(request, key, link)
        inside = _inside(answered, key)
        try:
            missing = self._datapath.check(
                netns_fd, wiring, pod_mac=inside.mac.lower() if inside is not None else ""
            )
        except DatapathError as e:
            raise _not_now(e) from e
        said = prev_result_problems(request.prev_result or {}, answered, key, branch.addresses)
        _refuse(key, (*said, *missing))

    def _held(self, key: AttachmentKey, deadline_monotonic: float) -> pb.Allocation:
        held = self._cache.get(key)
        if held is not None:
            return held
        try:
            held = self._ipam.get(pb_key(key), deadline_monotonic=deadline_monotonic)
        except IpamdError as e:
            raise e.cni from e
        if held is None:
            raise CniError(
                CniErrorCode.CHECK_MISMATCH, "ipamd holds no address for the attachment", str(key)
            )
        return held

    def _kernel_problems(
        self,
        request: CniRequest,
        key: AttachmentKey,
        netns_fd: int,
        held: pb.Allocation,
        answered: Result,
    ) -> tuple[str, ...]:
        if held.wired_by == PEER:  # nobody but its plugin knows what must stand
            return ()
        inside = _inside(answered, key)
        try:
            cookie = self._datapath.netns_cookie(netns_fd)
            if held.netns_cookie not in (0, cookie):
                return ("it was made in another network namespace than CNI_NETNS",)
            if held.wired_by == MAIN_PLUGIN:
                return self._delegates.check(delegation_of(request.ipam_only, held))
            return self._datapath.check(
                netns_fd,
                wiring_of(request, key, held),
                pod_mac=inside.mac.lower() if inside is not None else "",
            )
        except DatapathError as e:
            raise _not_now(e) from e


def _refuse(key: AttachmentKey, problems: tuple[str, ...]) -> None:
    """Raise CniError 103 with all of them, if there are any."""
    if problems:
        raise CniError(
            CniErrorCode.CHECK_MISMATCH,
            "the attachment is not as its ADD left it",
            f"{key}: {'; '.join(problems)}",
        )


def _not_now(error: DatapathError) -> CniError:
    return CniError(CniErrorCode.TRY_AGAIN_LATER, "the pod's network could not be read", str(error))


def prev_result_problems(
    document: Mapping[str, object],
    answered: Result,
    key: AttachmentKey,
    addresses: tuple[Address, ...],
) -> tuple[str, ...]:
    """What of ours is missing in the chain's final result: the interface, an address. Pure."""
    problems = []
    inside = _inside(answered, key)
    if inside is None and prev_result.names_interfaces(document):
        problems.append(f"prevResult has no interface {key.ifname} with a sandbox")
    for address in addresses:
        found = [ip for ip in answered.ips if ip.address.ip == address]
        if not found:
            problems.append(f"prevResult does not have {address}, which ipamd holds for it")
        elif inside is not None and not any(
            ip.interface is None or answered.interfaces[ip.interface] == inside for ip in found
        ):
            problems.append(f"prevResult has {address} on another interface")
    return tuple(problems)


def _answered(request: CniRequest) -> Result:
    if request.prev_result is None:
        raise CniError(
            CniErrorCode.INVALID_NETWORK_CONFIG,
            "CHECK without prevResult",
            "the runtime has to hand the result of the ADD over",
        )
    return prev_result.parse(request.prev_result)


def _inside(answered: Result, key: AttachmentKey) -> Interface | None:
    """The pod's end, as the result has it."""
    found = (i for i in answered.interfaces if i.name == key.ifname and i.sandbox)
    return next(found, None)
