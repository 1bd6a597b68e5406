"""What vpc-cnid is told of SNAT, marks and egress, from the settings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from cni_shim.datapath.names import MARK_MASK
from ipam_api.v1 import ipam_pb2 as pb

from ipamd.errors import SettingsError
from ipamd.host_policy import host_policy
from ipamd.settings import load
from ipamd.settings.rules import ENI_MARK_BITS
from tests import builders as b

IPV6 = {"ENABLE_IPv6": "true", "ENABLE_PREFIX_DELEGATION": "true", "WARM_IP_TARGET": "1"}


def policy(**environ: str) -> pb.HostPolicy:
    return host_policy(b.settings(**environ))


def test_the_defaults_are_aws_nodes() -> None:
    assert policy() == pb.HostPolicy(
        external_snat=False, randomize_snat="prng", node_port_support=True, connmark=0x80
    )


@pytest.mark.parametrize(
    ("name", "value", "field", "expected"),
    [
        ("AWS_VPC_K8S_CNI_EXTERNALSNAT", "true", "external_snat", True),
        ("AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS", "10.9.1.1/16,10.9.0.0/16, 1.1.1.1",
         "exclude_snat_cidrs", ["10.9.0.0/16", "1.1.1.1/32"]),
        ("AWS_VPC_K8S_CNI_RANDOMIZESNAT", "hashrandom", "randomize_snat", "hashrandom"),
        ("AWS_VPC_K8S_CNI_RANDOMIZESNAT", "None", "randomize_snat", "none"),
        ("AWS_EXTERNAL_SERVICE_CIDRS", "10.8.0.0/24", "external_service_cidrs", ["10.8.0.0/24"]),
        ("AWS_VPC_CNI_NODE_PORT_SUPPORT", "false", "node_port_support", False),
        ("AWS_VPC_K8S_CNI_CONNMARK", "0x100", "connmark", 0x100),
        ("AWS_VPC_K8S_CNI_CONNMARK", "0b1000000000", "connmark", 0x200),
        ("DISABLE_TCP_EARLY_DEMUX", "1", "disable_tcp_early_demux", True),
    ],
)  # fmt: skip
def test_each_setting_reaches_the_policy(
    name: str, value: str, field: str, expected: object
) -> None:
    found = getattr(policy(**{name: value}), field)
    assert (list(found) if isinstance(expected, list) else found) == expected


@pytest.mark.parametrize(
    ("name", "value", "field", "expected", "said"),
    [
        ("AWS_VPC_K8S_CNI_RANDOMIZESNAT", "dice", "randomize_snat", "prng", "must be one of"),
        ("AWS_VPC_K8S_CNI_EXTERNALSNAT", "maybe", "external_snat", False, "must be true or false"),
        ("AWS_VPC_CNI_NODE_PORT_SUPPORT", "maybe", "node_port_support", True, "must be true or"),
        ("AWS_VPC_K8S_CNI_CONNMARK", "0x1ffffffff", "connmark", 0x80, "must be a number from 1"),
        ("AWS_VPC_K8S_CNI_CONNMARK", "0", "connmark", 0x80, "must be a number from 1"),
        ("AWS_VPC_K8S_CNI_CONNMARK", "red", "connmark", 0x80, "must be a number from 1"),
        ("AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS", "10.9.0.0/16,nonsense", "exclude_snat_cidrs",
         ["10.9.0.0/16"], "'nonsense' is no IPv4 CIDR, left out"),
        ("AWS_EXTERNAL_SERVICE_CIDRS", "fd00::/8", "external_service_cidrs", [],
         "'fd00::/8' is no IPv4 CIDR, left out"),
    ],
)  # fmt: skip
def test_a_bad_value_falls_back_with_one_warning_as_aws_nodes_does(
    name: str, value: str, field: str, expected: object, said: str
) -> None:
    loaded = load({name: value})
    found = getattr(host_policy(loaded.settings), field)
    assert (list(found) if isinstance(expected, list) else found) == expected
    assert len(loaded.warnings) == 1 and said in loaded.warnings[0]


@pytest.mark.parametrize("value", ["0x1", "0x40", "129", "0x8001"])
def test_a_connection_mark_that_would_name_an_eni_ends_the_start(value: str) -> None:
    with pytest.raises(SettingsError, match="has one of the bits 0x7f, which name pods' ENIs here"):
        load({"AWS_VPC_K8S_CNI_CONNMARK": value})


def test_both_daemons_agree_on_the_bits_that_name_an_eni() -> None:
    assert ENI_MARK_BITS == MARK_MASK


def test_egress_is_of_the_family_that_pods_do_not_have() -> None:
    four = host_policy(replace(b.settings(), has_v4_egress=True, has_v6_egress=True))
    six = host_policy(replace(b.settings(**IPV6), has_v4_egress=True, has_v6_egress=True))
    assert (four.v4_egress, four.v6_egress) == (False, True)
    assert (six.v4_egress, six.v6_egress) == (True, False)


def test_a_mode_of_security_groups_is_told_only_with_them() -> None:
    plain = replace(b.settings(), pod_eni_mode="standard")
    assert host_policy(plain).pod_eni_mode == ""
    assert host_policy(replace(plain, has_pod_eni=True)).pod_eni_mode == "standard"


def test_azures_platform_addresses_are_always_translated() -> None:
    told = host_policy(replace(b.settings(), cloud="azure", run_dir=Path("/run"))).always_snat
    assert [(d.cidr, d.protocol, d.port) for d in told] == [
        ("168.63.129.16/32", "udp", 53),
        ("168.63.129.16/32", "tcp", 53),
        ("169.254.169.254/32", "tcp", 80),
    ]
