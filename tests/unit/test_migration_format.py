"""aws-node's checkpoint as text: what can be read, what is refused and in which words."""

from __future__ import annotations

import json
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipamd.migration_format import Entry, parse, text_of


def document(*allocations: object, version: object = "vpc-cni-ipam/1") -> str:
    return json.dumps({"version": version, "allocations": list(allocations)})


def raw(**more: object) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "networkName": "aws-cni",
        "containerID": "f1d2",
        "ifName": "eth0",
        "ipv4": "10.0.0.7",
        "allocationTimestamp": 1700000000123456789,
        "metadata": {"k8sPodNamespace": "default", "k8sPodName": "web-0", "interfacesCount": 2},
    }
    return {name: value for name, value in (fields | more).items() if value is not ...}


WHOLE = Entry(
    network_name="aws-cni",
    container_id="f1d2",
    ifname="eth0",
    addresses=(ip_address("10.0.0.7"),),
    allocated_unix_ns=1700000000123456789,
    pod_namespace="default",
    pod_name="web-0",
    interfaces=2,
)


def test_an_entry_of_every_field_is_read() -> None:
    assert parse(document(raw())) == (WHOLE,)


def test_an_entry_of_an_older_version_is_read() -> None:
    (entry,) = parse(document(raw(metadata=..., allocationTimestamp=...)))
    assert entry == Entry(
        network_name="aws-cni",
        container_id="f1d2",
        ifname="eth0",
        addresses=(ip_address("10.0.0.7"),),
    )


def test_an_ipv6_entry_is_read() -> None:
    (entry,) = parse(document(raw(ipv4="", ipv6="2001:db8::7")))
    assert entry.addresses == (IPv6Address("2001:db8::7"),)


@pytest.mark.parametrize("text", ['{"version": "vpc-cni-ipam/1", "allocations": null}', document()])
def test_no_allocation_is_no_fault(text: str) -> None:
    assert parse(text) == ()


def test_fields_that_we_do_not_know_are_left_alone() -> None:
    assert parse(document(raw(zone="a"))) == (WHOLE,)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param("", "it is not JSON", id="empty"),
        pytest.param('{"version": "vpc-cni-ipam/1", "alloc', "it is not JSON", id="cut"),
        pytest.param("[]", "it is not a JSON object", id="no object"),
        pytest.param("{}", "its version is None", id="no version"),
        pytest.param(document(version="vpc-cni-ipam/2"), "'vpc-cni-ipam/2'", id="other version"),
        pytest.param(document(version=1), "its version is 1", id="version is a number"),
        pytest.param(
            '{"version": "vpc-cni-ipam/1", "allocations": {}}', "not a list", id="no list"
        ),
        pytest.param(document(raw(), 7), r"allocations\[1\] is not an object", id="no entry"),
        pytest.param(document(raw(containerID=7)), "containerID is 7, not text", id="id"),
        pytest.param(document(raw(ipv4=...)), "neither ipv4 nor ipv6", id="no address"),
        pytest.param(document(raw(ipv4="10.0.0")), r"allocations\[0\].ipv4", id="bad address"),
        pytest.param(document(raw(ipv4="::1")), r"allocations\[0\].ipv4", id="other family"),
        pytest.param(document(raw(ipv4=167772167)), "ipv4 is 167772167, not text", id="number"),
        pytest.param(document(raw(metadata=[1])), "metadata is not an object", id="metadata"),
        pytest.param(
            document(raw(allocationTimestamp="now")), "allocationTimestamp is 'now'", id="time"
        ),
        pytest.param(document(raw(allocationTimestamp=True)), "is True", id="a truth for a time"),
        pytest.param(document(raw(metadata={"k8sPodName": 1})), "k8sPodName is 1", id="pod name"),
    ],
)
def test_what_cannot_be_read_is_refused_and_named(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse(text)


names = st.text(min_size=0, max_size=20)
v4 = st.integers(0, 2**32 - 1).map(IPv4Address)
v6 = st.integers(0, 2**128 - 1).map(IPv6Address)


@given(
    st.lists(
        st.builds(
            Entry,
            network_name=names,
            container_id=names,
            ifname=names,
            addresses=st.one_of(st.tuples(v4), st.tuples(v6), st.tuples(v4, v6)),
            allocated_unix_ns=st.integers(0, 2**63 - 1),
            pod_namespace=names,
            pod_name=names,
            interfaces=st.integers(0, 8),
        ),
        max_size=5,
    )
)
def test_what_is_written_is_read_back(entries: list[Entry]) -> None:
    assert parse(text_of(tuple(entries))) == tuple(entries)


def test_the_file_has_the_names_that_aws_node_reads() -> None:
    assert json.loads(text_of((WHOLE,))) == json.loads(document(raw()))
