"""Both launchers against a daemon that is there: what goes in, what comes out, what goes wrong."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cni_shim import spec

from tests.shim.fake_daemon import (
    answer_header,
    answering,
    dying,
    echoing,
    fake_daemon,
    sending,
    stalling,
)
from tests.shim.launchers import Finished, Launcher, finish

CONFIG = b'{"cniVersion": "0.4.0", "name": "net", "type": "vpc-cni"}'
RESULT = b'{"cniVersion": "0.4.0", "ips": []}\n'


def add(**others: str) -> dict[str, str]:
    env = {
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": "c1",
        "CNI_NETNS": "/proc/self/ns/net",
        "CNI_IFNAME": "eth0",
        "CNI_PATH": "/opt/cni/bin",
    }
    return env | others


def error_of(finished: Finished) -> dict[str, object]:
    """The error document; also checks that it is whole, alone, and comes with a failure."""
    assert finished.status == 1
    document = json.loads(finished.stdout)
    assert set(document) == {"cniVersion", "code", "msg", "details"}
    return dict(document)


def test_an_answer_is_printed_byte_for_byte(launcher: Launcher) -> None:
    with fake_daemon(launcher.run_dir, answering(RESULT, stderr=b"a warning\n")):
        finished = launcher.run(add(), CONFIG)
    assert (finished.status, finished.stdout, finished.stderr) == (0, RESULT, b"a warning\n")


def test_the_exit_status_is_the_daemons(launcher: Launcher) -> None:
    with fake_daemon(launcher.run_dir, answering(b'{"code": 7}', status=7)):
        finished = launcher.run(add(), CONFIG)
    assert (finished.status, finished.stdout) == (7, b'{"code": 7}')


def test_the_request_holds_stdin_and_the_variables_of_cni_and_tracing(launcher: Launcher) -> None:
    traced = add(CNI_ARGS="A=1;B=\udcff", TRACEPARENT="00-1", TRACESTATE="x", BAGGAGE="", HOME="/")
    with fake_daemon(launcher.run_dir, answering()) as daemon:
        launcher.run(traced, CONFIG)
    request = daemon.calls[0].request
    expected = {name: value for name, value in traced.items() if name != "HOME"}
    assert {var.name: var.value for var in request.env} == expected
    assert request.stdin == CONFIG


@pytest.mark.parametrize("verb", ["ADD", "CHECK", "DEL"])
def test_the_netns_travels_as_an_open_fd(launcher: Launcher, verb: str, run_dir: Path) -> None:
    file = run_dir / "netns"
    file.touch()
    with fake_daemon(run_dir, answering()) as daemon:
        launcher.run(add(CNI_COMMAND=verb, CNI_NETNS=str(file)), CONFIG)
    status = file.stat()
    assert daemon.calls[0].netns == (status.st_dev, status.st_ino)
    assert daemon.calls[0].request.netns_errno == 0


def test_a_real_network_namespace_can_be_passed(launcher: Launcher) -> None:
    with fake_daemon(launcher.run_dir, answering()) as daemon:
        launcher.run(add(), CONFIG)
    own = Path("/proc/self/ns/net").stat()
    assert daemon.calls[0].netns == (own.st_dev, own.st_ino)


@pytest.mark.parametrize(
    ("verb", "path", "errno"),
    [
        pytest.param("ADD", "/nonexistent/netns", 2, id="the-path-is-missing"),
        pytest.param("DEL", "/nonexistent/netns", 2, id="the-path-is-missing-on-del"),
        pytest.param("DEL", "", 0, id="empty-as-usual-on-del"),
        pytest.param("GC", "/proc/self/ns/net", 0, id="gc-wants-none"),
        pytest.param("STATUS", "dummy", 0, id="status-wants-none"),
    ],
)
def test_a_request_without_netns_says_why(
    launcher: Launcher, verb: str, path: str, errno: int
) -> None:
    with fake_daemon(launcher.run_dir, answering()) as daemon:
        launcher.run(add(CNI_COMMAND=verb, CNI_NETNS=path), CONFIG)
    assert daemon.calls[0].netns is None
    assert daemon.calls[0].request.netns_errno == errno


def test_a_fifo_as_netns_does_not_hang_the_launcher(launcher: Launcher, run_dir: Path) -> None:
    os.mkfifo(run_dir / "fifo")
    with fake_daemon(run_dir, answering()) as daemon:
        launcher.run(add(CNI_NETNS=str(run_dir / "fifo")), CONFIG)
    assert daemon.calls[0].netns is not None


def test_a_mebibyte_of_stdin_arrives_whole(launcher: Launcher) -> None:
    stdin = os.urandom(1 << 20)
    with fake_daemon(launcher.run_dir, answering()) as daemon:
        assert launcher.run(add(), stdin).status == 0
    assert daemon.calls[0].request.stdin == stdin


def test_a_large_answer_arrives_whole(launcher: Launcher) -> None:
    stdout = os.urandom(4 << 20)
    with fake_daemon(launcher.run_dir, answering(stdout)):
        assert launcher.run(add(), CONFIG).stdout == stdout


def test_stdin_at_the_limit_is_sent(launcher: Launcher) -> None:
    with fake_daemon(launcher.run_dir, answering()) as daemon:
        assert launcher.run(add(), bytes(4 << 20)).status == 0
    assert len(daemon.calls[0].request.stdin) == 4 << 20


def test_stdin_over_the_limit_is_refused(launcher: Launcher) -> None:
    error = error_of(launcher.run(add(), CONFIG + bytes(4 << 20)))
    assert (error["code"], error["cniVersion"]) == (6, "0.4.0")


def test_an_environment_over_the_limit_is_refused(launcher: Launcher) -> None:
    error = error_of(launcher.run(add(CNI_ARGS="x" * (64 << 10)), CONFIG))
    assert error["code"] == 4


def test_a_closed_stdin_counts_as_empty(launcher: Launcher) -> None:
    closing = ("/bin/sh", "-c", 'exec "$0" "$@" <&-', *launcher.command)
    with fake_daemon(launcher.run_dir, answering()) as daemon:
        finished = Launcher(command=closing, run_dir=launcher.run_dir).run(add())
    assert finished.status == 0
    assert daemon.calls[0].request.stdin == b""
    own = Path("/proc/self/ns/net").stat()
    assert daemon.calls[0].netns == (own.st_dev, own.st_ino)


def test_version_needs_neither_daemon_nor_stdin(launcher: Launcher) -> None:
    closing = ("/bin/sh", "-c", 'exec "$0" "$@" <&-', *launcher.command)
    finished = Launcher(command=closing, run_dir=Path("/nonexistent")).run(
        {"CNI_COMMAND": "VERSION", "CNI_NETNS": "dummy", "CNI_IFNAME": "dummy", "CNI_PATH": "dummy"}
    )
    assert finished.status == 0
    assert json.loads(finished.stdout) == {
        "cniVersion": spec.NEWEST_VERSION,
        "supportedVersions": list(spec.SUPPORTED_VERSIONS),
    }


def test_version_does_not_wait_for_stdin(launcher: Launcher) -> None:
    process = launcher.start({"CNI_COMMAND": "VERSION"})
    assert process.wait(20) == 0  # its stdin is still open here
    process.communicate()


@pytest.mark.parametrize("command", ["add", "ADD ", "NONE"])
def test_an_unknown_command_is_code_4(launcher: Launcher, command: str) -> None:
    error = error_of(launcher.run({"CNI_COMMAND": command}, CONFIG))
    assert (error["code"], error["msg"]) == (4, "CNI_COMMAND is unknown")


@pytest.mark.parametrize("env", [{}, {"CNI_COMMAND": ""}], ids=["absent", "empty"])
def test_a_human_who_starts_it_is_told_what_it_is(launcher: Launcher, env: dict[str, str]) -> None:
    """As upstream's plugins: the text goes to stderr, nothing to stdout, and it is no failure."""
    finished = launcher.run(env, b"")
    assert (finished.status, finished.stdout) == (0, b"")
    assert finished.stderr == b"vpc-cni: CNI plugin, started by a container runtime\n"


def test_what_would_break_json_is_replaced_in_messages(launcher: Launcher) -> None:
    error = error_of(launcher.run({"CNI_COMMAND": 'a"\\\n\udcff'}))
    assert error["details"] == "a????"


def test_a_run_directory_too_long_for_a_socket_is_named(launcher: Launcher) -> None:
    env = add(VPC_CNI_RUN_DIR="/" + "r" * 98)
    assert error_of(launcher.run(env, CONFIG))["msg"] == "VPC_CNI_RUN_DIR is too long"


@pytest.mark.parametrize(
    ("stdin", "version"),
    [
        pytest.param(b'{"cniVersion":"0.3.1"}', "0.3.1", id="tight"),
        pytest.param(b'{ "cniVersion" :\n "0.3.1" }', "0.3.1", id="spaced"),
        pytest.param(b'{"name": "x"}', spec.NEWEST_VERSION, id="absent"),
        pytest.param(b'{"cniVersion": ""}', spec.NEWEST_VERSION, id="empty"),
        pytest.param(b'{"cniVersion": 1}', spec.NEWEST_VERSION, id="number"),
        pytest.param(b'{"cniVersion": "1.0\\n"}', spec.NEWEST_VERSION, id="escape"),
        pytest.param(b'{"cniVersion": "1111111111111111"}', spec.NEWEST_VERSION, id="long"),
        pytest.param(b'{"cniVersion"', spec.NEWEST_VERSION, id="cut"),
        pytest.param(b'{"cniVersion": "1.0', spec.NEWEST_VERSION, id="cut-in-the-value"),
        pytest.param(b"", spec.NEWEST_VERSION, id="nothing"),
    ],
)
def test_errors_carry_the_version_of_the_config(
    launcher: Launcher, stdin: bytes, version: str
) -> None:
    finished = launcher.run(add(CNI_COMMAND="CHECK", VPC_CNI_DEADLINE_MS="1"), stdin)
    assert error_of(finished)["cniVersion"] == version


@pytest.mark.parametrize(
    "bytes_sent",
    [
        pytest.param(answer_header(b"HTTP"), id="magic"),
        pytest.param(answer_header(status=256), id="exit-status"),
        pytest.param(answer_header(stdout=(4 << 20) + 1), id="stdout"),
        pytest.param(answer_header(stderr=(64 << 10) + 1), id="stderr"),
    ],
)
def test_what_is_no_answer_is_an_error(launcher: Launcher, bytes_sent: bytes) -> None:
    with fake_daemon(launcher.run_dir, sending(bytes_sent)):
        error = error_of(launcher.run(add(), CONFIG))
    assert error["code"] == 5


@pytest.mark.parametrize("verb", ["ADD", "DEL", "CHECK", "GC"])
@pytest.mark.parametrize("protocol", [0, 2, 65535])
def test_an_answer_of_another_protocol_is_to_be_tried_again(
    launcher: Launcher, verb: str, protocol: int
) -> None:
    """Half of an upgrade; the runtime comes again, and by then both are of one version."""
    with fake_daemon(launcher.run_dir, sending(answer_header(protocol=protocol, stdout=2) + b"{}")):
        error = error_of(launcher.run(add(CNI_COMMAND=verb), CONFIG))
    assert error["code"] == 11
    assert f"speaks {protocol}, vpc-cni 1" in str(error["details"])


def test_after_a_restart_the_request_is_sent_again(launcher: Launcher) -> None:
    started = time.monotonic()
    with fake_daemon(launcher.run_dir, dying()) as first:
        process = launcher.start(add())
        assert process.stdin is not None
        process.stdin.write(CONFIG)
        process.stdin.close()
        process.stdin = None
        first.wait_for_calls(1)
        while first.path.exists():
            time.sleep(0.001)
        with fake_daemon(launcher.run_dir, answering(RESULT)) as second:
            finished = finish(process, b"", started=started)
    assert (finished.status, finished.stdout) == (0, RESULT)
    assert len(first.calls) == len(second.calls) == 1
    before, after = first.calls[0], second.calls[0]
    assert (after.request.env, after.request.stdin) == (before.request.env, CONFIG)
    assert after.netns == before.netns is not None
    assert 0 < after.request.deadline_ms < before.request.deadline_ms <= 30000


@pytest.mark.parametrize(
    "half",
    [
        pytest.param(b"VCN", id="in-the-header"),
        pytest.param(answer_header(stdout=len(RESULT)), id="after-the-header"),
        pytest.param(answer_header(stdout=len(RESULT)) + RESULT[:10], id="in-stdout"),
        pytest.param(answer_header(stdout=1, stderr=2) + b"{", id="before-stderr"),
    ],
)
def test_half_an_answer_is_never_printed(launcher: Launcher, half: bytes) -> None:
    with fake_daemon(launcher.run_dir, sending(half), answering(RESULT)) as daemon:
        finished = launcher.run(add(), CONFIG)
    assert (finished.status, finished.stdout, finished.stderr) == (0, RESULT, b"")
    assert len(daemon.calls) == 2


def test_an_answer_sent_before_the_request_was_read_counts(
    launcher: Launcher, run_dir: Path
) -> None:
    """As a daemon does that refuses a frame by its header."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(run_dir / "cni.sock"))
        listener.listen()
        process = launcher.start(add())
        assert process.stdin is not None
        process.stdin.write(bytes(4 << 20))
        process.stdin.close()
        process.stdin = None
        listener.settimeout(20)
        connection, _ = listener.accept()
        connection.sendall(answer_header(status=1, stdout=2) + b"no")
        connection.close()
        finished = finish(process, b"", started=time.monotonic())
    assert (finished.status, finished.stdout) == (1, b"no")


@pytest.mark.parametrize("verb", ["ADD", "DEL", "CHECK", "GC"])
def test_the_deadline_ends_the_wait_for_an_answer(launcher: Launcher, verb: str) -> None:
    with fake_daemon(launcher.run_dir, stalling) as daemon:
        finished = launcher.run(add(CNI_COMMAND=verb, VPC_CNI_DEADLINE_MS="200"), CONFIG)
    error = error_of(finished)
    assert error["code"] == 11
    assert str(daemon.path) in str(error["details"])
    assert verb in str(error["details"])
    assert 0.19 < finished.seconds < 5


def test_the_deadline_also_ends_an_answer_that_trickles(launcher: Launcher) -> None:
    def trickle(daemon: object, connection: object, call: object) -> None:
        assert isinstance(connection, socket.socket)
        connection.settimeout(0.02)
        connection.sendall(answer_header(stdout=1000))
        while True:
            try:
                connection.sendall(b"x")
                if connection.recv(1) == b"":
                    return
            except TimeoutError:
                continue
            except (BrokenPipeError, ConnectionResetError):
                return

    with fake_daemon(launcher.run_dir, trickle):
        finished = launcher.run(add(VPC_CNI_DEADLINE_MS="300"), CONFIG)
    assert error_of(finished)["code"] == 11
    assert finished.seconds < 5


@pytest.mark.parametrize(
    ("verb", "limit_ms"),
    [("ADD", 30000), ("DEL", 10000), ("CHECK", 5000), ("GC", 30000), ("STATUS", 60)],
)
@pytest.mark.parametrize("asked", ["", "9999999", "0", "-5", "soon"])
def test_the_deadline_variable_only_lowers(
    launcher: Launcher, verb: str, limit_ms: int, asked: str
) -> None:
    with fake_daemon(launcher.run_dir, answering()) as daemon:
        launcher.run(add(CNI_COMMAND=verb, VPC_CNI_DEADLINE_MS=asked), CONFIG)
    assert max(limit_ms - 900, 0) < daemon.calls[0].request.deadline_ms <= limit_ms


def test_a_killed_launcher_ends_its_connection(launcher: Launcher) -> None:
    with fake_daemon(launcher.run_dir, stalling) as daemon:
        process = launcher.start(add())
        assert process.stdin is not None
        process.stdin.close()
        process.stdin = None
        daemon.wait_for_calls(1)
        process.send_signal(signal.SIGKILL)
        finished = finish(process, b"", started=time.monotonic())
        # The end of this block joins the step, which asserts that it saw the connection end.
    assert finished.status == -signal.SIGKILL


def test_twenty_launchers_at_once_each_get_their_own_answer(launcher: Launcher) -> None:
    started = time.monotonic()
    with fake_daemon(launcher.run_dir, echoing("CNI_CONTAINERID")):
        processes = [launcher.start(add(CNI_CONTAINERID=f"c{n}")) for n in range(20)]
        outputs = [finish(each, CONFIG, started=started).stdout for each in processes]
    assert outputs == [f"c{n}".encode() for n in range(20)]


def test_a_reader_that_has_gone_is_a_failure(launcher: Launcher) -> None:
    with fake_daemon(launcher.run_dir, answering(RESULT)):
        reader, writer = os.pipe()
        process = subprocess.Popen(
            launcher.command,
            env={"VPC_CNI_RUN_DIR": str(launcher.run_dir)} | add(),
            stdin=subprocess.DEVNULL,
            stdout=writer,
        )
        os.close(writer)
        os.close(reader)
        process.wait(20)
    assert process.returncode == 1


RUNTIME = "import subprocess, sys; subprocess.run(sys.argv[1:], stdin=sys.stdin)"


def started_by_a_runtime(launcher: Launcher, verb: str) -> subprocess.Popen[bytes]:
    """A process that has started the launcher for a verb and waits for it."""
    runtime = Launcher(
        command=(sys.executable, "-c", RUNTIME, *launcher.command), run_dir=launcher.run_dir
    )
    process = runtime.start(add(CNI_COMMAND=verb))
    assert process.stdin is not None
    process.stdin.write(CONFIG)
    process.stdin.close()
    process.stdin = None
    return process


def die(runtime: subprocess.Popen[bytes]) -> None:
    """As by SIGKILL; the launcher lives on, an orphan."""
    runtime.kill()
    runtime.wait()
    for pipe in (runtime.stdout, runtime.stderr):
        assert pipe is not None
        pipe.close()


def test_an_add_whose_runtime_dies_gives_up_its_request(launcher: Launcher) -> None:
    """Nobody would take the answer, and a DEL for it may be over before that is there."""
    with fake_daemon(launcher.run_dir, stalling) as daemon:
        runtime = started_by_a_runtime(launcher, "ADD")
        daemon.wait_for_calls(1)
        die(runtime)
    # The end of the block joined the step, which asserts that it saw the connection end.
    assert len(daemon.calls) == 1


def test_an_add_whose_runtime_has_died_does_not_knock_any_more(launcher: Launcher) -> None:
    with fake_daemon(launcher.run_dir, dying()) as first:
        runtime = started_by_a_runtime(launcher, "ADD")
        first.wait_for_calls(1)
        die(runtime)
        while first.path.exists():
            time.sleep(0.001)
        time.sleep(0.3)
        with fake_daemon(launcher.run_dir, answering(RESULT)) as second:
            time.sleep(0.5)
    assert second.calls == []


def test_a_del_whose_runtime_has_died_is_done_all_the_same(launcher: Launcher) -> None:
    with fake_daemon(launcher.run_dir, dying()) as first:
        runtime = started_by_a_runtime(launcher, "DEL")
        first.wait_for_calls(1)
        die(runtime)
        while first.path.exists():
            time.sleep(0.001)
        with fake_daemon(launcher.run_dir, answering()) as second:
            second.wait_for_calls(1)
    assert len(second.calls) == 1
