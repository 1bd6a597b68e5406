"""vpc-cnid as it is, but for the waits of its search for lost DELs: tenths of seconds."""

from __future__ import annotations

from functools import partial

from cni_shim import server
from cni_shim.leaks import Waits

WAITS = Waits(first=0.1, between=0.15, young=0.0, forgotten=1.5, confirm=0.4)

if __name__ == "__main__":
    server.Daemon = partial(server.Daemon, waits=WAITS)  # type: ignore[assignment,misc]
    server.main()
