"""The emulated EC2: one object that answers requests, keeps time and makes faults happen.

Used by `server` (HTTP), `imds` (reads the state) and `control` (tests in other processes). One
lock guards everything, because moto has none; it is never held while a fault waits. Times are Unix
seconds of the injected clock; `start_timer` makes attaches and detaches finish by themselves, else
they finish with the next call.
"""

from __future__ import annotations

import threading
import time
import traceback
import uuid
from collections import Counter
from collections.abc import Callable
from ipaddress import IPv4Address
from typing import Any
from urllib.parse import parse_qs

from botocore.model import OperationNotFoundError

from providers.sim import ec2_attachments
from providers.sim.buckets import RequestBuckets
from providers.sim.ec2_actions import Done
from providers.sim.ec2_errors import Ec2Error, throttled, unsupported
from providers.sim.ec2_instance_actions import SimResponse
from providers.sim.ec2_moto import SimBackend, moto_request
from providers.sim.ec2_state import State
from providers.sim.faults import Fault, FaultBook, FaultKind
from providers.sim.http_door import Answer, Call

Clock = Callable[[], float]

BUCKETS = ("off", "ec2")
# A request with one of these spends from the larger bucket, as one with a filter does.
_PAGING = ("MaxResults", "NextToken")


class Emulator:
    """One emulated EC2 region with one account."""

    def __init__(self, *, seed: int = 0, clock: Clock = time.time) -> None:
        self.clock = clock
        self.lock = threading.RLock()
        self.backend = SimBackend(seed)
        self.faults = FaultBook()
        self.calls: Counter[str] = Counter()
        self.throttled: Counter[str] = Counter()
        self.buckets: RequestBuckets | None = None
        self.stopping = threading.Event()
        self._done: Done = {}
        self._changed = threading.Condition(self.lock)
        self._timer: threading.Thread | None = None

    @property
    def state(self) -> State:
        """ENIs, machines and address pools; use it under `lock`."""
        return self.backend.state

    def respond(self, call: Call) -> Answer | None:
        """Answer one API request; None means that the connection is to be closed without one."""
        form = parse_qs(call.body.decode("utf-8", "replace"), keep_blank_values=True)
        action = form.get("Action", [""])[0]
        with self.lock:
            self.calls[action] += 1
            if not self._has_token(action, form):
                return self._refuse(action, throttled())
            instances = self._instances(form, call.peer)
            faults = self.faults.take(action, instances, self.clock())
        for fault in faults:
            if fault.kind is FaultKind.LATENCY:
                self.stopping.wait(fault.seconds)
        failing = next((one for one in faults if one.kind is not FaultKind.LATENCY), None)
        if failing is None or failing.is_mishap:
            return self._execute(call, failing)
        if failing.error is not None:
            return self._refuse(action, failing.error)
        if failing.kind is FaultKind.TIMEOUT_AFTER:
            self._execute(call)
        self.stopping.wait(failing.hold_seconds)
        return None

    def prepared(self, params: dict[str, Any]) -> SimResponse:
        """A call from inside the process, which no fault touches; use it under `lock`."""
        ec2_attachments.settle(self.state, self.clock())
        return SimResponse(self.backend, self._done, self.clock()).direct(params)

    def settle(self) -> None:
        """Let what is due be over, and wake the timer for what is not; use it under `lock`."""
        ec2_attachments.settle(self.state, self.clock())
        self._changed.notify_all()

    def set_buckets(self, profile: str) -> None:
        """Throttle by EC2's published buckets, full at first, or not at all; see BUCKETS."""
        if profile not in BUCKETS:
            raise ValueError(f"buckets are {' or '.join(BUCKETS)}, not {profile}")
        self.buckets = RequestBuckets() if profile == "ec2" else None

    def start_timer(self) -> None:
        """Let attaches and detaches finish by themselves, so that the fabric hears in time."""
        self._timer = threading.Thread(target=self._keep_time, name="ec2-timer", daemon=True)
        self._timer.start()

    def stop(self) -> None:
        """End every waiting fault, and the timer."""
        self.stopping.set()
        with self.lock:
            self._changed.notify_all()
        if self._timer is not None:
            self._timer.join()

    def _has_token(self, action: str, form: dict[str, list[str]]) -> bool:
        """Whether the account's buckets let the call pass, if they are in force."""
        if self.buckets is None:
            return True
        is_narrowed = any(name.startswith("Filter.") or name in _PAGING for name in form)
        resources = sum(name.startswith("InstanceId.") for name in form)
        if (asked := form.get("MaxCount", [""])[0]).isdecimal():
            resources += int(asked)
        return self.buckets.take(action, self.clock(), is_narrowed=is_narrowed, resources=resources)

    def _refuse(self, action: str, error: Ec2Error) -> Answer:
        if error.code == throttled().code:
            with self.lock:
                self.throttled[action] += 1
        return _refusal(error)

    def _execute(self, call: Call, mishap: Fault | None = None) -> Answer:
        with self.lock:
            try:
                return self._run(call, mishap)
            except Ec2Error as error:
                return _refusal(error)
            except OperationNotFoundError as error:
                return _refusal(Ec2Error("InvalidAction", f"The action is not valid: {error}"))
            except NotImplementedError as error:
                return _refusal(unsupported(f"this: {error}"))
            except Exception as error:  # noqa: BLE001 - a bug of ours must reach the client as a 500
                traceback.print_exc()
                return _refusal(Ec2Error("InternalError", f"{type(error).__name__}: {error}", 500))
            finally:
                self.settle()

    def _run(self, call: Call, mishap: Fault | None) -> Answer:
        now = self.clock()
        ec2_attachments.settle(self.state, now)
        response = SimResponse(self.backend, self._done, now, mishap)
        url = f"http://{call.headers.get('host', 'localhost')}{call.path}"
        response.setup_class(moto_request(url, dict(call.headers), call.body))
        status, headers, body = response.call_action()
        kept = {
            name: str(value)
            for name, value in headers.items()
            if name.lower() in ("content-type", "x-amzn-requestid")
        }
        # moto writes a constant where EC2 writes an id that a client may log.
        text = str(body).replace(">request-id<", f">{uuid.uuid4()}<")
        return Answer(status=status, headers=kept, body=text.encode())

    def _keep_time(self) -> None:
        with self.lock:
            while not self.stopping.is_set():
                ec2_attachments.settle(self.state, self.clock())
                due = self.state.next_settling_unix()
                self._changed.wait(None if due is None else max(0.0, due - self.clock()))

    def _instances(self, form: dict[str, list[str]], peer: str) -> set[str]:
        """The instances a call concerns: the one that sends it, and those that it names."""
        found: set[str] = set()
        if (sender := self.state.machine_at(IPv4Address(peer))) is not None:
            found.add(sender.instance_id)
        values = {value for values in form.values() for value in values}
        found.update(value for value in values if value.startswith("i-"))
        for interface in self.state.interfaces.values():
            attachment = interface.attachment
            if attachment and {interface.eni_id, attachment.attachment_id} & values:
                found.add(attachment.instance_id)
        return found


def _refusal(error: Ec2Error) -> Answer:
    return Answer(
        status=error.status,
        headers={"Content-Type": "text/xml;charset=UTF-8"},
        body=error.xml().encode(),
    )
