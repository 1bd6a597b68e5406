"""The pure parts of the demo: its modes, its words, and what it asks Azure as another client."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from providers.sim import demo, demo_arm, demo_dns, demo_kinds, demo_looks
from providers.sim.azure_machines import Machine, MachineNic
from providers.sim.demo_modes import Mode
from providers.sim.demo_run import Seen, Step, worded
from providers.sim.wireserver import DNS_SUFFIX, Wireserver

ALL_MODES = [(cloud, mode) for cloud, script in demo.SCRIPTS.items() for mode in script.modes]

# --- modes and words ------------------------------------------------------------------------------


@pytest.mark.parametrize(("cloud", "mode"), ALL_MODES, ids=[mode.name for _, mode in ALL_MODES])
def test_every_mode_can_be_asked_for_and_has_a_look_for_what_its_nodes_give(
    cloud: str, mode: Mode
) -> None:
    script = demo.SCRIPTS[cloud]
    side = script.side()
    assert script.mode(mode.name) is mode
    for plan in mode.nodes:
        assert callable(demo_kinds.look_of(side, plan.gives))
        assert plan.first_pods <= plan.most_pods


def test_without_a_name_the_first_mode_is_meant_and_another_clouds_is_none() -> None:
    firsts = {cloud: script.mode("") for cloud, script in demo.SCRIPTS.items()}
    assert {cloud: mode.name for cloud, mode in firsts.items() if mode} == {
        "aws": "secondary",
        "azure": "mixed",
    }
    assert demo.SCRIPTS["azure"].mode("ipv6") is None


def test_a_mode_without_a_subnet_for_each_node_cannot_be_made() -> None:
    mode = demo.SCRIPTS["azure"].modes[0]
    with pytest.raises(ValueError, match="1 subnets, too few"):
        replace(mode, subnets=mode.subnets[:1])


@pytest.mark.parametrize("cloud", demo.SCRIPTS)
def test_steps_are_named_in_the_words_of_the_cloud_and_need_only_earlier_ones(cloud: str) -> None:
    script = demo.SCRIPTS[cloud]
    names = [step.name for step in script.steps]
    assert len(set(names)) == len(names)
    assert not [name for name in names if "{" in name]
    for place, step in enumerate(script.steps):
        assert set(step.needs) <= set(names[:place]), step.name
    assert f"every pod reaches the {script.side.words.vpc} router" in names


def test_the_words_of_a_step_are_put_into_what_it_needs_too() -> None:
    def act(world: object) -> Seen:
        return Seen(text=str(world))

    step = worded(Step(name="a {eni} goes", act=act, needs=("a {eni} comes",)), {"eni": "NIC"})
    assert (step.name, step.needs) == ("a NIC goes", ("a NIC comes",))


def test_azures_words_name_no_thing_of_ec2s() -> None:
    words = " ".join(asdict(demo.SCRIPTS["azure"].side.words).values())
    assert not {"ENI", "VPC", "EC2"} & set(words.split())


@pytest.mark.parametrize(
    ("cloud_id", "shown"),
    [
        ("eni-0123", "eni-0123"),
        ("/subscriptions/s/providers/microsoft.network/networkinterfaces/a-nic-0", "a-nic-0"),
        ("/g/microsoft.compute/virtualmachinescalesets/pool/virtualmachines/12", "pool_12"),
        ("7", "7"),
        ("", ""),
    ],
)
def test_an_id_is_shown_short(cloud_id: str, shown: str) -> None:
    assert demo_looks.short(cloud_id) == shown


@pytest.mark.parametrize(
    ("number", "noun", "shown"),
    [
        (0, "NIC", "0 NICs"),
        (1, "NIC", "1 NIC"),
        (1, "prefix", "1 prefix"),
        (2, "prefix", "2 prefixes"),
    ],
)
def test_things_are_counted_in_words(number: int, noun: str, shown: str) -> None:
    assert demo_looks.counted(number, noun) == shown


# --- DNS ------------------------------------------------------------------------------------------

NODE = Machine(
    machine_id="/subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/virtualMachines/a",
    name="node-a",
    host_name="node-a",
    scale_set="",
    vm_id="1",
    vm_size="Standard_D2s_v5",
    location="westeurope",
    zone="1",
    subscription="s",
    resource_group="g",
    nics=(
        MachineNic(
            nic_id="nic",
            mac="00:0d:3a:00:00:01",
            is_primary=True,
            subnet_cidr=IPv4Network("10.0.0.0/24"),
            addresses=(IPv4Address("10.0.0.4"),),
        ),
    ),
)


class OneMachine:
    def all_machines(self, lag_seconds: float = 0.0) -> tuple[Machine, ...]:
        return (NODE,)


def answered(name: str) -> bytes:
    answer = Wireserver(OneMachine(), trusts_names=False).resolve(
        demo_dns.question(name), "10.0.0.4"
    )
    assert answer is not None
    return answer


@pytest.mark.parametrize("name", ["node-a", f"node-a.{DNS_SUFFIX}"])
def test_the_address_of_a_machine_is_read_from_the_wireservers_answer(name: str) -> None:
    assert demo_dns.address_in(answered(name), name) == IPv4Address("10.0.0.4")


def test_a_name_that_nobody_has_is_an_error_that_names_it() -> None:
    with pytest.raises(ValueError, match="node-z is not known: code 3"):
        demo_dns.address_in(answered("node-z"), "node-z")


@given(st.integers(0, 12), st.binary(max_size=60))
def test_a_spoilt_answer_is_an_address_or_an_error_and_nothing_else(
    whole: int, rest: bytes
) -> None:
    spoilt = answered("node-a")[:whole] + rest
    try:
        found = demo_dns.address_in(spoilt, "node-a")
    except ValueError:
        return
    assert found.packed in spoilt


# --- what is not ours -----------------------------------------------------------------------------

GROUP = "/subscriptions/s/resourceGroups/g"
SUBNET = {"id": f"{GROUP}/providers/Microsoft.Network/virtualNetworks/v/subnets/nodes"}


def nic() -> dict[str, Any]:
    primary = {
        "privateIPAddress": "10.0.0.4",
        "privateIPAllocationMethod": "Dynamic",
        "subnet": SUBNET,
        "primary": True,
    }
    return {
        "id": f"{GROUP}/providers/Microsoft.Network/networkInterfaces/nic",
        "etag": 'W/"1"',
        "tags": {"kept": "yes"},
        "properties": {
            "provisioningState": "Succeeded",
            "ipConfigurations": [{"name": "primary", "etag": 'W/"1"', "properties": primary}],
        },
    }


def instance() -> dict[str, Any]:
    primary = {"subnet": SUBNET, "primary": True}
    nics = [
        {"name": name, "properties": {"ipConfigurations": [{"name": "ip", "properties": primary}]}}
        for name in ("nic0", "nic1")
    ]
    return {
        "id": f"{GROUP}/providers/Microsoft.Compute/virtualMachineScaleSets/s/virtualMachines/0",
        "properties": {"networkProfileConfiguration": {"networkInterfaceConfigurations": nics}},
    }


def with_ours(document: dict[str, Any]) -> dict[str, Any]:
    """What a node agent makes of it, and the service with every write."""
    changed: dict[str, Any] = json.loads(json.dumps(document))
    changed["etag"] = "another"
    changed["properties"]["provisioningState"] = "Updating"
    for one in demo_arm.nics_of(changed):
        one["ipConfigurations"].append({"name": "ipamd-0123abcd", "properties": {}})
    return changed


@pytest.mark.parametrize("document", [nic(), instance()], ids=["NIC", "instance"])
def test_what_a_node_agent_adds_is_no_difference_and_what_it_drops_is_one(
    document: dict[str, Any],
) -> None:
    start = demo_arm.with_theirs(document)
    before = demo_arm.theirs(start)

    assert demo_arm.differences(before, demo_arm.theirs(with_ours(start))) == ()

    lost = with_ours(start)
    del lost["properties"]["ofTomorrow"]
    del lost["tags"]["owner"]
    *_, last = demo_arm.nics_of(lost)
    del last["networkSecurityGroup"]
    found = demo_arm.differences(before, demo_arm.theirs(lost))
    names = [one.partition(" was ")[0].rpartition("/")[2] for one in found]
    assert sorted(names) == ["networkSecurityGroup", "ofTomorrow", "owner"]


@pytest.mark.parametrize("document", [nic(), instance()], ids=["NIC", "instance"])
def test_a_lost_configuration_of_theirs_is_a_difference(document: dict[str, Any]) -> None:
    start = demo_arm.with_theirs(document)
    lost = with_ours(start)
    for one in demo_arm.nics_of(lost):
        one["ipConfigurations"] = [
            config for config in one["ipConfigurations"] if config["name"] != demo_arm.CONFIG
        ]
    found = demo_arm.differences(demo_arm.theirs(start), demo_arm.theirs(lost))
    assert len(found) == len(list(demo_arm.nics_of(start)))


def test_theirs_is_put_beside_what_is_there_and_the_document_itself_stays() -> None:
    document = nic()
    start = demo_arm.with_theirs(document)
    assert document == nic()
    assert start["tags"] == {"kept": "yes", "owner": demo_arm.OWNER}
    (properties,) = demo_arm.nics_of(start)
    assert [one["name"] for one in properties["ipConfigurations"]] == ["primary", demo_arm.CONFIG]
    assert properties["ipConfigurations"][1]["properties"]["subnet"] == SUBNET
    assert properties["networkSecurityGroup"]["id"].startswith(f"{GROUP}/providers/Microsoft.N")


def test_only_uniform_instances_have_their_nics_in_a_model() -> None:
    assert demo_arm.is_instance(instance()["id"].lower())
    assert not demo_arm.is_instance(nic()["id"])
