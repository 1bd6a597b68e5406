"""install-cni on a scratch root: the order of what it places, and what keeps the config away."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cni_shim import conflist, install, spec
from cni_shim.install import InstallError, Outcome, Plan
from cni_shim.settings import SettingsError

ROOT = Path(__file__).parents[2]
GOOD, BAD = (lambda _: ""), (lambda _: "vpc-cnid is not running")


@pytest.fixture
def node(tmp_path: Path) -> Path:
    """A scratch root with a launcher, the plugins of an image, and a node's two directories."""
    for directory in ("image", "opt/cni/bin", "etc/cni/net.d"):
        (tmp_path / directory).mkdir(parents=True)
    (tmp_path / "launcher").write_bytes(b"#!/bin/sh\nexit 0\n")
    for name in ("loopback", "portmap", "bandwidth", "tuning"):
        (tmp_path / "image" / name).write_bytes(name.encode())
    return tmp_path


def plan(node: Path, **environ: str) -> Plan:
    dirs = {
        "HOST_CNI_BIN_PATH": str(node / "opt/cni/bin"),
        "HOST_CNI_CONFDIR_PATH": str(node / "etc/cni/net.d"),
    }
    return install.plan(dirs | environ, node / "launcher", node / "image")


def config(node: Path, name: str = install.CONFLIST_NAME) -> Path:
    return node / "etc/cni/net.d" / name


def installed(node: Path, **environ: str) -> Outcome:
    return install.install(plan(node, **environ), GOOD)


def test_everything_is_placed_and_the_config_comes_last(node: Path) -> None:
    outcome = installed(node)
    names = [Path(path).name for path in outcome.placed]
    assert names == ["vpc-cni", "vpc-cni-ipam", "loopback", "portmap", install.CONFLIST_NAME]
    assert outcome.exit_status == 0
    assert (node / "opt/cni/bin/vpc-cni").read_bytes() == (node / "launcher").read_bytes()
    assert (node / "opt/cni/bin/vpc-cni-ipam").stat().st_mode & 0o777 == 0o755


def test_there_is_no_config_while_status_is_not_good(node: Path) -> None:
    outcome = install.install(plan(node), BAD)
    assert not config(node).exists()
    assert (outcome.status, outcome.exit_status) == ("vpc-cnid is not running", 1)
    assert (node / "opt/cni/bin/vpc-cni").exists()


def test_the_binary_is_there_when_status_is_asked(node: Path) -> None:
    seen: list[bool] = []

    def ask(launcher: Path) -> str:
        seen.append(launcher.is_file())
        return ""

    install.install(plan(node), ask)
    assert seen == [True]


def test_a_second_round_writes_nothing(node: Path) -> None:
    installed(node)
    before = config(node).stat()
    assert installed(node).placed == ()
    assert config(node).stat().st_ino == before.st_ino


def test_a_changed_file_is_replaced_by_rename(node: Path) -> None:
    installed(node)
    binary = node / "opt/cni/bin/vpc-cni"
    with binary.open("rb") as running:  # what a runtime has open stays whole
        (node / "launcher").write_bytes(b"the next version")
        assert installed(node).placed == tuple(
            str(binary.with_name(name)) for name in install.LAUNCHER_NAMES
        )
        assert running.read() == b"#!/bin/sh\nexit 0\n"
    assert binary.read_bytes() == b"the next version"
    assert [p.name for p in binary.parent.iterdir() if p.name.startswith(".")] == []


@pytest.mark.parametrize("mode", [0o644, 0o4755], ids=["not executable", "setuid"])
def test_a_wrong_mode_is_mended(node: Path, mode: int) -> None:
    installed(node)
    (node / "opt/cni/bin/vpc-cni").chmod(mode)
    assert len(installed(node).placed) == 1
    assert (node / "opt/cni/bin/vpc-cni").stat().st_mode & 0o7777 == 0o755


@pytest.mark.parametrize("directory", ["opt/cni/bin", "etc/cni/net.d"])
def test_two_installers_of_one_node_write_one_after_the_other(node: Path, directory: str) -> None:
    descriptor = os.open(node / directory, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    outcomes: list[Outcome] = []
    other = threading.Thread(target=lambda: outcomes.append(installed(node)), daemon=True)
    other.start()
    other.join(0.2)
    assert not outcomes

    os.close(descriptor)
    other.join(10)
    assert config(node).exists()
    assert not list(node.rglob(".*"))


def test_a_plugin_that_the_node_has_is_left_alone(node: Path) -> None:
    (node / "opt/cni/bin/portmap").write_bytes(b"the node's own")
    installed(node)
    assert (node / "opt/cni/bin/portmap").read_bytes() == b"the node's own"


def test_a_chain_with_a_missing_link_is_refused(node: Path) -> None:
    (node / "image/bandwidth").unlink()
    with pytest.raises(InstallError, match="has no bandwidth, and neither has"):
        installed(node, ENABLE_BANDWIDTH_PLUGIN="true")
    assert not config(node).exists()


@pytest.mark.parametrize(
    ("others", "winners"),
    [
        (["10-aws.conflist", "99-loopback.conf"], ("10-aws.conflist",)),
        (["05-cilium.conf", "09-x.json"], ("05-cilium.conf", "09-x.json")),
        ([".05-hidden.conflist", "00-notes.txt", "10-aws.conflist.old"], ()),
    ],
    ids=["aws-node's", "two", "files that no runtime reads"],
)
def test_configs_that_come_first_are_named(
    node: Path, others: list[str], winners: tuple[str, ...]
) -> None:
    for name in others:
        config(node, name).write_text("{}")
    outcome = installed(node)
    assert outcome.winners == winners
    assert outcome.exit_status == (3 if winners else 0)


def test_another_name_comes_first(node: Path) -> None:
    config(node, "10-aws.conflist").write_text("{}")
    outcome = installed(node, VPC_IPAMD_CNI_CONF_NAME="00-vpc-ipamd.conflist")
    assert outcome.exit_status == 0
    assert config(node, "00-vpc-ipamd.conflist").exists()


def test_removal_takes_the_config_first_and_is_repeatable(node: Path) -> None:
    installed(node)
    names = [Path(path).name for path in install.remove(plan(node))]
    assert names == [install.CONFLIST_NAME, "vpc-cni", "vpc-cni-ipam"]
    assert install.remove(plan(node)) == ()
    assert (node / "opt/cni/bin/portmap").exists()


@pytest.mark.parametrize(
    ("environ", "plugins"),
    [
        ({}, ["vpc-cni", "portmap"]),
        ({"VPC_IPAMD_CHAIN_PORTMAP": "false"}, ["vpc-cni"]),
        ({"ENABLE_BANDWIDTH_PLUGIN": "true"}, ["vpc-cni", "portmap", "bandwidth"]),
        ({"DISABLE_POD_V6": "true"}, ["vpc-cni", "portmap", "tuning"]),
    ],
    ids=["default", "no portmap", "bandwidth", "no IPv6 in pods"],
)
def test_the_settings_choose_the_chain(
    node: Path, environ: dict[str, str], plugins: list[str]
) -> None:
    installed(node, **environ)
    document = json.loads(config(node).read_text())
    assert [plugin["type"] for plugin in document["plugins"]] == plugins


@pytest.mark.parametrize(
    ("environ", "mtu"),
    [
        ({}, None),
        ({"VPC_IPAMD_CLOUD": "azure"}, None),
        ({"AWS_VPC_ENI_MTU": "3900"}, "3900"),
        ({"AWS_VPC_ENI_MTU": "3900", "POD_MTU": "1400"}, "1400"),
    ],
    ids=["none chosen", "Azure", "of ENIs", "of pods"],
)
def test_the_config_has_an_mtu_only_where_one_is_chosen(
    node: Path, environ: dict[str, str], mtu: str | None
) -> None:
    installed(node, **environ)
    assert json.loads(config(node).read_text())["plugins"][0].get("mtu") == mtu


def test_our_plugin_takes_what_the_config_gives_it(node: Path) -> None:
    installed(node, AWS_VPC_K8S_CNI_VETHPREFIX="pod", POD_MTU="1500", AWS_VPC_ENI_MTU="9001")
    document = json.loads(config(node).read_text())
    stdin = document["plugins"][0] | {"name": document["name"], "cniVersion": "1.1.0"}
    environ = {
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": "c1",
        "CNI_NETNS": "/run/netns/x",
        "CNI_IFNAME": "eth0",
        "CNI_PATH": "/opt/cni/bin",
    }
    request = spec.parse(lambda name: environ.get(name, ""), json.dumps(stdin).encode())
    assert (request.config.veth_prefix, request.config.mtu) == ("pod", 1500)


def test_the_config_of_the_checkout_is_the_default_without_a_chain() -> None:
    written = json.loads((ROOT / "cni-shim/10-vpc-ipamd.conflist").read_text())
    rendered = conflist.render(conflist.Wanted(has_portmap=False))
    assert written == json.loads(rendered)


@pytest.mark.parametrize(
    ("environ", "named"),
    [
        ({"POD_MTU": "12"}, "POD_MTU"),
        ({"AWS_VPC_K8S_CNI_VETHPREFIX": "eth"}, "AWS_VPC_K8S_CNI_VETHPREFIX"),
        ({"ENABLE_BANDWIDTH_PLUGIN": "si"}, "ENABLE_BANDWIDTH_PLUGIN='si'"),
        ({"VPC_IPAMD_CNI_CONF_NAME": "../10-x.conflist"}, "VPC_IPAMD_CNI_CONF_NAME"),
        ({"VPC_IPAMD_CNI_CONF_NAME": "10-x.conf"}, "VPC_IPAMD_CNI_CONF_NAME"),
        ({"HOST_CNI_BIN_PATH": "opt/bin"}, "HOST_CNI_BIN_PATH"),
    ],
    ids=str,
)
def test_unusable_settings_are_named(node: Path, environ: dict[str, str], named: str) -> None:
    with pytest.raises(SettingsError, match=named):
        plan(node, **environ)


def test_a_directory_that_is_not_there_is_named(node: Path) -> None:
    gone = str(node / "no/such")
    with pytest.raises(InstallError, match=f"cannot write {gone}"):
        installed(node, HOST_CNI_BIN_PATH=gone)


def script(node: Path, text: str) -> Path:
    path = node / "opt/cni/bin/vpc-cni"
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("cat >/dev/null", ""),
        ("""echo '{"code": 50, "msg": "down", "details": "ask it"}'; exit 1""", "down; ask it"),
        ("echo nonsense; exit 1", "nonsense"),
        ("exit 7", "ended with 7 and said nothing"),
    ],
    ids=["good", "an error document", "no document", "nothing"],
)
def test_status_is_told_in_the_plugins_words(node: Path, text: str, said: str) -> None:
    answer = install.ask_status(script(node, text))
    assert answer.endswith(said) and bool(answer) == bool(said)


def test_a_program_for_another_machine_is_no_state_to_wait_for(node: Path) -> None:
    path = node / "opt/cni/bin/vpc-cni"
    path.write_bytes(b"\x7fELF of some other processor")
    path.chmod(0o755)
    with pytest.raises(InstallError, match="cannot start"):
        install.ask_status(path)


def ran(node: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    options = ["--launcher", str(node / "launcher"), "--plugins", str(node / "image")]
    return subprocess.run(
        [sys.executable, "-m", "cni_shim.install", *options, *arguments],
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": f"{ROOT / 'cni-shim'}:{ROOT / 'proto'}",
            "HOST_CNI_BIN_PATH": str(node / "opt/cni/bin"),
            "HOST_CNI_CONFDIR_PATH": str(node / "etc/cni/net.d"),
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_the_program_says_what_it_placed(node: Path) -> None:
    done = ran(node, "-o", "json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["placed"][-1].endswith(install.CONFLIST_NAME)
    done = ran(node, "--remove")
    assert done.returncode == 0
    assert done.stdout.startswith(f"removed {config(node)}\n")


def test_the_program_ends_with_1_when_status_stays_bad(node: Path) -> None:
    (node / "launcher").write_text('#!/bin/sh\necho \'{"msg": "not yet"}\'; exit 1\n')
    done = ran(node, "--wait", "0.1")
    assert done.returncode == 1
    assert "is not placed: not yet" in done.stderr
    assert not config(node).exists()


LEFTOVERS: list[Callable[[Path], object]] = [
    lambda path: path.symlink_to("/etc/passwd"),
    lambda path: path.write_bytes(b"half of a file"),
]


@pytest.mark.parametrize("leave", LEFTOVERS, ids=["a link", "half a file"])
def test_what_stands_under_the_target_is_replaced_not_followed(
    node: Path, leave: Callable[[Path], object]
) -> None:
    leave(config(node))
    installed(node)
    assert not config(node).is_symlink()
    assert json.loads(config(node).read_text())["name"] == conflist.NETWORK_NAME


@pytest.mark.parametrize(
    ("age", "status"), [(5, 0), (3600, 1), (None, 1)], ids=["young", "old", "absent"]
)
def test_the_liveness_probe_looks_at_vpc_cnid_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, age: float | None, status: int
) -> None:
    if age is not None:
        (tmp_path / "alive").touch()
        os.utime(tmp_path / "alive", (time.time() - age,) * 2)
    monkeypatch.setenv("VPC_IPAMD_RUN_DIR", str(tmp_path))
    assert install.main(["--launcher", "/no/such", "--alive"]) == status


def test_the_readiness_probe_tells_what_the_plugin_says(
    node: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    launcher = script(node, """echo '{"msg": "down"}'; exit 1""")
    assert install.main(["--launcher", str(launcher), "--status"]) == 1
    assert capsys.readouterr().err == "install-cni: down\n"
    assert not config(node).exists()
