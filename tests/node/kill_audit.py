"""What must hold after any crash: ledger, kernel, pods and cloud tell one and the same story."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from ipaddress import IPv4Network
from typing import Any

from providers.sim.lab import Lab
from providers.sim.runtime import Pod
from tests.node.ground import Site
from tests.node.readings import STATES, Kernel, LedgerFile, pod_addresses, read_kernel

Live = Mapping[str, tuple[Pod, str]]
"""Pods that run: container id -> (pod, the address of its result)."""


def audit(site: Site, lab: Lab, live: Live) -> list[str]:
    """Every broken invariant, in words; empty when all is well."""
    ledger, kernel = site.ledger(), read_kernel(site.node.netns_path)
    return [
        *_addresses_of_pods(live),
        *_allocations(ledger, live),
        *_kernel(ledger, kernel, _primaries(site, lab)),
        *_sums(ledger),
        *_cloud(ledger, site, lab),
    ]


def _addresses_of_pods(live: Live) -> Iterator[str]:
    """No address is on two pods, and each pod has the one it was promised."""
    seen = Counter(a for pod, _ in live.values() for a in pod_addresses(pod.netns_path))
    yield from (f"{address} is on {count} pods" for address, count in seen.items() if count > 1)
    for pod, address in live.values():
        if pod_addresses(pod.netns_path) != (address,):
            yield f"{pod.name} was given {address} and has {pod_addresses(pod.netns_path)}"


def _allocations(ledger: LedgerFile, live: Live) -> Iterator[str]:
    for container_id in ledger.allocations.keys() - live.keys():
        yield f"allocation without a sandbox: {ledger.allocations[container_id]}"
    for container_id in live.keys() - ledger.allocations.keys():
        yield f"sandbox without an allocation: {live[container_id][0].name}"
    for container_id in live.keys() & ledger.allocations.keys():
        pod, address = live[container_id]
        if ledger.allocations[container_id].address != address:
            yield f"{pod.name} has {address}, its allocation {ledger.allocations[container_id]}"


def _kernel(ledger: LedgerFile, kernel: Kernel, primaries: set[str]) -> Iterator[str]:
    """No link, rule or route of ours without an allocation, and none missing."""
    held = {row.address: row.container_id for row in ledger.allocations.values()}
    names = {veth.name: veth.container_id for veth in kernel.veths}
    for veth in kernel.veths:
        if veth.container_id not in ledger.allocations:
            yield f"link without an allocation: {veth}"
    for address, name in kernel.routes.items():
        if address not in held or names.get(name) != held[address]:
            yield f"route without an allocation: {address} by {name}"
    yield from (f"{a} is allocated but has no route" for a in held.keys() - kernel.routes.keys())
    for address in kernel.named_by_rules - primaries - held.keys():
        yield f"rule without an allocation: {address}"


def _sums(ledger: LedgerFile) -> Iterator[str]:
    """Each address in exactly one known state; the allocated ones are those of allocations."""
    states = Counter(row.state for row in ledger.addresses.values())
    if not states.keys() <= set(STATES) or states.total() != len(ledger.addresses):
        yield f"the states do not sum up: {states} of {len(ledger.addresses)}"
    held = Counter(row.address for row in ledger.allocations.values())
    if held.keys() != ledger.in_state("allocated").keys() or any(n > 1 for n in held.values()):
        yield f"allocations {sorted(held)}, allocated {sorted(ledger.in_state('allocated'))}"


def _cloud(ledger: LedgerFile, site: Site, lab: Lab) -> Iterator[str]:
    enis = cloud_enis(site, lab)
    assigned = {a: eni["eni_id"] for eni in enis for a in _assigned(eni)}
    known = {row.address: row.eni_id for row in ledger.addresses.values()}
    if assigned != known:
        yield f"only in the cloud: {sorted(assigned.items() - known.items())}"
        yield f"only in the ledger: {sorted(known.items() - assigned.items())}"
    loose = [e["eni_id"] for e in lab.control.call("state")["enis"] if e["status"] == "available"]
    if loose:
        yield f"ENIs attached to nothing: {loose}"
    if ledger.open_intents:
        yield f"{ledger.open_intents} intents were never settled"


def _assigned(eni: Mapping[str, Any]) -> Iterator[str]:
    """What pods may have: single addresses but the ENI's own, and all of each IPv4 prefix."""
    yield from eni["addresses"][1:]
    for prefix in eni["prefixes"]:
        yield from map(str, IPv4Network(prefix))


def cloud_enis(site: Site, lab: Lab) -> list[dict[str, Any]]:
    """The node's ENIs as the emulated cloud has them; `addresses` begins with the primary one.

    With ids in lower case: Azure's mean the same in any, and the daemons have them so.
    """
    identity = site.node.identity
    assert identity is not None
    enis: list[dict[str, Any]] = lab.control.call("state")["enis"]
    return [
        eni | {"eni_id": eni["eni_id"].lower()}
        for eni in enis
        if eni["instance_id"].lower() == identity.instance_id
    ]


def _primaries(site: Site, lab: Lab) -> set[str]:
    return {eni["addresses"][0] for eni in cloud_enis(site, lab)}
