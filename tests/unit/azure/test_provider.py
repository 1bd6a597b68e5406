"""The provider as a whole: a small ARM and metadata service that hold still, below the real SDK."""

from __future__ import annotations

import contextlib
import threading
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import pytest

from ipamd.api_calls import ApiCall
from ipamd.cloud import AddressChange, EniHint, InterfaceRequest
from ipamd.errors import CloudError, Denied, NotFound, Transient, Unsupported
from ipamd.model import EniId, SubnetId
from providers.azure.config import AzureConfig
from providers.azure.ids import arm_id
from providers.azure.imds import Imds, Machine, ShownInterface
from providers.azure.node import MachineKind
from providers.azure.provider import AzureProvider
from providers.azure.subnets import DENIED_SECONDS, FACTS_SECONDS, SPACE_SECONDS
from tests.unit.azure.arm_fakes import (
    ENDPOINT,
    INSTANCE,
    NIC,
    NIC1,
    SUBNET,
    VM,
    VM_ID,
    VNET,
    Answer,
    Clock,
    Credential,
    Json,
    Sent,
    Transport,
    config,
    model,
    model_config,
    nic,
    refused,
    view,
)

SUBNET_ID = SubnetId(SUBNET.lower())
SUBNET_BODY = {"id": SUBNET, "properties": {"addressPrefix": "10.0.0.0/24"}}
VNET_BODY = {"properties": {"addressSpace": {"addressPrefixes": ["10.0.0.0/16", "fd00::/48"]}}}
USAGE = {"id": SUBNET, "currentValue": 51.0, "limit": 251.0}
MACHINE = Machine(
    vm_id=VM_ID, size="Standard_D4s_v5", location="westeurope", zone="2", resource=arm_id(VM)
)
SHOWN = ShownInterface(mac="00:0d:3a:00:00:04", items=(), subnets=(IPv4Network("10.0.0.0/24"),))
OTHER_NIC = nic(nic_id=NIC1, primary="10.0.0.5")
OTHER_NIC["properties"] |= {"macAddress": "00-0D-3A-00-00-05", "primary": False}


class StillImds(Imds):
    """A metadata service that always says the same."""

    def __init__(self, machine: Machine) -> None:
        super().__init__("http://imds.test")
        self.shown: tuple[ShownInterface, ...] = (SHOWN,)
        self._machine = machine

    def machine(self) -> Machine:
        return self._machine

    def interfaces(self) -> tuple[ShownInterface, ...]:
        return self.shown


@dataclass(slots=True)
class World:
    """ARM as a table of paths, and the provider over it."""

    provider: AzureProvider
    bodies: dict[str, Json | Answer]
    transport: Transport
    clock: Clock
    told: list[ApiCall] = field(default_factory=list)

    @property
    def imds(self) -> StillImds:
        assert isinstance(self.provider._imds, StillImds)
        return self.provider._imds

    def put(self, path: str, body: Json | Answer) -> None:
        self.bodies[path.lower()] = body

    def asked(self) -> list[str]:
        """The last two steps of each path asked since the last time."""
        paths = ["/".join(s.path.rsplit("/", 2)[1:]) for s in self.transport.sent]
        self.transport.sent.clear()
        return paths


def world(
    tmp_path: Path, machine: Machine = MACHINE, bodies: dict[str, Any] | None = None, **options: Any
) -> World:
    table: dict[str, Json | Answer] = {
        path.lower(): body
        for path, body in {
            VNET: VNET_BODY,
            SUBNET: SUBNET_BODY,
            f"{VNET}/usages": {"value": [USAGE]},
            **(bodies or {}),
        }.items()
    }

    def answer(sent: Sent) -> Answer:
        body = table.get(sent.path)
        if body is None:
            return refused(404, "ResourceNotFound")
        return body if isinstance(body, Answer) else Answer(200, body)

    clock, told = Clock(), list[ApiCall]()
    transport = Transport(otherwise=answer)
    settings = AzureConfig(journal_path=tmp_path / "journal.json", arm_endpoint=ENDPOINT, **options)
    provider = AzureProvider(
        settings,
        tell=told.append,
        credential=Credential(),
        monotonic=clock.monotonic,
        sleep=clock.sleep,
        chance=lambda: 0.0,
        transport=transport,
        imds=StillImds(machine),
    )
    return World(provider, table, transport, clock, told)


def vm(*nic_ids: str, vm_id: str = VM_ID) -> Json:
    listed = [{"id": one, "properties": {"primary": one == NIC}} for one in nic_ids]
    return {"properties": {"vmId": vm_id, "networkProfile": {"networkInterfaces": listed}}}


def on_vm(tmp_path: Path, *configs: Json, **options: Any) -> World:
    """A VM with two NICs, the primary one listed last."""
    bodies = {VM: vm(NIC1, NIC), NIC: nic(*configs), NIC1: OTHER_NIC}
    return world(tmp_path, bodies=bodies, **options)


def on_instance(tmp_path: Path, *configs: Json, modelled: tuple[Json, ...] = ()) -> World:
    """An instance of a Uniform scale set."""
    machine = Machine(
        vm_id=VM_ID, size="s", location="westeurope", zone="", resource=arm_id(INSTANCE)
    )
    bodies = {
        INSTANCE: model(*modelled),
        f"{INSTANCE}/networkInterfaces": {"value": [view(*configs)]},
    }
    return world(tmp_path, machine, bodies)


def test_a_virtual_machine_is_discovered(tmp_path: Path) -> None:
    made = on_vm(tmp_path)
    identity = made.provider.discover_node()
    assert (identity.instance_id, identity.instance_type) == (VM_ID, "Standard_D4s_v5")
    assert (identity.region, identity.zone) == ("westeurope", "westeurope-2")
    assert (identity.vpc_id, identity.primary_subnet_id) == (VNET.lower(), SUBNET.lower())
    assert (identity.primary_eni_id, identity.primary_mac) == (NIC.lower(), SHOWN.mac)
    assert identity.security_group_ids == ()
    assert made.asked() == ["virtualmachines/vm", "networkinterfaces/nic0"]


def test_an_instance_of_a_scale_set_is_discovered(tmp_path: Path) -> None:
    made = on_instance(tmp_path)
    identity = made.provider.discover_node()
    assert identity.primary_eni_id == f"{INSTANCE}/networkInterfaces/Nic0".lower()
    assert identity.zone == ""
    assert made.provider.capabilities().write_seconds == 60.0
    assert made.asked() == ["virtualmachines/3", "3/networkinterfaces"]


def test_a_machine_of_a_flexible_set_has_plain_nics(tmp_path: Path) -> None:
    made = on_vm(tmp_path)
    made.put(VM, {**vm(NIC), "virtualMachineScaleSet": {"id": "x"}})
    made.provider.discover_node()
    assert made.provider._node().kind is MachineKind.VM


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (vm(NIC, vm_id="ffffffff-0000-0000-0000-000000000000"), "the metadata service that we are"),
        (vm(), "no NIC"),
        ({"properties": {}}, "no NIC"),
        ({}, "cannot be read"),
        (vm("nonsense"), "cannot be read"),
    ],
)
def test_a_machine_that_cannot_be_ours_is_not_discovered(
    tmp_path: Path, body: Json, said: str
) -> None:
    made = on_vm(tmp_path)
    made.put(VM, body)
    with pytest.raises(Transient, match=said):
        made.provider.discover_node()


def test_an_instance_without_views_is_not_discovered(tmp_path: Path) -> None:
    made = on_instance(tmp_path)
    made.put(f"{INSTANCE}/networkInterfaces", {"value": []})
    with pytest.raises(NotFound, match=r"does not show .*nic0"):
        made.provider.discover_node()
    silent = model()
    del silent["properties"]["networkProfile"]
    made.put(INSTANCE, silent)
    with pytest.raises(Transient, match="no NIC"):
        made.provider.discover_node()


@pytest.mark.parametrize(
    ("options", "on", "expected"),
    [
        ({}, on_vm, (5.0, 0.0, (300.0, 600.0))),
        ({"write_seconds": 9.0, "write_interval_seconds": 3.0}, on_vm, (9.0, 3.0, (300.0, 600.0))),
        ({"resync_seconds": 60.0}, on_vm, (5.0, 0.0, (40.0, 80.0))),
    ],
)
def test_what_azure_can_do_on_a_virtual_machine(
    tmp_path: Path, options: dict[str, Any], on: Any, expected: tuple[Any, ...]
) -> None:
    made = on(tmp_path, **options)
    made.provider.discover_node()
    can = made.provider.capabilities()
    assert not can.can_create_interfaces
    assert can.has_prefixes
    assert can.replaces_whole_interface
    seen = (can.write_seconds, can.write_interval_seconds)
    assert (*seen, can.resync_seconds) == (*expected[:2], pytest.approx(expected[2]))


def test_a_scale_set_is_written_every_fifteen_seconds(tmp_path: Path) -> None:
    made = on_instance(tmp_path)
    made.provider.discover_node()
    can = made.provider.capabilities()
    assert (can.write_seconds, can.write_interval_seconds) == (60.0, 15.0)


def test_the_nics_that_are_there_are_all_that_can_be(tmp_path: Path) -> None:
    limits = on_vm(tmp_path).provider.limits()
    assert (limits.max_enis, limits.addresses_per_eni, limits.has_prefixes) == (2, 256, True)
    assert limits.slots_per_eni == 255


def test_what_others_hold_is_no_room_for_ours(tmp_path: Path) -> None:
    v6 = config("v6", "fd00::4", privateIPAddressVersion="IPv6")
    made = on_vm(tmp_path, config("ipamd-1", "10.0.0.9"), config("x", "10.0.0.8"), v6)
    assert made.provider.limits().addresses_per_eni == 254


def test_a_look_shows_all_nics_of_a_virtual_machine(tmp_path: Path) -> None:
    made = on_vm(
        tmp_path,
        config("ipamd-1", "10.0.0.9"),
        config("ipamd-2", "10.0.0.32/28"),
        config("x", "10.0.0.8"),
    )
    first, second = made.provider.snapshot().enis
    assert (first.eni_id, first.device_index, first.is_primary) == (NIC.lower(), 0, True)
    assert (first.addresses, first.prefixes) == (
        (IPv4Address("10.0.0.9"),),
        (IPv4Network("10.0.0.32/28"),),
    )
    assert first.version == 'W/"1"'
    assert (second.eni_id, second.device_index, second.is_primary) == (NIC1.lower(), 1, False)


def test_a_look_on_a_scale_set_joins_view_and_model(tmp_path: Path) -> None:
    made = on_instance(
        tmp_path,
        config("ipamd-1", "10.0.0.32"),
        modelled=(model_config("ipamd-1", privateIPAddressPrefixLength=28),),
    )
    made.provider.discover_node()
    made.asked()
    (eni,) = made.provider.snapshot().enis
    assert eni.prefixes == (IPv4Network("10.0.0.32/28"),)
    assert made.asked()[:2] == ["3/networkinterfaces", "virtualmachines/3"]


def test_the_vnets_networks_come_with_a_look_and_are_kept_for_a_while(tmp_path: Path) -> None:
    made = on_vm(tmp_path)
    assert made.provider.snapshot().vpc_cidrs == (IPv4Network("10.0.0.0/16"),)
    made.asked()
    made.provider.snapshot()
    assert made.asked() == ["networkinterfaces/nic0", "networkinterfaces/nic1"]
    made.clock.now += SPACE_SECONDS
    made.provider.snapshot()
    assert "virtualnetworks/net" in made.asked()


def test_a_nic_that_is_gone_brings_a_new_discovery(tmp_path: Path) -> None:
    made = on_vm(tmp_path)
    made.provider.snapshot()
    made.put(NIC1, refused(404, "ResourceNotFound"))
    made.put(VM, vm(NIC))
    with pytest.raises(NotFound):
        made.provider.snapshot()
    assert [eni.eni_id for eni in made.provider.snapshot().enis] == [NIC.lower()]


def test_what_a_write_is_removing_is_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = on_vm(tmp_path, config("ipamd-1", "10.0.0.9"))
    monkeypatch.setattr(made.provider._writer, "hidden", lambda eni_id: frozenset({"ipamd-1"}))
    assert made.provider.snapshot().enis[0].addresses == ()


def test_addresses_stay_while_their_nic_is_changed(tmp_path: Path) -> None:
    made = on_vm(tmp_path, config("ipamd-1", "10.0.0.9"))
    made.provider.snapshot()
    busy = {"provisioningState": "Updating"}
    changed = nic(config("ipamd-1", "10.0.0.9", **busy), config("ipamd-2", "10.0.0.10", **busy))
    made.put(NIC, changed)
    assert made.provider.snapshot().enis[0].addresses == (IPv4Address("10.0.0.9"),)


def test_a_subnet_without_the_right_to_read_it_has_imdss_network(tmp_path: Path) -> None:
    made = on_vm(tmp_path)
    made.put(SUBNET, refused(403, "AuthorizationFailed"))
    made.put(NIC1, nic(nic_id=NIC1, primary="10.0.0.5"))
    assert made.provider.snapshot().enis[0].subnet_cidr == IPv4Network("10.0.0.0/24")


def test_without_imdss_network_either_the_missing_right_is_named(tmp_path: Path) -> None:
    made = on_vm(tmp_path)
    made.put(SUBNET, refused(403, "AuthorizationFailed"))
    made.imds.shown = ()
    with pytest.raises(Denied, match="subnets/read"):
        made.provider.snapshot()


def test_a_vnet_without_the_right_to_read_it_tells_no_networks(tmp_path: Path) -> None:
    made = on_vm(tmp_path)
    made.put(VNET, refused(403, "AuthorizationFailed"))
    assert made.provider.snapshot().vpc_cidrs == ()


def test_subnets_are_counted_by_the_vnets_usage_in_one_call(tmp_path: Path) -> None:
    made = on_vm(tmp_path)
    made.provider.snapshot()
    made.asked()
    (subnet,) = made.provider.subnets((SUBNET_ID,))
    assert (subnet.free_addresses, subnet.cidr) == (200, IPv4Network("10.0.0.0/24"))
    assert not subnet.is_candidate
    assert made.asked() == ["net/usages"]


@pytest.mark.parametrize(
    ("references", "free"),
    [
        pytest.param({"ipConfigurations": [{"id": "a"}] * 11}, 240, id="by its references"),
        pytest.param({}, 251, id="by its size"),
    ],
)
@pytest.mark.parametrize(
    "usages",
    [
        pytest.param({"value": [{**USAGE, "currentValue": -1, "limit": -1}]}, id="not counted"),
        pytest.param({"value": []}, id="not listed"),
        pytest.param(refused(403, "AuthorizationFailed"), id="no right to read it"),
    ],
)
def test_a_subnet_that_is_not_counted_is_estimated(
    tmp_path: Path, usages: Json | Answer, references: Json, free: int
) -> None:
    made = on_vm(tmp_path)
    made.put(f"{VNET}/usages", usages)
    made.put(SUBNET, {"id": SUBNET, "properties": {"addressPrefix": "10.0.0.0/24", **references}})
    (subnet,) = made.provider.subnets((SUBNET_ID,))
    assert subnet.free_addresses == free


def test_an_estimate_is_made_anew_each_time(tmp_path: Path) -> None:
    made = on_vm(tmp_path)
    made.put(f"{VNET}/usages", {"value": []})
    for count in (1, 2):
        more = {"addressPrefix": "10.0.0.0/24", "ipConfigurations": [{}] * count}
        made.put(SUBNET, {"id": SUBNET, "properties": more})
        (subnet,) = made.provider.subnets((SUBNET_ID,))
        assert subnet.free_addresses == 251 - count
        made.clock.now += 60.0


def test_a_right_that_is_missing_is_not_asked_for_all_the_time(tmp_path: Path) -> None:
    made = on_vm(tmp_path)
    made.put(f"{VNET}/usages", refused(403, "AuthorizationFailed"))
    for _ in range(3):
        made.provider.subnets((SUBNET_ID,))
        made.clock.now += 60.0
    assert made.asked().count("net/usages") == 1
    made.clock.now += DENIED_SECONDS
    made.provider.subnets((SUBNET_ID,))
    assert made.asked().count("net/usages") == 1


def test_a_subnet_that_is_gone_is_not_found(tmp_path: Path) -> None:
    made = on_vm(tmp_path)
    made.put(SUBNET, refused(404, "ResourceNotFound"))
    made.put(f"{VNET}/usages", {"value": []})
    with pytest.raises(NotFound):
        made.provider.subnets((SUBNET_ID,))


def test_a_subnet_that_grew_is_noticed(tmp_path: Path) -> None:
    made = on_vm(tmp_path)
    made.provider.snapshot()
    made.put(SUBNET, {"id": SUBNET, "properties": {"addressPrefixes": ["10.0.0.0/23"]}})
    made.clock.now += FACTS_SECONDS
    assert made.provider.snapshot().enis[0].subnet_cidr == IPv4Network("10.0.0.0/23")


def test_the_hint_is_in_terms_of_the_last_look(tmp_path: Path) -> None:
    made = on_vm(tmp_path, config("ipamd-1", "10.0.0.9"), config("x", "10.0.0.8"))
    made.provider.snapshot()
    made.imds.shown = (
        ShownInterface(
            mac=SHOWN.mac,
            items=tuple(map(IPv4Address, ("10.0.0.4", "10.0.0.8", "10.0.0.9"))),
            subnets=(),
        ),
    )
    made.asked()
    hint = made.provider.hint()
    assert hint.enis == (EniHint(eni_id=EniId(NIC.lower()), items=("10.0.0.9",)),)
    assert hint.vpc_cidrs == (IPv4Network("10.0.0.0/16"),)
    assert made.asked() == []


def test_without_a_look_there_is_no_hint(tmp_path: Path) -> None:
    with pytest.raises(Transient, match="no look"):
        on_vm(tmp_path).provider.hint()


def test_hints_can_be_off(tmp_path: Path) -> None:
    made = on_vm(tmp_path, has_hints=False)
    made.provider.snapshot()
    with pytest.raises(Unsupported, match="AZURE_METADATA_HINTS"):
        made.provider.hint()


def test_nics_are_neither_made_nor_deleted_and_the_error_says_what_to_do(tmp_path: Path) -> None:
    provider = on_vm(tmp_path).provider
    request = InterfaceRequest(
        token="t",
        subnet_id=SUBNET_ID,
        security_group_ids=(),
        secondary_addresses=1,
        device_index=1,
        network_card=0,
        reason="test",
    )
    for call in (
        lambda: provider.create_interface(request),
        lambda: provider.delete_interface(EniId(NIC)),
        lambda: provider.mark_created(EniId(NIC), 0.0),
        lambda: provider.delete_orphan(EniId(NIC)),
    ):
        with pytest.raises(Unsupported, match="stopped"):
            call()
    assert provider.orphans() == ()


def test_a_change_goes_to_the_writer(tmp_path: Path) -> None:
    made = on_vm(tmp_path, config("ipamd-1", "10.0.0.9"))
    gone = AddressChange(eni_id=EniId(NIC.lower()), remove=(IPv4Address("10.0.0.77"),))
    assert made.provider.apply(gone).added == ()  # it is gone already
    assert not any(sent.method == "PUT" for sent in made.transport.sent)


def test_an_endpoint_without_tls_is_refused_at_the_start(tmp_path: Path) -> None:
    settings = AzureConfig(journal_path=tmp_path / "j", arm_endpoint="http://arm.test")
    with pytest.raises(Denied, match="not https"):
        AzureProvider(settings)


@pytest.mark.parametrize("status", [403, 429, 500])
def test_every_failure_is_a_cloud_error(tmp_path: Path, status: int) -> None:
    made = on_vm(tmp_path)
    for path in (VM, INSTANCE, NIC):
        made.put(path, refused(status, "No"))
    for call in (made.provider.discover_node, made.provider.limits, made.provider.snapshot):
        with pytest.raises(CloudError):
            call()


def test_each_call_is_told(tmp_path: Path) -> None:
    made = on_vm(tmp_path)
    made.provider.discover_node()
    assert [call.api for call in made.told] == ["VirtualMachines_Get", "NetworkInterfaces_Get"]
    made.provider.close()


def test_an_instance_whose_model_names_no_nic_has_those_that_are_shown(tmp_path: Path) -> None:
    made = on_instance(tmp_path)
    silent = model()
    del silent["properties"]["networkProfile"]
    made.put(INSTANCE, silent)
    identity = made.provider.discover_node()
    assert identity.primary_eni_id == f"{INSTANCE}/networkInterfaces/Nic0".lower()


def with_second_nic(made: World, *order: str) -> None:
    """The instance gets one more NIC; `order` is that of the views."""
    instance = model()
    profile = instance["properties"]["networkProfile"]["networkInterfaces"]
    profile.append({"id": f"{INSTANCE}/networkInterfaces/Nic1"})
    configured = instance["properties"]["networkProfileConfiguration"]
    listed = configured["networkInterfaceConfigurations"]
    listed.append({**listed[0], "name": "Nic1"})
    made.put(INSTANCE, instance)
    second = view(name="Nic1")
    second["properties"] |= {"macAddress": "00-0D-3A-00-00-05", "primary": False}
    views = {"Nic0": view(), "Nic1": second}
    made.put(f"{INSTANCE}/networkInterfaces", {"value": [views[name] for name in order]})


def test_a_look_that_lacks_the_primary_nic_makes_no_other_one_primary(tmp_path: Path) -> None:
    made = on_instance(tmp_path)
    with_second_nic(made, "Nic1", "Nic0")
    enis = made.provider.snapshot().enis
    assert [(e.eni_id[-4:], e.device_index) for e in enis] == [("nic0", 0), ("nic1", 1)]
    with_second_nic(made, "Nic1")
    with pytest.raises(NotFound, match=r"does not show .*nic0"):
        made.provider.snapshot()


def test_the_primary_nic_of_an_instance_need_not_be_its_first(tmp_path: Path) -> None:
    made = on_instance(tmp_path)
    with_second_nic(made, "Nic1", "Nic0")
    instance = made.bodies[INSTANCE.lower()]
    assert isinstance(instance, dict)
    instance["properties"]["networkProfile"]["networkInterfaces"].reverse()
    assert made.provider.discover_node().primary_eni_id.endswith("nic0")
    assert [e.device_index for e in made.provider.snapshot().enis] == [0, 1]


def test_a_machine_that_shows_a_secondary_nic_only_is_not_discovered(tmp_path: Path) -> None:
    made = on_vm(tmp_path)
    made.put(VM, vm(NIC1))
    with pytest.raises(Transient, match="which NIC"):
        made.provider.discover_node()


@pytest.mark.parametrize(
    ("holder", "is_ours"),
    [
        pytest.param(VM, True, id="this machine"),
        pytest.param(VM.upper(), True, id="in another case"),
        pytest.param(f"{VM}2", False, id="another machine"),
        pytest.param(VM.replace("Group", "Other"), False, id="in another group"),
        pytest.param(INSTANCE, True, id="by a name of another kind"),
        pytest.param("nonsense", False, id="what cannot be"),
    ],
)
def test_a_nic_of_another_machine_is_neither_shown_nor_written(
    tmp_path: Path, holder: str, is_ours: bool
) -> None:
    made = on_vm(tmp_path)
    body = nic()
    body["properties"]["virtualMachine"] = {"id": holder}
    made.put(NIC, body)
    told = contextlib.nullcontext() if is_ours else pytest.raises(Transient)
    with told:
        assert made.provider.snapshot().enis[0].eni_id == NIC.lower()


def test_another_nic_than_the_one_asked_for_is_odd(tmp_path: Path) -> None:
    made = on_vm(tmp_path)
    made.put(NIC1, nic(nic_id=NIC))
    with pytest.raises(Transient, match="asked for"):
        made.provider.snapshot()


def test_a_nic_may_be_in_another_group_and_subscription_than_its_machine(tmp_path: Path) -> None:
    elsewhere = NIC.replace("/Sub/", "/Sub2/").replace("/Group/", "/Group2/")
    made = on_vm(tmp_path)
    made.put(VM, vm(elsewhere))
    made.put(elsewhere, nic(nic_id=elsewhere))
    assert made.provider.snapshot().enis[0].eni_id == elsewhere.lower()


def test_another_subnet_than_the_one_asked_for_is_odd(tmp_path: Path) -> None:
    made = on_vm(tmp_path)
    made.put(SUBNET, {**SUBNET_BODY, "id": SUBNET.replace("/Net/", "/Other/")})
    with pytest.raises(Transient, match="asked for"):
        made.provider.snapshot()


def test_a_subnet_of_another_cloud_is_a_cloud_error(tmp_path: Path) -> None:
    with pytest.raises(CloudError, match="subnet-1"):
        on_vm(tmp_path).provider.subnets((SubnetId("subnet-1"),))


def test_a_token_that_is_not_taken_is_no_missing_right(tmp_path: Path) -> None:
    made = on_vm(tmp_path)
    made.put(VNET, refused(401, "InvalidAuthenticationTokenTenant"))
    with pytest.raises(Denied):
        made.provider.snapshot()
    made.put(VNET, VNET_BODY)
    assert made.provider.snapshot().vpc_cidrs == (IPv4Network("10.0.0.0/16"),)


def test_a_hint_never_asks_arm(tmp_path: Path) -> None:
    made = on_vm(tmp_path)
    made.provider.snapshot()
    made.put(NIC1, refused(404, "ResourceNotFound"))
    with pytest.raises(NotFound):
        made.provider.snapshot()
    made.asked()
    made.provider.hint()
    assert made.asked() == []


def test_what_kind_of_machine_this_is_stays_known(tmp_path: Path) -> None:
    made = on_instance(tmp_path)
    made.provider.snapshot()
    made.put(f"{INSTANCE}/networkInterfaces", refused(404, "ResourceNotFound"))
    with pytest.raises(NotFound):
        made.provider.snapshot()
    assert made.provider.capabilities().write_interval_seconds == 15.0


def test_the_first_look_does_not_wait_for_a_write_of_this_process(tmp_path: Path) -> None:
    made = on_vm(tmp_path)
    looks: list[threading.Thread] = []

    def answer_put(sent: Sent) -> Answer:
        """The NIC as it was sent, Updating; a look is begun, and the write ends after it."""
        body = {**nic(), "properties": {**nic()["properties"], **sent.body["properties"]}}
        body["properties"]["provisioningState"] = "Updating"
        new = body["properties"]["ipConfigurations"][-1]["properties"]
        new |= {"privateIPAddress": "10.0.0.9", "provisioningState": "Updating"}
        made.put(NIC, body)
        look = threading.Thread(target=made.provider.snapshot, daemon=True)
        look.start()
        look.join(5.0)
        looks.append(look)
        new["provisioningState"] = body["properties"]["provisioningState"] = "Succeeded"
        return Answer(200, body)

    table = made.transport.otherwise
    assert table is not None
    made.transport.otherwise = lambda s: answer_put(s) if s.method == "PUT" else table(s)
    change = AddressChange(eni_id=EniId(NIC.lower()), add=1, token="t")
    assert made.provider.apply(change).added == (IPv4Address("10.0.0.9"),)
    assert [look.is_alive() for look in looks] == [False]


@pytest.mark.parametrize("status", [429, 500])
def test_a_look_does_not_fail_for_networks_that_are_known(tmp_path: Path, status: int) -> None:
    made = on_vm(tmp_path)
    made.put(VNET, refused(status, ""))
    with pytest.raises(CloudError):
        made.provider.snapshot()
    made.clock.now += 60.0
    made.put(VNET, VNET_BODY)
    before = made.provider.snapshot()
    made.clock.now += FACTS_SECONDS
    for path in (VNET, SUBNET):
        made.put(path, refused(status, ""))
    assert made.provider.snapshot() == before
    assert {"virtualnetworks/net", "subnets/pods"} <= set(made.asked())
