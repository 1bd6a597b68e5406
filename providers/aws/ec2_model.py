"""botocore's session, with a model of EC2 that holds only what is called here.

To make a client botocore reads the whole description of EC2 (over 700 operations) and all regions
of all services: 23 MB and 0.13 s of a process that calls 14 operations. At build time
`python -m providers.aws.ec2_model` cuts both down, from the installed botocore into the environment
that it is installed in; without that, or after botocore was upgraded, the full ones are used.
Nothing of botocore's data is kept in the repository.
"""

from __future__ import annotations

import json
import os
import sys
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import botocore
import botocore.loaders
import botocore.session

Json = dict[str, Any]

SERVICE = "ec2"

OPERATIONS = (
    "AssignIpv6Addresses",
    "AssignPrivateIpAddresses",
    "AttachNetworkInterface",
    "CreateNetworkInterface",
    "CreateTags",
    "DeleteNetworkInterface",
    "DescribeInstanceTypes",
    "DescribeNetworkInterfaces",
    "DescribeSubnets",
    "DetachNetworkInterface",
    "GetSubnetCidrReservations",
    "ModifyNetworkInterfaceAttribute",
    "UnassignIpv6Addresses",
    "UnassignPrivateIpAddresses",
)
"""Every API that this provider calls; a test looks that no other is called."""

ENDPOINT_SERVICES = (SERVICE, "sts")
"""Those whose endpoints are looked up: STS gives credentials for a web identity token (IRSA)."""

_REFERENCES = ("member", "key", "value")


def directory() -> Path:
    """Where the trimmed model of the installed botocore is, if it has been made; by the names of
    what it holds too, so that one made for an older build of ours is not found."""
    holds = zlib.crc32(repr((OPERATIONS, ENDPOINT_SERVICES)).encode())
    name = f"botocore-{botocore.__version__}-{holds:08x}"
    return Path(sys.prefix) / "share" / "vpc-ipamd" / name


def session(data: Path | None = None) -> Any:
    """A botocore session that finds the trimmed model first, where there is one."""
    made = botocore.session.Session()
    found = data or directory()
    if found.is_dir():
        made.register_component(
            "data_loader", botocore.loaders.Loader(extra_search_paths=[str(found)])
        )
    return made


def has_trimmed_model() -> bool:
    """Whether `session` will find one; the child says so in its log."""
    return directory().is_dir()


def trimmed(model: Mapping[str, Any], operations: tuple[str, ...]) -> Json:
    """A service model with only these operations and the shapes that they reach, without
    documentation (pure). KeyError where an operation is not in it."""
    kept = {name: _undocumented(model["operations"][name]) for name in operations}
    shapes: Json = {}
    waiting = [ref["shape"] for op in kept.values() for ref in _io(op)]
    while waiting:
        name = waiting.pop()
        if name not in shapes:
            shapes[name] = _undocumented(model["shapes"][name])
            waiting += [ref["shape"] for ref in _references(shapes[name])]
    rest = {k: v for k, v in model.items() if k not in ("operations", "shapes", "documentation")}
    return {**rest, "operations": kept, "shapes": shapes}


def trimmed_endpoints(endpoints: Mapping[str, Any], services: tuple[str, ...]) -> Json:
    """The endpoints of these services only, in every partition and region (pure)."""
    partitions = [
        {**p, "services": {s: v for s, v in p["services"].items() if s in services}}
        for p in endpoints["partitions"]
    ]
    return {**endpoints, "partitions": partitions}


def _io(operation: Mapping[str, Any]) -> Iterator[Json]:
    yield from (operation[k] for k in ("input", "output") if k in operation)
    yield from operation.get("errors", ())


def _references(shape: Mapping[str, Any]) -> Iterator[Json]:
    yield from shape.get("members", {}).values()
    yield from (shape[k] for k in _REFERENCES if k in shape)


def _undocumented(node: Any) -> Any:
    if isinstance(node, dict):
        # A member may be called "documentation": then it is a shape and no text.
        return {
            k: _undocumented(v)
            for k, v in node.items()
            if k != "documentation" or not isinstance(v, str)
        }
    return [_undocumented(v) for v in node] if isinstance(node, list) else node


def build(target: Path) -> None:
    """Make the trimmed model of the installed botocore at `target`, whole or not at all."""
    loader = botocore.loaders.Loader()
    version = loader.determine_latest_version(SERVICE, "service-2")
    made = target.with_name(f"{target.name}.{os.getpid()}")
    place = made / SERVICE / version
    place.mkdir(parents=True)
    model = loader.load_service_model(SERVICE, "service-2", version)
    _write(place / "service-2.json", trimmed(model, OPERATIONS))
    _write(
        made / "endpoints.json",
        trimmed_endpoints(loader.load_data("endpoints"), ENDPOINT_SERVICES),
    )
    made.rename(target)


def _write(path: Path, content: Json) -> None:
    path.write_text(json.dumps(content, separators=(",", ":")), encoding="utf-8")


def main() -> int:
    """Make the trimmed model unless it is there."""
    target = directory()
    if not target.is_dir():
        build(target)
    os.utime(target.parent)  # tells scripts/_env that what is there is up to date
    sys.stdout.write(f"{target}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
