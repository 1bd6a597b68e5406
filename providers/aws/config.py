"""What the settings say to this provider."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class AwsConfig:
    """See the variables of the same meaning in docs/settings.md."""

    api_timeout_seconds: float = 10.0
    cluster_name: str = ""
    extra_eni_tags: tuple[tuple[str, str], ...] = ()
    manages_untagged_enis: bool = True
    discovers_subnets: bool = True
    uses_prefixes: bool = False
