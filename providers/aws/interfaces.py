"""Making and removing network interfaces, in as few calls as can be.

Making: CreateNetworkInterface (with its addresses), AttachNetworkInterface,
ModifyNetworkInterfaceAttribute (so that it goes with the instance), then looks at the metadata
service, which cost no EC2 call, until the MAC shows up, and one DescribeNetworkInterfaces that
confirms it. The metadata service is a hint only: where it is silent, EC2 is asked now and then.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from ipamd.cloud import CloudEni, EniStatus, InterfaceRequest, NodeIdentity
from ipamd.errors import CloudError, Denied, NotFound, Throttled, Transient
from ipamd.model import EniId
from providers.aws import placement, tags
from providers.aws.client import Ec2, understood
from providers.aws.config import AwsConfig
from providers.aws.errors import ADDRESS_TAKEN, STILL_IN_USE
from providers.aws.imds import Imds
from providers.aws.subnets import Reservations

T = TypeVar("T")

STATE_SECONDS = 60.0
"""How long to wait for `attached` or for the end of `detaching`; EC2 normally needs 1-10 s."""

HINT_PAUSE_SECONDS = 0.25
"""Between looks at the metadata service, which answers within a millisecond on the same host."""

LOOK_AFTER_SECONDS = (8.0, 16.0, 32.0)
"""When EC2 is asked though the metadata service does not show the change: it has been seen to lag
for a minute (amazon-vpc-cni-k8s issue 1011)."""

PAUSES_SECONDS = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Between looks at EC2 once the metadata service shows the change or fails; the last is repeated.
Also between tries of a call on an ENI that EC2 does not know yet: it is eventually consistent, and
what was just made may be unknown for seconds (terraform-provider-aws issue 35568)."""


class Interfaces:
    """The sequences; each may run in several threads."""

    def __init__(
        self,
        ec2: Ec2,
        imds: Imds,
        reservations: Reservations,
        config: AwsConfig,
        *,
        identity: Callable[[], NodeIdentity],
        shown: Callable[[dict[str, Any]], CloudEni],
        sleep: Callable[[float], None] = time.sleep,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ec2 = ec2
        self._imds = imds
        self._reservations = reservations
        self._config = config
        self._identity = identity
        self._shown = shown
        self._sleep = sleep
        self._monotonic = monotonic
        self._begun: dict[str, tuple[EniId, str]] = {}  # token -> an ENI that lacks a later step
        self.tracking: dict[str, Any] = {}
        """The primary ENI's connection tracking time-outs; new ENIs get the same (aws-node)."""

    def create(self, request: InterfaceRequest) -> CloudEni:
        """Create (idempotent by token), attach, protect, wait; undone when attaching fails."""
        begun = self._begun.pop(request.token, None)
        eni_id, mac = begun or self._create(request)
        attachment_id = ""
        try:
            attachment_id = self._attach(eni_id, request)
            self._protect(eni_id, attachment_id)
            return self._until_attached(eni_id, mac)
        except (Transient, Throttled) as e:
            # The ENI exists: the same token finds it again, and deleting it could race an attach.
            # Remembered, so that the repeat does not spend a call on creating it once more.
            self._begun[request.token] = (eni_id, mac)
            raise Transient(
                str(e),
                operation=e.operation,
                code=e.code,
                eni_id=eni_id,
                retry_after_seconds=e.retry_after_seconds,
            ) from e
        except CloudError:
            # What cannot be deleted now is found by its tags and deleted later.
            with contextlib.suppress(CloudError):
                self._undo(eni_id, mac, attachment_id)
            raise

    def delete(self, eni_id: EniId) -> None:
        """Detach if attached, wait, delete. Gone already is success."""
        raw = self.describe(eni_id)
        if raw is None:
            return None
        attachment = raw.get("Attachment") or {}
        if not attachment:
            return self._delete_free(eni_id)
        self._require_own(eni_id, attachment)
        if attachment.get("Status") != "detaching":
            self._detach(eni_id, str(attachment["AttachmentId"]))
        return self._delete_detaching(eni_id, str(raw.get("MacAddress", "")).lower())

    def describe(self, eni_id: EniId) -> dict[str, Any] | None:
        """One ENI; by filter and not by id, so that one that is not visible yet is no error."""
        pages = self._ec2.pages(
            "DescribeNetworkInterfaces",
            "NetworkInterfaces",
            [("network-interface-id", [eni_id])],
            finishes=True,
        )
        return next(pages, None)

    def _create(self, request: InterfaceRequest) -> tuple[EniId, str]:
        """The new ENI's id and MAC.

        Each address that is tried has a token of its own, since equal tokens need equal parameters;
        a repeat makes the same tries in the same order and meets what was made before.
        """
        places = [str(a) for a in self._places(request)]
        for n, address in enumerate(places):
            try:
                token = f"{request.token}-{n}" if n else request.token
                return self._create_at(request, token, address)
            except CloudError as e:
                if e.code != ADDRESS_TAKEN:
                    raise
        return self._create_at(request, f"{request.token}-any" if places else request.token, "")

    def _places(self, request: InterfaceRequest) -> tuple[object, ...]:
        if not (self._config.uses_prefixes or request.prefixes):
            return ()
        cidr, reserved = self._reservations.of(request.subnet_id)
        return placement.candidates(request.token, cidr, reserved) if reserved else ()

    def _create_at(self, request: InterfaceRequest, token: str, address: str) -> tuple[EniId, str]:
        optional = {
            "SecondaryPrivateIpAddressCount": request.secondary_addresses,
            "Ipv4PrefixCount": request.prefixes,
            "Ipv6PrefixCount": request.prefixes_v6,
            "PrivateIpAddress": address,
            "Groups": list(request.security_group_ids),  # none: the VPC's default one
            "ConnectionTrackingSpecification": self.tracking,
        }
        answer = self._ec2.call(
            "CreateNetworkInterface",
            {
                "ClientToken": token,
                "SubnetId": request.subnet_id,
                "Description": tags.DESCRIPTION + self._identity().instance_id,
                "TagSpecifications": [
                    {"ResourceType": "network-interface", "Tags": self._tags(request)}
                ],
                **{name: value for name, value in optional.items() if value},
            },
            subnet_id=request.subnet_id,
        )
        return understood("CreateNetworkInterface", _id_and_mac, answer)

    def _tags(self, request: InterfaceRequest) -> list[dict[str, str]]:
        # A repeated create must send equal parameters or EC2 answers IdempotentParameterMismatch:
        # the creation time is that of the token, not of the try.
        made = tags.new_eni_tags(
            instance_id=self._identity().instance_id,
            cluster_name=self._config.cluster_name,
            created_unix=tags.token_unix(request.token),
            extra=dict(self._config.extra_eni_tags),
        )
        return tags.as_list(made)

    def _attach(self, eni_id: EniId, request: InterfaceRequest) -> str:
        """The attachment's id. Only a refusal brings a look at whether an earlier try with this
        token got so far: asking first would cost a call each time."""
        try:
            answer = self._once_seen(lambda: self._call_attach(eni_id, request))
        except (NotFound, Throttled, Denied):
            raise
        except CloudError:
            attachment = (self.describe(eni_id) or {}).get("Attachment") or {}
            if attachment.get("InstanceId") != self._identity().instance_id:
                raise
            return str(attachment["AttachmentId"])
        return understood("AttachNetworkInterface", lambda raw: str(raw["AttachmentId"]), answer)

    def _call_attach(self, eni_id: EniId, request: InterfaceRequest) -> dict[str, Any]:
        return self._ec2.call(
            "AttachNetworkInterface",
            {
                "NetworkInterfaceId": eni_id,
                "InstanceId": self._identity().instance_id,
                "DeviceIndex": request.device_index,
                # Always explicit: without it EC2 has miscounted cards (cilium pull request 42512).
                "NetworkCardIndex": request.network_card,
            },
            eni_id=eni_id,
            finishes=True,
        )

    def _protect(self, eni_id: EniId, attachment_id: str) -> None:
        """Have EC2 delete the ENI with the instance: nobody else would."""
        self._once_seen(
            lambda: self._ec2.call(
                "ModifyNetworkInterfaceAttribute",
                {
                    "NetworkInterfaceId": eni_id,
                    "Attachment": {"AttachmentId": attachment_id, "DeleteOnTermination": True},
                },
                eni_id=eni_id,
                finishes=True,
            )
        )

    def _once_seen(self, call: Callable[[], T]) -> T:
        """The call, repeated while EC2 does not know what it has just made."""
        for pause in PAUSES_SECONDS:
            try:
                return call()
            except NotFound:
                self._sleep(pause)
        return call()

    def _until_attached(self, eni_id: EniId, mac: str) -> CloudEni:
        for _ in self._times_to_look(mac, is_there=True):
            raw = self.describe(eni_id)
            if raw and (raw.get("Attachment") or {}).get("Status") == EniStatus.ATTACHED.value:
                return self._shown(raw)
        raise Transient(
            f"{eni_id} is not attached after {STATE_SECONDS:.0f} s",
            operation="AttachNetworkInterface",
            code="StillAttaching",
            eni_id=eni_id,
        )

    def _undo(self, eni_id: EniId, mac: str, attachment_id: str) -> None:
        if attachment_id:
            self._detach(eni_id, attachment_id)
            self._delete_detaching(eni_id, mac)
        else:
            self._once_seen(lambda: self._call_delete(eni_id))

    def _detach(self, eni_id: EniId, attachment_id: str) -> None:
        with contextlib.suppress(NotFound):  # it has been detached already
            self._ec2.call(
                "DetachNetworkInterface",
                {"AttachmentId": attachment_id},
                eni_id=eni_id,
                finishes=True,
            )

    def _require_own(self, eni_id: EniId, attachment: dict[str, Any]) -> None:
        owner = attachment.get("InstanceId", "")
        if owner != self._identity().instance_id:
            raise CloudError(
                f"{eni_id} is attached to {owner or 'something else'} and not to this node; "
                "it is left alone",
                operation="DetachNetworkInterface",
                code="ForeignAttachment",
                eni_id=eni_id,
            )

    def _delete_free(self, eni_id: EniId) -> None:
        with contextlib.suppress(NotFound):
            self._call_delete(eni_id)

    def _call_delete(self, eni_id: EniId) -> None:
        self._ec2.call(
            "DeleteNetworkInterface", {"NetworkInterfaceId": eni_id}, eni_id=eni_id, finishes=True
        )

    def _delete_detaching(self, eni_id: EniId, mac: str) -> None:
        """Delete after the end of detaching. EC2 refuses while it lasts, so that the delete itself
        asks for it."""
        for _ in self._times_to_look(mac, is_there=False):
            try:
                return self._delete_free(eni_id)
            except Transient as e:
                if e.code not in STILL_IN_USE:
                    raise
        raise Transient(
            f"{eni_id} is still in use after {STATE_SECONDS:.0f} s",
            operation="DetachNetworkInterface",
            code="StillDetaching",
            eni_id=eni_id,
        )

    def _times_to_look(self, mac: str, *, is_there: bool) -> Iterator[None]:
        """Moments at which EC2 is worth asking, for STATE_SECONDS: as soon as the metadata service
        shows the change (or fails) and then at growing pauses, and now and then before that."""
        began = self._monotonic()
        for due in (*LOOK_AFTER_SECONDS, STATE_SECONDS):
            is_over = self._wait_for_hint(mac, is_there=is_there, until=began + due)
            yield
            if is_over:
                break
        for pause in itertools.chain(PAUSES_SECONDS, itertools.repeat(PAUSES_SECONDS[-1])):
            if self._monotonic() + pause > began + STATE_SECONDS:
                return
            self._sleep(pause)
            yield

    def _wait_for_hint(self, mac: str, *, is_there: bool, until: float) -> bool:
        """Whether waiting for the metadata service is over: it shows the wanted state of the MAC,
        or cannot be asked."""
        while self._monotonic() < until:
            try:
                if not mac or self._imds.shows_interface(mac) is is_there:
                    return True
            except Transient:
                return True
            self._sleep(HINT_PAUSE_SECONDS)
        return False


def _id_and_mac(answer: dict[str, Any]) -> tuple[EniId, str]:
    made = answer["NetworkInterface"]
    return EniId(made["NetworkInterfaceId"]), str(made.get("MacAddress", "")).lower()
