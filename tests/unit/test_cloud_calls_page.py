"""docs/cloud-calls.md says what the code does."""

from __future__ import annotations

from pathlib import Path

import pytest

from ipamd.api_calls import ApiCall, Left
from ipamd.budget import ALLOWANCES, FLOOR, RECOVERY_SECONDS, ApiClass
from ipamd.metrics import LedgerCollector, Metrics
from ipamd.pool.ledger import Ledger
from providers.aws.ec2_model import OPERATIONS
from providers.aws.purse import LONGEST_FINISH_SECONDS, LONGEST_WAIT_SECONDS
from providers.azure import purse as azure
from providers.azure.writer import LONGEST_BUDGET_SECONDS

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


@pytest.mark.parametrize("api", azure.Api)
def test_every_call_to_azure_is_on_the_page(api: azure.Api) -> None:
    assert api.value in PAGE


@pytest.mark.parametrize("share", azure.Share)
def test_the_budget_for_azure_on_the_page_is_the_budget(share: azure.Share) -> None:
    allowance = azure.ALLOWANCES[share]
    assert f"| {share.value} | {allowance.burst:.0f} | {allowance.per_second:.4g} |" in PAGE


def test_the_bounds_for_azure_on_the_page_are_the_bounds() -> None:
    one_line = " ".join(PAGE.split())
    assert f"waits up to {azure.LONGEST_WAIT_SECONDS:.0f} s for its turn" in one_line
    assert f"a change of addresses up to {LONGEST_BUDGET_SECONDS:.0f} s" in one_line
    low = azure.LOW
    reads, writes = low[azure.Share.FRONT_READ], low[azure.Share.FRONT_WRITE]
    assert f"less than {reads} reads or {writes} writes left" in one_line


def test_every_metric_of_calls_is_on_the_page() -> None:
    metrics = Metrics()
    metrics.api_called(ApiCall(api="A", code="X", waited_seconds=1.0, is_throttled=True))
    metrics.api_called(ApiCall(api="A", left=(Left(bucket="B", calls=1),), resting="C"))
    said = metrics.text().decode().splitlines()
    names = [line.split()[2] for line in said if line.startswith("# TYPE") and "api" in line]
    assert len(names) == 10
    assert [n for n in names if f"`{n}{{" not in PAGE] == []


def test_every_other_metric_is_on_the_page_of_what_to_watch() -> None:
    page = (Path(__file__).parents[2] / "docs" / "when-things-are-down.md").read_text()
    metrics = Metrics()
    metrics.registry.register(
        LedgerCollector(lambda: Ledger(epoch="", has_heard_node=False), lambda: (0, 0), lambda: 0)
    )
    said = metrics.text().decode().splitlines()
    names = [n for line in said if line.startswith("# TYPE") if "api" not in (n := line.split()[2])]
    assert len(names) == 14
    assert [n for n in names if f"`{n}" not in page] == []
