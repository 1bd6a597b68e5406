"""Faults as the control socket names them, in the words of ARM's fault book: pure."""

from __future__ import annotations

from dataclasses import dataclass

from providers.sim.arm_compute_state import ComputeState
from providers.sim.arm_faults import ArmFaultKind

# EC2's words for the same mishap (`faults.FaultKind`).
_FROM_EC2 = {
    "throttle": ArmFaultKind.ERROR,
    "timeout_before": ArmFaultKind.DROPPED,
    "timeout_after": ArmFaultKind.LOST,
    "latency": ArmFaultKind.DELAY,
}
_THROTTLED, _FAILED = (429, "TooManyRequests"), (500, "InternalServerError")
# A throttled client has to be told until when; one second is the least that Retry-After can say.
_SHORTEST_WAIT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedFault:
    """Which requests a fault meets and what it does to them."""

    method: str
    path: str
    kind: ArmFaultKind
    status: int
    code: str
    retry_after_seconds: int


def fault_of(
    action: str, kind: str, *, pattern: str, code: str, status: int, retry_after: int
) -> AskedFault:
    """The fault asked for. `pattern`: for which paths when the action does not say it."""
    method, _, path = action.partition(" ")
    usual_status, usual_code = _THROTTLED if kind == "throttle" else _FAILED
    least = _SHORTEST_WAIT if kind == "throttle" else 0
    return AskedFault(
        method=method,
        path=path or pattern,
        kind=_FROM_EC2.get(kind) or ArmFaultKind(kind),
        status=status or usual_status,
        code=code or usual_code,
        retry_after_seconds=retry_after or least,
    )


def machine_pattern(state: ComputeState, machine_id: str) -> str:
    """What the paths of requests for one machine's NICs look like."""
    if (vm := state.vms.get(machine_id.lower())) is not None:
        return f"*/networkInterfaces/{vm.name}-nic-*"
    return f"*{state.instance(machine_id).instance_id}*"
