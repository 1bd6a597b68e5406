"""The EC2 actions on ENIs and types, as a subclass of moto's responses.

One object per request, made by `ec2.Emulator` under its lock. Each method reads `self.params`
(parsed by botocore's model), calls an operation, and answers with a dict in the API's words.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Self

from moto.core.responses import ActionResult, EmptyResult
from moto.ec2.responses import EC2Response

from providers.sim import ec2_addresses, ec2_attachments
from providers.sim import ec2_filters as filters
from providers.sim import ec2_requests as requests
from providers.sim.ec2_attachments import Slot
from providers.sim.ec2_errors import (
    Ec2Error,
    combination,
    invalid,
    missing,
    no_interface,
    unsupported,
)
from providers.sim.ec2_moto import ACCOUNT_ID, REGION, SimBackend
from providers.sim.ec2_records import Interface
from providers.sim.ec2_shapes import interface_shape
from providers.sim.ec2_state import State, View
from providers.sim.faults import Fault, FaultKind

# What a call with a ClientToken did: action and token -> parameters, answer.
Done = dict[tuple[str, str], tuple[dict[str, Any], Any]]

_MODIFIABLE = ("Description", "SourceDestCheck", "Groups", "Attachment")


class InterfaceActions(EC2Response):
    """One request; the actions on ENIs and types. `mishap`: a fault that changes what is done."""

    def __init__(
        self, backend: SimBackend, done: Done, now: float, mishap: Fault | None = None
    ) -> None:
        super().__init__()
        self.params: dict[str, Any] = {}
        self._backend = backend
        self._state: State = backend.state
        self._done = done
        self._now = now
        self._mishap = mishap

    @property
    def ec2_backend(self) -> Any:
        """The emulator's own backend, and not one of moto's global ones."""
        return self._backend

    def get_current_account(self) -> str:
        """Every credential belongs to the one account."""
        return ACCOUNT_ID

    def create_network_interface(self) -> ActionResult:
        """CreateNetworkInterface; repeats with the same ClientToken answer the same."""
        requests.refuse_unsupported(self.params)
        self.error_on_dryrun()
        return self._once("CreateNetworkInterface", self._create_interface)

    def _create_interface(self) -> dict[str, Any]:
        request = requests.new_interface(self.params, self._backend.resolve_groups)
        interface = ec2_addresses.create_interface(self._state, request, self._now)
        if tags := requests.tags_for(self.params, "network-interface"):
            self._backend.create_tags([interface.eni_id], tags)
        token = self.params.get("ClientToken", "")
        return {"NetworkInterface": self._shape(interface), "ClientToken": token}

    def delete_network_interface(self) -> ActionResult:
        """DeleteNetworkInterface."""
        eni_id = requests.required(self.params, "NetworkInterfaceId")
        self.error_on_dryrun()
        ec2_addresses.delete_interface(self._state, eni_id, self._now)
        self._backend.tags.pop(eni_id, None)
        return EmptyResult()

    def describe_network_interfaces(self) -> ActionResult:
        """DescribeNetworkInterfaces, of the past when visibility lags."""
        eni_ids = self.params.get("NetworkInterfaceIds") or []
        view = self._visible()
        for eni_id in eni_ids:
            if eni_id not in view:
                raise no_interface(eni_id)
        wanted = requests.filters(self.params)
        filters.check_names(wanted)
        found = [
            interface
            for interface in (map(view.__getitem__, eni_ids) if eni_ids else view.values())
            if filters.matches(interface, self._backend.tags_of(interface.eni_id), wanted)
        ]
        shown, token = filters.cut(
            found, lambda eni: eni.eni_id, requests.page(self.params), named=bool(eni_ids)
        )
        return ActionResult(
            {"NetworkInterfaces": [self._shape(eni) for eni in shown], "NextToken": token}
        )

    def describe_network_interface_attribute(self) -> ActionResult:
        """DescribeNetworkInterfaceAttribute."""
        eni_id = requests.required(self.params, "NetworkInterfaceId")
        interface = self._visible().get(eni_id)
        if interface is None:
            raise no_interface(eni_id)
        shape = self._shape(interface)
        answers = {
            "description": ("Description", {"Value": interface.description}),
            "sourceDestCheck": ("SourceDestCheck", {"Value": interface.has_source_check}),
            "groupSet": ("Groups", shape["Groups"]),
            "attachment": ("Attachment", shape["Attachment"]),
        }
        attribute = requests.required(self.params, "Attribute")
        if attribute not in answers:
            raise invalid(f"Value ({attribute}) for parameter attribute is invalid.")
        name, value = answers[attribute]
        return ActionResult({"NetworkInterfaceId": eni_id, name: value})

    def modify_network_interface_attribute(self) -> ActionResult:
        """ModifyNetworkInterfaceAttribute: one attribute per call."""
        eni_id = requests.required(self.params, "NetworkInterfaceId")
        interface = self._state.interface(eni_id)
        given = set(self.params) - {"NetworkInterfaceId", "DryRun"}
        if strange := given.difference(_MODIFIABLE):
            raise unsupported(f"the parameter {min(strange)}")
        if len(given) != 1:
            raise combination("Exactly one attribute must be specified.")
        self.error_on_dryrun()
        self._modify(interface, given.pop())
        return EmptyResult()

    def _modify(self, interface: Interface, attribute: str) -> None:
        value = self.params[attribute]
        match attribute:
            case "Description":
                changed = replace(interface, description=value.get("Value", ""))
            case "SourceDestCheck":
                changed = replace(interface, has_source_check=value["Value"])
            case "Groups":
                groups = self._backend.resolve_groups(value, interface.subnet_id)
                changed = replace(interface, group_ids=groups)
            case _:
                ec2_attachments.set_delete_on_termination(
                    self._state,
                    interface.eni_id,
                    requests.required(value, "AttachmentId"),
                    self._now,
                    deletes=bool(value.get("DeleteOnTermination")),
                )
                return
        self._state.put(changed, self._now)

    def attach_network_interface(self) -> ActionResult:
        """AttachNetworkInterface."""
        slot = Slot(
            device_index=requests.required(self.params, "DeviceIndex"),
            network_card=self.params.get("NetworkCardIndex") or 0,
        )
        eni_id = requests.required(self.params, "NetworkInterfaceId")
        instance_id = requests.required(self.params, "InstanceId")
        self.error_on_dryrun()
        if self._mishap is not None and self._mishap.kind is FaultKind.LOST:
            ec2_attachments.check_attach(self._state, eni_id, instance_id, slot)
            attachment_id = self._state.names.new_id("eni-attach")
        else:
            attachment_id = ec2_attachments.attach_interface(
                self._state, eni_id, instance_id, slot, self._now, delay_seconds=self._stuck()
            ).attachment_id
        return ActionResult({"AttachmentId": attachment_id, "NetworkCardIndex": slot.network_card})

    def detach_network_interface(self) -> ActionResult:
        """DetachNetworkInterface."""
        attachment_id = requests.required(self.params, "AttachmentId")
        self.error_on_dryrun()
        if self._mishap is not None and self._mishap.kind is FaultKind.LOST:
            ec2_attachments.by_attachment(self._state, attachment_id)
        else:
            ec2_attachments.detach_interface(
                self._state, attachment_id, self._now, delay_seconds=self._stuck()
            )
        return EmptyResult()

    def _stuck(self) -> float | None:
        """How long attaching or detaching shall take, when a fault says so."""
        if self._mishap is None or self._mishap.kind is not FaultKind.STUCK:
            return None
        return self._mishap.seconds or math.inf

    def assign_private_ip_addresses(self) -> ActionResult:
        """AssignPrivateIpAddresses: answers with what this call added, and no more."""
        eni_id = requests.required(self.params, "NetworkInterfaceId")
        added = ec2_addresses.assign_addresses(
            self._state,
            eni_id,
            requests.assign_wish(self.params),
            self._now,
            may_reassign=bool(self.params.get("AllowReassignment")),
        )
        return ActionResult(
            {
                "NetworkInterfaceId": eni_id,
                "AssignedPrivateIpAddresses": [
                    {"PrivateIpAddress": str(address)} for address in added.addresses
                ],
                "AssignedIpv4Prefixes": [{"Ipv4Prefix": str(one)} for one in added.prefixes],
            }
        )

    def unassign_private_ip_addresses(self) -> ActionResult:
        """UnassignPrivateIpAddresses."""
        eni_id = requests.required(self.params, "NetworkInterfaceId")
        addresses, prefixes = requests.addresses(self.params), requests.prefixes(self.params)
        if not addresses and not prefixes:
            raise missing("PrivateIpAddresses or Ipv4Prefixes")
        ec2_addresses.unassign_addresses(self._state, eni_id, addresses, prefixes, self._now)
        return EmptyResult()

    def assign_ipv6_addresses(self) -> ActionResult:
        """AssignIpv6Addresses: answers with what this call added."""
        eni_id = requests.required(self.params, "NetworkInterfaceId")
        wish = requests.assign_wish_v6(self.params)
        added = ec2_addresses.assign_addresses_v6(self._state, eni_id, wish, self._now)
        return ActionResult(
            {
                "NetworkInterfaceId": eni_id,
                "AssignedIpv6Addresses": [str(address) for address in added.addresses],
                "AssignedIpv6Prefixes": [str(prefix) for prefix in added.prefixes],
            }
        )

    def unassign_ipv6_addresses(self) -> ActionResult:
        """UnassignIpv6Addresses."""
        eni_id = requests.required(self.params, "NetworkInterfaceId")
        addresses, prefixes = requests.addresses_v6(self.params), requests.prefixes_v6(self.params)
        if not addresses and not prefixes:
            raise missing("Ipv6Addresses or Ipv6Prefixes")
        ec2_addresses.unassign_addresses_v6(self._state, eni_id, addresses, prefixes, self._now)
        return ActionResult(
            {
                "NetworkInterfaceId": eni_id,
                "UnassignedIpv6Addresses": [str(address) for address in addresses],
                "UnassignedIpv6Prefixes": [str(prefix) for prefix in prefixes],
            }
        )

    def describe_instance_types(self) -> ActionResult:
        """DescribeInstanceTypes, in pages of at most 100 unless types are named."""
        named = bool(self.params.get("InstanceTypes"))
        page = requests.page(self.params)
        if not named and page.max_results is None:
            page = replace(page, max_results=filters.LARGEST_TYPE_PAGE)
        types = result_of(super().describe_instance_types())["InstanceTypes"]
        shown, token = filters.cut(
            types,
            lambda one: str(one["InstanceType"]),
            page,
            named=named,
            largest=filters.LARGEST_TYPE_PAGE,
        )
        return ActionResult({"InstanceTypes": shown, "NextToken": token})

    def direct(self, params: dict[str, Any]) -> Self:
        """Ready this object for a call that came by no request."""
        self.params = params
        self.uri_match = {}
        self.region = REGION
        self.current_account = ACCOUNT_ID
        self.partition = "aws"
        return self

    def _once(self, action: str, run: Callable[[], Any]) -> ActionResult:
        """Run a call unless its ClientToken has already been used (EC2 guide, "Idempotency")."""
        token = self.params.get("ClientToken")
        if not token:
            return ActionResult(run())
        asked = {name: value for name, value in self.params.items() if name != "ClientToken"}
        if (action, token) not in self._done:
            self._done[action, token] = (copy.deepcopy(asked), run())
        first, answer = self._done[action, token]
        if first != asked:
            raise Ec2Error(
                "IdempotentParameterMismatch",
                f"The client token {token} was used before with other parameters.",
            )
        return ActionResult(answer)

    def _visible(self) -> View:
        return self._state.view(self._now, self._state.delays.visibility_seconds)

    def _shape(self, interface: Interface) -> dict[str, Any]:
        return interface_shape(
            interface,
            owner_id=ACCOUNT_ID,
            region=REGION,
            tags=self._backend.tags_of(interface.eni_id),
            groups={gid: self._backend.group_name(gid) for gid in interface.group_ids},
        )


def result_of(answer: ActionResult) -> Any:
    """What one of moto's own actions answered, before it becomes XML."""
    return answer.result
