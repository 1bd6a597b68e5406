"""Everything that can be set, read once from the environment into one frozen object.

`ipamd.settings_table` and `ipamd.peer_settings` list every variable; parsing, the lines said at the
start, `ipamd --print-config` and the reference in docs/settings.md all come from those rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ipamd.errors import SettingsError
from ipamd.settings_table import TABLE, OnBad, Setting
from ipamd.settings_values import Tags, allowed_tags

DEFAULT, ENV = "default", "env"
"""Origins of a value; the third is "forced by NAME"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The effective settings of one process."""

    warm_enis: int
    warm_addresses: int
    minimum_addresses: int
    warm_prefixes: int
    max_enis: int  # 0: as many as the instance type allows
    use_prefixes: bool
    has_ipv4: bool
    has_ipv6: bool
    provisions: bool  # False: never change ENIs or their addresses in the cloud
    has_multi_nic: bool
    has_custom_networking: bool
    eni_config_label: str
    eni_config_annotation: str
    eni_config_file: Path | None
    eni_config_name: str
    discovers_subnets: bool
    extra_eni_tags: Tags
    manages_untagged_enis: bool
    cleans_orphans: bool
    has_pod_eni: bool
    cooldown_seconds: float
    run_dir: Path
    store_dir: Path
    peer_socket: Path | None  # None: do not look for aws-node
    peer_checkpoint: Path
    cni_backend_socket: Path | None  # None: rpc.CNIBackend is not served
    targets_file: Path | None
    cloud: str
    max_pods: int  # 0: what the instance type can carry
    introspection_address: str  # empty: not served
    metrics_port: int  # 0: not served
    log_level: str
    cluster_name: str
    api_timeout_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """Settings with what is to be said about them at the start."""

    settings: Settings
    warnings: tuple[str, ...]
    origins: Mapping[str, str]  # setting name -> "env" | "default" | "forced by NAME"
    values: Mapping[str, object]  # setting name -> effective value


@dataclass(slots=True, kw_only=True)
class _Draft:
    """What is known so far; lives for one `load`."""

    values: dict[str, object] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    def flag(self, name: str) -> bool:
        value = self.values[name]
        assert isinstance(value, bool)
        return value

    def whole(self, name: str) -> int:
        value = self.values[name]
        assert isinstance(value, int)
        return value

    def text(self, name: str) -> str:
        value = self.values[name]
        assert isinstance(value, str)
        return value

    def path(self, name: str) -> Path | None:
        value = self.values[name]
        assert value is None or isinstance(value, Path)
        return value

    def tags(self, name: str) -> Tags:
        value = self.values[name]
        assert isinstance(value, tuple)
        return value

    def is_set(self, name: str) -> bool:
        return self.origins[name] == ENV

    def force(self, name: str, value: object, by: str) -> None:
        if self.values[name] != value:
            self.values[name], self.origins[name] = value, f"forced by {by}"


def load(environ: Mapping[str, str]) -> Loaded:
    """The settings in `environ`. Raises SettingsError that lists every unusable value at once."""
    draft = _Draft()
    for setting in TABLE:
        _read(draft, setting, environ.get(setting.name))
    if not draft.refused:
        _settle_families(draft)
        _settle_tags(draft)
        _settle_switches(draft)
        _refuse_combinations(draft)
    if draft.refused:
        raise SettingsError("unusable settings: " + "; ".join(draft.refused))
    return Loaded(
        settings=_build(draft),
        warnings=tuple(draft.warnings),
        origins=draft.origins,
        values=draft.values,
    )


def _read(draft: _Draft, setting: Setting, text: str | None) -> None:
    is_set = bool(text) or (text is not None and setting.means_something_empty)
    used = text if is_set and text is not None else setting.default
    draft.origins[setting.name] = ENV if is_set else DEFAULT
    try:
        draft.values[setting.name] = setting.parse(used)
    except ValueError as e:
        said = f"{setting.name}={used!r} must be {e}"
        if setting.on_bad is OnBad.REFUSE:
            draft.refused.append(said)
            return
        draft.warnings.append(f"{said}; using the default {setting.default or 'empty'!r}")
        draft.origins[setting.name] = DEFAULT
        draft.values[setting.name] = setting.parse(setting.default)


def _settle_families(draft: _Draft) -> None:
    """One family unless told otherwise: an unset ENABLE_IPv4 gives way to ENABLE_IPv6."""
    if draft.flag("ENABLE_IPv6") and not draft.is_set("ENABLE_IPv4"):
        draft.force("ENABLE_IPv4", value=False, by="ENABLE_IPv6")


def _settle_tags(draft: _Draft) -> None:
    name = "ADDITIONAL_ENI_TAGS"
    draft.values[name], dropped = allowed_tags(draft.tags(name))
    draft.warnings.extend(
        f"{name} has the reserved key {key!r}, which is left out" for key in dropped
    )


def _settle_switches(draft: _Draft) -> None:
    for by in (
        "DISABLE_LEAKED_ENI_CLEANUP",
        "ENABLE_IPv6",
        "DISABLE_NETWORK_RESOURCE_PROVISIONING",
    ):
        if draft.flag(by):
            draft.force("VPC_IPAMD_ORPHAN_CLEANUP", value=False, by=by)
    if draft.flag("DISABLE_INTROSPECTION"):
        draft.force("INTROSPECTION_BIND_ADDRESS", "", by="DISABLE_INTROSPECTION")
    if draft.flag("DISABLE_METRICS"):
        draft.force("VPC_IPAMD_METRICS_PORT", 0, by="DISABLE_METRICS")
    if draft.path("VPC_IPAMD_STORE_DIR") is None:
        draft.force("VPC_IPAMD_STORE_DIR", draft.path("VPC_IPAMD_RUN_DIR"), by="VPC_IPAMD_RUN_DIR")


def _refuse_combinations(draft: _Draft) -> None:
    """What cannot be together. The first four are aws-node's own refusals."""
    v4, v6 = draft.flag("ENABLE_IPv4"), draft.flag("ENABLE_IPv6")
    has_prefixes = draft.flag("ENABLE_PREFIX_DELEGATION")
    has_custom = draft.flag("AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG")
    targets = ("WARM_PREFIX_TARGET", "WARM_IP_TARGET", "MINIMUM_IP_TARGET")
    refusals = (
        (
            v4 == v6,
            f"exactly one of ENABLE_IPv4 and ENABLE_IPv6 must be true, not {_both(v4)}",
        ),
        (v6 and not has_prefixes, "ENABLE_IPv6=true needs ENABLE_PREFIX_DELEGATION=true"),
        (
            v6 and has_custom,
            "ENABLE_IPv6=true and AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG=true exclude each other",
        ),
        (
            has_prefixes and not any(draft.whole(name) for name in targets),
            f"ENABLE_PREFIX_DELEGATION=true needs one of {', '.join(targets)} above 0",
        ),
        (
            has_custom and draft.path("VPC_IPAMD_ENICONFIG_FILE") is None,
            "AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG=true needs VPC_IPAMD_ENICONFIG_FILE",
        ),
        (
            draft.flag("ENABLE_POD_ENI"),
            "ENABLE_POD_ENI=true asks for security groups for pods, not built: set it to false",
        ),
    )
    draft.refused.extend(text for is_so, text in refusals if is_so)


def _both(are_true: bool) -> str:
    return "both" if are_true else "none"


def _build(draft: _Draft) -> Settings:
    run_dir, store_dir = draft.path("VPC_IPAMD_RUN_DIR"), draft.path("VPC_IPAMD_STORE_DIR")
    checkpoint = draft.path("AWS_VPC_K8S_CNI_BACKING_STORE")
    assert run_dir is not None
    assert store_dir is not None
    assert checkpoint is not None
    return Settings(
        warm_enis=draft.whole("WARM_ENI_TARGET"),
        warm_addresses=draft.whole("WARM_IP_TARGET"),
        minimum_addresses=draft.whole("MINIMUM_IP_TARGET"),
        warm_prefixes=draft.whole("WARM_PREFIX_TARGET"),
        max_enis=max(draft.whole("MAX_ENI"), 0),
        use_prefixes=draft.flag("ENABLE_PREFIX_DELEGATION"),
        has_ipv4=draft.flag("ENABLE_IPv4"),
        has_ipv6=draft.flag("ENABLE_IPv6"),
        provisions=not draft.flag("DISABLE_NETWORK_RESOURCE_PROVISIONING"),
        has_multi_nic=draft.flag("ENABLE_MULTI_NIC"),
        has_custom_networking=draft.flag("AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG"),
        eni_config_label=draft.text("ENI_CONFIG_LABEL_DEF"),
        eni_config_annotation=draft.text("ENI_CONFIG_ANNOTATION_DEF"),
        eni_config_file=draft.path("VPC_IPAMD_ENICONFIG_FILE"),
        eni_config_name=draft.text("VPC_IPAMD_ENICONFIG"),
        discovers_subnets=draft.flag("ENABLE_SUBNET_DISCOVERY"),
        extra_eni_tags=draft.tags("ADDITIONAL_ENI_TAGS"),
        manages_untagged_enis=draft.flag("MANAGE_UNTAGGED_ENI"),
        cleans_orphans=draft.flag("VPC_IPAMD_ORPHAN_CLEANUP"),
        has_pod_eni=draft.flag("ENABLE_POD_ENI"),
        cooldown_seconds=draft.whole("IP_COOLDOWN_PERIOD"),
        run_dir=run_dir,
        store_dir=store_dir,
        peer_socket=draft.path("VPC_IPAMD_PEER_SOCKET"),
        peer_checkpoint=checkpoint,
        cni_backend_socket=draft.path("VPC_IPAMD_CNI_BACKEND_SOCKET"),
        targets_file=draft.path("VPC_IPAMD_TARGETS_FILE"),
        cloud=draft.text("VPC_IPAMD_CLOUD"),
        max_pods=draft.whole("VPC_IPAMD_MAX_PODS"),
        introspection_address=draft.text("INTROSPECTION_BIND_ADDRESS"),
        metrics_port=draft.whole("VPC_IPAMD_METRICS_PORT"),
        log_level=draft.text("VPC_IPAMD_LOG_LEVEL"),
        cluster_name=draft.text("CLUSTER_NAME"),
        api_timeout_seconds=draft.whole("HTTP_TIMEOUT"),
    )
