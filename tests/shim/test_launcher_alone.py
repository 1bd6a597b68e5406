"""Both launchers while vpc-cnid is away: what they wait for, what they answer, what they queue."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import time
from pathlib import Path

import pytest
from cni_shim.delete_queue import ENTRY_LIMIT, DeleteQueue
from cni_shim.spec import AttachmentKey

from tests.shim.fake_daemon import answering, dying, fake_daemon, stalling
from tests.shim.launchers import CompilerMissing, Finished, Launcher, finish, launcher_command
from tests.shim.test_launcher import CONFIG, add, error_of

KEY = AttachmentKey(container_id="c1", ifname="eth0")


def delete(**others: str) -> dict[str, str]:
    return add(CNI_COMMAND="DEL") | others


def brief_delete(**others: str) -> dict[str, str]:
    """Does not knock for long, where the time is not what a test is about."""
    return delete(VPC_CNI_DEADLINE_MS="30") | others


def feed(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    process.stdin.write(CONFIG)
    process.stdin.close()
    process.stdin = None


def wait_until_open(process: subprocess.Popen[bytes], path: Path) -> None:
    """Until the process holds the file open."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        assert process.poll() is None
        fds = Path(f"/proc/{process.pid}/fd")
        if str(path) in (str(fd.readlink()) for fd in fds.iterdir() if fd.is_symlink()):
            return
        time.sleep(0.002)
    raise AssertionError(f"{path} was not opened")


@pytest.fixture
def stale_socket(run_dir: Path) -> Path:
    """A socket file that a killed daemon left behind: connecting is refused."""
    path = run_dir / "cni.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    return path


def test_check_without_a_daemon_is_to_be_tried_again(launcher: Launcher) -> None:
    finished = launcher.run(add(CNI_COMMAND="CHECK"), CONFIG)
    error = error_of(finished)
    assert (error["code"], error["cniVersion"]) == (11, "0.4.0")
    assert f"{launcher.run_dir}/cni.sock: absent (errno 2)" in str(error["details"])
    assert 0.74 < finished.seconds < 4


def test_gc_against_a_stale_socket_is_to_be_tried_again(
    launcher: Launcher, stale_socket: Path
) -> None:
    error = error_of(launcher.run(add(CNI_COMMAND="GC"), CONFIG))
    assert error["code"] == 11
    assert f"{stale_socket}: nobody listens (errno 111)" in str(error["details"])


@pytest.mark.slow
def test_an_add_waits_ten_seconds_for_a_daemon(launcher: Launcher) -> None:
    finished = launcher.run(add(), CONFIG)
    error = error_of(finished)
    assert error["code"] == 11
    assert error["msg"] == "vpc-cnid is not reachable"
    assert f"{launcher.run_dir}/cni.sock" in str(error["details"])
    assert 9.9 < finished.seconds < 15


def test_an_add_reaches_a_daemon_that_comes_late(launcher: Launcher, stale_socket: Path) -> None:
    started = time.monotonic()
    process = launcher.start(add())
    feed(process)
    while time.monotonic() < started + 1.0:  # longer than the other verbs would have waited
        assert process.poll() is None
        time.sleep(0.01)
    stale_socket.unlink()
    with fake_daemon(launcher.run_dir, answering(b"late\n")):
        finished = finish(process, b"", started=started)
    assert (finished.status, finished.stdout) == (0, b"late\n")


def test_a_lost_daemon_is_waited_for_until_the_deadline(launcher: Launcher) -> None:
    with fake_daemon(launcher.run_dir, dying()):
        finished = launcher.run(add(CNI_COMMAND="CHECK", VPC_CNI_DEADLINE_MS="1500"), CONFIG)
    assert error_of(finished)["code"] == 11
    assert 1.49 < finished.seconds < 6


def test_status_with_a_fresh_heartbeat_is_success_without_output(launcher: Launcher) -> None:
    (launcher.run_dir / "heartbeat").touch()
    finished = launcher.run(add(CNI_COMMAND="STATUS"), CONFIG)
    assert (finished.status, finished.stdout, finished.stderr) == (0, b"", b"")


@pytest.mark.parametrize("age_seconds", [None, 90])
def test_status_without_a_recent_heartbeat_is_code_50(
    launcher: Launcher, age_seconds: int | None
) -> None:
    if age_seconds is not None:
        heartbeat = launcher.run_dir / "heartbeat"
        heartbeat.touch()
        os.utime(heartbeat, (time.time() - age_seconds,) * 2)
    error = error_of(launcher.run(add(CNI_COMMAND="STATUS"), CONFIG))
    assert error["code"] == 50
    assert "heartbeat" in str(error["details"])


def test_status_without_a_daemon_answers_within_100_ms(launcher: Launcher) -> None:
    runs = [launcher.run(add(CNI_COMMAND="STATUS"), CONFIG).seconds for _ in range(5)]
    assert min(runs) < 0.1  # the best of five: the others measure the machine


def test_status_of_a_daemon_that_hangs_goes_by_the_heartbeat_within_100_ms(
    launcher: Launcher,
) -> None:
    (launcher.run_dir / "heartbeat").touch()
    with fake_daemon(launcher.run_dir, stalling):
        runs = [launcher.run(add(CNI_COMMAND="STATUS"), CONFIG) for _ in range(5)]
    assert [(finished.status, finished.stdout) for finished in runs] == [(0, b"")] * 5
    assert min(finished.seconds for finished in runs) < 0.1


def test_a_del_without_a_daemon_is_queued_and_succeeds(launcher: Launcher) -> None:
    finished = launcher.run(delete(), CONFIG)
    assert (finished.status, finished.stdout, finished.stderr) == (0, b"", b"")
    (entry,) = DeleteQueue(launcher.run_dir).entries()
    assert entry.key == KEY
    assert entry.request.stdin == CONFIG
    assert entry.request.value("CNI_COMMAND") == "DEL"
    assert not entry.request.has_netns
    assert abs(time.time() - entry.queued_unix) < 30


def test_a_queued_del_leaves_private_files_and_nothing_else(launcher: Launcher) -> None:
    launcher.run(brief_delete(), CONFIG)
    home = launcher.run_dir / "delete-queue"
    modes = {path.name: path.stat().st_mode & 0o777 for path in home.iterdir()}
    assert home.stat().st_mode & 0o777 == 0o700
    assert modes == {"c1,eth0": 0o600, "lock": 0o600}


def test_a_del_that_loses_its_daemon_is_queued(launcher: Launcher) -> None:
    with fake_daemon(launcher.run_dir, dying(b"VCNA")):
        finished = launcher.run(delete(), CONFIG)
    assert (finished.status, finished.stdout) == (0, b"")
    assert [entry.key for entry in DeleteQueue(launcher.run_dir).entries()] == [KEY]


def test_the_same_del_twice_is_one_entry(launcher: Launcher) -> None:
    launcher.run(brief_delete(), b"first")
    launcher.run(brief_delete(), b"second")
    (entry,) = DeleteQueue(launcher.run_dir).entries()
    assert entry.request.stdin == b"second"


def test_many_dels_at_once_are_all_queued(launcher: Launcher) -> None:
    started = time.monotonic()
    processes = [launcher.start(brief_delete(CNI_CONTAINERID=f"c{n}")) for n in range(20)]
    statuses = [finish(each, CONFIG, started=started).status for each in processes]
    assert statuses == [0] * 20
    assert len(DeleteQueue(launcher.run_dir).entries()) == 20


def fill(run_dir: Path, entries: int) -> Path:
    home = run_dir / "delete-queue"
    home.mkdir(mode=0o700)
    for n in range(entries):
        (home / f"full{n},eth0").touch()
    return home


def test_a_full_queue_is_to_be_tried_again(launcher: Launcher) -> None:
    home = fill(launcher.run_dir, ENTRY_LIMIT)
    error = error_of(launcher.run(brief_delete(), CONFIG))
    assert error["code"] == 11
    assert f"{home}: full" in str(error["details"])
    assert not (home / "c1,eth0").exists()


def test_what_is_not_an_entry_does_not_fill_the_queue(launcher: Launcher) -> None:
    home = fill(launcher.run_dir, ENTRY_LIMIT - 1)
    (home / ".full,eth0.1.1").touch()
    assert launcher.run(brief_delete(), CONFIG).status == 0


def test_an_entry_of_a_full_queue_can_be_replaced(launcher: Launcher) -> None:
    home = fill(launcher.run_dir, ENTRY_LIMIT)
    assert launcher.run(brief_delete(CNI_CONTAINERID="full7"), CONFIG).status == 0
    assert (home / "full7,eth0").stat().st_size > 0


def test_without_a_run_directory_a_del_fails(launcher: Launcher) -> None:
    nowhere = Launcher(command=launcher.command, run_dir=launcher.run_dir / "absent")
    error = error_of(nowhere.run(brief_delete(), CONFIG))
    assert error["code"] == 11
    assert "absent/delete-queue: cannot open (errno 2)" in str(error["details"])


def test_a_queue_that_is_no_directory_fails_the_del(launcher: Launcher) -> None:
    (launcher.run_dir / "delete-queue").touch()
    error = error_of(launcher.run(brief_delete(), CONFIG))
    assert error["code"] == 11
    assert "cannot open (errno 20)" in str(error["details"])


def test_an_entry_that_cannot_be_written_leaves_nothing(launcher: Launcher) -> None:
    home = launcher.run_dir / "delete-queue"
    (home / "c1,eth0").mkdir(parents=True)  # a file cannot be renamed over it
    error = error_of(launcher.run(brief_delete(), CONFIG))
    assert error["code"] == 11
    assert "cannot write (errno 21)" in str(error["details"])
    assert sorted(path.name for path in home.iterdir()) == ["c1,eth0", "lock"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        pytest.param("CNI_CONTAINERID", "", id="no-id"),
        pytest.param("CNI_CONTAINERID", "../x", id="id-with-slash"),
        pytest.param("CNI_CONTAINERID", ".x", id="id-with-leading-dot"),
        pytest.param("CNI_CONTAINERID", "a,b", id="id-with-comma"),
        pytest.param("CNI_CONTAINERID", "a" * 201, id="long-id"),
        pytest.param("CNI_IFNAME", "", id="no-ifname"),
        pytest.param("CNI_IFNAME", "..", id="dots"),
        pytest.param("CNI_IFNAME", "a/b", id="ifname-with-slash"),
        pytest.param("CNI_IFNAME", "a:b", id="ifname-with-colon"),
        pytest.param("CNI_IFNAME", "a\vb", id="ifname-with-space"),
        pytest.param("CNI_IFNAME", "a" * 16, id="long-ifname"),
    ],
)
def test_a_name_that_makes_no_file_name_is_refused(
    launcher: Launcher, name: str, value: str
) -> None:
    error = error_of(launcher.run(brief_delete(**{name: value}), CONFIG))
    assert error["code"] == 4
    assert name in str(error["msg"])
    assert not (launcher.run_dir / "delete-queue" / f"{value},eth0").exists()


@pytest.mark.parametrize("name", ["a" * 200 + ",eth0", "A9_.-,e,t\u00fc"])
def test_the_longest_and_oddest_names_are_queued(launcher: Launcher, name: str) -> None:
    container_id, _, ifname = name.partition(",")
    finished = launcher.run(brief_delete(CNI_CONTAINERID=container_id, CNI_IFNAME=ifname), CONFIG)
    assert finished.status == 0
    (entry,) = DeleteQueue(launcher.run_dir).entries()
    assert entry.key == AttachmentKey(container_id=container_id, ifname=ifname)


def test_a_name_that_is_no_utf_8_is_queued_and_set_aside_by_the_daemon(launcher: Launcher) -> None:
    """No ADD of that name was ever served (gRPC carries text), so there is nothing to release."""
    finished = launcher.run(brief_delete(CNI_IFNAME="e\udcff"), CONFIG)
    assert finished.status == 0
    assert DeleteQueue(launcher.run_dir).entries() == ()
    assert len(list((launcher.run_dir / "delete-queue" / "damaged").iterdir())) == 1


def test_a_del_waits_for_a_daemon_that_is_starting(launcher: Launcher) -> None:
    """It drains and listens under the lock, so the DEL must reach it and not the queue."""
    queue = DeleteQueue(launcher.run_dir)
    queue.take_lock()
    started = time.monotonic()
    process = launcher.start(delete())
    feed(process)
    wait_until_open(process, launcher.run_dir / "delete-queue" / "lock")
    with fake_daemon(launcher.run_dir, answering(b"")) as daemon:
        assert not daemon.calls
        queue.release()
        finished = finish(process, b"", started=started)
    assert (finished.status, finished.stdout) == (0, b"")
    assert len(daemon.calls) == 1
    assert queue.entries() == ()


def test_a_lock_that_is_never_released_ends_in_try_again(launcher: Launcher) -> None:
    queue = DeleteQueue(launcher.run_dir)
    queue.take_lock()
    finished = launcher.run(delete(), CONFIG)
    queue.release()
    error = error_of(finished)
    assert error["code"] == 11
    assert "cannot lock (errno 11)" in str(error["details"])
    assert 3.7 < finished.seconds < 8
    assert queue.entries() == ()


def test_a_killed_launcher_does_not_keep_the_lock(launcher: Launcher) -> None:
    queue = DeleteQueue(launcher.run_dir)
    queue.take_lock()
    process = launcher.start(delete())
    feed(process)
    wait_until_open(process, launcher.run_dir / "delete-queue" / "lock")
    process.kill()
    finish(process, b"", started=time.monotonic())
    queue.release()
    queue.take_lock(timeout_seconds=0)  # raises while anybody holds it
    queue.release()
    assert queue.entries() == ()


def test_every_answer_without_a_daemon_is_one_document_or_nothing(launcher: Launcher) -> None:
    """The table of the verbs with vpc-cnid down, in one place."""
    seen = {}
    for verb in ("ADD", "DEL", "CHECK", "GC", "STATUS", "VERSION"):
        env = add(CNI_COMMAND=verb, VPC_CNI_DEADLINE_MS="100")
        seen[verb] = code_of(launcher.run(env, CONFIG))
    assert seen == {"ADD": 11, "DEL": 0, "CHECK": 11, "GC": 11, "STATUS": 50, "VERSION": 0}


def code_of(finished: Finished) -> int:
    document = json.loads(finished.stdout) if finished.stdout else {}
    assert (finished.status == 0) == ("code" not in document)
    return int(document.get("code", 0))


def test_a_daemon_whose_backlog_is_full_is_waited_for(launcher: Launcher, run_dir: Path) -> None:
    """Somebody is there, so a DEL is not queued; it ends at the deadline like any other wait."""
    with socket.socket(socket.AF_UNIX) as listener, contextlib.ExitStack() as stack:
        listener.bind(str(run_dir / "cni.sock"))
        listener.listen(0)
        with contextlib.suppress(BlockingIOError):
            while True:
                waiting = stack.enter_context(socket.socket(socket.AF_UNIX))
                waiting.settimeout(0)
                waiting.connect(str(run_dir / "cni.sock"))
        finished = launcher.run(delete(VPC_CNI_DEADLINE_MS="200"), CONFIG)
    assert error_of(finished)["msg"] == "vpc-cnid did not answer in time"
    assert DeleteQueue(run_dir).entries() == ()


@pytest.mark.parametrize(
    "env",
    [
        pytest.param({}, id="no-command"),
        pytest.param({"CNI_COMMAND": "NO\tNE"}, id="unknown-command"),
        pytest.param(add(CNI_ARGS="x" * (64 << 10)), id="large-environment"),
        pytest.param(add(VPC_CNI_RUN_DIR="/" + "r" * 99), id="long-run-directory"),
        pytest.param(add(VPC_CNI_DEADLINE_MS="1"), id="away"),
        pytest.param(add(CNI_COMMAND="STATUS"), id="no-heartbeat"),
        pytest.param(brief_delete(CNI_CONTAINERID="?"), id="bad-id"),
        pytest.param(brief_delete(CNI_IFNAME="a b"), id="bad-ifname"),
        pytest.param(brief_delete(VPC_CNI_RUN_DIR="/nonexistent"), id="no-queue"),
        pytest.param({"CNI_COMMAND": "VERSION"}, id="version"),
    ],
)
def test_both_launchers_print_the_same_bytes(env: dict[str, str], run_dir: Path) -> None:
    try:
        commands = [launcher_command(kind) for kind in ("c", "python")]
    except CompilerMissing as e:
        pytest.skip(str(e))
    c, python = (Launcher(command=each, run_dir=run_dir).run(env, CONFIG) for each in commands)
    assert (c.status, c.stdout, c.stderr) == (python.status, python.stdout, python.stderr)
