"""What nobody set, by how slow the cloud is; and that what somebody set always wins."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipamd import derived, status
from ipamd.cloud import Capabilities
from ipamd.derived import derive
from ipamd.live_config import LiveConfig
from ipamd.model import AddressState
from ipamd.settings import Settings
from tests import builders as b
from tests.engine import Engine
from tests.memory_cloud import MemoryCloud
from tests.unit.test_engine import play, settle
from tests.virtual_time import VirtualLoop

TARGETS = ("WARM_ENI_TARGET", "WARM_IP_TARGET", "MINIMUM_IP_TARGET", "WARM_PREFIX_TARGET")


def cloud(write: float, interval: float = 0.0, *, has_prefixes: bool = True) -> Capabilities:
    return Capabilities(
        can_create_interfaces=False,
        has_prefixes=has_prefixes,
        replaces_whole_interface=True,
        write_seconds=write,
        write_interval_seconds=interval,
    )


EC2 = Capabilities(can_create_interfaces=True, has_prefixes=True, replaces_whole_interface=False)
NIC, SCALE_SET = cloud(5.0), cloud(60.0, 15.0)


def azure(**environ: str) -> Settings:
    return b.settings(VPC_IPAMD_CLOUD="azure", **environ)


def targets(settings: Settings) -> tuple[bool, int, int, int, int]:
    """(prefixes, WARM_ENI, WARM_IP, MINIMUM_IP, WARM_PREFIX) that hold."""
    return (
        settings.use_prefixes,
        settings.warm_enis,
        settings.warm_addresses,
        settings.minimum_addresses,
        settings.warm_prefixes,
    )


CASES = {
    "a NIC": (NIC, {}, (False, 1, 16, 0, 0)),
    "a scale set": (SCALE_SET, {}, (True, 1, 0, 0, 2)),
    "a slow NIC": (cloud(20.0), {}, (True, 1, 0, 0, 2)),
    "a scale set without prefixes": (
        cloud(60.0, 15.0, has_prefixes=False),
        {},
        (False, 1, 32, 0, 0),
    ),
    "prefixes switched off": (
        SCALE_SET,
        {"ENABLE_PREFIX_DELEGATION": "false"},
        (False, 1, 32, 0, 0),
    ),
    "prefixes switched on": (NIC, {"ENABLE_PREFIX_DELEGATION": "true"}, (True, 1, 0, 0, 1)),
    "WARM_IP_TARGET": (SCALE_SET, {"WARM_IP_TARGET": "5"}, (True, 1, 5, 0, 0)),
    "MINIMUM_IP_TARGET": (SCALE_SET, {"MINIMUM_IP_TARGET": "40"}, (True, 1, 0, 40, 0)),
    "WARM_IP_TARGET on a NIC": (NIC, {"WARM_IP_TARGET": "5"}, (False, 1, 5, 0, 0)),
    "WARM_IP_TARGET 0": (SCALE_SET, {"WARM_IP_TARGET": "0"}, (True, 1, 0, 0, 2)),
    "WARM_IP_TARGET 0 on a NIC": (NIC, {"WARM_IP_TARGET": "0"}, (False, 1, 0, 0, 0)),
    "MINIMUM_IP_TARGET 0": (NIC, {"MINIMUM_IP_TARGET": "0"}, (False, 1, 16, 0, 0)),
    "prefixes switched on and WARM_IP_TARGET 0": (
        NIC,
        {"ENABLE_PREFIX_DELEGATION": "true", "WARM_IP_TARGET": "0"},
        (True, 1, 0, 0, 1),
    ),
    "WARM_PREFIX_TARGET": (SCALE_SET, {"WARM_PREFIX_TARGET": "1"}, (True, 1, 0, 0, 1)),
    "WARM_PREFIX_TARGET on a NIC": (NIC, {"WARM_PREFIX_TARGET": "3"}, (True, 1, 0, 0, 3)),
    "WARM_PREFIX_TARGET 0": (SCALE_SET, {"WARM_PREFIX_TARGET": "0"}, (False, 1, 32, 0, 0)),
    "WARM_ENI_TARGET": (SCALE_SET, {"WARM_ENI_TARGET": "1"}, (False, 1, 0, 0, 0)),
}


@pytest.mark.parametrize("case", CASES)
def test_only_what_nobody_set_is_derived(case: str) -> None:
    able, environ, expected = CASES[case]
    assert targets(derive(azure(**environ), able).settings) == expected


def test_what_was_derived_is_said_and_from_what() -> None:
    assert derive(azure(), SCALE_SET).sentences == (
        "VPC_IPAMD_MAX_PODS 250: the most that AKS allows",
        "ENABLE_PREFIX_DELEGATION true: derived from 60 s per write, one in 15 s",
        "WARM_PREFIX_TARGET 2: derived from 60 s per write, one in 15 s",
    )
    assert derive(azure(WARM_PREFIX_TARGET="1", VPC_IPAMD_MAX_PODS="30"), NIC).sentences == (
        "ENABLE_PREFIX_DELEGATION true: WARM_PREFIX_TARGET is set",
    )
    assert derive(azure(VPC_IPAMD_MAX_PODS="30"), NIC).sentences == (
        "WARM_IP_TARGET 16: derived from 5 s per write",
    )


def test_nothing_is_derived_where_writes_take_no_time() -> None:
    assert derive(b.settings(), EC2) == derived.Derived(settings=b.settings(), sentences=())


def test_max_pods_is_known_before_the_cloud_has_answered() -> None:
    made = derive(azure(), None)
    assert (made.settings.max_pods, targets(made.settings)) == (250, (False, 1, 0, 0, 0))
    assert derive(azure(VPC_IPAMD_MAX_PODS="30"), None).settings.max_pods == 30


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "ENABLE_PREFIX_DELEGATION": st.sampled_from(["true", "false"]),
            **{name: st.integers(0, 50).map(str) for name in TARGETS},
        },
    ),
    st.sampled_from([NIC, SCALE_SET, cloud(20.0), cloud(600.0, 600.0), EC2]),
)
def test_an_explicit_value_always_holds_and_what_is_idle_is_bounded(
    environ: dict[str, str], able: Capabilities
) -> None:
    before = azure(**environ)
    after = derive(before, able).settings
    held = dict(zip(("ENABLE_PREFIX_DELEGATION", *TARGETS), targets(after), strict=True))
    was = dict(zip(("ENABLE_PREFIX_DELEGATION", *TARGETS), targets(before), strict=True))
    assert {n: held[n] for n in environ} == {n: was[n] for n in environ}
    changed = {n for n in held if held[n] != was[n]}
    assert changed <= before.unset_targets
    assert "WARM_ENI_TARGET" not in changed, "it would mean 255 addresses"
    sizes = {"WARM_IP_TARGET": 1, "WARM_PREFIX_TARGET": 16}
    idle = [held[name] * sizes[name] for name in changed & sizes.keys()]
    assert all(16 <= addresses <= derived.IDLE_ADDRESSES for addresses in idle)
    assert len(idle) <= 1
    assert not (after.use_prefixes and not before.use_prefixes) or any(targets(after)[2:])


def test_the_targets_file_counts_as_set_and_its_end_gives_the_derived_value_back(
    tmp_path: Path,
) -> None:
    path = tmp_path / "targets"
    config = LiveConfig(azure(VPC_IPAMD_TARGETS_FILE=str(path)))
    config.learn(SCALE_SET)
    assert targets(config.settings) == (True, 1, 0, 0, 2)
    path.write_text("WARM_IP_TARGET=7\nVPC_IPAMD_MAX_PODS=30\n")
    config.refresh()
    assert targets(config.settings) == (True, 1, 7, 0, 0)
    assert config.settings.max_pods == 30
    path.unlink()
    config.refresh()
    assert targets(config.settings) == (True, 1, 0, 0, 2)
    assert len(config.derived) == 3


def test_a_node_of_a_slow_cloud_comes_up_with_what_was_derived_and_says_so(
    tmp_path: Path,
) -> None:
    memory = MemoryCloud(addresses_per_eni=256, max_enis=1)
    memory.able = SCALE_SET

    async def scenario(engine: Engine, loop: VirtualLoop) -> None:
        await settle()
        assert engine.count(AddressState.AVAILABLE) == 32
        assert engine.cloud.calls["apply"] == 1
        message = status.build(
            engine.keeper.ledger,
            engine.reconciler,
            waiting=0,
            reports={},
            reported_boottime=0.0,
            now=loop.time(),
        )
        assert dict(message.targets) == {"WARM_PREFIX_TARGET": "2"}
        assert "WARM_PREFIX_TARGET 2: derived from 60 s per write, one in 15 s" in message.notes

    play(tmp_path, scenario, cloud=memory, VPC_IPAMD_CLOUD="azure")
