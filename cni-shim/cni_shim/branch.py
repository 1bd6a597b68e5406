"""Whether a pod has an ENI of its own, and which: its annotation and its limits, judged. Pure.

Called by `add` where ENABLE_POD_ENI is on. Amazon's VPC resource controller makes the branch ENI
once the pod is bound to a node, and writes the annotation (amazon-vpc-resource-controller-k8s,
pkg/provider/branch); its admission webhook writes the limit before, so a pod whose limit is there
and whose annotation is not must wait, never be given an ordinary address.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, ip_address, ip_network

from ipam_api.v1 import ipam_pb2 as pb

from cni_shim.datapath import names
from cni_shim.datapath.branch import Branch, BranchLink
from cni_shim.datapath.families import Address, Network
from cni_shim.errors import CniError, CniErrorCode, shown
from cni_shim.spec import CniRequest

ANNOTATION = "vpc.amazonaws.com/pod-eni"
LIMIT = "vpc.amazonaws.com/pod-eni"

_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_ROUTER_V6 = IPv6Address("fe80:ec2::1")  # a VPC's router in every subnet


@dataclass(frozen=True, slots=True, kw_only=True)
class PodFacts:
    """What the API server says of a pod: its annotations, and whether a container asks for a branch
    ENI by its limits."""

    uid: str
    annotations: Mapping[str, str]
    wants_branch: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class BranchEni:
    """One branch ENI, as the annotation describes it. Networks and addresses of families that it
    does not have are None."""

    eni_id: str
    mac: str
    vlan_id: int
    address: IPv4Address | None
    subnet: IPv4Network | None
    address_v6: IPv6Address | None


def may_be_branch(request: CniRequest, network: pb.NodeNetwork) -> bool:
    """Whether the attachment can be on a branch ENI at all: the first one of a pod with names, on a
    node where such ENIs are on."""
    has_name = bool(request.pod.name and request.pod.namespace)
    is_first = request.key is not None and request.key.ifname == "eth0"
    return bool(network.policy.pod_eni_mode) and has_name and is_first


def annotated(annotations: Mapping[str, str]) -> BranchEni | None:
    """The branch ENI in a pod's annotations; None where there is no such annotation.

    Raises CniError: 7 for what cannot be read, 11 for what is not complete yet.
    """
    text = annotations.get(ANNOTATION)
    if not text:
        return None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        raise _unreadable("it is no JSON", text) from None
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise _unreadable("it is no array of objects", text)
    if not found:
        raise _incomplete("it is empty", text)
    return _branch_eni(found[0], text)


def required(facts: PodFacts, uid: str) -> BranchEni | None:
    """The branch ENI of a pod by the API server's word; None for an ordinary pod.

    Raises CniError 11 for one that must wait, or where the pod has been replaced.
    """
    if uid and facts.uid and uid != facts.uid:
        raise CniError(
            CniErrorCode.TRY_AGAIN_LATER,
            "the pod has been replaced",
            f"the runtime starts uid {shown(uid)}, the API server has {shown(facts.uid)}",
        )
    found = annotated(facts.annotations)
    if found is None and facts.wants_branch:
        raise CniError(
            CniErrorCode.TRY_AGAIN_LATER,
            "the pod's branch ENI is not annotated yet",
            f"a container's limits ask for {LIMIT}, and annotation {ANNOTATION} is not there; the "
            "VPC resource controller writes it, see the pod's events",
        )
    return found


def link_of(eni: BranchEni, network: pb.NodeNetwork, *, mtu: int) -> BranchLink:
    """What is to stand on this node for a branch ENI. Raises CniError 11 where the node has no
    trunk ENI, or the branch ENI no address of the node's family."""
    trunk = next((each for each in network.enis if each.is_trunk), None)
    if trunk is None:
        raise CniError(
            CniErrorCode.TRY_AGAIN_LATER,
            "this node has no trunk ENI",
            f"the pod's branch ENI {eni.eni_id} needs one; the VPC resource controller attaches it "
            "where the node's CNINode object asks for SecurityGroupsForPods",
        )
    has_v6 = any(each.gateway_v6 for each in network.enis)
    address, gateway = _of_family(eni, has_v6=has_v6)
    return BranchLink(
        branch=Branch(
            vlan_id=eni.vlan_id,
            is_strict=network.policy.pod_eni_mode == "strict",
            gateways=(gateway,),
            addresses=(address,),
        ),
        mac=eni.mac,
        trunk_mac=trunk.mac.lower(),
        mtu=mtu,
    )


def _of_family(eni: BranchEni, *, has_v6: bool) -> tuple[Address, Address]:
    """The pod's address and its gateway: of a subnet the first address but one (VPC User Guide,
    "Subnet CIDR blocks"), of IPv6 the router's own."""
    if has_v6:
        if eni.address_v6 is None:
            raise _no_address(eni, "ipv6Addr", "IPv6")
        return eni.address_v6, _ROUTER_V6
    if eni.address is None or eni.subnet is None:
        raise _no_address(eni, "privateIp and subnetCidr", "IPv4")
    return eni.address, eni.subnet.network_address + 1


def _no_address(eni: BranchEni, fields: str, family: str) -> CniError:
    return _incomplete(
        f"{eni.eni_id} has no {fields}, and pods of this node have {family}", eni.eni_id
    )


def _branch_eni(found: Mapping[str, object], text: str) -> BranchEni:
    eni_id, mac = _word(found, "eniId", text), _word(found, "ifAddress", text).lower()
    if not _MAC.fullmatch(mac):
        raise _unreadable(f"ifAddress={shown(mac)} is no MAC", text)
    vlan_id = found.get("vlanID", found.get("vlanId"))
    if vlan_id in (None, "", 0, "0"):
        raise _incomplete("vlanID is missing", text)
    subnet = _parsed(found, "subnetCidr", text)
    address = _parsed(found, "privateIp", text)
    address_v6 = _parsed(found, "ipv6Addr", text)
    if isinstance(address, IPv4Address) and isinstance(subnet, IPv4Network):
        if address not in subnet:
            raise _unreadable(f"privateIp={address} is not in subnetCidr={subnet}", text)
    elif address is not None and not isinstance(address, IPv4Address):
        raise _unreadable(f"privateIp={address} is not IPv4", text)
    return BranchEni(
        eni_id=eni_id,
        mac=mac,
        vlan_id=_vlan_id(vlan_id, text),
        address=address if isinstance(address, IPv4Address) else None,
        subnet=subnet if isinstance(subnet, IPv4Network) else None,
        address_v6=address_v6 if isinstance(address_v6, IPv6Address) else None,
    )


def _vlan_id(value: object, text: str) -> int:
    is_number = isinstance(value, int) and not isinstance(value, bool)
    is_text = isinstance(value, str) and re.fullmatch(r"[0-9]{1,4}", value)
    try:
        number = int(str(value)) if is_number or is_text else -1
        names.check_vlan_id(number)
    except ValueError:
        raise _unreadable(f"vlanID={shown(str(value))} is no VLAN id, 1 to 4094", text) from None
    return number


def _word(found: Mapping[str, object], key: str, text: str) -> str:
    value = found.get(key)
    if value in (None, ""):
        raise _incomplete(f"{key} is missing", text)
    if not isinstance(value, str):
        raise _unreadable(f"{key} is no text", text)
    return value


def _parsed(found: Mapping[str, object], key: str, text: str) -> Address | Network | None:
    value = found.get(key)
    if value in (None, ""):
        return None
    try:
        return ip_network(str(value)) if "/" in str(value) else ip_address(str(value))
    except ValueError:
        raise _unreadable(f"{key}={shown(str(value))} cannot be", text) from None


def _unreadable(why: str, text: str) -> CniError:
    return CniError(
        CniErrorCode.INVALID_NETWORK_CONFIG,
        f"annotation {ANNOTATION} cannot be used",
        f"{why}: {shown(text)}",
    )


def _incomplete(why: str, text: str) -> CniError:
    return CniError(
        CniErrorCode.TRY_AGAIN_LATER,
        f"annotation {ANNOTATION} is not complete",
        f"{why}: {shown(text)}; the VPC resource controller writes it",
    )
