"""The verbs, one at a time for each attachment: what the server and the delete queue call.

This holds what they share: the lock of each key and the cache of ipamd's allocations. The work
itself is in `add` (the way up), `delete` (the way down), `check` and `gc`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress

from ipam_api.v1 import ipam_pb2 as pb

from cni_shim.add import ANSWER_MARGIN_SECONDS, Setup
from cni_shim.allocations import PEER, addresses_of, key_of, pb_key
from cni_shim.attempt import Attempt
from cni_shim.check import Checker
from cni_shim.datapath.desired import DEFAULT_ENI_MTU
from cni_shim.datapath.pod_routing import Held
from cni_shim.delete import GET_SECONDS, Deleted, Teardown
from cni_shim.errors import CniError, CniErrorCode
from cni_shim.gc import Collector
from cni_shim.ipam_client import IpamdError
from cni_shim.ipam_only import MAIN_PLUGIN, delegation_of
from cni_shim.key_locks import KeyLocks
from cni_shim.own_enis import OwnEnis, nobodys_own_enis
from cni_shim.pod_mtu import PodMtu
from cni_shim.ports import Datapath, Delegates, Ipam, NoPolicies, Policies
from cni_shim.results import Result
from cni_shim.spec import AttachmentKey, CniRequest
from cni_shim.wanted import WantedNetwork


class Verbs:
    """Serves all launchers; one method call per request, on its worker thread."""

    def __init__(
        self,
        ipam: Ipam,
        datapath: Datapath,
        *,
        delegates: Delegates,
        queue_release: Callable[[CniRequest], None],
        finish_queued: Callable[[AttachmentKey], None],
        living: Callable[[], Collection[int]] = frozenset,
        policies: Policies | None = None,
        own_enis: OwnEnis | None = None,
        wanted: WantedNetwork | None = None,
        pod_mtu: PodMtu | None = None,
    ) -> None:
        """`queue_release` puts a DEL into the durable queue; `finish_queued` does one that waits
        there, with the key's lock held. Both raise CniError. `living` finds cookies of network
        namespaces, for GC."""
        self._ipam = ipam
        self._locks = KeyLocks()
        self._cache: dict[AttachmentKey, pb.Allocation] = {}
        self._adding: dict[str, Attempt] = {}
        self._finish_queued = finish_queued
        self._delegates = delegates
        policies = policies or NoPolicies()
        self._own_enis = own_enis or nobodys_own_enis()
        self._teardown = Teardown(
            ipam, datapath, delegates, self._cache, queue_release, policies, self._own_enis
        )
        self._setup = Setup(
            ipam,
            datapath,
            delegates,
            self._cache,
            self._teardown,
            policies,
            self._own_enis,
            wanted or WantedNetwork(pb.NodeNetwork()),
            pod_mtu or PodMtu(DEFAULT_ENI_MTU),
        )
        self._checker = Checker(ipam, datapath, delegates, self._cache)
        self._collector = Collector(ipam, datapath, self._teardown, self._locks, living)

    def recall(self, *, deadline_monotonic: float) -> None:
        """Fill the cache from ipamd's list, so that a DEL need not ask. Raises IpamdError.

        What a verb has worked on since the question is left out: a DEL may have ended what the
        answer still holds, and what is recalled after its end nobody would ever forget.
        """
        with self._locks.noting() as worked_on:
            reply = self._ipam.list(deadline_monotonic=deadline_monotonic)
            for allocation in reply.allocations:
                key = key_of(allocation)
                with suppress(TimeoutError), self._locks.held(key, timeout_seconds=0.0):
                    if key not in worked_on:
                        self._remember(key, allocation)

    def _remember(self, key: AttachmentKey, allocation: pb.Allocation) -> None:
        if allocation.wired_by != PEER:
            self._cache.setdefault(key, allocation)
        if allocation.wired_by == MAIN_PLUGIN:
            self._delegates.recall(key, delegation_of(None, allocation))

    def held(self) -> Held:
        """The addresses of attachments, as far as they are known here without asking."""
        return {
            (key.container_id, key.ifname): addresses_of(allocation)
            for key, allocation in list(self._cache.items())
        }

    def locked(self, key: AttachmentKey, *, timeout_seconds: float) -> AbstractContextManager[None]:
        """The lock that verbs for this key hold; for the queue and the sweep of leftovers."""
        return self._locks.held(key, timeout_seconds=timeout_seconds)

    @contextmanager
    def unheld(self, container_id: str, ifname: str) -> Iterator[bool]:
        """Within the block the key is locked; True if ipamd has nothing for it. False at once where
        a verb is at work on the key, and where ipamd cannot tell."""
        key = AttachmentKey(container_id=container_id, ifname=ifname)
        with ExitStack() as stack:
            try:
                stack.enter_context(self._locks.held(key, timeout_seconds=0.0))
                deadline = time.monotonic() + GET_SECONDS
                is_unheld = self._ipam.get(pb_key(key), deadline_monotonic=deadline) is None
            except (TimeoutError, IpamdError):
                is_unheld = False
            yield is_unheld

    def is_busy(self, key: AttachmentKey) -> bool:
        """Whether a verb, or somebody else with `locked`, is at work on the key."""
        return self._locks.is_held(key)

    def end_leak(
        self, held: pb.Allocation, *, reason: str, deadline_monotonic: float
    ) -> pb.ReleaseReply:
        """Do the DEL that the runtime lost, for this very allocation; the caller holds the key's
        lock. Raises CniError where the kernel refuses, IpamdError where ipamd does."""
        return self._teardown.end(held, reason=reason, deadline_monotonic=deadline_monotonic)

    def add(self, request: CniRequest, netns_fd: int, attempt: Attempt) -> Result:
        """Give the attachment an address and wire it. Raises CniError; then nothing stays."""
        left = attempt.deadline_monotonic - time.monotonic() - ANSWER_MARGIN_SECONDS
        self._adding[attempt.attempt_id] = attempt
        try:
            with self._locks.held(attempt.key, timeout_seconds=left):
                self._finish_queued(attempt.key)
                # What released the key before we held its lock was of an earlier try.
                attempt.restart_clock()
                return self._setup.add(request, netns_fd, attempt)
        except TimeoutError as e:
            raise _busy(e) from e
        finally:
            del self._adding[attempt.attempt_id]

    def undo_locked(self, request: CniRequest, attempt: Attempt) -> None:
        """Take an ADD back whose answer could not be delivered; the key is not held."""
        with self._locks.held(attempt.key, timeout_seconds=60.0):
            held = self._cache.get(attempt.key)
            is_its = held is not None and held.attempt_id == attempt.attempt_id
            if is_its or self._own_enis.is_of(attempt.key, attempt.attempt_id):
                self._teardown.undo(request, attempt)

    def delete(
        self, request: CniRequest, key: AttachmentKey, *, deadline_monotonic: float
    ) -> Deleted:
        """Tear the attachment down and release its address. Success for what never was.

        An ADD of the key that still runs is cancelled: it may wait for an address for longer than
        a DEL may take. That happens where a runtime has died and its next life cleans up.

        Raises CniError 11 when the kernel refuses, or when neither ipamd nor the queue takes the
        release; the runtime then tries again.
        """
        for attempt in tuple(self._adding.values()):
            if attempt.key == key:
                attempt.cancel()
        left = deadline_monotonic - time.monotonic()
        try:
            with self._locks.held(key, timeout_seconds=left):
                return self._teardown.delete(request, key, deadline_monotonic=deadline_monotonic)
        except TimeoutError as e:
            raise _busy(e) from e

    def delete_held(
        self, request: CniRequest, key: AttachmentKey, *, deadline_monotonic: float
    ) -> bool:
        """`delete` for a caller that holds the key's lock; False if the release was only queued."""
        deleted = self._teardown.delete(request, key, deadline_monotonic=deadline_monotonic)
        deleted.tell()
        return not deleted.is_queued

    def check(
        self,
        request: CniRequest,
        key: AttachmentKey,
        netns_fd: int,
        *,
        deadline_monotonic: float,
    ) -> None:
        """Compare the attachment with what its ADD made. Raises CniError; see `check.Checker`."""
        deadline = deadline_monotonic - ANSWER_MARGIN_SECONDS
        try:
            with self._locks.held(key, timeout_seconds=deadline - time.monotonic()):
                self._checker.check(request, key, netns_fd, deadline_monotonic=deadline)
        except TimeoutError as e:
            raise _busy(e) from e

    def collect(self, request: CniRequest, *, deadline_monotonic: float) -> None:
        """Release what GC does not name. Raises CniError 11; see `gc.Collector`."""
        self._collector.collect(request, deadline_monotonic=deadline_monotonic)


def _busy(error: TimeoutError) -> CniError:
    return CniError(CniErrorCode.TRY_AGAIN_LATER, "the attachment is busy", str(error))
