"""A pod comes while another link has the name that its host veth is to have."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from cni_shim.datapath import messages, names
from cni_shim.datapath.wiring import PodWiring

from tests.netns.datapath_lab import BOTH, PRIMARY, Lab, open_lab, run, wiring

pytestmark = pytest.mark.netns

OLD = wiring(1, pod_name="web-0")
NEW = wiring(2, pod_name="web-0")
PREFERRED = NEW.host_ifnames()[0]
FALLBACK = names.fallback_ifname("eni", container_id=NEW.container_id, ifname="eth0")


@pytest.fixture
def lab() -> Iterator[Lab]:
    with open_lab() as opened:
        opened.host.apply(BOTH)
        yield opened


class Ledger:
    """Whom the ledger knows, and which keys were asked for and held meanwhile."""

    def __init__(self, *known: PodWiring, is_away: bool = False) -> None:
        self.known = {w.container_id for w in known}
        self.is_away = is_away
        self.asked: list[str] = []
        self.locked: set[str] = set()

    @contextmanager
    def unheld(self, container_id: str, ifname: str) -> Iterator[bool]:
        assert ifname == "eth0"
        self.asked.append(container_id)
        self.locked.add(container_id)
        yield not self.is_away and container_id not in self.known
        self.locked.remove(container_id)


def links_asked(sent: list[messages.Request]) -> int:
    """How often every link was listed."""
    return sum(
        request.kind == messages.RTM_GETLINK and bool(request.flags & messages.NLM_F_DUMP)
        for request in sent
    )


@contextmanager
def listening() -> Iterator[list[messages.Request]]:
    """Every message that is sent to the kernel within the block."""
    sent: list[messages.Request] = []
    serialise = messages.serialise

    def note(request: messages.Request, sequence: int, *, ack: bool) -> bytes:
        sent.append(request)
        return serialise(request, sequence, ack=ack)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(messages, "serialise", note)
        yield sent


def host_veths() -> list[str]:
    lines = run("ip", "-o", "link", "show", "type", "veth").splitlines()
    found = [line.split(": ")[1].split("@")[0] for line in lines]
    return sorted(ifname for ifname in found if not ifname.startswith("ens"))


def test_another_sandbox_of_the_pod_that_is_alive_keeps_the_name(lab: Lab) -> None:
    ledger = Ledger(OLD, NEW)
    lab.pods.ask_ledger(ledger.unheld)
    old = lab.make_netns()
    lab.pods.wire(old.fd, OLD)
    assert lab.pods.wire(lab.make_netns().fd, NEW).host_ifname == FALLBACK
    assert lab.pods.check(old.fd, OLD) == ()
    assert ledger.asked == [OLD.container_id]


def test_a_leftover_that_the_ledger_does_not_know_gives_the_name_away(lab: Lab) -> None:
    ledger = Ledger(NEW)
    lab.pods.ask_ledger(ledger.unheld)
    old = lab.make_netns()
    lab.pods.wire(old.fd, OLD)
    pod = lab.make_netns()
    assert lab.pods.wire(pod.fd, NEW).host_ifname == PREFERRED
    assert host_veths() == [PREFERRED]
    assert lab.can_reach_outside(pod, PRIMARY, NEW.addresses[0])


def test_the_leftover_goes_under_the_lock_of_its_own_key(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger, locked = Ledger(NEW), []
    lab.pods.ask_ledger(ledger.unheld)
    lab.pods.wire(lab.make_netns().fd, OLD)
    remove = lab.pods._remover.remove

    def note(ifindex: int) -> None:
        locked.append(set(ledger.locked))
        remove(ifindex)

    monkeypatch.setattr(lab.pods._remover, "remove", note)
    lab.pods.wire(lab.make_netns().fd, NEW)
    assert locked == [{OLD.container_id}]


@pytest.mark.parametrize("has_ledger", [True, False], ids=["ipamd is away", "nobody to ask"])
def test_without_the_ledgers_word_nothing_is_removed(lab: Lab, *, has_ledger: bool) -> None:
    if has_ledger:
        lab.pods.ask_ledger(Ledger(is_away=True).unheld)
    lab.pods.wire(lab.make_netns().fd, OLD)
    assert lab.pods.wire(lab.make_netns().fd, NEW).host_ifname == FALLBACK
    assert host_veths() == sorted([PREFERRED, FALLBACK])


def test_a_foreign_link_keeps_its_name(lab: Lab) -> None:
    ledger = Ledger(NEW)
    lab.pods.ask_ledger(ledger.unheld)
    run("ip", "link", "add", PREFERRED, "type", "bridge")
    assert lab.pods.wire(lab.make_netns().fd, NEW).host_ifname == FALLBACK
    assert "bridge" in run("ip", "-d", "link", "show", PREFERRED)
    assert ledger.asked == []


def test_a_link_whose_key_had_to_be_hashed_keeps_its_name(lab: Lab) -> None:
    ledger = Ledger(NEW)
    lab.pods.ask_ledger(ledger.unheld)
    lab.pods.wire(lab.make_netns().fd, wiring(1, pod_name="web-0", container_id="c" * 300))
    assert lab.pods.wire(lab.make_netns().fd, NEW).host_ifname == FALLBACK
    assert ledger.asked == []


def test_after_the_old_sandbox_went_the_name_is_free_for_the_next(lab: Lab) -> None:
    for pod in (OLD, NEW):
        lab.pods.wire(lab.make_netns().fd, pod)
    for pod in (OLD, NEW):
        assert lab.pods.unwire(pod.container_id, "eth0", "default", "web-0", "eni", pod.addresses)
    again = wiring(3, pod_name="web-0")
    assert lab.pods.wire(lab.make_netns().fd, again).host_ifname == PREFERRED


def test_an_add_asks_the_kernel_these_things_and_lists_no_link(lab: Lab) -> None:
    pod = lab.make_netns()
    with listening() as sent:
        lab.pods.wire(pod.fd, NEW)
    assert [request.op.split(" eni")[0] for request in sent] == [
        "find route to 10.0.0.102",
        "list rules",  # a dozen, unless each pod has its own
        "create veth",
        "set host veth alias and up",
        "add neighbour 10.0.0.102",
        "add route 10.0.0.102/32 table 5120",
        "set link 1 up",
        "add address 10.0.0.102/32",
        f"set link {pod_end(pod.name)} up",
        "add route 169.254.1.1/32 table 254",
        "add route 0.0.0.0/0 table 254",
        "add neighbour 169.254.1.1",
        f"get link {host_end(PREFERRED)}",
    ]


def pod_end(name: str) -> str:
    return run("ip", "-n", name, "-o", "link", "show", "eth0").split(":")[0]


def host_end(name: str) -> str:
    return run("ip", "-o", "link", "show", name).split(":")[0]


def test_no_way_to_a_name_lists_every_link(lab: Lab) -> None:
    lab.pods.ask_ledger(Ledger(OLD, NEW).unheld)
    lab.pods.wire(lab.make_netns().fd, OLD)
    pod = lab.make_netns()
    with listening() as sent:
        lab.pods.wire(pod.fd, NEW)
    assert links_asked(sent) == 0


def test_a_del_of_a_pod_that_stands_lists_neither_links_nor_routes_nor_rules(lab: Lab) -> None:
    lab.pods.settle({}, frozenset({0, 2}))
    lab.pods.wire(lab.make_netns().fd, NEW)
    with listening() as sent:
        lab.pods.unwire(NEW.container_id, "eth0", "default", "web-0", "eni", NEW.addresses)
    assert [request.op.split()[0:2] for request in sent] == [
        ["get", "link"],
        ["get", "link"],
        ["delete", "link"],
    ]
