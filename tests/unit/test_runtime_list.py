"""The runtime's list over real sockets, with runtimes that answer, refuse, hang or lie."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from cni_shim import runtime_child, runtime_list
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


def asked(*paths: Path) -> RuntimeList:
    return RuntimeList(paths)


def test_every_sandbox_is_told_ready_or_not(runtime: FakeRuntime) -> None:
    assert asked(runtime.path).sandboxes() == {"a": True, "b": False}


def test_two_runtimes_make_one_list(runtime: FakeRuntime, other: FakeRuntime) -> None:
    found = asked(runtime.path, other.path).sandboxes()
    assert found == {"a": True, "b": False, "c": True}


def test_a_socket_that_is_not_there_is_another_runtimes(
    runtime: FakeRuntime, tmp_path: Path
) -> None:
    assert asked(tmp_path / "none.sock", runtime.path).sandboxes()


def unseen(*paths: Path) -> str:
    with pytest.raises(RuntimeUnseen) as caught:
        asked(*paths).sandboxes()
    return str(caught.value)


def test_no_socket_at_all_is_no_list(tmp_path: Path) -> None:
    assert "no socket of a runtime is there" in unseen(tmp_path / "none.sock")
    assert "none is set" in unseen()


def test_a_dead_socket_beside_a_living_one_is_no_list(runtime: FakeRuntime, tmp_path: Path) -> None:
    """What the living one lacks may be the dead one's."""
    dead = tmp_path / "dead.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(dead))
    assert "dead.sock: UNAVAILABLE" in unseen(runtime.path, dead)


def test_a_runtime_that_is_starting_is_no_list_and_is_asked_again(runtime: FakeRuntime) -> None:
    runtime.refusal = grpc.StatusCode.UNKNOWN
    asked_twice = asked(runtime.path)
    with pytest.raises(RuntimeUnseen, match="not initialized"):
        asked_twice.sandboxes()
    runtime.refusal = None
    assert asked_twice.sandboxes()


def test_a_runtime_that_hangs_is_no_list(
    runtime: FakeRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime_child, "ANSWER_SECONDS", 0.2)
    runtime.hold.clear()
    answer = runtime_child.answer([str(runtime.path)])
    assert set(answer) == {"unseen"}
    assert "a.sock: DEADLINE_EXCEEDED" in str(answer)


def test_a_child_that_does_not_end_is_ended_and_no_list(
    runtime: FakeRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime_list, "LIMIT_SECONDS", 0.01)
    assert "did not end" in unseen(runtime.path)


CHILDREN = {
    "cannot be started": ("", "could not be started"),
    "fails": ("#!/bin/sh\necho broken >&2; exit 3", "ended with 3: broken"),
    "is killed amid its answer": ("#!/bin/sh\necho '{\"sandboxes\": {}}'; kill -9 $$", "with -9"),
    "is cut short": ("#!/bin/sh\nprintf '{\"sandboxes\": {'", "wrote no JSON"),
    "says something else": ("#!/bin/sh\necho '{\"sandboxes\": []}'", "neither sandboxes nor"),
    "says nothing": ("#!/bin/sh", "wrote no JSON"),
}


@pytest.mark.parametrize(("script", "why"), CHILDREN.values(), ids=CHILDREN)
def test_a_child_that_goes_wrong_is_no_list(
    runtime: FakeRuntime, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str, why: str
) -> None:
    child = tmp_path / "child"
    if script:
        child.write_text(script)
        child.chmod(0o700)
    monkeypatch.setattr("cni_shim.runtime_list.sys.executable", str(child))
    assert why in unseen(runtime.path)


def test_an_answer_that_makes_no_sense_is_no_list(runtime: FakeRuntime) -> None:
    runtime.sandboxes = {"a": READY, "": READY}
    assert "without an id" in unseen(runtime.path)


def test_a_list_of_thousands_is_taken(runtime: FakeRuntime) -> None:
    """More than gRPC's 4 MiB, as pods with long annotations make it."""
    runtime.sandboxes = {f"{n:04}" + "x" * 6000: READY for n in range(1000)}
    assert len(asked(runtime.path).sandboxes()) == 1000
