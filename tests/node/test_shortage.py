"""No addresses to be had: the subnet is full, or the cloud throttles, hangs or is gone."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from providers.sim.lab import Lab
from tests.node.ground import Ground, Site, code_of, details_of, until

FULL_SUBNET = 1
SLOWEST_ADD_SECONDS = 0.5
"""Generous for a busy machine: an ADD takes 0.01 s, one that waits for the cloud more than 1 s."""

pytestmark = pytest.mark.netns


@contextmanager
def full_subnet(lab: Lab, subnet_id: str) -> Iterator[None]:
    """Other tenants take every free address, and give all of it back at the end."""
    lab.control.call("fill_subnet", subnet_id=subnet_id, leave_free=0)
    try:
        yield
    finally:
        lab.control.call("free_addresses", subnet_id=subnet_id, count=1000)


def use_up(site: Site) -> None:
    """Start pods until nothing is available any more."""
    for number in range(len(site.ledger().in_state("available"))):
        site.add(f"full-{number}")
    assert site.ledger().in_state("available") == {}


def test_an_add_in_a_full_subnet_waits_names_the_subnet_and_works_once_an_address_is_free(
    ground: Ground, lab: Lab
) -> None:
    assert lab.vpc is not None
    subnet_id = lab.vpc.subnet_ids[FULL_SUBNET]
    site = ground.started(subnet=FULL_SUBNET)
    with full_subnet(lab, subnet_id):
        use_up(site)
        failed = site.runtime_with(deadline_ms=4000).start_pod("too-many")
        assert code_of(failed.add) == 11
        assert subnet_id in details_of(failed.add)
        assert failed.add.seconds > 2.0, "it waited for an address"
        assert site.traces(failed.pod) == []
        assert f"subnet {subnet_id} is exhausted" in site.problems()

        with ThreadPoolExecutor() as pool:
            waiting = pool.submit(site.runtime.start_pod, "patient")
            until(lambda: site.status()[1]["waiting_allocations"] == 1, what="the waiting ADD")
            lab.control.call("free_addresses", subnet_id=subnet_id, count=4)
            started = waiting.result()
        assert started.add.is_ok, started.add
        assert site.can_reach_router(started.pod, started.add.addresses[0])


def throttled(lab: Lab) -> Callable[[], object]:
    lab.control.call("set_fault", action="*", kind="throttle")
    return lambda: lab.control.call("clear_faults")


def unanswered(lab: Lab) -> Callable[[], object]:
    lab.control.call("set_fault", action="*", kind="timeout_before", seconds=1.0)
    return lambda: lab.control.call("clear_faults")


def stopped(lab: Lab) -> Callable[[], object]:
    os.kill(lab.cloud.pid, signal.SIGSTOP)
    return lambda: os.kill(lab.cloud.pid, signal.SIGCONT)


@pytest.mark.parametrize("broken", [throttled, unanswered, stopped], ids=lambda f: f.__name__)
def test_pods_that_the_pool_can_serve_do_not_notice_a_broken_cloud(
    ground: Ground, lab: Lab, broken: Callable[[Lab], Callable[[], object]]
) -> None:
    site = ground.started(env={"WARM_IP_TARGET": "5"})
    site.settle(available=5)
    mend = broken(lab)
    try:
        began = time.monotonic()
        calls = [site.runtime.start_pod(f"pod-{number}") for number in range(5)]
        assert all(c.add.is_ok for c in calls), [str(c.add) for c in calls]
        assert max(c.add.seconds for c in calls) < SLOWEST_ADD_SECONDS
        assert all(site.can_reach_router(c.pod, c.add.addresses[0]) for c in calls)
        assert site.runtime.stop_pod(calls[0].pod)[0].seconds < SLOWEST_ADD_SECONDS
        assert time.monotonic() - began < 5.0
    finally:
        mend()
    site.settle(available=5)  # the daemon grows its pool again, by itself
    until(lambda: site.status()[0] == 0, what="an ipamctl status without problems")


def test_an_add_on_an_empty_pool_tells_what_the_cloud_said(ground: Ground, lab: Lab) -> None:
    site = ground.started(env={"WARM_IP_TARGET": "2"})
    site.settle(available=2)
    lab.control.call("set_fault", action="*", kind="throttle")
    use_up(site)
    failed = site.runtime_with(deadline_ms=3000).start_pod("too-many")
    assert code_of(failed.add) == 11
    assert "RequestLimitExceeded" in details_of(failed.add)
    assert "RequestLimitExceeded" in site.problems()
    lab.control.call("clear_faults")
    assert site.runtime.start_pod("later").add.is_ok
