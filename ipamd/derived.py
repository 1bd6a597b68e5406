"""Settings that nobody set, derived from how slow the cloud's writes are (pure).

A target that suits EC2, where an address is there within a second, leaves pods waiting for minutes
where a write takes one. Explicit values win, from the environment or the targets file: only what
`Settings.unset_targets` names, and a max pods of 0, is ever derived. Nothing is on EC2, whose
writes count as taking no time.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil

from ipamd.cloud import Capabilities
from ipamd.settings import Settings
from ipamd.sizing import AZURE_PODS_MOST, PREFIX_ADDRESSES

PODS_PER_SECOND = 2.0
"""What a node starts in a burst: kubelet and containerd set up a few sandboxes a second."""

IDLE_ADDRESSES = 32
"""What a node may keep idle at most without being told to: every node of a subnet does. What a
burst needs beyond that is bought when it comes (`ipamd.pool.ahead`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Derived:
    """The settings in force, and a sentence for each that was derived."""

    settings: Settings
    sentences: tuple[str, ...]


def derive(settings: Settings, capabilities: Capabilities | None) -> Derived:
    """The settings in force on this machine; `capabilities` is None while they are not known.

    Example, nothing set: a scale set (60 s per write, 15 s apart) would need 2 x 75 = 150 addresses
    for a burst, so it gets prefixes and keeps two of them; a virtual machine's NIC (5 s) needs 10,
    so it keeps 16 single addresses.
    """
    said: list[str] = []
    if settings.cloud == "azure" and not settings.max_pods:
        settings = replace(settings, max_pods=AZURE_PODS_MOST)
        said.append(f"VPC_IPAMD_MAX_PODS {AZURE_PODS_MOST}: the most that AKS allows")
    if capabilities is None or capabilities.write_seconds <= 0 or not settings.has_ipv4:
        return Derived(settings=settings, sentences=tuple(said))
    why = f"derived from {_speed(capabilities)}"
    if _suits_prefixes(settings, capabilities):
        because = "WARM_PREFIX_TARGET is set" if settings.warm_prefixes else why
        settings = replace(settings, use_prefixes=True)
        said.append(f"ENABLE_PREFIX_DELEGATION true: {because}")
    has_prefixes = settings.use_prefixes and capabilities.has_prefixes
    if _has_no_target(settings, has_prefixes=has_prefixes):
        warm = min(_burst(capabilities), IDLE_ADDRESSES)
        if has_prefixes:
            settings = replace(settings, warm_prefixes=warm // PREFIX_ADDRESSES)
            said.append(f"WARM_PREFIX_TARGET {settings.warm_prefixes}: {why}")
        else:
            settings = replace(settings, warm_addresses=warm)
            said.append(f"WARM_IP_TARGET {warm}: {why}")
    return Derived(settings=settings, sentences=tuple(said))


def _speed(capabilities: Capabilities) -> str:
    apart = capabilities.write_interval_seconds
    between = f", one in {apart:g} s" if apart else ""
    return f"{capabilities.write_seconds:g} s per write{between}"


def _burst(capabilities: Capabilities) -> int:
    """Addresses that a burst takes until a write brings more; whole /28s' worth."""
    seconds = capabilities.write_seconds + capabilities.write_interval_seconds
    return ceil(PODS_PER_SECOND * seconds / PREFIX_ADDRESSES) * PREFIX_ADDRESSES


def _suits_prefixes(settings: Settings, capabilities: Capabilities) -> bool:
    """Whether to use prefixes although nobody said so: a write then brings 16 addresses for each
    slot. Not where an explicit target would lose its meaning by it."""
    if settings.use_prefixes or "ENABLE_PREFIX_DELEGATION" not in settings.unset_targets:
        return False
    if not capabilities.has_prefixes:
        return False
    if settings.warm_prefixes or settings.warm_addresses or settings.minimum_addresses:
        return bool(settings.warm_prefixes) or _burst(capabilities) > IDLE_ADDRESSES
    is_free = {"WARM_ENI_TARGET", "WARM_PREFIX_TARGET"} <= settings.unset_targets
    return is_free and _burst(capabilities) > IDLE_ADDRESSES


def _has_no_target(settings: Settings, *, has_prefixes: bool) -> bool:
    """Whether nobody set a target that has a meaning here. One of 0 addresses has none: as on EC2
    the next kind of target then holds, and that may be unset."""
    if settings.warm_addresses or settings.minimum_addresses:
        return False
    if has_prefixes:
        return "WARM_PREFIX_TARGET" in settings.unset_targets
    return {"WARM_IP_TARGET", "WARM_ENI_TARGET"} <= settings.unset_targets
