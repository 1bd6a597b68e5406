"""The ENIs of RunInstances: read from the request, checked against the type, created together."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from providers.sim import ec2_requests as requests
from providers.sim.ec2_addresses import check_slots, create_interface
from providers.sim.ec2_attachments import Slot, attach_at_launch, check_slot
from providers.sim.ec2_errors import Ec2Error, combination, invalid, no_prefixes_on
from providers.sim.ec2_records import Interface, Machine
from providers.sim.ec2_requests import GroupResolver, Params
from providers.sim.ec2_state import State
from providers.sim.ec2_wishes import EFA_ONLY, NO_WISH_V6, NewInterface

PRIMARY_SLOT = Slot(device_index=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchInterface:
    """One ENI of a launch: an existing one by id, or a new one."""

    slot: Slot
    deletes_on_termination: bool
    eni_id: str = ""
    new: NewInterface | None = None


def launch_interfaces(params: Params, resolve_groups: GroupResolver) -> list[LaunchInterface]:
    """What RunInstances asks for, the primary ENI first."""
    specs = params.get("NetworkInterfaces") or []
    if specs and (params.get("SubnetId") or params.get("SecurityGroupIds")):
        raise combination(
            "Network interfaces and an instance-level subnet ID may not be specified on the same "
            "request"
        )
    if not specs:
        specs = [_whole_request_as_spec(params)]
    wanted = [_launch_interface(spec, resolve_groups) for spec in specs]
    wanted.sort(key=lambda one: (one.slot.network_card, one.slot.device_index))
    if wanted[0].slot != PRIMARY_SLOT:
        raise invalid("A launch needs a network interface at device index 0.")
    if wanted[0].new is not None and wanted[0].new.interface_type == EFA_ONLY:
        raise combination("The primary network interface cannot be EFA-only.")
    return wanted


def check_launch(machine: Machine, wanted: list[LaunchInterface]) -> None:
    """Refuse more ENIs or addresses than the type allows, or a slot named twice."""
    occupied: set[Slot] = set()
    for one in wanted:
        check_slot(machine, one.slot, occupied)
        occupied.add(one.slot)
        if one.new is not None:
            _check_addresses(machine, one.new)


def names_addresses(new: NewInterface) -> bool:
    """Whether it names what only one ENI can have."""
    wish_v6 = new.wish_v6 or NO_WISH_V6
    named = new.wish.named or new.wish.prefixes or wish_v6.named or wish_v6.prefixes
    return bool(new.primary or named)


def _check_addresses(machine: Machine, new: NewInterface) -> None:
    wish_v6 = new.wish_v6 or NO_WISH_V6
    check_slots(machine.limits, new.slots, wish_v6.slots)
    has_prefixes = new.wish.has_prefixes or wish_v6.has_prefixes
    if has_prefixes and not machine.limits.takes_prefixes:
        raise no_prefixes_on(machine.instance_type)


@contextlib.contextmanager
def created(state: State, wanted: list[LaunchInterface], now: float) -> Iterator[list[Interface]]:
    """The launch's ENIs, in order; when the block fails, the new ones are gone again."""
    fresh: list[Interface] = []
    ready: list[Interface] = []
    try:
        for one in wanted:
            if one.new is None:
                ready.append(_unused(state.interface(one.eni_id)))
            else:
                fresh.append(create_interface(state, one.new, now))
                ready.append(fresh[-1])
        yield ready
    except BaseException:
        for interface in fresh:
            state.drop(state.interface(interface.eni_id), now)
        raise


def hang(
    state: State,
    machine: Machine,
    wanted: list[LaunchInterface],
    ready: list[Interface],
    now: float,
) -> None:
    """Attach the launch's ENIs to the machine that now exists."""
    state.machines[machine.instance_id] = machine
    for one, interface in zip(wanted, ready, strict=True):
        deletes = one.deletes_on_termination
        attach_at_launch(state, interface.eni_id, machine, one.slot, deletes=deletes, now=now)


def _whole_request_as_spec(params: Params) -> dict[str, object]:
    """RunInstances without NetworkInterfaces describes its primary ENI at the top level."""
    return {
        "DeviceIndex": 0,
        "SubnetId": requests.required(params, "SubnetId"),
        "Groups": params.get("SecurityGroupIds") or [],
        "PrivateIpAddress": params.get("PrivateIpAddress"),
        "Ipv6Addresses": params.get("Ipv6Addresses"),
        "Ipv6AddressCount": params.get("Ipv6AddressCount"),
        "Description": "",
    }


def _launch_interface(spec: Params, resolve_groups: GroupResolver) -> LaunchInterface:
    requests.refuse_unsupported(spec)
    slot = Slot(
        device_index=requests.required(spec, "DeviceIndex"),
        network_card=spec.get("NetworkCardIndex") or 0,
    )
    if eni_id := spec.get("NetworkInterfaceId"):
        kept = bool(spec.get("DeleteOnTermination"))
        return LaunchInterface(slot=slot, eni_id=eni_id, deletes_on_termination=kept)
    deletes = spec.get("DeleteOnTermination")
    return LaunchInterface(
        slot=slot,
        deletes_on_termination=slot == PRIMARY_SLOT if deletes is None else bool(deletes),
        new=requests.new_interface(spec, resolve_groups),
    )


def _unused(interface: Interface) -> Interface:
    if interface.attachment is not None:
        raise Ec2Error("InvalidNetworkInterface.InUse", f"Interface: [{interface.eni_id}] in use.")
    return interface
