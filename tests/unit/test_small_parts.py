"""Back-off, key locks, hang-ups and the status screen."""

from __future__ import annotations

import resource
import socket
import threading

import pytest
from cni_shim import settings as shim_settings
from cni_shim.descriptors import allow_descriptors
from cni_shim.hangups import Hangups
from cni_shim.key_locks import KeyLocks
from hypothesis import given
from hypothesis import strategies as st
from ipam_api.v1 import ipam_pb2 as pb

from ipamd.backoff import Backoff
from ipamd.cli.status import screen, table


def test_the_worked_example_of_the_backoff_holds() -> None:
    assert Backoff(first_seconds=2, cap_seconds=60).delay(3, 0.5) == 6.0


@given(st.integers(1, 10_000), st.floats(0, 1, exclude_max=True))
def test_a_delay_stays_between_half_a_step_and_the_cap(failures: int, chance: float) -> None:
    delay = Backoff(first_seconds=0.5, cap_seconds=30).delay(failures, chance)
    assert 0.25 <= delay <= 30


def test_a_key_lock_is_kept_only_while_it_is_used() -> None:
    locks = KeyLocks()
    with (
        locks.held("a", timeout_seconds=1),
        pytest.raises(TimeoutError, match="a"),
        locks.held("a", timeout_seconds=0),
    ):
        raise AssertionError("the lock was taken twice")
    with locks.held("a", timeout_seconds=0):
        pass
    assert locks._locks == {}


def test_it_is_noted_whose_lock_was_let_go() -> None:
    locks = KeyLocks()
    with locks.held("before", timeout_seconds=0):
        pass
    with locks.noting() as noted, locks.held("still held", timeout_seconds=0):
        with locks.held("within", timeout_seconds=0):
            pass
        assert noted == {"within"}
    assert locks._noted is None


def test_a_peer_that_goes_is_noticed_once_and_only_within_the_block() -> None:
    hangups = Hangups()
    ours, theirs = socket.socketpair()
    gone = threading.Event()
    with ours, hangups.watched(ours, gone.set):
        assert not gone.is_set()
        theirs.close()
        assert gone.wait(5)
    assert hangups._callbacks == {}


def test_a_peer_that_goes_is_noticed_after_another_could_not_be_dealt_with() -> None:
    hangups, failed = Hangups(), threading.Event()

    def fail() -> None:
        failed.set()
        raise RuntimeError("can't start new thread")

    for callback, is_called in ((fail, failed), ((gone := threading.Event()).set, gone)):
        ours, theirs = socket.socketpair()
        with ours, hangups.watched(ours, callback):
            theirs.close()
            assert is_called.wait(5)


def test_a_peer_that_stays_is_not_reported() -> None:
    hangups = Hangups()
    ours, theirs = socket.socketpair()
    gone = threading.Event()
    with ours, theirs, hangups.watched(ours, gone.set):
        theirs.send(b"more")
        assert not gone.wait(0.05)


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ((256, 20000), 4096),
        ((256, 1000), 1000),
        ((256, resource.RLIM_INFINITY), 4096),
        ((9000, 20000), 9000),
    ],
    ids=["too low", "not allowed to have more", "any number allowed", "enough"],
)
def test_vpc_cnid_has_files_enough_for_every_thread(
    monkeypatch: pytest.MonkeyPatch, limits: tuple[int, int], expected: int
) -> None:
    now = [limits]
    monkeypatch.setattr(resource, "getrlimit", lambda what: now[0])
    monkeypatch.setattr(resource, "setrlimit", lambda what, wanted: now.append(wanted))
    allow_descriptors()
    assert now[-1] == (expected, limits[1])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("VPC_IPAMD_RUN_DIR", "run"),
        ("VPC_IPAMD_LOG_LEVEL", "loud"),
        ("AWS_VPC_ENI_MTU", "9002"),
        ("AWS_VPC_ENI_MTU", "big"),
        ("VPC_IPAMD_CLOUD", "moon"),
        ("VPC_IPAMD_ROUTING_RULES", "both"),
    ],
)
def test_vpc_cnid_refuses_unusable_settings_by_name(name: str, value: str) -> None:
    with pytest.raises(shim_settings.SettingsError, match=f"{name}='{value}'"):
        shim_settings.load({name: value})


@pytest.mark.parametrize(
    ("environ", "mtu"),
    [
        ({}, 9001),
        ({"VPC_IPAMD_CLOUD": "aws"}, 9001),
        ({"VPC_IPAMD_CLOUD": "azure"}, None),
        ({"VPC_IPAMD_CLOUD": " Azure "}, None),
        ({"VPC_IPAMD_CLOUD": "azure", "AWS_VPC_ENI_MTU": "3900"}, 3900),
        ({"AWS_VPC_ENI_MTU": "1500"}, 1500),
    ],
    ids=["EC2", "EC2 named", "Azure", "Azure in capitals", "Azure, chosen", "EC2, chosen"],
)
def test_the_mtu_of_enis_is_the_clouds_unless_it_is_chosen(
    environ: dict[str, str], mtu: int | None
) -> None:
    assert shim_settings.load(environ).eni_mtu == mtu


def test_columns_are_as_wide_as_their_widest_cell() -> None:
    assert table(("a", "b"), [("long cell", "x")]) == "  a          b\n  long cell  x\n"


def test_the_screen_names_problems_and_the_reason_of_the_last_plan() -> None:
    shown = screen(
        pb.Status(
            version="1",
            pool={"allocated": 2, "available": 3},
            problems=["subnet subnet-1 is exhausted"],
            notes=["one pod cannot be seen"],
            last_plan=pb.PlanStatus(summary="targets met"),
            waiting_allocations=4,
            enis=[pb.EniStatus(eni_id="eni-1", is_primary=True, slots=9)],
        )
    )
    for text in (
        "targets met",
        "! subnet subnet-1 is exhausted",
        "- one pod",
        "4 attachments wait",
        "eni-1",
    ):
        assert text in shown


def test_the_screen_calls_things_by_the_last_part_of_their_path() -> None:
    group = "/subscriptions/00000000-0000-0000-0000-000000000000/resourcegroups/a-group/providers"
    nic = f"{group}/microsoft.network/networkinterfaces/nic0"
    subnet = f"{group}/microsoft.network/virtualnetworks/vnet/subnets/nodes"
    shown = screen(
        pb.Status(
            enis=[
                pb.EniStatus(
                    eni_id=nic, is_primary=True, prefixes=[pb.PrefixStatus(prefix="10.0.0.16/28")]
                )
            ],
            subnets=[pb.SubnetStatus(subnet_id=subnet)],
            last_plan=pb.PlanStatus(actions=[pb.PlannedAction(verb="assign", subject=nic)]),
        )
    )
    assert "subscriptions" not in shown
    assert "nic0 (primary)" in shown
    assert "nodes" in shown


def test_the_screen_says_such_names_in_sentences_too() -> None:
    group = "/subscriptions/0-1/resourceGroups/r(g)/providers/Microsoft.Network"
    subnet = f"{group}/virtualNetworks/v/subnets/pods-1"
    action = pb.PlannedAction(verb="assign", subject="x", error=f"{subnet}: full")
    shown = screen(
        pb.Status(
            problems=[f"subnet {subnet} is exhausted; next try in 3 s"],
            last_plan=pb.PlanStatus(
                summary=f"2 short (in {subnet.lower()}, which is scarce).", actions=[action]
            ),
        )
    )
    assert "! subnet pods-1 is exhausted; next try in 3 s" in shown
    assert "2 short (in pods-1, which is scarce)." in shown
    assert "pods-1: full" in shown
    assert "subscriptions" not in shown
