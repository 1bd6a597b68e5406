"""The table of docs/emulated-ec2.md names tests; each must exist."""

from __future__ import annotations

import re
from pathlib import Path

HERE = Path(__file__).parent
TABLE = HERE.parent.parent / "docs" / "emulated-ec2.md"


def test_every_row_of_the_table_names_a_test_that_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", TABLE.read_text()))
    files = (*HERE.glob("test_*.py"), *HERE.parent.glob("netns/test_fabric*.py"))
    text = "\n".join(path.read_text() for path in files)
    existing = set(re.findall(r"^def (test_\w+)", text, re.MULTILINE))
    assert len(named) > 40
    assert named - existing == set()
