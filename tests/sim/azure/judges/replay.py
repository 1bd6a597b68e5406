"""Plays a recorded sequence of requests against an emulated ARM, and says where it differs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from providers.sim.http_door import Answer, Call
from tests.sim.azure.judges.shapes import disagreements, excused, facts, leaves, rows, unforeseen
from tests.sim.azure.judges.world import World

Json = dict[str, Any]
# A body made from the resource as the answer before last showed it.
MakeBody = Callable[[Json], Json]

# The headers that tell a client something; what each answer has for browsers and proxies is not
# compared, nor is what Azure CLI's recorder removes.
TELLING = frozenset(
    {
        "azure-asyncnotification",
        "azure-asyncoperation",
        "etag",
        "location",
        "x-ms-arm-service-request-id",
        "x-ms-ratelimit-remaining-resource",
        "x-ms-ratelimit-remaining-subscription-writes",
        "x-ms-request-charge",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """One row of recordings.tsv, played. `said` is the body of the answer."""

    row: Mapping[str, str]
    sent: Json | None
    status: int
    headers: Mapping[str, str]
    said: Any

    @property
    def etag(self) -> str:
        return str(self.said["etag"])

    @property
    def state(self) -> str:
        """The provisioningState, or an operation's status."""
        return str(self.said.get("status") or self.said["properties"]["provisioningState"])


@dataclass(slots=True)
class Replay:
    """Where each target of a recording is, and what to do before a PUT's operation is read."""

    world: World
    targets: Mapping[str, str]
    settle: Callable[[], None] = lambda: None
    headers: Mapping[str, str] = field(default_factory=dict)
    _urls: dict[str, str] = field(default_factory=dict)

    def play(self, recording: str, bodies: Iterable[MakeBody] = ()) -> list[Exchange]:
        """Send every request of the recording, in its order; `bodies` are those of its PUTs."""
        making = iter(bodies)
        played: list[Exchange] = []
        for row in rows("recordings"):
            if row["recording"] == recording:
                played.append(self._exchange(row, making, played))
        return played

    def _exchange(
        self, row: Mapping[str, str], making: Iterator[MakeBody], played: list[Exchange]
    ) -> Exchange:
        body = next(making)(_last_shown(played)) if row["method"] == "PUT" else None
        if row["target"] == "operation":
            self.settle()
        answer = self._send(row, body)
        headers = {name.lower(): value for name, value in answer.headers.items()}
        self._urls |= {
            target: headers[name]
            for target, name in (("operation", "azure-asyncoperation"), ("result", "location"))
            if name in headers
        }
        return Exchange(
            row=row,
            sent=body,
            status=answer.status,
            headers=headers,
            said=json.loads(answer.body) if answer.body else None,
        )

    def _send(self, row: Mapping[str, str], body: Json | None) -> Answer:
        if (url := self._urls.get(row["target"])) is not None:
            parts = urlsplit(url)
            path = f"{parts.path}?{parts.query}"
        else:
            path = f"{self.targets[row['target']]}?api-version={row['api-version']}"
        given = {"host": "localhost", "authorization": f"Bearer {self.world.token}", **self.headers}
        sent = b"" if body is None else json.dumps(body).encode()
        call = Call(method=row["method"], path=path, headers=given, body=sent, peer="127.0.0.1")
        answer = self.world.respond(call)
        assert answer is not None, f"{row['method']} {path} was not answered"
        return answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Something that is not as recorded; exceptions.tsv excuses it by `where` and `path`."""

    where: str
    path: str
    text: str

    @property
    def is_excused(self) -> bool:
        return any(self.path in excused(where) for where in (self.where, self.where.split(" ")[0]))


def differences(exchange: Exchange) -> list[Difference]:
    """Everything of an exchange that is not as recorded, excused or not."""
    row = exchange.row
    found = [*_headers(exchange), *_body(exchange)]
    if row["status"] not in ("-", str(exchange.status)):
        found.append(_difference(exchange, "status", "", f"{exchange.status}"))
    if row["state"] == "Succeeded" != exchange.state:  # Updating depends on the world's delays
        found.append(_difference(exchange, "state", "", exchange.state))
    if row["sends"] != "-":
        shape = {fact.path for fact in facts("recorded_shapes", shape=row["sends"])}
        wrong = leaves(exchange.sent) ^ shape
        found += [_difference(exchange, "sent", path, "is not as recorded") for path in wrong]
    return found


def _headers(exchange: Exchange) -> list[Difference]:
    has = {name for name in exchange.headers if name in TELLING}
    wanted = set(exchange.row["headers"].split()) - {"-"}
    where = f"headers of {exchange.row['method']} {exchange.row['target']}"
    return [_difference(exchange, where, name, "is missing") for name in wanted - has] + [
        _difference(exchange, where, name, "was not recorded") for name in has - wanted
    ]


def _body(exchange: Exchange) -> list[Difference]:
    name = exchange.row["returns"]
    if name == "-":
        has_body = exchange.row["status"] == "204" and exchange.said is not None
        return [_difference(exchange, "body", "", "was not recorded")] if has_body else []
    shape = facts("recorded_shapes", shape=name)
    problems = disagreements(shape, exchange.said)
    problems |= dict.fromkeys(unforeseen(shape, exchange.said), "was not recorded")
    return [_difference(exchange, name, path, problem) for path, problem in problems.items()]


def _difference(exchange: Exchange, where: str, path: str, problem: str) -> Difference:
    row = exchange.row
    text = f"{row['recording']} {row['step']}, {where}: {path} {problem}"
    return Difference(where=where, path=path, text=text)


def _last_shown(played: list[Exchange]) -> Json:
    shown = (one.said for one in reversed(played) if one.said and "properties" in one.said)
    return next(shown, {})
