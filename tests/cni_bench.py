"""Verbs on an ipamd and a kernel that keep a diary and say no on demand."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

import pytest
from cni_shim.allocations import PEER
from cni_shim.attempt import Attempt
from cni_shim.datapath.begun import Begun
from cni_shim.datapath.branch import Branch
from cni_shim.datapath.errors import DatapathError
from cni_shim.datapath.families import Address
from cni_shim.datapath.wiring import PairWish, PodWiring, Wired
from cni_shim.errors import CniError
from cni_shim.ipam_client import IpamdError
from cni_shim.ipam_only import MAIN_PLUGIN
from cni_shim.own_enis import OwnEnis
from cni_shim.plugin_config import PluginConfig
from cni_shim.pod_mtu import PodMtu
from cni_shim.ports import Policies
from cni_shim.results import Result
from cni_shim.spec import AttachmentKey, CniRequest, Pod, Verb
from cni_shim.verbs import Verbs
from ipam_api.v1 import door
from ipam_api.v1 import ipam_pb2 as pb

from tests.delegates import FakeDelegates

KEY = AttachmentKey(container_id="c1", ifname="eth0")
R = pb.ErrorDetail


def away() -> IpamdError:
    return IpamdError(door.Status.UNAVAILABLE, "nobody listens", None)


def refusal(status: door.Status, reason: R.Reason) -> IpamdError:
    return IpamdError(status, "no", pb.ErrorDetail(reason=reason, message="the reason"))


class FakeIpam:
    """A ledger of one node; `script` raises before a call of that name."""

    def __init__(self, diary: list[str]) -> None:
        self.diary = diary
        self.held: dict[str, pb.Allocation] = {}
        self.script: dict[str, list[IpamdError | None]] = {}
        self.on_allocate: Callable[[], None] = lambda: None
        self.after_list: Callable[[], None] = lambda: None
        self.next = 5
        self.networks: tuple[str, ...] = ("10.0.0.",)
        self.asked: list[str] = []  # whose addresses

    def _enter(self, name: str) -> None:
        queue = self.script.get(name, [])
        error = queue.pop(0) if queue else None
        if error is not None:
            self.diary.append(f"{name} refused")
            raise error

    def allocate(
        self,
        request: pb.AllocateRequest,
        *,
        deadline_monotonic: float,
        meanwhile: Callable[[], None],
        is_over: Callable[[], bool],
    ) -> pb.AllocateReply:
        self._enter("allocate")
        meanwhile()
        self.on_allocate()
        held = self.held.get(name_of(request.key))
        wired_by = MAIN_PLUGIN if request.is_ipam_only else ""
        is_same = held is not None and held.netns_cookie == request.netns_cookie
        if held is not None and is_same and held.wired_by in (wired_by, PEER):
            held.attempt_id = request.attempt_id
            return pb.AllocateReply(allocation=held, is_repeat=True)
        if held is not None:
            raise refusal(door.Status.FAILED_PRECONDITION, R.ATTACHMENT_CONFLICT)
        addresses = [f"{network}{self.next}" for network in self.networks]
        made = pb.Allocation(
            key=request.key,
            attempt_id=request.attempt_id,
            generation=self.next,
            netns_cookie=request.netns_cookie,
            pod_namespace=request.pod_namespace,
            pod_name=request.pod_name,
            network_name=request.network_name,
            address=addresses[0],
            addresses=addresses,
            eni_id="eni-1",
            device_index=1,
            route_table_id=2,
            subnet_cidr="10.0.0.0/24",
            gateway="10.0.0.1",
            subnet_cidr_v6="2001:db8::/64",
            gateway_v6="fe80:ec2::1",
            wired_by=wired_by,
        )
        self.asked.append(request.eni)
        self.next += 1
        self.held[name_of(request.key)] = made
        self.diary.append(f"allocate {made.address}")
        return pb.AllocateReply(allocation=made)

    def release(self, request: pb.ReleaseRequest, *, deadline_monotonic: float) -> pb.ReleaseReply:
        self._enter("release")
        held = self.held.get(name_of(request.key))
        if held is None or (request.attempt_id and request.attempt_id != held.attempt_id):
            return pb.ReleaseReply(outcome=pb.ReleaseReply.UNKNOWN_KEY)
        if request.generation and request.generation != held.generation:
            return pb.ReleaseReply(outcome=pb.ReleaseReply.OTHER_GENERATION)
        del self.held[name_of(request.key)]
        how = " as foreign" if request.is_foreign_use else ""
        self.diary.append(f"release {held.address}{how}")
        return pb.ReleaseReply(outcome=pb.ReleaseReply.RELEASED, address=held.address)

    def get(self, key: pb.AttachmentKey, *, deadline_monotonic: float) -> pb.Allocation | None:
        self._enter("get")
        return self.held.get(name_of(key))

    def list(self, *, deadline_monotonic: float) -> pb.ListReply:
        self._enter("list")
        reply = pb.ListReply(allocations=self.held.values())
        self.after_list()
        return reply


class FakeBegun(Begun):
    """A wiring that has begun; makes no pair before `wire`."""

    def __init__(self, netns_cookie: int) -> None:
        self.netns_cookie = netns_cookie

    def make_pair(self, wish: PairWish) -> None:
        pass

    def list_rules(self) -> None:
        pass

    def discard_pair(self) -> None:
        pass


class FakeDatapath:
    """Links by key; `script` raises on wire or unwire."""

    def __init__(self, diary: list[str]) -> None:
        self.diary = diary
        self.links: dict[str, str] = {}
        self.branches: dict[str, Branch] = {}
        self.script: dict[str, list[DatapathError | None]] = {}
        self.during_wire: Callable[[], None] = lambda: None
        self.cookie = 7
        self.missing: tuple[str, ...] = ()
        self.macs_asked: list[str] = []

    def _enter(self, name: str) -> None:
        queue = self.script.get(name, [])
        error = queue.pop(0) if queue else None
        if error is not None:
            self.diary.append(f"{name} refused")
            raise error

    def netns_cookie(self, netns_fd: int) -> int:
        self._enter("cookie")
        return self.cookie

    @contextmanager
    def begun(self, netns_fd: int) -> Iterator[Begun]:
        self._enter("cookie")
        yield FakeBegun(self.cookie)

    def wire(self, netns_fd: int, wiring: PodWiring, begun: Begun) -> Wired:
        self._enter("wire")
        self.during_wire()
        key = _link(wiring.container_id, wiring.ifname)
        self.links[key] = _words(wiring.addresses)
        how = f"mark {wiring.mark}"
        if wiring.branch is not None:
            self.branches[key] = wiring.branch.branch
            how = f"VLAN {wiring.branch.branch.vlan_id}"
        self.diary.append(f"wire {_words(wiring.addresses)} {how}")
        return self._wired()

    def inspect(self, netns_fd: int, wiring: PodWiring) -> Wired | None:
        is_there = self.links.get(_link(wiring.container_id, wiring.ifname)) == _words(
            wiring.addresses
        )
        return self._wired() if is_there else None

    def check(self, netns_fd: int, wiring: PodWiring, *, pod_mac: str = "") -> tuple[str, ...]:
        self._enter("check")
        self.macs_asked.append(pod_mac)
        is_there = self.links.get(_link(wiring.container_id, wiring.ifname)) == _words(
            wiring.addresses
        )
        return self.missing if is_there else ("the link is gone", *self.missing)

    def has_link(
        self, container_id: str, ifname: str, pod_namespace: str, pod_name: str, veth_prefix: str
    ) -> bool:
        self._enter("has_link")
        return _link(container_id, ifname) in self.links

    def find_branch(
        self, container_id: str, ifname: str, pod_namespace: str, pod_name: str, veth_prefix: str
    ) -> Branch | None:
        return self.branches.get(_link(container_id, ifname))

    def unwire(
        self,
        container_id: str,
        ifname: str,
        pod_namespace: str,
        pod_name: str,
        veth_prefix: str,
        addresses: tuple[Address, ...],
    ) -> bool:
        self._enter("unwire")
        self.diary.append(f"unwire {_words(addresses)} of {pod_name}")
        self.branches.pop(_link(container_id, ifname), None)
        return self.links.pop(_link(container_id, ifname), None) is not None

    def unwire_peers(
        self,
        container_id: str,
        ifname: str,
        pod_namespace: str,
        pod_name: str,
        addresses: tuple[Address, ...],
    ) -> bool:
        self._enter("unwire")
        self.diary.append(f"unwire peer's {_words(addresses)} of {pod_namespace}.{pod_name}")
        return True

    def _stands(self, wiring: PodWiring) -> bool:
        link = self.links.get(_link(wiring.container_id, wiring.ifname))
        return link == _words(wiring.addresses)

    def _wired(self) -> Wired:
        return Wired(
            host_ifname="eni123",
            host_ifindex=9,
            host_mac="02:00:00:00:00:01",
            pod_mac="0a:58:0a:00:00:05",
            netns_cookie=self.cookie,
        )


def name_of(key: pb.AttachmentKey) -> str:
    """The container, with the interface where it is not the usual one."""
    return _link(key.container_id, key.ifname)


def _link(container_id: str, ifname: str) -> str:
    return container_id if ifname == "eth0" else f"{container_id}/{ifname}"


def _words(addresses: tuple[Address, ...]) -> str:
    return " and ".join(map(str, addresses)) or "nothing"


class Bench:
    """A Verbs on fakes; `diary` is what happened, in order."""

    def __init__(
        self,
        policies: Policies | None = None,
        own_enis: OwnEnis | None = None,
        pod_mtu: PodMtu | None = None,
    ) -> None:
        self.diary: list[str] = []
        self.pod_mtu = pod_mtu or PodMtu(9001)
        self.ipam = FakeIpam(self.diary)
        self.datapath = FakeDatapath(self.diary)
        self.delegates = FakeDelegates(self.diary)
        self.queued: list[AttachmentKey | None] = []
        self.living: set[int] = set()
        self.verbs = Verbs(
            self.ipam,
            self.datapath,
            delegates=self.delegates,
            queue_release=self._queue,
            finish_queued=lambda key: None,
            living=lambda: self.living,
            policies=policies,
            own_enis=own_enis,
            pod_mtu=self.pod_mtu,
        )

    def _queue(self, request: CniRequest) -> None:
        self.diary.append("queue")
        self.queued.append(request.key)

    def request(self, verb: Verb = Verb.ADD) -> CniRequest:
        return CniRequest(
            verb=verb,
            key=KEY,
            netns_path="/run/netns/p",
            allows_own_netns=False,
            pod=Pod(namespace="default", name="web", uid="u"),
            network_name="net",
            cni_version="1.0.0",
            config=PluginConfig(),
            prev_result=None,
        )

    def attempt(self) -> Attempt:
        return Attempt(KEY, self.ipam, deadline_monotonic=time.monotonic() + 10)

    def result(self, attempt: Attempt | None = None) -> Result:
        return self.verbs.add(self.request(), 3, attempt or self.attempt())

    def add(self, attempt: Attempt | None = None) -> Mapping[str, str]:
        result = self.result(attempt)
        return {"address": str(result.ips[0].address), "host": result.interfaces[0].name}

    def delete(self) -> None:
        self.verbs.delete(self.request(Verb.DEL), KEY, deadline_monotonic=time.monotonic() + 5)

    def recall(self) -> None:
        self.verbs.recall(deadline_monotonic=time.monotonic() + 5)

    def check(self, prev_result: Mapping[str, object] | None, seconds: float = 5.0) -> None:
        request = replace(self.request(Verb.CHECK), prev_result=prev_result)
        self.verbs.check(request, KEY, 3, deadline_monotonic=time.monotonic() + seconds)

    def collect(self, *valid: str, network: str = "net") -> None:
        keys = frozenset(AttachmentKey(container_id=cid, ifname="eth0") for cid in valid)
        request = replace(
            self.request(Verb.GC), key=None, network_name=network, valid_attachments=keys
        )
        self.verbs.collect(request, deadline_monotonic=time.monotonic() + 5)

    def refused(self, call: Callable[[], object]) -> CniError:
        with pytest.raises(CniError) as caught:
            call()
        return caught.value


def hold_for_peer(bench: Bench, *, netns_cookie: int = 0, **changed: object) -> pb.Allocation:
    """An allocation that was taken over from aws-node; `ifname` is of its key."""
    key = pb.AttachmentKey(container_id="c1", ifname=str(changed.pop("ifname", "eth0")))
    values: dict[str, object] = {
        "addresses": ["10.0.0.9"],
        "pod_namespace": "shop",
        "pod_name": "old",
        "network_name": "aws-cni",
    }
    made = pb.Allocation(
        key=key,
        netns_cookie=netns_cookie,
        wired_by=PEER,
        **(values | changed),  # type: ignore[arg-type]
    )
    made.address = made.addresses[0]
    bench.ipam.held[name_of(key)] = made
    return made
