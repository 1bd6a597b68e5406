"""The two kinds of write target: a NIC of a VM, and an instance of a Uniform scale set.

They differ in where the NICs are read, in what is PUT, and in what a PUT tells: a NIC's answer has
the new addresses, an instance's has none, for its NICs follow when the operation ends. A machine of
a Flexible set has plain NICs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from ipamd.errors import Transient
from ipamd.model import EniId
from providers.azure import bodies, configs, ids
from providers.azure.api import Answered, Operation
from providers.azure.bodies import Edit
from providers.azure.configs import ODD, Body, key_of
from providers.azure.merge import Edits, NicPicture, Picture
from providers.azure.names import Kind

T = TypeVar("T")


class Door(Protocol):
    """What of `providers.azure.api.ArmApi` writing needs."""

    def nic(self, nic_id: str, /) -> Answered:
        """See ArmApi.nic."""

    def instance(self, instance_id: str, /) -> Answered:
        """See ArmApi.instance."""

    def instance_nics(self, instance_id: str, /) -> tuple[Body, ...]:
        """See ArmApi.instance_nics."""

    def put_nic(self, nic_id: str, body: Body, etag: str, /) -> Answered:
        """See ArmApi.put_nic."""

    def put_instance(self, instance_id: str, body: Body, etag: str, /) -> Answered:
        """See ArmApi.put_instance."""

    def operation(self, url: str, /) -> Operation:
        """See ArmApi.operation."""


class Target(Protocol):
    """What one PUT replaces."""

    @property
    def target_id(self) -> str:
        """The canonical id of what is PUT."""

    @property
    def longest_pause_seconds(self) -> float:
        """Between looks at it while it changes."""

    @property
    def busy_retry_seconds(self) -> float:
        """When asking again makes sense after refusals because of others' changes."""

    @property
    def waits_while_moving(self) -> bool:
        """Whether a PUT during a change by others would displace that change."""

    def read(self, *, is_whole: bool = False) -> Picture:
        """It as it is now, in as few calls as tell; `is_whole`: with its NICs in any case."""

    def put(self, picture: Picture, edits: Edits) -> Answered:
        """Replace it by what was read and the edits; errors of `bodies` before any call."""

    def seen(self, answered: Answered) -> Picture | None:
        """What the answer of a PUT shows; None where that is not enough to tell an end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NicTarget:
    """A NIC of a VM."""

    door: Door
    eni_id: EniId

    waits_while_moving = False  # If-Match guards it, and a PUT is what heals a stuck one
    busy_retry_seconds = 5.0
    longest_pause_seconds = 5.0  # a NIC takes some seconds, and only its own bucket pays

    @property
    def target_id(self) -> str:
        """The NIC itself."""
        return self.eni_id

    def read(self, *, is_whole: bool = False) -> Picture:  # noqa: ARG002 - InstanceTarget's
        """One GET."""
        return _understood("NIC", self._picture, self.door.nic(self.eni_id))

    def put(self, picture: Picture, edits: Edits) -> Answered:
        """PUT the NIC with If-Match."""
        edit = edits.get(self.eni_id, Edit())
        body = _understood("NIC", lambda nic: bodies.nic_body(nic, edit), picture.body)
        return self.door.put_nic(self.eni_id, body, picture.etag)

    def seen(self, answered: Answered) -> Picture | None:
        """The answer is the NIC, with the new addresses."""
        try:
            return self._picture(answered)
        except ODD:
            return None

    def _picture(self, answered: Answered) -> Picture:
        nic = answered.body
        shown = {config.key: config for config in configs.configs_of(nic)}
        written = _kinds(nic)
        return Picture(
            etag=answered.etag or str(nic.get("etag", "")),
            state=_state(nic),
            body=nic,
            nics={
                self.eni_id: NicPicture(
                    eni_id=self.eni_id,
                    subnet_id=_subnet_id(nic),
                    shown=shown,
                    written=written,
                )
            },
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceTarget:
    """An instance of a Uniform scale set, with all its NICs."""

    door: Door
    instance_id: str

    waits_while_moving = True  # OperationPreempted would be the end of the other's change
    busy_retry_seconds = 15.0  # an instance's update takes longer than a NIC's
    longest_pause_seconds = 10.0  # 12 reads a minute and instance; an update may take minutes

    @property
    def target_id(self) -> str:
        """The instance."""
        return self.instance_id

    def read(self, *, is_whole: bool = False) -> Picture:
        """GET the model, and the NICs too unless the instance is being changed: they follow."""
        answered = self.door.instance(self.instance_id)
        state = _understood("instance", _state, answered.body)
        bare = _understood("instance", self._picture, answered, state, ())
        if bare.is_moving and not is_whole:
            return bare
        views = self.door.instance_nics(self.instance_id)
        return _understood("instance", self._picture, answered, state, views)

    def put(self, picture: Picture, edits: Edits) -> Answered:
        """PUT the instance, with If-Match where this api-version has etags for it."""
        by_name = {_nic_name(eni_id): edit for eni_id, edit in edits.items()}
        body = _understood(
            "instance", lambda instance: bodies.instance_body(instance, by_name), picture.body
        )
        return self.door.put_instance(self.instance_id, body, picture.etag)

    def seen(self, answered: Answered) -> Picture | None:  # noqa: ARG002 - NicTarget's
        """The answer is at best the model, which has no addresses."""
        return None

    def _picture(self, answered: Answered, state: str, views: tuple[Body, ...]) -> Picture:
        by_name = {_nic_name(str(view["id"])): view for view in views}
        pictures = (
            self._nic_picture(nic, by_name.get(key_of(nic)))
            for nic in bodies.nics_of(answered.body)
        )
        return Picture(
            etag=answered.etag or str(answered.body.get("etag", "")),
            state=state,
            body=answered.body,
            nics={picture.eni_id: picture for picture in pictures},
        )

    def _nic_picture(self, model: Body, view: Body | None) -> NicPicture:
        """The NIC has the name of its configuration in the model."""
        written = _kinds(model)
        blocks = {key for key, kind in written.items() if kind is Kind.BLOCK}
        shown = configs.configs_of(view, blocks=blocks) if view is not None else ()
        return NicPicture(
            eni_id=EniId(f"{self.instance_id}/networkinterfaces/{key_of(model)}"),
            subnet_id=_subnet_id(model),
            shown={config.key: config for config in shown},
            written=written,
        )


def target_of(door: Door, eni_id: EniId) -> Target:
    """What has to be PUT to change a NIC; ValueError for what is not the id of one."""
    parsed = ids.arm_id(eni_id, ids.Kind.NIC, ids.Kind.INSTANCE_NIC)
    is_nic = parsed.kind is ids.Kind.NIC
    return target_by_id(door, parsed.text if is_nic else parsed.parent.text)


def target_by_id(door: Door, target_id: str) -> Target:
    """The target of an id that the journal kept; ValueError for what is none's."""
    parsed = ids.arm_id(target_id, ids.Kind.NIC, ids.Kind.INSTANCE)
    if parsed.kind is ids.Kind.NIC:
        return NicTarget(door=door, eni_id=EniId(parsed.text))
    return InstanceTarget(door=door, instance_id=parsed.text)


def _kinds(nic: Body) -> dict[str, Kind]:
    listed = nic["properties"].get("ipConfigurations") or []
    return {key_of(raw): Kind.BLOCK if configs.is_block(raw) else Kind.ADDRESS for raw in listed}


def _subnet_id(nic: Body) -> str:
    """The subnet of all configurations of a NIC."""
    primary = configs.primary_of(nic["properties"].get("ipConfigurations") or [])
    if primary is None:
        return ""
    return ids.canonical(primary["properties"]["subnet"]["id"], ids.Kind.SUBNET)


def _state(resource: Body) -> str:
    return str(resource["properties"].get("provisioningState") or "").lower()


def _nic_name(nic_id: str) -> str:
    return nic_id.rstrip("/").rsplit("/", 1)[-1].lower()


def _understood(what: str, read: Callable[..., T], *answer: object) -> T:
    """What `read` makes of an answer; Transient where it cannot: something between us and ARM."""
    try:
        return read(*answer)
    except ODD as e:
        raise Transient(
            f"an answer about the {what} cannot be read: {type(e).__name__}: {e}", code="OddAnswer"
        ) from e
