"""vpc-cnid as it is, but for one thing: it says that connections were cleared, and clears none."""

from __future__ import annotations

from cni_shim import server
from cni_shim.datapath.conntrack import Conntrack

if __name__ == "__main__":
    Conntrack.delete_entries_of = lambda self, addresses: 0  # type: ignore[method-assign]
    server.main()
