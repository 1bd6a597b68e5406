"""The newest wanted network, as far as it decides about a pod: what verbs ask before they wire.

Between the start of vpc-cnid and ipamd's first word nobody knows whether pods need a policy or an
ENI of their own, so an ADD waits for that word instead of guessing; a DEL never does.
"""

from __future__ import annotations

import threading
import time

from ipam_api.v1 import ipam_pb2 as pb

from cni_shim.errors import CniError, CniErrorCode

PATIENCE_SECONDS = 5.0
"""ipamd speaks at once where it knows the node; a pod that fails sooner only costs the kubelet's
back-off."""


class WantedNetwork:
    """Written by the thread that watches ipamd, read by every verb."""

    def __init__(self, network: pb.NodeNetwork | None = None) -> None:
        self._network = network
        self._is_known = threading.Event()
        if network is not None:
            self._is_known.set()

    def take(self, network: pb.NodeNetwork) -> None:
        """A new one has come."""
        self._network = network
        self._is_known.set()

    @property
    def known(self) -> pb.NodeNetwork | None:
        """What ipamd said last, None before its first word."""
        return self._network

    def now(self, *, deadline_monotonic: float) -> pb.NodeNetwork:
        """What ipamd said last; waits for its first word. Raises CniError 11 without one."""
        if self._network is None:
            left = min(deadline_monotonic - time.monotonic(), PATIENCE_SECONDS)
            self._is_known.wait(timeout=max(left, 0.0))
        if self._network is None:
            raise CniError(
                CniErrorCode.TRY_AGAIN_LATER,
                "ipamd has not yet said what pods of this node need",
                "vpc-cnid has just started, and waits for its first WatchNode; see ipamctl status",
            )
        return self._network
