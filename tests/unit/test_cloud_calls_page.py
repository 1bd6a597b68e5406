"""docs/cloud-calls.md says what the code does."""

from __future__ import annotations

from pathlib import Path

import pytest

from ipamd.api_calls import ApiCall
from ipamd.budget import ALLOWANCES, FLOOR, RECOVERY_SECONDS, ApiClass
from ipamd.metrics import LedgerCollector, Metrics
from ipamd.pool.ledger import Ledger
from providers.aws.ec2_model import OPERATIONS
from providers.aws.purse import LONGEST_FINISH_SECONDS, LONGEST_WAIT_SECONDS

PAGE = (Path(__file__).parents[2] / "docs" / "cloud-calls.md").read_text()


@pytest.mark.parametrize("api", OPERATIONS)
def test_every_call_is_on_the_page(api: str) -> None:
    assert api in PAGE


ROWS = {
    ApiClass.DESCRIBE: "Describe..., Get...",
    ApiClass.INTERFACE: "Create, Delete, ModifyNetworkInterface...",
    ApiClass.ATTACH: "Attach, DetachNetworkInterface",
    ApiClass.ADDRESS: "Assign..., Unassign...",
    ApiClass.OTHER: "CreateTags",
}


@pytest.mark.parametrize("kind", ApiClass)
def test_the_budget_on_the_page_is_the_budget(kind: ApiClass) -> None:
    allowance = ALLOWANCES[kind]
    assert f"| {ROWS[kind]} | {allowance.burst:.0f} | {allowance.per_second:g} |" in PAGE


def test_the_bounds_on_the_page_are_the_bounds() -> None:
    assert f"up to {LONGEST_WAIT_SECONDS:.0f} s ({LONGEST_FINISH_SECONDS:.0f} s where" in PAGE
    assert f"down to 1/{1 / FLOOR:.0f}" in PAGE
    assert f"after {RECOVERY_SECONDS:.0f} s without" in PAGE


def test_every_metric_of_calls_is_on_the_page() -> None:
    metrics = Metrics()
    metrics.api_called(ApiCall(api="A", code="X", waited_seconds=1.0, is_throttled=True))
    said = metrics.text().decode().splitlines()
    names = [line.split()[2] for line in said if line.startswith("# TYPE") and "api" in line]
    assert len(names) == 7
    assert [n for n in names if f"`{n}{{" not in PAGE] == []


def test_every_other_metric_is_on_the_page_of_what_to_watch() -> None:
    page = (Path(__file__).parents[2] / "docs" / "when-things-are-down.md").read_text()
    metrics = Metrics()
    metrics.registry.register(
        LedgerCollector(lambda: Ledger(epoch="", has_heard_node=False), lambda: (0, 0), lambda: 0)
    )
    said = metrics.text().decode().splitlines()
    names = [n for line in said if line.startswith("# TYPE") if "api" not in (n := line.split()[2])]
    assert len(names) == 12
    assert [n for n in names if f"`{n}" not in page] == []
