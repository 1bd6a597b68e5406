"""What a runtime asks, judged by the rules of the CNI specification: `CniRequest` or `CniError`.

Pure. `parse` is called by the server for every frame; the name rules also by the delete queue.
Sources: CNI SPEC 1.1 sections 1 (configuration) and 2 (parameters, errors); where the text leaves
room, what libcni and its skel package do, as every runtime is built on those.

Lenient where a runtime would suffer for what is not its fault: CNI_ARGS in any shape, plugin keys
on a DEL (the ledger says what to tear down; a conflist of another version must not keep an address
from being released), a prevResult that is garbage. Strict in names, versions and our own keys.
"""

from __future__ import annotations

import enum
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from cni_shim import ipam_only, runtime_keys
from cni_shim.errors import CniError, CniErrorCode, shown
from cni_shim.ipam_only import IpamOnly
from cni_shim.plugin_config import PluginConfig, parse_own_keys

# The launchers carry the same list as a constant; a test compares them.
SUPPORTED_VERSIONS = ("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
NEWEST_VERSION = SUPPORTED_VERSIONS[-1]
OLDEST_VERSION = SUPPORTED_VERSIONS[0]  # also what a config without a version means (SPEC 0.1.0)

CONTAINER_ID_LIMIT = 200  # ours: id, comma and ifname make a file name; real ids have 64 hex digits
IFNAME_LIMIT = 15  # IFNAMSIZ less its NUL

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_IFNAME_FORBIDDEN = re.compile(r"[/: \t\n\v\f\r]")


class Verb(enum.Enum):
    """The verbs that reach vpc-cnid; the launcher answers VERSION."""

    ADD = "add"
    DEL = "del"
    CHECK = "check"
    GC = "gc"
    STATUS = "status"


_REQUIRED_ENV: Mapping[Verb, tuple[str, ...]] = {
    Verb.ADD: ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"),
    Verb.CHECK: ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"),
    Verb.DEL: ("CNI_CONTAINERID", "CNI_IFNAME", "CNI_PATH"),
    Verb.GC: ("CNI_PATH",),
    Verb.STATUS: (),
}
_SINCE_VERSION: Mapping[Verb, str] = {
    Verb.CHECK: "0.4.0",
    Verb.GC: "1.1.0",
    Verb.STATUS: "1.1.0",
}


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class AttachmentKey:
    """One network on one container: what ADD, DEL and CHECK name."""

    container_id: str
    ifname: str

    def __str__(self) -> str:
        return f"{self.container_id}/{self.ifname}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pod:
    """The pod as the runtime names it in CNI_ARGS; all empty outside Kubernetes."""

    namespace: str = ""
    name: str = ""
    uid: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CniRequest:
    """A request whose form is right.

    `key` is None for GC and STATUS, which name no attachment. `netns_path` is for messages only:
    the namespace itself travels as an fd. `prev_result` is the decoded object as it came, or None
    where there was none or something else than an object. `valid_attachments` is what GC must keep,
    None for every other verb. `ipam_only` is there where a main plugin asks us for addresses alone;
    then our own keys of a main plugin have their defaults. `stdin` is the configuration as it came,
    for the delete queue.
    """

    verb: Verb
    key: AttachmentKey | None
    netns_path: str
    allows_own_netns: bool  # CNI_NETNS_OVERRIDE: the pod may share our network namespace
    pod: Pod
    network_name: str
    cni_version: str
    config: PluginConfig
    prev_result: Mapping[str, object] | None
    pod_annotations: Mapping[str, str] = field(default_factory=dict)
    valid_attachments: frozenset[AttachmentKey] | None = None
    ipam_only: IpamOnly | None = None
    stdin: bytes = field(default=b"", repr=False, compare=False)


def blank_delete(key: AttachmentKey) -> CniRequest:
    """A DEL that says nothing but whose it is, where no runtime's own words are to be had."""
    return CniRequest(
        verb=Verb.DEL,
        key=key,
        netns_path="",
        allows_own_netns=True,
        pod=Pod(),
        network_name="",
        cni_version=NEWEST_VERSION,
        config=PluginConfig(),
        prev_result=None,
    )


def parse(env: Callable[[str], str], stdin: bytes) -> CniRequest:
    """The request in `env` (a lookup that gives "" for what is absent) and `stdin`.

    Raises `CniError` with the specification's code: 4 environment, 6 undecodable, 7 bad network
    configuration, 1 version, 2 a plugin key that is unknown.
    """
    verb = _parse_verb(env("CNI_COMMAND"))
    _check_presence(verb, env)
    key = _parse_key(env) if "CNI_IFNAME" in _REQUIRED_ENV[verb] else None
    config = _decode(stdin)
    network_name = _parse_network_name(config)
    cni_version = _parse_version(config)
    _check_version(verb, cni_version)
    is_lenient = verb in (Verb.DEL, Verb.GC)
    return CniRequest(
        verb=verb,
        key=key,
        netns_path=env("CNI_NETNS"),
        allows_own_netns=env("CNI_NETNS_OVERRIDE").lower() in ("1", "true"),
        pod=_parse_pod(env("CNI_ARGS")),
        network_name=network_name,
        cni_version=cni_version,
        config=PluginConfig()
        if verb is Verb.DEL or ipam_only.is_ipam_only(config)
        else parse_own_keys(config),
        prev_result=_as_object(config.get("prevResult")),
        pod_annotations=runtime_keys.pod_annotations(config),
        valid_attachments=_parse_valid(config) if verb is Verb.GC else None,
        ipam_only=(ipam_only.parse_leniently if is_lenient else ipam_only.parse)(config),
        stdin=stdin,
    )


def error_version(stdin: bytes) -> str:
    """The version an error document for this input should carry: the config's, else our newest."""
    try:
        return _parse_version(_decode(stdin))
    except CniError:
        return NEWEST_VERSION


def check_container_id(container_id: str) -> None:
    """Raise `CniError` 4 unless the id is of the specification's alphabet, and not too long."""
    if not _NAME.fullmatch(container_id) or len(container_id) > CONTAINER_ID_LIMIT:
        raise CniError(
            CniErrorCode.INVALID_ENVIRONMENT,
            "CNI_CONTAINERID cannot be used",
            f"{shown(container_id)}: 1 to {CONTAINER_ID_LIMIT} letters, digits and _.-, "
            "the first a letter or digit",
        )


def check_ifname(ifname: str) -> None:
    """Raise `CniError` 4 unless the kernel takes the name (dev_valid_name, net/core/dev.c)."""
    length = len(ifname.encode("utf-8", "surrogateescape"))
    is_dots = ifname in (".", "..") or not ifname.isprintable()
    if not 1 <= length <= IFNAME_LIMIT or is_dots or _IFNAME_FORBIDDEN.search(ifname):
        raise CniError(
            CniErrorCode.INVALID_ENVIRONMENT,
            "CNI_IFNAME cannot be used",
            f"{shown(ifname)}: 1 to {IFNAME_LIMIT} bytes without slash, colon or space",
        )


def _parse_verb(command: str) -> Verb:
    if not command:
        raise CniError(CniErrorCode.INVALID_ENVIRONMENT, "CNI_COMMAND is missing")
    try:
        # Commands are upper case and nothing else: "add" is not ADD.
        return Verb(command.lower() if command.isupper() else "")
    except ValueError:
        raise CniError(
            CniErrorCode.INVALID_ENVIRONMENT, "CNI_COMMAND is unknown", shown(command)
        ) from None


def _check_presence(verb: Verb, env: Callable[[str], str]) -> None:
    """All that is missing in one message; an empty value is a missing one (libcni's skel)."""
    missing = [name for name in _REQUIRED_ENV[verb] if not env(name)]
    if missing:
        raise CniError(
            CniErrorCode.INVALID_ENVIRONMENT,
            f"required environment variables are missing: {', '.join(missing)}",
            f"CNI_COMMAND={verb.name} needs {', '.join(_REQUIRED_ENV[verb])}",
        )


def _parse_key(env: Callable[[str], str]) -> AttachmentKey:
    container_id, ifname = env("CNI_CONTAINERID"), env("CNI_IFNAME")
    check_container_id(container_id)
    check_ifname(ifname)
    return AttachmentKey(container_id=container_id, ifname=ifname)


def _parse_pod(cni_args: str) -> Pod:
    """`K=V;K=V` in any order; whatever is not that is passed over, the last of a key counts."""
    pairs = (pair.partition("=") for pair in cni_args.split(";"))
    # Bytes that are no UTF-8 arrive as surrogates, which neither gRPC nor a link's alias can hold.
    args = {key.strip(): value.strip().encode(errors="replace").decode() for key, _, value in pairs}
    return Pod(
        namespace=args.get("K8S_POD_NAMESPACE", ""),
        name=args.get("K8S_POD_NAME", ""),
        uid=args.get("K8S_POD_UID", ""),
    )


def _decode(stdin: bytes) -> Mapping[str, object]:
    try:
        decoded = json.loads(stdin)
    except (ValueError, RecursionError) as e:
        raise CniError(
            CniErrorCode.UNDECODABLE_CONTENT, "stdin is not a JSON document", shown(str(e))
        ) from None
    config = _as_object(decoded)
    if config is None:
        raise CniError(
            CniErrorCode.UNDECODABLE_CONTENT,
            "stdin is not a JSON object",
            f"it is a {type(decoded).__name__}",
        )
    return config


def _as_object(value: object) -> Mapping[str, object] | None:
    return value if isinstance(value, dict) else None


def _parse_valid(config: Mapping[str, object]) -> frozenset[AttachmentKey]:
    """Names are not judged here: what cannot be an attachment of ours is in nobody's way."""
    pairs = runtime_keys.valid_attachments(config)
    return frozenset(AttachmentKey(container_id=cid, ifname=ifname) for cid, ifname in pairs)


def _parse_network_name(config: Mapping[str, object]) -> str:
    name = config.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise CniError(
            CniErrorCode.INVALID_NETWORK_CONFIG,
            "the network has no usable name",
            f"name={shown(str(name))}: letters, digits and _.-, the first a letter or digit",
        )
    return name


def _parse_version(config: Mapping[str, object]) -> str:
    version = config.get("cniVersion", "")
    if not isinstance(version, str):
        raise CniError(
            CniErrorCode.UNDECODABLE_CONTENT,
            "cniVersion is not a string",
            f"cniVersion={shown(str(version))}",
        )
    return version or OLDEST_VERSION


def _check_version(verb: Verb, version: str) -> None:
    if version not in SUPPORTED_VERSIONS:
        raise CniError(
            CniErrorCode.INCOMPATIBLE_VERSION,
            "incompatible CNI versions",
            f"config is {shown(version)}, plugin supports {', '.join(SUPPORTED_VERSIONS)}",
        )
    since = _SINCE_VERSION.get(verb, OLDEST_VERSION)
    if _as_numbers(version) < _as_numbers(since):
        raise CniError(
            CniErrorCode.INCOMPATIBLE_VERSION,
            "incompatible CNI versions",
            f"config is {version}, {verb.name} exists since {since}",
        )


def _as_numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))
