"""What containerd calls at each event of a pod's life, and what is left of the pod each time."""

from __future__ import annotations

import pytest

from tests.runtime.world import World

pytestmark = pytest.mark.netns


def test_a_sandbox_starts_with_one_add_and_its_address_works(world: World) -> None:
    sandbox = world.cri.run("web")
    (add,) = world.tap.calls(sandbox.sandbox_id)
    assert str(add) == "ADD netns"
    assert world.site.ledger().allocations[sandbox.sandbox_id].address == sandbox.ip
    assert world.can_reach_router(sandbox)
