"""Azure's instance metadata service (IMDS): who this machine is, and a hint of its addresses.

Source: "Azure Instance Metadata Service" (Azure Virtual Machines). Reached without any proxy, since
it refuses what came through one, and with the header that a careless forwarder would not set. It
answers at most 5 requests a second, and 410 while it is being renewed. It lags ARM, knows no NIC by
name and may not list blocks, so nothing but the identity is believed.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import Any, TypeVar

import urllib3

from ipamd.errors import Transient
from providers.azure.advice import IN_AZURE, tidy
from providers.azure.configs import ODD
from providers.azure.errors import clean
from providers.azure.ids import ArmId, Kind, arm_id

T = TypeVar("T")

API_VERSION = "2021-02-01"
"""Has all that is read here (resourceId since 2019-11-01), and is served everywhere for years."""

TIMEOUT = urllib3.Timeout(connect=1.0, read=2.0)

PAUSES_SECONDS = (0.25, 0.5, 1.0, 2.0)
"""Between the tries of one read: at 429 the quota refills each second, and who needs longer is
asked again by the core, which waits better."""

_RETRIED = frozenset({410, 429})


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Who this machine is. `vm_id` is its unique id, `resource` the VM or scale set instance."""

    vm_id: str
    size: str
    location: str
    zone: str  # "1" to "3"; "" outside of availability zones
    resource: ArmId


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownInterface:
    """One interface as IMDS shows it: `items` are all its IPv4 addresses, the primary one first,
    and blocks where it lists them."""

    mac: str
    items: tuple[IPv4Address | IPv4Network, ...]
    subnets: tuple[IPv4Network, ...]


class Imds:
    """A client; safe to call from several threads."""

    def __init__(self, endpoint: str, *, sleep: Callable[[float], None] = time.sleep) -> None:
        self._endpoint = endpoint.rstrip("/")
        self._sleep = sleep
        self._http = urllib3.PoolManager(timeout=TIMEOUT, retries=False, maxsize=4)

    def close(self) -> None:
        """Close the connections."""
        self._http.clear()

    def machine(self) -> Machine:
        """Who we are; Transient that names what was seen where a value cannot be."""
        return _read(self._get("compute"), "compute", _machine)

    def interfaces(self) -> tuple[ShownInterface, ...]:
        """The interfaces; Transient like `machine`."""
        return _read(self._get("network"), "network", _interfaces)

    def _get(self, what: str) -> object:
        """The JSON below /metadata/instance, tried again for a while; Transient after that."""
        path = f"/metadata/instance/{what}?api-version={API_VERSION}&format=json"
        seen = self._try(path)
        for pause in PAUSES_SECONDS:
            if not isinstance(seen, str):
                break
            self._sleep(pause)
            seen = self._try(path)
        if isinstance(seen, str):
            raise _unusable(what, seen)
        try:
            return json.loads(seen)
        except (ValueError, RecursionError) as e:
            raise _unusable(what, f"gave no JSON: {seen[:100]!r}") from e

    def _try(self, path: str) -> bytes | str:
        """The body, or in words why another try may be of use; Transient where none is."""
        try:
            answer = self._http.request(
                "GET", self._endpoint + path, headers={"Metadata": "true"}, redirect=False
            )
        except urllib3.exceptions.HTTPError as e:
            return (
                f"does not answer at {self._endpoint}: {clean(tidy(str(e)))}; {IN_AZURE} Where it "
                "is, nothing may come between (a firewall, a network policy, a proxy)"
            )
        if answer.status == 200:
            return bytes(answer.data)
        said = f"answered {answer.status}: {clean(answer.data[:200].decode(errors='replace'))}"
        if answer.status in _RETRIED or answer.status >= 500:
            return said
        raise _unusable(path.partition("?")[0], f"{said}; {IN_AZURE}")


def _unusable(what: str, said: str) -> Transient:
    return Transient(f"the metadata service, asked for {what}, {said}", operation="imds")


def _read(raw: object, what: str, read: Callable[[Any], T]) -> T:
    try:
        return read(raw)
    except ODD as e:
        raise _unusable(what, f"gave what cannot be: {clean(str(e))}") from e


def _machine(raw: Any) -> Machine:
    return Machine(
        vm_id=_matching(raw, "vmId", r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}").lower(),
        size=_matching(raw, "vmSize", r"[A-Za-z0-9_-]{1,64}"),
        location=_matching(raw, "location", r"[A-Za-z0-9]{1,64}").lower(),
        zone=_matching(raw, "zone", r"[0-9]{0,3}"),
        resource=arm_id(raw["resourceId"], Kind.VM, Kind.INSTANCE),
    )


def _matching(raw: Any, name: str, pattern: str) -> str:
    value = raw[name]
    if not isinstance(value, str) or not re.fullmatch(pattern, value, re.ASCII):
        raise ValueError(f"{name} is {str(value)[:100]!r}; expected {pattern}")
    return value


def _interfaces(raw: Any) -> tuple[ShownInterface, ...]:
    return tuple(_interface(one) for one in raw["interface"])


def _interface(raw: Any) -> ShownInterface:
    family = raw.get("ipv4") or {}
    return ShownInterface(
        mac=mac_of(raw["macAddress"]),
        items=tuple(_item(a["privateIpAddress"]) for a in family.get("ipAddress") or []),
        subnets=tuple(
            IPv4Network(f"{s['address']}/{int(s['prefix'])}") for s in family.get("subnet") or []
        ),
    )


def _item(text: object) -> IPv4Address | IPv4Network:
    seen = IPv4Interface(str(text))
    return seen.ip if seen.network.prefixlen == 32 else seen.network


def mac_of(text: object) -> str:
    """A MAC of IMDS ("000D3A328570") or of ARM ("00-0D-3A-32-85-70") as Linux writes it; ValueError
    for what is none."""
    digits = re.sub(r"[-:]", "", text).lower() if isinstance(text, str) else ""
    if not re.fullmatch(r"[0-9a-f]{12}", digits, re.ASCII):
        raise ValueError(f"{str(text)[:100]!r} is not a MAC address")
    return ":".join(digits[i : i + 2] for i in range(0, 12, 2))
