"""A result that comes back from a runtime, in every version that it may have been given in."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network

import pytest
from cni_shim import prev_result, results
from cni_shim.errors import CniError
from hypothesis import given
from hypothesis import strategies as st

OLDEST = ("0.1.0", "0.2.0")
MACS = ("0a:58:00:00:00:01", "0a:58:0a:00:00:05")
GATEWAYS = {4: ip_address("169.254.1.1"), 6: ip_address("fe80::1")}
ADDRESSES = {4: ip_interface("10.0.0.5/32"), 6: ip_interface("2001:db8::5/128")}
ANYWHERE = {4: ip_network("0.0.0.0/0"), 6: ip_network("::/0")}


def result(*families: int) -> results.Result:
    """As an ADD of ours answers for a pod with these families."""
    return results.Result(
        interfaces=(
            results.Interface(name="eni1", mac=MACS[0]),
            results.Interface(name="eth0", mac=MACS[1], sandbox="/run/netns/x"),
        ),
        ips=tuple(
            results.Ip(address=ADDRESSES[f], interface=1, gateway=GATEWAYS[f]) for f in families
        ),
        routes=tuple(results.Route(dst=ANYWHERE[f], gateway=GATEWAYS[f]) for f in families),
    )


def as_version(made: results.Result, version: str) -> results.Result:
    """What a version can hold of it."""
    if version not in OLDEST:
        return made
    ips = tuple(replace(ip, interface=None) for ip in made.ips)
    return replace(made, interfaces=(), ips=ips)


@pytest.mark.parametrize("families", [(4,), (6,), (4, 6)], ids=["v4", "v6", "both"])
@pytest.mark.parametrize("version", results.RESULT_VERSIONS)
def test_a_result_comes_back_as_it_went_in_every_version(
    version: str, families: tuple[int, ...]
) -> None:
    made = result(*families)
    document = json.loads(results.to_json(made, version))
    assert prev_result.parse(document) == as_version(made, version)
    assert prev_result.names_interfaces(document) == (version not in OLDEST)


@pytest.mark.parametrize("version", results.RESULT_VERSIONS)
@pytest.mark.parametrize("said", ["", None, "9.9.9"], ids=["empty", "absent", "unknown"])
def test_the_version_beside_a_result_says_nothing(version: str, said: str | None) -> None:
    made = result(4)
    document = results.to_document(made, version) | {"cniVersion": said}
    if said is None:
        del document["cniVersion"]
    assert prev_result.parse(document) == as_version(made, version)


@pytest.mark.parametrize("family", ["", "4", "6", None])
def test_the_family_beside_an_address_says_nothing(family: str | None) -> None:
    document = {"ips": [{"version": family, "address": "10.0.0.5/32"}]}
    assert prev_result.parse(document).ips == (results.Ip(address=ADDRESSES[4]),)


def test_the_members_of_1_1_come_back() -> None:
    made = results.Result(
        interfaces=(results.Interface(name="a", mac="", mtu=1, socket_path="/s", pci_id="p"),),
        routes=(results.Route(dst=ANYWHERE[4], mtu=1, advmss=2, priority=3, table=4, scope=0),),
        dns=results.Dns(nameservers=("10.0.0.2",), domain="d", search=("s",), options=("o",)),
    )
    assert prev_result.parse(results.to_document(made, "1.1.0")) == made


@pytest.mark.parametrize("version", results.RESULT_VERSIONS)
def test_null_is_an_empty_list(version: str) -> None:
    document = {"cniVersion": version, "interfaces": None, "ips": None, "routes": None, "dns": None}
    assert prev_result.parse(document) == results.Result()


def test_what_later_plugins_add_is_passed_over() -> None:
    document = results.to_document(result(4), "1.0.0") | {"vendor": {"x": 1}}
    assert prev_result.parse(document) == result(4)


def test_a_route_may_have_host_bits() -> None:
    (route,) = prev_result.parse({"routes": [{"dst": "10.0.0.5/24"}]}).routes
    assert route.dst == ip_network("10.0.0.0/24")


@pytest.mark.parametrize(
    "document",
    [
        {"ips": "x"},
        {"ips": ["x"]},
        {"ips": [{}]},
        {"ips": [{"address": "x"}]},
        {"ips": [{"address": 7}]},
        {"ips": [{"address": "10.0.0.5/32", "interface": 0}]},
        {"ips": [{"address": "10.0.0.5/32", "interface": True}]},
        {"ips": [{"address": "10.0.0.5/32", "gateway": "x"}]},
        {"interfaces": [{"name": []}]},
        {"routes": [{"dst": ""}]},
        {"ip4": "x"},
        {"ip4": {}},
        {"dns": []} | {"ips": [{}]},
        {"dns": {"search": [1]}},
    ],
    ids=str,
)
def test_what_is_of_no_versions_shape_is_code_7(document: dict[str, object]) -> None:
    with pytest.raises(CniError) as caught:
        prev_result.parse(document)
    assert caught.value.code == 7


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["ips", "ip4", "ip6", "interfaces", "address", "ip", "dst", "routes"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)


@given(
    st.dictionaries(
        st.sampled_from(["ips", "ip4", "ip6", "interfaces", "routes", "dns"]), json_values
    )
)
def test_garbage_is_a_result_or_a_cni_error(document: dict[str, object]) -> None:
    with contextlib.suppress(CniError):
        assert isinstance(prev_result.parse(document), results.Result)
