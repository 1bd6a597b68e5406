"""Control calls that are the same for every emulated cloud: what its fabric and its metadata
service alone decide.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from providers.sim.imds_faults import FaultySettings, ImdsFault, ImdsFaultKind
from providers.sim.model import Fabric


class CommonCalls:
    """What `ControlCalls` and `AzureControlCalls` begin with."""

    def __init__(
        self, fabric: Fabric | None, clock: Callable[[], float], imds: FaultySettings
    ) -> None:
        self.fabric = fabric
        self._clock = clock
        self._imds_settings = imds

    def set_imds_fault(
        self,
        kind: str,
        path: str = "",
        value: str = "",
        instance_id: str = "",
        seconds: float | None = None,
    ) -> None:
        """Put a fault of the metadata service in force (see `imds_faults.ImdsFaultKind`).

        `seconds` None: until `clear_faults`.
        """
        fault = ImdsFault(
            kind=ImdsFaultKind(kind),
            path=path,
            value=value,
            instance_id=instance_id,
            until_unix=self.until(seconds),
        )
        self._imds_settings.faults = [*self._imds_settings.faults, fault]

    def dropped(self) -> list[dict[str, Any]]:
        """What the fabric dropped: dicts of eni_id, kind, source and packets."""
        return self._wires().dropped()

    def reset_dropped(self) -> None:
        """Count drops from zero."""
        self._wires().reset_dropped()

    def until(self, seconds: float | None) -> float | None:
        """When a fault set now ends; None: never."""
        if seconds is None:
            return None
        if seconds <= 0:
            raise ValueError("a fault lasts for more than 0 seconds")
        return self._clock() + seconds

    def _wires(self) -> Fabric:
        if self.fabric is None:
            raise ValueError("this emulator runs without a fabric")
        return self.fabric
