"""The clocks, in one place, so that everything else takes time as an argument."""

from __future__ import annotations

import time
from pathlib import Path


def boottime() -> float:
    """Seconds since boot, suspend included; what cooldowns and tombstones are measured on."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def unix() -> float:
    """Wall time, for people and logs."""
    return time.time()


def boot_id() -> str:
    """The kernel's identity of this boot (random/boot_id in proc(5))."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
