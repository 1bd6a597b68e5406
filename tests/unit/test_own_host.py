from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Network

import pytest
from cni_shim.datapath.families import AF_INET6
from cni_shim.datapath.messages import Rule
from cni_shim.datapath.own_host import removable

POD_TABLE = Rule(priority=512, table=5120)
MARK = Rule(priority=1536, table=2, mark=2, mask=0x7F)
NODE_PORT = Rule(priority=1024, table=254, mark=0x80, mask=0x80)
OF_ENI = Rule(priority=32765, table=2, source=IPv4Network("10.0.1.10/32"))
TO_POD = Rule(priority=512, table=254, destination=IPv4Network("10.0.1.101/32"))


def theirs(rule: Rule) -> Rule:
    return replace(rule, protocol=0)


@pytest.mark.parametrize(
    ("rules", "gone"),
    [
        ([POD_TABLE, MARK], [POD_TABLE, MARK]),
        ([replace(POD_TABLE, family=AF_INET6)], [replace(POD_TABLE, family=AF_INET6)]),
        ([NODE_PORT, OF_ENI], []),
        ([NODE_PORT, theirs(NODE_PORT), OF_ENI], [NODE_PORT]),
        ([theirs(POD_TABLE), theirs(MARK)], []),
        ([TO_POD, theirs(TO_POD)], []),
        ([replace(NODE_PORT, mask=0x40), theirs(NODE_PORT)], []),
    ],
    ids=["only we have such", "IPv6", "the last of its kind", "the peer has it too", "the peer's",
         "a pod's", "another mask"],
)  # fmt: skip
def test_which_rules_nobody_needs_any_more(rules: list[Rule], gone: list[Rule]) -> None:
    assert list(removable(rules)) == gone
