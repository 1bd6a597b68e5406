"""Deleting connection tracking entries in a real kernel, judged by the conntrack tool."""

from __future__ import annotations

import errno
import subprocess
import sys
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest
from cni_shim.datapath import conntrack, conntrack_messages
from cni_shim.datapath.conntrack import Conntrack
from cni_shim.datapath.errors import DatapathError
from cni_shim.datapath.families import Address
from structlog.testing import capture_logs

from tests.netns.datapath_lab import inside, own_netns, run

pytestmark = pytest.mark.netns

POD, NEXT = ip_address("10.0.0.7"), ip_address("10.0.0.8")
POD6, NEXT6 = ip_address("2001:db8::7"), ip_address("2001:db8::8")


@pytest.fixture(autouse=True)
def table() -> Iterator[None]:
    """An empty table of a namespace of its own."""
    with own_netns() as netns, inside(netns.fd):
        yield


def insert(
    orig: tuple[str, str], reply: tuple[str, str] | None = None, *, port: int = 53, zone: int = 0
) -> None:
    """One UDP entry; without `reply` one that nothing translates."""
    back = reply or (orig[1], orig[0])
    run("conntrack", "-I", "-p", "udp", "-s", orig[0], "-d", orig[1], "-r", back[0], "-q", back[1],
        "--sport", "1024", "--dport", str(port), "--reply-port-src", str(port),
        "--reply-port-dst", "1024", "--timeout", "600", "-u", "SEEN_REPLY",
        *(["-w", str(zone)] if zone else []))  # fmt: skip


def left() -> list[str]:
    """The tuples of all entries, without the times that they have left."""
    return sorted(
        line[line.index("src=") :]
        for family in ("ipv4", "ipv6")
        for line in run("conntrack", "-L", "-f", family).splitlines()
    )


@pytest.mark.parametrize("filters", [False, True], ids=["whole dump", "filtered by the kernel"])
@pytest.mark.parametrize(
    ("orig", "reply"),
    [
        ((str(POD), "192.0.2.1"), None),
        (("192.0.2.1", str(POD)), None),
        (("192.0.2.1", "172.20.0.10"), (str(POD), "192.0.2.1")),
        ((str(POD), "198.51.100.1"), ("198.51.100.1", "10.0.0.2")),
        (("192.0.2.1", "172.20.0.10"), ("10.0.0.9", str(POD))),
        ((str(POD6), "2001:db8:f::1"), None),
        (("2001:db8:f::1", "fd00::10"), (str(POD6), "2001:db8:f::1")),
    ],
    ids=["from it", "to it", "by a service", "by SNAT", "answered to it", "IPv6", "IPv6 service"],
)
def test_its_entry_goes_and_others_stay(
    monkeypatch: pytest.MonkeyPatch,
    filters: bool,
    orig: tuple[str, str],
    reply: tuple[str, str] | None,
) -> None:
    monkeypatch.setattr(conntrack, "FILTER_ABOVE", 0 if filters else 10**9)
    insert((str(NEXT), "192.0.2.9"))
    insert((str(NEXT6), "2001:db8:f::9"))
    before = left()
    insert(orig, reply)
    pod = POD6 if ":" in orig[0] else POD
    assert Conntrack().delete_entries_of([pod]) == 1
    assert left() == before


@pytest.mark.parametrize("filters", [False, True], ids=["whole dump", "filtered by the kernel"])
def test_an_entry_of_any_zone_goes(
    monkeypatch: pytest.MonkeyPatch,
    filters: bool,
) -> None:
    monkeypatch.setattr(conntrack, "FILTER_ABOVE", 0 if filters else 10**9)
    for zone in (0, 5, 7):
        insert((str(POD), "192.0.2.1"), zone=zone)
    assert Conntrack().delete_entries_of([POD]) == 3
    assert left() == []


def test_both_families_go_in_one_call() -> None:
    insert((str(POD), "192.0.2.1"))
    insert((str(POD6), "2001:db8:f::1"))
    assert Conntrack().delete_entries_of([POD, POD6]) == 2


def test_more_entries_than_are_collected_at_once_all_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conntrack, "MOST_AT_ONCE", 50)
    monkeypatch.setattr(conntrack, "BATCH", 16)
    lines = [
        f"-I -p udp -s {POD} -d 192.0.2.1 -r 192.0.2.1 -q {POD} --sport {port} --dport 53 "
        f"--reply-port-src 53 --reply-port-dst {port} --timeout 600"
        for port in range(1000, 1400)
    ]
    done = subprocess.run(
        ["conntrack", "-R", "-"], input="\n".join(lines) + "\n", text=True, check=True,
        capture_output=True,
    )  # fmt: skip
    assert done.returncode == 0
    assert run("conntrack", "-C").strip() == "400"
    assert Conntrack().delete_entries_of([POD]) == 400
    assert run("conntrack", "-C").strip() == "0"


def test_an_entry_that_is_gone_already_is_success() -> None:
    insert((str(POD), "192.0.2.1"))
    with conntrack._Socket() as sock:
        found = Conntrack()._find(sock, frozenset({POD}))
        assert sock.delete(found.entries) == 1
        assert sock.delete(found.entries) == 0


def test_a_new_entry_with_the_tuple_of_a_former_one_is_not_mistaken_for_it() -> None:
    insert((str(POD), "192.0.2.1"))
    with conntrack._Socket() as sock:
        former = Conntrack()._find(sock, frozenset({POD}))
        sock.delete(former.entries)
        insert((str(POD), "192.0.2.1"))
        insert((str(NEXT), "192.0.2.1"))
        again = Conntrack()._find(sock, frozenset({POD}))
        if again.entries != former.entries:  # the kernel may give the number again
            assert sock.delete(former.entries) == 0
            assert len(left()) == 2


def test_a_kernel_that_tracks_nothing_has_nothing_to_delete(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    insert((str(POD), "192.0.2.1"))
    monkeypatch.setattr(conntrack, "_COUNT", tmp_path / "absent")
    with capture_logs() as logs:
        assert Conntrack().delete_entries_of([POD]) == 0
    assert logs == []


def test_a_kernel_that_tracks_but_cannot_be_asked_is_warned_of_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    insert((str(POD), "192.0.2.1"))
    # What a kernel without nf_conntrack_netlink says: no such subsystem.
    monkeypatch.setattr(conntrack_messages, "CT_GET", 0x6301)
    table = Conntrack()
    with capture_logs() as logs:
        assert table.delete_entries_of([POD]) == 0
        assert table.delete_entries_of([POD]) == 0
    assert [entry["event"] for entry in logs] == ["conntrack_unreachable"]
    assert "EINVAL" in logs[0]["error"]


def test_without_the_right_to_it_the_error_says_so() -> None:
    insert((str(POD), "192.0.2.1"))
    program = (
        "from ipaddress import ip_address\n"
        "from cni_shim.datapath.conntrack import Conntrack\n"
        "from cni_shim.datapath.errors import DatapathError\n"
        "try:\n"
        f"    Conntrack().delete_entries_of([ip_address('{POD}')])\n"
        "except DatapathError as e:\n"
        "    raise SystemExit(e.errno)\n"
    )
    done = subprocess.run(
        ["setpriv", "--bounding-set=-net_admin", sys.executable, "-c", program], check=False
    )
    assert done.returncode == errno.EPERM
    assert len(left()) == 1


def test_a_dump_that_is_torn_at_every_try_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    insert((str(POD), "192.0.2.1"))
    monkeypatch.setattr(conntrack, "_NLM_F_DUMP_INTR", 0x2)  # a flag of every message of a dump
    with pytest.raises(DatapathError, match="EINTR"):
        Conntrack().delete_entries_of([POD])
    assert left() == [], "what it did see is gone all the same"


def test_answers_that_the_socket_cannot_hold_have_it_look_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    insert((str(POD), "192.0.2.1"))
    deletions: list[int] = []
    real = conntrack._Socket.delete

    def crowded(self: conntrack._Socket, entries: tuple[object, ...]) -> int:
        deletions.append(len(entries))
        if len(deletions) == 1:
            raise DatapathError("receive", errno.ENOBUFS, "no answer")
        return real(self, entries)  # type: ignore[arg-type]

    monkeypatch.setattr(conntrack._Socket, "delete", crowded)
    assert Conntrack().delete_entries_of([POD]) == 1
    assert deletions == [1, 1]


def test_no_address_asks_nothing() -> None:
    nobody: list[Address] = []
    assert Conntrack().delete_entries_of(nobody) == 0
