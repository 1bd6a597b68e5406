"""Requests that ipamd's clients might send, for `tests.fuzz_ipamd` to bend."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping

from compat import rpc_pb2 as peer_pb
from google.protobuf.message import Message
from ipam_api.v1 import door
from ipam_api.v1 import ipam_pb2 as pb

from ipamd import clock
from ipamd.pool.ledger import Ledger
from tests.fuzz_messages import bend, bend_bytes

IDS = ("c1", "c2", "c3", "a" * 64, "default-x1")
IFNAMES = ("eth0", "net1")
ATTEMPTS = ("0123456789abcdef", "f" * 32)

Make = Callable[[random.Random, Ledger], Message]


def key_of_some(chance: random.Random) -> pb.AttachmentKey:
    return pb.AttachmentKey(container_id=chance.choice(IDS), ifname=chance.choice(IFNAMES))


def allocate(chance: random.Random, ledger: Ledger) -> Message:
    del ledger
    return pb.AllocateRequest(
        key=key_of_some(chance),
        network_name="net",
        attempt_id=chance.choice(ATTEMPTS),
        netns_cookie=chance.choice((7, 7, 8)),
        pod_namespace="default",
        pod_name="web",
        wait_seconds=chance.choice((0.0, 0.0, 30.0)),
        began_boottime=clock.boottime(),
        eni=chance.choice(("", "", "", "primary")),
        is_ipam_only=chance.random() < 0.2,
    )


def _release(chance: random.Random, ledger: Ledger) -> Message:
    del ledger
    return pb.ReleaseRequest(
        key=key_of_some(chance),
        generation=chance.choice((0, 0, 0, 3)),
        attempt_id=chance.choice(("", "", ATTEMPTS[0])),
        is_foreign_use=chance.random() < 0.1,
        reason="DEL",
    )


def _get(chance: random.Random, ledger: Ledger) -> Message:
    del ledger
    return pb.GetRequest(key=key_of_some(chance))


def _epoch(chance: random.Random, ledger: Ledger) -> str:
    return chance.choice((ledger.epoch, ledger.epoch, "e"))


def _report(chance: random.Random, ledger: Ledger) -> Message:
    some = chance.sample(sorted(ledger.addresses), min(3, len(ledger.addresses)))
    return pb.ReportNodeRequest(
        epoch=_epoch(chance, ledger),
        enis=[
            pb.EniReport(eni_id=e, is_ready=chance.random() < 0.9, link_name="eth0")
            for e in ledger.enis
        ],
        addresses=[
            pb.ObservedAddress(
                address=str(a), link_name="eni1", key=key_of_some(chance), netns_cookie=7
            )
            for a in some
        ],
    )


def _flushed(chance: random.Random, ledger: Ledger) -> Message:
    return pb.ReportFlushedRequest(
        epoch=_epoch(chance, ledger),
        addresses=[pb.CooledAddress(address="10.0.0.5", since_boottime=clock.boottime())],
    )


def add_network(chance: random.Random, ledger: Ledger) -> Message:
    del ledger
    return peer_pb.AddNetworkRequest(
        K8S_POD_NAME="web",
        K8S_POD_NAMESPACE="default",
        Netns="/run/netns/x",
        IfName=chance.choice(IFNAMES),
        NetworkName="aws-cni",
        ContainerID=chance.choice(IDS),
        ClientVersion="v1.20.4",
        RequiresMultiNICAttachment=chance.random() < 0.2,
    )


def _del_network(chance: random.Random, ledger: Ledger) -> Message:
    del ledger
    return peer_pb.DelNetworkRequest(
        K8S_POD_NAME="web",
        K8S_POD_NAMESPACE="default",
        Reason="PodDeleted",
        IfName=chance.choice(IFNAMES),
        NetworkName="aws-cni",
        ContainerID=chance.choice(IDS),
    )


def empty(chance: random.Random, ledger: Ledger) -> Message:
    del chance, ledger
    return pb.ListRequest()


VERBS: Mapping[door.Method, Make] = {
    door.Method.ALLOCATE: allocate,
    door.Method.RELEASE: _release,
    door.Method.GET: _get,
    door.Method.LIST: empty,
    door.Method.REPORT_NODE: _report,
    door.Method.REPORT_FLUSHED: _flushed,
    door.Method.WATCH_NODE: empty,
}
IPAM: Mapping[str, Make] = {
    "Allocate": allocate,
    "Release": _release,
    "Get": _get,
    "List": empty,
    "ReportNode": _report,
    "ReportFlushed": _flushed,
    "GetStatus": empty,
    "NoSuchCall": _get,
}
BACKEND: Mapping[str, Make] = {
    "rpc.CNIBackend/AddNetwork": add_network,
    "rpc.CNIBackend/DelNetwork": _del_network,
    "rpc.ConfigServerBackend/GetNetworkPolicyConfigs": empty,
}


def body_of(make: Make, chance: random.Random, ledger: Ledger) -> bytes:
    message = make(chance, ledger)
    for _ in range(chance.choice((0, 1, 1, 2, 5))):
        bend(message, chance)
    data = message.SerializeToString()
    return bend_bytes(data, chance) if chance.random() < 0.3 else data
