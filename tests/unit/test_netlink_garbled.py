"""Answers of the kernel that are cut, bent or nonsense: an error of the datapath's or a skip, and
nothing else, ever. What is bent was dumped on Linux 6 from a namespace with links, addresses,
routes, rules, neighbours and connections of both families (data/netlink_dumps.json)."""

from __future__ import annotations

import errno
import json
import struct
from collections.abc import Callable
from contextlib import closing
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest
from cni_shim.datapath import answers, conntrack, messages, netlink
from cni_shim.datapath import conntrack_messages as ct
from cni_shim.datapath.answers import Link, Message
from cni_shim.datapath.errors import DatapathError
from cni_shim.datapath.identity import decode_alias
from cni_shim.datapath.notices import LinkChanged, LinkNotices, Notice, NoticesLost
from hypothesis import given
from hypothesis import strategies as st

DUMPS: dict[str, list[str]] = json.loads(
    (Path(__file__).parent / "data/netlink_dumps.json").read_text()
)
DATAGRAMS = [bytes.fromhex(text) for texts in DUMPS.values() for text in texts]
PARSERS = [
    answers.link_of,
    answers.address_of,
    answers.ifindex_of_address,
    answers.route_of,
    answers.matched_length,
    answers.rule_of,
    answers.neighbour_of,
]
WANTED = frozenset({IPv4Address("127.0.0.1").packed, IPv6Address("::1").packed})


@st.composite
def garbled(draw: st.DrawFn, whole: list[bytes]) -> bytes:
    """One of them with bytes changed, lengths overwritten, and the end cut off."""
    data = bytearray(draw(st.sampled_from(whole)))
    for _ in range(draw(st.integers(0, 4))):
        if data:
            data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    if len(data) >= 2 and draw(st.booleans()):
        place = draw(st.integers(0, (len(data) - 2) // 4)) * 4
        struct.pack_into("=H", data, place, draw(st.sampled_from([0, 1, 3, 4, 5, 0xFFFF])))
    return bytes(data[: draw(st.integers(0, len(data)))])


BODIES = [data[start:end] for data in DATAGRAMS for *_, start, end in answers.spans(data)]
anything = st.one_of(garbled(BODIES), st.binary(max_size=80))


@pytest.mark.parametrize("parse", PARSERS, ids=lambda parse: parse.__name__)
@given(body=anything)
def test_a_body_is_a_value_or_an_error_of_the_datapath(
    parse: Callable[[bytes], object], body: bytes
) -> None:
    problem = 0
    try:
        value = parse(body)
        if isinstance(value, Link):
            decode_alias(value.alias)
    except DatapathError as e:
        problem = e.errno
    assert problem in (0, errno.EBADMSG)


def test_what_was_recorded_is_read() -> None:
    """Else the properties here would be about nothing."""
    read = {
        kind: [
            value
            for text in DUMPS[kind]
            for message in answers.split(bytes.fromhex(text))
            if message.kind >= 16 and (value := parse(message.body)) is not None
        ]
        for kind, parse in (
            ("links", answers.link_of),
            ("addresses", answers.address_of),
            ("routes", answers.route_of),
            ("rules", answers.rule_of),
            ("neighbours", answers.neighbour_of),
        )
    }
    assert {kind: len(values) > 2 for kind, values in read.items()} == dict.fromkeys(read, True)
    assert any(ct.entry_of(body, WANTED) for body in BODIES)


@given(data=st.one_of(garbled(DATAGRAMS), st.binary(max_size=200)))
def test_a_datagram_has_an_end(data: bytes) -> None:
    spans = list(answers.spans(data))
    assert len(spans) <= len(data) // 16
    assert all(start >= 16 for *_, start, _ in spans)
    assert len(answers.attributes(data)) <= len(data) // 4


@given(data=st.one_of(garbled(DATAGRAMS), st.binary(max_size=200)))
def test_a_dump_of_connections_is_entries_or_an_error_of_the_datapath(data: bytes) -> None:
    matcher = ct.Matcher([IPv4Address("127.0.0.1"), IPv6Address("::1")])
    try:
        bodies, _, _ = conntrack._bodies(data, sequence=1, op="dump")
    except DatapathError:
        return
    for entry in matcher.entries(data, bodies):
        assert entry.tuple_orig is not None
        ct.delete(entry)


@given(body=anything, flags=st.sampled_from([0, 0x200]))
def test_an_acknowledgement_is_none_or_an_error_of_the_datapath(body: bytes, flags: int) -> None:
    message = Message(kind=2, flags=flags, sequence=1, body=body)
    error = netlink._error_of(message, "op")
    assert error is None or isinstance(error, DatapathError)


def test_an_entry_that_only_its_answer_names_is_passed_over() -> None:
    ends = messages.attribute(1 | 0x8000, messages.attribute(1, b"\x7f\0\0\1"))
    assert ct.entry_of(b"\x02\0\0\0" + messages.attribute(2 | 0x8000, ends), WANTED) is None


class Heard:
    """The socket of a listener: it gives out what it was given, then ends the thread."""

    def __init__(self, *datagrams: bytes) -> None:
        self.left = list(datagrams)

    def recv(self, limit: int) -> bytes:
        del limit
        if not self.left:
            raise OSError(errno.EBADF, "closed")
        return self.left.pop(0)


def test_a_notice_that_cannot_be_read_has_everybody_look_and_the_thread_goes_on() -> None:
    (good,) = [m for m in answers.split(DATAGRAMS[0]) if answers.link_of(m.body).ifname == "lo"]
    frames = [
        messages.HEADER.pack(16 + len(body), messages.RTM_NEWLINK, 0, 0, 0) + body
        for body in (good.body[:9], good.body)
    ]
    notices = LinkNotices()
    notices._socket.close()
    notices._socket = Heard(*frames)  # type: ignore[assignment]
    heard: list[Notice] = []
    notices.subscribe(heard.append)
    with pytest.raises(OSError, match="closed"):
        notices._listen()
    assert heard == [NoticesLost(), LinkChanged(link=answers.link_of(good.body))]


def ended(number: int) -> bytes:
    """A dump of one entry that ends with this error; 0 for a whole one."""
    body = bytes([2, 0, 0, 0])
    entry = struct.pack("=IHHII", 16 + len(body), 256, 2, 1, 0) + body
    return entry + struct.pack("=IHHIIi", 20, 3, 2, 1, 0, -number)


class Answering:
    """A socket that was asked and has one answer."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer

    def send(self, data: bytes) -> int:
        return len(data)

    def recv(self, size: int) -> bytes:
        return self.answer


def test_a_dump_that_ends_early_is_an_error_and_not_a_short_list(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A link that does not fit into the kernel's buffer ends the list of links; those after it are
    not gone."""
    sock = netlink.NetlinkSocket()
    with closing(sock):
        for number in (0, errno.EMSGSIZE):
            monkeypatch.setattr(sock, "_socket", Answering(ended(number)))
            monkeypatch.setattr(sock, "_sequence", 0)
            problem = 0
            try:
                assert len(sock.dump_raw(messages.dump_links())) == 1
            except DatapathError as e:
                problem = e.errno
            assert problem == number


def test_a_dump_of_connections_that_ends_early_is_an_error() -> None:
    assert conntrack._bodies(ended(0), sequence=1, op="dump")[1]
    with pytest.raises(DatapathError, match="EMSGSIZE"):
        conntrack._bodies(ended(errno.EMSGSIZE), sequence=1, op="dump")
