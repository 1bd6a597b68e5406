"""The clouds that the contract suite judges: EC2's provider on the emulator, the memory fake."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from unittest import mock

import pytest

from ipamd.cloud import CloudProvider, InterfaceRequest
from ipamd.model import SubnetId
from providers.aws.config import AwsConfig
from providers.aws.provider import AwsProvider
from providers.sim.ec2 import Emulator
from providers.sim.ec2_state import Delays
from providers.sim.imds import Imds, ImdsSettings
from tests.memory_cloud import MemoryCloud
from tests.sim.lab import Lab, ec2_client, serve


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A provider on a node with an m5.large's limits, and how to use up its subnet."""

    provider: CloudProvider
    leave_free: Callable[[int], None]
    small_subnet: SubnetId

    def request(self, token: str, index: int = 1, addresses: int = 3) -> InterfaceRequest:
        node = self.provider.discover_node()
        return InterfaceRequest(
            token=token,
            subnet_id=node.primary_subnet_id,
            security_group_ids=node.security_group_ids,
            secondary_addresses=addresses,
            device_index=index,
            network_card=0,
            reason="contract",
        )


def memory() -> Iterator[Judged]:
    cloud = MemoryCloud()

    def leave_free(count: int) -> None:
        del cloud.free[count:]

    yield Judged(provider=cloud, leave_free=leave_free, small_subnet=SubnetId("subnet-01"))


def ec2() -> Iterator[Judged]:
    emulator = Emulator(seed=7)
    door, url = serve(emulator.respond)
    imds_door, imds_url = serve(Imds(emulator, ImdsSettings(trusts_names=True)).respond)
    client = ec2_client(url)
    lab = Lab(emulator, None, url, client).build()  # type: ignore[arg-type]  # real time
    emulator.state.delays = Delays(attach_seconds=0.2, detach_seconds=0.2)
    emulator.start_timer()
    lab.node()

    def leave_free(count: int) -> None:
        for _ in range(40):
            surplus = lab.free() - count
            if surplus <= 0:
                return
            lab.eni(secondaries=min(surplus - 1, 20))

    environ = {
        "AWS_ENDPOINT_URL_EC2": url,
        "AWS_EC2_METADATA_SERVICE_ENDPOINT": imds_url,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
    }
    with mock.patch.dict(os.environ, environ):
        provider = AwsProvider(AwsConfig(cluster_name="c1"))
        yield Judged(
            provider=provider,
            leave_free=leave_free,
            small_subnet=SubnetId(lab.small_subnet_id),
        )
        provider.close()
    client.close()
    emulator.stop()
    door.close()
    imds_door.close()


CLOUDS = {"memory": memory, "ec2": ec2}


@pytest.fixture(params=list(CLOUDS))
def cloud(request: pytest.FixtureRequest) -> Iterator[Judged]:
    yield from CLOUDS[request.param]()
