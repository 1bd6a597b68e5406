"""One request to the emulated ARM, read; and how its answer is written."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from providers.sim.arm_errors import ArmError, JsonObject, bad_request
from providers.sim.arm_faults import ArmFault, ArmFaultKind
from providers.sim.http_door import Answer, Call

# ARM's versions are dates. The SDK asks for none older than this, that of the NIC view of scale
# sets; there is no newest one here.
OLDEST_VERSION = "2018-10-01"
_VERSION = re.compile(r"\d{4}-\d{2}-\d{2}(-preview)?")
# As recorded (azure-cli, test_vmss_nics).
_HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Type": "application/json; charset=utf-8",
    "Expires": "-1",
    "Pragma": "no-cache",
    "Strict-Transport-Security": "max-age=31536000; includeSubDomains",
    "X-Content-Type-Options": "nosniff",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmRequest:
    """A request that has found its route. `headers` and `query` have lower-case names.

    `path` is as sent, decoded, without the query; `params` are the values of the route's template.
    `mishap`: how the operation that this request begins shall go wrong.
    """

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes
    origin: str  # "https://management.azure.com": what absolute URLs begin with
    params: Mapping[str, str] = field(default_factory=dict)
    mishap: ArmFault | None = None

    @property
    def api_version(self) -> str:
        """The api-version, checked by `check_version` before any handler sees it."""
        return self.query.get("api-version", "")

    @property
    def document(self) -> JsonObject:
        """The body as a JSON object, or 400."""
        try:
            document: Any = json.loads(self.body)
        except ValueError:
            document = None
        if not isinstance(document, dict):
            raise bad_request(
                "InvalidRequestContent",
                "The request content was invalid and could not be deserialized.",
            )
        return document

    def url(self, path: str, **query: str) -> str:
        """An absolute URL on the host that the client spoke to, with its api-version.

        Names of `query` are as given, but a leading underscore stands for $ (OData).
        """
        asked = {"api-version": self.api_version, **query}
        pairs = "&".join(f"{name.replace('_', '$')}={quote(v)}" for name, v in asked.items())
        return f"{self.origin}{quote(path)}?{pairs}"


def read(call: Call, scheme: str) -> ArmRequest:
    """The request of a call that came by `scheme`."""
    parts = urlsplit(call.path)
    pairs = parse_qsl(parts.query, keep_blank_values=True)
    host = call.headers.get("host", "localhost")
    return ArmRequest(
        method=call.method.upper(),
        path=unquote(parts.path).rstrip("/"),
        query={name.lower(): value for name, value in pairs},
        headers=call.headers,
        body=call.body,
        origin=f"{scheme}://{host}",
    )


def check_version(request: ArmRequest) -> None:
    """Raise 400 unless the request has an api-version that is served here."""
    version = request.api_version
    if not version:
        raise bad_request(
            "MissingApiVersionParameter",
            "The api-version query parameter (?api-version=) is required for all requests.",
        )
    if not _VERSION.fullmatch(version) or version[:10] < OLDEST_VERSION:
        raise no_version(version, f"{OLDEST_VERSION} and newer")


def no_version(version: str, served: str) -> ArmError:
    """400 for an api-version that this resource does not have."""
    return bad_request(
        "InvalidApiVersionParameter",
        f"The api-version '{version}' is invalid. The supported versions are '{served}'.",
    )


def answer(
    status: int, document: JsonObject | None = None, headers: Mapping[str, str] | None = None
) -> Answer:
    """An answer with the headers that all of ARM's have, and a JSON body or none."""
    body = b"" if document is None else json.dumps(document).encode()
    return Answer(status=status, body=body, headers={**_HEADERS, **(headers or {})})


def refusal(error: ArmError, headers: Mapping[str, str]) -> Answer:
    """The answer that says no; `headers` are those that every answer has."""
    return answer(error.status, error.envelope, {**headers, **error.headers})


def spoiled(good: Answer, kind: ArmFaultKind) -> Answer:
    """The answer as a fault leaves it: broken JSON, or half a list without its nextLink."""
    if kind is ArmFaultKind.MALFORMED:
        return replace(good, body=good.body[: len(good.body) // 2])
    document = json.loads(good.body)
    rows = document.get("value") if isinstance(document, dict) else None
    if not isinstance(rows, list):
        return good
    return replace(good, body=json.dumps({"value": rows[: len(rows) // 2]}).encode())
