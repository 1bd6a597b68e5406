"""The end of a cooldown: its time is over, and no connection of the former pod is left (pure).

A cooldown is named by the address and the boot time at which it began. vpc-cnid is asked for the
connection tracking entries of those that are about to end, in bursts: an answer that comes before
the end costs nobody time. What it cleared is kept in memory alone, a set that every function here
takes: after a restart it is asked again, which is harmless while the address still cools, and the
ledger holds nothing that a crash could make untrue.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from dataclasses import replace

from ipamd.model import Address, AddressState, EniId, IPAddress
from ipamd.pool.ledger import Change, Ledger

Cooldown = tuple[IPAddress, float]
"""An address, and since when it cools."""

AHEAD_SECONDS = 1.0
"""Asked for so long before its end at most: later connections of the former pod are not many."""

LATEST_SECONDS = 0.5
"""Asked for so long before its end at least. Between the two, cooldowns gather for one question;
with 100,000 entries an answer takes 0.5 s (docs/pool.md)."""

OVERDUE_SECONDS = 5.0
"""Past its end and not cleared: vpc-cnid is away or cannot. Nobody counts on such an address."""


def cooldown_of(address: Address) -> Cooldown:
    """What names the cooldown of an address that cools."""
    return address.address, address.since_boottime


def running(ledger: Ledger) -> dict[Cooldown, Address]:
    """Every cooldown of the ledger."""
    return {cooldown_of(a): a for a in ledger.in_state(AddressState.COOLING)}


def ended(
    ledger: Ledger, cleared: AbstractSet[Cooldown], *, cooldown_seconds: float, now: float
) -> Change:
    """Addresses whose time is over and whose connections are gone can be used again."""
    over = tuple(
        replace(a, state=_rest_state(ledger, a.eni_id), reason="")
        for name, a in running(ledger).items()
        if now >= a.since_boottime + cooldown_seconds and name in cleared
    )
    return Change(put_addresses=over)


def _rest_state(ledger: Ledger, eni_id: EniId) -> AddressState:
    eni = ledger.enis.get(eni_id)
    is_ready = eni is not None and eni.is_ready
    return AddressState.AVAILABLE if is_ready else AddressState.PREPARING


def asked(
    ledger: Ledger,
    cleared: AbstractSet[Cooldown],
    before: AbstractSet[Cooldown],
    *,
    cooldown_seconds: float,
    now: float,
) -> frozenset[Cooldown]:
    """What vpc-cnid is to clear: what it was asked for `before` and did not yet, and, once one more
    cannot wait, all whose end is near.

    Nothing before the kernel was heard: a lost store takes the addresses of running pods for
    cooling ones. Example, with a cooldown of 30 s and releases at 0.0, 0.4 and 0.8: at 29.5 the
    first two are asked for, at 30.3 the third.
    """
    if not ledger.has_heard_node:
        return frozenset()
    wanted = running(ledger).keys() - cleared
    ends = {name: name[1] + cooldown_seconds for name in wanted}
    if any(end - LATEST_SECONDS <= now for name, end in ends.items() if name not in before):
        return frozenset(n for n, end in ends.items() if n in before or end - AHEAD_SECONDS <= now)
    return frozenset(wanted & before)


def due_times(
    ledger: Ledger,
    cleared: AbstractSet[Cooldown],
    before: AbstractSet[Cooldown],
    *,
    cooldown_seconds: float,
) -> tuple[float, ...]:
    """Boot times at which `ended` or `asked` has more to say: one of each at most."""
    names = running(ledger).keys()
    ending = min((n[1] + cooldown_seconds for n in names & cleared), default=None)
    asking = min(
        (n[1] + cooldown_seconds - LATEST_SECONDS for n in names - cleared - before), default=None
    )
    due = (ending, asking if ledger.has_heard_node else None)
    return tuple(t for t in due if t is not None)


def next_end(addresses: Iterable[Address], *, cooldown_seconds: float, now: float) -> float | None:
    """Boot time at which the first of the cooling ones among these can be used again; None without
    one that may be counted on."""
    ends = (
        a.since_boottime + cooldown_seconds
        for a in addresses
        if a.state is AddressState.COOLING and not is_overdue(a, cooldown_seconds, now)
    )
    return min(ends, default=None)


def is_overdue(address: Address, cooldown_seconds: float, now: float) -> bool:
    """Whether its cooldown should have ended a while ago."""
    return now - address.since_boottime - cooldown_seconds > OVERDUE_SECONDS


def overdue(ledger: Ledger, *, cooldown_seconds: float, now: float) -> int:
    """How many cooling addresses wait for vpc-cnid alone, for longer than that should take."""
    return sum(is_overdue(a, cooldown_seconds, now) for a in ledger.in_state(AddressState.COOLING))
