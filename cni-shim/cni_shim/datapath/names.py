"""Names, MACs, marks and numbers of the datapath. Pure.

Everything another agent on the node could meet (table numbers, rule priorities, veth names) is
stated here once. Names and priorities are those of amazon-vpc-cni-k8s where the meaning is shared,
so that both agents and Calico's policy-only mode read each other's links and rules.
"""

from __future__ import annotations

import hashlib
from ipaddress import IPv4Address, IPv6Address

# Pod /32 routes live in a table of their own, so that one rule finds every pod. 5120 is clear of
# the AWS agent's numbers: 2-15 and 10000+ for ENIs, 101-4194 for branch ENIs (100 + VLAN id).
POD_TABLE = 5120
MAIN_TABLE = 254

# Rule priorities, all of them the AWS agent's: 512 ("to a pod"), 1024 ("a connection of the primary
# ENI's"), 1535 ("to an external service"), 1536 ("from a pod on a secondary ENI") and 32765 ("from
# the ENI's own address").
POD_RULE_PRIORITY = 512
CONNECTION_RULE_PRIORITY = 1024
EXTERNAL_RULE_PRIORITY = 1535
MARK_RULE_PRIORITY = 1536
ENI_RULE_PRIORITY = 32765

# The protocol number on every route, rule and address of ours; unassigned in iproute2's
# rt_protos. What carries another number is somebody else's and is left alone.
PROTOCOL = 119

# The bits of the packet mark that name the ENI. 0x80 is the AWS agent's connection mark; 0x2000,
# 0x4000, 0x8000 and 0xffff0000 belong to kube-proxy and the policy engines.
MARK_MASK = 0x7F

# Interface group of a host veth: "vc" in the upper half marks the link as ours from its first
# instant (an alias cannot be set in the create message), the mark of its ENI in the lower half.
GROUP_BASE = 0x76630000
_GROUP_OWNER_MASK = 0xFFFF0000

# The group of a pod with an ENI of its own has this bit and the VLAN id of that ENI instead: no
# ENI's mark follows from it, and a restart knows such pods by it.
_BRANCH_BIT = 0x8000
_VLAN_IDS = range(1, 4095)  # IEEE 802.1Q: 0 and 4095 are reserved

# Numbers of branch ENIs, the AWS agent's: their tables, the rules that lead to them, and where the
# rule for the node's own addresses goes in strict mode, so that those come after.
_BRANCH_TABLE_BASE = 100
BRANCH_RULE_PRIORITY = 10
LOCAL_RULE_PRIORITY = 0
MOVED_LOCAL_RULE_PRIORITY = 20
LOCAL_TABLE = 255
STRICT_VETH_PREFIX = "vlan"

# Port numbers of our netlink sockets, so that the listener can tell our doing from that of others.
# The kernel's own choice is a process id (below 2^22) or a number with its highest bit set.
PORT_BASE = GROUP_BASE

# IFNAMSIZ is 16 with the closing zero; 11 hex digits leave four characters for the prefix.
_NAME_DIGITS = 11
_MAX_PREFIX = 4

# The AWS agent's name of a pod's interface on a further network card, before its number from 1; in
# ipamd's ledger such an interface has this name with the container id of the first one.
PEER_FURTHER_IFNAME = "mNicIf"

# The pod's only neighbour of each family (by ipaddress's version), answered by a permanent entry:
# the same in every pod and on every node, and those of the AWS agent.
POD_GATEWAYS: dict[int, IPv4Address | IPv6Address] = {
    4: IPv4Address("169.254.1.1"),
    6: IPv6Address("fe80::1"),
}


def host_ifname(
    prefix: str, *, container_id: str, ifname: str, pod_namespace: str, pod_name: str
) -> str:
    """The host veth's preferred name.

    For eth0 of a named pod it is the AWS agent's: prefix + 11 hex digits of
    sha1("namespace.pod"). Example: "eni", default/web -> "eni" + sha1("default.web")[:11].
    """
    if ifname == "eth0" and pod_namespace and pod_name:
        return _hashed_name(prefix, f"{pod_namespace}.{pod_name}")
    return fallback_ifname(prefix, container_id=container_id, ifname=ifname)


def fallback_ifname(prefix: str, *, container_id: str, ifname: str) -> str:
    """The name when the preferred one is taken, and of all that is not a named pod's eth0."""
    return _hashed_name(prefix, f"{container_id}/{ifname}")


def _hashed_name(prefix: str, subject: str) -> str:
    if not 1 <= len(prefix) <= _MAX_PREFIX:
        raise ValueError(f"veth prefix {prefix!r}: want 1 to {_MAX_PREFIX} characters")
    return prefix + _digits(subject)


def _digits(subject: str) -> str:
    return hashlib.sha1(subject.encode(), usedforsecurity=False).hexdigest()[:_NAME_DIGITS]


def peer_digits(ifname: str, pod_namespace: str, pod_name: str) -> str:
    """How the AWS agent's host veth of a pod's interface ends, after its prefix; "" without a name.

    Example: sha1("default.web")[:11]; of the pod's further interface "mNicIf2", as ipamd calls it,
    sha1("default.web.2")[:11].
    """
    if not (pod_namespace and pod_name):
        return ""
    number = ifname.removeprefix(PEER_FURTHER_IFNAME)
    further = f".{number}" if number != ifname else ""
    return _digits(f"{pod_namespace}.{pod_name}{further}")


def host_mac(container_id: str, ifname: str) -> bytes:
    """A locally administered unicast MAC that follows from the key alone.

    It stands in the create message, so it tells whose a link is that has no alias yet.
    """
    digest = hashlib.sha256(f"{container_id}/{ifname}".encode()).digest()
    return bytes([(digest[0] & 0xFC) | 0x02]) + digest[1:6]


def pod_mac(address: IPv4Address | IPv6Address) -> bytes:
    """0a:58 and the last four bytes of the address.

    Unique where an IPv4 address is. Two IPv6 addresses may share it, which nobody minds: each pod
    is alone on its link.
    """
    return b"\x0a\x58" + address.packed[-4:]


def mac_text(mac: bytes) -> str:
    """Six bytes in the usual colon form, lower case."""
    return mac.hex(":")


def eni_mark(*, device_index: int, network_card: int = 0) -> int:
    """The packet mark of a secondary ENI: device index + 1. Raises ValueError where there is none.

    Only card 0 has marks: seven bits do not hold card and index, and pods run on card 0 only.
    Example: device index 1 -> mark 2, which is also its route table.
    """
    mark = device_index + 1
    if network_card != 0:
        raise ValueError(f"network card {network_card}: only ENIs on card 0 can serve pods")
    if not 2 <= mark <= MARK_MASK:
        raise ValueError(f"device index {device_index}: want 1 to {MARK_MASK - 1}")
    return mark


def eni_table(mark: int) -> int:
    """The route table of the secondary ENI with this mark: the same number, as only card 0 has
    marks (see `eni_mark`) and tables there are device index + 1."""
    return mark


def link_group(mark: int) -> int:
    """The interface group of pods on the ENI with this mark; mark 0 is the primary ENI."""
    if not 0 <= mark <= MARK_MASK:
        raise ValueError(f"mark {mark:#x}: want 0 to {MARK_MASK:#x}")
    return GROUP_BASE | mark


def mark_of_group(group: int) -> int:
    """The mark of the ENI whose pods are in this interface group of ours; 0 for branch ENIs."""
    return 0 if group & _BRANCH_BIT else group & MARK_MASK


def branch_group(vlan_id: int) -> int:
    """The interface group of the host veth, and of the VLAN link, of a pod on this branch ENI."""
    check_vlan_id(vlan_id)
    return GROUP_BASE | _BRANCH_BIT | vlan_id


def vlan_of_group(group: int) -> int:
    """The VLAN id of the branch ENI whose pod is in this group; 0 for every other group."""
    is_branch = is_our_group(group) and group & _BRANCH_BIT
    return group & (_BRANCH_BIT - 1) if is_branch else 0


def branch_ifname(vlan_id: int) -> str:
    """The name of the VLAN link on the trunk, the AWS agent's: vlan.eth.7."""
    return f"vlan.eth.{vlan_id}"


def branch_table(vlan_id: int) -> int:
    """The route table of a branch ENI: 100 + VLAN id."""
    return _BRANCH_TABLE_BASE + vlan_id


def is_branch_table(table: int) -> bool:
    """Whether it is the number of some branch ENI's table."""
    return table - _BRANCH_TABLE_BASE in _VLAN_IDS


def check_vlan_id(vlan_id: int) -> None:
    """Raise ValueError for what is no VLAN id."""
    if vlan_id not in _VLAN_IDS:
        raise ValueError(f"VLAN id {vlan_id}: want 1 to {_VLAN_IDS[-1]}")


def is_our_group(group: int) -> bool:
    """Whether an interface group says that the link is one of our host veths."""
    return group & _GROUP_OWNER_MASK == GROUP_BASE
