from __future__ import annotations

import hashlib
from ipaddress import IPv4Address

import pytest
from cni_shim.datapath import names
from cni_shim.datapath.identity import MAX_ALIAS_BYTES, Identity, decode_alias, encode_alias
from hypothesis import given
from hypothesis import strategies as st

_id_text = st.text("abcdefghijklmnopqrstuvwxyzABCZ0123456789_.-", max_size=300)
identities = st.builds(
    Identity,
    container_id=_id_text,
    ifname=st.text("abcdefgh0123456789.", min_size=1, max_size=15),
    network_name=_id_text,
    netns_cookie=st.integers(0, 2**64 - 1),
    pod_namespace=_id_text,
    pod_name=_id_text,
)


def test_eth0_of_a_named_pod_has_the_aws_agents_name() -> None:
    name = names.host_ifname(
        "eni", container_id="c1", ifname="eth0", pod_namespace="default", pod_name="web"
    )
    assert name == "eni" + hashlib.sha1(b"default.web").hexdigest()[:11]


@pytest.mark.parametrize(
    ("ifname", "pod_namespace", "pod_name"),
    [("eth1", "default", "web"), ("eth0", "", ""), ("eth0", "default", "")],
)
def test_any_other_interface_is_named_by_its_key(
    ifname: str, pod_namespace: str, pod_name: str
) -> None:
    name = names.host_ifname(
        "eni",
        container_id="c1",
        ifname=ifname,
        pod_namespace=pod_namespace,
        pod_name=pod_name,
    )
    assert name == "eni" + hashlib.sha1(f"c1/{ifname}".encode()).hexdigest()[:11]


def test_the_longest_prefix_fills_an_interface_name() -> None:
    assert len(names.fallback_ifname("vlan", container_id="c1", ifname="eth0")) == 15


@pytest.mark.parametrize("prefix", ["", "toolong"])
def test_a_prefix_that_does_not_fit_is_refused(prefix: str) -> None:
    with pytest.raises(ValueError, match="1 to 4"):
        names.fallback_ifname(prefix, container_id="c1", ifname="eth0")


@given(st.text(max_size=80), st.text(max_size=15))
def test_host_macs_are_unicast_and_locally_administered(container_id: str, ifname: str) -> None:
    mac = names.host_mac(container_id, ifname)
    assert len(mac) == 6
    assert mac[0] & 0b11 == 0b10


def test_a_pods_mac_holds_its_address() -> None:
    assert names.mac_text(names.pod_mac(IPv4Address("10.0.2.7"))) == "0a:58:0a:00:02:07"


@pytest.mark.parametrize(("device_index", "mark"), [(1, 2), (7, 8), (126, 127)])
def test_the_mark_of_a_secondary_eni_is_its_index_plus_one(device_index: int, mark: int) -> None:
    assert names.eni_mark(device_index=device_index) == mark


@pytest.mark.parametrize(("device_index", "network_card"), [(0, 0), (127, 0), (1, 1)])
def test_an_eni_without_a_mark_is_refused(device_index: int, network_card: int) -> None:
    with pytest.raises(ValueError, match=r"device index|network card"):
        names.eni_mark(device_index=device_index, network_card=network_card)


@pytest.mark.parametrize("mark", [0, 2, 127])
def test_a_group_carries_the_mark_and_our_sign(mark: int) -> None:
    group = names.link_group(mark)
    assert group & names.MARK_MASK == mark
    assert names.is_our_group(group)
    assert not names.is_our_group(mark)


def test_an_alias_of_usual_size_comes_back_whole() -> None:
    identity = Identity(
        container_id="f" * 64,
        ifname="eth0",
        network_name="vpc-ipamd",
        netns_cookie=2**64 - 1,
        pod_namespace="kube-system",
        pod_name="coredns-5d78c9869d-7xk2p",
    )
    assert decode_alias(encode_alias(identity)) == identity


@given(identities)
def test_an_alias_fits_and_tells_the_key(identity: Identity) -> None:
    alias = encode_alias(identity)
    decoded = decode_alias(alias)
    assert len(alias.encode()) <= MAX_ALIAS_BYTES
    assert decoded is not None
    assert decoded.is_of(identity.container_id, identity.ifname)
    assert decoded.netns_cookie == identity.netns_cookie


@given(identities, identities)
def test_an_alias_is_not_of_another_key(one: Identity, other: Identity) -> None:
    decoded = decode_alias(encode_alias(one))
    assert decoded is not None
    is_same = (one.container_id, one.ifname) == (other.container_id, other.ifname)
    assert decoded.is_of(other.container_id, other.ifname) == is_same


def test_a_shortened_field_says_so() -> None:
    identity = Identity(
        container_id="f" * 64,
        ifname="eth0",
        network_name="vpc",
        netns_cookie=1,
        pod_namespace="n" * 63,
        pod_name="p" * 253,
    )
    decoded = decode_alias(encode_alias(identity))
    assert decoded is not None
    assert decoded.pod_name == "~" + hashlib.sha256(b"p" * 253).hexdigest()[:32]
    assert (decoded.container_id, decoded.pod_namespace) == ("f" * 64, "n" * 63)


@given(st.text(max_size=40))
def test_a_field_outside_its_alphabet_cannot_forge_another(container_id: str) -> None:
    identity = Identity(
        container_id=f"{container_id}/x",
        ifname="eth0",
        network_name="vpc",
        netns_cookie=1,
        pod_namespace="",
        pod_name="",
    )
    decoded = decode_alias(encode_alias(identity))
    assert decoded is not None
    assert decoded.container_id.startswith("~")
    assert decoded.is_of(identity.container_id, "eth0")


@pytest.mark.parametrize(
    "alias", ["", "uplink", "vpc-ipamd/1/", "vpc-ipamd/1/xyz/a/b/c/d/e", "vpc-ipamd/2/1/a/b/c/d/e"]
)
def test_an_alias_of_somebody_else_is_none(alias: str) -> None:
    assert decode_alias(alias) is None
