"""Hanging ENIs on machines and taking them off: slots, limits and states over time.

Pure rules over `State`, each judged before anything changes; `settle` is the only thing that time
does by itself. Sources stand in docs/emulated-ec2.md.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from providers.sim.ec2_addresses import check_slots, delete_interface
from providers.sim.ec2_errors import (
    Ec2Error,
    combination,
    invalid,
    no_attachment,
    no_prefixes_on,
)
from providers.sim.ec2_records import Attachment, AttachmentStatus, Interface, Machine
from providers.sim.ec2_state import State


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """Where on a machine an ENI shall hang."""

    device_index: int
    network_card: int = 0


def check_attach(state: State, eni_id: str, instance_id: str, slot: Slot) -> Interface:
    """Refuse what cannot be attached; the ENI as it is before."""
    interface = state.interface(eni_id)
    machine = state.machine(instance_id)
    _check_free(interface)
    _check_place(interface, machine)
    check_slot(machine, slot, {slot_of(other) for other in state.attached_to(instance_id)})
    check_slots(machine.limits, interface.slots, interface.slots_v6)
    if interface.has_prefixes and not machine.limits.takes_prefixes:
        raise no_prefixes_on(machine.instance_type)
    return interface


def attach_interface(
    state: State,
    eni_id: str,
    instance_id: str,
    slot: Slot,
    now: float,
    *,
    delay_seconds: float | None = None,
) -> Attachment:
    """Begin attaching; the ENI is `attached` after `delay_seconds`, or else the usual delay."""
    interface = check_attach(state, eni_id, instance_id, slot)
    delay = state.delays.attach_seconds if delay_seconds is None else delay_seconds
    attachment = Attachment(
        attachment_id=state.names.new_id("eni-attach"),
        instance_id=instance_id,
        device_index=slot.device_index,
        network_card=slot.network_card,
        status=AttachmentStatus.ATTACHING,
        attached_unix=now,
        settles_unix=now + delay,
        deletes_on_termination=False,
    )
    state.put(replace(interface, attachment=attachment), now)
    settle(state, now)
    return attachment


def attach_at_launch(
    state: State, eni_id: str, machine: Machine, slot: Slot, *, deletes: bool, now: float
) -> None:
    """Attach an ENI of RunInstances: there is no `attaching` phase to be seen at launch."""
    attachment = Attachment(
        attachment_id=state.names.new_id("eni-attach"),
        instance_id=machine.instance_id,
        device_index=slot.device_index,
        network_card=slot.network_card,
        status=AttachmentStatus.ATTACHED,
        attached_unix=now,
        settles_unix=now,
        deletes_on_termination=deletes,
    )
    state.put(replace(state.interface(eni_id), attachment=attachment), now)


def detach_interface(
    state: State, attachment_id: str, now: float, *, delay_seconds: float | None = None
) -> None:
    """Begin detaching; the ENI is `available` after `delay_seconds`, or else the usual delay.

    A repeat changes nothing.
    """
    interface = by_attachment(state, attachment_id)
    attachment = interface.attachment
    assert attachment is not None
    if attachment.device_index == 0 and attachment.network_card == 0:
        raise Ec2Error(
            "OperationNotPermitted", "The network interface at device index 0 cannot be detached."
        )
    if attachment.status is not AttachmentStatus.DETACHING:
        delay = state.delays.detach_seconds if delay_seconds is None else delay_seconds
        detaching = replace(attachment, status=AttachmentStatus.DETACHING, settles_unix=now + delay)
        state.put(replace(interface, attachment=detaching), now)
    settle(state, now)


def set_delete_on_termination(
    state: State, eni_id: str, attachment_id: str, now: float, *, deletes: bool
) -> None:
    """ModifyNetworkInterfaceAttribute with Attachment."""
    interface = state.interface(eni_id)
    if interface.attachment is None or interface.attachment.attachment_id != attachment_id:
        raise no_attachment(attachment_id)
    attachment = replace(interface.attachment, deletes_on_termination=deletes)
    state.put(replace(interface, attachment=attachment), now)


def terminate_machine(state: State, instance_id: str, now: float) -> None:
    """Release every ENI: delete those that say so, leave the others `available`."""
    for interface in state.attached_to(instance_id):
        assert interface.attachment is not None
        free = replace(interface, attachment=None)
        state.put(free, now)
        if interface.attachment.deletes_on_termination:
            delete_interface(state, interface.eni_id, now)
    state.machines.pop(instance_id, None)


def settle(state: State, now: float) -> None:
    """Let every attach and detach that is due by `now` be over."""
    for interface in list(state.interfaces.values()):
        attachment = interface.attachment
        if attachment is None or attachment.settles_unix > now:
            continue
        if attachment.status is AttachmentStatus.ATTACHING:
            attached = replace(attachment, status=AttachmentStatus.ATTACHED)
            state.put(replace(interface, attachment=attached), now)
        elif attachment.status is AttachmentStatus.DETACHING:
            state.put(replace(interface, attachment=None), now)


def by_attachment(state: State, attachment_id: str) -> Interface:
    """The ENI of an attachment, or InvalidAttachmentID.NotFound."""
    for interface in state.interfaces.values():
        if interface.attachment and interface.attachment.attachment_id == attachment_id:
            return interface
    raise no_attachment(attachment_id)


def slot_of(interface: Interface) -> Slot:
    """Where an attached ENI hangs."""
    assert interface.attachment is not None
    return Slot(
        device_index=interface.attachment.device_index,
        network_card=interface.attachment.network_card,
    )


def check_slot(machine: Machine, slot: Slot, occupied: Collection[Slot]) -> None:
    """Refuse a slot that the type has not, that is taken, or on a card that is full."""
    cards = machine.limits.interfaces_per_card
    if not 0 <= slot.network_card < len(cards):
        raise invalid(
            f"Network card index {slot.network_card} exceeds the limit for {machine.instance_type}"
        )
    taken = [other for other in occupied if other.network_card == slot.network_card]
    allowed = cards[slot.network_card]
    if len(taken) >= allowed:
        raise Ec2Error(
            "AttachmentLimitExceeded",
            f"Interface count {len(taken) + 1} exceeds the limit for {machine.instance_type}",
        )
    if slot in taken:
        raise invalid(
            f"Instance '{machine.instance_id}' already has an interface attached at device index "
            f"'{slot.device_index}'."
        )
    # Device index 0 is card 0's first; the others count from 1 (EFA user guide, card n: index 1).
    last = allowed - 1 if slot.network_card == 0 else allowed
    if not 0 <= slot.device_index <= last:
        raise invalid(f"Device index {slot.device_index} is outside 0..{last}")


def _check_free(interface: Interface) -> None:
    if interface.attachment is not None:
        raise Ec2Error("InvalidNetworkInterface.InUse", f"Interface: [{interface.eni_id}] in use.")


def _check_place(interface: Interface, machine: Machine) -> None:
    if interface.zone != machine.zone:
        raise invalid(
            "You may not attach a network interface to an instance if they are not in the same "
            "availability zone"
        )
    if interface.vpc_id != machine.vpc_id:
        raise combination(
            f"Network interface {interface.eni_id} and instance {machine.instance_id} "
            "are not in the same VPC"
        )
