"""Tells a fabric what changed between two versions of one ENI, of whichever cloud.

The cloud's state stands, whatever becomes of the wire: a failure is told, and not raised.
"""

from __future__ import annotations

import sys

from providers.sim.model import FabricListener, WiredEni

# An ENI as its wire needs it, and the namespace in which it appears.
Wire = tuple[WiredEni, str]


def rewire(listener: FabricListener, had: Wire | None, has: Wire | None) -> str:
    """Plug, unplug or readdress an ENI; None: without a wire. Returns what failed, or nothing."""
    if had == has:
        return ""
    try:
        if has is None:
            assert had is not None
            listener.unplug(had[0].eni_id)
        elif had is None:
            listener.plug(*has)
        else:
            listener.readdress(has[0])
    except Exception as error:  # noqa: BLE001 - the control socket's state() shows it
        print(f"fabric: {error!r}", file=sys.stderr)
        return f"{type(error).__name__}: {error}"
    return ""
