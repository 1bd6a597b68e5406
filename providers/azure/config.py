"""What the settings say to this provider."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class AzureConfig:
    """See the AZURE_* variables in docs/settings.md.

    `journal_path` is where a write that is under way is noted. `metadata_endpoint` is another one
    only where there is no network namespace in which the real address could be had.
    """

    journal_path: Path
    api_timeout_seconds: float = 10.0
    arm_endpoint: str = "https://management.azure.com"
    metadata_endpoint: str = "http://169.254.169.254"
    client_id: str = ""
    write_seconds: float = 0.0  # 0: by the kind of machine
    write_interval_seconds: float = 0.0  # 0: by the kind of machine
    scale_set_nic_api_version: str = ""  # empty: the newest that is taken
    resync_seconds: float = 450.0
    has_hints: bool = True
