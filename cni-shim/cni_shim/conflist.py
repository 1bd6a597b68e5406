"""The network configuration that runtimes read, from the settings that say what is in it. Pure.

Placed on a node by `cni_shim.install`. What each key means to us: `cni_shim.spec`; what a runtime
makes of the file: CNI SPEC, section 1. The names of the settings are aws-node's, and so is the
choice of what is chained: portmap always, bandwidth and tuning where they are asked for
(amazon-vpc-cni-k8s, misc/10-aws.conflist and cmd/aws-vpc-cni).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from cni_shim.errors import CniError
from cni_shim.plugin_config import PluginConfig, parse_own_keys
from cni_shim.settings import SettingsError

NETWORK_NAME = "vpc-ipamd"
MAIN_PLUGIN = "vpc-cni"
FILE_SUFFIXES = (
    ".conf",
    ".conflist",
    ".json",
)  # what containerd and CRI-O look for, others they skip

# containerd up to 1.7 hands `cniVersion` on as it is, and its libcni does not know 1.1.0; libcni
# from 1.2 takes the best of the list.
CNI_VERSION = "1.0.0"
CNI_VERSIONS = ("0.3.1", "0.4.0", "1.0.0", "1.1.0")

POD_ANNOTATIONS = "io.kubernetes.cri.pod-annotations"
_TRUE, _FALSE = frozenset({"1", "t", "true"}), frozenset({"", "0", "f", "false"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What the network is to be: our plugin's keys, and who comes behind it."""

    own: PluginConfig = field(default_factory=PluginConfig)
    has_portmap: bool = True
    has_bandwidth: bool = False
    disables_pod_v6: bool = False

    @property
    def chained(self) -> tuple[str, ...]:
        """The plugins behind ours, in order."""
        wanted = (
            ("portmap", self.has_portmap),
            ("bandwidth", self.has_bandwidth),
            ("tuning", self.disables_pod_v6),
        )
        return tuple(name for name, is_wanted in wanted if is_wanted)


def wanted(environ: Mapping[str, str]) -> Wanted:
    """What the environment asks for. Raises SettingsError that names every unusable value."""
    bad: list[str] = []
    own = _own_keys(environ, bad)
    flags = {
        name: _flag(environ, name, bad, default=default)
        for name, default in (
            ("VPC_IPAMD_CHAIN_PORTMAP", True),
            ("ENABLE_BANDWIDTH_PLUGIN", False),
            ("DISABLE_POD_V6", False),
        )
    }
    if bad:
        raise SettingsError("unusable settings: " + "; ".join(bad))
    return Wanted(
        own=own,
        has_portmap=flags["VPC_IPAMD_CHAIN_PORTMAP"],
        has_bandwidth=flags["ENABLE_BANDWIDTH_PLUGIN"],
        disables_pod_v6=flags["DISABLE_POD_V6"],
    )


def _own_keys(environ: Mapping[str, str], bad: list[str]) -> PluginConfig:
    """Our plugin's keys, judged as the plugin itself will. `mtu` only where somebody chose one:
    what it is else depends on the cloud, and vpc-cnid knows that."""
    usable: dict[str, object] = {}
    for names, key in (
        (("AWS_VPC_K8S_CNI_VETHPREFIX",), "vethPrefix"),
        (("POD_MTU", "AWS_VPC_ENI_MTU"), "mtu"),
    ):
        name = next((name for name in names if environ.get(name)), "")
        if not name:
            continue
        try:
            parse_own_keys({key: environ[name]})
        except CniError as e:
            bad.append(f"{name}: {e}")
        else:
            usable[key] = environ[name]
    return parse_own_keys(usable)


def _flag(environ: Mapping[str, str], name: str, bad: list[str], *, default: bool) -> bool:
    text = environ.get(name) or ("true" if default else "")
    if text.lower() not in _TRUE | _FALSE:
        bad.append(f"{name}={text!r} must be true or false")
    return text.lower() in _TRUE


def render(network: Wanted) -> bytes:
    """The file's bytes; the same for the same network, so that a comparison tells a change."""
    ours: dict[str, object] = {
        "type": MAIN_PLUGIN,
        "capabilities": {POD_ANNOTATIONS: True},
        "vethPrefix": network.own.veth_prefix,
    }
    if network.own.mtu:
        ours["mtu"] = str(network.own.mtu)
    plugins = [ours]
    plugins += [_CHAINED[name] for name in network.chained]
    document = {
        "cniVersion": CNI_VERSION,
        "cniVersions": list(CNI_VERSIONS),
        "name": NETWORK_NAME,
        "plugins": plugins,
    }
    return json.dumps(document, indent=2).encode() + b"\n"


_CHAINED: Mapping[str, dict[str, object]] = {
    # snat: a connection from the node to its own hostPort must come back through the node.
    "portmap": {"type": "portmap", "capabilities": {"portMappings": True}, "snat": True},
    "bandwidth": {"type": "bandwidth", "capabilities": {"bandwidth": True}},
    "tuning": {
        "type": "tuning",
        "sysctl": {
            "net.ipv6.conf.all.disable_ipv6": "1",
            "net.ipv6.conf.default.disable_ipv6": "1",
            "net.ipv6.conf.lo.disable_ipv6": "1",
        },
    },
}


def status_request() -> bytes:
    """The stdin of a STATUS for our plugin in this network."""
    document = {"cniVersion": "1.1.0", "name": NETWORK_NAME, "type": MAIN_PLUGIN}
    return json.dumps(document).encode()


def winners(names: Iterable[str], ours: str) -> tuple[str, ...]:
    """Of the files beside ours those that win: a runtime takes the first by name."""
    return tuple(
        name
        for name in sorted(names)
        if name < ours and name.endswith(FILE_SUFFIXES) and not name.startswith(".")
    )
