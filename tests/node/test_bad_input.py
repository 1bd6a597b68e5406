"""Input that cannot be used: a clear error each time, and nothing lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from providers.sim import netns
from providers.sim.lab import Lab
from providers.sim.lab_node import daemon_environment
from providers.sim.lab_process import is_listening
from providers.sim.runtime import Pod
from tests.node.ground import CONFIG, Ground, Site, code_of, details_of, until
from tests.node.readings import ip_json, pod_addresses
from tests.shim.launchers import Finished, Launcher

pytestmark = pytest.mark.netns


# --- settings ------------------------------------------------------------------------------------


def ended_start(module: str, run_dir: Path, env: Mapping[str, str]) -> tuple[int, str]:
    """A daemon that must not start: its exit status and what it said."""
    done = subprocess.run(
        [sys.executable, "-m", module],
        env=daemon_environment(run_dir) | dict(env),
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    return done.returncode, done.stderr


def test_ipamd_refuses_every_unusable_setting_in_one_sentence(tmp_path: Path) -> None:
    bad = {
        "IP_COOLDOWN_PERIOD": "-1",
        "INTROSPECTION_BIND_ADDRESS": "everywhere",
        "VPC_IPAMD_METRICS_PORT": "http",
        "VPC_IPAMD_MAX_PODS": "many",
        "VPC_IPAMD_STORE_DIR": "here",
        "VPC_IPAMD_CLOUD": "gcp",
        "VPC_IPAMD_LOG_LEVEL": "loud",
    }
    status, said = ended_start("ipamd", tmp_path, bad)
    assert status == 2
    assert said.count("\n") == 1
    assert [name for name, value in bad.items() if f"{name}={value!r} must be" not in said] == []


def test_vpc_cnid_refuses_every_unusable_setting_in_one_sentence(tmp_path: Path) -> None:
    bad = {"VPC_IPAMD_LOG_LEVEL": "loud", "AWS_VPC_ENI_MTU": "huge"}
    status, said = ended_start("cni_shim", tmp_path, bad)
    assert status == 2
    assert [name for name, value in bad.items() if f"{name}={value!r} must be" not in said] == []


def test_settings_that_aws_node_forgives_are_warned_of_and_fall_back(ground: Ground) -> None:
    bad = {"WARM_IP_TARGET": "lots", "MAX_ENI": "all", "HTTP_TIMEOUT": "1"}
    site = ground.started(env=bad)
    warnings = [line for line in log_of(site) if line["event"] == "setting_ignored"]
    told = " ".join(line["warning"] for line in warnings)
    assert [name for name, value in bad.items() if f"{name}={value!r} must be" not in told] == []
    assert site.status()[1]["targets"] == {"WARM_ENI_TARGET": "1"}


def log_of(site: Site) -> list[dict[str, Any]]:
    lines = site.node.ipamd.log_path.read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines if line.startswith("{")]


def test_a_second_ipamd_refuses_to_start_beside_the_first(ground: Ground) -> None:
    site = ground.started()
    status, said = ended_start("ipamd", site.node.run_dir, {})
    assert status == 2
    assert "another ipamd holds" in said
    assert is_listening(site.node.ipamd_socket)
    site.add("served-by-the-first")


# --- the network config --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stdin", "code", "words"),
    [
        (b"{not json", 6, "stdin is not a JSON document"),
        (b"[]", 6, "stdin is not a JSON object"),
        (json.dumps({**CONFIG, "mtu": "big"}).encode(), 7, "mtu='\"big\"'"),
        (json.dumps({**CONFIG, "vethPrefix": "toolong"}).encode(), 7, "vethPrefix"),
        (json.dumps({**CONFIG, "name": "not a name"}).encode(), 7, "no usable name"),
        (json.dumps({**CONFIG, "mtuu": 1500}).encode(), 2, "'mtuu' with value '1500'"),
        (json.dumps({**CONFIG, "cniVersion": "9.9.9"}).encode(), 1, "incompatible CNI versions"),
    ],
    ids=["no-json", "no-object", "mtu", "prefix", "name", "unknown-key", "version"],
)
def test_an_add_with_a_bad_config_is_refused_before_anything_is_made(
    bad_config_site: Site, stdin: bytes, code: int, words: str
) -> None:
    site = bad_config_site
    before = site.ledger().allocations
    pod = site.runtime.new_pod("refused")
    done = raw_add(site, pod, stdin)
    document = json.loads(done.stdout)
    assert (done.status, document["code"]) == (1, code)
    assert words in document["msg"] + document.get("details", "")
    assert site.traces(pod) == []
    assert site.ledger().allocations == before


@pytest.fixture(scope="module")
def bad_config_site(lab: Lab) -> Iterator[Site]:
    """One node for all of the above: none of them may leave a trace."""
    from tests.shim.launchers import CompilerMissing, launcher_command

    try:
        launcher = launcher_command("c")
    except CompilerMissing:
        launcher = launcher_command("python")
    made = Ground(lab, launcher)
    yield made.started()
    made.close()


def raw_add(site: Site, pod: Pod, stdin: bytes) -> Finished:
    env = {
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": pod.container_id,
        "CNI_NETNS": pod.netns_path,
        "CNI_IFNAME": pod.ifname,
        "CNI_ARGS": pod.cni_args,
        "CNI_PATH": "/opt/cni/bin",
    }
    return Launcher(command=site.launcher, run_dir=site.node.run_dir).run(env, stdin)


# --- the namespace -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["missing", "plain file", "the node's own"])
def test_an_add_into_what_is_no_pod_namespace_gets_code_8(
    ground: Ground, kind: str, tmp_path: Path
) -> None:
    site = ground.started()
    plain = tmp_path / "plain"
    plain.touch()
    path = {"missing": "/run/netns/none", "plain file": str(plain)}.get(kind, site.node.netns_path)
    pod = replace(site.runtime.new_pod("nowhere"), netns_path=path)
    call = site.runtime.add(pod)
    assert code_of(call) == 8
    assert path in details_of(call)
    assert site.traces(pod) == []
    assert site.runtime.delete(pod).is_ok
    site.add("after")


def test_an_add_that_comes_twice_gets_the_same_result(ground: Ground) -> None:
    site = ground.started()
    first = site.runtime.start_pod("twice")
    before = site.ledger()
    again = site.runtime.add(first.pod)
    assert again.is_ok, again
    assert again.document == first.add.document
    assert site.ledger().allocations == before.allocations
    assert site.can_reach_router(first.pod, first.add.addresses[0])


def test_an_add_in_another_namespace_tears_the_old_attachment_down_first(ground: Ground) -> None:
    site = ground.started(env={"IP_COOLDOWN_PERIOD": "300"})
    old = site.runtime.start_pod("moved")
    new_pod = replace(
        site.runtime.new_pod("moved"), container_id=old.pod.container_id, uid=old.pod.uid
    )
    new = site.runtime.add(new_pod)
    assert new.is_ok, new
    assert pod_addresses(old.pod.netns_path) == ()
    assert site.ledger().addresses[old.add.addresses[0]].state == "cooling"
    held = site.ledger().allocations[new_pod.container_id]
    assert (held.address, held.netns_cookie) == (
        new.addresses[0],
        netns.cookie(new_pod.netns_path),
    )
    assert site.can_reach_router(new_pod, new.addresses[0])


def test_a_foreign_eth0_in_the_pod_is_an_error_and_stays_untouched(ground: Ground) -> None:
    site = ground.started(env={"IP_COOLDOWN_PERIOD": "300"})
    pod = site.runtime.new_pod("taken")
    link = ["ip", "link", "add", "eth0", "type", "veth", "peer", "name", "its-peer"]
    netns.run_in(pod.netns_path, link)
    netns.run_in(pod.netns_path, ["ip", "address", "add", "198.51.100.7/32", "dev", "eth0"])
    before = ip_json(pod.netns_path, "address", "show", "dev", "eth0")
    call = site.runtime.add(pod)
    assert code_of(call) == 102
    assert "eth0" in details_of(call) and "does not touch it" in details_of(call)
    assert site.traces(pod) == [], "the ADD takes back what it did; no DEL is needed"
    assert site.runtime.delete(pod).is_ok
    assert ip_json(pod.netns_path, "address", "show", "dev", "eth0") == before
    assert site.traces(pod) == []
    assert len(site.ledger().in_state("cooling")) == 1, "the address it was given is released"
    site.add("after")


# --- the store's disk ----------------------------------------------------------------------------


@contextmanager
def tiny_disk(home: Path) -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(dir=home))
    mount = ["mount", "-t", "tmpfs", "-o", "size=512k,mode=750", "tmpfs", str(directory)]
    subprocess.run(mount, check=True)
    try:
        yield directory
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)


def fill(disk: Path) -> Path:
    """Take the last byte of the disk; the file that holds it."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(b"\0" * 512)
    assert os.statvfs(disk).f_bavail == 0
    return filler


def test_a_full_disk_for_the_store_is_a_clear_error_and_loses_nothing(
    ground: Ground, lab: Lab
) -> None:
    with tiny_disk(lab.directory) as disk:
        site = ground.started(env={"VPC_IPAMD_STORE_DIR": str(disk), "IP_COOLDOWN_PERIOD": "300"})
        kept, ending = site.add("kept"), site.add("ending")
        site.settle(available=3)
        before = site.ledger()
        filler = fill(disk)

        failed = site.runtime_with(deadline_ms=3000).start_pod("refused")
        assert code_of(failed.add) == 11
        assert "ipamd could not record the change" in details_of(failed.add)
        assert str(disk) in details_of(failed.add) and "free space" in details_of(failed.add)
        assert site.runtime.delete(ending).is_ok, "its network is gone, its release is queued"
        assert site.ledger().allocations == before.allocations
        assert site.can_reach_router(kept, before.allocations[kept.container_id].address)

        filler.unlink()
        until(lambda: site.traces(ending) == [], what="the queued release")
        ended = before.allocations[ending.container_id].address
        assert site.ledger().addresses[ended].state == "cooling"
        assert site.traces(failed.pod) == []
        site.add("after")
        ground.close()


def test_a_restart_on_a_full_disk_waits_for_space_and_loses_nothing(
    ground: Ground, lab: Lab
) -> None:
    with tiny_disk(lab.directory) as disk:
        site = ground.started(env={"VPC_IPAMD_STORE_DIR": str(disk), "IP_COOLDOWN_PERIOD": "300"})
        pods = [site.add("kept"), site.add("ended")]
        site.runtime.stop_pod(pods.pop())
        before = site.ledger()
        assert site.node.ipamd.stop() == 0
        filler = fill(disk)

        site.node.ipamd.start()
        until(lambda: not site.node.ipamd.is_running, what="the end of an ipamd without a store")
        assert "free space" in site.node.ipamd.log_tail(3)

        filler.unlink()
        site.start_ipamd()
        after = site.ledger()
        assert after.epoch == before.epoch
        assert after.allocations == before.allocations
        assert after.in_state("cooling") == before.in_state("cooling")
        site.add("after")
        ground.close()


# --- the metadata service ------------------------------------------------------------------------


def lie(lab: Lab, site: Site, path: str, value: str) -> None:
    assert site.node.identity is not None
    lab.control.call(
        "set_imds_fault",
        kind="wrong_value",
        path=f"meta-data/{path}",
        value=value,
        instance_id=site.node.identity.instance_id,
    )


OTHER_INSTANCE = "i-0123456789abcdef0"


@pytest.mark.parametrize(
    ("path", "value"),
    [("instance-id", "not an instance"), ("instance-id", OTHER_INSTANCE), ("mac", "none")],
    ids=["garbage", "another-instance", "no-mac"],
)
def test_a_wrong_answer_of_the_metadata_service_is_named_and_asked_for_again(
    ground: Ground, lab: Lab, path: str, value: str
) -> None:
    site = ground.site()
    lab.control.call("reset_calls")
    lie(lab, site, path, value)
    site.node.start()
    problem = until(lambda: site.problems() if value in site.problems() else "", what=value)
    assert problem.startswith("the cloud does not answer: the metadata service says")
    call = site.runtime_with(deadline_ms=2000).start_pod("too-early").add
    assert code_of(call) == 11
    assert "CreateNetworkInterface" not in lab.control.call("calls")

    lab.control.call("clear_faults")
    site.settle()
    site.add("after")
    until(lambda: site.status()[0] == 0, what="an ipamctl status without problems")


@pytest.mark.parametrize("value", ["not an instance", OTHER_INSTANCE], ids=["garbage", "another"])
def test_a_lie_of_the_metadata_service_at_a_restart_loses_nothing(
    ground: Ground, lab: Lab, value: str
) -> None:
    site = ground.started(env={"IP_COOLDOWN_PERIOD": "300"})
    pod = site.add("running")
    site.runtime.stop_pod(site.add("ended"))
    site.settle(available=3)
    before = site.ledger()
    lie(lab, site, "instance-id", value)
    site.restart_ipamd()
    until(lambda: value in site.problems(), what="the lie in ipamctl status")
    site.add("served-from-the-pool")

    lab.control.call("clear_faults")
    until(lambda: site.status()[0] == 0, what="an ipamctl status without problems")
    after = site.ledger()
    assert after.epoch == before.epoch
    assert after.allocations.items() >= before.allocations.items()
    assert after.in_state("cooling") == before.in_state("cooling")
    assert site.can_reach_router(pod, before.allocations[pod.container_id].address)
