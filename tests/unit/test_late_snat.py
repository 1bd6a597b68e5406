"""Which connections are forgotten once SNAT stands, and when."""

from __future__ import annotations

import errno
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import pytest
from cni_shim.datapath.chains import is_snated
from cni_shim.datapath.desired import DesiredHost
from cni_shim.datapath.errors import DatapathError
from cni_shim.datapath.policy import SnatDestination
from cni_shim.late_snat import LateSnat
from structlog.testing import capture_logs

from tests.unit.test_host_policy_rules import host

POD, NODE_ELSEWHERE, OUT = "10.0.0.7", "10.0.9.9", "198.51.100.9"
METADATA = SnatDestination(network=IPv4Network("169.254.169.254/32"), protocol="tcp", port=80)


@pytest.mark.parametrize(
    ("policy", "source", "destination", "expected"),
    [
        ({"has_snat": True}, POD, OUT, True),
        ({"has_snat": True}, POD, NODE_ELSEWHERE, False),
        ({"has_snat": True}, POD, "100.64.1.1", False),
        ({"has_snat": True}, POD, "169.254.169.254", False),
        ({"has_snat": True}, NODE_ELSEWHERE, OUT, False),
        ({"has_snat": True, "excluded_from_snat": (IPv4Network(f"{OUT}/32"),)}, POD, OUT, False),
        ({}, POD, OUT, False),
        ({"always_snat": (METADATA,)}, POD, "169.254.169.254", True),
        ({"always_snat": (METADATA,)}, POD, OUT, False),
        ({"has_v4_egress": True}, "169.254.172.5", NODE_ELSEWHERE, True),
        ({"has_v4_egress": True}, "169.254.172.5", "224.0.0.251", False),
        ({"has_snat": True}, "169.254.172.5", OUT, False),
    ],
    ids=[
        "out of the VPC",
        "inside",
        "in its other network",
        "link-local",
        "not of this node",
        "excluded",
        "external SNAT",
        "always SNATed",
        "external SNAT beside it",
        "egress",
        "egress to a group",
        "no egress",
    ],
)
def test_what_is_snated_is_what_the_chains_say(
    policy: dict[str, Any], source: str, destination: str, expected: bool
) -> None:
    assert is_snated(host(**policy), IPv4Address(source), IPv4Address(destination)) is expected


class Table:
    """A table in memory; `connections` is its content, source and destination."""

    def __init__(self, *connections: tuple[str, str]) -> None:
        self.connections = list(connections)
        self.failure: DatapathError | None = None
        self.looks = 0

    def delete_unanswered(self, is_wanted: Callable[[IPv4Address, IPv4Address], bool]) -> int:
        self.looks += 1
        if self.failure is not None:
            raise self.failure
        stay = [c for c in self.connections if not is_wanted(*map(IPv4Address, c))]
        gone, self.connections = len(self.connections) - len(stay), stay
        return gone


def test_after_a_change_the_connections_that_leave_are_forgotten_once() -> None:
    table = Table((POD, OUT), (POD, NODE_ELSEWHERE))
    late = LateSnat(table)
    late.firewall_changed(host(has_snat=True))
    late.step()
    late.step()
    assert table.looks == 1
    assert table.connections == [(POD, NODE_ELSEWHERE)]


@pytest.mark.parametrize(
    "desired", [host(), host(has_node_port_support=True)], ids=["", "NodePort"]
)
def test_without_snat_nothing_is_looked_at(desired: DesiredHost) -> None:
    table = Table((POD, OUT))
    late = LateSnat(table)
    late.firewall_changed(desired)
    late.step()
    assert table.looks == 0


def test_a_failure_is_told_and_not_tried_again() -> None:
    table = Table((POD, OUT))
    table.failure = DatapathError("dump connection tracking", errno.EPERM)
    late = LateSnat(table)
    late.firewall_changed(host(has_snat=True))
    with capture_logs() as logs:
        late.step()
        late.step()
    assert [entry["event"] for entry in logs] == ["late_connections_stay"]
