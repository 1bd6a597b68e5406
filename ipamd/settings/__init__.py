"""Everything that can be set, read once from the environment into one frozen object.

`table` and `peer` list every variable; parsing, the lines said at the start, `ipamd --print-config`
and the reference in docs/settings.md all come from those rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path

from ipamd.errors import SettingsError
from ipamd.settings import clouds, rules
from ipamd.settings.draft import DEFAULT, DERIVED, ENV, FIXED, Draft
from ipamd.settings.peer import PEER_TABLE
from ipamd.settings.rows import OnBad, Setting
from ipamd.settings.table import TABLE
from ipamd.settings.unknown import unknown_names
from ipamd.settings.values import Tags, without_password

ROWS: tuple[Setting, ...] = (*TABLE, *PEER_TABLE)
"""Every variable that we know."""


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
    eni_config_file: Path | None
    eni_config_name: str
    discovers_subnets: bool
    extra_eni_tags: Tags
    manages_untagged_enis: bool
    cleans_orphans: bool
    has_pod_eni: bool
    pod_eni_mode: str  # "strict" or "standard"
    has_external_snat: bool
    exclude_snat_cidrs: tuple[IPv4Network, ...]
    randomize_snat: str  # "prng", "hashrandom" or "none"
    external_service_cidrs: tuple[IPv4Network, ...]
    has_node_port_support: bool
    connmark: int
    disables_tcp_early_demux: bool
    has_v4_egress: bool
    has_v6_egress: bool
    network_policy_mode: str  # empty, "none", "standard" or "strict"
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
    azure_client_id: str
    azure_arm_endpoint: str
    azure_metadata_endpoint: str
    azure_write_seconds: float  # 0: by the kind of machine
    azure_write_interval_seconds: float  # 0: by the kind of machine
    azure_scale_set_nic_api_version: str  # empty: the newest that is taken
    azure_resync_seconds: float
    has_azure_hints: bool
    unset_targets: frozenset[str]  # of TARGETS and ENABLE_PREFIX_DELEGATION, what nobody set


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """Settings with what is to be said about them at the start."""

    settings: Settings
    notes: tuple[str, ...]  # values that turn something off or have no effect
    warnings: tuple[str, ...]  # values that cannot be used, and what is missing
    origins: Mapping[str, str]  # variable -> "env", "default", "forced by NAME" or "fixed"
    values: Mapping[str, object]  # variable -> effective value


def load(environ: Mapping[str, str]) -> Loaded:
    """The settings in `environ`. Raises SettingsError that lists every unusable value at once."""
    draft = Draft()
    for setting in ROWS:
        _read(draft, setting, environ.get(setting.name))
    for step in (rules.settle, clouds.settle, rules.refuse, clouds.refuse):
        step(draft)
    for step in (rules.note_idle, clouds.note_idle):
        step(draft)
    for setting in ROWS:
        _judge(draft, setting)
    if clouds.is_azure(draft):
        draft.origins.update(dict.fromkeys(_unset_targets(draft), DERIVED))
    if draft.refused:
        raise SettingsError("unusable settings: " + "; ".join(draft.refused))
    draft.warnings.extend(unknown_names(environ, (row.name for row in ROWS)))
    return Loaded(
        settings=_build(draft),
        notes=tuple(draft.notes),
        warnings=tuple(draft.warnings),
        origins=draft.origins,
        values=draft.values,
    )


def _read(draft: Draft, setting: Setting, text: str | None) -> None:
    is_set = text is not None and (text != "" or setting.means_something_empty)
    used = text if is_set and text is not None else setting.default
    draft.origins[setting.name] = ENV if is_set else DEFAULT
    try:
        draft.values[setting.name] = setting.parse(used)
    except ValueError as e:
        said = f"{setting.name}={without_password(used)!r} must be {e}"
        draft.origins[setting.name] = DEFAULT
        draft.values[setting.name] = setting.parse(setting.default)
        if setting.on_bad is OnBad.REFUSE:
            draft.refused.append(said)
        else:
            draft.warnings.append(f"{said}; using the default {setting.default or 'empty'!r}")


def _unset_targets(draft: Draft) -> tuple[str, ...]:
    names = (*rules.TARGETS, "ENABLE_PREFIX_DELEGATION")
    return tuple(name for name in names if draft.origins[name] in (DEFAULT, DERIVED))


def _judge(draft: Draft, setting: Setting) -> None:
    """Say what is to be said of a value that was set, then let the one hold that really does."""
    if draft.is_set(setting.name):
        said = setting.judge(draft.values[setting.name], draft.values)
        if said is not None:
            draft.say(setting.name, said)
    if setting.fixed is not None:
        draft.values[setting.name] = setting.parse(setting.fixed) if setting.fixed else ""
        draft.origins[setting.name] = FIXED


def _build(draft: Draft) -> Settings:
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
        eni_config_file=draft.path("VPC_IPAMD_ENICONFIG_FILE"),
        eni_config_name=draft.text("VPC_IPAMD_ENICONFIG"),
        discovers_subnets=draft.flag("ENABLE_SUBNET_DISCOVERY"),
        extra_eni_tags=draft.tags("ADDITIONAL_ENI_TAGS"),
        manages_untagged_enis=draft.flag("MANAGE_UNTAGGED_ENI"),
        cleans_orphans=draft.flag("VPC_IPAMD_ORPHAN_CLEANUP"),
        has_pod_eni=draft.flag("ENABLE_POD_ENI"),
        pod_eni_mode=draft.text("POD_SECURITY_GROUP_ENFORCING_MODE"),
        has_external_snat=draft.flag("AWS_VPC_K8S_CNI_EXTERNALSNAT"),
        exclude_snat_cidrs=draft.networks("AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS"),
        randomize_snat=draft.text("AWS_VPC_K8S_CNI_RANDOMIZESNAT"),
        external_service_cidrs=draft.networks("AWS_EXTERNAL_SERVICE_CIDRS"),
        has_node_port_support=draft.flag("AWS_VPC_CNI_NODE_PORT_SUPPORT"),
        connmark=int(draft.text("AWS_VPC_K8S_CNI_CONNMARK"), 0),
        disables_tcp_early_demux=draft.flag("DISABLE_TCP_EARLY_DEMUX"),
        has_v4_egress=draft.flag("ENABLE_V4_EGRESS"),
        has_v6_egress=draft.flag("ENABLE_V6_EGRESS"),
        network_policy_mode=draft.text("NETWORK_POLICY_ENFORCING_MODE"),
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
        azure_client_id=draft.text("AZURE_CLIENT_ID"),
        azure_arm_endpoint=draft.text("AZURE_ARM_ENDPOINT"),
        azure_metadata_endpoint=draft.text("AZURE_POD_IDENTITY_AUTHORITY_HOST"),
        azure_write_seconds=draft.whole("AZURE_WRITE_SECONDS"),
        azure_write_interval_seconds=draft.whole("AZURE_WRITE_INTERVAL_SECONDS"),
        azure_scale_set_nic_api_version=draft.text("AZURE_SCALE_SET_NIC_API_VERSION"),
        azure_resync_seconds=draft.whole("AZURE_RESYNC_SECONDS"),
        has_azure_hints=draft.flag("AZURE_METADATA_HINTS"),
        unset_targets=frozenset(_unset_targets(draft)),
    )
