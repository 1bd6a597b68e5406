"""Our own keys of the plugin configuration, and those of others that are let pass. Pure.

Called by `spec.parse` for every verb but DEL. Strict, because a misspelt key would silently mean
its default: what is not known here is refused with key and value (CNI SPEC, code 2).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from cni_shim.errors import CniError, CniErrorCode, shown

VETH_PREFIX_LIMIT = 4  # prefix + 11 hex digits make 15; aws-node has the same limit
MTU_RANGE = (576, 9001)  # aws-node's AWS_VPC_ENI_MTU; 9001 is the largest frame in a VPC

_VETH_PREFIX = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")

# Keys of others: the runtime's, libcni's and the specification's well-known ones. The list-level
# ones are here because single-plugin configs carry them in the same object.
_FOREIGN_KEYS = frozenset({
    "args", "capabilities", "cniVersion", "cniVersions", "disableCheck", "disableGC", "dns",
    "ipMasq", "ipam", "loadOnlyInlinedPlugins", "name", "prevResult", "runtimeConfig", "type",
})  # fmt: skip
_FOREIGN_PREFIX = "cni.dev/"


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginConfig:
    """Our own keys of the plugin configuration. `mtu` 0: what vpc-cnid goes by (`pod_mtu`)."""

    veth_prefix: str = "eni"
    mtu: int = 0


def parse_own_keys(config: Mapping[str, object]) -> PluginConfig:
    """Our keys. Raises `CniError` 2 for a key that nobody knows, 7 for an unusable value."""
    defaults = PluginConfig()
    for key, value in config.items():
        is_foreign = key in _FOREIGN_KEYS or key.startswith(_FOREIGN_PREFIX)
        if not is_foreign and key not in ("vethPrefix", "mtu"):
            raise CniError(
                CniErrorCode.UNSUPPORTED_FIELD,
                f"unsupported key {shown(key)} with value {shown(json.dumps(value))}",
                "vpc-cni knows vethPrefix and mtu",
            )
    return PluginConfig(
        veth_prefix=_parse_veth_prefix(config.get("vethPrefix", defaults.veth_prefix)),
        mtu=_parse_mtu(config["mtu"]) if "mtu" in config else defaults.mtu,
    )


def _parse_veth_prefix(value: object) -> str:
    """As aws-node's: other software treats eth*, lo* and vlan* as its own."""
    is_usable = isinstance(value, str) and _VETH_PREFIX.fullmatch(value)
    if not is_usable or len(str(value)) > VETH_PREFIX_LIMIT or value in ("eth", "lo", "vlan"):
        raise _bad_value(
            "vethPrefix",
            value,
            f"1 to {VETH_PREFIX_LIMIT} letters, digits and _-, and neither eth, lo nor vlan",
        )
    return str(value)


def _parse_mtu(value: object) -> int:
    """A number, or one as text, as aws-node's conflist has it. True is a number only to Python."""
    is_number = isinstance(value, int) and not isinstance(value, bool)
    is_text = isinstance(value, str) and re.fullmatch(r"[0-9]{1,6}", value)
    low, high = MTU_RANGE
    if not (is_number or is_text) or not low <= int(str(value)) <= high:
        raise _bad_value("mtu", value, f"a number from {low} to {high}")
    return int(str(value))


def _bad_value(key: str, value: object, expected: str) -> CniError:
    return CniError(
        CniErrorCode.INVALID_NETWORK_CONFIG,
        f"{key} has an unusable value",
        f"{key}={shown(json.dumps(value))}: {expected}",
    )
