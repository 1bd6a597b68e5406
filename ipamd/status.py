"""The state of the daemon as one message, for `ipamctl status`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from importlib.metadata import version

from ipam_api.v1 import ipam_pb2 as pb

from ipamd.model import Address, AddressState, Eni, IPNetwork
from ipamd.pool.ledger import Ledger
from ipamd.reconciler import Reconciler

REPORT_STALE_SECONDS = 180.0
"""vpc-cnid reports every minute; three missed ones are no accident."""


def build(
    ledger: Ledger,
    reconciler: Reconciler,
    *,
    waiting: int,
    reports: Mapping[str, pb.EniReport],
    reported_boottime: float,
    notes: tuple[str, ...] = (),
    now: float,
) -> pb.Status:
    """One complete Status message."""
    facts = reconciler.facts
    is_reporting = reported_boottime > 0 and now - reported_boottime < REPORT_STALE_SECONDS
    problems = list(reconciler.problems())
    if ledger.has_heard_node and not is_reporting:
        problems.append("vpc-cnid has not reported for minutes: is it running?")
    message = pb.Status(
        version=version("vpc-ipamd"),
        epoch=ledger.epoch,
        pool={s.value: ledger.count(s) for s in AddressState},
        enis=[
            _eni(ledger, e, reports.get(e.eni_id), facts.limits.slots_per_eni if facts else 0)
            for e in sorted(ledger.enis.values(), key=lambda e: e.device_index)
        ],
        subnets=_subnets(reconciler, now),
        last_plan=_plan(reconciler, now),
        waiting_allocations=waiting,
        problems=problems,
        max_pods=reconciler.max_pods,
        targets=_targets(reconciler),
        addresses=[_address(ledger, a, now) for a in _ordered(ledger)],
        is_cloud_answering=reconciler.health.is_good,
        is_node_reporting=is_reporting,
        uptime_seconds=now - reconciler.started_boottime,
        mode=_mode(reconciler),
        notes=reconciler.derived + (notes if is_reporting else ()),
    )
    if facts is not None:
        message.instance_id = facts.identity.instance_id
        message.instance_type = facts.identity.instance_type
        message.zone = facts.identity.zone
    return message


def _targets(reconciler: Reconciler) -> dict[str, str]:
    """The targets in force, under the names of their settings."""
    settings, facts = reconciler.settings, reconciler.facts
    if settings.warm_addresses or settings.minimum_addresses:
        return {
            "WARM_IP_TARGET": str(settings.warm_addresses),
            "MINIMUM_IP_TARGET": str(settings.minimum_addresses),
        }
    if facts is not None and facts.uses_prefixes(settings):
        return {"WARM_PREFIX_TARGET": str(settings.warm_prefixes)}
    return {"WARM_ENI_TARGET": str(settings.warm_enis)}


def _mode(reconciler: Reconciler) -> str:
    """What pods get, in the words of `./scripts/demo --mode`."""
    settings, facts = reconciler.settings, reconciler.facts
    is_prefix = facts is not None and facts.uses_prefixes(settings)
    v4 = ["prefix" if is_prefix else "secondary"] if settings.has_ipv4 else []
    v6 = ["ipv6"] if settings.has_ipv6 else []
    return "+".join(v4 + v6 + (["custom"] if settings.has_custom_networking else []))


def _ordered(ledger: Ledger) -> list[Address]:
    return sorted(
        ledger.addresses.values(), key=lambda a: (a.state.value, a.address.version, int(a.address))
    )


def _eni(ledger: Ledger, eni: Eni, report: pb.EniReport | None, slots: int) -> pb.EniStatus:
    held = ledger.on_eni(eni.eni_id)
    prefixes: dict[IPNetwork, Counter[str]] = {}
    for a in held:
        if a.prefix is not None:
            prefixes.setdefault(a.prefix, Counter())[a.state.value] += 1
    return pb.EniStatus(
        eni_id=eni.eni_id,
        device_index=eni.device_index,
        network_card=eni.network_card,
        mac=eni.mac,
        subnet_id=eni.subnet_id,
        primary_address=str(eni.primary_address),
        is_primary=eni.is_primary,
        is_ready=eni.is_ready,
        addresses=dict(Counter(a.state.value for a in held)),
        slots=slots,
        slots_used=sum(a.prefix is None for a in held) + sum(p.version == 4 for p in prefixes),
        prefixes=[
            pb.PrefixStatus(prefix=str(p), addresses=dict(states))
            for p, states in sorted(prefixes.items(), key=lambda item: str(item[0]))
        ],
        excluded=_excluded(eni),
        link_name=report.link_name if report else "",
    )


def _excluded(eni: Eni) -> str:
    if not eni.is_managed:
        return f"not ours to manage ({eni.interface_type})"
    return "carries no new pods" if eni.is_excluded else ""


def _subnets(reconciler: Reconciler, now: float) -> list[pb.SubnetStatus]:
    exhausted = reconciler.actions.pacer.exhausted(now)
    prefixless = reconciler.actions.pacer.prefixless(now)
    return [
        pb.SubnetStatus(
            subnet_id=subnet_id,
            cidr=str(seen.free.cidr),
            free_addresses=seen.free.free_addresses,
            seen_seconds_ago=now - seen.seen_boottime,
            exhausted_for_seconds=exhausted.get(subnet_id, 0.0),
            prefixless_for_seconds=prefixless.get(subnet_id, 0.0),
            is_scarce=seen.is_scarce,
            is_candidate=seen.free.is_candidate,
        )
        for subnet_id, seen in sorted(reconciler.actions.pacer.subnets.items())
    ]


def _plan(reconciler: Reconciler, now: float) -> pb.PlanStatus:
    return pb.PlanStatus(
        made_seconds_ago=now - reconciler.planned_boottime,
        summary=reconciler.last_plan.summary,
        actions=[
            pb.PlannedAction(
                verb=r.verb,
                subject=r.subject,
                reason=r.reason,
                state=r.state,
                error=r.error,
                seconds=r.seconds(now),
            )
            for r in reconciler.actions.records[-5:]
        ],
    )


def _address(ledger: Ledger, address: Address, now: float) -> pb.AddressStatus:
    message = pb.AddressStatus(
        address=str(address.address),
        state=address.state.value,
        eni_id=address.eni_id,
        since_seconds=max(now - address.since_boottime, 0.0),
        reason=address.reason,
        prefix=str(address.prefix) if address.prefix is not None else "",
    )
    if address.state is AddressState.ALLOCATED:
        held = ledger.allocation_of(address.address)
        if held is not None:
            message.key.container_id = held.key.container_id
            message.key.ifname = held.key.ifname
            message.pod_namespace, message.pod_name = held.pod_namespace, held.pod_name
    return message
