"""vpc-cnid's half of the verbs on a real socket, with an ipamd and a kernel that are fakes.

The worker of a connection is the real one, `serving.Server`; only who may connect is not asked, so
that the tests run without root.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cni_shim.hangups import Hangups
from cni_shim.serving import Server
from cni_shim.status import Silence

from tests.cni_bench import Bench


class Node:
    """What stands behind the socket."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.bench = Bench()
        self.silence = Silence(seen_at=None)
        self.silence.heard()
        self.host_problem = ""

    @contextmanager
    def serving(self) -> Iterator[None]:
        """Serve every launcher within the block."""
        server = Server(
            self.bench.verbs,
            self.bench.ipam,
            Hangups(),
            silence=self.silence,
            host_problem=lambda: self.host_problem,
        )
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(self.run_dir / "cni.sock"))
            listener.listen()
            thread = threading.Thread(target=_accept, args=(listener, server), daemon=True)
            thread.start()
            yield
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(5)
        (self.run_dir / "cni.sock").unlink()


def _accept(listener: socket.socket, server: Server) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        threading.Thread(target=server.handle, args=(connection,), daemon=True).start()
