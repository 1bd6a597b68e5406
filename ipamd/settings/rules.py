"""How settings bear on each other: what one forces, what cannot be together, what has no effect."""

from __future__ import annotations

from ipamd.settings.clouds import is_azure
from ipamd.settings.draft import Draft
from ipamd.settings.values import allowed_tags, usable_cidrs

TARGETS = ("WARM_ENI_TARGET", "WARM_IP_TARGET", "MINIMUM_IP_TARGET", "WARM_PREFIX_TARGET")
CONNMARK = "AWS_VPC_K8S_CNI_CONNMARK"
CIDR_LISTS = ("AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS", "AWS_EXTERNAL_SERVICE_CIDRS")
ENI_MARK_BITS = 0x7F
"""The bits of a packet's mark that name its pod's ENI: `cni_shim.datapath.names.MARK_MASK`."""

MTU_MIN_V6 = 1280
"""The least MTU of an IPv6 link (RFC 8200, section 5); aws-node has the same bound."""


def settle(draft: Draft) -> None:
    """Let the values hold that others force."""
    _settle_families(draft)
    _settle_tags(draft)
    _settle_cidrs(draft)
    _settle_log_level(draft)
    for by in (
        "DISABLE_LEAKED_ENI_CLEANUP",
        "ENABLE_IPv6",
        "DISABLE_NETWORK_RESOURCE_PROVISIONING",
    ):
        if draft.flag(by):
            draft.force("VPC_IPAMD_ORPHAN_CLEANUP", value=False, by=by)
    if draft.flag("DISABLE_INTROSPECTION"):
        draft.force("INTROSPECTION_BIND_ADDRESS", "", by="DISABLE_INTROSPECTION")
    if draft.flag("DISABLE_METRICS"):
        draft.force("VPC_IPAMD_METRICS_PORT", 0, by="DISABLE_METRICS")
    if draft.path("VPC_IPAMD_STORE_DIR") is None:
        draft.force("VPC_IPAMD_STORE_DIR", draft.path("VPC_IPAMD_RUN_DIR"), by="VPC_IPAMD_RUN_DIR")


def _settle_families(draft: Draft) -> None:
    """One family unless told otherwise: an unset ENABLE_IPv4 gives way to ENABLE_IPv6."""
    if draft.flag("ENABLE_IPv6") and not draft.is_set("ENABLE_IPv4"):
        draft.force("ENABLE_IPv4", value=False, by="ENABLE_IPv6")


def _settle_tags(draft: Draft) -> None:
    name = "ADDITIONAL_ENI_TAGS"
    draft.values[name], dropped = allowed_tags(draft.tags(name))
    draft.warnings.extend(f"{name}: the reserved key {key!r} is left out" for key in dropped)


def _settle_cidrs(draft: Draft) -> None:
    for name in CIDR_LISTS:
        draft.values[name], dropped = usable_cidrs(draft.text(name))
        draft.warnings.extend(f"{name}: {word!r} is no IPv4 CIDR, left out" for word in dropped)


def _settle_log_level(draft: Draft) -> None:
    """aws-node's level counts where ours is not set."""
    ours, theirs = "VPC_IPAMD_LOG_LEVEL", "AWS_VPC_K8S_CNI_LOGLEVEL"
    if not draft.is_set(theirs):
        return
    if draft.is_set(ours):
        draft.note(theirs, f"has no effect: {ours} is set")
    else:
        word = {"warn": "warning", "fatal": "error"}
        level = draft.text(theirs)
        draft.force(ours, word.get(level, level), by=theirs)


def refuse(draft: Draft) -> None:
    """What cannot be together. The first five are refusals of aws-node too."""
    v4, v6 = draft.flag("ENABLE_IPv4"), draft.flag("ENABLE_IPv6")
    has_prefixes = draft.flag("ENABLE_PREFIX_DELEGATION")
    has_custom = draft.flag("AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG")
    targets = TARGETS[1:]
    mark = draft.text(CONNMARK)
    refusals = [
        (v4 == v6, f"exactly one of ENABLE_IPv4 and ENABLE_IPv6 must be true, not {_both(v4)}"),
        (v6 and not has_prefixes, "ENABLE_IPv6=true needs ENABLE_PREFIX_DELEGATION=true"),
        (
            v6 and has_custom,
            "ENABLE_IPv6=true and AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG=true exclude each other",
        ),
        (
            has_prefixes and not is_azure(draft) and not any(map(draft.whole, targets)),
            f"ENABLE_PREFIX_DELEGATION=true needs one of {', '.join(targets)} above 0",
        ),
        *(
            (v6 and _is_below(draft, name), f"{name} must be at least {MTU_MIN_V6} with IPv6")
            for name in ("AWS_VPC_ENI_MTU", "POD_MTU")
        ),
        (
            bool(int(mark, 0) & ENI_MARK_BITS),
            f"{CONNMARK}={mark} has one of the bits {ENI_MARK_BITS:#x}, which name pods' ENIs here",
        ),
        (
            has_custom and draft.path("VPC_IPAMD_ENICONFIG_FILE") is None,
            "AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG=true needs VPC_IPAMD_ENICONFIG_FILE",
        ),
    ]
    draft.refused.extend(text for is_so, text in refusals if is_so)


def _both(are_true: bool) -> str:
    return "both" if are_true else "none"


def _is_below(draft: Draft, name: str) -> bool:
    value = draft.values[name]
    return isinstance(value, int) and value < MTU_MIN_V6


def note_idle(draft: Draft) -> None:
    """Say which set values have no effect beside others."""
    for name in (*TARGETS, "MAX_ENI"):
        why = _idle_target(draft, name)
        if why and draft.is_set(name):
            draft.note(name, f"has no effect: {why}")
    has_custom = draft.flag("AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG")
    for name in ("VPC_IPAMD_ENICONFIG_FILE", "VPC_IPAMD_ENICONFIG"):
        if draft.is_set(name) and not has_custom:
            draft.note(name, "has no effect without AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG=true")
    if has_custom and draft.is_set("ENABLE_SUBNET_DISCOVERY"):
        draft.note("ENABLE_SUBNET_DISCOVERY", "has no effect: the ENIConfig names the subnet")
    for name in ("AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS", "AWS_VPC_K8S_CNI_RANDOMIZESNAT"):
        if draft.is_set(name) and draft.flag("AWS_VPC_K8S_CNI_EXTERNALSNAT"):
            draft.note(name, "has no effect: AWS_VPC_K8S_CNI_EXTERNALSNAT=true")
    mode = "POD_SECURITY_GROUP_ENFORCING_MODE"
    if draft.is_set(mode) and not draft.flag("ENABLE_POD_ENI"):
        draft.note(mode, "has no effect: ENABLE_POD_ENI is not true")
    cleanup = "DISABLE_LEAKED_ENI_CLEANUP"
    if draft.is_set(cleanup) and not draft.flag(cleanup):
        draft.note(cleanup, "does not turn it on: VPC_IPAMD_ORPHAN_CLEANUP=true does")


def _idle_target(draft: Draft, name: str) -> str:
    """Why a pool target has no effect; empty where it has one.

    The precedence is aws-node's: WARM_IP_TARGET or MINIMUM_IP_TARGET, then with prefixes
    WARM_PREFIX_TARGET, else WARM_ENI_TARGET.
    """
    if draft.flag("DISABLE_NETWORK_RESOURCE_PROVISIONING"):
        return "DISABLE_NETWORK_RESOURCE_PROVISIONING=true"
    if draft.flag("ENABLE_IPv6"):
        return "the /80 of an IPv6 node never runs out"
    has_prefixes = draft.flag("ENABLE_PREFIX_DELEGATION")
    may_be_derived = is_azure(draft) and not draft.is_set("ENABLE_PREFIX_DELEGATION")
    if name == "WARM_PREFIX_TARGET" and not has_prefixes and not may_be_derived:
        return "ENABLE_PREFIX_DELEGATION is not true"
    if name in ("WARM_ENI_TARGET", "WARM_PREFIX_TARGET"):
        for stronger in ("WARM_IP_TARGET", "MINIMUM_IP_TARGET"):
            if draft.whole(stronger):
                return f"{stronger} is above 0"
    if name == "WARM_ENI_TARGET" and has_prefixes:
        return "with prefixes WARM_PREFIX_TARGET says it"
    return ""
