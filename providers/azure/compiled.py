"""Whether the SDK has its bytecode. It is a few huge modules: without bytecode each start of the
cloud child parses them, which takes seconds and leaves it with 200 MB more."""

from __future__ import annotations

import importlib.util
from pathlib import Path

SDK = ("azure.mgmt.network", "azure.mgmt.compute")


def has_bytecode() -> bool:
    """True where both SDKs are compiled for this interpreter; imports none of them."""
    return all(_is_compiled(name) for name in SDK)


def _is_compiled(package: str) -> bool:
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        return False
    operations = Path(found.origin).parent / "operations" / "_operations.py"
    return Path(importlib.util.cache_from_source(str(operations))).exists()
