from __future__ import annotations

import copy
from typing import Any

import pytest
from azure.mgmt.compute import models as compute_models
from azure.mgmt.network import models as network_models
from hypothesis import given
from hypothesis import strategies as st

from ipamd.errors import CloudError, LimitReached
from providers.azure.bodies import MAX_CONFIGS, Edit, instance_body, nic_body, nics_of
from providers.azure.names import Kind, names_of
from tests.unit.azure.memory_arm import ASG, SUBNET, MemoryArm, VirtualClock, config

Body = dict[str, Any]

READ_ONLY_NIC = {"name", "type", "etag"}
READ_ONLY_NIC_PROPERTIES = {"provisioningState", "macAddress", "virtualMachine", "resourceGuid"}
READ_ONLY_CONFIG = {"type", "etag"}

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(0, 9) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)
unknown = st.dictionaries(st.text("xyz", min_size=1, max_size=4), json_values, max_size=3)
ours = st.integers(0, 2**32 - 1).map(lambda n: f"ipamd-{n:08x}")
theirs = st.sampled_from(["ipconfig1", "Cilium-abcdefgh", "web", "ipam-x"])


@st.composite
def config_bodies(draw: st.DrawFn, name: str, is_primary: bool) -> Body:
    made = config(name, draw(st.sampled_from(["10.0.0.9", "10.0.0.32/28"])), is_primary=is_primary)
    properties = {**draw(unknown), **made["properties"], "publicIPAddress": draw(json_values)}
    return {**draw(unknown), **made, "etag": "e", "type": "t", "properties": properties}


@st.composite
def nic_bodies(draw: st.DrawFn) -> Body:
    names = draw(st.lists(ours | theirs, min_size=1, max_size=6, unique_by=str.lower))
    primary = draw(st.sampled_from(names))
    listed = [draw(config_bodies(name, name == primary)) for name in names]
    properties = {
        **draw(unknown),
        "ipConfigurations": listed,
        "networkSecurityGroup": draw(json_values),
        **dict.fromkeys(READ_ONLY_NIC_PROPERTIES, "read-only"),
    }
    top = {**draw(unknown), "location": "l", "id": "/i", "tags": draw(json_values)}
    return {**top, **dict.fromkeys(READ_ONLY_NIC, "read-only"), "properties": properties}


def listed(body: Body) -> list[Body]:
    found: list[Body] = body["properties"]["ipConfigurations"]
    return found


def primary(body: Body) -> Body:
    return next(raw for raw in listed(body) if raw["properties"]["primary"])


def removable(body: Body) -> list[str]:
    return [
        raw["name"].lower()
        for raw in listed(body)
        if raw["name"].startswith("ipamd-") and not raw["properties"]["primary"]
    ]


def without(raw: Body, *members: str) -> Body:
    return {key: value for key, value in raw.items() if key not in members}


@st.composite
def edits(draw: st.DrawFn, body: Body) -> Edit:
    held = {raw["name"].lower() for raw in listed(body)}
    singles = names_of(draw(st.uuids()).hex, Kind.ADDRESS, draw(st.integers(0, 3)), refused=held)
    blocks = names_of(draw(st.uuids()).hex, Kind.BLOCK, draw(st.integers(0, 3)), refused=held)
    adds = [(name, Kind.ADDRESS) for name in singles] + [(name, Kind.BLOCK) for name in blocks]
    leaving = removable(body)
    removes = draw(st.sets(st.sampled_from(leaving))) if leaving else set[str]()
    return Edit(adds=tuple(adds), removes=frozenset(removes))


@given(data=st.data(), nic=nic_bodies())
def test_a_nic_goes_back_as_read_but_for_our_changes(data: st.DataObject, nic: Body) -> None:
    edit = data.draw(edits(nic))
    before = copy.deepcopy(nic)

    made = nic_body(nic, edit)

    assert nic == before
    assert without(made, "properties") == without(nic, "properties", *READ_ONLY_NIC)
    assert without(made["properties"], "ipConfigurations") == without(
        nic["properties"], "ipConfigurations", *READ_ONLY_NIC_PROPERTIES
    )
    added = {name for name, _ in edit.adds}
    kept = [raw for raw in listed(made) if raw["name"] not in added]
    assert sorted(kept, key=lambda raw: str(raw["name"])) == sorted(
        (
            without(raw, "properties", *READ_ONLY_CONFIG)
            | {"properties": without(raw["properties"], "provisioningState")}
            for raw in listed(nic)
            if raw["name"].lower() not in edit.removes
        ),
        key=lambda raw: str(raw["name"]),
    )
    assert listed(made)[0]["name"] == primary(nic)["name"]


@given(data=st.data(), nic=nic_bodies())
def test_removing_what_was_added_gives_the_body_without_it(data: st.DataObject, nic: Body) -> None:
    edit = Edit(adds=data.draw(edits(nic)).adds)
    added = nic_body(nic, edit)
    assert nic_body(added, Edit(removes=frozenset(name for name, _ in edit.adds))) == nic_body(
        nic, Edit()
    )


@given(data=st.data(), nic=nic_bodies())
def test_what_is_new_is_never_primary_and_has_only_the_groups_of_the_primary(
    data: st.DataObject, nic: Body
) -> None:
    edit = data.draw(edits(nic))
    kinds = dict(edit.adds)
    for raw in listed(nic_body(nic, edit)):
        if raw["name"] in kinds:
            wanted: Body = {
                "primary": False,
                "privateIPAddressVersion": "IPv4",
                "privateIPAllocationMethod": "Dynamic",
                "subnet": {"id": SUBNET},
                "applicationSecurityGroups": [{"id": ASG}],
            }
            if kinds[raw["name"]] is Kind.BLOCK:
                wanted["privateIPAddressPrefixLength"] = 28
            assert raw == {"name": raw["name"], "properties": wanted}


@given(data=st.data(), nic=nic_bodies())
def test_what_is_not_ours_cannot_be_removed(data: st.DataObject, nic: Body) -> None:
    foreign = {raw["name"].lower() for raw in listed(nic)} - set(removable(nic))
    name = data.draw(st.sampled_from(sorted(foreign)))
    with pytest.raises(CloudError, match="is not ours to remove"):
        nic_body(nic, Edit(removes=frozenset({name})))


@pytest.mark.parametrize(
    ("held", "removed", "added", "fits"),
    [
        pytest.param(1, 0, MAX_CONFIGS - 1, True, id="just full"),
        pytest.param(1, 0, MAX_CONFIGS, False, id="one too many"),
        pytest.param(MAX_CONFIGS, 1, 1, True, id="one for one"),
        pytest.param(MAX_CONFIGS, 0, 1, False, id="full"),
    ],
)
def test_no_more_than_256_configurations_are_ever_sent(
    held: int, removed: int, added: int, fits: bool
) -> None:
    names = [f"ipamd-{n:08x}" for n in range(held - 1)]
    nic = {
        "properties": {
            "ipConfigurations": [config("ipconfig1", "10.0.0.4", is_primary=True)]
            + [config(name, "10.0.0.5") for name in names]
        }
    }
    adds = tuple((name, Kind.ADDRESS) for name in names_of("t", Kind.ADDRESS, added))
    edit = Edit(adds=adds, removes=frozenset(names[:removed]))
    if fits:
        assert len(listed(nic_body(nic, edit))) == held - removed + added
    else:
        with pytest.raises(LimitReached):
            nic_body(nic, edit)


def test_dns_settings_go_back_without_what_azure_adds_to_them() -> None:
    nic = {
        "properties": {
            "dnsSettings": {
                "dnsServers": ["10.0.0.10"],
                "appliedDnsServers": ["10.0.0.10"],
                "internalDomainNameSuffix": "x.internal",
            },
            "ipConfigurations": [config("ipconfig1", "10.0.0.4", is_primary=True)],
        }
    }
    made = nic_body(nic, Edit())
    assert made["properties"]["dnsSettings"] == {"dnsServers": ["10.0.0.10"]}


def test_a_nic_without_a_configuration_cannot_be_added_to() -> None:
    with pytest.raises(CloudError, match="no ipConfiguration"):
        nic_body({"properties": {"ipConfigurations": []}}, Edit())


def test_several_nics_of_an_instance_change_in_one_body() -> None:
    instance = MemoryArm(VirtualClock()).add_instance("Primary", "second")
    first, second = ("ipamd-00000001", Kind.ADDRESS), ("ipamd-00000002", Kind.BLOCK)

    made = instance_body(instance, {"primary": Edit(adds=(first,)), "second": Edit(adds=(second,))})

    names = [[raw["name"] for raw in listed(nic)] for nic in nics_of(made)]
    assert names == [["ipconfig1", "ipamd-00000001"], ["ipconfig1", "ipamd-00000002"]]
    assert listed(nics_of(made)[1])[1]["properties"] == {
        "primary": False,
        "privateIPAddressVersion": "IPv4",
        "subnet": {"id": SUBNET},
        "privateIPAddressPrefixLength": 28,
    }


@given(extra=unknown)
def test_of_an_instance_its_nics_are_sent_as_read_and_nothing_of_others(extra: Body) -> None:
    instance = MemoryArm(VirtualClock()).add_instance("Primary", "second")
    instance["properties"] |= extra
    instance |= extra
    for nic in nics_of(instance):
        for one in (nic, *listed(nic)):
            one["properties"] |= extra
            one.update(extra)
    edit = Edit(adds=(("ipamd-00000001", Kind.ADDRESS),))
    before = copy.deepcopy(instance)

    made = instance_body(instance, {"primary": edit})
    listed(nics_of(made)[0]).pop()

    parts = ("hardwareProfile", "networkProfileConfiguration")
    assert made == {
        "location": before["location"],
        "properties": {part: before["properties"][part] for part in parts},
    }
    assert instance == before


def test_a_nic_that_the_model_has_not_is_an_error() -> None:
    with pytest.raises(LookupError):
        instance_body(MemoryArm(VirtualClock()).add_instance(), {"other": Edit()})


def read_only(model: Any) -> set[str]:
    fields = model()._attr_to_rest_field.values()
    return {field._rest_name for field in fields if field._visibility == ["read"]}


def test_what_the_sdk_calls_read_only_is_not_sent_for_a_nic() -> None:
    one = config("ipconfig1", "10.0.0.4", is_primary=True)
    one |= dict.fromkeys(read_only(network_models.NetworkInterfaceIPConfiguration), "x")
    one["name"] = "ipconfig1"
    inner = read_only(network_models.NetworkInterfaceIPConfigurationPropertiesFormat)
    one["properties"] |= dict.fromkeys(inner, "x")
    nic = dict.fromkeys(read_only(network_models.NetworkInterface), "x") | {
        "properties": dict.fromkeys(read_only(network_models.NetworkInterfacePropertiesFormat), "x")
        | {"ipConfigurations": [one]}
    }
    made = nic_body(nic, Edit())
    assert made.keys() == {"properties"}
    assert made["properties"].keys() == {"ipConfigurations"}
    assert listed(made)[0].keys() == {"name", "id", "properties"}
    assert not inner & listed(made)[0]["properties"].keys()


def test_what_the_sdk_calls_read_only_is_not_sent_for_an_instance() -> None:
    instance: Body = dict.fromkeys(read_only(compute_models.VirtualMachineScaleSetVM), "x") | {
        "properties": dict.fromkeys(
            read_only(compute_models.VirtualMachineScaleSetVMProperties), "x"
        )
        | {"networkProfileConfiguration": {"networkInterfaceConfigurations": []}}
    }
    made = instance_body(instance, {})
    assert made == {
        "properties": {"networkProfileConfiguration": {"networkInterfaceConfigurations": []}}
    }
