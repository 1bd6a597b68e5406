"""The demo's steps that take everything down, and look for what stayed."""

from __future__ import annotations

import statistics

from providers.sim import demo_looks
from providers.sim.demo_looks import CloudEni, short
from providers.sim.demo_run import CheckFailed, Seen, Step, Table
from providers.sim.demo_steps import CLOUD, NODES, PODS, placed_on, wait_until_none
from providers.sim.demo_world import DemoWorld, at_once, identity_of, refuse_any
from providers.sim.lab_node import Node
from providers.sim.lab_process import is_listening

DELETE = "deleted pods leave no link, route or rule"
COOLING = "their addresses are cooling, still ours in the cloud"
STOP = "both daemons of both nodes end on SIGTERM"
KEPT = "a stopped node keeps its {eni}s and nothing of a pod"
TERMINATE = "terminated nodes give every address back to the subnets"
NOTHING = "nothing is left: no process, namespace, link or file"

_KERNEL_TABLES = {"local", "main", "default"}
_RUNTIME_DELS = 3  # containerd's, at a pod's end
_END_SECONDS = 5.0


def delete_pods(world: DemoWorld) -> Seen:
    """Three DELs per pod, as containerd makes them; then a look at both kernels."""
    calls = world.stop_pods()
    refuse_any(
        f"{one.node} {one.pod.name}: {made[-1]}"
        for one, made in zip(world.pods, calls, strict=True)
        if len(made) != _RUNTIME_DELS or not all(call.is_ok for call in made)
    )
    refuse_any(_traces(world))
    median = 1000 * statistics.median(made[0].seconds for made in calls)
    return Seen(
        text=f"{len(calls)} pods, {_RUNTIME_DELS * len(calls)} DELs, all with exit status 0;"
        f" median of the first DEL of a pod {median:.1f} ms"
    )


def _traces(world: DemoWorld) -> list[str]:
    """What the nodes' kernels still have of the pods."""
    cloud = world.cloud()
    macs = [eni.mac for eni in cloud.enis]
    addresses = [one.address for one in world.pods]
    return [
        f"{name}: {trace}"
        for name, kernel in world.kernels().items()
        for trace in kernel.traces_of(addresses, macs)
    ]


def look_at_cooling(world: DemoWorld) -> Seen:
    """Every address of a deleted pod, by the ledger and by the cloud."""
    ledgers, cloud = world.ledgers(), world.cloud()
    refuse_any(
        f"{one.node}: {one.address} of {one.pod.name} is not cooling"
        for one in world.pods
        if one.address not in ledgers[one.node].cooling
    )
    refuse_any(
        f"{name}: {len(one.holders)} addresses are still allocated"
        for name, one in ledgers.items()
        if one.holders
    )
    for one in world.pods:
        cloud.holder_of(one.address)
    counts = ", ".join(f"{name} {one.pool['cooling']}" for name, one in ledgers.items())
    return Seen(text=f"{len(world.pods)} addresses ({counts}), none allocated any more")


def stop_daemons(world: DemoWorld) -> Seen:
    """SIGTERM to each; exit status 0, socket shut, and no process of the node left."""

    def stop(node: Node) -> list[str]:
        ended = {"vpc-cnid": node.cnid.stop(), "ipamd": node.ipamd.stop()}
        sockets = [path for path in (node.cni_socket, node.ipamd_socket) if is_listening(path)]
        return [
            *(f"{node.name}: {name} ended with {code}" for name, code in ended.items() if code),
            *(f"{node.name}: somebody still listens on {path}" for path in sockets),
        ]

    refuse_any(fault for faults in at_once(stop, world.nodes) for fault in faults)
    refuse_any(
        wait_until_none(
            lambda: [p for n in world.nodes for p in demo_looks.processes_of(n.run_dir)],
            _END_SECONDS,
        )
    )
    return Seen(text="4 daemons and their children, exit status 0; nobody listens any more")


def look_at_stopped(world: DemoWorld) -> Seen:
    """A node whose daemons are away, during an upgrade say: ready to go on, free of pods."""
    refuse_any(_traces(world))
    cloud, kernels = world.cloud(), world.kernels()
    rows: list[tuple[str, ...]] = []
    for node in world.nodes:
        enis = cloud.of_instance(identity_of(node).instance_id)
        refuse_any(
            f"{node.name}: {eni.eni_id} is {eni.status}" for eni in enis if eni.status != "attached"
        )
        used = {one.eni_id for one in placed_on(world, node)}
        if lost := used - {eni.eni_id for eni in enis}:
            raise CheckFailed(f"{node.name} lost {', '.join(sorted(lost))}")
        rows += [_eni_row(node, eni) for eni in enis]
    refuse_any(cloud.fabric_failures)
    eni = world.words.eni
    head = ("node", "index", eni, "state in the cloud", "secondary addresses", "prefixes")
    rules = sum(
        one.table not in _KERNEL_TABLES for kernel in kernels.values() for one in kernel.rules
    )
    return Seen(
        text=f"no link, route or rule of a pod; {len(rows)} {eni}s and the {rules} rules that"
        f" belong to nodes and {eni}s stay for the next start",
        table=Table(head=head, rows=tuple(rows)),
    )


def _eni_row(node: Node, eni: CloudEni) -> tuple[str, ...]:
    counts = (str(len(eni.addresses) - 1), str(len(eni.prefixes)))
    return (node.name, str(eni.device_index), short(eni.eni_id), eni.status, *counts)


def terminate_nodes(world: DemoWorld) -> Seen:
    """Terminate both instances; the subnets are as they were."""
    for name in tuple(world.lab.nodes):
        world.lab.remove_node(name)
    cloud = world.cloud()
    refuse_any(f"{eni.eni_id} is left ({eni.status})" for eni in cloud.enis)
    refuse_any(
        f"{subnet}: {cloud.free[subnet]} addresses free, {free} at the start"
        for subnet, free in world.free_at_start.items()
        if cloud.free[subnet] != free
    )
    refuse_any(cloud.fabric_failures)
    counts = " and ".join(str(free) for free in cloud.free.values())
    return Seen(
        text=f"no {world.words.eni} is left; {counts} addresses are free, as at the start;"
        f" {world.words.api} was called {_calls(world)}"
    )


def _calls(world: DemoWorld) -> str:
    """Calls by API, the most frequent first: 12 times: DescribeNetworkInterfaces 6, ..."""
    calls: dict[str, int] = world.lab.control.call("calls")
    calls.pop("", None)  # a pod's own request to the cloud's address names no action
    rows = sorted(calls.items(), key=lambda row: (-row[1], row[0]))
    return f"{sum(calls.values())} times: " + ", ".join(f"{api} {n}" for api, n in rows)


def look_for_leftovers(world: DemoWorld) -> Seen:
    """End the cloud too, remove the folder, and look at what there is beside what was before."""
    world.close()
    running = wait_until_none(lambda: list(demo_looks.processes_of(world.directory)), _END_SECONDS)
    after = world.surroundings()
    refuse_any(
        [
            *(f"process {one} is left" for one in running),
            *(f"{one} is left" for one in sorted(after - world.before)),
        ]
    )
    if world.directory.exists():
        raise CheckFailed(f"{world.directory} is left")
    return Seen(text=f"{world.directory} is gone, and all that was started for it")


DOWN: tuple[Step[DemoWorld], ...] = (
    Step(name=DELETE, act=delete_pods, needs=(PODS,)),
    Step(name=COOLING, act=look_at_cooling, needs=(DELETE,)),
    Step(name=STOP, act=stop_daemons, needs=(NODES,)),
    Step(name=KEPT, act=look_at_stopped, needs=(DELETE, STOP)),
)
GONE: tuple[Step[DemoWorld], ...] = (
    Step(name=TERMINATE, act=terminate_nodes, needs=(CLOUD,)),
    Step(name=NOTHING, act=look_for_leftovers),
)
