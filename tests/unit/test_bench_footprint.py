"""The parts of scripts/bench/footprint that are measured with, not what they measure."""

from __future__ import annotations

import json
import os
from typing import Any

import botocore.parsers
import pytest

from providers.aws import ec2_model
from providers.sim import bench_footprint_azure
from providers.sim.bench_agent import Memory, memory_of
from providers.sim.bench_footprint import Latency, Result, document, table
from providers.sim.bench_footprint_azure import KINDS, AzureResult, Footprint
from providers.sim.bench_front import Front, crowd
from providers.sim.http_door import Call


def result(*, rss_kb: int = 40_000, ready: float = 0.3, crowded_ms: float = 0.5) -> Result:
    memory = Memory(rss_kb=rss_kb, pss_kb=30_000)
    return Result(
        ipamd=memory,
        child=memory,
        child_after_crowd=memory,
        ready_seconds=(ready, ready),
        idle=Latency(median_ms=0.5, p95_ms=1.0, calls=9),
        crowded=Latency(median_ms=crowded_ms, p95_ms=2.0, calls=9),
        read_seconds=0.3,
    )


@pytest.mark.parametrize(
    ("measured", "missed"),
    [
        (result(), []),
        (result(rss_kb=46_500), ["memory"]),
        (result(ready=1.1), ["ready"]),
        (result(crowded_ms=1.1), ["allocate"]),
    ],
    ids=["all met", "memory", "ready", "allocate"],
)
def test_a_missed_goal_is_named(measured: Result, missed: list[str]) -> None:
    assert measured.missed() == missed
    assert json.loads(document(measured))["missed"] == missed


def test_the_table_has_the_sum_in_megabytes() -> None:
    (line,) = [one for one in table(result()).splitlines() if one.startswith("together")]
    assert line.split()[-2:] == ["81.9", "61.4"]


def test_the_kernel_counts_this_process() -> None:
    memory = memory_of(os.getpid())
    assert memory.rss_kb >= memory.pss_kb > 1_000


def look(front: Front, **form: str) -> dict[str, Any]:
    """One DescribeNetworkInterfaces as botocore reads it."""
    asked = {"Action": "DescribeNetworkInterfaces", "MaxResults": "200", **form}
    body = "&".join(f"{k}={v}" for k, v in asked.items()).encode()
    answer = front.as_ec2(Call(method="POST", path="/", headers={}, body=body, peer="127.0.0.1"))
    model = ec2_model.session().get_service_model("ec2")
    shape = model.operation_model("DescribeNetworkInterfaces").output_shape
    parsed: dict[str, Any] = botocore.parsers.create_parser("ec2").parse(
        {"body": answer.body, "headers": {}, "status_code": answer.status}, shape
    )
    return parsed


def test_the_crowd_comes_in_pages_that_miss_none() -> None:
    front = Front(ec2="", imds="")
    front.show_crowd(crowd(450, subnet_id="subnet-1", vpc_id="vpc-1"))
    pages = [look(front, **{"Filter.1.Value.1": "available"})]
    while pages[-1].get("NextToken"):
        pages.append(look(front, NextToken=pages[-1]["NextToken"]))
    ids = [one["NetworkInterfaceId"] for page in pages for one in page["NetworkInterfaces"]]
    assert [len(page["NetworkInterfaces"]) for page in pages] == [200, 200, 50]
    assert len(set(ids)) == 450


def test_an_eni_of_the_crowd_has_ten_addresses() -> None:
    front = Front(ec2="", imds="")
    front.show_crowd(crowd(1, subnet_id="subnet-1", vpc_id="vpc-1"))
    (eni,) = look(front, **{"Filter.1.Value.1": "available"})["NetworkInterfaces"]
    assert len({one["PrivateIpAddress"] for one in eni["PrivateIpAddresses"]}) == 10
    assert [one["Primary"] for one in eni["PrivateIpAddresses"]].count(True) == 1


def on_azure(*, rss_kb: int = 90_000, seconds: float = 0.4) -> AzureResult:
    memory = Memory(rss_kb=rss_kb, pss_kb=60_000)
    footprints = tuple(Footprint(kind=kind, ipamd=memory, child=memory) for kind in KINDS)
    return AzureResult(import_seconds=(seconds, seconds), footprints=footprints)


@pytest.mark.parametrize(
    ("measured", "missed"),
    [
        (on_azure(), []),
        (on_azure(rss_kb=98_000), ["memory on a vm", "memory on a scale-set"]),
        (on_azure(seconds=0.7), ["import"]),
    ],
    ids=["all met", "memory", "import"],
)
def test_a_missed_goal_on_azure_is_named(measured: AzureResult, missed: list[str]) -> None:
    assert measured.missed() == missed
    assert json.loads(bench_footprint_azure.document(measured))["missed"] == missed
    assert "cloud child, scale-set" in bench_footprint_azure.table(measured)
