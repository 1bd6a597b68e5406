"""The metadata service's picture beside what is known (pure). Used by `ipamd.hints`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ipamd.cloud import EniHint
from ipamd.model import EniId, IPNetwork
from ipamd.pool.ledger import Ledger
from ipamd.pool.observe import SECOND_LOOK_SECONDS


@dataclass(frozen=True, slots=True, kw_only=True)
class VpcNetworks:
    """The VPC's networks as far as they are believed, and which of them are missing since when.

    One that appears holds at once: the worst of a wrong one is that traffic to it leaves with the
    pod's own address. One that vanishes holds on until two readings, half a minute apart, miss it
    (I5): without it, traffic inside the VPC would be SNATed, which ends what rests on pods' own
    addresses. A reading without any network says nothing.
    """

    known: tuple[IPNetwork, ...] = ()
    missing: Mapping[IPNetwork, float] = field(default_factory=dict)  # -> boot time

    def after(self, shown: tuple[IPNetwork, ...], *, now: float) -> VpcNetworks:
        """What holds after one more reading."""
        if not shown:
            return self
        missing = {c: self.missing.get(c, now) for c in self.known if c not in shown}
        doubted = {c: t for c, t in missing.items() if now - t < SECOND_LOOK_SECONDS}
        return VpcNetworks(known=(*shown, *doubted), missing=doubted)


def differs(ledger: Ledger, hints: Iterable[EniHint]) -> bool:
    """Whether the metadata service shows other ENIs, addresses or prefixes than the ledger holds.

    Only what can be told: ENIs of others are compared by their presence alone, and addresses whose
    ENI no look has named yet (taken over from another agent) not at all.
    """
    shown = {h.eni_id: set(h.items) for h in hints}
    if set(shown) != set(ledger.enis):
        return True
    held: dict[EniId, set[str]] = {eni_id: set() for eni_id in ledger.enis}
    for a in ledger.addresses.values():
        if a.eni_id in held:
            held[a.eni_id].add(str(a.prefix or a.address))
    return any(e.is_managed and shown[e.eni_id] != held[e.eni_id] for e in ledger.enis.values())
