"""What vpc-cnid reads from its environment. Everything about a pod comes with the request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cni_shim.datapath.routing import RoutingRules

DEFAULT_RUN_DIR = "/run/vpc-ipamd"
DEFAULT_VETH_PREFIX = "eni"
LEVELS = ("debug", "info", "warning", "error")
ROUTING_RULES = tuple(mode.value for mode in RoutingRules)


class SettingsError(Exception):
    """An unusable value; the text names it and what it must be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings of one process."""

    run_dir: Path
    log_level: str
    eni_mtu: int
    routing_rules: RoutingRules = RoutingRules.GROUPED

    @property
    def ipamd_socket(self) -> Path:
        """Where ipamd serves gRPC."""
        return self.run_dir / "ipamd.sock"

    @property
    def cni_socket(self) -> Path:
        """Where launchers connect."""
        return self.run_dir / "cni.sock"

    @property
    def heartbeat(self) -> Path:
        """The file whose age tells launchers whether a daemon lives."""
        return self.run_dir / "heartbeat"


def load(environ: Mapping[str, str]) -> Settings:
    """The settings in `environ`. Raises SettingsError that names every unusable value."""
    run_dir = environ.get("VPC_IPAMD_RUN_DIR") or DEFAULT_RUN_DIR
    level = (environ.get("VPC_IPAMD_LOG_LEVEL") or "info").strip().lower()
    mtu = environ.get("AWS_VPC_ENI_MTU") or "9001"
    routing = (environ.get("VPC_IPAMD_ROUTING_RULES") or "grouped").strip().lower()
    bad = []
    if not run_dir.startswith("/"):
        bad.append(f"VPC_IPAMD_RUN_DIR={run_dir!r} must be an absolute path")
    if level not in LEVELS:
        bad.append(f"VPC_IPAMD_LOG_LEVEL={level!r} must be one of {', '.join(LEVELS)}")
    if not mtu.isdecimal() or not 576 <= int(mtu) <= 9001:
        bad.append(f"AWS_VPC_ENI_MTU={mtu!r} must be a whole number from 576 to 9001")
    if routing not in ROUTING_RULES:
        bad.append(f"VPC_IPAMD_ROUTING_RULES={routing!r} must be one of {', '.join(ROUTING_RULES)}")
    if bad:
        raise SettingsError("unusable settings: " + "; ".join(bad))
    return Settings(
        run_dir=Path(run_dir),
        log_level=level,
        eni_mtu=int(mtu),
        routing_rules=RoutingRules(routing),
    )
