"""What runtimes add to a plugin's configuration: runtimeConfig, and GC's lists. Pure.

Called by `spec.parse`. Runtimes built on Go write keys in the case of their structs and read them
in any case; so keys inside are folded here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from cni_shim.errors import CniError, CniErrorCode, shown

ANNOTATIONS = "io.kubernetes.cri.pod-annotations"
"""The capability by which containerd hands the pod's annotations over (its pkg/cri/server)."""

VALID_KEYS = ("cni.dev/valid-attachments", "cni.dev/attachments")
"""GC's list of what lives. libcni sends the same under both from 1.2.3 on, the first alone before;
the second is the name that the specification's text had for a while."""


def pod_annotations(config: Mapping[str, object]) -> Mapping[str, str]:
    """The pod's annotations; empty where the runtime gives none."""
    runtime = _folded(config.get("runtimeConfig"))
    found = runtime.get(ANNOTATIONS)
    pairs = found.items() if isinstance(found, dict) else ()
    return {key: value for key, value in pairs if isinstance(value, str)}


def valid_attachments(config: Mapping[str, object]) -> frozenset[tuple[str, str]]:
    """(container id, ifname) of all that GC must keep: the union of both lists.

    An empty list is what Go encodes as null, and means that nothing is valid. Raises `CniError` 7
    where neither key is there, or where a list cannot be read: what lives is then unknown, and
    nothing may be released.
    """
    present = [key for key in VALID_KEYS if key in config]
    if not present:
        raise CniError(
            CniErrorCode.INVALID_NETWORK_CONFIG,
            "GC without a list of valid attachments",
            f"neither {' nor '.join(VALID_KEYS)} is in the configuration; nothing was released",
        )
    return frozenset(pair for key in present for pair in _pairs(key, config[key]))


def _pairs(key: str, value: object) -> Iterator[tuple[str, str]]:
    if value is None:
        return
    if not isinstance(value, list):
        raise _unreadable(key, value)
    for item in value:
        members = _folded(item)
        container_id, ifname = members.get("containerid"), members.get("ifname")
        if not isinstance(container_id, str) or not isinstance(ifname, str):
            raise _unreadable(key, item)
        yield container_id, ifname


def _unreadable(key: str, value: object) -> CniError:
    return CniError(
        CniErrorCode.INVALID_NETWORK_CONFIG,
        f"{key} cannot be read",
        f"{shown(str(value))} in place of containerID and ifname; nothing was released",
    )


def _folded(value: object) -> Mapping[str, object]:
    """The object's members by their names in lower case; empty for what is no object."""
    return {key.lower(): each for key, each in value.items()} if isinstance(value, dict) else {}
