"""The provider makes the same calls on the fleet's account as on the emulated EC2 behind HTTP.

The provider is the same code on both; what is judged is the client and the metadata service that
the fleet puts under it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from ipaddress import IPv4Network
from typing import Any
from unittest import mock

import pytest

from ipamd.api_calls import ApiCall
from ipamd.cloud import AddressChange, CloudProvider, InterfaceRequest
from ipamd.errors import CloudError
from providers.aws.config import AwsConfig
from providers.aws.provider import AwsProvider
from scripts.bench.fleet_sim import puppet
from scripts.bench.fleet_sim.our_cloud import VirtualProvider, waiting_in_virtual_time
from tests.contract.conftest import emulated
from tests.fleet.fleet_world import World, run

Said = dict[str, Any]


def script(provider: CloudProvider) -> Iterator[tuple[str, Any]]:
    """Everything that a node asks of EC2, by name, with what matters of the answer."""
    node = provider.discover_node()
    yield "discover_node", node.instance_type
    limits = provider.limits()
    yield "limits", (limits.max_enis, limits.addresses_per_eni, limits.has_prefixes)
    yield "snapshot", [(e.device_index, e.addresses) for e in provider.snapshot().enis]
    primary = node.primary_eni_id
    own = provider.subnets((node.primary_subnet_id,))
    yield "subnets", [s.is_candidate for s in own if s.subnet_id == node.primary_subnet_id]
    added = provider.apply(AddressChange(eni_id=primary, add=3)).added
    yield "assign addresses", len(added)
    prefixes = provider.apply(AddressChange(eni_id=primary, add_prefixes=2)).added_prefixes
    yield "assign prefixes", [p.prefixlen for p in prefixes]
    yield "a limit", refusal(lambda: provider.apply(AddressChange(eni_id=primary, add=9)))
    provider.apply(AddressChange(eni_id=primary, remove=added))
    yield "unassign addresses", None
    provider.apply(AddressChange(eni_id=primary, remove=added))
    yield "unassign what is gone", None
    provider.apply(AddressChange(eni_id=primary, remove_prefixes=prefixes))
    yield "unassign prefixes", None
    request = InterfaceRequest(
        token="5f000000-fleet",
        subnet_id=node.primary_subnet_id,
        security_group_ids=node.security_group_ids,
        secondary_addresses=4,
        device_index=1,
        network_card=0,
        reason="test",
    )
    made = provider.create_interface(request)
    yield "create an ENI", (len(made.addresses), made.device_index, made.status.value)
    again = provider.create_interface(request)
    yield "create it again", again.eni_id == made.eni_id
    yield "see it", [(e.device_index, len(e.addresses)) for e in provider.snapshot().enis]
    provider.delete_interface(made.eni_id)
    yield "delete it", None
    provider.delete_interface(made.eni_id)
    yield "delete it again", None


def refusal(call: Callable[[], object]) -> str:
    try:
        call()
    except CloudError as e:
        return f"{type(e).__name__} {e.code}"
    return "no refusal"


def played(provider: CloudProvider, calls: Callable[[], list[str]]) -> dict[str, Any]:
    """Each step's answer and the calls that it made."""
    return {name: (answer, calls()) for name, answer in script(provider)}


def on_http() -> dict[str, Any]:
    seen: list[ApiCall] = []

    def calls() -> list[str]:
        found = [c.api for c in seen]
        seen.clear()
        return found

    for cloud in emulated():
        with mock.patch.dict(os.environ, cloud.environ):
            provider = AwsProvider(AwsConfig(), tell=seen.append)
            try:
                return played(provider, calls)
            finally:
                provider.close()
    raise AssertionError("there is one emulator")


def on_the_account() -> dict[str, Any]:
    async def main(world: World) -> dict[str, Any]:
        with (
            mock.patch.object(world.account._chance, "attach_seconds", return_value=0.1),
            mock.patch.object(world.account._chance, "detach_seconds", return_value=0.1),
        ):
            provider = VirtualProvider(world.account, world.instance, AwsConfig())
            return await puppet.run(
                lambda: played(provider, lambda: list(world.calls().elements()))
            )

    with waiting_in_virtual_time():
        return run(main)


@pytest.fixture(scope="module")
def both() -> tuple[dict[str, Any], dict[str, Any]]:
    return on_the_account(), on_http()


def test_both_answer_alike(both: tuple[Said, Said]) -> None:
    ours, real = ({step: answer for step, (answer, _) in said.items()} for said in both)
    assert ours == real


def test_both_meet_the_same_calls(both: tuple[Said, Said]) -> None:
    ours, real = ({step: sorted(calls) for step, (_, calls) in said.items()} for said in both)
    assert ours == real


def test_one_usable_eni_costs_four_calls(both: tuple[Said, Said]) -> None:
    _, calls = both[0]["create an ENI"]
    assert sorted(calls) == [
        "AttachNetworkInterface",
        "CreateNetworkInterface",
        "DescribeNetworkInterfaces",
        "ModifyNetworkInterfaceAttribute",
    ]


def test_a_prefix_of_another_size_is_never_given(both: tuple[Said, Said]) -> None:
    answer, _ = both[0]["assign prefixes"]
    assert answer == [IPv4Network("10.0.0.0/28").prefixlen] * 2
