"""Where the token for ARM comes from: the machine's managed identity, or a workload identity.

azure-identity gets and caches tokens; it is imported when the first one is needed. What is added
here: a token that ARM no longer takes can be had anew (azure-identity has no other way than a new
credential, since its cache believes in the expiry time that came with the token), and no token is
ever made for an endpoint without TLS.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from ipamd.errors import Denied

# What they would say on stderr, each refused token on several lines, is in our errors.
for _name in ("azure", "msal"):
    logging.getLogger(_name).addHandler(logging.NullHandler())

FEDERATED_TOKEN_FILE = "AZURE_FEDERATED_TOKEN_FILE"  # noqa: S105 - a variable's name

_TIMEOUTS: dict[str, Any] = {"connection_timeout": 3.0, "read_timeout": 7.0}
"""Of a token. azure-core's own are 300 s, in which ipamd would end this process and every write
that it waits for: a call has three times HTTP_TIMEOUT, 30 s."""

_ONCE: dict[str, Any] = {"retry_total": 0, "retry_status": 0}
"""azure-identity would try for 24 s, after 410 for 75 s, and sleep as long as Retry-After says. Who
plans asks again."""

_AUDIENCES = {
    # The one ARM endpoint whose audience has another name (azure.mgmt.core.tools).
    "https://management.usgovcloudapi.net": "https://management.core.usgovcloudapi.net",
}


def scope_of(arm_endpoint: str) -> str:
    """The OAuth scope of an ARM endpoint. Denied for one without TLS, where a token would leak.

    Example: "https://management.azure.com" -> "https://management.azure.com/.default".
    """
    if urlsplit(arm_endpoint).scheme.lower() != "https":
        raise Denied(
            f"AZURE_ARM_ENDPOINT {arm_endpoint!r} is not https; no token is ever sent there",
            operation="credentials",
            code="NotHttps",
        )
    return f"{_AUDIENCES.get(arm_endpoint, arm_endpoint)}/.default"


class RenewableCredential:
    """azure-core's TokenCredential over one that can be made anew. Thread-safe."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._made: Any = None
        self.generation = 0  # how often it was renewed

    def get_token(self, *scopes: str, **options: Any) -> Any:
        """See azure.core.credentials.TokenCredential."""
        with self._lock:
            if self._made is None:
                self._made = self._make()
            made = self._made
        return made.get_token(*scopes, **options)

    def renew(self, generation: int) -> None:
        """Forget what is cached, so that the next token is a fresh one; unless that was done since
        `generation`: calls that are refused together ask for one token together."""
        with self._lock:
            if self.generation == generation:
                self._made = None
                self.generation += 1


def default_credential(client_id: str) -> Any:
    """The credential of this machine: of the workload identity where its webhook has set
    AZURE_FEDERATED_TOKEN_FILE, else of the managed identity (`client_id` "": the system-assigned
    one). Denied where the environment names half an identity."""
    # Late, because it loads MSAL: what needs no token (a tool, a test) does without.
    from azure.core.pipeline.transport import RequestsTransport
    from azure.identity import ManagedIdentityCredential, WorkloadIdentityCredential

    named: dict[str, Any] = {"client_id": client_id} if client_id else {}
    if not os.environ.get(FEDERATED_TOKEN_FILE):
        # The metadata service refuses what came through a proxy. A transport of one's own has the
        # time-outs that it is given: azure-identity's would be none of its concern.
        transport = RequestsTransport(use_env_settings=False, **_TIMEOUTS)
        return ManagedIdentityCredential(**named, **_ONCE, transport=transport)
    try:
        return WorkloadIdentityCredential(**named, **_ONCE, **_TIMEOUTS)
    except ValueError as e:
        raise Denied(
            f"{FEDERATED_TOKEN_FILE} is set, but the rest of a workload identity is not: {e}",
            operation="credentials",
            code="NoCredentials",
        ) from e
