"""What vpc-cnid reads from its environment. Everything about a pod comes with the request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ipam_api.v1 import door

from cni_shim.datapath.desired import DEFAULT_ENI_MTU
from cni_shim.datapath.routing import RoutingRules

DEFAULT_RUN_DIR = "/run/vpc-ipamd"
DEFAULT_CRI_SOCKETS = "/run/containerd/containerd.sock,/run/crio/crio.sock"
DEFAULT_NETNS_DIRS = "/run/netns,/run/containerd/io.containerd.grpc.v1.cri/netns"
"""ip-netns(8), CRI-O, podman, containerd; and containerd with netns_mounts_under_state_dir."""

DEFAULT_CNI_CACHE_DIR = "/var/lib/cni/results"  # libcni's; containerd, CRI-O and podman keep it
DEFAULT_POLICY_AGENT_SOCKET = "/var/run/aws-node/npa.sock"  # aws-network-policy-agent's own
DEFAULT_VETH_PREFIX = "eni"
LEVELS = ("debug", "info", "warning", "error")
ROUTING_RULES = tuple(mode.value for mode in RoutingRules)
LOST_DELS = ("release", "log", "off")

DEFAULT_MTU: Mapping[str, int | None] = {"aws": DEFAULT_ENI_MTU, "azure": None}
"""By cloud, of ENIs' links and pods' where no setting says it. On Azure the NIC's own: it is 1500,
and more only where size, driver and peer allow it (Azure docs, "TCP/IP performance tuning")."""


class SettingsError(Exception):
    """An unusable value; the text names it and what it must be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings of one process."""

    run_dir: Path
    log_level: str
    eni_mtu: int | None  # None: ENIs' links keep theirs, and pods get the primary's
    routing_rules: RoutingRules = RoutingRules.GROUPED
    lost_dels: str = LOST_DELS[0]
    cri_sockets: tuple[Path, ...] = ()
    netns_dirs: tuple[Path, ...] = ()
    cni_cache_dir: Path = Path(DEFAULT_CNI_CACHE_DIR)
    policy_agent_socket: Path = Path(DEFAULT_POLICY_AGENT_SOCKET)

    @property
    def ipamd_socket(self) -> Path:
        """Where ipamd serves vpc-cnid."""
        return self.run_dir / door.SOCKET_NAME

    @property
    def cni_socket(self) -> Path:
        """Where launchers connect."""
        return self.run_dir / "cni.sock"


def load(environ: Mapping[str, str]) -> Settings:
    """The settings in `environ`. Raises SettingsError that names every unusable value."""
    run_dir = environ.get("VPC_IPAMD_RUN_DIR") or DEFAULT_RUN_DIR
    level = (environ.get("VPC_IPAMD_LOG_LEVEL") or "info").strip().lower()
    cloud = (environ.get("VPC_IPAMD_CLOUD") or "aws").strip().lower()
    mtu = environ.get("AWS_VPC_ENI_MTU") or str(DEFAULT_MTU.get(cloud) or "")
    routing = (environ.get("VPC_IPAMD_ROUTING_RULES") or "grouped").strip().lower()
    lost_dels = (environ.get("VPC_IPAMD_LOST_DELS") or LOST_DELS[0]).strip().lower()
    cri_sockets = _paths(environ, "VPC_IPAMD_CRI_SOCKETS", DEFAULT_CRI_SOCKETS)
    netns_dirs = _paths(environ, "VPC_IPAMD_NETNS_DIRS", DEFAULT_NETNS_DIRS)
    cache_dir = environ.get("VPC_IPAMD_CNI_CACHE_DIR") or DEFAULT_CNI_CACHE_DIR
    policy_agent = environ.get("VPC_IPAMD_NPA_SOCKET") or DEFAULT_POLICY_AGENT_SOCKET
    bad = []
    if not run_dir.startswith("/"):
        bad.append(f"VPC_IPAMD_RUN_DIR={run_dir!r} must be an absolute path")
    if level not in LEVELS:
        bad.append(f"VPC_IPAMD_LOG_LEVEL={level!r} must be one of {', '.join(LEVELS)}")
    if cloud not in DEFAULT_MTU:
        bad.append(f"VPC_IPAMD_CLOUD={cloud!r} must be one of {', '.join(DEFAULT_MTU)}")
    if mtu and (not mtu.isdecimal() or not 576 <= int(mtu) <= 9001):
        bad.append(f"AWS_VPC_ENI_MTU={mtu!r} must be a whole number from 576 to 9001")
    if routing not in ROUTING_RULES:
        bad.append(f"VPC_IPAMD_ROUTING_RULES={routing!r} must be one of {', '.join(ROUTING_RULES)}")
    if lost_dels not in LOST_DELS:
        bad.append(f"VPC_IPAMD_LOST_DELS={lost_dels!r} must be one of {', '.join(LOST_DELS)}")
    for name, paths in (
        ("VPC_IPAMD_CRI_SOCKETS", cri_sockets),
        ("VPC_IPAMD_NETNS_DIRS", netns_dirs),
        ("VPC_IPAMD_CNI_CACHE_DIR", (Path(cache_dir),)),
        ("VPC_IPAMD_NPA_SOCKET", (Path(policy_agent),)),
    ):
        if not all(path.is_absolute() for path in paths):
            bad.append(f"{name}={environ[name]!r} must be absolute paths, with commas between")
    if bad:
        raise SettingsError("unusable settings: " + "; ".join(bad))
    return Settings(
        run_dir=Path(run_dir),
        log_level=level,
        eni_mtu=int(mtu) if mtu else None,
        routing_rules=RoutingRules(routing),
        lost_dels=lost_dels,
        cri_sockets=cri_sockets,
        netns_dirs=netns_dirs,
        cni_cache_dir=Path(cache_dir),
        policy_agent_socket=Path(policy_agent),
    )


def _paths(environ: Mapping[str, str], name: str, default: str) -> tuple[Path, ...]:
    """Paths with commas between, in their order."""
    parts = (environ.get(name) or default).split(",")
    return tuple(Path(part.strip()) for part in parts if part.strip())
