"""Creating ENIs and changing their addresses: who may have which address of a subnet.

Pure rules over `State`; each function checks everything before it changes anything, so a refusal
leaves no trace. Sources stand in docs/emulated-ec2.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from ipaddress import IPv4Address

from providers.sim.allocator import Refusal, SubnetFull, SubnetPool
from providers.sim.ec2_errors import (
    Ec2Error,
    address_limit,
    combination,
    invalid,
    missing,
    subnet_full,
)
from providers.sim.ec2_records import Interface
from providers.sim.ec2_state import State

# The most addresses any type in moto's table allows on one ENI. An ENI that hangs on nothing has
# no type to judge it by.
UNATTACHED_ADDRESS_LIMIT = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """The addresses a request asks for: named ones, and a number of others."""

    primary: IPv4Address | None = None
    named: tuple[IPv4Address, ...] = ()
    count: int = 0

    def __post_init__(self) -> None:
        if self.count < 0:
            raise invalid("The number of addresses must not be negative.")
        if self.named and self.count:
            raise combination("Addresses may be named or counted, not both.")


@dataclass(frozen=True, slots=True, kw_only=True)
class NewInterface:
    """What CreateNetworkInterface was asked for, checked as far as it goes without state."""

    subnet_id: str
    group_ids: tuple[str, ...]
    description: str = ""
    interface_type: str = "interface"
    wish: Wish = Wish()


def create_interface(state: State, request: NewInterface, now: float) -> Interface:
    """A new ENI in state `available`, with its addresses taken."""
    subnet = state.subnet(request.subnet_id)
    wanted = 1 + len(request.wish.named) + request.wish.count
    if wanted > UNATTACHED_ADDRESS_LIMIT:
        raise address_limit()
    addresses = _take_first(state.pool(request.subnet_id), request.subnet_id, request.wish)
    interface = Interface(
        eni_id=state.names.new_id("eni"),
        mac=state.names.new_mac(),
        subnet_id=subnet.subnet_id,
        vpc_id=subnet.vpc_id,
        zone=subnet.zone,
        description=request.description,
        interface_type=request.interface_type,
        group_ids=request.group_ids,
        has_source_check=True,
        addresses=addresses,
        attachment=None,
    )
    state.put(interface, now)
    return interface


def delete_interface(state: State, eni_id: str, now: float) -> None:
    """Delete an ENI that hangs on nothing; its addresses are free at once."""
    interface = state.interface(eni_id)
    if interface.attachment is not None:
        raise invalid(f"Network interface '{eni_id}' is currently in use.")
    state.drop(interface, now)


def assign_addresses(
    state: State, eni_id: str, wish: Wish, now: float, *, may_reassign: bool = False
) -> tuple[IPv4Address, ...]:
    """Add addresses to an ENI; returns those this call added, and no others.

    With `may_reassign` a named secondary address moves here from another ENI of the subnet.
    """
    interface = state.interface(eni_id)
    named = tuple(address for address in wish.named if address not in interface.addresses)
    if not wish.named and not wish.count:
        raise missing("PrivateIpAddresses or SecondaryPrivateIpAddressCount")
    if len(interface.addresses) + len(named) + wish.count > address_limit_of(state, interface):
        raise address_limit()
    holders = _holders(state, interface, named) if may_reassign else {}
    pool = state.pool(interface.subnet_id)
    _check_named(pool, (a for a in named if a not in holders), in_use=_held_by_another)
    for address, holder in holders.items():
        _remove(state, state.interface(holder.eni_id), (address,), now)
    added = named + _take(pool, interface.subnet_id, wish.count)
    pool.take_named(named)
    state.put(replace(interface, addresses=interface.addresses + added), now)
    return added


def unassign_addresses(
    state: State, eni_id: str, addresses: tuple[IPv4Address, ...], now: float
) -> None:
    """Take secondary addresses away from an ENI, all or none."""
    interface = state.interface(eni_id)
    if interface.primary_address in addresses:
        raise invalid(f"The primary address {interface.primary_address} cannot be unassigned.")
    absent = [str(address) for address in addresses if address not in interface.addresses]
    if absent:
        raise invalid(f"Some addresses are not assigned to {eni_id}: {', '.join(absent)}")
    _remove(state, interface, addresses, now)


def address_limit_of(state: State, interface: Interface) -> int:
    """How many addresses this ENI may have: its machine's type decides."""
    if interface.attachment is None:
        return UNATTACHED_ADDRESS_LIMIT
    machine = state.machine(interface.attachment.instance_id)
    return machine.limits.addresses_per_interface


def _take_first(pool: SubnetPool, subnet_id: str, wish: Wish) -> tuple[IPv4Address, ...]:
    """The addresses of a new ENI, the primary one first: all of them or none."""
    chosen = (() if wish.primary is None else (wish.primary,)) + wish.named
    if len(set(chosen)) != len(chosen):
        raise invalid("An address is named twice.")
    _check_named(pool, chosen, in_use=_in_use)
    counted = wish.count + (1 if wish.primary is None else 0)
    if pool.free_count < counted + len(chosen):
        raise subnet_full(subnet_id)
    # Named ones first: a counted one must not take an address that the same request names.
    pool.take_named(chosen)
    others = pool.take(counted)
    if wish.primary is None:
        return (others[0], *wish.named, *others[1:])
    return chosen + others


def _take(pool: SubnetPool, subnet_id: str, count: int) -> tuple[IPv4Address, ...]:
    try:
        return pool.take(count)
    except SubnetFull as error:
        raise subnet_full(subnet_id) from error


def _check_named(
    pool: SubnetPool, addresses: Iterable[IPv4Address], in_use: Callable[[IPv4Address], Ec2Error]
) -> None:
    for address in addresses:
        match pool.refusal(address):
            case Refusal.OUTSIDE:
                raise invalid(f"Address {address} does not fall within the subnet's address range")
            case Refusal.RESERVED:
                raise invalid(f"Address {address} is in subnet's reserved address range")
            case Refusal.IN_USE:
                raise in_use(address)
            case None:
                pass


def _in_use(_address: IPv4Address) -> Ec2Error:
    return Ec2Error("InvalidIPAddress.InUse", "The specified address is already in use.")


def _held_by_another(address: IPv4Address) -> Ec2Error:
    return invalid(f"Address {address} is assigned to another interface and may not be reassigned.")


def _holders(
    state: State, interface: Interface, named: tuple[IPv4Address, ...]
) -> dict[IPv4Address, Interface]:
    """Which of these addresses are another ENI's secondary ones in the same subnet."""
    return {
        address: other
        for other in state.interfaces.values()
        if other.subnet_id == interface.subnet_id and other.eni_id != interface.eni_id
        for address in other.addresses[1:]
        if address in named
    }


def _remove(
    state: State, interface: Interface, addresses: tuple[IPv4Address, ...], now: float
) -> None:
    kept = tuple(address for address in interface.addresses if address not in addresses)
    state.pool(interface.subnet_id).release(set(addresses))
    state.put(replace(interface, addresses=kept), now)
