"""The MTU of pods' links where the network configuration names none: what an ADD asks.

On EC2 it is a number; on Azure that of the primary ENI's link, as the NIC came with it: there 1500
is usual, larger frames are another NIC's and another VM's, and what is too large is lost.
"""

from __future__ import annotations

import threading
import time

from cni_shim.errors import CniError, CniErrorCode

PATIENCE_SECONDS = 5.0
"""The first round of the host's network follows ipamd's first word at once."""


class PodMtu:
    """Written by the thread that sees to the host's network, read by every ADD."""

    def __init__(self, fixed: int | None) -> None:
        """`fixed` is the number, None for the primary ENI's."""
        self._is_fixed = fixed is not None
        self._mtu = fixed or 0
        self._is_known = threading.Event()
        if self._mtu:
            self._is_known.set()

    def take(self, primary_mtu: int) -> None:
        """The primary ENI's link has this MTU; 0: it was not seen, which changes nothing."""
        if primary_mtu and not self._is_fixed:
            self._mtu = primary_mtu
            self._is_known.set()

    def now(self, *, deadline_monotonic: float) -> int:
        """The MTU; waits for the first look at the link. Raises CniError 11 without one."""
        if not self._mtu:
            left = min(deadline_monotonic - time.monotonic(), PATIENCE_SECONDS)
            self._is_known.wait(timeout=max(left, 0.0))
        if not self._mtu:
            raise CniError(
                CniErrorCode.TRY_AGAIN_LATER,
                "the MTU of the primary ENI is not known yet",
                "vpc-cnid has not seen its link; see ipamctl status, or set POD_MTU",
            )
        return self._mtu
