from __future__ import annotations

from collections.abc import Iterator

import pytest
from azure.mgmt.network import NetworkManagementClient

from tests.sim.azure.network_lab import NetworkLab, network_client
from tests.sim.lab import serve


@pytest.fixture
def network() -> NetworkLab:
    return NetworkLab()


@pytest.fixture
def sdk(network: NetworkLab) -> Iterator[NetworkManagementClient]:
    """The unmodified SDK, over HTTP on loopback."""
    door, url = serve(network.arm.respond)
    client = network_client(network, url)
    try:
        yield client
    finally:
        client.close()
        network.arm.stop()
        door.close()
