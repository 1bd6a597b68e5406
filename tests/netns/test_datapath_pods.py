from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from cni_shim.datapath import messages, names
from cni_shim.datapath.desired import DesiredEni
from cni_shim.datapath.errors import AddressInUse, DatapathError, ForeignInterface
from cni_shim.datapath.families import Address
from cni_shim.datapath.identity import encode_alias
from cni_shim.datapath.messages import VethPair
from cni_shim.datapath.wiring import PodWiring, host_requests, pod_requests, veth_pair

from tests.netns.datapath_lab import BOTH, PRIMARY, SECONDARY, Lab, Netns, open_lab, run, wiring

pytestmark = pytest.mark.netns


@pytest.fixture
def lab() -> Iterator[Lab]:
    with open_lab() as opened:
        opened.host.apply(BOTH)
        yield opened


def unwire(lab: Lab, pod: PodWiring) -> bool:
    return lab.pods.unwire(
        pod.container_id,
        pod.ifname,
        pod.pod_namespace,
        pod.pod_name,
        pod.veth_prefix,
        pod.addresses,
    )


def host_veths() -> list[str]:
    lines = run("ip", "-o", "link", "show", "type", "veth").splitlines()
    ifnames = [line.split(": ")[1].split("@")[0] for line in lines]
    return [ifname for ifname in ifnames if not ifname.startswith("ens")]


def pod_routes() -> str:
    return run("ip", "route", "show", "table", "all", "proto", "119", "scope", "link", "type",
               "unicast").replace("10.0.1.1 dev ens6 table 2 \n", "")  # fmt: skip


@pytest.mark.parametrize("eni", [PRIMARY, SECONDARY], ids=["primary", "secondary"])
def test_a_wired_pod_reaches_the_outside_by_its_own_eni(lab: Lab, eni: DesiredEni) -> None:
    pod, wanted = lab.make_netns(), wiring(mark=eni.mark)
    lab.pods.wire(pod.fd, wanted)
    assert lab.can_reach_outside(pod, eni, wanted.addresses[0])


def test_a_pod_marked_for_the_wrong_eni_is_dropped_by_the_fabric(lab: Lab) -> None:
    pod = lab.make_netns()
    wanted = wiring(mark=0, addresses=(IPv4Address("10.0.1.101"),))
    lab.pods.wire(pod.fd, wanted)
    assert not lab.can_reach_outside(pod, SECONDARY, wanted.addresses[0])


def test_what_was_wired_is_what_inspect_sees(lab: Lab) -> None:
    pod, wanted = lab.make_netns(), wiring()
    wired = lab.pods.wire(pod.fd, wanted)
    assert lab.pods.inspect(pod.fd, wanted) == wired


def test_wiring_twice_leaves_one_link(lab: Lab) -> None:
    pod, wanted = lab.make_netns(), wiring()
    first = lab.pods.wire(pod.fd, wanted)
    second = lab.pods.wire(pod.fd, wanted)
    assert host_veths() == [second.host_ifname]
    assert first.host_ifindex != second.host_ifindex


@pytest.mark.parametrize(
    "damage",
    [
        ("link", "set", "eth0", "down"),
        ("link", "set", "eth0", "mtu", "1500"),
        ("address", "flush", "dev", "eth0"),
        ("route", "delete", "default"),
        ("neighbour", "delete", "169.254.1.1", "dev", "eth0"),
    ],
    ids=["down", "mtu", "address", "route", "neighbour"],
)
def test_inspect_sees_damage_inside_the_pod(lab: Lab, damage: tuple[str, ...]) -> None:
    pod, wanted = lab.make_netns(), wiring()
    lab.pods.wire(pod.fd, wanted)
    pod.ip(*damage)
    assert lab.pods.inspect(pod.fd, wanted) is None


def test_inspect_of_another_namespace_sees_nothing(lab: Lab) -> None:
    pod, other, wanted = lab.make_netns(), lab.make_netns(), wiring()
    lab.pods.wire(pod.fd, wanted)
    assert lab.pods.inspect(other.fd, wanted) is None


def test_a_host_veth_gets_no_ipv6_address(lab: Lab) -> None:
    wired = lab.pods.wire(lab.make_netns().fd, wiring())
    assert "inet6" not in run("ip", "address", "show", "dev", wired.host_ifname)


def build_partly(lab: Lab, pod: Netns, wanted: PodWiring, steps: int) -> None:
    """What a process leaves that is killed after so many messages."""
    pair = veth_pair(
        wanted, host_ifname=wanted.host_ifnames()[0], indexes=(5001, 5002), netns_fd=pod.fd
    )
    alias = encode_alias(wanted.identity(lab.pods.netns_cookie(pod.fd)))
    on_host = [
        messages.create_veth(pair),
        *host_requests(pair, alias, wanted.addresses, has_ipv6=True),
    ]
    in_pod = list(pod_requests(pair, wanted.addresses))
    for request in on_host[:steps]:
        lab.netlink.socket().execute((request,))
    with lab.netlink.pod_socket(pod.fd) as sock:
        for request in in_pod[: max(0, steps - len(on_host))]:
            sock.execute((request,))


@pytest.mark.parametrize("steps", range(1, 11))
def test_a_half_wired_leftover_is_replaced(lab: Lab, steps: int) -> None:
    pod, wanted = lab.make_netns(), wiring()
    build_partly(lab, pod, wanted, steps)
    assert (lab.pods.inspect(pod.fd, wanted) is not None) == (steps == 10)
    lab.pods.wire(pod.fd, wanted)
    assert len(host_veths()) == 1
    assert lab.can_reach_outside(pod, PRIMARY, wanted.addresses[0])


@pytest.mark.parametrize("steps", range(1, 11))
def test_a_half_wired_leftover_is_unwired(lab: Lab, steps: int) -> None:
    pod, wanted = lab.make_netns(), wiring()
    build_partly(lab, pod, wanted, steps)
    assert unwire(lab, wanted)
    assert (host_veths(), pod_routes()) == ([], "")


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_a_leftover_in_another_namespace_is_replaced(lab: Lab, steps: int) -> None:
    wanted = wiring()
    build_partly(lab, lab.make_netns(), wanted, steps)
    pod = lab.make_netns()
    wired = lab.pods.wire(pod.fd, wanted)
    assert host_veths() == [wired.host_ifname]


@pytest.mark.parametrize("step", ["add route", "add neighbour", "set host veth"])
def test_a_refused_step_leaves_nothing(
    lab: Lab, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    serialise = messages.serialise

    def spoil(request: messages.Request, sequence: int, *, ack: bool) -> bytes:
        is_it = request.op.startswith(step)
        broken = replace(request, body=request.body[:4]) if is_it else request
        return serialise(broken, sequence, ack=ack)

    monkeypatch.setattr(messages, "serialise", spoil)
    with pytest.raises(DatapathError, match=step):
        lab.pods.wire(lab.make_netns().fd, wiring())
    assert (host_veths(), pod_routes()) == ([], "")


def test_a_foreign_eth0_is_refused_and_left_alone(lab: Lab) -> None:
    pod = lab.make_netns()
    run("ip", "link", "add", "foreign0", "type", "veth", "peer", "name", "eth0",
        "netns", pod.name)  # fmt: skip
    with pytest.raises(ForeignInterface):
        lab.pods.wire(pod.fd, wiring())
    assert "eth0@" in pod.ip("link", "show")
    assert host_veths() == ["foreign0"]


def test_an_eth0_of_another_attachment_is_foreign(lab: Lab) -> None:
    pod = lab.make_netns()
    lab.pods.wire(pod.fd, wiring(1))
    with pytest.raises(ForeignInterface):
        lab.pods.wire(pod.fd, wiring(2))
    assert lab.pods.inspect(pod.fd, wiring(1)) is not None


def test_a_descriptor_that_is_no_namespace_is_an_error(lab: Lab) -> None:
    fd = os.open("/dev/null", os.O_RDONLY)
    with pytest.raises(DatapathError, match="enter the pod's namespace"):
        lab.pods.wire(fd, wiring())
    os.close(fd)


def test_the_fallback_name_is_used_when_another_sandbox_of_the_pod_has_the_first(lab: Lab) -> None:
    old = wiring(1)
    new = wiring(2, pod_name=old.pod_name)
    lab.pods.wire(lab.make_netns().fd, old)
    wired = lab.pods.wire(lab.make_netns().fd, new)
    assert wired.host_ifname == names.fallback_ifname(
        "eni", container_id=new.container_id, ifname="eth0"
    )


def test_unwiring_one_sandbox_of_a_pod_spares_the_other(lab: Lab) -> None:
    old = wiring(1)
    new, pod = wiring(2, pod_name=old.pod_name), lab.make_netns()
    lab.pods.wire(lab.make_netns().fd, old)
    lab.pods.wire(pod.fd, new)
    assert unwire(lab, old)
    assert lab.can_reach_outside(pod, PRIMARY, new.addresses[0])


def test_an_address_of_another_pod_is_in_use(lab: Lab) -> None:
    wired = lab.pods.wire(lab.make_netns().fd, wiring(1))
    with pytest.raises(AddressInUse, match=wired.host_ifname):
        lab.pods.wire(lab.make_netns().fd, wiring(2, addresses=wiring(1).addresses))
    assert host_veths() == [wired.host_ifname]


@pytest.mark.parametrize(
    "occupy",
    [
        "route add 10.0.0.101 dev ens5 table 5120",
        "route add 10.0.0.101 dev ens5",
        "rule add to 10.0.0.101 lookup main pref 512",
        "rule add from 10.0.0.101 lookup 3 pref 1536",
        "address add 10.0.0.101/32 dev ens5",
    ],
    ids=["pod-table", "main", "rule-to", "rule-from", "node-address"],
)
def test_an_address_that_the_node_uses_is_in_use(lab: Lab, occupy: str) -> None:
    run("ip", *occupy.split())
    with pytest.raises(AddressInUse) as caught:
        lab.pods.wire(lab.make_netns().fd, wiring(1))
    assert caught.value.address == IPv4Address("10.0.0.101")
    assert host_veths() == []


def test_a_route_that_the_check_cannot_see_is_met_when_adding(lab: Lab) -> None:
    run("ip", "rule", "delete", "pref", "512")
    run("ip", "route", "add", "10.0.0.101", "dev", "ens5", "table", "5120")
    with pytest.raises(AddressInUse, match="table 5120"):
        lab.pods.wire(lab.make_netns().fd, wiring(1))
    assert host_veths() == []


def test_unwire_removes_everything_and_says_so_once(lab: Lab) -> None:
    pod, wanted = lab.make_netns(), wiring()
    lab.pods.wire(pod.fd, wanted)
    assert [unwire(lab, wanted), unwire(lab, wanted)] == [True, False]
    assert (host_veths(), pod_routes()) == ([], "")
    assert "eth0" not in pod.ip("link", "show")


def test_unwire_works_after_the_namespace_is_gone(lab: Lab) -> None:
    pod, wanted = lab.make_netns(), wiring()
    lab.pods.wire(pod.fd, wanted)
    run("ip", "netns", "delete", pod.name)  # our descriptor still holds it
    assert unwire(lab, wanted)
    assert host_veths() == []


def test_unwire_finds_the_link_without_the_pods_name(lab: Lab) -> None:
    wanted = wiring()
    lab.pods.wire(lab.make_netns().fd, wanted)
    assert unwire(lab, replace(wanted, pod_name="", pod_namespace="", veth_prefix="veth"))
    assert host_veths() == []


def test_a_late_unwire_spares_the_next_holder_of_the_address(lab: Lab) -> None:
    pod, old = lab.make_netns(), wiring(1)
    new = wiring(2, addresses=old.addresses)
    lab.pods.wire(pod.fd, new)
    run("ip", "rule", "add", "to", f"{new.addresses[0]}", "lookup", "5120", "pref", "512",
        "proto", "119")  # fmt: skip
    assert not unwire(lab, old)
    assert str(new.addresses[0]) in run("ip", "rule")
    assert lab.can_reach_outside(pod, PRIMARY, new.addresses[0])


def test_unwire_removes_rules_of_ours_and_spares_others(lab: Lab) -> None:
    wanted = wiring()
    lab.pods.wire(lab.make_netns().fd, wanted)
    for source in (("proto", "119"), ("proto", "static")):
        run(
            "ip",
            "rule",
            "add",
            "from",
            f"{wanted.addresses[0]}",
            "lookup",
            "3",
            "pref",
            "1536",
            *source,
        )
    assert unwire(lab, wanted)
    found = [line for line in run("ip", "rule").splitlines() if str(wanted.addresses[0]) in line]
    assert len(found) == 1
    assert "proto static" in found[0]


def test_the_name_can_be_used_again_at_once(lab: Lab) -> None:
    pod, wanted = lab.make_netns(), wiring()
    for _ in range(30):
        lab.pods.wire(pod.fd, wanted)
        assert unwire(lab, wanted)
    assert host_veths() == []


def test_unwire_ends_by_the_acknowledgement_when_no_notice_comes(lab: Lab) -> None:
    wanted = wiring()
    lab.pods.wire(lab.make_netns().fd, wanted)
    lab.notices.close()
    assert unwire(lab, wanted)
    assert host_veths() == []


def test_many_pods_at_once_all_work(lab: Lab) -> None:
    pods = [(lab.make_netns(), wiring(n)) for n in range(1, 17)]
    with ThreadPoolExecutor(16) as workers:
        wired = list(workers.map(lambda pair: lab.pods.wire(pair[0].fd, pair[1]), pods))
        assert sorted(w.host_ifname for w in wired) == sorted(host_veths())
        assert all(lab.can_reach_outside(pod, PRIMARY, w.addresses[0]) for pod, w in pods)
        assert all(workers.map(lambda pair: unwire(lab, pair[1]), pods))
    assert (host_veths(), pod_routes()) == ([], "")


def test_sandboxes_of_one_pod_wired_at_once_get_distinct_names(lab: Lab) -> None:
    pods = [(lab.make_netns(), wiring(n, pod_name="same")) for n in range(1, 9)]
    with ThreadPoolExecutor(8) as workers:
        wired = list(workers.map(lambda pair: lab.pods.wire(pair[0].fd, pair[1]), pods))
    assert len({w.host_ifname for w in wired}) == 8


def test_observe_names_the_attachment_of_every_address(lab: Lab) -> None:
    wanted = wiring(1)
    wired = lab.pods.wire(lab.make_netns().fd, wanted)
    (seen,) = lab.pods.observe()
    assert (seen.address, seen.link_name, seen.ifindex) == (
        wanted.addresses[0],
        wired.host_ifname,
        wired.host_ifindex,
    )
    assert (seen.container_id, seen.ifname, seen.netns_cookie, seen.network_name) == (
        wanted.container_id,
        "eth0",
        wired.netns_cookie,
        "vpc",
    )
    assert (seen.pod_namespace, seen.pod_name, seen.is_ours) == ("default", "web-1", True)


def test_observe_sees_addresses_of_another_agent(lab: Lab) -> None:
    run("ip", "rule", "add", "to", "10.0.0.55", "lookup", "main", "pref", "512")
    (seen,) = lab.pods.observe()
    assert (seen.address, seen.link_name, seen.is_ours) == (IPv4Address("10.0.0.55"), "", False)


@pytest.mark.parametrize("steps", [1, 2, 3, 9])
def test_a_leftover_is_removed_as_observed(lab: Lab, steps: int) -> None:
    build_partly(lab, lab.make_netns(), wiring(), steps)
    (seen,) = lab.pods.observe()
    assert lab.pods.remove_leftover(seen)
    assert lab.pods.observe() == ()
    assert not lab.pods.remove_leftover(seen)


def test_a_leftover_that_changed_since_is_spared(lab: Lab) -> None:
    pod, wanted = lab.make_netns(), wiring()
    lab.pods.wire(pod.fd, wanted)
    (seen,) = lab.pods.observe()
    again = lab.pods.wire(pod.fd, wanted)
    assert not lab.pods.remove_leftover(seen)
    assert host_veths() == [again.host_ifname]


def test_a_link_that_a_wire_is_working_on_is_spared(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: list[bool] = []

    def look_in_between(
        pair: VethPair, addresses: tuple[Address, ...]
    ) -> tuple[messages.Request, ...]:
        answers.extend(lab.pods.remove_leftover(seen) for seen in lab.pods.observe())
        return pod_requests(pair, addresses)

    monkeypatch.setattr("cni_shim.datapath.pods.pod_requests", look_in_between)
    pod, wanted = lab.make_netns(), wiring()
    lab.pods.wire(pod.fd, wanted)
    assert answers == [False]
    assert lab.can_reach_outside(pod, PRIMARY, wanted.addresses[0])


def test_a_stray_route_of_ours_is_removed_and_the_link_spared(lab: Lab) -> None:
    run("ip", "route", "add", "10.0.0.77", "dev", "ens5", "table", "5120", "proto", "119")
    (seen,) = lab.pods.observe()
    assert lab.pods.remove_leftover(seen)
    assert pod_routes() == ""
    assert "ens5" in run("ip", "link")


def test_the_worker_is_back_in_the_nodes_namespace(lab: Lab) -> None:
    before = Path("/proc/thread-self/ns/net").readlink()
    lab.pods.netns_cookie(lab.make_netns().fd)
    assert Path("/proc/thread-self/ns/net").readlink() == before


def test_failing_to_come_back_ends_the_process(lab: Lab) -> None:
    pod = lab.make_netns()
    script = (
        "from cni_shim.datapath.netlink import HostNetlink\n"
        "netlink = HostNetlink()\n"
        "netlink.close()  # the way home is lost\n"
        f"netlink.netns_cookie({pod.fd})\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], pass_fds=(pod.fd,), capture_output=True, check=False
    )
    assert done.returncode == -signal.SIGABRT
    assert b"cannot return from a pod's namespace" in done.stderr


def test_cookies_tell_namespaces_apart(lab: Lab) -> None:
    cookies = {lab.pods.netns_cookie(lab.make_netns().fd) for _ in range(4)}
    assert len(cookies) == 4
