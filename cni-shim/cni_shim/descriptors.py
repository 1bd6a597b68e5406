"""How many files vpc-cnid may have open."""

from __future__ import annotations

import resource

DESCRIPTORS = 4096
"""A request has up to five: its connection, the pod's namespace and a socket in there, its thread's
netlink socket and connection to ipamd. With every thread at work, and those that delete links, that
is past 1024, which is all that a service or container usually gets (systemd.exec, LimitNOFILE)."""


def allow_descriptors() -> None:
    """Raise the process's limit to `DESCRIPTORS`, or as near as is allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(DESCRIPTORS, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
