"""Who this node is: the metadata service names the machine, ARM its NICs.

How its NICs are written depends on what they are. Those of a VM are resources of their own; so are
those of a Flexible scale set, though its machines have a vmScaleSetName too. Those of a Uniform
set's instance are views, which only the instance's model changes. So the ids of the NICs decide.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from ipamd.cloud import NodeIdentity
from ipamd.errors import Transient
from ipamd.model import EniId, InstanceId
from providers.azure import shapes
from providers.azure.api import Answered, ArmApi
from providers.azure.configs import Body
from providers.azure.ids import ArmId, Kind, arm_id, canonical
from providers.azure.imds import Imds, Machine
from providers.azure.pipeline import odd, understood
from providers.azure.purse import Api

LONGEST_ID = 40
"""Of a machine's own id, for an error: it has 36 characters."""


class MachineKind(enum.Enum):
    """How the NICs are written."""

    VM = "vm"  # each by itself
    SCALE_SET = "scale-set"  # through the instance's model


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """This node. `nic_ids` has the primary NIC first; NICs come and go while a machine is stopped
    only, so they stay. `others` is how many configurations of others a NIC has beside its primary
    one, the most of those that discovery has read."""

    identity: NodeIdentity
    kind: MachineKind
    resource: ArmId
    nic_ids: tuple[EniId, ...]
    others: int


def discover(imds: Imds, api: ArmApi) -> Node:
    """Ask IMDS, then ARM for the machine and its primary NIC: two calls.

    Transient where one of them does not answer, says what cannot be, or both contradict each other;
    NotFound where ARM names a NIC and does not show it.
    """
    machine = imds.machine()
    is_instance = machine.resource.kind is Kind.INSTANCE
    call = Api.INSTANCE_GET if is_instance else Api.VM_GET
    ask = api.instance if is_instance else api.vm
    body = ask(machine.resource.text).body
    _same(machine, body)
    listed = understood(call, shapes.nic_ids, body)
    if is_instance and not (listed and all(arm_id(one).kind is Kind.NIC for one in listed)):
        views = views_in_order(machine.resource, api, listed)
        views = understood(Api.INSTANCE_NICS, shapes.primary_first, views)
        return _node(Api.INSTANCE_NICS, machine, MachineKind.SCALE_SET, views)
    if not listed:
        raise _no_nic(call, machine)
    primary = nic_of(machine.resource, listed[0], api).body
    return _node(Api.NIC_GET, machine, MachineKind.VM, [primary], more=listed[1:])


def nic_of(machine: ArmId, nic_id: EniId, api: ArmApi) -> Answered:
    """One NIC of a machine. Transient where ARM shows another one, or says it is on another
    machine: what is not ours must neither be shown nor written."""
    answered = api.nic(nic_id)
    shown = understood(Api.NIC_GET, lambda raw: canonical(raw["id"]), answered.body)
    if shown != nic_id:
        raise odd(Api.NIC_GET, f"asked for {nic_id}", shown)
    holder = understood(Api.NIC_GET, shapes.machine_of, answered.body)
    # Of the other kind, it is another name of the same machine as far as anyone could find out.
    if holder is not None and holder.kind is machine.kind and holder != machine:
        raise Transient(
            f"ARM says that {nic_id} is on {holder.text}; we are {machine.text}",
            operation=Api.NIC_GET.value,
            code="OtherMachine",
            eni_id=nic_id,
        )
    return answered


def views_in_order(instance: ArmId, api: ArmApi, listed: tuple[EniId, ...]) -> list[Body]:
    """The views of an instance's NICs; see `shapes.in_order`."""
    views = api.instance_nics(instance.text)
    return understood(Api.INSTANCE_NICS, lambda raw: shapes.in_order(raw, instance, listed), views)


def _same(machine: Machine, body: Body) -> None:
    """The machine that ARM shows must be the one we run on: of another one we would write NICs."""
    properties = body.get("properties")
    said = properties.get("vmId") if isinstance(properties, dict) else None
    if isinstance(said, str) and said.lower() != machine.vm_id:
        raise Transient(
            f"ARM says that {machine.resource.text} is {said[:LONGEST_ID]}, "
            f"the metadata service that we are {machine.vm_id}",
            operation="discover_node",
            code="OtherMachine",
        )


def _node(
    call: Api,
    machine: Machine,
    kind: MachineKind,
    nics: list[Body],
    more: tuple[EniId, ...] = (),
) -> Node:
    found = [understood(call, shapes.nic, raw) for raw in nics]
    if not found:
        raise _no_nic(call, machine)
    if nics[0]["properties"].get("primary") is False:
        raise Transient(
            f"ARM does not show which NIC of {machine.resource.text} is the primary one: "
            f"{found[0].eni_id} is not",
            operation=call.value,
            code="NoPrimaryNic",
        )
    return Node(
        identity=NodeIdentity(
            instance_id=InstanceId(machine.vm_id),
            instance_type=machine.size,
            region=machine.location,
            # As the cloud controller manager labels nodes: zones have numbers by region.
            zone=f"{machine.location}-{machine.zone}" if machine.zone else "",
            vpc_id=shapes.vnet_id_of(found[0].subnet_id),
            primary_eni_id=found[0].eni_id,
            primary_mac=found[0].mac,
            primary_subnet_id=found[0].subnet_id,
            security_group_ids=(),
        ),
        kind=kind,
        resource=machine.resource,
        nic_ids=(*(nic.eni_id for nic in found), *more),
        others=max(nic.others for nic in found),
    )


def _no_nic(call: Api, machine: Machine) -> Transient:
    return Transient(
        f"ARM shows no NIC on {machine.resource.text}", operation=call.value, code="NoNic"
    )
