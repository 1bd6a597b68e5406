"""What of the lab is one cloud's own, and what its nodes boot with. Pure."""

from __future__ import annotations

from ipaddress import IPv4Interface
from typing import Any

import pytest

from providers.sim.lab import identity_of
from providers.sim.lab_cloud import AZURE, CLOUDS, EC2, LabCloud


@pytest.mark.parametrize(
    ("cloud", "asked", "machine"),
    [
        pytest.param(EC2, ("", "", 1), {"instance_type": "m5.large"}, id="ec2 names a type"),
        pytest.param(
            AZURE,
            ("", "", 1),
            {"instance_type": "Standard_D4s_v5", "kind": "vm", "nics": 1},
            id="azure's first kind is meant where none is named",
        ),
        pytest.param(
            AZURE,
            ("Standard_D8s_v5", "scale-set", 3),
            {"instance_type": "Standard_D8s_v5", "kind": "scale-set", "nics": 3},
            id="azure takes what is named",
        ),
    ],
)
def test_a_machine_is_asked_for_in_its_clouds_words(
    cloud: LabCloud, asked: tuple[str, str, int], machine: dict[str, Any]
) -> None:
    assert cloud.machine(*asked) == machine


@pytest.mark.parametrize(
    ("cloud", "kind", "nics", "why"),
    [
        pytest.param(EC2, "vm", 1, "aws has no machines of kind 'vm'", id="kinds are azure's"),
        pytest.param(EC2, "", 2, "starts with one ENI, not 2", id="ec2 attaches ENIs later"),
        pytest.param(AZURE, "lambda", 1, "no machines of kind 'lambda'", id="unknown kind"),
    ],
)
def test_a_machine_that_the_cloud_does_not_have_is_refused(
    cloud: LabCloud, kind: str, nics: int, why: str
) -> None:
    with pytest.raises(ValueError, match=why):
        cloud.machine("", kind, nics)


def test_daemons_find_their_own_cloud_and_no_other() -> None:
    said = {"ec2": "http://192.0.2.10:80", "arm": "https://192.0.2.20:443", "ca": "/tmp/ca.pem"}
    found = {name: cloud.environment(said) for name, cloud in CLOUDS.items()}
    assert found["azure"] == {
        "VPC_IPAMD_CLOUD": "azure",
        "AZURE_ARM_ENDPOINT": "https://192.0.2.20:443",
        "REQUESTS_CA_BUNDLE": "/tmp/ca.pem",
    }
    assert not [name for name in found["aws"] if name.startswith(("AZURE", "VPC_IPAMD"))]


def test_a_node_boots_with_every_eni_that_its_machine_has_and_no_others() -> None:
    said = {
        "instance_id": "vm-1",
        "eni_id": "nic-a",
        "mac": "00:0d:3a:00:00:01",
        "address": "10.0.0.4",
        "subnet_cidr": "10.0.0.0/24",
        "gateway": "10.0.0.1",
    }
    enis = [("nic-a", "vm-1", 0, "10.0.0.4"), ("nic-b", "vm-1", 1, "10.0.0.5"),
            ("nic-c", "vm-2", 0, "10.0.0.6")]  # fmt: skip
    state = {
        "subnets": [{"subnet_id": "s", "cidr": "10.0.0.0/24"}],
        "enis": [
            {"eni_id": eni, "instance_id": vm, "device_index": index, "subnet_id": "s",
             "addresses": [address, "10.0.0.99"], "addresses_v6": []}
            for eni, vm, index, address in enis
        ],
    }  # fmt: skip

    found = identity_of(said, state, 1500)

    assert (found.eni_id, found.address_v6, found.mtu) == ("nic-a", None, 1500)
    further = [(eni.eni_id, eni.link, eni.address) for eni in found.further]
    assert further == [("nic-b", "eth1", IPv4Interface("10.0.0.5/24"))]
