"""What vpc-cnid clears, when, and what it tells ipamd."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable

import pytest
from cni_shim.datapath.errors import DatapathError
from cni_shim.datapath.families import Address
from cni_shim.flusher import Flusher
from cni_shim.ipam_client import IpamdError
from ipam_api.v1 import door
from ipam_api.v1 import ipam_pb2 as pb
from structlog.testing import capture_logs

A, B, C = ("10.0.0.5", 100.5), ("10.0.0.6", 100.7), ("2001:db8::7", 101.0)
AWAY = IpamdError(door.Status.UNAVAILABLE, "nobody answers", None)
REFUSED = DatapathError("dump connection tracking", errno.EPERM)


class Node:
    """A table and an ipamd in memory, and the flusher between them."""

    def __init__(self) -> None:
        self.cleared: list[list[str]] = []
        self.reports: list[tuple[str, list[tuple[str, float]]]] = []
        self.failures: list[Exception] = []  # of the next calls
        self.is_accepted = True
        self.meanwhile: dict[str, Callable[[], None]] = {}  # during a clearing, or a report
        self.flusher = Flusher(self, self)
        self.flusher.watch_begins()

    def delete_entries_of(self, addresses: Iterable[Address]) -> int:
        self._fail(DatapathError)
        self.cleared.append(sorted(str(a) for a in addresses))
        self.meanwhile.pop("clearing", lambda: None)()
        return 3

    def report_flushed(
        self, request: pb.ReportFlushedRequest, *, seconds: float
    ) -> pb.ReportFlushedReply:
        self._fail(IpamdError)
        pairs = [(a.address, a.since_boottime) for a in request.addresses]
        self.reports.append((request.epoch, pairs))
        self.meanwhile.pop("report", lambda: None)()
        return pb.ReportFlushedReply(is_accepted=self.is_accepted)

    def _fail(self, kind: type[Exception]) -> None:
        if self.failures and isinstance(self.failures[0], kind):
            raise self.failures.pop(0)

    def begin_anew(self) -> None:
        """The watch breaks and resumes; the first message names what was not reported by then."""
        self.flusher.watch_begins()
        self.hear(A)

    def hear(self, *pairs: tuple[str, float], epoch: str = "e1", cidr: str = "10.0.0.0/16") -> bool:
        """A message of the watch; whether the host is to hear of it."""
        message = pb.NodeNetwork(
            epoch=epoch,
            sequence=1,
            vpc_cidrs=[cidr],
            flushes=[pb.CooledAddress(address=a, since_boottime=t) for a, t in pairs],
        )
        return self.flusher.take(message) is not None


def test_all_that_is_asked_for_is_cleared_in_one_go_and_reported_in_one_message() -> None:
    node = Node()
    node.hear(A, B, C)
    assert node.flusher.step()
    assert node.cleared == [["10.0.0.5", "10.0.0.6", "2001:db8::7"]]
    assert node.reports == [("e1", [A, B, C])]


def test_what_was_reported_is_never_cleared_again_in_that_stream() -> None:
    """It may be a running pod's by then."""
    node = Node()
    node.hear(A)
    node.flusher.step()
    node.hear(A, B)
    node.flusher.step()
    assert node.cleared == [["10.0.0.5"], ["10.0.0.6"]]
    assert node.reports[1] == ("e1", [B])


def test_a_report_that_failed_is_repeated_without_clearing_again() -> None:
    """ipamd may have taken it, and only its answer was lost."""
    node = Node()
    node.failures = [AWAY]
    node.hear(A)
    assert not node.flusher.step()
    assert node.flusher.step()
    assert node.cleared == [["10.0.0.5"]]
    assert node.reports == [("e1", [A])]


def test_what_cannot_be_cleared_is_not_reported_and_tried_again() -> None:
    node = Node()
    node.failures = [REFUSED]
    node.hear(A)
    assert not node.flusher.step()
    assert node.reports == []
    assert node.flusher.step()
    assert node.reports == [("e1", [A])]


def test_a_failure_is_told_once_until_it_ends() -> None:
    node = Node()
    node.failures = [REFUSED, REFUSED]
    node.hear(A)
    with capture_logs() as logs:
        for _ in range(3):
            node.flusher.step()
    assert [entry["event"] for entry in logs] == ["flush_failed", "connections_cleared"]
    assert "EPERM" in logs[0]["error"]


def test_the_next_cooldown_of_an_address_is_cleared_anew() -> None:
    node = Node()
    node.hear(A)
    node.flusher.step()
    node.hear((A[0], 200.0))
    node.flusher.step()
    assert node.cleared == [["10.0.0.5"], ["10.0.0.5"]]


def test_a_new_stream_has_everything_cleared_that_it_names() -> None:
    """ipamd was started anew and knows nothing of the report."""
    node = Node()
    node.hear(A)
    node.flusher.step()
    node.flusher.watch_begins()
    node.hear(A)
    node.flusher.step()
    assert node.cleared == [["10.0.0.5"], ["10.0.0.5"]]
    assert len(node.reports) == 2


def test_a_stream_that_begins_during_a_report_has_nothing_cleared_again() -> None:
    """Its first message may be older than the report, by which a pod has the address already."""
    node = Node()
    node.meanwhile["report"] = node.begin_anew
    node.hear(A)
    node.flusher.step()
    assert node.flusher.step()
    assert (node.cleared, len(node.reports)) == ([["10.0.0.5"]], 2)
    node.flusher.step()
    assert len(node.reports) == 2


def test_a_stream_that_begins_during_a_clearing_is_served_before_anything_is_reported() -> None:
    """A report for the old one, and the address would be a pod's while the new one is served."""
    node = Node()
    node.meanwhile["clearing"] = node.begin_anew
    node.hear(A)
    assert node.flusher.step()
    assert node.reports == []
    assert node.flusher.step()
    assert node.reports == [("e1", [A])]
    node.flusher.step()
    assert len(node.cleared) == 2


def test_what_is_asked_for_no_more_is_left_alone() -> None:
    node = Node()
    node.failures = [REFUSED]
    node.hear(A)
    node.flusher.step()
    node.hear()
    assert node.flusher.step()
    assert (node.cleared, node.reports) == ([], [])


def test_a_report_to_another_epoch_is_not_repeated() -> None:
    node = Node()
    node.is_accepted = False
    node.hear(A)
    assert not node.flusher.step()
    assert node.flusher.step()
    assert len(node.reports) == 1


@pytest.mark.parametrize(
    ("first", "second", "is_news"),
    [
        ((A,), (A, B), False),
        ((A,), (), False),
        ((), (), False),
    ],
    ids=["more to clear", "less to clear", "the same"],
)
def test_the_host_hears_nothing_of_what_is_to_be_cleared(
    first: tuple[tuple[str, float], ...], second: tuple[tuple[str, float], ...], is_news: bool
) -> None:
    node = Node()
    assert node.hear(*first)
    assert node.hear(*second) is is_news


def test_the_host_hears_of_all_else_and_of_each_streams_first_message() -> None:
    node = Node()
    assert node.hear()
    assert node.hear(cidr="10.1.0.0/16")
    assert node.hear(epoch="e2", cidr="10.1.0.0/16")
    node.flusher.watch_begins()
    assert node.hear(epoch="e2", cidr="10.1.0.0/16")
