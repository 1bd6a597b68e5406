from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from providers.sim.http_door import Answer, Call, Responder
from tests.sim.azure.judges.names import SUB
from tests.sim.azure.judges.old_sdk import OldSdk
from tests.sim.azure.judges.world import Door, World, open_door


@dataclass(slots=True)
class Switch:
    """Which world answers now."""

    current: Responder | None = None

    def respond(self, call: Call) -> Answer | None:
        return None if self.current is None else self.current(call)


@pytest.fixture(scope="session")
def switch() -> Switch:
    return Switch()


@pytest.fixture(scope="session")
def door(switch: Switch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    door = open_door(tmp_path_factory.mktemp("ca"), switch.respond)
    yield door
    door.close()


@pytest.fixture(scope="session")
def old(door: Door) -> Iterator[OldSdk]:
    """The older SDK, in its process; one for all tests because its import costs 0.3 s."""
    sdk = OldSdk(door.url, door.ca_path, door.credential.token, SUB)
    yield sdk
    sdk.close()


@pytest.fixture
def world(switch: Switch) -> Iterator[World]:
    """A fresh ARM behind the door."""
    world = World()
    switch.current = world.respond
    yield world
    switch.current = None
    world.arm.stop()
