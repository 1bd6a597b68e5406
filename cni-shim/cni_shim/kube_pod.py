"""One question to the API server: a pod, for a node whose pods may have ENIs of their own.

Loaded only where ENABLE_POD_ENI is on; asked for pods without an annotation from their runtime.
The connection is that of any program in a pod: the service account's token and CA, the address in
KUBERNETES_SERVICE_HOST and _PORT, or CLUSTER_ENDPOINT (Kubernetes docs, "Accessing the API from a
Pod"). The token is read anew for each call, as the kubelet renews it. Redirects are not followed.
"""

from __future__ import annotations

import http.client
import json
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit

from cni_shim.branch import LIMIT, PodFacts
from cni_shim.errors import CniError, CniErrorCode, shown

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
SECONDS = 5.0
"""For connecting and each wait for bytes; the ADD's deadline may allow less."""

BODY_LIMIT = 4 << 20
"""An object in etcd has 1.5 MiB at most (etcd's --max-request-bytes); its JSON may be longer."""

_CONTAINERS = ("containers", "initContainers")


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiServer:
    """Where it is, and the directory with token and CA."""

    host: str
    port: int
    service_account: Path = SERVICE_ACCOUNT


def api_server(environ: Mapping[str, str]) -> ApiServer | None:
    """The API server of this environment; None where it names none. ValueError for a bad URL."""
    account = Path(environ.get("VPC_IPAMD_SERVICE_ACCOUNT_DIR") or SERVICE_ACCOUNT)
    endpoint = environ.get("CLUSTER_ENDPOINT", "").strip()
    if endpoint:
        parts = urlsplit(endpoint if "//" in endpoint else f"https://{endpoint}")
        if parts.scheme != "https" or not parts.hostname:
            raise ValueError(f"CLUSTER_ENDPOINT={endpoint!r} must be an https:// URL")
        return ApiServer(host=parts.hostname, port=parts.port or 443, service_account=account)
    host = environ.get("KUBERNETES_SERVICE_HOST", "")
    if not host:
        return None
    port = int(environ.get("KUBERNETES_SERVICE_PORT") or "443")
    return ApiServer(host=host, port=port, service_account=account)


def lookup(environ: Mapping[str, str]) -> PodLookup:
    """Asks the API server of this environment; without a usable one, each question says why."""
    try:
        server = api_server(environ)
    except ValueError as e:
        return PodLookup(None, why=str(e))
    return PodLookup(server, why="neither KUBERNETES_SERVICE_HOST nor CLUSTER_ENDPOINT is set")


class PodLookup:
    """Asks for pods. Safe from any thread: nothing is kept but where to ask."""

    def __init__(self, server: ApiServer | None, *, why: str = "") -> None:
        """`why` says why there is no server, where there is none."""
        self._server = server
        self._why = why

    def facts(self, namespace: str, name: str, *, deadline_monotonic: float) -> PodFacts:
        """What the API server says. Raises CniError 11 where it does not say anything usable: then
        nobody knows whether the pod has an ENI of its own."""
        if self._server is None:
            raise _unknown(namespace, name, self._why)
        seconds = min(SECONDS, deadline_monotonic - time.monotonic())
        if seconds <= 0:
            raise _unknown(namespace, name, "no time is left to ask the API server")
        try:
            status, body = self._get(self._server, _path(namespace, name), seconds)
            if status != http.client.OK:
                raise _unknown(namespace, name, f"the API server answered {_reason(status, body)}")
            return facts_of(body)
        except (OSError, http.client.HTTPException, ValueError) as e:
            where = f"{self._server.host}:{self._server.port}"
            raise _unknown(namespace, name, f"{where}: {type(e).__name__}: {e}") from e

    def _get(self, server: ApiServer, path: str, seconds: float) -> tuple[int, bytes]:
        deadline = time.monotonic() + seconds
        token = _token(server.service_account / "token")
        context = ssl.create_default_context(cafile=str(server.service_account / "ca.crt"))
        connection = http.client.HTTPSConnection(
            server.host, server.port, timeout=seconds, context=context
        )
        try:
            headers = {"Authorization": f"Bearer {token}", "Accept": "application/json"}
            connection.request("GET", path, headers=headers)
            with connection.getresponse() as response:  # it has the socket now, not the connection
                return response.status, _read(response, deadline)
        finally:
            connection.close()


def _token(path: Path) -> str:
    """ValueError for what no header can carry: http.client's own would show it, up to the kubelet's
    events."""
    token = path.read_bytes().strip()
    if not token or not all(0x20 < byte < 0x7F for byte in token):
        raise ValueError(f"{path} holds no token")
    return token.decode()


def _read(response: http.client.HTTPResponse, deadline: float) -> bytes:
    """The whole body; ValueError past the limit, TimeoutError past the deadline: each read waits
    for itself alone, so a server that drips would hold the ADD for ever."""
    body = bytearray()
    while chunk := response.read1(65536):
        body += chunk
        if len(body) > BODY_LIMIT:
            raise ValueError(f"the answer has more than {BODY_LIMIT} bytes")
        if time.monotonic() > deadline:
            raise TimeoutError("the answer did not end in time")
    return bytes(body)


def facts_of(body: bytes) -> PodFacts:
    """The facts in a Pod object. ValueError where it is none."""
    pod = json.loads(body)
    if not isinstance(pod, dict) or pod.get("kind") != "Pod":
        raise ValueError("the answer is no Pod")
    metadata, spec = _object(pod.get("metadata")), _object(pod.get("spec"))
    annotations = _object(metadata.get("annotations"))
    containers = (each for kind in _CONTAINERS for each in _list(spec.get(kind)))
    limits = (_object(_object(_object(c).get("resources")).get("limits")) for c in containers)
    return PodFacts(
        uid=str(metadata.get("uid", "")),
        annotations={k: v for k, v in annotations.items() if isinstance(v, str)},
        wants_branch=any(LIMIT in each for each in limits),
    )


def _object(value: object) -> dict[str, object]:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _path(namespace: str, name: str) -> str:
    return f"/api/v1/namespaces/{quote(namespace, safe='')}/pods/{quote(name, safe='')}"


def _reason(status: int, body: bytes) -> str:
    """The status, and the message of the Status object that comes with an error."""
    try:
        said = _object(json.loads(body)).get("message", "")
    except ValueError:
        said = ""
    return f"{status} {shown(str(said))}" if said else str(status)


def _unknown(namespace: str, name: str, why: str) -> CniError:
    return CniError(
        CniErrorCode.TRY_AGAIN_LATER,
        "it cannot be told whether the pod has an ENI of its own",
        f"{shown(namespace)}/{shown(name)}: {why}; with ENABLE_POD_ENI=true vpc-cnid needs to get "
        "pods (scripts/deploy/pod-eni.yaml)",
    )
