"""Attaching, detaching, launching and terminating: states, slots and limits."""

from __future__ import annotations

from dataclasses import replace

import pytest

from providers.sim.ec2 import Emulator
from providers.sim.ec2_state import Delays
from tests.sim.lab import (
    OTHER_ZONE,
    Lab,
    ManualClock,
    RecordingListener,
    ec2_client,
    refused,
    serve,
    wait_until,
)


def _status(lab: Lab, eni: str) -> str:
    shown = lab.shown(eni)
    return str(shown["Attachment"]["Status"]) if "Attachment" in shown else str(shown["Status"])


def test_attaching_becomes_attached_after_the_delay(lab: Lab) -> None:
    lab.emulator.state.delays = Delays(attach_seconds=2)
    eni = lab.eni()
    lab.attach(eni, lab.node())
    seen = [_status(lab, eni)]
    lab.clock.advance(1.9)
    seen.append(_status(lab, eni))
    lab.clock.advance(0.2)
    seen.append(_status(lab, eni))
    assert seen == ["attaching", "attaching", "attached"]


def test_detaching_becomes_available_after_the_delay(lab: Lab) -> None:
    eni = lab.eni()
    attachment = lab.attach(eni, lab.node())
    lab.emulator.state.delays = Delays(detach_seconds=2)
    lab.ec2.detach_network_interface(AttachmentId=attachment)
    seen = [_status(lab, eni)]
    lab.clock.advance(2.1)
    seen.append(_status(lab, eni))
    assert seen == ["detaching", "available"]


def test_a_second_detach_does_not_prolong_the_first(lab: Lab) -> None:
    eni = lab.eni()
    attachment = lab.attach(eni, lab.node())
    lab.emulator.state.delays = Delays(detach_seconds=2)
    lab.ec2.detach_network_interface(AttachmentId=attachment)
    lab.clock.advance(1.5)
    lab.ec2.detach_network_interface(AttachmentId=attachment)
    lab.clock.advance(1)
    assert _status(lab, eni) == "available"


def test_both_descriptions_agree_on_the_attachment(lab: Lab) -> None:
    eni, node = lab.eni(secondaries=1), lab.node()
    lab.attach(eni, node)
    nic = lab.nics(node)[1]
    shown = lab.shown(eni)
    assert (nic["Attachment"]["DeviceIndex"], nic["Status"], nic["PrivateIpAddresses"]) == (
        shown["Attachment"]["DeviceIndex"],
        "in-use",
        shown["PrivateIpAddresses"],
    )


def test_an_attached_eni_cannot_be_deleted(lab: Lab) -> None:
    eni = lab.eni()
    lab.attach(eni, lab.node())
    code = refused(lambda: lab.ec2.delete_network_interface(NetworkInterfaceId=eni))
    assert code == "InvalidParameterValue"


def test_a_detaching_eni_cannot_be_deleted(lab: Lab) -> None:
    eni = lab.eni()
    attachment = lab.attach(eni, lab.node())
    lab.emulator.state.delays = Delays(detach_seconds=2)
    lab.ec2.detach_network_interface(AttachmentId=attachment)
    code = refused(lambda: lab.ec2.delete_network_interface(NetworkInterfaceId=eni))
    assert code == "InvalidParameterValue"


def test_an_attached_eni_cannot_be_attached_again(lab: Lab) -> None:
    eni, node = lab.eni(), lab.node()
    lab.attach(eni, node)
    assert refused(lambda: lab.attach(eni, node, 2)) == "InvalidNetworkInterface.InUse"


def test_the_primary_eni_cannot_be_detached(lab: Lab) -> None:
    attachment = lab.primary(lab.node())["Attachment"]["AttachmentId"]
    code = refused(lambda: lab.ec2.detach_network_interface(AttachmentId=attachment))
    assert code == "OperationNotPermitted"


def test_a_type_has_no_more_enis_than_its_limit(lab: Lab) -> None:
    node = lab.node("m5.large")
    lab.attach(lab.eni(), node, 1)
    lab.attach(lab.eni(), node, 2)
    eni = lab.eni()
    assert refused(lambda: lab.attach(eni, node, 3)) == "AttachmentLimitExceeded"


def test_a_taken_device_index_is_refused(lab: Lab) -> None:
    eni, node = lab.eni(), lab.node()
    lab.attach(lab.eni(), node, 1)
    assert refused(lambda: lab.attach(eni, node, 1)) == "InvalidParameterValue"


def test_a_device_index_beyond_the_types_range_is_refused(lab: Lab) -> None:
    eni, node = lab.eni(), lab.node("m5.large")
    assert refused(lambda: lab.attach(eni, node, 3)) == "InvalidParameterValue"


def test_each_network_card_counts_its_own_indexes(lab: Lab) -> None:
    node = lab.node("p4d.24xlarge")
    lab.attach(lab.eni(), node, 1, NetworkCardIndex=0)
    eni = lab.eni()
    lab.attach(eni, node, 1, NetworkCardIndex=3)
    assert lab.shown(eni)["Attachment"]["NetworkCardIndex"] == 3


def test_a_network_card_the_type_has_not_is_refused(lab: Lab) -> None:
    eni, node = lab.eni(), lab.node("m5.large")
    code = refused(lambda: lab.attach(eni, node, 1, NetworkCardIndex=1))
    assert code == "InvalidParameterValue"


def test_an_eni_of_another_zone_is_refused(lab: Lab) -> None:
    eni, node = lab.eni(subnet_id=lab.subnet("10.0.3.0/24", OTHER_ZONE)), lab.node()
    assert refused(lambda: lab.attach(eni, node)) == "InvalidParameterValue"


def test_an_eni_of_another_vpc_is_refused(lab: Lab) -> None:
    other = lab.ec2.create_vpc(CidrBlock="10.9.0.0/16")["Vpc"]["VpcId"]
    eni, node = lab.eni(subnet_id=lab.subnet("10.9.1.0/24", vpc_id=other)), lab.node()
    assert refused(lambda: lab.attach(eni, node)) == "InvalidParameterCombination"


def test_the_primary_eni_goes_with_its_instance(lab: Lab) -> None:
    node = lab.node()
    eni = lab.primary(node)
    lab.ec2.terminate_instances(InstanceIds=[node])
    code = refused(lambda: lab.shown(eni["NetworkInterfaceId"]))
    assert (eni["Attachment"]["DeleteOnTermination"], code, lab.free()) == (
        True,
        "InvalidNetworkInterfaceID.NotFound",
        251,
    )


def test_a_secondary_eni_outlives_its_instance_by_default(lab: Lab) -> None:
    eni, node = lab.eni(), lab.node()
    lab.attach(eni, node)
    lab.ec2.terminate_instances(InstanceIds=[node])
    assert lab.shown(eni)["Status"] == "available"


def test_delete_on_termination_can_be_set_for_a_secondary_eni(lab: Lab) -> None:
    eni, node = lab.eni(), lab.node()
    attachment = lab.attach(eni, node)
    lab.ec2.modify_network_interface_attribute(
        NetworkInterfaceId=eni,
        Attachment={"AttachmentId": attachment, "DeleteOnTermination": True},
    )
    lab.ec2.terminate_instances(InstanceIds=[node])
    assert refused(lambda: lab.shown(eni)) == "InvalidNetworkInterfaceID.NotFound"


def test_a_terminated_instance_shows_no_interfaces(lab: Lab) -> None:
    node = lab.node()
    lab.ec2.terminate_instances(InstanceIds=[node, node][:1])
    found = lab.ec2.describe_instances(InstanceIds=[node])["Reservations"][0]["Instances"][0]
    assert (found["State"]["Name"], found["NetworkInterfaces"]) == ("terminated", [])


def test_terminating_twice_is_no_error(lab: Lab) -> None:
    node = lab.node()
    lab.ec2.terminate_instances(InstanceIds=[node])
    again = lab.ec2.terminate_instances(InstanceIds=[node])["TerminatingInstances"][0]
    assert again["CurrentState"]["Name"] == "terminated"


def test_an_address_of_a_terminated_instance_starts_the_next_one(lab: Lab) -> None:
    first = lab.node()
    lab.ec2.terminate_instances(InstanceIds=[first])
    assert lab.primary(lab.node())["PrivateIpAddress"] == "10.0.1.4"


def test_a_launch_makes_the_interfaces_it_describes(lab: Lab) -> None:
    node = lab.node(
        NetworkInterfaces=[
            {"DeviceIndex": 1, "SubnetId": lab.subnet_id, "SecondaryPrivateIpAddressCount": 2},
            {"DeviceIndex": 0, "SubnetId": lab.subnet_id, "PrivateIpAddress": "10.0.1.80"},
        ]
    )
    assert [
        (nic["Attachment"]["DeviceIndex"], nic["PrivateIpAddress"], len(nic["PrivateIpAddresses"]))
        for nic in lab.nics(node)
    ] == [(0, "10.0.1.80", 1), (1, "10.0.1.4", 3)]


def test_a_launch_takes_an_existing_eni_and_leaves_it_at_the_end(lab: Lab) -> None:
    eni = lab.eni()
    node = lab.node(NetworkInterfaces=[{"DeviceIndex": 0, "NetworkInterfaceId": eni}])
    lab.ec2.terminate_instances(InstanceIds=[node])
    assert lab.shown(eni)["Status"] == "available"


@pytest.mark.parametrize(
    ("count", "indexes", "code"),
    [
        (9, [0, 0], "InvalidParameterValue"),
        (9, [0, 1, 2, 3], "AttachmentLimitExceeded"),
        (10, [0], "PrivateIpAddressLimitExceeded"),
        (0, [1], "InvalidParameterValue"),
    ],
    ids=["same index", "too many", "too many addresses", "no primary"],
)
def test_a_launch_beyond_the_type_is_refused_and_takes_nothing(
    lab: Lab, count: int, indexes: list[int], code: str
) -> None:
    spec = {"SubnetId": lab.subnet_id, "SecondaryPrivateIpAddressCount": count}
    specs = [spec | {"DeviceIndex": index} for index in indexes]
    assert (refused(lambda: lab.node(NetworkInterfaces=specs)), lab.free()) == (code, 251)


def test_a_launch_that_fails_halfway_takes_nothing(lab: Lab) -> None:
    specs = [
        {"DeviceIndex": 0, "SubnetId": lab.subnet_id},
        {"DeviceIndex": 1, "SubnetId": lab.subnet_id, "PrivateIpAddress": "10.0.1.4"},
    ]
    code = refused(lambda: lab.node(NetworkInterfaces=specs))
    assert (code, lab.free()) == ("InvalidIPAddress.InUse", 251)


def test_a_launch_of_an_unknown_type_is_refused(lab: Lab) -> None:
    assert refused(lambda: lab.node("m5.tiny")) == "InvalidParameterValue"


def test_a_launch_of_several_gives_each_its_own_address(lab: Lab) -> None:
    started = lab.ec2.run_instances(
        ImageId="ami-1", InstanceType="m5.large", MinCount=1, MaxCount=3, SubnetId=lab.subnet_id
    )["Instances"]
    assert [one["PrivateIpAddress"] for one in started] == ["10.0.1.4", "10.0.1.5", "10.0.1.6"]


def test_a_launch_repeated_with_its_token_starts_nothing_new(lab: Lab) -> None:
    assert lab.node(ClientToken="launch") == lab.node(ClientToken="launch")


def test_the_listener_hears_of_wires_in_order(lab: Lab) -> None:
    state, listener = lab.emulator.state, RecordingListener()
    node, eni = lab.node(), lab.eni()
    state.machines[node] = replace(state.machines[node], netns_path="/run/netns/n1")
    state.listener = listener
    attachment = lab.attach(eni, node)
    lab.ec2.assign_private_ip_addresses(NetworkInterfaceId=eni, SecondaryPrivateIpAddressCount=1)
    lab.ec2.detach_network_interface(AttachmentId=attachment)
    assert listener.events == [
        ("plug", eni, "/run/netns/n1"),
        ("readdress", eni, ("10.0.1.5", "10.0.1.6")),
        ("unplug", eni),
    ]


def test_an_eni_is_plugged_when_attached_and_not_before(lab: Lab) -> None:
    state, listener = lab.emulator.state, RecordingListener()
    node, eni = lab.node(), lab.eni()
    state.machines[node] = replace(state.machines[node], netns_path="/run/netns/n1")
    state.listener, state.delays = listener, Delays(attach_seconds=2)
    lab.attach(eni, node)
    before = list(listener.events)
    lab.clock.advance(3)
    lab.shown(eni)
    assert (before, [event[0] for event in listener.events]) == ([], ["plug"])


def test_a_listener_that_fails_leaves_the_cloud_as_it_is(lab: Lab) -> None:
    class Broken(RecordingListener):
        def unplug(self, eni_id: str) -> None:
            raise OSError("no such wire")

    state, node = lab.emulator.state, lab.node()
    state.machines[node] = replace(state.machines[node], netns_path="/run/netns/n1")
    state.listener = Broken()
    lab.ec2.terminate_instances(InstanceIds=[node])
    assert (lab.free(), state.fabric_failures) == (251, ["OSError: no such wire"])


def test_attaching_ends_by_itself_when_the_timer_runs() -> None:
    emulator, listener = Emulator(), RecordingListener()
    door, url = serve(emulator.respond)
    client = ec2_client(url)
    lab = Lab(emulator, ManualClock(), url, client).build()  # the emulator has the real clock
    try:
        node, eni = lab.node(), lab.eni()
        state = emulator.state
        state.machines[node] = replace(state.machines[node], netns_path="/run/netns/n1")
        state.listener, state.delays = listener, Delays(attach_seconds=0.1)
        emulator.start_timer()
        lab.attach(eni, node)
        wait_until(lambda: ("plug", eni, "/run/netns/n1") in listener.events)
    finally:
        client.close()
        emulator.stop()
        door.close()
