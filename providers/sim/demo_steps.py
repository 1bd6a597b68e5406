"""The demo's steps up to running pods that reach each other; each looks before it says ok."""

from __future__ import annotations

import statistics
import subprocess
import time
from collections import Counter
from collections.abc import Callable

from providers.sim import demo_looks, ping
from providers.sim.demo_looks import short
from providers.sim.demo_run import CheckFailed, Seen, Step, Table
from providers.sim.demo_world import (
    NODE_NAMES,
    DemoWorld,
    Placement,
    RunningPod,
    identity_of,
    make_launcher,
    refuse_any,
    router_of,
)
from providers.sim.lab_node import Node
from providers.sim.ping import Probe

LAUNCHER = "the vpc-cni launcher answers VERSION"
CLOUD = "the emulated cloud answers, with {a_vpc} and its subnets"
NODES = "two nodes run ipamd and vpc-cnid and report no problem"
PODS = "pods started by vpc-cni run on every {eni} that takes pods"
AGREE = "ledger, cloud and kernel agree on every pod's address"
PING_PODS = "every pod reaches every pod"
PING_ROUTER = "every pod reaches the {vpc} router"

_VERSION_SECONDS = 5.0
_PING_SECONDS = 2.0
_SETTLE_SECONDS = 10.0  # ipamd's first look at the cloud takes well under one
_POLL_SECONDS = 0.1
_PODS_PER_ENI = 2  # at least, on each ENI that takes pods


def prepare_launcher(world: DemoWorld) -> Seen:
    """Build it, and let it speak."""
    command, kind = make_launcher(world.wanted_launcher, world.directory)
    said = subprocess.run(
        command, env={"CNI_COMMAND": "VERSION"}, input="{}", capture_output=True, text=True,
        check=False, timeout=_VERSION_SECONDS,
    )  # fmt: skip
    if said.returncode != 0 or "supportedVersions" not in said.stdout:
        raise CheckFailed(f"{command[-1]} ended with {said.returncode}: {said.stdout}{said.stderr}")
    world.plugin = command
    return Seen(text=f"{kind}: {' '.join(command)}")


def start_cloud(world: DemoWorld) -> Seen:
    """The cloud with the mode's VPC, asked from inside the VPC."""
    vpc = world.lab.start(subnets=world.mode.subnets, cidr_v6=world.mode.cidr_v6)
    answered = world.side.begin(world)
    world.free_at_start = dict(world.cloud().free)
    if set(world.free_at_start) != set(vpc.subnet_ids):
        raise CheckFailed(f"the cloud has the subnets {sorted(world.free_at_start)}")
    free = " and ".join(str(count) for count in world.free_at_start.values())
    subnets = " and ".join(
        one["cidr"] + (f" ({one['cidr_v6']})" if "cidr_v6" in one else "")
        for one in world.mode.subnets
    )
    return Seen(text=f"{short(vpc.vpc_id)} with {subnets}, {free} addresses free; {answered}")


def start_nodes(world: DemoWorld) -> Seen:
    """Both nodes; each asks its metadata service who it is, and its ipamd whether all is well."""
    world.add_nodes()
    rows = []
    for node in world.nodes:
        identity = identity_of(node)
        told = world.side.own_id(node)
        if told != identity.instance_id:
            raise CheckFailed(f"the metadata service calls {node.name} {told!r}")
        own = [str(one) for one in (identity.address, identity.address_v6) if one is not None]
        rows.append(
            (node.name, short(told), world.plans[node.name].instance_type, " ".join(own),
             str(identity.subnet_cidr), short(identity.eni_id))
        )  # fmt: skip
    wait_well(world)
    head = ("node", "instance", "type", "address", "subnet", f"primary {world.words.eni}")
    return Seen(
        text=f"{len(rows)} nodes for {world.mode.summary} ({_variables(world)}), each with a"
        " metadata service that knows it",
        table=Table(head=head, rows=tuple(rows)),
    )


def _variables(world: DemoWorld) -> str:
    """What the mode sets; once where it is the same on both nodes."""
    by_node = {
        name: " ".join(f"{variable}={value}" for variable, value in plan.env.items())
        for name, plan in world.plans.items()
    }
    if len(set(by_node.values())) == 1:
        return next(iter(by_node.values()))
    return "; ".join(f"{name}: {variables}" for name, variables in by_node.items())


def wait_well(world: DemoWorld) -> None:
    """Until every ipamctl says that all is well: the cloud observed, vpc-cnid heard."""

    def faults() -> list[str]:
        said = world.ledgers()
        return [
            f"{name}: {'; '.join(one.problems) or 'no ENI of it is ready'}"
            for name, one in said.items()
            if one.exit_status != 0 or not any(eni.is_ready for eni in one.enis)
        ]

    refuse_any(wait_until_none(faults, _SETTLE_SECONDS))


def wait_until_none(faults: Callable[[], list[str]], seconds: float) -> list[str]:
    """Look until there is no fault or the time is over; what the last look found."""
    deadline = time.monotonic() + seconds
    while (found := faults()) and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
    return found


def start_pods(world: DemoWorld) -> Seen:
    """Pods on both nodes until each has some on every ENI that is to have them; who got what."""
    eni = world.words.eni
    most = max(plan.most_pods for plan in world.mode.nodes)
    first = [
        (node, f"web-{number}")
        for number in range(most)
        for node, plan in world.plans.items()
        if number < plan.first_pods
    ]
    world.start_pods(first)
    for number in range(most):
        behind = [
            node
            for node, plan in world.plans.items()
            if plan.first_pods <= number < plan.most_pods and _lacks_pods(world, node)
        ]
        if behind:
            world.start_pods([(node, f"web-{number}") for node in behind])
    refuse_any(
        f"{node}: after {len(world.pods)} pods of both, those of its {eni}s are {shares}"
        for node, shares in _pods_per_eni(world).items()
        if _lacks_pods(world, node)
    )
    adds = sorted(one.add_seconds for one in world.pods)
    waited = sum(seconds > world.side.slow_seconds for seconds in adds)
    return Seen(
        text=f"{len(world.pods)} pods ("
        + ", ".join(
            f"{count} on {eni} {index} of {node}"
            for node, shares in _pods_per_eni(world).items()
            for index, count in sorted(shares.items())
        )
        + f"); ADD median {1000 * statistics.median(adds):.1f} ms, {waited} waited for"
        f" {world.words.waited_for}",
    )


def _pods_per_eni(world: DemoWorld) -> dict[str, Counter[int]]:
    """Per node, how many pods have an address that the cloud has on the ENI of that index."""
    cloud = world.cloud()
    return {
        node: Counter(
            cloud.holder_of(one.address).device_index for one in world.pods if one.node == node
        )
        for node in NODE_NAMES
    }


def _lacks_pods(world: DemoWorld, node: str) -> bool:
    """Whether fewer of the node's ENIs than the mode wants have enough pods to be looked at."""
    counts = _pods_per_eni(world)[node].values()
    return sum(count >= _PODS_PER_ENI for count in counts) < world.plans[node].enis_with_pods


def compare_views(world: DemoWorld) -> Seen:
    """Each pod's address once everywhere, and on the same ENI in the ledger and in the cloud."""
    twice = [a for a, n in Counter(one.address for one in world.pods).items() if n > 1]
    refuse_any(f"{address} is on more than one pod" for address in twice)
    cloud, ledgers, kernels = world.cloud(), world.ledgers(), world.kernels()
    world.placements = tuple(
        _placed(one, cloud, ledgers[one.node], kernels[one.node]) for one in world.pods
    )
    unheld = sum(len(one.holders) for one in ledgers.values()) - len(world.pods)
    if unheld:
        raise CheckFailed(f"the ledgers hold {unheld} allocations more than there are pods")
    refuse_any(cloud.fabric_failures)
    return Seen(
        text=f"{len(world.placements)} addresses, each once in a ledger, once in the cloud on the"
        f" same {world.words.eni}, on its pod's eth0 and in one route of its node: "
        + _shares(world),
        table=_placement_table(world),
    )


def _placed(
    one: RunningPod,
    cloud: demo_looks.Cloud,
    ledger: demo_looks.Ledger,
    kernel: demo_looks.NodeKernel,
) -> Placement:
    where = f"{one.node} {one.pod.name} {one.address}"
    holder = cloud.holder_of(one.address)
    container_id, eni_id = ledger.holders.get(one.address, ("nobody", "no ENI"))
    inside = demo_looks.addresses_in(one.pod.netns_path, one.pod.ifname)
    if (container_id, eni_id) != (one.pod.container_id, holder.eni_id):
        raise CheckFailed(
            f"{where}: {holder.eni_id} in the cloud; {eni_id} and {container_id} in the ledger"
        )
    if inside != (one.address,):
        raise CheckFailed(f"{where}: the pod's {one.pod.ifname} has {inside}")
    eni = ledger.eni(eni_id)
    return Placement(
        running=one,
        eni_id=eni_id,
        eni_link=eni.link,
        is_primary=eni.is_primary,
        host_link=kernel.link_to(one.address),
    )


def _shares(world: DemoWorld) -> str:
    """How many pods each ENI serves, the primary of each node first."""
    counts = Counter((one.node, one.eni_link, one.eni_id) for one in world.placements)
    return ", ".join(
        f"{pods} by {node}'s {link} ({short(eni_id)})"
        for (node, link, eni_id), pods in sorted(counts.items())
    )


def _placement_table(world: DemoWorld) -> Table:
    ordered = sorted(world.placements, key=lambda p: (p.node, not p.is_primary, p.eni_id))
    return Table(
        head=(
            "node",
            "pod",
            "address",
            world.words.eni,
            "by link",
            "pod's link on the node",
            "ADD ms",
        ),
        rows=tuple(
            (
                one.node,
                one.name,
                one.address,
                short(one.eni_id) + (" (primary)" if one.is_primary else ""),
                one.eni_link,
                one.host_link,
                f"{1000 * one.running.add_seconds:7.1f}",
            )
            for one in ordered
        ),
    )


def ping_pods(world: DemoWorld) -> Seen:
    """All pairs at once; then some alone, because a crowd's round trips measure the crowd."""
    pairs = [
        (source, target)
        for source in world.placements
        for target in world.placements
        if source is not target
    ]
    answers = ping.ping_all([_probe(a, b.address) for a, b in pairs], _PING_SECONDS)
    lost = [
        f"{a.node} {a.name} ({a.address}) got no answer from {b.node} {b.name} ({b.address})"
        for (a, b), answer in zip(pairs, answers, strict=True)
        if answer is None
    ]
    refuse_any(lost, f"{len(pairs) - len(lost)} of {len(pairs)} answers")
    same, across = [
        _median_alone([_probe(a, b.address) for a, b in pairs if (a.node == b.node) is is_same])
        for is_same in (True, False)
    ]
    return Seen(
        text=f"{len(pairs)} of {len(pairs)} answers; median round trip"
        f" {same:.3f} ms on one node, {across:.3f} ms between the nodes"
    )


def ping_router(world: DemoWorld) -> Seen:
    """The gateway of its own subnet from every pod."""
    probes = [
        router_probe(world, node, one) for node in world.nodes for one in placed_on(world, node)
    ]
    answers = ping.ping_all(probes, _PING_SECONDS)
    lost = [
        f"no answer from {probe.target} to {probe.source}"
        for probe, answer in zip(probes, answers, strict=True)
        if answer is None
    ]
    refuse_any(lost, f"{len(probes) - len(lost)} of {len(probes)} answers")
    routers = sorted({probe.target for probe in probes})
    return Seen(
        text=f"{len(probes)} of {len(probes)} answers from {' and '.join(routers)};"
        f" median round trip {_median_alone(probes):.3f} ms"
    )


def placed_on(world: DemoWorld, node: Node) -> tuple[Placement, ...]:
    """The pods of a node."""
    return tuple(one for one in world.placements if one.node == node.name)


def one_on_each_eni(world: DemoWorld) -> tuple[Placement, ...]:
    """The first pod of each ENI that has any, by node and link."""
    first = {(one.node, one.eni_id): one for one in reversed(world.placements)}
    return tuple(sorted(first.values(), key=lambda one: (one.node, one.eni_link)))


def router_probe(world: DemoWorld, node: Node, one: Placement) -> Probe:
    """Ask the router of the node's subnet from the pod."""
    return _probe(one, str(router_of(world, node)))


def _probe(source: Placement, target: str) -> Probe:
    return Probe(netns_path=source.netns_path, source=source.address, target=target)


def _median_alone(probes: list[Probe], most: int = 25) -> float:
    """Median round trip in ms of up to `most` probes, evenly chosen, one after the other."""
    chosen = probes[:: max(len(probes) // most, 1)][:most]
    times = [ping.ping(probe.netns_path, probe.source, probe.target) for probe in chosen]
    return 1000 * statistics.median(time for time in times if time is not None)


STEPS: tuple[Step[DemoWorld], ...] = (
    Step(name=LAUNCHER, act=prepare_launcher),
    Step(name=CLOUD, act=start_cloud),
    Step(name=NODES, act=start_nodes, needs=(LAUNCHER, CLOUD)),
    Step(name=PODS, act=start_pods, needs=(NODES,)),
    Step(name=AGREE, act=compare_views, needs=(PODS,)),
    Step(name=PING_PODS, act=ping_pods, needs=(AGREE,)),
    Step(name=PING_ROUTER, act=ping_router, needs=(AGREE,)),
)
