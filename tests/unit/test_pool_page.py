"""docs/pool.md says the numbers that the code has."""

from __future__ import annotations

from pathlib import Path

import pytest
from cni_shim.add import ADD_WAIT_SECONDS

from ipamd import backoff, derived
from ipamd.actions import LOOK_SECONDS
from ipamd.arrivals import BACK_SECONDS
from ipamd.backoff import Backoff
from ipamd.cloud import Capabilities
from ipamd.hints import CALM_SECONDS, HINT_SECONDS
from ipamd.pacer import SCARCE_LEAST, SCARCE_SHARE
from ipamd.pool import blocks, cooling, shrink
from ipamd.pool.ahead import WINDOW_SECONDS, Writes
from ipamd.pool.observe import SECOND_LOOK_SECONDS
from ipamd.reconciler import SUBNETS_STALE_SECONDS
from ipamd.sizing import AZURE_PODS_MOST
from ipamd.view import QUIET_SECONDS, UNREADY_SECONDS
from providers.azure.node import MachineKind
from providers.azure.provider import WRITE_INTERVAL_SECONDS, WRITE_SECONDS
from tests import builders as b

RESYNC_SECONDS = Capabilities(
    can_create_interfaces=True, has_prefixes=True, replaces_whole_interface=False
).resync_seconds

SCALE_SET = Writes(
    seconds=WRITE_SECONDS[MachineKind.SCALE_SET],
    interval_seconds=WRITE_INTERVAL_SECONDS[MachineKind.SCALE_SET],
)

PAGE = " ".join((Path(__file__).parents[2] / "docs" / "pool.md").read_text().split())


def minutes(seconds: float) -> str:
    words = {1: "a", 2: "two", 5: "five", 10: "ten"}
    return words[round(seconds / 60)]


@pytest.mark.parametrize(
    ("pacing", "sentence"),
    [
        (backoff.EXHAUSTED, "then that subnet rests {least}-{most} s"),
        (backoff.PREFIXLESS, "is asked again after {least} s to {most_minutes} min"),
        (backoff.CAPPED, "half as much is asked of it for {least_minutes}-{most_minutes} min"),
        (backoff.REMEASURE, "it is counted again after {least} s to {most_minutes} min"),
        (backoff.THROTTLED, "every call waits, {least} s to {most_minutes} min"),
        (backoff.THROTTLED_AWAITED, "({least}-{most} s while a pod waits)"),
        (backoff.REPEATED, "the step is repeated after {least}-{most} s"),
        (backoff.REFUSED, "growing rests {least} s to {most_minutes} min"),
        (backoff.REFUSED, "none is tried for {least} s to {most_minutes} min"),
        (backoff.DENIED, "growing, from {least} s on where a policy refuses, and up to"),
        (backoff.NO_ENI, "and up to {most_minutes} min at a limit"),
        (backoff.NO_SHRINKING, "shrinking rests {least} s to {most_minutes} min"),
    ],
)
def test_every_wait_on_the_page_is_the_wait(pacing: Backoff, sentence: str) -> None:
    least, most = pacing.delay(1, 0.0), pacing.cap_seconds
    said = sentence.format(
        # 0.25 s is said as 0.3: half of the first step is fixed.
        least=f"{least + 0.001:.1f}".removesuffix(".0"),
        most=f"{most:g}",
        least_minutes=f"{least / 60:g}",
        most_minutes=f"{most / 60:g}",
    )
    assert said in PAGE


@pytest.mark.parametrize(
    "sentence",
    [
        f"(until {QUIET_SECONDS:.0f} s after the last one came or went)",
        f"It is read every {HINT_SECONDS[0]:.0f}-{HINT_SECONDS[1]:.0f} s",
        f"Else once in {RESYNC_SECONDS[0] / 3600:.0f} to {RESYNC_SECONDS[1] / 3600:.0f} hours",
        f"not within {minutes(CALM_SECONDS)} minute of a change of our own",
        f"(at most once {minutes(LOOK_SECONDS)} minute)",
        f"less than a {SCARCE_SHARE}th free, or less than {SCARCE_LEAST} (4 of a /28)",
        f"nothing within {shrink.HOLD_SECONDS:.0f} s of the last change",
        f"at least {minutes(shrink.MINIMUM_ENI_SECONDS)} minute old",
        f"(idle for {minutes(shrink.ENI_BUSY_HOLD_SECONDS)} minutes while pods come and go)",
        (
            f"held {minutes(shrink.PREFIX_HOLD_SECONDS)} minutes, "
            f"{minutes(shrink.PREFIX_BUSY_HOLD_SECONDS)} while pods come and go"
        ),
        f"It asks {cooling.AHEAD_SECONDS:g} to {cooling.LATEST_SECONDS:g} s before the end",
        f"after {cooling.OVERDUE_SECONDS:g} s `ipamctl status` says how many",
        f"does not get ready within {UNREADY_SECONDS:.0f} s",
        f"up to {blocks.OPEN_ADDRESSES} addresses beside those in use",
    ],
)
def test_every_number_on_the_page_is_the_number(sentence: str) -> None:
    assert sentence in PAGE


@pytest.mark.parametrize(
    "sentence",
    [
        f"A burst of {derived.PODS_PER_SECOND:g} pods a second",
        f"where {derived.IDLE_ADDRESSES} are kept idle",
        f"| `VPC_IPAMD_MAX_PODS` | {AZURE_PODS_MOST} | {AZURE_PODS_MOST} |",
        f"({SCALE_SET.window_seconds:g} s on a scale set, {WINDOW_SECONDS:g} s at least)",
        f"on a scale set buys {SCALE_SET.period_seconds / SCALE_SET.window_seconds:g} addresses",
        f"counts as waiting for {BACK_SECONDS:g} s more",
        f"({shrink.SLOW_HOLDS * SCALE_SET.period_seconds:g} s on a scale set)",
        f"four of these ({shrink.SLOW_PREFIX_HOLDS * SCALE_SET.period_seconds / 60:g} min)",
        f"or {backoff.BUSY.delay(1, 0.0):g}-{backoff.BUSY.cap_seconds:g} s",
        f"an ADD waits {ADD_WAIT_SECONDS:g} s",
        f"about {WRITE_SECONDS[MachineKind.VM]:g} s, and that of a scale set's instance about a",
    ],
)
def test_every_number_about_slow_changes_is_the_number(sentence: str) -> None:
    assert sentence in PAGE


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        (MachineKind.VM, ["WARM_IP_TARGET` 16"]),
        (MachineKind.SCALE_SET, ["WARM_PREFIX_TARGET` 2"]),
    ],
)
def test_the_targets_on_the_page_are_those_that_are_derived(
    kind: MachineKind, names: list[str]
) -> None:
    able = Capabilities(
        can_create_interfaces=False,
        has_prefixes=True,
        replaces_whole_interface=True,
        write_seconds=WRITE_SECONDS[kind],
        write_interval_seconds=WRITE_INTERVAL_SECONDS[kind],
    )
    said = derived.derive(b.settings(VPC_IPAMD_CLOUD="azure"), able).sentences
    for name in names:
        assert f"`{name}" in PAGE
        assert any(s.startswith(name.replace("`", "") + ":") for s in said)


def test_the_half_minute_and_the_half_hour_on_the_page_are_that_long() -> None:
    assert (SECOND_LOOK_SECONDS, SUBNETS_STALE_SECONDS) == (30.0, 1800.0)
    assert "Half a minute after a look" in PAGE
    assert "older than half an hour" in PAGE
