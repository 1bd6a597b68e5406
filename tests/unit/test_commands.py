from __future__ import annotations

import json
from ipaddress import IPv4Network

import pytest
from cni_shim import commands
from cni_shim.datapath import own_host, peer_host
from cni_shim.datapath.errors import DatapathError
from cni_shim.datapath.messages import Route, Rule
from cni_shim.datapath.own_host import Leftovers, Restored
from cni_shim.datapath.peer_host import Backend, PeerHost
from cni_shim.settings import Settings, SettingsError

NO_PEER = PeerHost(backends=(), has_nft_table=False)
UNSEEN = PeerHost(
    backends=(
        Backend(program="iptables-legacy", why_unseen="iptables-legacy-save is not installed"),
    ),
    has_nft_table=False,
)
LEFT = Leftovers(
    has_firewall=True,
    has_snat=True,
    rules=(Rule(priority=512, table=5120),),
    kept=(Rule(priority=1024, table=254, mark=0x80, mask=0x80),),
    pod_routes=(),
)


class Kernel:
    """What the steps find and do."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left, self.peer, self.removed = LEFT, NO_PEER, False
        monkeypatch.setattr(own_host, "restore", lambda _: Restored(pods=3, changed=2))
        monkeypatch.setattr(own_host, "look", lambda _: self.left)
        monkeypatch.setattr(own_host, "remove", self.remove)
        monkeypatch.setattr(peer_host, "look", lambda: self.peer)

    def remove(self, netlink: object, found: Leftovers) -> None:
        assert found == self.left
        self.removed = True


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    return Kernel(monkeypatch)


def run(*words: str) -> int:
    return commands.run(words, only_one=lambda _: 0)


def test_pods_that_got_rules_are_counted(
    kernel: Kernel, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--restore-peer", "-o", "json") == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["pods_with_rules_of_their_own"], said["changed_now"]) == (3, 2)


@pytest.mark.parametrize("peer", [NO_PEER, UNSEEN], ids=["none", "unseen"])
def test_ours_stays_until_aws_nodes_snat_is_seen(
    kernel: Kernel, capsys: pytest.CaptureFixture[str], peer: PeerHost
) -> None:
    kernel.peer = peer
    assert run("--remove-ours") == 2
    said = capsys.readouterr().err
    assert "aws-node's SNAT is not seen" in said
    assert ("iptables-legacy-save is not installed" in said) == (peer is UNSEEN)
    assert not kernel.removed


def test_force_is_for_a_peer_that_does_not_snat(
    kernel: Kernel, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--remove-ours", "--force") == 1  # a rule of ours is left, and named
    assert kernel.removed
    assert "left: 1024: fwmark 0x80/0x80 lookup 254" in capsys.readouterr().out


def test_a_node_that_snats_nothing_needs_no_snat_of_the_peers(kernel: Kernel) -> None:
    kernel.left = Leftovers(has_firewall=True, has_snat=False, rules=(), kept=(), pod_routes=())
    assert run("--remove-ours") == 0


def test_pods_whose_routes_only_our_table_has_come_first(
    kernel: Kernel, capsys: pytest.CaptureFixture[str]
) -> None:
    route = Route(table=5120, destination=IPv4Network("10.0.0.9"), gateway=None, ifindex=7)
    kernel.left = Leftovers(
        has_firewall=True, has_snat=False, rules=(), kept=(), pod_routes=(route,)
    )
    assert run("--remove-ours", "--force") == 2
    assert "run vpc-cnid --restore-peer first" in capsys.readouterr().err


@pytest.mark.parametrize(
    "error",
    [SettingsError("another vpc-cnid holds it"), DatapathError("list links", 1), OSError("no dir")],
    ids=["running", "kernel", "directory"],
)
def test_what_cannot_be_begun_is_said_and_status_2(
    kernel: Kernel, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    def refuse(_: Settings) -> int:
        raise error

    assert commands.run(["--restore-peer"], only_one=refuse) == 2
    assert str(error) in capsys.readouterr().err


def test_options_alone_do_nothing(kernel: Kernel, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--force") == 2
    assert "--restore-peer or --remove-ours" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--restore-peer", "--remove-ours"], ["serve"], ["-o", "yaml"]])
def test_what_is_not_understood_is_refused(kernel: Kernel, words: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        run(*words)
    assert caught.value.code == 2
