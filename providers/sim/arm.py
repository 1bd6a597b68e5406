"""The emulated Azure Resource Manager: one object that finds who answers a request.

Used by a `Door` (HTTP or TLS) and by tests without one. Handlers are added by what stands for the
resource providers: `arm_network`, `arm_compute` and `arm_scale_sets_*`. They run one at a time
under the state's lock, which is never held while a fault waits. Order: token, route, api-version,
throttling, faults, handler. Tokens are in no log, no count and no error.

    arm = Arm(ArmState(clock), TokenIssuer(clock))
    arm.route("GET", "/subscriptions/{sub}/.../things/{name}", handler, "things.get")
    Door(listening, arm.respond)                                # http
    Door(listening, functools.partial(arm.respond, scheme="https"))
"""

from __future__ import annotations

import contextlib
import re
import threading
import traceback
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from providers.sim import arm_requests
from providers.sim.arm_errors import ArmError, no_resource
from providers.sim.arm_faults import ArmFault, ArmFaultBook, ArmFaultKind
from providers.sim.arm_requests import ArmRequest
from providers.sim.arm_state import ArmState
from providers.sim.arm_tokens import TokenIssuer
from providers.sim.http_door import RESET, Answer, Call

Handler = Callable[[ArmRequest], Answer]
# Asked before each request that has a route. Raises ArmError to refuse it (429, with Retry-After in
# its headers); what it returns is added to the answer's headers.
Throttle = Callable[[ArmRequest, str], Mapping[str, str]]

# Enough for the longest test; a server that runs for days forgets its oldest requests.
LOG_LENGTH = 10_000
# None of ARM's: no path of ARM begins so.
RESET_PATH = "/_sim/reset"


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """Where requests of one method and path go. `name` is what calls are counted by."""

    method: str
    pattern: re.Pattern[str]
    handler: Handler
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Logged:
    """A request that was answered; `status` 0: it was not. `code` is that of a refusal."""

    method: str
    path: str
    name: str
    status: int
    code: str = ""


class Arm:
    """The front door of the emulated Azure."""

    def __init__(self, state: ArmState, tokens: TokenIssuer) -> None:
        self.state = state
        self.tokens = tokens
        self.faults = ArmFaultBook()
        self.calls: Counter[str] = Counter()  # by route, refused ones included, but for 401
        self.refused: Counter[str] = Counter()  # by error code
        self.log: deque[Logged] = deque(maxlen=LOG_LENGTH)
        self.throttles: list[Throttle] = []
        self.on_reset: list[Callable[[], None]] = []
        self.stopping = threading.Event()
        self._routes: list[Route] = []

    def route(self, method: str, template: str, handler: Handler, name: str) -> None:
        """Send requests of `method` for paths like `template` to `handler`.

        `{x}` in the template is one segment of the path, found in `ArmRequest.params`; the rest
        matches in any case. The first route that matches is taken.
        """
        parts = re.split(r"\{(\w+)\}", template)
        pattern = "".join(
            f"(?P<{part}>[^/]+)" if place % 2 else re.escape(part)
            for place, part in enumerate(parts)
        )
        compiled = re.compile(pattern, re.IGNORECASE)
        self._routes.append(Route(method=method, pattern=compiled, handler=handler, name=name))

    def respond(self, call: Call, scheme: str = "http") -> Answer | None:
        """Answer one request; None means that the connection is to be closed without one."""
        request = arm_requests.read(call, scheme)
        if (request.method, request.path) == ("POST", RESET_PATH):
            self.reset()
            return Answer(status=204)
        name, code, answer = "", "", None
        headers = self._ids()
        try:
            self.tokens.check(request.headers.get("authorization", ""))
            route, request = self._find(request)
            name = route.name
            faults = self._admit(route, request, headers)
            answer = self._met(route, request, faults)
            if answer is not None and answer is not RESET:
                answer = replace(answer, headers={**answer.headers, **headers})
        except ArmError as error:
            code = error.code
            answer = arm_requests.refusal(error, headers)
        finally:
            self._note(request, name, 0 if answer is None else answer.status, code)
        return answer

    def settle(self) -> None:
        """Let what is due be over, as the server's timer does."""
        with self.state.lock:
            self.state.settle()

    def reset(self) -> None:
        """Forget resources, operations, faults and counts; tokens stay valid."""
        with self.state.lock:
            self.state.reset()
            self.faults.clear()
            self.calls.clear()
            self.refused.clear()
            self.log.clear()
            for forget in self.on_reset:
                forget()

    def stop(self) -> None:
        """End every waiting fault."""
        self.stopping.set()

    def _find(self, request: ArmRequest) -> tuple[Route, ArmRequest]:
        has_path = False
        for route in self._routes:
            if (match := route.pattern.fullmatch(request.path)) is None:
                continue
            if route.method == request.method:
                return route, replace(request, params=match.groupdict())
            has_path = True
        if has_path:
            raise ArmError(
                405, "MethodNotAllowed", f"The resource does not support {request.method}."
            )
        raise no_resource(request.path)

    def _admit(self, route: Route, request: ArmRequest, headers: dict[str, str]) -> list[ArmFault]:
        """Count and check a request; the faults that meet it. Throttles add to `headers`."""
        with self.state.lock:
            self.calls[route.name] += 1
            arm_requests.check_version(request)
            for throttle in self.throttles:
                headers.update(throttle(request, route.name))
            return self.faults.take(request.method, request.path)

    def _met(self, route: Route, request: ArmRequest, faults: list[ArmFault]) -> Answer | None:
        for fault in faults:
            if fault.kind is ArmFaultKind.DELAY:
                self.stopping.wait(fault.seconds)
        failing = next((one for one in faults if one.kind is not ArmFaultKind.DELAY), None)
        return self._answered(route, request, failing)

    def _answered(
        self, route: Route, request: ArmRequest, failing: ArmFault | None
    ) -> Answer | None:
        if failing is None:
            return self._execute(route, request)
        if failing.is_of_operation:
            return self._execute(route, replace(request, mishap=failing))
        match failing.kind:
            case ArmFaultKind.ERROR:
                raise failing.error
            case ArmFaultKind.RESET:
                return RESET
            case ArmFaultKind.LOST:
                with contextlib.suppress(ArmError):
                    self._execute(route, request)
            case ArmFaultKind.MALFORMED | ArmFaultKind.TRUNCATED:
                return arm_requests.spoiled(self._execute(route, request), failing.kind)
        self.stopping.wait(failing.hold_seconds)
        return None

    def _execute(self, route: Route, request: ArmRequest) -> Answer:
        with self.state.lock:
            self.state.settle()
            try:
                return route.handler(request)
            except ArmError:
                raise
            except Exception as error:
                # A bug of ours must reach the client as a 500.
                traceback.print_exc()
                text = f"{type(error).__name__}: {error}"
                raise ArmError(500, "InternalServerError", text) from error

    def _ids(self) -> dict[str, str]:
        with self.state.lock:
            request_id = self.state.guids.new()
        names = ("x-ms-request-id", "x-ms-correlation-request-id", "x-ms-arm-service-request-id")
        return dict.fromkeys(names, request_id)

    def _note(self, request: ArmRequest, name: str, status: int, code: str) -> None:
        row = Logged(
            method=request.method,
            path=request.path,
            name=name,
            status=status,
            code=code,
        )
        with self.state.lock:
            self.log.append(row)
            if code:
                self.refused[code] += 1
