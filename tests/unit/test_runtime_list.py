"""The runtime's list over real sockets, with runtimes that answer, refuse, hang or lie."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from cni_shim import runtime_list
from cni_shim.runtime_list import RuntimeList, RuntimeUnseen
from cri_api import runtime_pb2 as cri

from tests.fake_runtime import FakeRuntime

READY, NOT_READY = cri.SANDBOX_READY, cri.SANDBOX_NOTREADY


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[FakeRuntime]:
    made = FakeRuntime(tmp_path / "a.sock", a=READY, b=NOT_READY)
    yield made
    made.close()


@pytest.fixture
def other(tmp_path: Path) -> Iterator[FakeRuntime]:
    made = FakeRuntime(tmp_path / "b.sock", c=READY)
    yield made
    made.close()


@pytest.fixture
def lists() -> Iterator[list[RuntimeList]]:
    made: list[RuntimeList] = []
    yield made
    for each in made:
        each.close()


def asked(lists: list[RuntimeList], *paths: Path) -> RuntimeList:
    lists.append(RuntimeList(paths))
    return lists[-1]


def test_every_sandbox_is_told_ready_or_not(runtime: FakeRuntime, lists: list[RuntimeList]) -> None:
    assert asked(lists, runtime.path).sandboxes() == {"a": True, "b": False}


def test_two_runtimes_make_one_list(
    runtime: FakeRuntime, other: FakeRuntime, lists: list[RuntimeList]
) -> None:
    found = asked(lists, runtime.path, other.path).sandboxes()
    assert found == {"a": True, "b": False, "c": True}


def test_a_socket_that_is_not_there_is_another_runtimes(
    runtime: FakeRuntime, lists: list[RuntimeList], tmp_path: Path
) -> None:
    assert asked(lists, tmp_path / "none.sock", runtime.path).sandboxes()


def unseen(lists: list[RuntimeList], *paths: Path) -> str:
    with pytest.raises(RuntimeUnseen) as caught:
        asked(lists, *paths).sandboxes()
    return str(caught.value)


def test_no_socket_at_all_is_no_list(lists: list[RuntimeList], tmp_path: Path) -> None:
    assert "no socket of a runtime is there" in unseen(lists, tmp_path / "none.sock")
    assert "none is set" in unseen(lists)


def test_a_dead_socket_beside_a_living_one_is_no_list(
    runtime: FakeRuntime, lists: list[RuntimeList], tmp_path: Path
) -> None:
    """What the living one lacks may be the dead one's."""
    dead = tmp_path / "dead.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(dead))
    assert "dead.sock: UNAVAILABLE" in unseen(lists, runtime.path, dead)


def test_a_runtime_that_is_starting_is_no_list_and_is_asked_again(
    runtime: FakeRuntime, lists: list[RuntimeList]
) -> None:
    runtime.refusal = grpc.StatusCode.UNKNOWN
    asked_twice = asked(lists, runtime.path)
    with pytest.raises(RuntimeUnseen, match="not initialized"):
        asked_twice.sandboxes()
    runtime.refusal = None
    assert asked_twice.sandboxes()


def test_a_runtime_that_hangs_is_no_list(
    runtime: FakeRuntime, lists: list[RuntimeList], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime_list, "ANSWER_SECONDS", 0.2)
    runtime.hold.clear()
    assert "DEADLINE_EXCEEDED" in unseen(lists, runtime.path)


def test_an_answer_that_makes_no_sense_is_no_list(
    runtime: FakeRuntime, lists: list[RuntimeList]
) -> None:
    runtime.sandboxes = {"a": READY, "": READY}
    assert "without an id" in unseen(lists, runtime.path)


def test_a_list_of_thousands_is_taken(runtime: FakeRuntime, lists: list[RuntimeList]) -> None:
    """More than gRPC's 4 MiB, as pods with long annotations make it."""
    runtime.sandboxes = {f"{n:04}" + "x" * 6000: READY for n in range(1000)}
    assert len(asked(lists, runtime.path).sandboxes()) == 1000
