"""One try of an ADD, as ipamd knows it by name, and how what it was given goes back."""

from __future__ import annotations

import secrets
import threading
import time
from typing import Protocol

import structlog
from ipam_api.v1 import ipam_pb2 as pb

from cni_shim.allocations import pb_key
from cni_shim.ipam_client import IpamdError
from cni_shim.spec import AttachmentKey

log = structlog.get_logger()

ROLLBACK_SECONDS = 2.0
"""For a release that undoes something."""


class Releaser(Protocol):
    """The call that an attempt makes; `ipam_client.IpamClient` makes it."""

    def release(self, request: pb.ReleaseRequest, *, deadline_monotonic: float) -> pb.ReleaseReply:
        """See IpamClient.release."""


class Attempt:
    """One run of ADD: its name, its clock, and whether the launcher is still there."""

    def __init__(self, key: AttachmentKey, ipam: Releaser, *, deadline_monotonic: float) -> None:
        self.key = key
        self.attempt_id = secrets.token_hex(8)
        self.began_boottime = time.clock_gettime(time.CLOCK_BOOTTIME)
        self.deadline_monotonic = deadline_monotonic
        self._ipam = ipam
        self.is_settled = True  # False while ipamd may have given something that is not given back
        self._lock = threading.Lock()
        self._is_cancelled = False
        self._is_wiring = False

    @property
    def is_cancelled(self) -> bool:
        """True once nobody wants the result any more."""
        return self._is_cancelled

    def may_wire(self) -> bool:
        """Go from asking to wiring, unless it was cancelled; what is wired must be unwired
        before its address is released, so from here on only the verb itself gives it back."""
        with self._lock:
            self._is_wiring = not self._is_cancelled
            return self._is_wiring

    def restart_clock(self) -> None:
        """Begin anew for the tombstones: a release that we know of must not refuse this try."""
        self.began_boottime = time.clock_gettime(time.CLOCK_BOOTTIME)

    def ask_again(self) -> None:
        """Back from wiring to asking, for another address."""
        with self._lock:
            self._is_wiring = False

    def cancel(self) -> None:
        """The launcher has gone, or a DEL came. An Allocate that still waits is refused at once.

        Runs on a thread that must not wait, so the call that tells ipamd gets a thread of its own.
        """
        with self._lock:
            self._is_cancelled = True
            is_asking = not self._is_wiring
        if is_asking:
            self.release_soon()

    @property
    def is_wiring(self) -> bool:
        """True from `may_wire` until the address was given back."""
        return self._is_wiring

    def release_soon(self) -> None:
        """`release` on a thread of its own; without one it is left to the runtime's DEL."""
        try:
            threading.Thread(target=self.release, name="release", daemon=True).start()
        except RuntimeError as e:  # the limit of the process
            log.warning("rollback_unsent", key=str(self.key), error=str(e))

    def release(self) -> None:
        """Give back whatever this attempt was given, and refuse it anything more."""
        request = pb.ReleaseRequest(
            key=pb_key(self.key), attempt_id=self.attempt_id, reason="the ADD was cancelled"
        )
        try:
            self._ipam.release(request, deadline_monotonic=time.monotonic() + ROLLBACK_SECONDS)
        except IpamdError as e:
            # The runtime sends a DEL after an ADD that it killed; that one is queued if need be.
            log.warning("rollback_unsent", key=str(self.key), error=str(e))
