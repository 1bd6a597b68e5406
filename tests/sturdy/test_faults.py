"""What clouds, disks and neighbours do to a node, in virtual time, with every invariant looked at
after each step. Pods come and go throughout; at the end nothing is leaked and every pod has an
address.

EC2's codes pass through the provider's own table (providers.aws.errors), so that a scenario names
what EC2 says and not how we call it.
"""

from __future__ import annotations

import asyncio
import itertools
import sqlite3
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from ipamd.cloud import AddressChange, AddressOutcome, CloudSnapshot, EniStatus
from ipamd.errors import CloudError, Denied, StoreError, Throttled, Transient
from ipamd.model import AddressState, EniId, SubnetId
from ipamd.pool.ledger import Change
from providers.aws.errors import classify
from tests import builders as b
from tests import virtual_time
from tests.memory_cloud import AsyncMemoryCloud, MemoryCloud
from tests.memory_vpc import MemorySubnet
from tests.sturdy.world import Steps, World, new_store

Hurt = Callable[[World], Coroutine[None, None, None]]
PREFIX = {"ENABLE_PREFIX_DELEGATION": "true", "WARM_PREFIX_TARGET": "1"}
TARGETS = {"WARM_IP_TARGET": "2"}
LOST = Transient("no answer")
FULL_TEXT = "There aren't sufficient free Ipv4 addresses or prefixes"


def ec2(code: str, message: str = "", status: int = 400) -> CloudError:
    """The error that the provider makes of an EC2 answer."""
    return classify(code, message, status)(f"{code}: {message}", code=code)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """`hurt` runs beside the pods' coming and going, from the first moment on."""

    hurt: Hurt
    environ: dict[str, str] = field(default_factory=lambda: dict(TARGETS))
    cloud: Callable[[], MemoryCloud] = MemoryCloud
    expects: Callable[[World], None] = lambda world: None
    pods: int = 14


async def life(world: World, pods: int) -> None:
    """Pods one by one, a third of them go, as many come again, in bursts of three."""
    await asyncio.sleep(5.0)
    async with asyncio.TaskGroup() as group:
        for n in range(pods):
            group.create_task(world.add(f"p{n}"))
            await asyncio.sleep(2.0)
    for n in range(pods // 3):
        world.delete(f"p{n}")
    await asyncio.sleep(20.0)
    for n in range(0, pods // 3, 3):
        burst = (world.add(f"q{m}") for m in range(n, min(n + 3, pods // 3)))
        await asyncio.gather(*burst)
        await asyncio.sleep(10.0)
    for n in range(pods // 3, pods):
        world.delete(f"p{n}")


async def play(scenario: Scenario, directory: Path) -> World:
    environ = {k: v.format(directory=directory) for k, v in scenario.environ.items()}
    world = World(new_store(directory, Steps()), AsyncMemoryCloud(scenario.cloud()), **environ)
    async with world.running():
        hurting = asyncio.create_task(scenario.hurt(world))
        await life(world, scenario.pods)
        await hurting
        await world.settle()
        scenario.expects(world)
    return world


def refusing(method: str, error: CloudError, *, when: str = "before", times: int = 3) -> Hurt:
    """The method fails so many times in a row, from the middle of the growth on."""

    async def hurt(world: World) -> None:
        await asyncio.sleep(12.0)
        world.cloud.fail(method, error, when=when, times=times)

    return hurt


def for_seconds(method: str, error: CloudError, seconds: float, *, start: float = 12.0) -> Hurt:
    """The method fails for a time."""

    async def hurt(world: World) -> None:
        await asyncio.sleep(start)
        until = asyncio.get_running_loop().time() + seconds
        world.cloud.fail(method, error, times=10_000, until=until)

    return hurt


CODES: dict[str, tuple[str, str, int]] = {
    "RequestLimitExceeded": ("RequestLimitExceeded", "", 503),
    "Throttling": ("Throttling", "", 400),
    "InsufficientFreeAddressesInSubnet": ("InsufficientFreeAddressesInSubnet", "", 400),
    "InvalidParameterValue, no space": ("InvalidParameterValue", FULL_TEXT, 400),
    "PrivateIpAddressLimitExceeded": ("PrivateIpAddressLimitExceeded", "", 400),
    "AttachmentLimitExceeded": ("AttachmentLimitExceeded", "", 400),
    "NetworkInterfaceLimitExceeded": ("NetworkInterfaceLimitExceeded", "", 400),
    "UnauthorizedOperation": ("UnauthorizedOperation", "", 403),
    "AuthFailure": ("AuthFailure", "", 401),
    "ExpiredToken": ("ExpiredToken", "", 400),
    "InvalidNetworkInterfaceID.NotFound": ("InvalidNetworkInterfaceID.NotFound", "", 400),
    "InvalidAttachmentID.NotFound": ("InvalidAttachmentID.NotFound", "", 400),
    "InvalidInstanceID.NotFound": ("InvalidInstanceID.NotFound", "", 400),
    "InvalidSubnetID.NotFound": ("InvalidSubnetID.NotFound", "", 400),
    "InvalidGroup.NotFound": ("InvalidGroup.NotFound", "", 400),
    "IncorrectState": ("IncorrectState", "", 400),
    "InvalidNetworkInterface.InUse": ("InvalidNetworkInterface.InUse", "", 400),
    "OperationNotPermitted": ("OperationNotPermitted", "", 400),
    "InvalidParameterValue": ("InvalidParameterValue", "something else", 400),
    "InternalError": ("InternalError", "", 500),
    "ServiceUnavailable": ("ServiceUnavailable", "", 503),
    "an unknown code": ("NoSuchCode", "", 400),
    "an unknown 500": ("NoSuchCode", "", 500),
}

METHODS = ("apply", "create_interface", "delete_interface", "snapshot", "subnets")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("code", CODES)
def test_a_code_of_ec2(code: str, method: str, tmp_path: Path) -> None:
    scenario = Scenario(hurt=refusing(method, ec2(*CODES[code])))
    world = virtual_time.run(lambda loop: play(scenario, tmp_path))
    assert world.checks > 20, "the invariants were looked at"


async def nothing(world: World) -> None:
    """The disturbance is in the cloud from the start."""


async def lagging(world: World) -> None:
    world.cloud.lag_seconds = 10.0
    await asyncio.sleep(300.0)
    world.cloud.lag_seconds = 0.0


async def attach_is_lost(world: World) -> None:
    await asyncio.sleep(6.0)
    world.cloud.cloud.lose_attach(3)


async def an_eni_vanishes_from_view(world: World) -> None:
    """Describe calls (and IMDS) lose a secondary ENI for a minute; pods use it meanwhile."""
    await asyncio.sleep(25.0)
    memory = world.cloud.cloud
    whole = memory.snapshot

    def without() -> CloudSnapshot:
        seen = whole()
        return replace(seen, enis=tuple(e for e in seen.enis if e.is_primary))

    memory.snapshot = without  # type: ignore[method-assign]
    world.reconciler.look_soon()
    await asyncio.sleep(60.0)
    memory.snapshot = whole  # type: ignore[method-assign]


async def the_subnet_fills_up(world: World) -> None:
    await asyncio.sleep(15.0)
    free = world.cloud.cloud.free
    taken, free[:] = list(free), []
    await asyncio.sleep(200.0)
    free.extend(taken)


def a_tiny_subnet() -> MemoryCloud:
    return MemoryCloud(IPv4Network("10.0.0.0/27"), max_enis=8)


def no_aligned_block() -> MemoryCloud:
    cloud = MemoryCloud()
    cloud.vpc.subnets[b.SUBNET].fragment()
    return cloud


async def blocks_become_free_later(world: World) -> None:
    await asyncio.sleep(120.0)
    subnet = world.cloud.cloud.vpc.subnets[b.SUBNET]
    held = world.cloud.cloud.assigned() | {e.primary_address for e in world.enis()}
    subnet.free[:] = [a for a in list(subnet.cidr)[4:-1] if a not in held]


async def someone_unassigns_by_hand(world: World) -> None:
    await asyncio.sleep(18.0)
    ledger = world.keeper.ledger
    idle = next(a for a in ledger.in_state(AddressState.AVAILABLE))
    world.cloud.cloud.steal(idle.address)
    world.reconciler.look_soon()


async def someone_assigns_by_hand(world: World) -> None:
    await asyncio.sleep(18.0)
    memory = world.cloud.cloud
    eni = memory.enis[b.PRIMARY]
    added = memory.vpc.subnets[b.SUBNET].take(1)
    room = 9 - len(eni.addresses)
    if room:
        memory.enis[b.PRIMARY] = replace(eni, addresses=eni.addresses + added)
    world.reconciler.look_soon()


async def a_foreign_eni_is_attached(world: World) -> None:
    """A controller of somebody else attaches an ENI at the index that we would take next."""
    await asyncio.sleep(8.0)
    memory = world.cloud.cloud
    made = memory._new_eni(EniId("eni-ff"), b.SUBNET)
    memory.enis[made.eni_id] = replace(
        made, status=EniStatus.ATTACHED, device_index=1, is_managed=False, interface_type="trunk"
    )


async def the_disk_is_full(world: World) -> None:
    await asyncio.sleep(16.0)
    store = world.keeper._store
    whole = type(store).commit

    def full(change: Change) -> None:
        raise StoreError("database or disk is full")

    store.commit = full  # type: ignore[method-assign]
    await asyncio.sleep(60.0)
    store.commit = whole.__get__(store)  # type: ignore[method-assign]
    assert isinstance(store._db, sqlite3.Connection)


async def the_answer_comes_after_the_next_look(world: World) -> None:
    await asyncio.sleep(10.0)
    world.cloud.delay_seconds = 45.0
    await asyncio.sleep(200.0)
    world.cloud.delay_seconds = 0.2


async def unassigns_are_lost_and_their_repeats_throttled(world: World) -> None:
    """Describe lags, too, so that the look between the two shows what is gone already."""
    plain = world.cloud.cloud.apply
    removals = itertools.count()

    def apply(change: AddressChange) -> AddressOutcome:
        if not change.remove:
            return plain(change)
        if next(removals) % 2:
            raise Throttled("slow down")
        plain(change)
        raise LOST

    world.cloud.cloud.apply = apply  # type: ignore[method-assign]
    world.cloud.lag_seconds = 10.0
    await asyncio.sleep(400.0)
    world.cloud.cloud.apply = plain  # type: ignore[method-assign]
    world.cloud.lag_seconds = 0.0
    assert next(removals) > 1


async def a_deletion_stops_half_way(world: World) -> None:
    """Detaching is allowed and deleting is not: the ENI hangs loose, refused as a whole."""
    memory = world.cloud.cloud
    plain = memory.delete_interface

    def delete(eni_id: EniId) -> None:
        memory.enis[eni_id] = replace(
            memory.enis[eni_id], status=EniStatus.AVAILABLE, device_index=-1
        )
        raise Denied("UnauthorizedOperation: DeleteNetworkInterface")

    memory.delete_interface = delete  # type: ignore[method-assign]
    await asyncio.sleep(900.0)
    memory.delete_interface = plain  # type: ignore[method-assign]


def a_second_subnet() -> MemoryCloud:
    cloud = MemoryCloud()
    del cloud.free[4:]
    cloud.vpc.add(MemorySubnet(SubnetId("subnet-02"), IPv4Network("10.0.9.0/24")))
    return cloud


def a_second_large_subnet() -> MemoryCloud:
    cloud = MemoryCloud()
    cloud.vpc.add(MemorySubnet(SubnetId("subnet-02"), IPv4Network("10.0.9.0/24")))
    return cloud


def an_excluded_subnet() -> MemoryCloud:
    cloud = MemoryCloud()
    cloud.vpc.subnets[b.SUBNET].is_excluded = True
    cloud.vpc.subnets[b.SUBNET].is_candidate = False
    cloud.vpc.add(MemorySubnet(SubnetId("subnet-02"), IPv4Network("10.0.9.0/24")))
    return cloud


def only_on(subnet: str) -> Callable[[World], None]:
    def check(world: World) -> None:
        ledger = world.keeper.ledger
        used = {ledger.enis[n.eni_id].subnet_id for n in ledger.allocations.values()}
        assert used == {subnet}

    return check


def single_addresses_are_pods_only(world: World) -> None:
    rows = world.keeper.ledger.addresses.values()
    assert {a.state for a in rows if a.prefix is None} <= {AddressState.ALLOCATED}
    assert any(a.prefix is not None for a in rows), "prefixes came back"


def served_within(seconds: float) -> Callable[[World], None]:
    def check(world: World) -> None:
        slow = {k: p.got_after for k, p in world.pods.items() if (p.got_after or 0.0) > seconds}
        assert not slow

    return check


ENICONFIG = """
apiVersion: crd.k8s.amazonaws.com/v1alpha1
kind: ENIConfig
metadata: {name: default}
spec: {subnet: subnet-02}
"""


async def the_eniconfig_comes_late(world: World) -> None:
    path = Path(world.environ["VPC_IPAMD_ENICONFIG_FILE"])
    await asyncio.sleep(90.0)
    path.write_text(ENICONFIG)  # noqa: ASYNC240 - virtual time stands still meanwhile


async def targets_change(world: World) -> None:
    path = Path(world.environ["VPC_IPAMD_TARGETS_FILE"])
    await asyncio.sleep(30.0)
    path.write_text("WARM_IP_TARGET=6\n")  # noqa: ASYNC240


async def a_subnet_is_excluded_for_a_while(world: World) -> None:
    """Somebody tags the subnet that all ENIs are in, and takes the tag away again."""
    subnet = world.cloud.cloud.vpc.subnets[b.SUBNET]
    await asyncio.sleep(20.0)
    for is_excluded in (True, False):
        subnet.is_excluded, subnet.is_candidate = is_excluded, not is_excluded
        world.reconciler.look_soon()
        await asyncio.sleep(150.0)


async def the_eniconfig_moves_to_another_subnet(world: World) -> None:
    path = Path(world.environ["VPC_IPAMD_ENICONFIG_FILE"])
    path.write_text(ENICONFIG.replace("subnet-02", "subnet-01"))  # noqa: ASYNC240
    await asyncio.sleep(10.0)
    path.write_text(ENICONFIG)  # noqa: ASYNC240
    await asyncio.sleep(22.0)
    used = {e.subnet_id for e in world.keeper.ledger.enis.values()}
    assert used == {"subnet-01", "subnet-02"}, "the first stays, the next is made in the other"


def targets_in_turn(*texts: str) -> Hurt:
    """This node's targets become each of these in turn, 40 s apart."""

    async def hurt(world: World) -> None:
        path = Path(world.environ["VPC_IPAMD_TARGETS_FILE"])
        for text in texts:
            await asyncio.sleep(40.0)
            path.write_text(text)  # noqa: ASYNC240

    return hurt


def six_are_warm(world: World) -> None:
    assert world.keeper.ledger.count(AddressState.AVAILABLE) == 6


SCENARIOS: dict[str, Scenario] = {
    "a time-out before an assign commits": Scenario(hurt=refusing("apply", LOST)),
    "a time-out after an assign commits": Scenario(hurt=refusing("apply", LOST, when="after")),
    "a time-out before a creation commits": Scenario(
        hurt=refusing("create_interface", LOST), environ={}
    ),
    "a time-out after a creation commits": Scenario(
        hurt=refusing("create_interface", LOST, when="after"), environ={}
    ),
    "a time-out after a prefix was assigned": Scenario(
        hurt=refusing("apply", LOST, when="after"), environ=PREFIX, pods=40
    ),
    "a time-out before a prefix was assigned": Scenario(
        hurt=refusing("apply", LOST), environ=PREFIX, pods=40
    ),
    "a time-out before a deletion commits": Scenario(hurt=refusing("delete_interface", LOST)),
    "a time-out after a deletion commits": Scenario(
        hurt=refusing("delete_interface", LOST, when="after")
    ),
    "unassigns are lost and their repeats throttled": Scenario(
        hurt=unassigns_are_lost_and_their_repeats_throttled
    ),
    "a deletion detaches and is refused": Scenario(hurt=a_deletion_stops_half_way, environ={}),
    "every look times out for five minutes": Scenario(hurt=for_seconds("snapshot", LOST, 300.0)),
    "no call answers for two minutes": Scenario(hurt=for_seconds("*", LOST, 120.0)),
    "the metadata service is down at the start": Scenario(
        hurt=for_seconds("discover_node", LOST, 60.0, start=0.0)
    ),
    "Describe lags by ten seconds": Scenario(hurt=lagging),
    "Describe lags by ten seconds, with prefixes": Scenario(hurt=lagging, environ=PREFIX, pods=40),
    "an attach is answered and does not happen": Scenario(hurt=attach_is_lost, environ={}),
    "an ENI is lost from view for a minute": Scenario(hurt=an_eni_vanishes_from_view, environ={}),
    "the subnet fills up and frees again": Scenario(hurt=the_subnet_fills_up),
    "the subnet fills up, with prefixes": Scenario(
        hurt=the_subnet_fills_up, environ=PREFIX, pods=40
    ),
    "a subnet of 27 addresses": Scenario(hurt=nothing, cloud=a_tiny_subnet, pods=18),
    "no aligned /28, ever": Scenario(hurt=nothing, cloud=no_aligned_block, environ=PREFIX),
    "no aligned /28 at first": Scenario(
        hurt=blocks_become_free_later,
        cloud=no_aligned_block,
        environ=PREFIX,
        expects=single_addresses_are_pods_only,
    ),
    "InsufficientCidrBlocks three times": Scenario(
        hurt=refusing("apply", ec2("InsufficientCidrBlocks")), environ=PREFIX, pods=40
    ),
    "a type without prefixes": Scenario(
        hurt=nothing, cloud=lambda: MemoryCloud(has_prefixes=False), environ=PREFIX
    ),
    "throttling for five minutes": Scenario(hurt=for_seconds("*", Throttled("slow down"), 300.0)),
    "throttling never stops a pod that the pool can serve": Scenario(
        hurt=for_seconds("*", Throttled("slow down"), 300.0),
        environ={"WARM_IP_TARGET": "12", "MAX_ENI": "2"},
        pods=9,
        expects=served_within(0.5),
    ),
    "max pods of eight": Scenario(
        hurt=nothing, environ={"VPC_IPAMD_MAX_PODS": "8", "WARM_IP_TARGET": "5"}, pods=7
    ),
    "max pods of twenty, with prefixes": Scenario(
        hurt=nothing, environ={"VPC_IPAMD_MAX_PODS": "20", **PREFIX}, pods=18
    ),
    "an address is unassigned by hand": Scenario(hurt=someone_unassigns_by_hand),
    "an address is assigned by hand": Scenario(hurt=someone_assigns_by_hand),
    "somebody attaches a trunk ENI": Scenario(hurt=a_foreign_eni_is_attached, environ={}),
    "the disk is full for a minute": Scenario(hurt=the_disk_is_full),
    "calls take longer than the looks": Scenario(hurt=the_answer_comes_after_the_next_look),
    "another subnet takes over": Scenario(hurt=nothing, cloud=a_second_subnet),
    "another subnet takes over, with prefixes": Scenario(
        hurt=nothing, cloud=a_second_subnet, environ=PREFIX, pods=40
    ),
    "the primary's subnet is excluded by tag": Scenario(
        hurt=nothing, cloud=an_excluded_subnet, expects=only_on("subnet-02")
    ),
    "the ENIConfig comes late": Scenario(
        hurt=the_eniconfig_comes_late,
        cloud=an_excluded_subnet,
        environ={
            "AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG": "true",
            "VPC_IPAMD_ENICONFIG_FILE": "{directory}/late.yaml",
            **TARGETS,
        },
        expects=only_on("subnet-02"),
    ),
    "a subnet is excluded for a while": Scenario(
        hurt=a_subnet_is_excluded_for_a_while, cloud=a_second_large_subnet
    ),
    "the ENIConfig moves to another subnet": Scenario(
        hurt=the_eniconfig_moves_to_another_subnet,
        cloud=a_second_large_subnet,
        environ={
            "AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG": "true",
            "VPC_IPAMD_ENICONFIG_FILE": "{directory}/moving.yaml",
            "WARM_IP_TARGET": "3",
        },
    ),
    "MAX_ENI and max pods sink below what is there": Scenario(
        hurt=targets_in_turn("VPC_IPAMD_MAX_PODS=5\n", "MAX_ENI=1\nVPC_IPAMD_MAX_PODS=16\n", ""),
        environ={"VPC_IPAMD_TARGETS_FILE": "{directory}/targets", "VPC_IPAMD_MAX_PODS": "20"},
    ),
    "the targets turn from ENIs to addresses and back": Scenario(
        hurt=targets_in_turn("WARM_IP_TARGET=1\n", "MINIMUM_IP_TARGET=20\n", "", "MAX_ENI=2\n"),
        environ={"VPC_IPAMD_TARGETS_FILE": "{directory}/targets"},
    ),
    "this node's targets change while it runs": Scenario(
        hurt=targets_change,
        environ={"VPC_IPAMD_TARGETS_FILE": "{directory}/targets", **TARGETS},
        expects=six_are_warm,
    ),
}


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_fault(name: str, tmp_path: Path) -> None:
    world = virtual_time.run(lambda loop: play(SCENARIOS[name], tmp_path))
    assert world.checks > 20, "the invariants were looked at"


def test_two_nodes_share_a_full_subnet_and_neither_takes_the_others_addresses(
    tmp_path: Path,
) -> None:
    async def both(loop: virtual_time.VirtualLoop) -> None:
        first = MemoryCloud(IPv4Network("10.0.0.0/27"), max_enis=8)
        identity = replace(b.identity("i-02"), primary_eni_id=EniId("eni-0f"))
        second = MemoryCloud(vpc=first.vpc, node=identity, max_enis=8)
        worlds = []
        for number, memory in enumerate((first, second)):
            directory = tmp_path / str(number)
            directory.mkdir()
            cloud = AsyncMemoryCloud(memory)
            worlds.append(World(new_store(directory, Steps()), cloud, WARM_IP_TARGET="8"))
        one, other = worlds
        async with one.running(), other.running():
            await asyncio.gather(*(one.add(f"p{n}") for n in range(9)))
            await asyncio.gather(*(other.add(f"p{n}") for n in range(9)))
            held = [a for w in worlds for p in w.pods.values() for a in p.addresses]
            assert len(held) == len(set(held)) == 18
            assert all(isinstance(a, IPv4Address) for a in held)
            for world in worlds:
                assert not world.broken

    virtual_time.run(both)
