"""The tables of docs/emulated-azure.md name tests; each must exist."""

from __future__ import annotations

import re
from pathlib import Path

HERE = Path(__file__).parent
PAGE = HERE.parents[2] / "docs" / "emulated-azure.md"


def test_every_row_of_the_tables_names_a_test_that_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", PAGE.read_text())) - {
        # Recordings of azure-cli, not tests of ours.
        "test_vmss_nics",
        "test_network_nic_subresources",
        "test_multiple_ipconfigs_remove_by_shorthand",
        "test_multiple_ipconfigs_update_with_asg",
    }
    files = (*HERE.rglob("test_*.py"), *HERE.parents[1].glob("netns/test_azure*.py"))
    text = "\n".join(path.read_text() for path in files)
    existing = set(re.findall(r"^def (test_\w+)", text, re.MULTILINE))
    assert len(named) > 40
    assert named - existing == set()
