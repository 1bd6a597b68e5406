"""Prefixes as addresses: what a /28 or /80 brings into the ledger, and how a /80 is opened.

A /28 enters with all 16 addresses (pods can use every one). A /80 holds 2^48: only the addresses
that were opened so far are in the ledger, from its base upwards, so that "exactly one state each"
stays true and the ledger stays small. Opening is a change of the ledger and no cloud call.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv6Network
from itertools import chain, islice

from ipamd.model import Address, AddressState, EniId, IPAddress, IPNetwork
from ipamd.pool.ledger import Change, Ledger

OPEN_ADDRESSES = 64
"""How many addresses of a /80 are kept open beside those in use: a burst of pods that starts within
one wake-up of the reconciler (20 ms) is smaller, and more are opened as these go."""


def first_addresses(prefix: IPNetwork) -> tuple[IPAddress, ...]:
    """What of a new prefix enters the ledger: all 16 of a /28, the lowest 64 of a /80."""
    count = min(prefix.num_addresses, OPEN_ADDRESSES)
    return _range(prefix, 0, count)


def born(
    prefix: IPNetwork,
    addresses: Iterable[IPAddress],
    eni_id: EniId,
    state: AddressState,
    *,
    now: float,
) -> tuple[Address, ...]:
    """Ledger rows for addresses of a prefix."""
    return tuple(
        Address(address=a, eni_id=eni_id, state=state, since_boottime=now, prefix=prefix)
        for a in addresses
    )


def prefix_of(ledger: Ledger, address: IPAddress) -> tuple[IPNetwork, EniId] | None:
    """The known prefix that holds an address, and its ENI; None outside all of them."""
    for held in ledger.addresses.values():
        if held.prefix is not None and address in held.prefix:
            return held.prefix, held.eni_id
    return None


def opened(ledger: Ledger, *, max_pods: int, now: float) -> Change:
    """Open more addresses of each /80 that runs low, up to max_pods in use or ready (I8).

    Example: 64 open, 40 of them allocated, max_pods 110 -> 40 more, so that 64 are ready again.
    """
    rows: list[Address] = []
    for prefix, held in _by_prefix(ledger).items():
        ready = sum(a.state in _READY for a in held)
        used = sum(a.state is AddressState.ALLOCATED for a in held)
        wanted = min(OPEN_ADDRESSES, max(max_pods - used, 0)) - ready
        if 2 * ready > OPEN_ADDRESSES or wanted <= 0:
            continue
        eni = ledger.enis.get(held[0].eni_id)
        is_ready = eni is not None and eni.is_ready
        state = AddressState.AVAILABLE if is_ready else AddressState.PREPARING
        fresh = _unopened(prefix, {a.address for a in held}, wanted)
        rows += born(prefix, fresh, held[0].eni_id, state, now=now)
    return Change(put_addresses=tuple(rows))


_READY = frozenset({AddressState.AVAILABLE, AddressState.PREPARING})


def _by_prefix(ledger: Ledger) -> dict[IPv6Network, list[Address]]:
    """The opened addresses of each /80 that is not on its way back."""
    found: dict[IPv6Network, list[Address]] = {}
    for address in ledger.addresses.values():
        if isinstance(address.prefix, IPv6Network):
            found.setdefault(address.prefix, []).append(address)
    return {
        prefix: held
        for prefix, held in found.items()
        if not any(a.state is AddressState.UNASSIGNING or _is_lost(a) for a in held)
    }


def _is_lost(address: Address) -> bool:
    """Its whole prefix is missing in the cloud (see ipamd.pool.observe)."""
    return address.state is AddressState.QUARANTINED and address.reason == MISSING


MISSING = "missing in the cloud"
"""The reason of a quarantine on the first look that does not show an address or its prefix."""


def _unopened(prefix: IPNetwork, held: set[IPAddress], count: int) -> list[IPAddress]:
    """The next addresses above the highest that is open, which at the end of the prefix (a pod was
    adopted there) are the lowest that are not."""
    highest = max(int(a) for a in held) - int(prefix.network_address)
    above = range(highest + 1, min(highest + 1 + count, prefix.num_addresses))
    below = (n for n in range(highest) if prefix[n] not in held)
    return [prefix[n] for n in islice(chain(above, below), count)]


def _range(prefix: IPNetwork, start: int, count: int) -> tuple[IPAddress, ...]:
    return tuple(prefix[n] for n in range(start, min(start + count, prefix.num_addresses)))
