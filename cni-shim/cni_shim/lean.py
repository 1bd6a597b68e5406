"""What keeps vpc-cnid small: modules that its libraries load where they can, and it hardly uses.

structlog loads asyncio (as grpc would), which loads ssl (2 MB) and does without where there is
none; structlog loads rich for its tracebacks on a terminal where rich is installed (6 MB). Called
by `__main__` before anything else is imported, and nowhere else: other programs need them.
"""

from __future__ import annotations

import sys

SPARED = ("rich", "ssl")


def spare_memory() -> None:
    """Have imports of the spared modules fail as if they were not installed."""
    for name in SPARED:
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]  # None is what import looks for


def allow(name: str) -> None:
    """Let a spared module be imported after all, where the rare case has come that needs it."""
    if sys.modules.get(name, sys) is None:
        del sys.modules[name]
