"""Creating ENIs and changing their addresses: who may have which address of a subnet.

Pure rules over `State`; each function checks everything before it changes anything, so a refusal
leaves no trace. Sources stand in docs/emulated-ec2.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from providers.sim.allocator import (
    NoFreeBlock,
    NotGiven,
    Refusal,
    SubnetFull,
    SubnetPool,
    Taken,
)
from providers.sim.ec2_errors import (
    Ec2Error,
    address_limit,
    capacity_short,
    combination,
    invalid,
    missing,
    no_free_block,
    no_prefixes_on,
    subnet_full,
)
from providers.sim.ec2_records import Interface, TypeLimits
from providers.sim.ec2_state import State
from providers.sim.ec2_wishes import EFA_ONLY, NewInterface, WishV4, WishV6

# The most addresses any type in moto's table allows on one ENI. An ENI that hangs on nothing has
# no type to judge it by.
UNATTACHED_ADDRESS_LIMIT = 64
_UNATTACHED = TypeLimits(
    addresses_per_interface=UNATTACHED_ADDRESS_LIMIT,
    interfaces_per_card=(),
    addresses_v6_per_interface=UNATTACHED_ADDRESS_LIMIT,
    takes_prefixes=True,
)


def create_interface(state: State, request: NewInterface, now: float) -> Interface:
    """A new ENI in state `available`, with its addresses taken."""
    subnet = state.subnet(request.subnet_id)
    wish_v6 = request.v6_in(subnet)
    if max(request.slots, wish_v6.slots) > UNATTACHED_ADDRESS_LIMIT:
        raise address_limit()
    taken_v6 = _take_v6(state, request.subnet_id, wish_v6, in_use=_in_use)
    try:
        taken = _take_first(state.pool(request.subnet_id), request)
    except Ec2Error:
        _give_back_v6(state, request.subnet_id, taken_v6)
        raise
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
        addresses=taken.addresses,
        attachment=None,
        prefixes=taken.prefixes,
        addresses_v6=taken_v6.addresses,
        prefixes_v6=taken_v6.prefixes,
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
    state: State, eni_id: str, wish: WishV4, now: float, *, may_reassign: bool = False
) -> Taken[IPv4Address, IPv4Network]:
    """Add addresses or prefixes to an ENI; returns those this call added, and no others.

    With `may_reassign` a named secondary address moves here from another ENI of the subnet.
    """
    interface = state.interface(eni_id)
    if not wish.slots:
        raise missing("one of the addresses, prefixes or their counts")
    new = replace(
        wish,
        named=tuple(one for one in wish.named if one not in interface.addresses),
        prefixes=tuple(one for one in wish.prefixes if one not in interface.prefixes),
    )
    check_room(state, interface, more=new.slots, has_prefixes=new.has_prefixes)
    pool = state.pool(interface.subnet_id)
    for address, holder in _movable(state, pool, interface, new, may_reassign).items():
        _remove(state, state.interface(holder.eni_id), (address,), (), now)
    with _refusals(interface.subnet_id, new, in_use=_held_by_another):
        taken = _take(pool, new)
    changed = replace(
        interface,
        addresses=interface.addresses + taken.addresses,
        prefixes=interface.prefixes + taken.prefixes,
    )
    state.put(changed, now)
    return taken


def assign_addresses_v6(
    state: State, eni_id: str, wish: WishV6, now: float
) -> Taken[IPv6Address, IPv6Network]:
    """Add IPv6 addresses or prefixes to an ENI; returns those this call added."""
    interface = state.interface(eni_id)
    if not wish.slots:
        raise missing("one of the IPv6 addresses, prefixes or their counts")
    new = replace(
        wish,
        named=tuple(one for one in wish.named if one not in interface.addresses_v6),
        prefixes=tuple(one for one in wish.prefixes if one not in interface.prefixes_v6),
    )
    check_room(state, interface, more_v6=new.slots, has_prefixes=new.has_prefixes)
    taken = _take_v6(state, interface.subnet_id, new, in_use=_held_by_another)
    changed = replace(
        interface,
        addresses_v6=interface.addresses_v6 + taken.addresses,
        prefixes_v6=interface.prefixes_v6 + taken.prefixes,
    )
    state.put(changed, now)
    return taken


def unassign_addresses(
    state: State,
    eni_id: str,
    addresses: tuple[IPv4Address, ...],
    prefixes: tuple[IPv4Network, ...],
    now: float,
) -> None:
    """Take secondary addresses and prefixes away from an ENI, all or none."""
    interface = state.interface(eni_id)
    if set(interface.addresses[:1]) & set(addresses):
        raise invalid(f"The primary address {interface.primary_address} cannot be unassigned.")
    _check_held(eni_id, addresses, interface.addresses)
    _check_held(eni_id, prefixes, interface.prefixes)
    _remove(state, interface, addresses, prefixes, now)


def unassign_addresses_v6(
    state: State,
    eni_id: str,
    addresses: tuple[IPv6Address, ...],
    prefixes: tuple[IPv6Network, ...],
    now: float,
) -> None:
    """Take IPv6 addresses and prefixes away from an ENI, all or none."""
    interface = state.interface(eni_id)
    _check_held(eni_id, addresses, interface.addresses_v6)
    _check_held(eni_id, prefixes, interface.prefixes_v6)
    gone = Taken(addresses=tuple(set(addresses)), prefixes=tuple(set(prefixes)))
    _give_back_v6(state, interface.subnet_id, gone)
    changed = replace(
        interface,
        addresses_v6=tuple(one for one in interface.addresses_v6 if one not in addresses),
        prefixes_v6=tuple(one for one in interface.prefixes_v6 if one not in prefixes),
    )
    state.put(changed, now)


def check_room(
    state: State, interface: Interface, *, more: int = 0, more_v6: int = 0, has_prefixes: bool
) -> None:
    """Refuse what the machine's type does not allow on one ENI."""
    if interface.interface_type == EFA_ONLY:
        raise combination("An EFA-only network interface does not support IP addresses.")
    limits = _UNATTACHED
    if interface.attachment is not None:
        machine = state.machine(interface.attachment.instance_id)
        limits = machine.limits
        if has_prefixes and not limits.takes_prefixes:
            raise no_prefixes_on(machine.instance_type)
    check_slots(limits, interface.slots + more, interface.slots_v6 + more_v6)


def check_slots(limits: TypeLimits, slots: int, slots_v6: int) -> None:
    """Refuse more addresses and prefixes on one ENI than a type allows."""
    if slots > limits.addresses_per_interface or slots_v6 > limits.addresses_v6_per_interface:
        raise address_limit()


def _take_first(pool: SubnetPool, request: NewInterface) -> Taken[IPv4Address, IPv4Network]:
    """The addresses of a new ENI, the primary one first: all of them or none."""
    wish, primary = request.wish, request.primary
    if request.interface_type == EFA_ONLY:
        return Taken()
    chosen = (() if primary is None else (primary,)) + wish.named
    if len(set(chosen)) != len(chosen):
        raise invalid("An address is named twice.")
    with _refusals(request.subnet_id, wish, in_use=_in_use):
        if primary is not None:
            return _take(pool, replace(wish, named=chosen))
        taken = _take(pool, replace(wish, count=wish.count + 1))
    first, *others = taken.addresses[len(chosen) :]
    return replace(taken, addresses=(first, *chosen, *others))


def _take_v6(
    state: State, subnet_id: str, wish: WishV6, in_use: Callable[[object], Ec2Error]
) -> Taken[IPv6Address, IPv6Network]:
    if not wish.slots:
        return Taken()
    pool = state.pool_v6(subnet_id)
    with _refusals(subnet_id, wish, in_use=in_use):
        return pool.take_all(
            named=wish.named,
            prefixes=wish.prefixes,
            count=wish.count,
            prefix_count=wish.prefix_count,
        )


def _take(pool: SubnetPool, wish: WishV4) -> Taken[IPv4Address, IPv4Network]:
    return pool.take_all(
        named=wish.named,
        prefixes=wish.prefixes,
        count=wish.count,
        prefix_count=wish.prefix_count,
    )


@contextmanager
def _refusals(
    subnet_id: str, wish: WishV4 | WishV6, in_use: Callable[[object], Ec2Error]
) -> Iterator[None]:
    """What the pool refuses, in EC2's words."""
    try:
        yield
    except SubnetFull as error:
        raise (capacity_short() if wish.has_prefixes else subnet_full(subnet_id)) from error
    except NoFreeBlock as error:
        raise no_free_block() from error
    except NotGiven as error:
        raise _not_given(error, in_use) from error


def _not_given(error: NotGiven, in_use: Callable[[object], Ec2Error]) -> Ec2Error:
    match error.refusal:
        case Refusal.OUTSIDE:
            return invalid(f"Address {error.what} does not fall within the subnet's address range")
        case Refusal.RESERVED:
            return invalid(f"Address {error.what} is in subnet's reserved address range")
        case Refusal.IN_USE:
            return in_use(error.what)


def _in_use(_what: object) -> Ec2Error:
    return Ec2Error("InvalidIPAddress.InUse", "The specified address is already in use.")


def _held_by_another(what: object) -> Ec2Error:
    return invalid(f"Address {what} is assigned to another interface and may not be reassigned.")


def _movable(
    state: State, pool: SubnetPool, interface: Interface, wish: WishV4, may_reassign: bool
) -> dict[IPv4Address, Interface]:
    """The named addresses that are another ENI's secondary ones, with that ENI.

    Every other named address is checked first, so that nothing moves when the call is refused.
    """
    if not may_reassign:
        return {}
    holders = {
        address: other
        for other in state.interfaces.values()
        if other.subnet_id == interface.subnet_id and other.eni_id != interface.eni_id
        for address in other.addresses[1:]
        if address in wish.named
    }
    for address in wish.named:
        if address not in holders and (refusal := pool.refusal(address)) is not None:
            raise _not_given(NotGiven(address, refusal), _held_by_another)
    return holders


def _check_held(eni_id: str, wanted: tuple[object, ...], held: tuple[object, ...]) -> None:
    absent = [str(one) for one in wanted if one not in held]
    if absent:
        raise invalid(f"Some addresses are not assigned to {eni_id}: {', '.join(absent)}")


def _remove(
    state: State,
    interface: Interface,
    addresses: tuple[IPv4Address, ...],
    prefixes: tuple[IPv4Network, ...],
    now: float,
) -> None:
    pool = state.pool(interface.subnet_id)
    pool.release(set(addresses))
    pool.release_prefixes(set(prefixes))
    changed = replace(
        interface,
        addresses=tuple(one for one in interface.addresses if one not in addresses),
        prefixes=tuple(one for one in interface.prefixes if one not in prefixes),
    )
    state.put(changed, now)


def _give_back_v6(state: State, subnet_id: str, taken: Taken[IPv6Address, IPv6Network]) -> None:
    if taken.addresses or taken.prefixes:
        state.pool_v6(subnet_id).release(taken.addresses)
        state.pool_v6(subnet_id).release_prefixes(taken.prefixes)
