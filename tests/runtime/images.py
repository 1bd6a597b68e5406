"""A container image made by hand, so that no registry is asked: a static busybox and its names.

The archive is an OCI image layout (image-spec, image-layout.md) with one uncompressed layer. Both
images in it are that layer: `PAUSE` holds a sandbox's namespaces, `BOX` is what containers run.
"""

from __future__ import annotations

import hashlib
import io
import json
import platform
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PAUSE = "localhost/vpc-ipamd/pause:1"
BOX = "localhost/vpc-ipamd/box:1"
APPLETS = ("cat", "hostname", "httpd", "ip", "nc", "ping", "sh", "sleep")
# No wget: it looks names up, and a static glibc without its libraries dies of that.
FOLDERS = ("bin", "dev", "etc", "proc", "sys", "tmp", "www")
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}  # uname's word: the image-spec's

_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"


def write_archive(target: Path, busybox: Path, names: tuple[str, ...] = (PAUSE, BOX)) -> None:
    """The archive with images of these names; podman takes one that has a single image."""
    blobs: dict[str, bytes] = {}
    layer = _blob(blobs, _layer(busybox.read_bytes()))
    config = _blob(blobs, _json(_config(layer["digest"])))
    manifest = _blob(
        blobs,
        _json(
            {
                "schemaVersion": 2,
                "mediaType": _MANIFEST,
                "config": {"mediaType": _CONFIG, **config},
                "layers": [{"mediaType": _LAYER, **layer}],
            }
        ),
    )
    named = [
        {
            "mediaType": _MANIFEST,
            **manifest,
            "annotations": {
                "io.containerd.image.name": name,
                "org.opencontainers.image.ref.name": name,
            },
        }
        for name in names
    ]
    files = {
        "oci-layout": _json({"imageLayoutVersion": "1.0.0"}),
        "index.json": _json({"schemaVersion": 2, "manifests": named}),
        **blobs,
    }
    with tarfile.open(target, "w") as archive:
        for name, data in files.items():
            _add_file(archive, name, data, mode=0o644)


def _layer(busybox: bytes) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as layer:
        for folder in FOLDERS:
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            layer.addfile(entry)
        _add_file(layer, "bin/busybox", busybox, mode=0o755)
        for applet in APPLETS:
            entry = tarfile.TarInfo(f"bin/{applet}")
            entry.type, entry.linkname = tarfile.SYMTYPE, "busybox"
            layer.addfile(entry)
    return packed.getvalue()


def _config(diff_id: str) -> Mapping[str, Any]:
    machine = platform.machine()
    return {
        "architecture": ARCHITECTURES.get(machine, machine),
        "os": "linux",
        "config": {"Entrypoint": ["/bin/sleep", "1000000"]},
        "rootfs": {"type": "layers", "diff_ids": [diff_id]},
    }


def _blob(blobs: dict[str, bytes], data: bytes) -> dict[str, Any]:
    digest = hashlib.sha256(data).hexdigest()
    blobs[f"blobs/sha256/{digest}"] = data
    return {"digest": f"sha256:{digest}", "size": len(data)}


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value).encode()


def _add_file(archive: tarfile.TarFile, name: str, data: bytes, *, mode: int) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(data), mode
    archive.addfile(entry, io.BytesIO(data))
