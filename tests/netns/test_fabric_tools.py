"""The sandbox, the namespace tools and the small runtime that everything else here stands on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from providers.sim import lab_sandbox, netns
from providers.sim.runtime import Runtime

pytestmark = pytest.mark.netns

SANDBOX = str(Path(__file__).parents[2] / "scripts" / "_sandbox")
OUTSIDE = {key: value for key, value in os.environ.items() if key != "VPC_IPAMD_SANDBOX"}

# Appends its CNI_COMMAND, CNI_NETNS and prevResult to a log; a file beside it says what fails.
PLUGIN = """#!/usr/bin/env python3
import json, os, sys, time
here = os.path.dirname(os.path.abspath(__file__))
command = os.environ["CNI_COMMAND"]
row = [command, bool(os.environ["CNI_NETNS"]), "prevResult" in json.load(sys.stdin)]
row.append(os.readlink("/proc/self/ns/net"))
open(here + "/log", "a").write(json.dumps(row) + "\\n")
behaviour = open(here + "/behaviour").read()
if behaviour == command + " hangs":
    time.sleep(60)
if behaviour == command + " fails":
    print(json.dumps({"code": 11, "msg": "no"}))
    sys.exit(1)
print(json.dumps({"cniVersion": "1.0.0", "ips": [{"address": "10.0.0.9/32"}]}))
"""


class FakePlugin:
    """A plugin that logs its calls, on a node of its own."""

    def __init__(self, directory: Path, node: str) -> None:
        self._directory = directory
        self.node = node
        program = directory / "plugin"
        program.write_text(PLUGIN)
        program.chmod(0o755)
        self.behave("works")
        config = {"cniVersion": "1.0.0", "name": "vpc", "type": "plugin"}
        self.runtime = Runtime(
            node_netns=node, plugin=[str(program)], config=config, run_dir="", timeout_seconds=0.5
        )

    def behave(self, behaviour: str) -> None:
        (self._directory / "behaviour").write_text(behaviour)

    def calls(self) -> list[list[Any]]:
        """Command, has a namespace, has a prevResult - of every call so far."""
        return [json.loads(line)[:3] for line in self._lines()]

    def namespaces(self) -> set[str]:
        return {json.loads(line)[3] for line in self._lines()}

    def _lines(self) -> list[str]:
        return (self._directory / "log").read_text().splitlines()


@pytest.fixture
def plugin(tmp_path: Path, make_netns: Callable[[str], str]) -> Iterator[FakePlugin]:
    made = FakePlugin(tmp_path, make_netns("node"))
    yield made
    made.runtime.close()


def own_namespace(task: str = "thread-self") -> str:
    """The kernel's name of the namespace that a task is in."""
    return str(Path(f"/proc/{task}/ns/net").readlink())


def namespace_of(path: str) -> str:
    return netns.call_in(path, own_namespace)


@pytest.mark.parametrize(("script", "status"), [("exit 7", 7), ("kill -9 $$", 137), ("true", 0)])
def test_the_sandbox_passes_the_exit_status_on(script: str, status: int) -> None:
    done = subprocess.run([SANDBOX, "sh", "-c", script], env=OUTSIDE, check=False)

    assert done.returncode == status


@pytest.fixture
def sigint_reaches_children() -> Iterator[None]:
    """What a shell starts in the background ignores SIGINT, and so would all that it starts."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("sigint_reaches_children")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_sandbox_reaches_the_command(number: signal.Signals) -> None:
    script = f"trap 'exit 5' {number.name[3:]}; echo ready; while :; do sleep 0.05; done"
    with subprocess.Popen(
        [SANDBOX, "bash", "-c", script], env=OUTSIDE, stdout=subprocess.PIPE
    ) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            process.send_signal(number)

            assert process.wait(10) == 5
        finally:
            process.kill()


def test_nothing_survives_the_sandbox_being_killed() -> None:
    script = "setsid sleep 600 & echo ready; sleep 600"
    with subprocess.Popen(
        [SANDBOX, "bash", "-c", script], env=OUTSIDE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.kill()

        assert process.stdout.read() == b""  # returns once nobody inside holds the pipe


def test_the_sandbox_has_its_own_network_and_run() -> None:
    script = "readlink /proc/self/ns/net; ls /run; ip -o link show lo"
    seen = subprocess.run(
        [SANDBOX, "sh", "-c", script], env=OUTSIDE, capture_output=True, text=True, check=True
    ).stdout.splitlines()

    is_fresh = seen[0] != own_namespace()
    assert (is_fresh, seen[1], "LOOPBACK,UP" in seen[2]) == (True, "netns", True)


def test_inside_the_sandbox_another_one_is_not_made() -> None:
    seen = subprocess.run(
        [SANDBOX, "readlink", "/proc/self/ns/net"], capture_output=True, text=True, check=True
    )

    assert seen.stdout.strip() == own_namespace()


def test_where_no_sandbox_can_be_made_one_sentence_says_why(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(lab_sandbox, "attempt", lambda needs_user_namespace: "unshare: denied")

    status = lab_sandbox.main(["--probe"])

    said = capsys.readouterr().err
    assert (status, said.count("\n"), "unshare: denied" in said) == (77, 1, True)


def test_a_visit_leaves_the_caller_where_it_was(make_netns: Callable[[str], str]) -> None:
    before = own_namespace()

    visited = namespace_of(make_netns("a"))

    assert (own_namespace(), visited != before) == (before, True)


def test_an_error_in_a_visit_reaches_the_caller(make_netns: Callable[[str], str]) -> None:
    with pytest.raises(ZeroDivisionError):
        netns.call_in(make_netns("a"), lambda: 1 / 0)


def test_a_process_started_in_a_namespace_is_the_program_itself(
    make_netns: Callable[[str], str],
) -> None:
    path = make_netns("a")
    with netns.popen_in(path, [sys.executable, "-c", "input()"], env={}, stdin=-1) as process:
        seen = own_namespace(str(process.pid))
        process.kill()

    assert (seen, process.returncode) == (namespace_of(path), -signal.SIGKILL)


def test_every_namespace_has_its_own_cookie(make_netns: Callable[[str], str]) -> None:
    cookies = {netns.cookie(make_netns(f"n{number}")) for number in range(3)}

    assert (len(cookies), netns.cookie("/proc/self/ns/net") in cookies) == (3, False)


def test_a_taken_name_is_refused_and_stays(make_netns: Callable[[str], str]) -> None:
    path = make_netns("a")
    before = netns.cookie(path)
    with pytest.raises(FileExistsError):
        netns.create("a")

    assert netns.cookie(path) == before


def test_a_pod_ends_with_three_dels(plugin: FakePlugin) -> None:
    started = plugin.runtime.start_pod("web-0")

    plugin.runtime.stop_pod(started.pod)

    assert plugin.calls() == [
        ["ADD", True, False],
        ["DEL", True, True],
        ["DEL", False, False],
        ["DEL", False, False],
    ]


def test_the_plugin_runs_in_the_nodes_namespace(plugin: FakePlugin) -> None:
    plugin.runtime.start_pod("web-0")

    assert plugin.namespaces() == {namespace_of(plugin.node)}


@pytest.mark.parametrize(("behaviour", "code"), [("ADD fails", 1), ("ADD hangs", -9)])
def test_a_failed_add_is_followed_by_one_del_without_result(
    plugin: FakePlugin, behaviour: str, code: int
) -> None:
    plugin.behave(behaviour)

    started = plugin.runtime.start_pod("web-0")

    assert (started.add.exit_code, plugin.calls(), started.pod.netns_name in netns.names()) == (
        code,
        [["ADD", True, False], ["DEL", True, False]],
        False,
    )


def test_a_failed_del_keeps_the_pod_and_its_result_for_the_next_try(plugin: FakePlugin) -> None:
    started = plugin.runtime.start_pod("web-0")
    plugin.behave("DEL fails")
    plugin.runtime.stop_pod(started.pod)
    plugin.behave("works")

    plugin.runtime.stop_pod(started.pod)

    assert plugin.calls()[1:3] == [["DEL", True, True], ["DEL", True, True]]
