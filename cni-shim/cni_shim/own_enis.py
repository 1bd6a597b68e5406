"""Pods with an ENI of their own, as the verbs see them: asked before ipamd is, known by the kernel.

ipamd has no allocation for such a pod, so an ADD takes another way here, and a DEL or CHECK of a
key that is not in the cache looks at the kernel first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from ipam_api.v1 import ipam_pb2 as pb

from cni_shim import branch
from cni_shim.branch import PodFacts
from cni_shim.datapath.branch import BranchLink
from cni_shim.errors import CniError, CniErrorCode
from cni_shim.spec import AttachmentKey, CniRequest
from cni_shim.wanted import WantedNetwork


class Lookup(Protocol):
    """The API server's word of a pod; `kube_pod.PodLookup` asks for it."""

    def facts(self, namespace: str, name: str, *, deadline_monotonic: float) -> PodFacts:
        """See PodLookup.facts."""


class OwnEnis:
    """Finds the branch ENI of a pod. Safe from any thread."""

    def __init__(self, wanted: WantedNetwork, make_lookup: Callable[[], Lookup]) -> None:
        """`make_lookup` is called once, when the first pod must be asked for."""
        self._wanted = wanted
        self._make_lookup = make_lookup
        self._lookup: Lookup | None = None
        self._attempts: dict[AttachmentKey, str] = {}

    def link_for(self, request: CniRequest, *, deadline_monotonic: float) -> BranchLink | None:
        """What is to stand for the pod's own ENI; None for an ordinary pod.

        Raises CniError where the pod has one that cannot be used yet, and where nobody can tell: it
        would otherwise run without its security groups.
        """
        network = self._wanted.now(deadline_monotonic=deadline_monotonic)
        if not branch.may_be_branch(request, network):
            return None
        eni = branch.annotated(request.pod_annotations)
        if eni is None:
            facts = self._asked().facts(
                request.pod.namespace, request.pod.name, deadline_monotonic=deadline_monotonic
            )
            eni = branch.required(facts, request.pod.uid)
        if eni is None:
            return None
        if request.ipam_only is not None:
            raise CniError(
                CniErrorCode.INVALID_NETWORK_CONFIG,
                "a pod with a branch ENI needs vpc-cni as its main plugin",
                f"{eni.eni_id} is the pod's, and no other plugin can wire it",
            )
        return branch.link_of(eni, network, mtu=request.config.mtu)

    def note(self, key: AttachmentKey, attempt_id: str) -> None:
        """This attempt has wired the key."""
        self._attempts[key] = attempt_id

    def is_of(self, key: AttachmentKey, attempt_id: str) -> bool:
        """Whether this attempt was the last to wire the key, and it still stands."""
        return self._attempts.get(key) == attempt_id

    def forget(self, key: AttachmentKey) -> None:
        """The key is wired no more."""
        self._attempts.pop(key, None)

    def _asked(self) -> Lookup:
        if self._lookup is None:
            self._lookup = self._make_lookup()
        return self._lookup


def nobodys_own_enis() -> OwnEnis:
    """For a node whose pods have none."""
    return OwnEnis(WantedNetwork(pb.NodeNetwork()), _nobody_to_ask)


def _nobody_to_ask() -> Lookup:
    raise AssertionError("ENABLE_POD_ENI is off")
