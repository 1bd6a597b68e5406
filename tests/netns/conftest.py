"""Tests marked `netns` need the right to make network namespaces, and a place to throw away."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator

import pytest

from providers.sim import netns


def why_no_namespaces() -> str:
    """Empty where namespaces can be made here; else the sentence that says what is missing."""
    if os.environ.get("VPC_IPAMD_SANDBOX") != "1":
        return "Not inside the sandbox: run scripts/test, or pytest under scripts/_sandbox."
    name = f"probe-{uuid.uuid4().hex[:8]}"
    try:
        netns.create(name)
    except OSError as error:
        return (
            f"No network namespace can be made here ({error}): root or a user namespace is needed."
        )
    netns.delete(name)
    return ""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    marked = [item for item in items if item.get_closest_marker("netns")]
    reason = why_no_namespaces() if marked else ""
    for item in marked if reason else []:
        item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture
def make_netns() -> Iterator[Callable[[str], str]]:
    """Make namespaces that are removed after the test; returns their paths."""
    made: list[str] = []

    def make(name: str) -> str:
        path = netns.create(name)
        made.append(name)
        return path

    yield make
    for name in made:
        netns.delete(name)
