"""docs/azure.md quotes what is really said."""

from __future__ import annotations

from pathlib import Path

import pytest

from providers.azure import advice
from providers.azure.writer import DEADLINE_SECONDS

PAGE = " ".join((Path(__file__).parents[3] / "docs" / "azure.md").read_text().split())
TABLE = PAGE.partition("## When something is wrong")[2].partition("## What nobody could")[0]

SAID = {
    "shows a certificate that no known CA has signed": advice.unreached(
        "CERTIFICATE_VERIFY_FAILED"
    ),
    "are HTTPS_PROXY and NO_PROXY of this process right?": advice.unreached("proxy"),
    "is AZURE_ARM_ENDPOINT right, and does the node's DNS answer?": advice.unreached("resolve"),
    "may the node reach AZURE_ARM_ENDPOINT": advice.unreached("reset"),
    "is this machine in Azure, as VPC_IPAMD_CLOUD=azure says?": advice.IN_AZURE,
    "no token from the metadata service": advice.no_token("Token request error: (x) y"),
    "lacks the right": advice.lacking(
        "does not have authorization to perform action 'a' over scope 's'"
    ),
}


@pytest.mark.parametrize("quoted", SAID)
def test_what_the_page_quotes_is_said(quoted: str) -> None:
    assert f"`{quoted}`" in TABLE
    assert quoted in SAID[quoted]


def test_the_page_knows_how_long_a_write_is_waited_for() -> None:
    assert f"after {DEADLINE_SECONDS / 60:.0f} minutes it is left to itself" in TABLE
