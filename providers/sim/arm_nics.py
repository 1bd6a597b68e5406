"""Writing a NIC: the addresses it gets and gives back, and what a failed write leaves.

`replace_nic` is the whole of it for a caller that shows an operation of another resource (a scale
set's instance whose model has been applied); `begin_write` is a client's PUT. Both are all or
nothing: whatever they raise, nothing has changed. What a write removes stays taken until the write
is over, so that an address never has two owners and a failed write can be undone.
"""

from __future__ import annotations

import copy
import functools
import math
from dataclasses import dataclass, replace

from providers.sim.arm_allocation import allocate
from providers.sim.arm_errors import JsonObject
from providers.sim.arm_faults import Applies, ArmFault, ArmFaultKind
from providers.sim.arm_operations import IN_PROGRESS, Operation
from providers.sim.arm_records import Nic, NicConfig, State
from providers.sim.arm_state import LOCATION, ArmState
from providers.sim.arm_wishes import wishes

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
        raise state.behaviour.busy_refusal


def _write(state: ArmState, nic_id: str, body: JsonObject, then: State) -> Written:
    """Check, take addresses and store. What is new, and the NIC itself, is in state `then`."""
    before = state.nics.get(nic_id.lower())
    asked = wishes(state, before.nic_id if before else nic_id, before, body)
    kept = {wish.name: wish.keeps(state.behaviour.keeps_unsent_addresses) for wish in asked}
    given = allocate(state, nic_id, [wish for wish in asked if kept[wish.name] is None])
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
    added = written.added
    if failed is None or applies is Applies.ALL:
        ended = now.settled(failed or State.SUCCEEDED)
        state.put_nic(replace(_blighted(state, ended, added), etag=etag))
        _release(state, written.removed)
        return
    lost = added if applies is Applies.NOTHING else added[math.ceil(len(added) / 2) :]
    if applies is Applies.PART:
        gone = {config.cidr for config in lost}
        configs = tuple(config for config in now.configs if config.cidr not in gone)
        ended = replace(now, configs=configs).settled(State.FAILED)
        state.put_nic(replace(_blighted(state, ended, added), etag=etag))
        _release(state, lost + written.removed)
    elif written.before is None:
        state.drop_nic(now.key)
    else:
        undone = replace(
            now, configs=written.before.configs, document=written.before.document
        ).settled(State.FAILED)
        state.put_nic(replace(undone, etag=etag))
        _release(state, lost)


def _blighted(state: ArmState, ended: Nic, added: tuple[NicConfig, ...]) -> Nic:
    """The NIC, with what a failed write has added as `Failed` as the NIC itself, where it is so."""
    if ended.state is not State.FAILED or not state.behaviour.fails_configurations:
        return ended
    new = {config.cidr for config in added}
    configs = (
        replace(one, state=State.FAILED) if one.cidr in new else one for one in ended.configs
    )
    return replace(ended, configs=tuple(configs))


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
