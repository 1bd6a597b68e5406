"""ENIConfig manifests: the subnet and security groups of pods' ENIs under custom networking.

The manifest is aws-node's (crd.k8s.amazonaws.com, kind ENIConfig, cluster-scoped; `spec.subnet` and
`spec.securityGroups`). aws-node takes the name of a node's ENIConfig from the node object: from its
label vpc.amazonaws.com/externalEniConfig, else from the annotation that ENI_CONFIG_ANNOTATION_DEF
names, else from the label that ENI_CONFIG_LABEL_DEF names, else it is `default`
(pkg/eniconfig/eniconfig.go at v1.23.1). Here the manifests come from a file and VPC_IPAMD_ENICONFIG
is the name, until the cluster is asked.

Only `read` touches the disk. All errors are SettingsError and name file, document and field.
"""

from __future__ import annotations

import json
import re
import reprlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ipamd.errors import SettingsError
from ipamd.model import SubnetId
from ipamd.settings.values import object_name

GROUP = "crd.k8s.amazonaws.com"
KIND = "ENIConfig"
LIST_KINDS = ("List", "ENIConfigList")  # compared, not hashed: a kind may be any value
SPEC_FIELDS = frozenset({"subnet", "securityGroups"})

BYTES_MAX = 1 << 20
"""What etcd takes for one object is 1.5 MiB; a file of manifests for one node needs far less."""

_SUBNET = re.compile(r"subnet-[0-9a-z]+")
_SECURITY_GROUP = re.compile(r"sg-[0-9a-z]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkChoice:
    """Where new ENIs go. Without security groups they get those of the primary ENI."""

    subnet_id: SubnetId
    security_group_ids: tuple[str, ...]


def read(path: Path, name: str) -> NetworkChoice:
    """The ENIConfig `name` of the file. Raises SettingsError."""
    try:
        with path.open("rb") as file:
            raw = file.read(BYTES_MAX + 1)
        text = raw.decode()
    except (OSError, UnicodeDecodeError) as e:
        raise SettingsError(f"cannot read VPC_IPAMD_ENICONFIG_FILE {path}: {e}") from e
    if len(raw) > BYTES_MAX:
        raise SettingsError(f"VPC_IPAMD_ENICONFIG_FILE {path} has more than {BYTES_MAX} bytes")
    return chosen(parse(text, str(path)), name, str(path))


def chosen(choices: Mapping[str, NetworkChoice], name: str, source: str) -> NetworkChoice:
    """The choice of that name. Raises SettingsError that names those there are."""
    if name not in choices:
        there = ", ".join(sorted(choices)) or "none"
        raise SettingsError(
            f"{source} has no ENIConfig {name!r}, only: {there}; VPC_IPAMD_ENICONFIG says which"
        )
    return choices[name]


def parse(text: str, source: str) -> Mapping[str, NetworkChoice]:
    """Every ENIConfig of a text, YAML or JSON, by its name. Raises SettingsError."""
    found: dict[str, NetworkChoice] = {}
    for where, manifest in _manifests(text, source):
        name, choice = _choice(manifest, where)
        if name in found:
            raise SettingsError(f"{where}: metadata.name {name!r} is there twice")
        found[name] = choice
    return found


def _manifests(text: str, source: str) -> Iterator[tuple[str, Mapping[object, object]]]:
    """Each manifest with the words that say where it stands; empty documents are passed over."""
    for number, document in enumerate(_documents(text, source), 1):
        where = f"{source}, document {number}"
        if document is None:
            continue
        manifest = _object(document, where)
        if manifest.get("kind") not in LIST_KINDS:
            yield where, manifest
            continue
        items = manifest.get("items")
        if not isinstance(items, list):
            raise SettingsError(f"{where}: items must be a list, not {_seen(items)}")
        for index, item in enumerate(items):
            yield f"{where}, items[{index}]", _object(item, f"{where}, items[{index}]")


def _documents(text: str, source: str) -> list[object]:
    try:
        return [json.loads(text)]
    except (ValueError, RecursionError):
        pass  # not one JSON document; YAML, then
    # Late, because PyYAML is needed for custom networking alone.
    import yaml

    try:
        return list(yaml.safe_load_all(text))
    except (yaml.YAMLError, RecursionError, ValueError) as e:
        said = " ".join(str(e).split())
        raise SettingsError(f"{source} is neither YAML nor JSON: {said}") from e


def _choice(manifest: Mapping[object, object], where: str) -> tuple[str, NetworkChoice]:
    kind, version = manifest.get("kind"), manifest.get("apiVersion")
    if kind != KIND:
        raise SettingsError(f"{where}: kind must be {KIND} (or a List of them), not {_seen(kind)}")
    if not isinstance(version, str) or not version.startswith(f"{GROUP}/"):
        raise SettingsError(f"{where}: apiVersion must be of {GROUP}, not {_seen(version)}")
    name = _name(_object(manifest.get("metadata"), f"{where}: metadata"), where)
    spec = _object(manifest.get("spec"), f"{where} ({name}): spec")
    return name, _spec_choice(spec, f"{where} ({name})")


def _name(metadata: Mapping[object, object], where: str) -> str:
    name = metadata.get("name")
    try:
        return str(object_name(name if isinstance(name, str) else ""))
    except ValueError as e:
        raise SettingsError(f"{where}: metadata.name must be {e}, not {_seen(name)}") from None


def _spec_choice(spec: Mapping[object, object], where: str) -> NetworkChoice:
    strange = sorted(str(key)[:60] for key in spec if key not in SPEC_FIELDS)
    if strange:
        # The cluster would keep and ignore it; here it is most likely a misspelt securityGroups.
        raise SettingsError(
            f"{where}: spec.{strange[0]} is unknown, there are {', '.join(sorted(SPEC_FIELDS))}"
        )
    subnet = _id(spec.get("subnet"), _SUBNET, f"{where}: spec.subnet", "subnet-0123abcd")
    groups = spec.get("securityGroups")
    if groups is None:
        groups = []
    if not isinstance(groups, list):
        raise SettingsError(f"{where}: spec.securityGroups must be a list, not {_seen(groups)}")
    return NetworkChoice(
        subnet_id=SubnetId(subnet),
        security_group_ids=tuple(
            _id(group, _SECURITY_GROUP, f"{where}: spec.securityGroups[{i}]", "sg-0123abcd")
            for i, group in enumerate(groups)
        ),
    )


def _id(value: object, pattern: re.Pattern[str], where: str, example: str) -> str:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise SettingsError(f"{where} must be an id such as {example}, not {_seen(value)}")
    return value


def _object(value: object, where: str) -> Mapping[object, object]:
    if not isinstance(value, dict):
        raise SettingsError(f"{where} must be an object, not {_seen(value)}")
    return value


def _seen(value: object) -> str:
    """A value as it is told, cut where it is long or deep: YAML's aliases can make it vast."""
    if value is None:
        return "absent"
    short = reprlib.Repr()
    short.maxlevel = 2
    return short.repr(value)
