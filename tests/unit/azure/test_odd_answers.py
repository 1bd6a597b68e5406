"""Whatever ARM answers: a CloudError or a picture in which nothing of others is a pod's."""

from __future__ import annotations

import contextlib
import copy
import tempfile
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipamd.cloud import AddressChange, CloudEni
from ipamd.errors import CloudError
from ipamd.model import EniId
from tests.unit.azure.arm_fakes import INSTANCE, NIC, VM, Answer, config, model_config
from tests.unit.azure.test_provider import SUBNET_ID, World, on_instance, on_vm

JUNK: tuple[Any, ...] = (
    *(None, True, 0, -1, 28, "28", 1e999, float("nan"), "9" * 5000),
    *("", "x", "true", "\x00", "Updating", [], {}, [None], [{}], {"a": 1}),
    *("10.0.0.9/0", "fd00::1", "0.0.0.0", "10.0.0.9%3", NIC.replace("Nic0", "..")),
    *("/subscriptions/s/resourceGroups/g/providers/Microsoft.Network/networkInterfaces/n",),
)
OTHERS = {IPv4Address("10.0.0.4"), IPv4Address("10.0.0.5"), IPv4Address("10.0.0.8")}
LONGEST_MESSAGE = 1500


def places(body: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where something could be other than it is."""
    members = body.items() if isinstance(body, dict) else enumerate(body)
    for key, inside in members:
        yield (*above, key)
        if isinstance(inside, dict | list):
            yield from places(inside, (*above, key))


@st.composite
def spoiled(draw: st.DrawFn, body: Any) -> Any:
    """The body with one member that is gone, twice or of another kind."""
    made = copy.deepcopy(body)
    *above, last = draw(st.sampled_from(list(places(body))))
    at = made
    for key in above:
        at = at[key]
    kind = draw(st.sampled_from(("gone", "twice", "other", "other")))
    if kind == "gone":
        del at[last]
    elif kind == "twice" and isinstance(at, list):
        at.append(copy.deepcopy(at[last]))
    else:
        at[last] = draw(st.sampled_from(JUNK))
    return made


def a_vm(path: Path) -> World:
    return on_vm(
        path,
        config("x", "10.0.0.8"),
        config("ipamd-1", "10.0.0.9"),
        config("ipamd-2", "10.0.0.32/28"),
    )


def an_instance(path: Path) -> World:
    return on_instance(
        path,
        config("x", "10.0.0.8"),
        config("ipamd-1", "10.0.0.9"),
        config("ipamd-2", "10.0.0.32"),
        modelled=(
            model_config("x"),
            model_config("ipamd-1"),
            model_config("ipamd-2", privateIPAddressPrefixLength=28),
        ),
    )


def complaint(call: Callable[[], object]) -> str:
    try:
        call()
    except CloudError as e:
        return str(e)
    return ""


def use(made: World) -> tuple[list[str], tuple[CloudEni, ...]]:
    """Everything that asks ARM: what it complained of, and what a look showed then."""
    provider = made.provider
    nic_id = NIC if VM.lower() in made.bodies else f"{INSTANCE}/networkInterfaces/Nic0"
    gone = (IPv4Address("10.0.0.77"),)
    change = AddressChange(eni_id=EniId(nic_id.lower()), remove=gone, token="t")
    complaints = [
        complaint(call)
        for call in (
            provider.discover_node,
            provider.limits,
            provider.capabilities,
            provider.hint,
            lambda: provider.subnets((SUBNET_ID,)),
            lambda: provider.apply(change),
        )
    ]
    with contextlib.suppress(CloudError):
        return complaints, provider.snapshot().enis
    return complaints, ()


@settings(deadline=None, max_examples=75)  # the SDK is loaded by the first one
@pytest.mark.parametrize("make", [a_vm, an_instance])
@given(data=st.data(), has_looked=st.booleans())
def test_no_answer_is_too_odd(make: Any, data: st.DataObject, has_looked: bool) -> None:
    with tempfile.TemporaryDirectory() as path:
        made = make(Path(path))
        if has_looked:
            made.provider.snapshot()
        for _ in range(data.draw(st.integers(1, 2))):
            where = data.draw(st.sampled_from(sorted(made.bodies)))
            body = made.bodies[where]
            content = body.json() if isinstance(body, Answer) else body
            if content:
                made.bodies[where] = Answer(200, data.draw(spoiled(content)))
        complaints, enis = use(made)
        made.provider.close()
    assert all(len(said) < LONGEST_MESSAGE for said in complaints)
    for eni in enis:
        assert not OTHERS & set(eni.addresses)
        assert not any(own in block for own in OTHERS for block in eni.prefixes)
        assert eni.is_primary == (eni.primary_address == IPv4Address("10.0.0.4"))


@pytest.mark.parametrize("make", [a_vm, an_instance])
def test_deep_nesting_is_odd_and_no_crash(make: Any, tmp_path: Path) -> None:
    made = make(tmp_path)
    for where in made.bodies:
        made.bodies[where] = Answer(200, b"[" * 100_000)
    with pytest.raises(CloudError, match="cannot be read"):
        made.provider.snapshot()
