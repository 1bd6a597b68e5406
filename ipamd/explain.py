"""Why there is no address, and what is wrong: sentences for failed ADDs and `ipamctl status`.

Pure: `Condition` is all that the sentences depend on. Each names what was seen and what to do.
"""

from __future__ import annotations

from dataclasses import dataclass

from ipamd.allocations import Shortage
from ipamd.model import AddressState, EniId, SubnetId
from ipamd.node import NodeFacts
from ipamd.pool import attachments, cooling
from ipamd.pool.ledger import Ledger, sort_key
from ipamd.settings import Settings

NOT_READY_SECONDS = 10.0
"""An attached ENI that vpc-cnid does not have ready after this long is worth a sentence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """The daemon's state as the sentences need it. Times are boot times."""

    ledger: Ledger
    facts: NodeFacts | None
    max_pods: int
    cooldown_seconds: float
    has_observed: bool
    cloud_error: str
    last_error: str
    plan_summary: str
    exhausted: dict[SubnetId, float]
    prefixless: dict[SubnetId, float]
    missing_allocated: tuple[str, ...]
    settings_problems: tuple[str, ...]
    now: float
    is_denied: bool = False  # `cloud_error` is a refusal
    paused_seconds: float = 0.0  # until growth that pods wait for is tried again


NO_NETWORKS = (
    "no network of the VPC is known, and SNAT cannot be set up without: give the identity the "
    "right to read it (in Azure Microsoft.Network/virtualNetworks/read), or set "
    "AWS_VPC_K8S_CNI_EXTERNALSNAT=true"
)


def of_settings(
    problems: tuple[str, ...], settings: Settings, facts: NodeFacts | None
) -> tuple[str, ...]:
    """What is wrong with the settings in themselves, and as this node is."""
    if facts is None or settings.has_external_snat or not settings.has_ipv4:
        return problems
    is_known = any(network.version == 4 for network in facts.vpc_cidrs)
    return problems if is_known else (NO_NETWORKS, *problems)


def shortage(condition: Condition, eni_id: EniId | None = None) -> Shortage:
    """Why no address is available now: the subnet, the limits, the cloud or the node. With an ENI
    why none of its addresses is, for an attachment that insists on it."""
    full = "" if eni_id is None or _is_full(condition) else _full_eni(condition, eni_id)
    if eni_id is not None and full:
        when = _cooling(_cooling_ends(condition, eni_id))
        return Shortage(sentence=full + when, retry_after_seconds=5.0, eni_id=eni_id)
    cooling_ends = _cooling_ends(condition)
    if condition.exhausted and condition.has_observed and not _is_full(condition):
        subnet_id, seconds = min(condition.exhausted.items(), key=lambda item: item[1])
        retry = seconds if cooling_ends is None else min(seconds, cooling_ends)
        return Shortage(
            sentence=f"subnet {subnet_id} has no free address"
            + _cooling(cooling_ends)
            + "; free some in the subnet or lower WARM_* targets of its nodes",
            retry_after_seconds=max(retry, 1.0),
            subnet_id=subnet_id,
        )
    soon = max(condition.paused_seconds, 5.0)
    return Shortage(
        sentence="; ".join((_why(condition) + _cooling(cooling_ends), *_of_cooling(condition))),
        retry_after_seconds=max(min(cooling_ends or soon, soon), 1.0),
    )


def _full_eni(condition: Condition, eni_id: EniId) -> str:
    """That every slot of the ENI is taken, or max pods leaves it none; "" if neither is so."""
    if condition.facts is None or eni_id not in condition.ledger.enis:
        return ""
    rows = [a for a in condition.ledger.on_eni(eni_id) if a.address.version == 4]
    taken = sum(a.prefix is None for a in rows) + len({a.prefix for a in rows} - {None})
    slots = condition.facts.limits.slots_per_eni
    pods = sum(a.state is AddressState.ALLOCATED for a in rows)
    advice = 'delete pods on it, or have the network name another ENI ("eni" in its ipam object)'
    if taken >= slots:
        return f"ENI {eni_id} is full: {pods} pods, {taken} of {slots} slots taken; {advice}"
    if _held(condition) >= condition.max_pods:
        return (
            f"ENI {eni_id} has {pods} pods in {taken} of {slots} slots, but the node holds its "
            f"{condition.max_pods} addresses, the idle ones on other ENIs; lower WARM_* targets, "
            f"or {advice}"
        )
    return ""


def _held(condition: Condition) -> int:
    states = (AddressState.ALLOCATED, AddressState.AVAILABLE, AddressState.PREPARING)
    return sum(1 for a in condition.ledger.in_state(*states) if a.address.version == 4)


def _cooling_ends(condition: Condition, eni_id: EniId | None = None) -> float | None:
    addresses = condition.ledger.addresses.values()
    end = cooling.next_end(
        (a for a in addresses if eni_id in (None, a.eni_id)),
        cooldown_seconds=condition.cooldown_seconds,
        now=condition.now,
    )
    return None if end is None else max(end - condition.now, 0.0)


def _why(condition: Condition) -> str:
    ledger = condition.ledger
    if condition.facts is None or not condition.has_observed:
        if condition.is_denied:
            return f"the cloud refuses: {condition.cloud_error}"
        return f"the cloud has not answered yet ({condition.cloud_error or 'asking'})"
    if _is_full(condition):
        pods = attachments.pods_on_default_card(ledger)
        return f"the node is full: {pods} of max {condition.max_pods} pods"
    if condition.settings_problems:
        return condition.settings_problems[0]
    if condition.last_error:
        return _last_failure(condition)
    not_ready = [e.eni_id for e in ledger.enis.values() if e.is_managed and not e.is_ready]
    if not_ready:
        return f"ENI {', '.join(not_ready)} is not ready on the node yet (see ipamctl status)"
    return condition.plan_summary


def _last_failure(condition: Condition) -> str:
    pause = condition.paused_seconds
    when = f"; next try in {pause:.0f} s" if pause >= 1 else ""
    return f"the last cloud call failed: {condition.last_error}{when}"


def _is_full(condition: Condition) -> bool:
    return attachments.pods_on_default_card(condition.ledger) >= condition.max_pods


def _next_try(seconds: float) -> str:
    return f"next try in {seconds:.0f} s" if seconds > 0 else "tried again when one is needed"


def _cooling(cooling_ends: float | None) -> str:
    if cooling_ends is None:
        return ""
    return f"; the earliest cooling address is free in {cooling_ends:.0f} s"


def problems(condition: Condition) -> tuple[str, ...]:
    """What is wrong now and what to do; empty when all is well."""
    ledger = condition.ledger
    said = list(condition.settings_problems)
    if condition.cloud_error:
        what = "refuses" if condition.is_denied else "does not answer"
        said.append(f"the cloud {what}: {condition.cloud_error}")
    is_told = condition.facts is not None and NO_NETWORKS not in condition.settings_problems
    if not ledger.has_heard_node and is_told:
        said.append("no report from vpc-cnid yet, nothing is handed out: is vpc-cnid running?")
    said += [
        f"subnet {subnet} is exhausted; {_next_try(seconds)}"
        for subnet, seconds in condition.exhausted.items()
    ]
    said += [
        f"subnet {subnet} has no free /28 (pods get single addresses); {_next_try(seconds)}"
        for subnet, seconds in condition.prefixless.items()
    ]
    if condition.last_error:
        said.append(_last_failure(condition))
    if condition.missing_allocated:
        said.append(_lost(condition))
    return tuple(said + _of_cooling(condition) + _of_addresses(ledger) + _of_enis(condition))


def _lost(condition: Condition) -> str:
    pods = {
        str(address): f" ({held.pod_namespace}/{held.pod_name})"
        for held in condition.ledger.allocations.values()
        for address in held.addresses
        if held.pod_name
    }
    named = ", ".join(f"{a}{pods.get(a, '')}" for a in condition.missing_allocated)
    return (
        f"used by pods but not in the cloud any more: {named}; these pods have no network: "
        "delete them, and find out who took the addresses away"
    )


def _of_cooling(condition: Condition) -> list[str]:
    waiting = cooling.overdue(
        condition.ledger, cooldown_seconds=condition.cooldown_seconds, now=condition.now
    )
    if not waiting:
        return []
    them = "1 address waits" if waiting == 1 else f"{waiting} addresses wait"
    why = "is vpc-cnid running? If so, its log says what fails (flush_failed)"
    return [f"{them} for vpc-cnid to clear their connection tracking entries: {why}"]


def _of_addresses(ledger: Ledger) -> list[str]:
    by_reason: dict[str, list[str]] = {}
    for address in sorted(ledger.in_state(AddressState.QUARANTINED), key=sort_key):
        by_reason.setdefault(address.reason, []).append(str(address.address))
    return [f"quarantined: {', '.join(them)} ({why})" for why, them in sorted(by_reason.items())]


def _of_enis(condition: Condition) -> list[str]:
    return [
        f"ENI {e.eni_id} is attached but not ready on the node"
        for e in condition.ledger.enis.values()
        if e.is_managed
        and not e.is_ready
        and condition.now - e.attached_boottime > NOT_READY_SECONDS
    ]
