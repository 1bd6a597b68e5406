"""The addresses and blocks that a NIC's new configurations get: all of them, or none and a refusal.

Lowest free address, lowest free aligned block; named ones first. Which refusal is Azure's own, and
which from memory or invented, is in docs/emulated-azure.md.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

from providers.sim.allocator import NoFreeBlock, NotGiven, Refusal, SubnetFull
from providers.sim.arm_errors import ArmError, address_allocated, bad_request, subnet_is_full
from providers.sim.arm_records import Subnet
from providers.sim.arm_state import ArmState
from providers.sim.arm_wishes import Wish


def allocate(state: ArmState, nic_id: str, needing: list[Wish]) -> dict[str, IPv4Network]:
    """What each wish gets, by its name; all or, with an ArmError, nothing.

    The wishes are those of one NIC that keep nothing of what it has: all of one subnet.
    """
    if not needing:
        return {}
    subnet = needing[0].subnet
    _check_limit(state, subnet, needing)
    named = [wish for wish in needing if wish.is_static]
    singles = [wish for wish in needing if not wish.is_static and not wish.is_block]
    blocks = [wish for wish in needing if not wish.is_static and wish.is_block]
    try:
        taken = subnet.pool.take_all(
            named=tuple(_cidr(wish).network_address for wish in named if not wish.is_block),
            prefixes=tuple(_cidr(wish) for wish in named if wish.is_block),
            count=len(singles),
            prefix_count=len(blocks),
        )
    except NotGiven as error:
        raise _not_given(state, nic_id, subnet, needing, error) from error
    except SubnetFull as error:
        wanted = len(singles) + 16 * len(blocks)
        raise subnet_is_full(subnet.name, subnet.cidr, wanted) from error
    except NoFreeBlock as error:
        raise bad_request(
            state.behaviour.block_shortage_code,
            f"Subnet {subnet.name} with address prefix {subnet.cidr} does not have enough free "
            f"CIDR blocks for {len(blocks)} blocks of /28.",
        ) from error
    addresses = [wish for wish in named if not wish.is_block] + singles
    prefixes = [wish for wish in named if wish.is_block] + blocks
    given = {
        wish.name: IPv4Network(address)
        for wish, address in zip(addresses, taken.addresses, strict=True)
    }
    given.update((wish.name, prefix) for wish, prefix in zip(prefixes, taken.prefixes, strict=True))
    return given


def _cidr(wish: Wish) -> IPv4Network:
    cidr = wish.named or (wish.existing.cidr if wish.existing else None)
    if cidr is None:
        raise AssertionError(f"{wish.name} is Static and names no address")
    return cidr


def _check_limit(state: ArmState, subnet: Subnet, needing: list[Wish]) -> None:
    """The VNET's limit of private addresses, of which a block is one."""
    vnet = state.vnet(subnet.vnet_key)
    limit = state.behaviour.vnet_limit
    if sum(one.cidr.num_addresses for one in state.subnets_of(vnet)) <= limit:
        return
    block = 1 if state.behaviour.counts_blocks_once else 16
    new = sum(block if wish.is_block else 1 for wish in needing)
    if state.held_in(vnet) + new > limit:
        raise bad_request(
            "VirtualNetworkPrivateIPAddressLimitExceeded",  # invented
            f"Virtual network {vnet.name} would have more than {limit} private IP addresses.",
        )


def _not_given(
    state: ArmState, nic_id: str, subnet: Subnet, needing: list[Wish], error: NotGiven
) -> ArmError:
    """The refusal of a named address or block."""
    what, cidr = error.what, subnet.cidr
    if error.refusal is Refusal.OUTSIDE:
        return bad_request(
            "PrivateIPAddressNotInSubnet",
            f"Private static IP address {what} does not belong to the range of subnet prefix "
            f"{cidr}.",
        )
    if error.refusal is Refusal.RESERVED:
        return bad_request(
            "PrivateIPAddressInReservedRange",
            f"Private static IP address {what} falls within reserved IP range of subnet prefix "
            f"{cidr}.",
        )
    if isinstance(what, IPv4Network):
        return bad_request(
            "PrefixUnavailable", f"Block {what} is not free in subnet {subnet.subnet_id}."
        )
    assert isinstance(what, IPv4Address)
    name = next(wish.name for wish in needing if wish.named == IPv4Network(what))
    return address_allocated(
        what, f"{nic_id}/ipConfigurations/{name}", _holder(state, subnet, what)
    )


def _holder(state: ArmState, subnet: Subnet, address: IPv4Address) -> str:
    """Who has an address: a configuration's id, or the subnet's when it is another tenant."""
    for nic in state.nics_in(subnet):
        for config in nic.configs:
            if address in config.cidr:
                return f"{nic.nic_id}/ipConfigurations/{config.name}"
    return subnet.subnet_id
