"""The soak in its short form; `scripts/bench/soak` is the long one."""

from __future__ import annotations

import pytest

from providers.sim.lab import Lab
from tests.node.kill_driver import SEED_VARIABLE
from tests.runtime.soak import Soak, Victim
from tests.runtime.world import World, any_launcher

SANDBOXES = 40
KILLS = 5
"""At least; 15 to 30 are usual."""


@pytest.mark.netns
@pytest.mark.slow
def test_random_kills_of_everything_leave_ledger_kernel_cloud_and_runtime_in_agreement(
    cloud: Lab, seed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    world = World(
        cloud, "rt-soak", launcher=any_launcher(), env={"WARM_IP_TARGET": "8"}, is_tapped=False
    )
    try:
        world.start()
        soak = Soak(world, seed=seed)
        soak.run(SANDBOXES)
        world.agree()
        soak.end_all()
        world.agree()
    finally:
        world.close()
    with capsys.disabled():
        print(f"\nsoak: {SEED_VARIABLE}={seed}\n{soak.report()}")
    assert soak.tally.violations == []
    assert soak.tally.started == SANDBOXES == soak.tally.ended
    assert soak.tally.kills.total() >= KILLS
    assert len(set(soak.tally.kills) & set(Victim)) > 1
