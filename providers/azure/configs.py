"""The ipConfigurations of a NIC as ARM shows them, as values. Pure.

A NIC of a VM and the view of a scale set instance's NIC have one shape. What the view may lack is
the length of a block: the api-version 2018-10-01 is older than blocks, so which configurations are
blocks can be told from the instance's model, by name.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from ipaddress import ip_interface
from typing import Any

from ipamd.model import IPAddress, IPNetwork
from providers.azure.names import is_ours

Body = dict[str, Any]
"""A JSON object as ARM gave it or will get it."""

BLOCK_LENGTH = 28
"""The only length that a block can have ("Assign private IP address prefixes to VMs")."""

SUCCEEDED, FAILED = "succeeded", "failed"
"""Values of provisioningState, in lower case, that stay."""

ODD = (LookupError, ValueError, TypeError, AttributeError, ArithmeticError)
"""What reading a body raises that is not as the API reference says; ArithmeticError: of a number
that JSON writes and no int holds (1e999)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """One ipConfiguration. `state` is its provisioningState in lower case, that of the NIC where
    it has none of its own; `carries` is None while it has no address yet."""

    name: str
    is_primary: bool
    state: str
    carries: IPAddress | IPNetwork | None

    @property
    def key(self) -> str:
        """The name as ARM compares it."""
        return self.name.lower()

    @property
    def is_pods(self) -> bool:
        """Whether it is this daemon's to give to pods and to take away."""
        return is_ours(self.name) and not self.is_primary

    @property
    def is_usable(self) -> bool:
        """Whether traffic of its address passes."""
        return self.state == SUCCEEDED and self.carries is not None


def configs_of(nic: Body, *, blocks: Container[str] = frozenset()) -> tuple[Config, ...]:
    """The configurations of a NIC, the primary first, else as listed.

    `blocks` names, in lower case, those that are known to be blocks. LookupError, TypeError or
    ValueError for a body that is not as the API reference says.
    """
    nic_state = str(nic["properties"].get("provisioningState", ""))
    listed = nic["properties"].get("ipConfigurations") or []
    primary = primary_of(listed)
    return tuple(
        _config(raw, nic_state, is_primary=raw is primary, is_block=key_of(raw) in blocks)
        for raw in primary_first(listed)
    )


def primary_of(listed: list[Body]) -> Body | None:
    """The one that says so; a model with a single configuration may leave it unsaid."""
    said = (raw for raw in listed if raw["properties"].get("primary"))
    return next(said, listed[0] if listed else None)


def primary_first(listed: list[Body]) -> list[Body]:
    """The same configurations, the primary before all others."""
    primary = primary_of(listed)
    return sorted(listed, key=lambda raw: raw is not primary)


def key_of(raw: Body) -> str:
    """The name of a configuration as ARM compares it."""
    return str(raw["name"]).lower()


def is_block(raw: Body) -> bool:
    """Whether a configuration, of a NIC or of a model, says that it is a block."""
    length = raw["properties"].get("privateIPAddressPrefixLength")
    if length is not None:
        return int(length) == BLOCK_LENGTH
    return str(raw["properties"].get("privateIPAddress") or "").endswith(f"/{BLOCK_LENGTH}")


def _config(raw: Body, nic_state: str, *, is_primary: bool, is_block: bool) -> Config:
    properties = raw["properties"]
    return Config(
        name=str(raw["name"]),
        is_primary=is_primary,
        state=str(properties.get("provisioningState") or nic_state).lower(),
        carries=_carried(properties, is_block=is_block),
    )


def _carried(properties: Body, *, is_block: bool) -> IPAddress | IPNetwork | None:
    """The address or block: "10.0.0.16/28", or "10.0.0.16" with its length apart or known by name.

    Host bits may be set (cilium reads both forms).
    """
    text = properties.get("privateIPAddress")
    if not text:
        return None
    length = properties.get("privateIPAddressPrefixLength")
    if "/" not in text and (length is not None or is_block):
        text = f"{text}/{BLOCK_LENGTH if length is None else length}"
    seen = ip_interface(text)
    return seen.ip if seen.network.num_addresses == 1 else seen.network
