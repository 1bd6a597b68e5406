"""`ipamctl migrate`: what it says, what it writes, and when it does nothing."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ipamd import clock, migration
from ipamd.cli import main
from ipamd.migration_format import Entry
from ipamd.pool.ledger import Change
from ipamd.run_lock import only_one
from ipamd.store import Store
from tests import builders as b
from tests.peer_node import OnNode, PeerNode, peer_node
from tests.virtual_time import VirtualLoop, run


async def a_pod_comes_and_one_goes(node: PeerNode, engine: OnNode) -> None:
    await asyncio.sleep(45.0)
    await node.add(engine, "new")
    node.delete(engine, b.key("peer-0"))
    await asyncio.sleep(1.0)


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[PeerNode, tuple[Entry, ...]]:
    """A node that we took over, whose ipamd is stopped, and the environment that ipamctl has."""
    made, entries = peer_node(tmp_path, "secondary")

    async def main(loop: VirtualLoop) -> bool:
        return await made.life(a_pod_comes_and_one_goes)

    assert run(main)
    monkeypatch.setenv("VPC_IPAMD_RUN_DIR", str(tmp_path))
    monkeypatch.setenv("VPC_IPAMD_STORE_DIR", str(tmp_path))
    monkeypatch.setenv("AWS_VPC_K8S_CNI_BACKING_STORE", str(made.checkpoint))
    monkeypatch.setenv("VPC_IPAMD_PEER_SOCKET", str(tmp_path / "aws.sock"))
    # The node lived in virtual time: to the real clock its last release is some seconds ago.
    monkeypatch.setattr(clock, "boottime", lambda: 1050.0)
    return made, entries


def sleeps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    slept: list[float] = []
    monkeypatch.setattr("ipamd.cli.migrate.time.sleep", slept.append)
    return slept


def document(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_check_lists_what_would_be_adopted_and_changes_nothing(
    node: tuple[PeerNode, tuple[Entry, ...]], capsys: pytest.CaptureFixture[str]
) -> None:
    before = {p: p.read_bytes() for p in node[0].directory.rglob("*") if p.is_file()}
    assert main.main(["migrate", "check", "-o", "json"]) == 0
    found = document(capsys)
    assert [a["addresses"] for a in found["adopted"]] == [
        [str(e.addresses[0])] for e in reversed(node[1])
    ]
    assert found["unusable"] == []
    assert found["is_aws_node_running"] is False
    assert {p: p.read_bytes() for p in before} == before


def test_check_names_what_cannot_be_adopted_and_says_so_in_its_status(
    node: tuple[PeerNode, tuple[Entry, ...]], capsys: pytest.CaptureFixture[str]
) -> None:
    made, entries = node
    made.save((*entries, Entry(network_name="n", container_id="", ifname="", addresses=())))
    text = made.checkpoint.read_text().replace('"ifName": ""', '"ifName": "", "ipv4": "10.9.9.9"')
    made.checkpoint.write_text(text)
    assert main.main(["migrate", "check"]) == 1
    said = capsys.readouterr().out
    assert "held, not adopted: 10.9.9.9 of ''/''" in said
    assert "pod-peer-3" in said


def test_check_says_that_aws_node_runs(
    node: tuple[PeerNode, tuple[Entry, ...]], capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(node[0].directory / "aws.sock"))
        server.listen()
        assert main.main(["migrate", "check"]) == 0
    assert "aws-node runs" in capsys.readouterr().out


def test_check_says_so_where_there_is_no_file(
    node: tuple[PeerNode, tuple[Entry, ...]], capsys: pytest.CaptureFixture[str]
) -> None:
    node[0].checkpoint.unlink()
    assert main.main(["migrate", "check"]) == 0
    assert "no such file, so there is nothing to take over" in capsys.readouterr().out


def test_check_of_a_file_that_cannot_be_read_is_status_2(
    node: tuple[PeerNode, tuple[Entry, ...]], capsys: pytest.CaptureFixture[str]
) -> None:
    node[0].checkpoint.write_text("?")
    assert main.main(["migrate", "check"]) == 2
    assert "it is not JSON" in capsys.readouterr().err


def test_back_writes_the_checkpoint_and_waits_until_nothing_cools(
    node: tuple[PeerNode, tuple[Entry, ...]],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made, entries = node
    slept = sleeps(monkeypatch)
    assert main.main(["migrate", "back", "-o", "json"]) == 0
    found = document(capsys)
    assert found["is_written"] is True
    assert (found["unplaced"], found["held"], found["queued_deletes"]) == ([], [], 0)
    assert 0 < found["cooling_seconds"] <= 30
    assert slept == [pytest.approx(found["cooling_seconds"], abs=0.1)]
    (file,) = migration.read(made.checkpoint).files.values()
    assert {e.addresses[0] for e in file} == set(made.kernel)
    assert {e.network_name for e in file} == {"aws-cni"}
    assert {e.container_id for e in file} == {*(e.container_id for e in entries[1:]), "new"}


def test_back_without_waiting_only_says_how_long_to_wait(
    node: tuple[PeerNode, tuple[Entry, ...]],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slept = sleeps(monkeypatch)
    assert main.main(["migrate", "back", "--no-wait", "-o", "json"]) == 0
    assert document(capsys)["cooling_seconds"] > 0
    assert slept == []


def test_back_as_a_trial_writes_nothing_and_may_be_run_beside_ipamd(
    node: tuple[PeerNode, tuple[Entry, ...]], capsys: pytest.CaptureFixture[str]
) -> None:
    made, _ = node
    before = made.checkpoint.read_bytes()
    with only_one(made.directory):
        assert main.main(["migrate", "back", "--dry-run"]) == 0
    assert f"{made.checkpoint} would hold 8 allocations" in capsys.readouterr().out
    assert made.checkpoint.read_bytes() == before
    store = Store.open(made.directory / "ipamd.db", boot_id=clock.boot_id())
    assert store.noted(migration.HANDOVER) == ""
    store.close()


@pytest.mark.parametrize(
    ("obstacle", "said"),
    [
        ("ipamd runs", "stop ipamd first"),
        ("aws-node runs", "aws-node answers on"),
        ("no store", "no store at"),
        ("handed back", "was handed back already"),
        ("bad setting", "WARM_IP_TARGET"),
        ("no place", "cannot write aws-node's checkpoint"),
    ],
)
def test_back_does_nothing_where_it_would_not_be_safe(
    node: tuple[PeerNode, tuple[Entry, ...]],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    obstacle: str,
    said: str,
) -> None:
    made, _ = node
    sleeps(monkeypatch)
    words = ["migrate", "back"]
    with socket.socket(socket.AF_UNIX) as server:
        if obstacle == "aws-node runs":
            server.bind(str(made.directory / "aws.sock"))
            server.listen()
        if obstacle == "no store":
            (made.directory / "ipamd.db").unlink()
        if obstacle == "handed back":
            assert main.main(words) == 0
        if obstacle == "bad setting":
            monkeypatch.setenv("WARM_IP_TARGET", "many")
            monkeypatch.setenv("IP_COOLDOWN_PERIOD", "long")
            said = "IP_COOLDOWN_PERIOD"
        if obstacle == "no place":
            words += ["--checkpoint", str(made.checkpoint / "below" / "ipam.json")]
        before = made.checkpoint.read_bytes()
        if obstacle == "ipamd runs":
            with only_one(made.directory):
                assert main.main(words) == 2
        else:
            assert main.main(words) == 2
    assert said in capsys.readouterr().err
    assert made.checkpoint.read_bytes() == before


def test_back_warns_of_what_aws_node_will_not_keep(
    node: tuple[PeerNode, tuple[Entry, ...]],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made, _ = node
    sleeps(monkeypatch)
    (made.directory / "delete-queue").mkdir()
    (made.directory / "delete-queue" / "c1,eth0").touch()
    store = Store.open(made.directory / "ipamd.db", boot_id=clock.boot_id())
    ledger = store.load()
    gone = ledger.allocations[b.key("peer-7")]
    store.commit(Change(drop_enis=(gone.eni_id,)))
    store.close()
    assert main.main(["migrate", "back"]) == 1
    said = capsys.readouterr().out
    assert f"! {gone.address}: the cloud does not show it" in said
    assert "1 deletes are queued" in said


def test_ipamctl_loads_neither_the_sdk_nor_the_emulated_cloud() -> None:
    code = (
        "import sys; import ipamd.cli.migrate; "
        "bad = {'boto3', 'botocore', 'moto', 'pyroute2', 'providers'} & set(sys.modules); "
        "print(sorted(bad))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "[]\n"
