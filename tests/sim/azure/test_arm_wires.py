"""The fabric hears which addresses an attached NIC may use, and when."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network
from typing import Any

import pytest

from providers.sim.model import WiredEni
from tests.sim.azure.network_lab import VM, NetworkLab, block, config, nic_id, primary
from tests.sim.lab import RecordingListener

KEY = nic_id().lower()


class KeepingListener(RecordingListener):
    def __init__(self) -> None:
        super().__init__()
        self.plugged: list[WiredEni] = []

    def plug(self, eni: WiredEni, netns_path: str) -> None:
        self.plugged.append(eni)


class BrokenListener(RecordingListener):
    def readdress(self, eni: WiredEni) -> None:
        raise OSError("no netlink")


@pytest.fixture
def wired(network: NetworkLab) -> NetworkLab:
    network.state.listener = RecordingListener()
    network.put(primary())
    network.attach()
    return network


def heard(network: NetworkLab) -> list[tuple[Any, ...]]:
    listener = network.state.listener
    assert isinstance(listener, RecordingListener)
    return listener.events


def test_an_attached_nic_is_plugged_under_its_id_in_lower_case(wired: NetworkLab) -> None:
    assert heard(wired) == [("plug", KEY, "/run/netns/vm1")]


def test_an_eni_of_the_fabric_is_told_in_the_fabrics_words(network: NetworkLab) -> None:
    listener = KeepingListener()
    network.state.listener = listener
    network.put(primary(), block("b"), config("a"), properties={"enableIPForwarding": True})
    network.attach(index=1)
    (eni,) = listener.plugged
    shown = network.get().body["properties"]["macAddress"]
    assert eni == WiredEni(
        eni_id=KEY,
        mac=shown.lower().replace("-", ":"),
        instance_id=VM.lower(),
        device_index=1,
        subnet_cidr=IPv4Network("10.0.1.0/24"),
        primary_address=IPv4Address("10.0.1.4"),
        addresses=(IPv4Address("10.0.1.4"), IPv4Address("10.0.1.5")),
        has_source_check=False,
        prefixes=(IPv4Network("10.0.1.16/28"),),
    )


def test_a_nic_without_a_namespace_has_no_wire(network: NetworkLab) -> None:
    network.state.listener = RecordingListener()
    network.put(primary())
    network.attach(wired=False)
    assert heard(network) == []


def test_addresses_and_blocks_follow_every_write(wired: NetworkLab) -> None:
    wired.put(primary(), config("a"), block("b"))
    wired.put(primary(), block("b"))
    assert heard(wired)[1:] == [
        ("readdress", KEY, ("10.0.1.4", "10.0.1.5", "10.0.1.16/28")),
        ("readdress", KEY, ("10.0.1.4", "10.0.1.16/28")),
    ]


def test_a_write_that_changes_no_address_is_not_told(wired: NetworkLab) -> None:
    wired.put(primary(), tags={"a": "b"})
    assert len(heard(wired)) == 1


def test_new_addresses_are_usable_when_the_write_is_over_and_old_ones_go_at_once(
    wired: NetworkLab,
) -> None:
    wired.put(primary(), config("old"))
    wired.set(write_seconds=30)
    wired.put(primary(), config("new"))
    assert heard(wired)[-1] == ("readdress", KEY, ("10.0.1.4",))
    wired.clock.advance(30)
    wired.arm.settle()
    assert heard(wired)[-1] == ("readdress", KEY, ("10.0.1.4", "10.0.1.6"))


def test_a_detached_nic_is_unplugged(wired: NetworkLab) -> None:
    wired.state.detach(nic_id())
    assert heard(wired)[-1] == ("unplug", KEY)


def test_a_nic_that_goes_is_unplugged(wired: NetworkLab) -> None:
    wired.outsiders.delete_nic(nic_id())
    assert heard(wired)[-1] == ("unplug", KEY)


def test_a_reset_cuts_every_wire(wired: NetworkLab) -> None:
    wired.arm.reset()
    assert heard(wired)[-1] == ("unplug", KEY)


def test_a_failure_of_the_fabric_is_kept_and_the_write_stands(
    wired: NetworkLab, capsys: pytest.CaptureFixture[str]
) -> None:
    wired.state.listener = BrokenListener()
    assert wired.put(primary(), config("a")).status == 200
    assert wired.state.fabric_failures == ["OSError: no netlink"]
    assert "no netlink" in capsys.readouterr().err


def test_nics_of_a_machine_are_in_the_order_of_their_index(network: NetworkLab) -> None:
    for name, index in (("second", 1), ("first", 0)):
        network.put(primary(), nic=name)
        network.attach(name, index=index)
    assert [nic.name for nic in network.state.attached_to(VM.upper())] == ["first", "second"]
