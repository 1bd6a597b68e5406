"""An exception that is not needed any more must go, or it would hide a later mistake."""

from __future__ import annotations

from tests.sim.azure.judges import bodies, examples, sequences
from tests.sim.azure.judges.replay import differences
from tests.sim.azure.judges.shapes import rows
from tests.sim.azure.judges.world import Door, World

# (where, path) as in exceptions.tsv
Places = set[tuple[str, str]]


def of_recordings() -> Places:
    played = (exchange for play in sequences.SEQUENCES for exchange in play(World()))
    found = [each for exchange in played for each in differences(exchange)]
    return {(where, each.path) for each in found for where in (each.where, each.where.split()[0])}


def of_examples(world: World, door: Door) -> Places:
    examples.furnish(world, door)
    answers = {name: examples.dumped(ask(door)) for name, ask in examples.READS.items()}
    answers["VirtualMachineScaleSetVM_Update"] = examples.update(door, bodies.example_instance())
    return {
        (name, path)
        for name, answer in answers.items()
        for path in examples.differences(name, "200", answer)
    }


def test_every_exception_is_needed_and_has_a_reason(world: World, door: Door) -> None:
    named = {(row["where"], row["path"]) for row in rows("exceptions")}
    assert named - of_recordings() - of_examples(world, door) == set()
    assert all(len(row["reason"]) > 20 for row in rows("exceptions"))
