"""The real EC2 provider of one node, bound to the account in virtual time.

`providers.aws` runs as it is: its calls, budget, waits and error classes. Only what lies outside of
it is replaced: botocore's client, the metadata service, clock and sleep, and what its threads wait
for each other with.
"""

from __future__ import annotations

import asyncio
import random
import threading
from contextlib import AbstractContextManager
from typing import Any, cast
from unittest import mock

from ipamd.api_calls import ApiCall
from ipamd.cloud_child import InProcessCloud
from providers import shared_reads
from providers.aws.client import Ec2
from providers.aws.config import AwsConfig
from providers.aws.imds import Imds
from providers.aws.interfaces import Interfaces
from providers.aws.provider import AwsProvider
from providers.aws.purse import Purse
from providers.aws.subnets import Reservations, Subnets
from providers.shared_reads import SharedReads
from scripts.bench.fleet_sim import puppet
from scripts.bench.fleet_sim.ec2 import Account, Instance
from scripts.bench.fleet_sim.our_client import REGION, Client, Metadata


def waiting_in_virtual_time() -> AbstractContextManager[Any]:
    """To be in force while providers run: who shares a read of another waits on the loop."""
    return cast(
        "AbstractContextManager[Any]", mock.patch.object(shared_reads, "Future", puppet.Future)
    )


class VirtualEc2(Ec2):
    """`Ec2` with the account's client instead of botocore's."""

    def __init__(self, client: Client, purse: Purse) -> None:
        super().__init__(region=lambda: REGION, timeout_seconds=10.0, purse=purse, tell=_nobody)
        self._virtual = client

    def _make(self) -> Any:
        return self._virtual


class VirtualReservations(Reservations):
    """`Reservations`, whose lock is held across a call."""

    def __init__(self, ec2: Ec2, subnets: Subnets) -> None:
        super().__init__(ec2, subnets, asyncio.get_running_loop().time)
        self._lock = cast("Any", puppet.Lock())


class VirtualProvider(AwsProvider):
    """`AwsProvider` put together from the same parts on the loop's clock."""

    def __init__(self, account: Account, instance: Instance, config: AwsConfig) -> None:
        clock = asyncio.get_running_loop().time
        purse = Purse(monotonic=clock, sleep=puppet.sleep, chance=random.random)
        self._config = config
        self._node = None
        self._node_lock = threading.Lock()
        self._imds = cast("Imds", Metadata(account, instance))
        self._reads = SharedReads(clock)
        self._ec2 = VirtualEc2(Client(account, instance), purse)
        self._subnets = Subnets(self._ec2, self._reads, config, self._identity)
        self._interfaces = Interfaces(
            self._ec2,
            self._imds,
            VirtualReservations(self._ec2, self._subnets),
            config,
            identity=self._identity,
            shown=self._eni,
            sleep=puppet.sleep,
            monotonic=clock,
        )


class VirtualCloud(InProcessCloud):
    """The provider as the event loop calls it."""

    def __init__(self, account: Account, instance: Instance, config: AwsConfig) -> None:
        super().__init__(VirtualProvider(account, instance, config))

    async def _call(self, method: str, *arguments: Any, seconds: float | None = None) -> Any:
        del seconds  # nothing hangs here
        return await puppet.run(lambda: getattr(self._provider, method)(*arguments))


def _nobody(call: ApiCall) -> None:
    """The account counts calls itself."""
