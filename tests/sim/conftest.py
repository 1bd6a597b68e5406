from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from providers.sim.ec2 import Emulator
from providers.sim.http_door import Answer, Call, Responder
from tests.sim.lab import Lab, ManualClock, ec2_client, serve


@dataclass(slots=True)
class Switch:
    """The one server and client of all tests; each test puts an emulator of its own behind it."""

    url: str = ""
    client: Any = None
    current: Responder | None = None

    def respond(self, call: Call) -> Answer | None:
        return None if self.current is None else self.current(call)


@pytest.fixture(scope="session")
def switch() -> Iterator[Switch]:
    switch = Switch()
    door, switch.url = serve(switch.respond)
    switch.client = ec2_client(switch.url)
    yield switch
    switch.client.close()
    door.close()


@pytest.fixture
def lab(switch: Switch) -> Iterator[Lab]:
    clock = ManualClock()
    emulator = Emulator(seed=7, clock=clock)
    switch.current = emulator.respond
    try:
        yield Lab(emulator, clock, switch.url, switch.client).build()
    finally:
        switch.current = None
        emulator.stop()
