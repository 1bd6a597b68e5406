"""One thread that hears when our nft table is changed or deleted.

A thread and socket of its own: `notices` is on the path of every DEL, and a rule set of
kube-proxy's comes as thousands of notices, of which nothing but the bytes is looked at here.
"""

from __future__ import annotations

import errno
import logging
import socket
import struct
import threading
from collections.abc import Callable

from cni_shim.datapath.notices import (
    FirewallChanged,
    Notice,
    NoticesLost,
    enlarge_buffer,
)
from cni_shim.datapath.ruleset import TABLE

# linux/netlink.h and linux/netfilter/nfnetlink.h; Python names neither.
_NETLINK_NETFILTER, _NFNLGRP_NFTABLES = 12, 7
_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP = 270, 1
_RECEIVE_BYTES = 65536
# Every notice about a table, and about what is in one, holds the table's name as text.
_OUR_TABLE = TABLE.encode() + b"\0"
# NFT_MSG_GETGEN, the shortest question there is: struct nlmsghdr, struct nfgenmsg.
_QUESTION = struct.pack("=IHHII", 20, 10 << 8 | 16, 1, 1, 0) + bytes(4)

_log = logging.getLogger(__name__)


class FirewallNotices:
    """Listens in the network namespace of the thread that makes it, from `start` to `close`.

    The callback runs on the listening thread: it must be short, block nothing and raise nothing.
    """

    def __init__(self, callback: Callable[[Notice], None]) -> None:
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
        self._socket = socket.socket(socket.AF_NETLINK, kind, _NETLINK_NETFILTER)
        enlarge_buffer(self._socket)
        self._socket.bind((0, 0))
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP, _NFNLGRP_NFTABLES)
        self._callback = callback
        self._is_closing = False
        self._thread = threading.Thread(target=self._listen, name="nft-notices", daemon=True)

    def start(self) -> None:
        """Begin to listen. Notices since the constructor ran are not lost."""
        self._thread.start()

    def close(self) -> None:
        """Stop the thread and close the socket. Idempotent."""
        if self._is_closing:
            return
        self._is_closing = True
        if self._thread.is_alive():
            # Any answer wakes the thread; closing the descriptor under a blocked recv would not.
            self._socket.send(_QUESTION)
            self._thread.join()
        self._socket.close()

    def _listen(self) -> None:
        while not self._is_closing:
            try:
                data = self._socket.recv(_RECEIVE_BYTES)
            except OSError as e:
                if e.errno != errno.ENOBUFS:
                    raise
                _log.warning("firewall_notices_lost")
                self._callback(NoticesLost())
                continue
            if _OUR_TABLE in data:
                self._callback(FirewallChanged())
