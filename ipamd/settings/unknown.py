"""Variables that look like ours or aws-node's, but are in no table: a typing error, most likely."""

from __future__ import annotations

import re
from collections.abc import Iterable

PREFIXES = (
    "ANNOTATE_POD", "AWS_EXTERNAL_", "AZURE_ARM_", "AZURE_METADATA_",
    "AZURE_RESYNC", "AZURE_SCALE_SET_",
    "AZURE_WRITE_", "AWS_MANAGE_", "AWS_VPC_", "DISABLE_", "ENABLE_",
    "ENI_CONFIG_", "HOST_CNI_", "INTROSPECTION_", "IP_COOLDOWN", "MANAGE_UNTAGGED", "MAX_ENI",
    "MINIMUM_IP", "NETWORK_POLICY_", "POD_MTU", "POD_SECURITY_GROUP", "VPC_CNI_", "VPC_IPAMD_",
    "WARM_",
)  # fmt: skip
"""How the names of both tables begin, long enough to leave others' variables alone."""

OTHERS = frozenset({
    "VPC_CNI_DEADLINE_MS", "VPC_CNI_RUN_DIR", "VPC_IPAMD_CHAIN_PORTMAP", "VPC_IPAMD_CNI_CACHE_DIR",
    "VPC_IPAMD_CNI_CONF_NAME", "VPC_IPAMD_CRI_SOCKETS", "VPC_IPAMD_INSTANCE_TYPES",
    "VPC_IPAMD_LOST_DELS", "VPC_IPAMD_NETNS_DIRS", "VPC_IPAMD_NPA_SOCKET", "VPC_IPAMD_PROC_SYS_NET",
    "VPC_IPAMD_ROUTING_RULES", "VPC_IPAMD_SERVICE_ACCOUNT_DIR",
})  # fmt: skip
"""What the launcher, vpc-cnid, install-cni and ipamctl read: one environment serves all of them."""

_SERVICE = re.compile(r".*_(SERVICE_HOST|SERVICE_PORT(_.*)?|PORT(_[0-9]+_(TCP|UDP|SCTP).*)?)")
"""What kubelet adds for each service of the namespace (Kubernetes, "Service", environment)."""

CUTOFF = 0.7
"""difflib's likeness from which a name is suggested: its default 0.6 finds a likeness between any
two names with the same prefix."""


def unknown_names(names: Iterable[str], known: Iterable[str]) -> tuple[str, ...]:
    """A sentence for each name that is neither known nor somebody else's, in order of the names."""
    known = {*known, *OTHERS}
    strange = sorted(
        name
        for name in names
        if name not in known and name.upper().startswith(PREFIXES) and not _SERVICE.fullmatch(name)
    )
    return tuple(
        f"{name} is unknown and has no effect{_suggestion(name, known)}" for name in strange
    )


def _suggestion(name: str, known: Iterable[str]) -> str:
    # Late, because a node without a typing error never needs it.
    import difflib

    by_upper = {k.upper(): k for k in known}
    near = difflib.get_close_matches(name.upper(), sorted(by_upper), n=1, cutoff=CUTOFF)
    return f"; the nearest known name is {by_upper[near[0]]}" if near else ""
