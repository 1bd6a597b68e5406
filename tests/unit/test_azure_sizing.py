"""Pods of an Azure node and subnets of a node pool: AKS' own numbers, and a count by hand."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipamd.azure_sizing import (
    AzureMode,
    Question,
    blocks_in,
    blocks_of_pods,
    size,
    usable,
)
from ipamd.cli.main import main
from ipamd.sizing import CannotSize, total

NODE, BLOCK = AzureMode.NODE_SUBNET, AzureMode.BLOCK


# AKS' documents on static blocks: blocks and addresses to spare for each max pods.
@pytest.mark.parametrize(
    ("pods", "blocks", "spare"),
    [(30, 2, 1), (31, 2, 0), (32, 3, 15), (47, 3, 0), (63, 4, 0), (110, 7, 1), (250, 16, 5)],
)
def test_blocks_are_counted_as_aks_does(pods: int, blocks: int, spare: int) -> None:
    answer = size(Question(mode=BLOCK, max_pods=pods))
    assert (answer.pods, answer.blocks, answer.spare) == (pods, blocks, spare)
    assert answer.addresses == 1 + 16 * blocks


def test_a_node_subnet_is_planned_as_aks_does() -> None:
    answer = size(Question(mode=NODE, max_pods=30, nodes=50))
    assert (answer.pool_addresses, answer.subnet_length) == (1581, 21)


@pytest.mark.parametrize(("length", "addresses"), [(24, 251), (28, 11), (29, 3), (16, 65531)])
def test_five_addresses_of_a_subnet_are_reserved(length: int, addresses: int) -> None:
    assert usable(length) == addresses


def test_without_a_subnet_a_node_carries_what_aks_allows() -> None:
    assert size(Question(mode=NODE)).pods == size(Question(mode=BLOCK)).pods == 250


def test_a_subnet_that_is_too_small_says_what_it_would_give() -> None:
    with pytest.raises(CannotSize, match=r"a /28 gives each of 4 nodes .* room for 1 pods"):
        size(Question(mode=NODE, nodes=3, subnet_length=28))


@pytest.mark.parametrize(
    ("question", "said"),
    [
        ({"max_pods": 9}, "10 to 250"),
        ({"max_pods": 251}, "10 to 250"),
        ({"subnet_length": 30, "nodes": 1}, "/8 to /29"),
        ({"subnet_length": 24}, "needs the number of nodes"),
    ],
)
def test_what_azure_does_not_have_is_refused(question: dict[str, int], said: str) -> None:
    with pytest.raises(CannotSize, match=said):
        Question(mode=NODE, **question)


def _placed_by_hand(length: int, machines: int) -> int:
    """Put the NICs where they spoil the fewest blocks, and count the blocks that are left whole."""
    everything = range(1 << 32 - length)
    free = set(everything[4:-1])
    blocks = [range(n, n + 16) for n in everything[::16]]
    blocks.sort(key=lambda block: len(free & set(block)))  # the spoilt ones first
    order = [address for block in blocks for address in block if address in free]
    left = free - set(order[:machines])
    return sum(left.issuperset(block) for block in blocks)


@given(length=st.integers(22, 28), machines=st.integers(0, 120))
def test_blocks_of_a_subnet_are_what_a_count_by_hand_leaves(length: int, machines: int) -> None:
    assert blocks_in(length, machines) == _placed_by_hand(length, machines)


questions = st.builds(
    Question,
    mode=st.sampled_from(AzureMode),
    max_pods=st.just(0) | st.integers(10, 250),
    nodes=st.integers(1, 300),
    surge=st.integers(0, 10),
)


@given(question=questions)
def test_the_smallest_subnet_holds_the_pool_and_the_next_smaller_does_not(
    question: Question,
) -> None:
    answer = size(question)
    assert total(answer.steps) == answer.pods
    length = answer.subnet_length
    assert length
    there = Question(
        mode=question.mode, nodes=question.nodes, surge=question.surge, subnet_length=length
    )
    assert size(there).pods >= answer.pods
    smaller = length + 1
    if question.mode is BLOCK:
        needed = blocks_of_pods(answer.pods) * question.machines
        assert blocks_in(length, question.machines) >= needed
        assert smaller > 29 or blocks_in(smaller, question.machines) < needed
    else:
        assert smaller > 29 or usable(smaller) < answer.pool_addresses


def test_a_vnet_that_is_too_small_is_said() -> None:
    (note,) = size(Question(mode=NODE, nodes=300)).notes
    assert note == "301 nodes take 75551 of a VNET's 65536 addresses; a block counts as one"


# The command.


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    status = main(["max-pods", *words])
    said = capsys.readouterr()
    return status, said.out, said.err


def test_the_command_prints_the_number_alone(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--cloud", "azure", "--subnet", "10.0.0.0/24", "--nodes", "5")
    assert run(capsys, *words) == (0, "40\n", "")


def test_the_command_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--cloud", "azure", "--mode", "block", "--max-pods", "32", "--nodes", "2", "--explain")
    status, out, err = run(capsys, *words)
    assert status == 0
    assert "blocks of a node: (32 + 1) / 16, rounded up = 3, 15 of their addresses to spare" in out
    assert "of the pool: (2 + 1) x 49 = 147; the smallest subnet for them: /24" in out
    assert "47 pods would fill the 3 blocks" in err


def test_the_command_answers_a_program(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--cloud", "azure", "--mode", "block", "--nodes", "4", "-o", "json", "--explain")
    status, out, _ = run(capsys, *words)
    answer = json.loads(out)
    assert (status, answer["max_pods"], answer["blocks_per_node"]) == (0, 250, 16)
    assert answer["smallest_subnet_length"] == 21  # 80 blocks; a /22 has 62
    assert answer["steps"][-1] == {"sign": "=", "value": 250, "text": "pods"}


def test_the_command_writes_kubelets_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "--cloud", "azure", "-o", "kubelet")
    assert status == 0
    assert out.endswith("kind: KubeletConfiguration\nmaxPods: 250\n")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--cloud", "azure", "--ipv6"), "--ipv6: not with --cloud azure"),
        (("--cloud", "azure", "--all", "--refresh"), "--all, --refresh: not with --cloud azure"),
        (("--cloud", "azure", "-o", "csv"), "-o csv are about EC2"),
        (("--mode", "block", "--all"), "--mode: not with --cloud aws"),
        (("--cloud", "azure", "--max-pods", "5"), "10 to 250"),
    ],
)
def test_options_that_exclude_each_other_are_refused(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...], said: str
) -> None:
    status, out, err = run(capsys, *words)
    assert (status, out) == (2, "")
    assert said in err
