"""The recorded sequences: what exists before them, and the bodies of their writes."""

from __future__ import annotations

from tests.sim.azure.judges import bodies, machines
from tests.sim.azure.judges.bodies import Json
from tests.sim.azure.judges.names import NETWORK, NIC_ID, SET_ID, SET_NIC, VNET_ID
from tests.sim.azure.judges.replay import Exchange, MakeBody, Replay
from tests.sim.azure.judges.world import World

INSTANCE_ID = f"{SET_ID}/virtualMachines/0"
TARGETS = {
    "set nics": f"{SET_ID}/networkInterfaces",
    "instances": f"{SET_ID}/virtualMachines",
    "instance": INSTANCE_ID,
    "instance nics": f"{INSTANCE_ID}/networkInterfaces",
    "instance nic": f"{INSTANCE_ID}/networkInterfaces/{SET_NIC}",
    "network": VNET_ID,
    "nic": NIC_ID,
    "nic if-match": NIC_ID,
    "nics": f"{NETWORK}/networkInterfaces",
}
WITH_GROUPS = "test_multiple_ipconfigs_update_with_asg"
SHORTHAND = "test_multiple_ipconfigs_remove_by_shorthand"


def addresses(exchange: Exchange) -> list[str]:
    configs = exchange.said["properties"]["ipConfigurations"]
    return [row["properties"]["privateIPAddress"] for row in configs]


def adding(name: str) -> MakeBody:
    return lambda shown: bodies.nic_again(shown, new=[name])


def first(shown: Json) -> Json:
    return bodies.first_nic()


def with_groups(world: World, settle_seconds: float = 0.0) -> list[Exchange]:
    def settle() -> None:
        world.time.now += settle_seconds

    replay = Replay(world, TARGETS, settle)
    return replay.play(
        WITH_GROUPS,
        [first, adding("ipconfig2"), lambda shown: bodies.grouped(bodies.nic_again(shown))],
    )


def shorthand(world: World) -> list[Exchange]:
    def fewer(shown: Json) -> Json:
        body = bodies.nic_again(shown, left_out=["ipconfig2", "ipconfig3", "ipconfig5"])
        body["properties"]["disableTcpStateTracking"] = False
        return body

    more = [adding(f"ipconfig{number}") for number in (2, 3, 4, 5)]
    return Replay(world, TARGETS).play(SHORTHAND, [first, *more, fewer])


def deletion(world: World) -> list[Exchange]:
    Replay(world, TARGETS).play(WITH_GROUPS, [first, adding("ipconfig2"), adding("ipconfig3")])
    return Replay(world, TARGETS).play("test_network_nic")


def reads_of_a_set(world: World) -> list[Exchange]:
    machines.add_scale_set(world, machines.profile_of_2019(), instances=2)
    return Replay(world, TARGETS).play("test_vmss_nics")


def write_of_an_instance(world: World) -> list[Exchange]:
    machines.add_scale_set(world, machines.profile_of_2022())
    world.set_compute_behaviour(write_seconds=3.0)

    def settle() -> None:
        world.time.now += 3.0

    return Replay(world, TARGETS, settle).play("test_vmss_update", [bodies.instance_again])


SEQUENCES = [with_groups, shorthand, deletion, reads_of_a_set, write_of_an_instance]
