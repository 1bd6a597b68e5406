"""Daemons and launchers die at every point of every verb, and nothing is lost or doubled."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterator
from random import Random

import pytest

from providers.sim import ping
from providers.sim.lab import Lab
from tests.node.ground import Ground, Site, until
from tests.node.kill_audit import audit, cloud_enis
from tests.node.kill_driver import SEED_VARIABLE, Driver, Killer, Stage, Tally, Victim

VERBS = 200
MOST_VERBS = 800  # should so many not be enough for the kills, something is wrong
KILLS = 80
POINTS = 5
"""Of the nine pairs of a verb and its stage, at least; some windows are too short to be sure of."""

MOST_REFUSED = 8
"""ADDs that failed though their launcher lived, each after half a minute: no use to go on."""
WARM_UP_VERBS = 40
ASSIGN_SECONDS = 1.0
"""As slow as EC2 on a bad day, so that many a kill meets a call that commits after it."""
WORKERS = 4
PODS_EACH = 4  # 16 pods at most: one full ENI and a part of the next


@pytest.fixture
def _quick_hand_overs() -> Iterator[None]:
    """The killer is a thread among busy ones: by default each may keep it waiting for 5 ms, in
    which a whole verb is over."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(0.0001)
    yield
    sys.setswitchinterval(before)


@pytest.mark.netns
@pytest.mark.slow
@pytest.mark.usefixtures("_quick_hand_overs")
@pytest.mark.parametrize("rules", ["grouped", "per-pod"])
def test_kills_at_any_point_lose_nothing_and_double_nothing(
    ground: Ground, lab: Lab, seed: int, rules: str, capsys: pytest.CaptureFixture[str]
) -> None:
    began = time.monotonic()
    site = ground.started(
        env={
            "IP_COOLDOWN_PERIOD": "2",
            "WARM_IP_TARGET": "8",
            "VPC_IPAMD_ROUTING_RULES": rules,
        }
    )
    lab.control.call(
        "set_fault", action="AssignPrivateIpAddresses", kind="latency", seconds=ASSIGN_SECONDS
    )
    driver = Driver(site, workers=WORKERS, pods_each=PODS_EACH, seed=seed)
    driver.run(is_enough=lambda: driver.tally.verbs >= WARM_UP_VERBS or _has_failed(driver.tally))
    usual, warm = driver.usual_seconds(), driver.tally
    driver.stop_all()
    assert not _has_failed(warm), f"without a kill: {warm.failures} {warm.violations}"

    driver.tally = tally = Tally()
    driver.killer = killer = Killer(site, Random(f"{seed}/kills"), usual)
    killer.start()
    driver.run(is_enough=lambda: _is_enough(tally, killer))
    killer.stop()
    driver.killer = None

    with capsys.disabled():
        _print_report(seed, usual, tally, killer, time.monotonic() - began)
    _settle(site, lab, driver)
    assert tally.violations == []
    assert audit(site, lab, driver.live) == []
    assert _unreachable(site, driver) == []
    assert len(killer.kills) >= KILLS
    assert tally.adds_ok >= 0.8 * tally.adds
    assert {kill.victim for kill in killer.kills} == set(Victim)
    assert len(_points(killer)) >= POINTS, "kills are spread over the workflow of both verbs"

    driver.stop_all()
    _settle(site, lab, driver)
    assert audit(site, lab, {}) == []
    assert tally.violations == []


@pytest.mark.netns
@pytest.mark.slow
def test_an_ipamd_that_died_in_a_cloud_call_learns_what_the_call_did_after_its_death(
    ground: Ground, lab: Lab
) -> None:
    """EC2 commits seconds after the first look of the ipamd that follows: only another look, half a
    minute later, can show it."""
    site = ground.site()
    lab.control.call("reset_calls")
    lab.control.call("set_fault", action="AssignPrivateIpAddresses", kind="latency", seconds=3.0)
    site.node.start()
    until(lambda: "AssignPrivateIpAddresses" in lab.control.call("calls"), what="the call")
    site.restart_ipamd()
    until(lambda: site.status()[1].get("is_cloud_answering"), what="the first look")
    assert cloud_enis(site, lab)[0]["addresses"][1:] == [], "the call has had no effect yet"
    until(lambda: cloud_enis(site, lab)[0]["addresses"][1:], what="the late effect")
    until(lambda: audit(site, lab, {}) == [], seconds=45.0, what="agreement with the cloud")
    assert len(site.ledger().addresses) >= 3


def _is_enough(tally: Tally, killer: Killer) -> bool:
    refused = sum(n for reason, n in tally.failures.items() if reason.startswith("ADD: code"))
    if killer.error is not None or tally.verbs >= MOST_VERBS or refused >= MOST_REFUSED:
        return True
    is_spread = len(_points(killer)) >= POINTS
    return tally.verbs >= VERBS and len(killer.kills) >= KILLS and is_spread


def _points(killer: Killer) -> set[tuple[str, Stage]]:
    """The different places that kills hit: which verb, and how far it was."""
    return {(kill.verb, kill.stage) for kill in killer.kills if kill.stage is not Stage.AWAY}


def _has_failed(tally: Tally) -> bool:
    return bool(tally.failures or tally.violations)


def _settle(site: Site, lab: Lab, driver: Driver) -> None:
    """Wait for what still runs: queued DELs, cloud calls, the sweep of leftovers."""
    deadline = time.monotonic() + 45.0
    while audit(site, lab, driver.live) and time.monotonic() < deadline:
        time.sleep(0.2)
    until(lambda: not list((site.node.run_dir / "delete-queue").glob("*,*")), what="empty queue")


def _unreachable(site: Site, driver: Driver) -> list[str]:
    """Pods that were started before some kill and do not work after the last one."""
    assert site.node.identity is not None
    gateway = str(site.node.identity.gateway)
    probes = [
        ping.Probe(netns_path=pod.netns_path, target=gateway, source=address)
        for pod, address in driver.live.values()
    ]
    answers = ping.ping_all(probes, timeout_seconds=2.0)
    return [p.netns_path for p, answer in zip(probes, answers, strict=True) if answer is None]


def _print_report(
    seed: int, usual: dict[str, float], tally: Tally, killer: Killer, seconds: float
) -> None:
    spread = Counter((kill.verb, kill.stage) for kill in killer.kills)
    by_victim = Counter(kill.victim for kill in killer.kills)
    print(f"\nkill test: {SEED_VARIABLE}={seed}, {seconds:.0f} s")
    print(f"  usual time: {', '.join(f'{v} {s * 1000:.1f} ms' for v, s in usual.items())}")
    print(
        f"  verbs {tally.verbs}: {tally.adds} ADD, {tally.adds_ok} of them good "
        f"({100 * tally.adds_ok / max(tally.adds, 1):.0f} %), {tally.dels} DEL, "
        f"{tally.dels_sent_again} DELs sent again"
    )
    print(
        f"  kills that hit a verb in flight: {len(killer.kills)} "
        f"({', '.join(f'{v.value} {n}' for v, n in by_victim.items())}); "
        f"{killer.missed} came after its end"
    )
    for verb in ("ADD", "DEL"):
        for stage in Stage:
            if count := spread[(verb, stage)]:
                print(f"  {verb} {stage.value:28} {count:3} {'#' * count}")
    for reason, count in tally.failures.most_common():
        print(f"  failed {count:3} x {reason}")
    for text in tally.violations:
        print(f"  BROKEN {text}")
