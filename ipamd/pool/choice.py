"""Which addresses the next attachment gets (pure).

Called for every ADD, so what is done for each address of the ledger is kept small: the ENI is
settled first, by counts alone, and only its own free addresses are compared with one another.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ipamd.model import Address, AddressState, Eni, EniId
from ipamd.pool.ledger import Ledger


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What the settings and the node say about handing out."""

    max_pods: int
    versions: tuple[int, ...] = (4,)  # IP versions of every attachment, 4 before 6
    prefers_prefixes: bool = False  # the kind of IPv4 address that is in use


@dataclass(frozen=True, slots=True, kw_only=True)
class Ahead:
    """What `choose` gives for this very ledger to an attachment without a wish."""

    ledger: Ledger
    rules: Rules
    chosen: tuple[Address, ...]


def choose_ahead(ledger: Ledger, rules: Rules) -> Ahead:
    """The choice for whoever comes next, made while nobody waits for it."""
    return Ahead(ledger=ledger, rules=rules, chosen=choose(ledger, rules))


def choose(
    ledger: Ledger,
    rules: Rules,
    *,
    network_card: int = 0,
    among: frozenset[EniId] | None = None,
    ahead: Ahead | None = None,
) -> tuple[Address, ...]:
    """The next addresses to hand out, one of each version and all of one ENI; empty for none.

    `among` names the ENIs to choose from, None all. `ahead` is taken where it is of this ledger.

    In order of preference: the lower card, the kind of address in use, the fullest ENI, the
    fullest prefix, the longest idle. Fullest first empties the others, so that whole prefixes and
    ENIs can go back; longest idle first keeps an address away from its old peers as long as
    possible. Ties go to the lower device index and address, so equal ledgers choose alike.
    """
    has_no_wish = network_card == 0 and among is None
    if has_no_wish and ahead is not None and ahead.ledger is ledger and ahead.rules == rules:
        return ahead.chosen
    free = _free(ledger, usable_enis(ledger, network_card), among)
    for eni_id in _ranked(ledger, free, rules):
        chosen = tuple(_best(ledger, free[eni_id], version, rules) for version in rules.versions)
        whole = tuple(address for address in chosen if address is not None)
        if len(whole) == len(chosen):
            return whole
    return ()


def free_by_eni(ledger: Ledger, rules: Rules) -> dict[EniId, int]:
    """How many attachments each ENI could serve now; ENIs that could serve none are left out."""
    free = _free(ledger, usable_enis(ledger, 0), None)
    counts = {
        eni_id: min(sum(a.address.version == version for a in held) for version in rules.versions)
        for eni_id, held in free.items()
    }
    return {eni_id: count for eni_id, count in counts.items() if count}


def usable_enis(ledger: Ledger, network_card: int) -> dict[EniId, Eni]:
    """The ENIs that can serve a pod now, of one card or (0) of all."""
    return {
        e.eni_id: e
        for e in ledger.enis.values()
        if e.is_ready and e.takes_pods and network_card in (0, e.network_card)
    }


def _free(
    ledger: Ledger, enis: Mapping[EniId, Eni], among: frozenset[EniId] | None
) -> dict[EniId, list[Address]]:
    """The available addresses of each of the ENIs that has any."""
    found: defaultdict[EniId, list[Address]] = defaultdict(list)
    available = AddressState.AVAILABLE
    for address in ledger.addresses.values():
        if address.state is available:
            found[address.eni_id].append(address)
    return {e: held for e, held in found.items() if e in enis and (among is None or e in among)}


def _ranked(
    ledger: Ledger, free: Mapping[EniId, Sequence[Address]], rules: Rules
) -> Iterable[EniId]:
    """ENIs in the order in which they are to be used."""
    if len(free) < 2:
        return free
    allocated = AddressState.ALLOCATED
    pods = Counter([a.eni_id for a in ledger.addresses.values() if a.state is allocated])

    def rank(eni_id: EniId) -> tuple[int, bool, int, int]:
        eni = ledger.enis[eni_id]
        first = (a for a in free[eni_id] if a.address.version == rules.versions[0])
        has_kind_in_use = any(not _is_other_kind(a, rules) for a in first)
        return eni.network_card, not has_kind_in_use, -pods[eni_id], eni.device_index

    return sorted(free, key=rank)


def _is_other_kind(address: Address, rules: Rules) -> bool:
    is_of_prefix = address.prefix is not None
    return is_of_prefix is not rules.prefers_prefixes and address.address.version == 4


def _best(
    ledger: Ledger, candidates: Sequence[Address], version: int, rules: Rules
) -> Address | None:
    """Of one ENI's free addresses the one to use, None where it has none of the version."""
    fitting = [a for a in candidates if a.address.version == version]
    fitting = [a for a in fitting if not _is_other_kind(a, rules)] or fitting
    if not fitting:
        return None
    pods = _pods_by_prefix(ledger, fitting[0].eni_id)
    return min(
        fitting,
        key=lambda a: (-pods.get(_block(a), 0), a.since_boottime, int(a.address)),
    )


def _pods_by_prefix(ledger: Ledger, eni_id: EniId) -> Mapping[int, int]:
    """How many pods the prefixes of an ENI have; one that has none may be absent."""
    allocated = AddressState.ALLOCATED
    return Counter(
        [
            _block(a)
            for a in ledger.addresses.values()
            if a.state is allocated and a.eni_id == eni_id and a.prefix is not None
        ]
    )


def _block(address: Address) -> int:
    """The prefix as a number, -1 without one: a network hashes a hundred times slower."""
    return -1 if address.prefix is None else int(address.prefix.network_address)
