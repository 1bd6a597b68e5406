"""What MTU a pod gets: of the CNI config, of a setting, or of the primary ENI's link."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

import pytest
from cni_shim.errors import CniError, CniErrorCode
from cni_shim.pod_mtu import PodMtu

from tests.cni_bench import Bench


def soon() -> float:
    return time.monotonic() + 5.0


@pytest.mark.parametrize(("primary", "mtu"), [(1500, 9001), (0, 9001)])
def test_a_chosen_mtu_is_nobodys_elses(primary: int, mtu: int) -> None:
    pod_mtu = PodMtu(9001)
    pod_mtu.take(primary)
    assert pod_mtu.now(deadline_monotonic=soon()) == mtu


def test_the_primarys_mtu_is_followed_and_outlives_its_link() -> None:
    pod_mtu = PodMtu(None)
    seen = []
    for primary in (1500, 3900, 0):
        pod_mtu.take(primary)
        seen.append(pod_mtu.now(deadline_monotonic=soon()))
    assert seen == [1500, 3900, 3900]


def test_an_add_waits_for_the_first_look_at_the_link() -> None:
    pod_mtu = PodMtu(None)
    threading.Timer(0.02, pod_mtu.take, (1500,)).start()
    assert pod_mtu.now(deadline_monotonic=soon()) == 1500


def test_a_link_that_nobody_saw_is_an_error_to_try_again() -> None:
    with pytest.raises(CniError, match="the MTU of the primary ENI is not known yet") as caught:
        PodMtu(None).now(deadline_monotonic=time.monotonic())
    assert caught.value.code is CniErrorCode.TRY_AGAIN_LATER


@pytest.mark.parametrize(("configured", "mtu"), [(0, 1500), (1400, 1400)], ids=["none", "chosen"])
def test_a_pod_has_the_primarys_mtu_unless_its_config_names_one(configured: int, mtu: int) -> None:
    bench = Bench(pod_mtu=PodMtu(None))
    bench.pod_mtu.take(1500)
    request = bench.request()
    request = replace(request, config=replace(request.config, mtu=configured))
    result = bench.verbs.add(request, 3, bench.attempt())
    assert [interface.mtu for interface in result.interfaces] == [mtu, mtu]


def test_without_any_mtu_nothing_is_taken_from_ipamd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cni_shim.pod_mtu.PATIENCE_SECONDS", 0.0)
    bench = Bench(pod_mtu=PodMtu(None))
    assert "MTU" in str(bench.refused(bench.add))
    assert bench.diary == []
