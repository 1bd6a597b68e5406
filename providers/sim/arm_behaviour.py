"""How the emulated Azure behaves where a test wants it otherwise, or where nobody knows.

Every field that says "unverified" stands for a question that no document answers; the default is
the answer that the sources make likely, and clients must be right under the other one too.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from providers.sim.arm_errors import ArmError

# Azure documentation, "Azure subscription and service limits", networking.
NIC_LIMIT = 256
VNET_LIMIT = 65_536

_ANOTHER = "Operation on the resource cannot proceed: another operation is in progress on it."


class Busy(enum.Enum):
    """What a write of a resource that is `Updating` is answered with (unverified)."""

    RETRYABLE = "429"
    CONFLICT = "409"
    PRECONDITION = "412"


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """The cloud's delays, in seconds, and its choices.

    `write_seconds`: how long a NIC stays `Updating` after a write; infinite: for ever.
    `block_shortage_code`: one of NoAvailableIPAddressesInSubnet, InsufficientCidrBlocks and
    PrefixUnavailable (which of them the service uses is unverified; Cilium takes each for "no
    whole /28 left"). The first is the default because it names what is short in Azure's words.
    `usage_of_block`: how much a block counts in usages, 1 or 16 (unverified).
    `keeps_unsent_addresses`: a Dynamic configuration sent without its address keeps it, else it
    gets another one (unverified).
    `has_new_etag_at_end`: the end of a delayed write is a change of the resource too (recorded:
    azure-cli, test_multiple_ipconfigs_update_with_asg).
    `shows_suffix_to_old`: a block is shown as "10.0.0.16/28" and not as "10.0.0.16" to
    api-versions that have no length (unverified).
    `fails_configurations`: what a failed write has added all the same is `Failed`, and of no use
    (unverified).
    `counts_blocks_once`: a block is 1 and not 16 of the VNET's limit (documented for AKS).
    """

    write_seconds: float = 0.0
    retry_after_seconds: int = 10  # azure-powershell #14460
    busy: Busy = Busy.RETRYABLE
    block_shortage_code: str = "NoAvailableIPAddressesInSubnet"
    usage_of_block: int = 1
    keeps_unsent_addresses: bool = True
    has_new_etag_at_end: bool = True
    shows_suffix_to_old: bool = False
    fails_configurations: bool = False
    counts_blocks_once: bool = True
    nic_limit: int = NIC_LIMIT
    vnet_limit: int = VNET_LIMIT
    page_length: int = 100

    def __post_init__(self) -> None:
        if self.write_seconds < 0 or self.retry_after_seconds < 0 or self.page_length < 1:
            raise ValueError("seconds must not be negative, and a page has at least one row")
        if self.usage_of_block not in (1, 16):
            raise ValueError(f"a block counts 1 or 16 in usages, not {self.usage_of_block}")

    @property
    def busy_refusal(self) -> ArmError:
        """What a write during another one is answered with."""
        match self.busy:
            case Busy.RETRYABLE:
                headers = {"Retry-After": str(max(1, self.retry_after_seconds))}
                return ArmError(
                    429, "RetryableErrorDueToAnotherOperation", _ANOTHER, headers=headers
                )
            case Busy.CONFLICT:
                return ArmError(409, "ConflictingConcurrentWriteNotAllowed", _ANOTHER)
            case Busy.PRECONDITION:
                return ArmError(412, "PreconditionFailed", _ANOTHER)
