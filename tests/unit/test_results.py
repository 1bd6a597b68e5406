"""The result in each version of the specification."""

from __future__ import annotations

import json
from ipaddress import ip_address, ip_interface, ip_network

import pytest
from cni_shim import results, spec
from cni_shim.errors import CniError

HOST = results.Interface(name="eni1", mac="0a:00:00:00:00:01", mtu=9001)
POD = results.Interface(
    name="eth0", mac="0a:00:00:00:00:02", sandbox="/run/netns/x", mtu=9001, pci_id="0000:00:01.0"
)
V4 = results.Ip(address=ip_interface("10.0.1.7/32"), gateway=ip_address("169.254.1.1"), interface=1)
V6 = results.Ip(address=ip_interface("fd00::7/128"), interface=1)
DEFAULT4 = results.Route(dst=ip_network("0.0.0.0/0"), gateway=ip_address("169.254.1.1"), table=0)
DEFAULT6 = results.Route(dst=ip_network("::/0"), mtu=1500, scope=0)
DUAL = results.Result(interfaces=(HOST, POD), ips=(V4, V6), routes=(DEFAULT4, DEFAULT6))

PLAIN_INTERFACES = [
    {"name": "eni1", "mac": "0a:00:00:00:00:01"},
    {"name": "eth0", "mac": "0a:00:00:00:00:02", "sandbox": "/run/netns/x"},
]
PLAIN_ROUTES = [{"dst": "0.0.0.0/0", "gw": "169.254.1.1"}, {"dst": "::/0"}]
PLAIN_IPS = [
    {"interface": 1, "address": "10.0.1.7/32", "gateway": "169.254.1.1"},
    {"interface": 1, "address": "fd00::7/128"},
]


@pytest.mark.parametrize("version", ["0.1.0", "0.2.0"])
def test_the_oldest_versions_have_one_address_per_family(version: str) -> None:
    assert results.to_document(DUAL, version) == {
        "cniVersion": version,
        "ip4": {
            "ip": "10.0.1.7/32",
            "gateway": "169.254.1.1",
            "routes": [{"dst": "0.0.0.0/0", "gw": "169.254.1.1"}],
        },
        "ip6": {"ip": "fd00::7/128", "routes": [{"dst": "::/0"}]},
        "dns": {},
    }


@pytest.mark.parametrize("version", ["0.3.0", "0.3.1", "0.4.0"])
def test_the_middle_versions_name_the_family_of_each_address(version: str) -> None:
    assert results.to_document(DUAL, version) == {
        "cniVersion": version,
        "interfaces": PLAIN_INTERFACES,
        "ips": [{"version": "4"} | PLAIN_IPS[0], {"version": "6"} | PLAIN_IPS[1]],
        "routes": PLAIN_ROUTES,
        "dns": {},
    }


def test_version_1_0_knows_no_family_and_no_extras() -> None:
    assert results.to_document(DUAL, "1.0.0") == {
        "cniVersion": "1.0.0",
        "interfaces": PLAIN_INTERFACES,
        "ips": PLAIN_IPS,
        "routes": PLAIN_ROUTES,
    }


def test_version_1_1_has_the_extras() -> None:
    assert results.to_document(DUAL, "1.1.0") == {
        "cniVersion": "1.1.0",
        "interfaces": [
            PLAIN_INTERFACES[0] | {"mtu": 9001},
            PLAIN_INTERFACES[1] | {"mtu": 9001, "pciID": "0000:00:01.0"},
        ],
        "ips": PLAIN_IPS,
        "routes": [
            PLAIN_ROUTES[0] | {"table": 0},
            PLAIN_ROUTES[1] | {"mtu": 1500, "scope": 0},
        ],
    }


def test_every_version_we_accept_has_a_format() -> None:
    assert set(spec.SUPPORTED_VERSIONS) <= set(results.RESULT_VERSIONS)


@pytest.mark.parametrize("version", ["0.1.0", "0.2.0"])
def test_only_the_first_address_of_a_family_fits_the_oldest(version: str) -> None:
    second = results.Ip(address=ip_interface("10.0.1.8/32"))
    document = results.to_document(
        results.Result(ips=(second, V4), interfaces=(HOST, POD)), version
    )
    assert document == {"cniVersion": version, "ip4": {"ip": "10.0.1.8/32"}, "dns": {}}


@pytest.mark.parametrize("version", ["0.1.0", "0.2.0"])
def test_the_oldest_versions_cannot_express_a_result_without_address(version: str) -> None:
    with pytest.raises(CniError, match="no address"):
        results.to_document(results.Result(), version)


@pytest.mark.parametrize("version", results.RESULT_VERSIONS)
def test_dns_is_printed_in_every_version(version: str) -> None:
    dns = results.Dns(nameservers=("10.0.0.2",), domain="d", search=("s",), options=("ndots:5",))
    result = results.Result(interfaces=(HOST, POD), ips=(V4,), dns=dns)
    assert results.to_document(result, version)["dns"] == {
        "nameservers": ["10.0.0.2"],
        "domain": "d",
        "search": ["s"],
        "options": ["ndots:5"],
    }


@pytest.mark.parametrize("version", ["", "1.2.0", "1.0"])
def test_another_version_has_no_format(version: str) -> None:
    with pytest.raises(CniError) as caught:
        results.to_document(DUAL, version)
    assert caught.value.code == 1


def test_an_interface_index_of_zero_is_printed() -> None:
    result = results.Result(
        interfaces=(HOST,), ips=(results.Ip(address=ip_interface("10.0.0.1/32"), interface=0),)
    )
    assert results.to_document(result, "1.0.0")["ips"] == [
        {"interface": 0, "address": "10.0.0.1/32"}
    ]


@pytest.mark.parametrize("index", [-1, 2])
def test_an_address_on_an_interface_that_is_not_there_is_impossible(index: int) -> None:
    with pytest.raises(ValueError, match="is not there"):
        results.Result(
            interfaces=(HOST, POD),
            ips=(results.Ip(address=ip_interface("10.0.0.1/32"), interface=index),),
        )


def test_the_bytes_are_one_line_of_json() -> None:
    data = results.to_json(DUAL, "1.0.0")
    assert data.count(b"\n") == 1
    assert json.loads(data) == results.to_document(DUAL, "1.0.0")
