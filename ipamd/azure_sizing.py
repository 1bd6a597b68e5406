"""How many pods an Azure node can carry, and what subnet a node pool needs.

Pure, with the running steps of `ipamd.sizing`. Sources: "Azure networking limits" (256 private
addresses on a NIC and on a VM, 65,536 in a VNET, five reserved in a subnet), AKS' documents on
planning addresses: "(nodes + surge) x (1 + max pods)" for a node subnet, one block more than full
for static blocks, since AKS keeps an address of them for itself; max pods is 10 to 250.

Examples: 50 nodes of 30 pods: 51 x 31 = 1,581 addresses, a /21. 31 pods are 2 blocks, 32 are 3.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from ipamd.sizing import AZURE_PODS_MOST, PREFIX_ADDRESSES, CannotSize, Step, total

VM_ADDRESSES = 256
"""Of a NIC, and of all NICs of a machine together."""

SUBNET_RESERVED = 5
"""Network, gateway, two for DNS, and the last one (Azure, "Virtual network FAQ")."""

VNET_ADDRESSES = 65_536
"""A block of 16 counts as one."""

PODS_LEAST, PODS_MOST = 10, AZURE_PODS_MOST
"""What AKS takes as max pods."""

BLOCK_LENGTH = 28
SUBNET_LENGTHS = range(8, 30)
"""The largest that makes sense and the smallest that Azure makes, /29."""

LOOSE_IN_ENDS = 12 + 15
"""Addresses of a subnet's first and last 16 that are not reserved: no block can be there, but NICs'
own addresses can (.4 to .15, and all of the last but its last one)."""


class AzureMode(enum.Enum):
    """Where pods' addresses come from: one by one, or in blocks of 16, of the node's subnet."""

    NODE_SUBNET = "node-subnet"
    BLOCK = "block"


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked. `max_pods` 0: as many as there can be; `subnet_length` 0: no subnet yet;
    `surge`: nodes that an upgrade adds for a while."""

    mode: AzureMode
    max_pods: int = 0
    nodes: int = 0
    surge: int = 1
    subnet_length: int = 0

    def __post_init__(self) -> None:
        if self.max_pods and not PODS_LEAST <= self.max_pods <= PODS_MOST:
            raise CannotSize(f"max pods is {PODS_LEAST} to {PODS_MOST} on Azure")
        if self.subnet_length and self.subnet_length not in SUBNET_LENGTHS:
            raise CannotSize(f"a subnet is /{SUBNET_LENGTHS[0]} to /{SUBNET_LENGTHS[-1]}")
        if self.subnet_length and not self.nodes:
            raise CannotSize("how much of a subnet a node may have needs the number of nodes")

    @property
    def machines(self) -> int:
        """Nodes while an upgrade runs."""
        return self.nodes + self.surge if self.nodes else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class AzureSizing:
    """The answer. `blocks` are those of a node; `spare` addresses of them serve
    neither a pod nor AKS itself.

    `addresses` is what one node takes of the subnet, its own included, and `pool_addresses` all
    nodes together; `subnet_length` is the smallest subnet that holds them, 0 where nothing about
    nodes was asked or where none does.
    """

    mode: AzureMode
    pods: int
    blocks: int
    spare: int
    addresses: int
    pool_addresses: int
    subnet_length: int
    steps: tuple[Step, ...]
    notes: tuple[str, ...]


def usable(subnet_length: int) -> int:
    """Addresses of a subnet that Azure gives out. /24 -> 251, /29 -> 3."""
    return (1 << 32 - subnet_length) - SUBNET_RESERVED


def blocks_of_pods(pods: int) -> int:
    """Blocks for so many pods as AKS counts them. 30 -> 2, 31 -> 2, 32 -> 3, 250 -> 16."""
    return -(-(pods + 1) // PREFIX_ADDRESSES)


def blocks_in(subnet_length: int, machines: int) -> int:
    """Aligned blocks that a subnet can give beside so many NICs' own addresses.

    /24 with 10 machines -> 14; with 28 -> 13: one more than fits in the two ends.
    """
    ends = (1 << BLOCK_LENGTH - subnet_length) - 2 if subnet_length < BLOCK_LENGTH else 0
    crowded = -(-max(machines - LOOSE_IN_ENDS, 0) // PREFIX_ADDRESSES)
    return max(ends - crowded, 0)


def size(question: Question) -> AzureSizing:
    """The answer; CannotSize where a node of the pool could not carry even the fewest pods."""
    is_block = question.mode is AzureMode.BLOCK
    steps = _steps(question)
    pods = total(steps)
    if pods < PODS_LEAST:
        raise CannotSize(
            f"a /{question.subnet_length} gives each of {question.machines} nodes (with the surge) "
            f"room for {max(pods, 0)} pods; AKS takes {PODS_LEAST} at least: take a larger subnet"
        )
    blocks = blocks_of_pods(pods) if is_block else 0
    addresses = 1 + (blocks * PREFIX_ADDRESSES if is_block else pods)
    fitting = _smallest_subnet(question, addresses, blocks)
    return AzureSizing(
        mode=question.mode,
        pods=pods,
        blocks=blocks,
        spare=blocks * PREFIX_ADDRESSES - pods - 1 if is_block else 0,
        addresses=addresses,
        pool_addresses=addresses * question.machines,
        subnet_length=fitting,
        steps=(*steps, Step(sign="=", value=pods, text="pods")),
        notes=_notes(question, pods, blocks, addresses),
    )


def _steps(question: Question) -> list[Step]:
    steps = (
        _block_steps(question) if question.mode is AzureMode.BLOCK else _node_subnet_steps(question)
    )
    steps.append(Step(sign="min", value=PODS_MOST, text="max pods at most (AKS)"))
    if question.max_pods:
        steps.append(Step(sign="min", value=question.max_pods, text="asked for"))
    return steps


def _node_subnet_steps(question: Question) -> list[Step]:
    steps = [
        Step(sign="", value=VM_ADDRESSES, text="addresses of a machine, on all its NICs"),
        Step(sign="-", value=1, text="the primary NIC's own"),
    ]
    if question.subnet_length:
        share = usable(question.subnet_length) // question.machines - 1
        text = (
            f"a node's share of a /{question.subnet_length}: {usable(question.subnet_length)} "
            f"addresses for {question.machines} nodes, less its own"
        )
        steps.append(Step(sign="min", value=share, text=text))
    return steps


def _block_steps(question: Question) -> list[Step]:
    configurations = VM_ADDRESSES - 1
    steps = [Step(sign="", value=configurations, text="blocks on a NIC: 256 less its own address")]
    if question.subnet_length:
        there = blocks_in(question.subnet_length, question.machines)
        text = (
            f"a node's share of the {there} blocks that a /{question.subnet_length} gives beside "
            f"{question.machines} nodes' own addresses"
        )
        steps.append(Step(sign="min", value=there // question.machines, text=text))
    return [
        *steps,
        Step(sign="x", value=PREFIX_ADDRESSES, text="addresses of a /28"),
        Step(sign="-", value=1, text="that AKS keeps for itself"),
    ]


def _smallest_subnet(question: Question, addresses: int, blocks: int) -> int:
    """The length of the smallest subnet for all nodes; 0 where none was asked for or none does."""
    if not question.machines:
        return 0
    for length in reversed(SUBNET_LENGTHS):
        if question.mode is AzureMode.BLOCK:
            fits = blocks_in(length, question.machines) >= blocks * question.machines
        else:
            fits = usable(length) >= addresses * question.machines
        if fits:
            return length
    return 0


def _notes(question: Question, pods: int, blocks: int, addresses: int) -> tuple[str, ...]:
    notes = []
    if question.mode is AzureMode.BLOCK:
        own = -(-pods // PREFIX_ADDRESSES)
        if own < blocks:
            notes.append(f"this daemon keeps no address of a block: it needs {own} for {pods} pods")
        whole = blocks * PREFIX_ADDRESSES - 1
        if pods < whole <= PODS_MOST:
            notes.append(f"{whole} pods would fill the {blocks} blocks")
        counted = 1 + blocks
    else:
        counted = addresses
    if counted * question.machines > VNET_ADDRESSES:
        notes.append(
            f"{question.machines} nodes take {counted * question.machines} of a VNET's "
            f"{VNET_ADDRESSES} addresses"
            + ("" if question.mode is AzureMode.BLOCK else "; a block counts as one")
        )
    return tuple(notes)
