"""What CHECK asks of the kernel: what is missing is said, what others added is not."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import pytest
from cni_shim.datapath import messages
from cni_shim.datapath.wiring import PodWiring

from tests.netns.datapath_lab import BOTH, SECONDARY, Lab, Netns, open_lab, run, wiring

pytestmark = pytest.mark.netns

WANTED = wiring(1, mark=SECONDARY.mark)


@pytest.fixture
def lab() -> Iterator[Lab]:
    with open_lab() as opened:
        opened.host.apply(BOTH)
        yield opened


@pytest.fixture
def pod(lab: Lab) -> Netns:
    return lab.make_netns()


def test_a_wired_pod_misses_nothing(lab: Lab, pod: Netns) -> None:
    lab.pods.wire(pod.fd, WANTED)
    assert lab.pods.check(pod.fd, WANTED) == ()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("link set HOST down", r"host veth eni\w+ is down"),
        ("link set HOST group 0x76630000", r"group 0x76630000, not 0x76630002"),
        ("link set HOST mtu 1400", r"MTU 1400, less than the pod's 9001"),
        ("link set HOST alias other", r"there is no host veth of the attachment"),
        ("route delete 10.0.1.101 table 5120", r"no route of the host leads to 10.0.1.101 over"),
        ("route replace 10.0.1.101 dev ens5 table 5120", r"no route of the host leads to"),
        ("rule delete pref 512", r"no route of the host leads to 10.0.1.101"),
    ],
)
def test_damage_on_the_host_is_said(lab: Lab, pod: Netns, damage: str, said: str) -> None:
    wired = lab.pods.wire(pod.fd, WANTED)
    run("ip", *damage.replace("HOST", wired.host_ifname).split())
    assert any(re.search(said, sentence) for sentence in lab.pods.check(pod.fd, WANTED))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("link set eth0 down", "eth0 in the pod is down"),
        ("link delete eth0", "there is no interface eth0 in the pod"),
        ("link set eth0 address 02:00:00:00:00:99", "MAC 02:00:00:00:00:99, not 0a:58:0a:00:01:65"),
        ("address flush dev eth0", "eth0 in the pod does not have address 10.0.1.101"),
        ("route delete default", "the pod has no route to 0.0.0.0/0 by 169.254.1.1 on eth0"),
        ("route delete 169.254.1.1", "the pod has no route to 169.254.1.1/32 on eth0"),
        ("neighbour delete 169.254.1.1 dev eth0", "no permanent neighbour entry for 169.254.1.1"),
    ],
)
def test_damage_in_the_pod_is_said(lab: Lab, pod: Netns, damage: str, said: str) -> None:
    lab.pods.wire(pod.fd, WANTED)
    pod.ip(*damage.split())
    assert said in "; ".join(lab.pods.check(pod.fd, WANTED))


def test_another_address_than_the_wired_one_is_missed_on_both_sides(lab: Lab, pod: Netns) -> None:
    lab.pods.wire(pod.fd, WANTED)
    other = wiring(2, mark=SECONDARY.mark)
    said = lab.pods.check(pod.fd, replace(WANTED, addresses=other.addresses))
    assert [s for s in said if "no route of the host" in s]
    assert [s for s in said if "does not have address 10.0.1.102" in s]


def test_another_sandbox_of_the_key_has_nothing_of_it(lab: Lab, pod: Netns) -> None:
    lab.pods.wire(lab.make_netns().fd, WANTED)
    assert len(lab.pods.check(pod.fd, WANTED)) == 2


@pytest.mark.parametrize(
    "addition",
    [
        "address add 10.9.9.9/24 dev eth0",
        "route add 10.8.0.0/16 via 169.254.1.1",
        "link set eth0 mtu 1400",
        "link set lo mtu 1400",
        "rule add pref 100 from 10.0.1.101 lookup 77",
        "neighbour add 10.9.9.1 lladdr 02:00:00:00:00:01 dev eth0",
    ],
)
def test_what_later_plugins_do_is_no_fault(lab: Lab, pod: Netns, addition: str) -> None:
    lab.pods.wire(pod.fd, WANTED)
    pod.ip(*addition.split())
    assert lab.pods.check(pod.fd, WANTED) == ()


def test_a_queueing_discipline_of_bandwidth_is_no_fault(lab: Lab, pod: Netns) -> None:
    wired = lab.pods.wire(pod.fd, WANTED)
    run("tc", "qdisc", "add", "dev", wired.host_ifname, "root", "pfifo", "limit", "100")
    assert lab.pods.check(pod.fd, WANTED) == ()


def test_a_route_that_a_later_plugin_set_anew_is_no_fault(lab: Lab, pod: Netns) -> None:
    lab.pods.wire(pod.fd, WANTED)
    pod.ip("route", "replace", "default", "via", "169.254.1.1", "dev", "eth0", "proto", "static")
    assert lab.pods.check(pod.fd, WANTED) == ()


def test_the_mac_that_the_final_result_names_is_the_right_one(lab: Lab, pod: Netns) -> None:
    wired = lab.pods.wire(pod.fd, WANTED)
    pod.ip("link", "set", "eth0", "address", "02:00:00:00:00:99")
    # With the MAC the kernel drops every neighbour entry, permanent ones too: the pod is cut off.
    (said,) = lab.pods.check(pod.fd, WANTED, pod_mac="02:00:00:00:00:99")
    assert "no permanent neighbour entry for 169.254.1.1" in said
    pod.ip("neighbour", "replace", "169.254.1.1", "lladdr", wired.host_mac, "dev", "eth0",
           "nud", "permanent")  # fmt: skip
    assert lab.pods.check(pod.fd, WANTED, pod_mac="02:00:00:00:00:99") == ()
    assert lab.pods.check(pod.fd, WANTED, pod_mac="02:00:00:00:00:98") != ()


@pytest.mark.parametrize("prefix", ["eni", "veth"])
def test_the_host_end_is_found_whatever_the_config_says_of_its_name(
    lab: Lab, pod: Netns, prefix: str
) -> None:
    lab.pods.wire(pod.fd, WANTED)
    now = replace(WANTED, veth_prefix=prefix, pod_name="", network_name="renamed", mtu=1500)
    assert lab.pods.check(pod.fd, now) == ()


def kinds_asked(lab: Lab, pod: Netns, wanted: PodWiring) -> Counter[str]:
    """The messages that a CHECK sends, by their first words."""
    seen: Counter[str] = Counter()
    serialise = messages.serialise

    def count(request: messages.Request, sequence: int, *, ack: bool) -> bytes:
        seen[" ".join(request.op.split()[:2])] += 1
        return serialise(request, sequence, ack=ack)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(messages, "serialise", count)
        assert lab.pods.check(pod.fd, wanted) == ()
    return seen


def test_a_check_asks_the_host_for_single_things_only(lab: Lab, pod: Netns) -> None:
    lab.pods.wire(pod.fd, WANTED)
    assert kinds_asked(lab, pod, WANTED) == {
        "get link": 2,  # the pod's end by name, the host's by index
        "find route": 1,
        "list addresses": 1,
        "list routes": 1,
        "list neighbours": 1,
    }
