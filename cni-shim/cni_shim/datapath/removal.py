"""Deleting a host veth without waiting for the kernel's RCU barrier.

The DELLINK system call returns 10-20 ms after the link is gone: it waits, with the rtnl lock given
back, until no CPU can still hold the device. So the call runs on another thread, and the caller
goes on when the RTM_DELLINK notice for the ifindex arrives. The acknowledgement is the fallback
where the notice was lost, and the only source of errors.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from queue import Empty, SimpleQueue

from cni_shim.datapath import messages
from cni_shim.datapath.errors import DatapathError
from cni_shim.datapath.netlink import HostNetlink
from cni_shim.datapath.notices import LinkNotices

# A thread stays in its call for about 20 ms after its caller has gone on; the barriers of several
# overlap. With 16 threads a burst of 50 DELs took three times as long as with 50.
_THREADS = 64
# The kernel's acknowledgement comes within 30 ms; more means that the rtnl lock is stuck.
_TIMEOUT_SECONDS = 30.0


_ACKNOWLEDGED = "acknowledged"


class LinkRemover:
    """Deletes links by index. Thread-safe."""

    def __init__(self, netlink: HostNetlink, notices: LinkNotices) -> None:
        self._netlink = netlink
        self._notices = notices
        self._executor = ThreadPoolExecutor(_THREADS, thread_name_prefix="link-removal")

    def close(self) -> None:
        """Wait for the deletions under way."""
        self._executor.shutdown()

    def remove(self, ifindex: int) -> None:
        """Delete the link; returns once it is unlisted. A link that is gone already is success."""
        with self.removing(ifindex):
            pass

    @contextmanager
    def removing(self, ifindex: int) -> Iterator[None]:
        """Start to delete the link, run the block, and end the block when the link is unlisted."""
        outcome: SimpleQueue[str | DatapathError] = SimpleQueue()
        with self._notices.removal_of(ifindex, outcome):
            try:
                self._executor.submit(self._delete, ifindex, outcome)
            except RuntimeError:  # no thread is to be had: it takes the kernel's time, and is done
                self._delete(ifindex, outcome)
            yield
            try:
                said = outcome.get(timeout=_TIMEOUT_SECONDS)
            except Empty:
                raise DatapathError(f"delete link {ifindex}", errno.ETIMEDOUT) from None
        if isinstance(said, DatapathError):
            raise said

    def _delete(self, ifindex: int, outcome: SimpleQueue[str | DatapathError]) -> None:
        try:
            self._netlink.socket().execute((messages.delete_link(ifindex),))
        except DatapathError as e:
            outcome.put(_ACKNOWLEDGED if e.errno == errno.ENODEV else e)
        else:
            outcome.put(_ACKNOWLEDGED)
