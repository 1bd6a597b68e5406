"""Writing a NIC: the addresses it gets and gives back, and what a failed write leaves.

`replace_nic` is the whole of it for somebody without an operation of his own to show (a scale set's
instance whose model has been applied); `begin_write` is a client's PUT. Both are all or nothing:
whatever they raise, nothing has changed. What a write removes stays taken until the write is over,
so that an address never has two owners and a failed write can be undone.
"""

from __future__ import annotations

import copy
import functools
import math
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network

from providers.sim.allocator import NoFreeBlock, NotGiven, Refusal, SubnetFull
from providers.sim.arm_errors import (
    ArmError,
    JsonObject,
    address_allocated,
    bad_request,
    subnet_is_full,
)
from providers.sim.arm_faults import Applies, ArmFault, ArmFaultKind
from providers.sim.arm_operations import IN_PROGRESS, Operation
from providers.sim.arm_records import Nic, NicConfig, State, Subnet
from providers.sim.arm_state import LOCATION, ArmState
from providers.sim.arm_wishes import Wish, wishes

# What only the service may say of a NIC (SDK models, fields marked read-only).
_READ_ONLY = ("id", "name", "type", "etag", "kind", "location")
_READ_ONLY_PROPERTIES = (
    "dscpConfiguration",
    "hostedWorkloads",
    "ipConfigurations",
    "macAddress",
    "primary",
    "privateEndpoint",
    "privateLinkService",
    "provisioningState",
    "resourceGuid",
    "tapConfigurations",
    "virtualMachine",
    "vnetEncryptionSupported",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A write that has begun. `removed` is still taken in its subnet."""

    before: Nic | None
    after: Nic
    removed: tuple[NicConfig, ...]

    @property
    def added(self) -> tuple[NicConfig, ...]:
        """What has an address or block that the NIC had not."""
        had = {config.cidr for config in self.before.configs} if self.before else set()
        return tuple(config for config in self.after.configs if config.cidr not in had)


def replace_nic(state: ArmState, nic_id: str, body: JsonObject) -> Nic:
    """Make the NIC what `body` says, at once; the NIC as it is then.

    `body` has the shape of Microsoft.Network's NIC. Raises ArmError, and then nothing has changed.
    """
    written = _write(state, nic_id, body, State.SUCCEEDED)
    _release(state, written.removed)
    return written.after


def begin_write(
    state: ArmState, nic_id: str, body: JsonObject, mishap: ArmFault | None = None
) -> tuple[Nic, Operation]:
    """A client's PUT: the NIC as the answer shows it, and the operation that ends the write."""
    seconds, fail, applies = state.behaviour.write_seconds, None, Applies.ALL
    if mishap is not None and mishap.kind is ArmFaultKind.OPERATION_LASTS:
        seconds = mishap.seconds or math.inf
    if mishap is not None and mishap.kind is ArmFaultKind.OPERATION_FAILS:
        fail, applies = mishap.error, mishap.applies
    is_over = seconds <= 0 and fail is None
    written = _write(state, nic_id, body, State.SUCCEEDED if is_over else State.UPDATING)
    if is_over:
        end = functools.partial(_release, state, written.removed)
    else:
        end = functools.partial(_end, state, written, State.FAILED if fail else None, applies)
    operation = state.operations.begin(
        "Microsoft.Network",
        "write",
        written.after.nic_id,
        seconds,
        state.clock(),
        finish=end,
        fail=fail,
        retry_after_seconds=state.behaviour.retry_after_seconds,
    )
    if operation.status == IN_PROGRESS:
        state.put_nic(replace(written.after, operation_id=operation.operation_id))
    return written.after, operation


def begin_delete(state: ArmState, nic: Nic) -> Operation:
    """A client's DELETE: the operation at whose end the NIC is gone and its addresses are free."""
    seconds = state.behaviour.write_seconds
    state.put_nic(replace(nic, state=State.DELETING))

    def gone() -> None:
        if nic.key in state.nics:
            state.drop_nic(nic.key)

    return state.operations.begin(
        "Microsoft.Network",
        "delete",
        nic.nic_id,
        seconds,
        state.clock(),
        finish=gone,
        retry_after_seconds=state.behaviour.retry_after_seconds,
    )


def check_free(state: ArmState, nic: Nic) -> None:
    """Refuse a write of a NIC that another write has not left yet."""
    if nic.operation_id or state.operations.running_on(nic.nic_id):
        raise state.behaviour.is_busy


def _write(state: ArmState, nic_id: str, body: JsonObject, then: State) -> Written:
    """Check, take addresses and store. What is new, and the NIC itself, is in state `then`."""
    before = state.nics.get(nic_id.lower())
    asked = wishes(state, before.nic_id if before else nic_id, before, body)
    kept = {wish.name: wish.keeps(state.behaviour.keeps_unsent_addresses) for wish in asked}
    given = _allocate(state, nic_id, asked, [wish for wish in asked if kept[wish.name] is None])
    configs = [
        NicConfig(
            name=wish.existing.name if wish.existing else wish.name,
            subnet_key=wish.subnet.key,
            cidr=kept[wish.name] or given[wish.name],
            is_primary=wish.is_primary,
            is_static=wish.is_static,
            document=wish.document,
            state=then if kept[wish.name] is None else State.SUCCEEDED,
        )
        for wish in asked
    ]
    base = before or Nic(
        nic_id=nic_id,
        location=str(body.get("location") or LOCATION),
        etag="",
        guid=state.guids.new(),
        document={},
        configs=(),
    )
    after = replace(
        base,
        configs=_in_order(configs, before),
        document=_stored(body),
        etag=state.guids.new_etag(),
        state=then,
    )
    state.put_nic(after)
    holds = {(config.subnet_key, config.cidr) for config in configs}
    removed = [one for one in base.configs if (one.subnet_key, one.cidr) not in holds]
    return Written(before=before, after=after, removed=tuple(removed))


def _allocate(
    state: ArmState, nic_id: str, asked: list[Wish], needing: list[Wish]
) -> dict[str, IPv4Network]:
    """What each wish without a cidr gets, by its name; all or, with an ArmError, nothing."""
    if not needing:
        return {}
    subnet = asked[0].subnet
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


def _in_order(configs: list[NicConfig], before: Nic | None) -> tuple[NicConfig, ...]:
    """The primary one first, then the old ones in their order, then the new ones in the body's."""
    had = [config.name for config in before.configs] if before else []
    place = {name: number for number, name in enumerate(had)}

    def rank(config: NicConfig) -> tuple[bool, int]:
        return not config.is_primary, place.get(config.name, len(had))

    return tuple(sorted(configs, key=rank))


def _end(state: ArmState, written: Written, failed: State | None, applies: Applies) -> None:
    """Let a delayed or failing write be over."""
    now = state.nics.get(written.after.key)
    if now is None or now.guid != written.after.guid:  # deleted meanwhile
        _release(state, written.removed)
        return
    etag = state.guids.new_etag() if state.behaviour.has_new_etag_at_end else now.etag
    if failed is None or applies is Applies.ALL:
        state.put_nic(replace(now.settled(failed or State.SUCCEEDED), etag=etag))
        _release(state, written.removed)
        return
    added = written.added
    lost = added if applies is Applies.NOTHING else added[math.ceil(len(added) / 2) :]
    if applies is Applies.PART:
        gone = {config.cidr for config in lost}
        configs = tuple(config for config in now.configs if config.cidr not in gone)
        state.put_nic(replace(replace(now, configs=configs).settled(State.FAILED), etag=etag))
        _release(state, lost + written.removed)
    elif written.before is None:
        state.drop_nic(now.key)
    else:
        undone = replace(
            now, configs=written.before.configs, document=written.before.document
        ).settled(State.FAILED)
        state.put_nic(replace(undone, etag=etag))
        _release(state, lost)


def _release(state: ArmState, configs: tuple[NicConfig, ...]) -> None:
    for config in configs:
        state.release(config.subnet_key, config.cidr)


def _stored(body: JsonObject) -> JsonObject:
    """What is kept of a body beside the record's fields; unknown fields are among it."""
    kept = {name: value for name, value in body.items() if name not in _READ_ONLY}
    properties = body.get("properties", {})
    kept["properties"] = {
        name: value for name, value in properties.items() if name not in _READ_ONLY_PROPERTIES
    }
    return copy.deepcopy(kept)
