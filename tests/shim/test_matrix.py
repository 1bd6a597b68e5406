"""Every verb through a launcher and vpc-cnid's server: versions, environments, leniency, GC.

ipamd and the kernel are fakes; process boundary, frames, parsing and verbs are real.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from cni_shim.allocations import PEER
from cni_shim.datapath.errors import ForeignInterface
from cni_shim.spec import SUPPORTED_VERSIONS
from ipam_api.v1 import ipam_pb2 as pb
from structlog.testing import capture_logs

from tests.cni_bench import hold_for_peer
from tests.shim.launchers import Finished, Launcher
from tests.shim.real_server import Node

OWN = "/proc/self/ns/net"
SINCE = {"ADD": "0.1.0", "DEL": "0.1.0", "CHECK": "0.4.0", "GC": "1.1.0", "STATUS": "1.1.0"}


def env_of(verb: str, **others: str) -> dict[str, str]:
    """As a runtime sets it. The pod's namespace is our own, which has to be allowed."""
    env = {
        "CNI_COMMAND": verb,
        "CNI_CONTAINERID": "c1",
        "CNI_NETNS": OWN,
        "CNI_IFNAME": "eth0",
        "CNI_PATH": "/opt/cni/bin",
        "CNI_ARGS": "K8S_POD_NAMESPACE=default;K8S_POD_NAME=web;IgnoreUnknown=1",
        "CNI_NETNS_OVERRIDE": "1",
    }
    return {name: value for name, value in (env | others).items() if value != "(absent)"}


def stdin_of(version: str | None = "1.0.0", **others: object) -> bytes:
    config: dict[str, object] = {"name": "net", "type": "vpc-cni"} | others
    if version is not None:
        config["cniVersion"] = version
    return json.dumps(config).encode()


def document_of(finished: Finished) -> dict[str, Any]:
    """What was printed: one document with a result or an error, or nothing."""
    document = json.loads(finished.stdout) if finished.stdout else {}
    assert (finished.status != 0) == ("code" in document), finished
    return dict(document)


def added(launcher: Launcher, version: str | None = "1.0.0") -> dict[str, Any]:
    return document_of(launcher.run(env_of("ADD"), stdin_of(version)))


@pytest.mark.parametrize("verb", SINCE)
@pytest.mark.parametrize("version", SUPPORTED_VERSIONS)
def test_a_verb_is_served_from_its_first_version_on(
    launcher: Launcher, node: Node, version: str, verb: str
) -> None:
    result = added(launcher, version)
    assert result["cniVersion"] == version
    if verb == "ADD":
        return
    lists = {"cni.dev/valid-attachments": [{"containerID": "c1", "ifname": "eth0"}]}
    stdin = stdin_of(version, prevResult=result, **lists)
    finished = launcher.run(env_of(verb), stdin)
    if SUPPORTED_VERSIONS.index(version) >= SUPPORTED_VERSIONS.index(SINCE[verb]):
        assert (finished.status, finished.stdout) == (0, b"")
        return
    error = document_of(finished)
    assert (error["code"], error["cniVersion"]) == (1, version)


@pytest.mark.parametrize("version", ["", None])
def test_no_version_means_0_1_0(launcher: Launcher, node: Node, version: str | None) -> None:
    result = added(launcher, version)
    assert (result["cniVersion"], set(result)) == ("0.1.0", {"cniVersion", "ip4", "dns"})


ALL = ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH")


@pytest.mark.parametrize(
    ("verb", "changed", "code", "words"),
    [
        *(pytest.param("ADD", {n: "(absent)"}, 4, n, id=f"add-without-{n}") for n in ALL),
        *(pytest.param("ADD", {n: ""}, 4, n, id=f"add-with-empty-{n}") for n in ALL),
        pytest.param("ADD", dict.fromkeys(ALL, ""), 4, ", ".join(ALL), id="add-with-nothing"),
        pytest.param("CHECK", dict.fromkeys(ALL, ""), 4, ", ".join(ALL), id="check-with-nothing"),
        pytest.param(
            "DEL",
            dict.fromkeys(ALL, ""),
            4,
            "CNI_CONTAINERID, CNI_IFNAME, CNI_PATH",
            id="del-with-nothing",
        ),
        pytest.param("GC", {"CNI_PATH": ""}, 4, "CNI_PATH", id="gc-without-path"),
        pytest.param("ADD", {"CNI_CONTAINERID": "-x"}, 4, "CNI_CONTAINERID", id="id-alphabet"),
        pytest.param("ADD", {"CNI_CONTAINERID": "a/b"}, 4, "CNI_CONTAINERID", id="id-slash"),
        pytest.param("DEL", {"CNI_CONTAINERID": "a" * 201}, 4, "CNI_CONTAINERID", id="id-long"),
        pytest.param("ADD", {"CNI_IFNAME": "e" * 16}, 4, "CNI_IFNAME", id="ifname-long"),
        pytest.param("ADD", {"CNI_IFNAME": ".."}, 4, "CNI_IFNAME", id="ifname-dots"),
        pytest.param("ADD", {"CNI_IFNAME": "a:b"}, 4, "CNI_IFNAME", id="ifname-colon"),
        pytest.param("CHECK", {"CNI_IFNAME": "a b"}, 4, "CNI_IFNAME", id="ifname-space"),
        pytest.param("ADD", {"CNI_NETNS": "/nonexistent"}, 8, "/nonexistent", id="netns-missing"),
        pytest.param("ADD", {"CNI_NETNS": "/dev/null"}, 8, "/dev/null", id="netns-no-namespace"),
        pytest.param("ADD", {"CNI_NETNS": "/proc/self/ns/uts"}, 8, "uts", id="netns-of-names"),
        pytest.param("CHECK", {"CNI_NETNS": "dummy"}, 8, "dummy", id="check-netns-dummy"),
        pytest.param("ADD", {"CNI_NETNS_OVERRIDE": ""}, 8, "own network", id="netns-is-ours"),
        pytest.param("ADD", {"CNI_NETNS_OVERRIDE": "0"}, 8, "own network", id="override-is-no"),
    ],
)
def test_an_environment_that_cannot_be_used_is_named_and_changes_nothing(
    launcher: Launcher,
    node: Node,
    verb: str,
    changed: Mapping[str, str],
    code: int,
    words: str,
) -> None:
    lists = {"cni.dev/attachments": None}
    error = document_of(
        launcher.run(env_of(verb, **changed), stdin_of("1.1.0", prevResult={}, **lists))
    )
    assert (error["code"], error["cniVersion"]) == (code, "1.1.0")
    assert words in error["msg"] + error["details"]
    assert node.bench.diary == []


@pytest.mark.parametrize("override", ["1", "true", "TRUE"])
def test_our_own_namespace_is_taken_where_that_is_asked_for(
    launcher: Launcher, node: Node, override: str
) -> None:
    finished = launcher.run(env_of("ADD", CNI_NETNS_OVERRIDE=override), stdin_of())
    assert document_of(finished)["ips"]


@pytest.mark.parametrize(
    ("stdin", "code"),
    [
        pytest.param(b"", 6, id="nothing"),
        pytest.param(b"[]", 6, id="no-object"),
        pytest.param(stdin_of(name="-"), 7, id="bad-name"),
        pytest.param(stdin_of("9.9.9"), 1, id="unknown-version"),
        pytest.param(stdin_of(vethPrefx="e"), 2, id="unknown-key"),
        pytest.param(stdin_of(mtu="big"), 7, id="bad-value"),
    ],
)
def test_a_config_that_cannot_be_used_changes_nothing(
    launcher: Launcher, node: Node, stdin: bytes, code: int
) -> None:
    assert document_of(launcher.run(env_of("ADD"), stdin))["code"] == code
    assert node.bench.diary == []


def test_an_interface_of_the_name_that_is_not_ours_is_left_alone(
    launcher: Launcher, node: Node
) -> None:
    node.bench.datapath.script["wire"] = [ForeignInterface("eth0")]
    error = document_of(launcher.run(env_of("ADD"), stdin_of()))
    assert (error["code"], "does not touch it" in error["details"]) == (102, True)
    assert node.bench.ipam.held == {}


def test_the_namespace_may_be_that_of_any_process(launcher: Launcher, node: Node) -> None:
    path = f"/proc/{os.getpid()}/ns/net"
    result = document_of(launcher.run(env_of("ADD", CNI_NETNS=path), stdin_of()))
    assert result["interfaces"][1]["sandbox"] == path


RESULT = {"cniVersion": "1.0.0", "ips": [{"address": "10.0.0.5/32"}]}
OTHERS = {"cniVersion": "1.0.0", "ips": [{"address": "10.0.0.99/32"}]}


@pytest.mark.parametrize(
    ("env", "config"),
    [
        pytest.param({"CNI_NETNS": ""}, {}, id="netns-empty"),
        pytest.param({"CNI_NETNS": "(absent)"}, {}, id="netns-absent"),
        pytest.param({"CNI_NETNS": "/run/netns/gone"}, {}, id="netns-gone"),
        pytest.param({"CNI_NETNS": "/dev/null"}, {}, id="netns-a-plain-file"),
        pytest.param({"CNI_NETNS_OVERRIDE": ""}, {}, id="netns-foreign-namely-ours"),
        pytest.param({}, {"prevResult": RESULT}, id="prev-result"),
        pytest.param({}, {"prevResult": OTHERS}, id="prev-result-of-another-container"),
        pytest.param({}, {"prevResult": {"ips": "?"}}, id="prev-result-garbage"),
        pytest.param({}, {"prevResult": 7}, id="prev-result-no-object"),
        pytest.param({}, {"vethPrefx": "?", "mtu": []}, id="keys-of-another-version"),
        pytest.param({"CNI_ARGS": "(absent)"}, {}, id="args-absent"),
        pytest.param({"CNI_ARGS": ";;=;X;K8S_POD_NAME=a=b"}, {}, id="args-nonsense"),
        pytest.param({}, {"runtimeConfig": {"PORTMAPPINGS": 1}}, id="runtime-config-any"),
        pytest.param({}, {"disableCheck": "true", "disableGC": "false"}, id="booleans-as-text"),
    ],
)
def test_a_del_succeeds_and_releases_whatever_comes_with_it(
    launcher: Launcher,
    node: Node,
    env: Mapping[str, str],
    config: Mapping[str, object],
) -> None:
    added(launcher)
    finished = launcher.run(env_of("DEL", **env), stdin_of("1.0.0", **config))
    assert (finished.status, finished.stdout) == (0, b"")
    assert (node.bench.ipam.held, node.bench.datapath.links) == ({}, {})


def forget_ledger(node: Node) -> None:
    node.bench.ipam.held.clear()
    node.bench.verbs._cache.clear()


def lose_link(node: Node) -> None:
    node.bench.datapath.links.clear()


@pytest.mark.parametrize("loss", [forget_ledger, lose_link])
def test_a_del_succeeds_for_what_is_half_gone(
    launcher: Launcher, node: Node, loss: Callable[[Node], None]
) -> None:
    added(launcher)
    loss(node)
    finished = launcher.run(env_of("DEL"), stdin_of())
    assert (finished.status, finished.stdout) == (0, b"")
    assert (node.bench.ipam.held, node.bench.datapath.links) == ({}, {})


@pytest.mark.parametrize("times", [1, 2, 3])
@pytest.mark.parametrize("is_added", [True, False], ids=["after-add", "before-add"])
def test_a_del_may_come_any_number_of_times(
    launcher: Launcher, node: Node, times: int, is_added: bool
) -> None:
    if is_added:
        added(launcher)
    for _ in range(times):
        finished = launcher.run(env_of("DEL", CNI_NETNS=""), stdin_of())
        assert (finished.status, finished.stdout) == (0, b"")
    assert added(launcher)["ips"]


def test_an_add_whose_launcher_is_killed_is_rolled_back_and_its_del_succeeds(
    launcher: Launcher, node: Node
) -> None:
    process = launcher.start(env_of("ADD"))
    node.bench.datapath.during_wire = process.kill
    process.communicate(stdin_of())
    finished = launcher.run(env_of("DEL"), stdin_of())
    assert (finished.status, finished.stdout) == (0, b"")
    _until(lambda: not node.bench.ipam.held and not node.bench.datapath.links)


def keys(*names: str) -> list[dict[str, str]]:
    return [{"containerID": name, "ifname": "eth0"} for name in names]


NEW, OLD = "cni.dev/valid-attachments", "cni.dev/attachments"


@pytest.mark.parametrize(
    ("lists", "code", "left"),
    [
        pytest.param({NEW: None, OLD: None}, 0, [], id="null"),
        pytest.param({NEW: [], OLD: []}, 0, [], id="empty"),
        pytest.param({}, 7, ["a", "b"], id="absent"),
        pytest.param({OLD: keys("a")}, 0, ["a"], id="the-old-key-alone"),
        pytest.param({NEW: keys("a")}, 0, ["a"], id="the-new-key-alone"),
        pytest.param({NEW: keys("a"), OLD: keys("b")}, 0, ["a", "b"], id="both-differing"),
        pytest.param({NEW: keys("x", "a")}, 0, ["a"], id="unknown-ids"),
        pytest.param({NEW: keys("theirs")}, 0, [], id="another-networks-ids"),
        pytest.param({NEW: "a"}, 7, ["a", "b"], id="unreadable"),
    ],
)
@pytest.mark.parametrize("env", [{}, dict.fromkeys(ALL[:3], "")], ids=["set", "empty-variables"])
def test_gc_releases_what_the_runtime_does_not_name(
    launcher: Launcher,
    node: Node,
    lists: Mapping[str, object],
    code: int,
    left: list[str],
    env: Mapping[str, str],
) -> None:
    for name, network in (("a", "net"), ("b", "net"), ("theirs", "other")):
        node.bench.ipam.held[name] = pb.Allocation(
            key=pb.AttachmentKey(container_id=name, ifname="eth0"),
            network_name=network,
            address="10.0.0.9",
        )
    finished = launcher.run(env_of("GC", **env), stdin_of("1.1.0", **lists))
    assert document_of(finished).get("code", 0) == code
    assert list(node.bench.ipam.held) == [*left, "theirs"]


def test_gc_leaves_what_the_peer_wired(launcher: Launcher, node: Node) -> None:
    assert hold_for_peer(node.bench, network_name="net").wired_by == PEER
    document_of(launcher.run(env_of("GC"), stdin_of("1.1.0", **{NEW: None})))
    assert list(node.bench.ipam.held) == ["c1"]


@pytest.mark.parametrize("version", ["0.4.0", "1.0.0", "1.1.0"])
def test_check_prints_nothing_or_everything_that_differs(
    launcher: Launcher, node: Node, version: str
) -> None:
    stdin = stdin_of(version, prevResult=added(launcher, version))
    finished = launcher.run(env_of("CHECK"), stdin)
    assert (finished.status, finished.stdout, finished.stderr) == (0, b"", b"")
    node.bench.datapath.missing = ("one thing is gone", "and another")
    error = document_of(launcher.run(env_of("CHECK"), stdin))
    assert (error["code"], error["cniVersion"]) == (103, version)
    assert "one thing is gone; and another" in error["details"]


@pytest.mark.parametrize(
    ("is_silent", "host_problem", "code"),
    [(False, "", 0), (False, "no rule", 0), (True, "", 50), (True, "no rule", 51)],
    ids=["well", "damaged", "silent", "silent-and-damaged"],
)
def test_status_is_told_from_what_was_last_seen(
    launcher: Launcher, node: Node, is_silent: bool, host_problem: str, code: int
) -> None:
    if is_silent:
        node.silence.unheard(time.monotonic() - 61)
    node.host_problem = host_problem
    finished = launcher.run({"CNI_COMMAND": "STATUS", "CNI_PATH": "/"}, stdin_of("1.1.0"))
    assert document_of(finished).get("code", 0) == code


def test_a_change_of_status_is_logged_once(launcher: Launcher, node: Node) -> None:
    def ask(times: int) -> list[int]:
        env = {"CNI_COMMAND": "STATUS", "CNI_PATH": "/"}
        return [launcher.run(env, stdin_of("1.1.0")).status for _ in range(times)]

    with capture_logs() as told:
        node.silence.unheard(time.monotonic() - 61)
        assert ask(3) == [1, 1, 1]
        node.silence.heard()
        assert ask(2) == [0, 0]
    assert [(line["event"], line["code"]) for line in told] == [
        ("status_changed", 50),
        ("status_changed", 0),
    ]


def test_status_answers_while_every_add_hangs(launcher: Launcher, node: Node) -> None:
    node.bench.ipam.on_allocate = lambda: time.sleep(0.5)
    adding = launcher.start(env_of("ADD"))
    assert adding.stdin is not None
    adding.stdin.write(stdin_of())
    adding.stdin.close()
    adding.stdin = None
    runs = [
        launcher.run({"CNI_COMMAND": "STATUS", "CNI_PATH": "/"}, stdin_of("1.1.0"))
        for _ in range(3)
    ]
    adding.communicate()
    assert [finished.status for finished in runs] == [0, 0, 0]
    assert min(finished.seconds for finished in runs) < 0.1


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_the_golden_gc_of_libcni_is_served(launcher: Launcher, node: Node) -> None:
    golden = Path(__file__).resolve().parents[1] / "unit" / "data" / "gc_libcni_1_3_0.json"
    variables = dict.fromkeys((*ALL[:3], "CNI_ARGS"), "")
    finished = launcher.run(env_of("GC", **variables), golden.read_bytes())
    assert (finished.status, finished.stdout) == (0, b"")
