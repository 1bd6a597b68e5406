"""The config of a main plugin that has us as its IPAM, our answer, and the rules for its pods."""

from __future__ import annotations

import contextlib
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from cni_shim import ipam_only, results
from cni_shim.datapath import names
from cni_shim.datapath.delegation import PROTOCOL, Delegation, wanted_routes, wanted_rules
from cni_shim.errors import CniError, CniErrorCode
from cni_shim.ipam_only import IpamOnly
from hypothesis import given
from hypothesis import strategies as st
from ipam_api.v1 import ipam_pb2 as pb

V4 = pb.Allocation(
    addresses=["10.0.1.7"],
    route_table_id=2,
    subnet_cidr="10.0.1.0/24",
    gateway="10.0.1.1",
)
DUAL = pb.Allocation(
    addresses=["10.0.1.7", "2001:db8::7"],
    route_table_id=254,
    subnet_cidr="10.0.1.0/24",
    gateway="10.0.1.1",
    subnet_cidr_v6="2001:db8::/64",
    gateway_v6="fe80:ec2::1",
)
PTP = IpamOnly(main_type="ptp")


def config(main: object = "ptp", **ipam: object) -> dict[str, object]:
    return {"type": main, "ipam": {"type": "vpc-cni-ipam", **ipam}}


UNDERSTOOD: dict[str, tuple[dict[str, object], IpamOnly | None]] = {
    "ptp": (config(), PTP),
    "our other name": ({"type": "ptp", "ipam": {"type": "vpc-cni"}}, PTP),
    "an ENI": (config(eni="eni-1"), IpamOnly(main_type="ptp", eni="eni-1")),
    "the subnet's length": (config(prefix="subnet"), PTP),
    "a /32": (config("ipvlan", prefix="host"), IpamOnly(main_type="ipvlan", is_prefix_host=True)),
    "a bridge": (config("bridge"), IpamOnly(main_type="bridge", bridge="cni0")),
    "a bridge of another name": (
        {**config("bridge"), "bridge": "br7"},
        IpamOnly(main_type="bridge", bridge="br7"),
    ),
    "ours as main plugin": ({"type": "vpc-cni"}, None),
    "ours as main plugin with an ipam object": (config("vpc-cni"), None),
    "another's IPAM": ({"type": "ptp", "ipam": {"type": "host-local"}}, None),
}


@pytest.mark.parametrize("case", UNDERSTOOD)
def test_a_config_says_whether_we_are_the_ipam_and_of_which_eni(case: str) -> None:
    given_config, expected = UNDERSTOOD[case]
    assert ipam_only.parse(given_config) == expected


REFUSED = {
    "macvlan": (config("macvlan"), 2, '"type" with value "macvlan"'),
    "macvtap": (config("macvtap"), 2, '"type" with value "macvtap"'),
    "a key of nobody's": (config(subnet="10.0.0.0/8"), 2, "'ipam.subnet' with value '\"10.0.0.0/8"),
    "an ENI that is no text": (config(eni=7), 7, "ipam.eni has an unusable value; ipam.eni='7'"),
    "an ENI without a name": (config(eni=""), 7, "ipam.eni has an unusable value"),
    "another prefix": (config(prefix="/24"), 7, "ipam.prefix has an unusable value"),
    "a main plugin without a name": (config(None), 7, "type has an unusable value"),
    "a bridge of no name": ({**config("bridge"), "bridge": 7}, 7, "bridge has an unusable value"),
    "a bridge of a long name": ({**config("bridge"), "bridge": "b" * 16}, 7, "bridge has an"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_work_is_refused_with_key_and_value(case: str) -> None:
    given_config, code, text = REFUSED[case]
    with pytest.raises(CniError) as caught:
        ipam_only.parse(given_config)
    assert caught.value.code is CniErrorCode(code)
    assert text in str(caught.value)


@pytest.mark.parametrize("case", REFUSED)
def test_a_del_minds_none_of_it(case: str) -> None:
    assert ipam_only.parse_leniently(REFUSED[case][0]) is not None


def test_the_main_plugin_gets_the_subnets_length_its_router_and_a_default_route() -> None:
    document = results.to_document(ipam_only.result_of(PTP, V4), "1.0.0")
    assert document == {
        "cniVersion": "1.0.0",
        "ips": [{"address": "10.0.1.7/24", "gateway": "10.0.1.1"}],
        "routes": [{"dst": "0.0.0.0/0"}],
    }


def test_both_families_have_a_route_each() -> None:
    document = results.to_document(ipam_only.result_of(PTP, DUAL), "0.4.0")
    assert document["ips"] == [
        {"version": "4", "address": "10.0.1.7/24", "gateway": "10.0.1.1"},
        {"version": "6", "address": "2001:db8::7/64", "gateway": "fe80:ec2::1"},
    ]
    assert document["routes"] == [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]


def test_the_oldest_versions_have_the_route_in_the_family() -> None:
    document = results.to_document(ipam_only.result_of(PTP, V4), "0.2.0")
    assert document["ip4"] == {
        "ip": "10.0.1.7/24",
        "gateway": "10.0.1.1",
        "routes": [{"dst": "0.0.0.0/0"}],
    }


def test_a_host_prefix_has_no_gateway_that_could_not_be_on_the_link() -> None:
    wish = IpamOnly(main_type="ipvlan", is_prefix_host=True)
    document = results.to_document(ipam_only.result_of(wish, DUAL), "1.0.0")
    assert document["ips"] == [{"address": "10.0.1.7/32"}, {"address": "2001:db8::7/128"}]


def told(delegation: Delegation) -> list[str]:
    """The rules as iproute2 would say them."""
    return [
        f"{r.priority}: from {r.source or 'all'}"
        + (f" to {r.destination}" if r.destination else "")
        + f" lookup {r.table}"
        for r in wanted_rules(delegation)
    ]


def test_an_address_of_a_secondary_eni_leaves_by_its_table() -> None:
    delegation = ipam_only.delegation_of(IpamOnly(main_type="ipvlan"), V4)
    assert told(delegation) == ["1536: from 10.0.1.7/32 lookup 2"]


def test_one_of_the_primary_is_named_by_a_rule_that_changes_nothing() -> None:
    delegation = ipam_only.delegation_of(IpamOnly(main_type="ipvlan"), DUAL)
    assert told(delegation) == [
        f"1536: from 10.0.1.7/32 lookup {names.POD_TABLE}",
        f"1536: from 2001:db8::7/128 lookup {names.POD_TABLE}",
    ]


def test_under_ptp_what_goes_to_the_pod_stays_on_the_node() -> None:
    assert told(ipam_only.delegation_of(PTP, V4)) == [
        "512: from all to 10.0.1.7/32 lookup 254",
        "1536: from 10.0.1.7/32 lookup 2",
    ]


def test_under_bridge_the_address_has_a_route_over_the_bridge() -> None:
    wish = IpamOnly(main_type="bridge", bridge="cni0")
    delegation = ipam_only.delegation_of(wish, V4)
    (route,) = wanted_routes(delegation, 9)
    assert (str(route.destination), route.table, route.ifindex) == ("10.0.1.7/32", 5120, 9)
    assert wanted_routes(delegation, 0) == ()
    assert told(delegation) == ["1536: from 10.0.1.7/32 lookup 2"]


def test_no_rule_carries_the_number_by_which_leftovers_are_swept() -> None:
    assert {r.protocol for r in wanted_rules(ipam_only.delegation_of(PTP, DUAL))} == {PROTOCOL}
    assert PROTOCOL != names.PROTOCOL


PREVIOUS = {
    "of 1.0.0": {"ips": [{"address": "10.0.1.7/24"}, {"address": "2001:db8::7/64"}]},
    "of 0.2.0": {"ip4": {"ip": "10.0.1.7/24"}, "ip6": {"ip": "2001:db8::7/64"}},
    "with what cannot be read": {
        "ips": [7, {"address": "x"}, {"address": "10.0.1.7/24"}, {"address": "2001:db8::7"}]
    },
}


@pytest.mark.parametrize("case", PREVIOUS)
def test_a_previous_result_names_the_pods_addresses(case: str) -> None:
    found = ipam_only.previous_addresses(PREVIOUS[case])  # type: ignore[arg-type]
    assert found == (IPv4Address("10.0.1.7"), IPv6Address("2001:db8::7"))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["ips", "ip4", "ip", "address", "x"]), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(["ips", "ip4", "ip6"]), json_values))
def test_no_previous_result_is_a_crash(document: dict[str, object]) -> None:
    assert all(ip_address(a) == a for a in ipam_only.previous_addresses(document))


@given(
    st.dictionaries(
        st.sampled_from(["type", "ipam", "bridge"]),
        json_values | st.builds(lambda v: {"type": "vpc-cni", "eni": v}, json_values),
    )
)
def test_no_config_is_a_crash(document: dict[str, object]) -> None:
    found = None
    with contextlib.suppress(CniError):
        found = ipam_only.parse(document)
    assert found is None or found.main_type
