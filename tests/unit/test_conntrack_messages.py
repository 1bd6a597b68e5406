"""Our conntrack bytes, judged by pyroute2, and the search for addresses in dumped datagrams."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

import pytest
from cni_shim.datapath import answers, messages
from cni_shim.datapath import conntrack_messages as ct
from cni_shim.datapath.conntrack_messages import Entry, Matcher, UnansweredMatcher
from cni_shim.datapath.families import Address
from hypothesis import given
from hypothesis import strategies as st
from pyroute2.netlink.nfnetlink.nfctsocket import nfct_msg

PORTS = messages.attribute(2 | 0x8000, messages.attribute(1, b"\x11"))  # CTA_TUPLE_PROTO: UDP
OTHER4, OTHER6 = IPv4Address("192.0.2.1"), IPv6Address("2001:db8:f::1")


def one_tuple(source: Address, destination: Address) -> bytes:
    kinds = (1, 2) if source.version == 4 else (3, 4)
    ends = b"".join(
        messages.attribute(kind, address.packed)
        for kind, address in zip(kinds, (source, destination), strict=True)
    )
    return messages.attribute(1 | 0x8000, ends) + PORTS


def dumped(
    orig: tuple[Address, Address],
    reply: tuple[Address, Address],
    *,
    zone: bytes = b"",
    status: int = 0x18E,
) -> bytes:
    """The body of one entry as the kernel dumps it, with what we do not look at between."""
    body = bytes([2 if orig[0].version == 4 else 10, 0, 0, 0])
    body += messages.attribute(1 | 0x8000, one_tuple(*orig))
    body += messages.attribute(2 | 0x8000, one_tuple(*reply))
    body += messages.attribute(3, status.to_bytes(4, "big")) + messages.attribute(
        12, b"\xde\xad\xbe\xef"
    )
    return body + (messages.attribute(18, zone) if zone else b"")


def datagram(*bodies: bytes) -> tuple[bytes, list[tuple[int, int]]]:
    data = b"".join(
        messages.serialise(messages.Request(op="", kind=256, flags=2, body=body), 1, ack=False)
        for body in bodies
    )
    return data, [(start, end) for _, _, _, start, end in answers.spans(data)]


def decoded(request: messages.Request) -> Any:
    message = nfct_msg(messages.serialise(request, 1, ack=True))
    message.decode()
    return message


def found(wanted: list[Address], *bodies: bytes) -> list[Entry]:
    data, spans = datagram(*bodies)
    return list(Matcher(wanted).entries(data, spans))


@pytest.mark.parametrize(("version", "family"), [(4, 2), (6, 10)])
def test_a_whole_dump_asks_for_one_family(version: int, family: int) -> None:
    message = decoded(ct.dump_all(version))
    assert (message["header"]["type"], message["nfgen_family"]) == (0x101, family)
    assert message["header"]["flags"] == 0x1 | 0x4 | 0x300
    assert message["attrs"] == []


@pytest.mark.parametrize("text", ["10.0.0.7", "2001:db8::7"])
def test_filtered_dumps_name_the_address_in_each_of_four_places(text: str) -> None:
    places = []
    for request in ct.dumps_of(ip_address(text)):
        message = decoded(request)
        flags = message.get_attr("CTA_FILTER")
        orig, reply = (
            flags.get_attr("CTA_FILTER_ORIG_FLAGS"),
            flags.get_attr("CTA_FILTER_REPLY_FLAGS"),
        )
        which = "ORIG" if orig else "REPLY"
        ends = message.get_attr(f"CTA_TUPLE_{which}").get_attr("CTA_TUPLE_IP")
        ((name, value),) = ends["attrs"]
        assert value == text
        places.append((which, name[-3:], orig + reply))
    assert places == [
        ("ORIG", "SRC", 1),
        ("ORIG", "DST", 2),
        ("REPLY", "SRC", 1),
        ("REPLY", "DST", 2),
    ]


def test_a_deletion_names_the_entry_exactly_as_it_was_dumped() -> None:
    pod = IPv4Address("10.0.0.7")
    (entry,) = found([pod], dumped((OTHER4, pod), (pod, OTHER4), zone=b"\0\x05"))
    message = decoded(ct.delete(entry))
    assert (message["header"]["type"], message["nfgen_family"]) == (0x102, 2)
    ends = message.get_attr("CTA_TUPLE_ORIG").get_attr("CTA_TUPLE_IP")
    assert (ends.get_attr("CTA_IP_V4_SRC"), ends.get_attr("CTA_IP_V4_DST")) == (
        str(OTHER4),
        str(pod),
    )
    assert message.get_attr("CTA_TUPLE_ORIG").get_attr("CTA_TUPLE_PROTO")["attrs"]
    assert (message.get_attr("CTA_ZONE"), message.get_attr("CTA_ID")) == (5, 0xDEADBEEF)


@pytest.mark.parametrize("place", range(4), ids=["from", "to", "answered by", "answered to"])
@pytest.mark.parametrize(
    ("pod", "other"), [("10.0.0.7", OTHER4), ("2001:db8::7", OTHER6)], ids=["IPv4", "IPv6"]
)
def test_an_address_in_any_place_makes_an_entry_its_own(
    pod: str, other: Address, place: int
) -> None:
    ends = [other, other, other, other]
    ends[place] = ip_address(pod)
    body = dumped((ends[0], ends[1]), (ends[2], ends[3]))
    plain = dumped((other, other), (other, other))
    assert len(found([ip_address(pod)], plain, body, plain)) == 1


def test_bytes_of_an_address_elsewhere_in_an_entry_do_not_count() -> None:
    pod = IPv4Address(b"\xde\xad\xbe\xef")  # the number that `dumped` gives every entry
    assert found([pod], dumped((OTHER4, OTHER4), (OTHER4, OTHER4))) == []


ADDRESSES = st.one_of(
    st.integers(0, 15).map(lambda n: IPv4Address(f"10.0.0.{n}")),
    st.sampled_from([bytes([10, 0, 0, c]) for c in b"]^-\\[.*+\n\0"]).map(IPv4Address),
    st.binary(min_size=4, max_size=4).map(IPv4Address),
)


@given(
    st.lists(ADDRESSES, min_size=1, max_size=8),
    st.lists(st.tuples(ADDRESSES, ADDRESSES, ADDRESSES, ADDRESSES), max_size=12),
)
def test_exactly_the_entries_of_the_addresses_are_found(
    wanted: list[Address], ends: list[tuple[Address, Address, Address, Address]]
) -> None:
    bodies = [dumped((a, b), (c, d)) for a, b, c, d in ends]
    expected = [one_tuple(e[0], e[1]) for e in ends if not set(wanted).isdisjoint(e)]
    assert [entry.tuple_orig for entry in found(wanted, *bodies)] == expected


POD, NODE, SERVICE = map(IPv4Address, ("10.0.0.7", "10.0.0.2", "172.20.0.10"))
UNANSWERED, ANSWERED = 0x188, 0x18A  # confirmed and decided on, without and with IPS_SEEN_REPLY


@pytest.mark.parametrize(
    ("body", "is_found"),
    [
        (dumped((POD, OTHER4), (OTHER4, POD), status=UNANSWERED), True),
        (dumped((POD, SERVICE), (OTHER4, POD), status=UNANSWERED), True),
        (dumped((POD, OTHER4), (OTHER4, POD), status=ANSWERED), False),
        (dumped((POD, OTHER4), (OTHER4, NODE), status=UNANSWERED), False),
        (dumped((POD, SERVICE), (NODE, POD), status=UNANSWERED), False),
        (dumped((NODE, OTHER4), (OTHER4, NODE), status=UNANSWERED), False),
        (dumped((OTHER6, OTHER6), (OTHER6, OTHER6), status=UNANSWERED), False),
    ],
    ids=[
        "plain",
        "to a ClusterIP",
        "answered",
        "SNATed",
        "ClusterIP inside",
        "not a pod's",
        "IPv6",
    ],
)
def test_connections_that_nobody_answered_and_nothing_translated(
    body: bytes, is_found: bool
) -> None:
    matcher = UnansweredMatcher(lambda source, to: (source, to) == (POD, OTHER4))
    found = list(matcher.entries(*datagram(body)))
    assert [entry.number for entry in found] == ([b"\xde\xad\xbe\xef"] if is_found else [])
