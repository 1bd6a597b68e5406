"""One plain request, as the demo asks clouds and their metadata services.

To be called inside a namespace from which they can be reached: the VPC's own, a node's or a pod's.
"""

from __future__ import annotations

import ssl
import urllib.request
from collections.abc import Mapping

_HTTP_SECONDS = 5.0


def http(
    method: str,
    url: str,
    headers: Mapping[str, str] | None = None,
    *,
    body: bytes | None = None,
    ca: str = "",
) -> str:
    """One request; the body of its answer. OSError where there is none or it is an error.

    `ca` is the file of the certificates that an https server is known by.
    """
    trusted = ssl.create_default_context(cafile=ca) if ca else None
    request = urllib.request.Request(url, body, dict(headers or {}), method=method)  # noqa: S310
    with urllib.request.urlopen(request, timeout=_HTTP_SECONDS, context=trusted) as answer:  # noqa: S310
        return str(answer.read().decode())
