"""GC: release what the runtime does not know any more, of the network that it names.

The runtime's list is a strong hint, not the truth: a second runtime on the node (ctr, podman) has
attachments that it does not name. So a record stays whose host link of ours still stands, since a
link stands only while the pod's namespace lives; and one that another plugin wired, if a namespace
with its cookie is found. What aws-node's plugin wired is never touched. Everything else goes the
way of a DEL, one after the other, each under its key's lock and by its generation, so that what
came back meanwhile loses nothing. Errors are collected, and told when all was tried.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator

import structlog
from ipam_api.v1 import ipam_pb2 as pb

from cni_shim.allocations import PEER, key_of, pb_key
from cni_shim.datapath.errors import DatapathError
from cni_shim.delete import Teardown
from cni_shim.errors import CniError, CniErrorCode
from cni_shim.ipam_client import IpamdError
from cni_shim.ipam_only import MAIN_PLUGIN
from cni_shim.key_locks import KeyLocks
from cni_shim.ports import Datapath, Ipam
from cni_shim.spec import AttachmentKey, CniRequest

log = structlog.get_logger()

BUSY_SECONDS = 1.0
"""Waited for one key: a runtime runs GC while nothing else of its network runs."""

LIST_SECONDS = 5.0
"""For ipamd's list, with which all begins: a restart of ipamd takes a second or two, and a runtime
keeps its other verbs waiting over a GC."""

ERRORS_SHOWN = 20
"""In the error's details, which end in an event; the log has all of them."""


class Collector:
    """Releases stale attachments."""

    def __init__(
        self,
        ipam: Ipam,
        datapath: Datapath,
        teardown: Teardown,
        locks: KeyLocks,
        living: Callable[[], Collection[int]],
    ) -> None:
        """`living` finds cookies of network namespaces, as many as can be seen."""
        self._ipam = ipam
        self._datapath = datapath
        self._teardown = teardown
        self._locks = locks
        self._living = living

    def collect(self, request: CniRequest, *, deadline_monotonic: float) -> None:
        """Release all that is stale. Raises CniError 11 that names what could not be."""
        assert request.valid_attachments is not None
        patience = min(deadline_monotonic, time.monotonic() + LIST_SECONDS)
        try:
            allocations = tuple(self._ipam.list(deadline_monotonic=patience).allocations)
        except IpamdError as e:
            raise e.cni from e
        stale = stale_of(allocations, request.network_name, request.valid_attachments)
        failures = tuple(self._failures(request, stale, deadline_monotonic))
        log.info(
            "collected",
            network=request.network_name,
            valid=len(request.valid_attachments),
            stale=len(stale),
            failed=len(failures),
        )
        if failures:
            shown = "; ".join(failures[:ERRORS_SHOWN])
            raise CniError(
                CniErrorCode.TRY_AGAIN_LATER,
                f"{len(failures)} of {len(stale)} stale attachments could not be released",
                shown if len(failures) <= ERRORS_SHOWN else f"{shown}; and more, see the log",
            )

    def _failures(
        self, request: CniRequest, stale: tuple[pb.Allocation, ...], deadline_monotonic: float
    ) -> Iterator[str]:
        for allocation in stale:
            key = key_of(allocation)
            try:
                self._release(request, key, allocation, deadline_monotonic)
            except (CniError, IpamdError, DatapathError, TimeoutError) as e:
                log.warning("stale_stays", key=str(key), error=str(e))
                yield f"{key}: {e}"

    def _release(
        self,
        request: CniRequest,
        key: AttachmentKey,
        listed: pb.Allocation,
        deadline_monotonic: float,
    ) -> None:
        left = deadline_monotonic - time.monotonic()
        with self._locks.held(key, timeout_seconds=min(left, BUSY_SECONDS)):
            held = self._ipam.get(pb_key(key), deadline_monotonic=deadline_monotonic)
            if held is None or held.generation != listed.generation:
                return  # a DEL has come, or an ADD, since the list was made
            if self._is_alive(key, held, request.config.veth_prefix):
                log.error(
                    "stale_but_alive",
                    key=str(key),
                    address=held.address,
                    pod=f"{held.pod_namespace}/{held.pod_name}",
                    hint="the runtime does not list it, but its namespace lives; nothing was done",
                )
                return
            self._teardown.end(held, reason="GC", deadline_monotonic=deadline_monotonic)

    def _is_alive(self, key: AttachmentKey, held: pb.Allocation, veth_prefix: str) -> bool:
        if held.wired_by == MAIN_PLUGIN:
            return held.netns_cookie in self._living()
        return self._datapath.has_link(
            key.container_id, key.ifname, held.pod_namespace, held.pod_name, veth_prefix
        )


def stale_of(
    allocations: tuple[pb.Allocation, ...],
    network_name: str,
    valid: frozenset[AttachmentKey],
) -> tuple[pb.Allocation, ...]:
    """What of this network the runtime does not know, and may be released. Pure."""
    return tuple(
        allocation
        for allocation in allocations
        if allocation.network_name == network_name
        and allocation.wired_by != PEER
        and key_of(allocation) not in valid
    )
