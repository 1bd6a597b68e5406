"""Everything that can be set, read once from the environment into one frozen object.

`TABLE` is the only list of settings: parsing, the start-up warnings and the reference in
docs/settings.md (made by scripts/gen) all come from it. Names and defaults are aws-node's where the
meaning is shared; what is only ours starts with VPC_IPAMD_.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from ipamd.errors import SettingsError


class OnBad(enum.Enum):
    """What an unusable value does."""

    FALL_BACK = "default, with a warning"  # as aws-node does, so that its env starts us too
    REFUSE = "ends the start"


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One row of the reference. `parse` raises ValueError with a phrase for "must be ..."."""

    name: str
    field: str
    default: str
    parse: Callable[[str], object]
    on_bad: OnBad
    meaning: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The effective settings of one process."""

    warm_enis: int
    warm_addresses: int
    minimum_addresses: int
    max_enis: int  # 0: as many as the instance type allows
    cooldown_seconds: float
    run_dir: Path
    store_dir: Path
    cloud: str
    max_pods: int  # 0: what the instance type can carry
    introspection_address: str
    metrics_port: int
    log_level: str
    cluster_name: str
    api_timeout_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """Settings with what is to be said about them at the start."""

    settings: Settings
    warnings: tuple[str, ...]
    origins: Mapping[str, str]  # setting name -> "env" | "default"


def _whole(low: int, high: int = 2**31) -> Callable[[str], object]:
    def parse(text: str) -> object:
        if not re.fullmatch(r"[+-]?\d+", text.strip()) or not low <= int(text) <= high:
            raise ValueError(f"a whole number from {low} to {high}")
        return int(text)

    return parse


def _one_of(*words: str) -> Callable[[str], object]:
    def parse(text: str) -> object:
        if text.strip().lower() not in words:
            raise ValueError("one of " + ", ".join(words))
        return text.strip().lower()

    return parse


def _directory(text: str) -> object:
    if text and not text.startswith("/"):
        raise ValueError("an absolute path")
    return Path(text)


def _listen_address(text: str) -> object:
    if text.startswith("unix:/") or not text:
        return text
    host, _, port = text.rpartition(":")
    if not re.fullmatch(r"[0-9A-Za-z.\[\]:-]+", host) or not re.fullmatch(r"\d{1,5}", port):
        raise ValueError("host:port or unix:/path")
    if int(port) > 65535:
        raise ValueError("host:port with a port up to 65535")
    return text


TABLE: tuple[Setting, ...] = (
    Setting(
        name="WARM_ENI_TARGET",
        field="warm_enis",
        default="1",
        parse=_whole(0),
        on_bad=OnBad.FALL_BACK,
        meaning="Keep this many ENIs' worth of available addresses. Without effect when "
        "WARM_IP_TARGET or MINIMUM_IP_TARGET is above 0. 0: grow only when nothing is free.",
    ),
    Setting(
        name="WARM_IP_TARGET",
        field="warm_addresses",
        default="0",
        parse=_whole(0),
        on_bad=OnBad.FALL_BACK,
        meaning="Keep this many addresses available; 0 is the same as unset. Cooling addresses do "
        "not count as available (in aws-node they do).",
    ),
    Setting(
        name="MINIMUM_IP_TARGET",
        field="minimum_addresses",
        default="0",
        parse=_whole(0),
        on_bad=OnBad.FALL_BACK,
        meaning="Never have fewer addresses than this in all, used and free; 0: no minimum.",
    ),
    Setting(
        name="MAX_ENI",
        field="max_enis",
        default="0",
        parse=_whole(-1),
        on_bad=OnBad.FALL_BACK,
        meaning="At most this many ENIs on the node, the primary included; below 1 the instance "
        "type's limit holds.",
    ),
    Setting(
        name="IP_COOLDOWN_PERIOD",
        field="cooldown_seconds",
        default="30",
        parse=_whole(0, 86400),
        on_bad=OnBad.REFUSE,
        meaning="Seconds before a released address is given to another pod.",
    ),
    Setting(
        name="CLUSTER_NAME",
        field="cluster_name",
        default="",
        parse=str.strip,
        on_bad=OnBad.FALL_BACK,
        meaning="Tags created ENIs with cluster.k8s.amazonaws.com/name and "
        "eks:eni:owner=amazon-vpc-cni.",
    ),
    Setting(
        name="HTTP_TIMEOUT",
        field="api_timeout_seconds",
        default="10",
        parse=_whole(10, 300),
        on_bad=OnBad.FALL_BACK,
        meaning="Seconds before one cloud API call is given up; at least 10.",
    ),
    Setting(
        name="INTROSPECTION_BIND_ADDRESS",
        field="introspection_address",
        default="127.0.0.1:61679",
        parse=_listen_address,
        on_bad=OnBad.REFUSE,
        meaning="Where /v1/enis is served: host:port or unix:/path.",
    ),
    Setting(
        name="VPC_IPAMD_METRICS_PORT",
        field="metrics_port",
        default="61678",
        parse=_whole(0, 65535),
        on_bad=OnBad.REFUSE,
        meaning="Port of /metrics and /healthz on all addresses of the node; 0 turns them off.",
    ),
    Setting(
        name="VPC_IPAMD_MAX_PODS",
        field="max_pods",
        default="0",
        parse=_whole(0, 5000),
        on_bad=OnBad.REFUSE,
        meaning="Never hold more addresses in use or ready than this; 0: what the instance type's "
        "ENIs can carry.",
    ),
    Setting(
        name="VPC_IPAMD_RUN_DIR",
        field="run_dir",
        default="/run/vpc-ipamd",
        parse=_directory,
        on_bad=OnBad.REFUSE,
        meaning="Directory of the gRPC socket (ipamd.sock) and the lock.",
    ),
    Setting(
        name="VPC_IPAMD_STORE_DIR",
        field="store_dir",
        default="",
        parse=_directory,
        on_bad=OnBad.REFUSE,
        meaning="Directory of the store (ipamd.db); empty: VPC_IPAMD_RUN_DIR. Keep it on a tmpfs.",
    ),
    Setting(
        name="VPC_IPAMD_CLOUD",
        field="cloud",
        default="aws",
        parse=_one_of("aws"),
        on_bad=OnBad.REFUSE,
        meaning="Which cloud the node runs in.",
    ),
    Setting(
        name="VPC_IPAMD_LOG_LEVEL",
        field="log_level",
        default="info",
        parse=_one_of("debug", "info", "warning", "error"),
        on_bad=OnBad.REFUSE,
        meaning="The least severe log lines that are written.",
    ),
)


def load(environ: Mapping[str, str]) -> Loaded:
    """The settings in `environ`. Raises SettingsError that lists every unusable value at once."""
    values: dict[str, object] = {}
    warnings: list[str] = []
    refused: list[str] = []
    origins: dict[str, str] = {}
    for setting in TABLE:
        text = environ.get(setting.name, "")
        origins[setting.name] = "env" if text else "default"
        try:
            values[setting.field] = setting.parse(text or setting.default)
        except ValueError as e:
            said = f"{setting.name}={text!r} must be {e}"
            if setting.on_bad is OnBad.REFUSE:
                refused.append(said)
                continue
            warnings.append(f"{said}; using the default {setting.default or 'empty'!r}")
            origins[setting.name] = "default"
            values[setting.field] = setting.parse(setting.default)
    if refused:
        raise SettingsError("unusable settings: " + "; ".join(refused))
    return Loaded(settings=_build(values), warnings=tuple(warnings), origins=origins)


def _build(values: dict[str, object]) -> Settings:
    run_dir, store_dir = values["run_dir"], values["store_dir"]
    assert isinstance(run_dir, Path)
    if store_dir == Path():
        values["store_dir"] = run_dir
    max_enis = values["max_enis"]
    assert isinstance(max_enis, int)
    values["max_enis"] = max(max_enis, 0)
    assert set(values) == {f.name for f in fields(Settings)}
    return Settings(**values)  # type: ignore[arg-type]  # each parser yields its field's type
