from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from providers.azure.ids import ArmId, Kind, arm_id, canonical
from tests.unit.azure.arm_fakes import INSTANCE, NIC, SUBNET, VM, VNET

NAMES = st.text("abcXYZ019-_.", min_size=1, max_size=20).filter(lambda name: name.strip("."))


@pytest.mark.parametrize(
    ("text", "kind", "names"),
    [
        pytest.param(NIC, Kind.NIC, ("nic0",), id="NIC of a VM"),
        pytest.param(VM, Kind.VM, ("vm",), id="VM"),
        pytest.param(INSTANCE, Kind.INSTANCE, ("set", "3"), id="instance"),
        pytest.param(
            f"{INSTANCE}/networkInterfaces/n", Kind.INSTANCE_NIC, ("set", "3", "n"), id="its NIC"
        ),
        pytest.param(VNET + "/", Kind.VNET, ("net",), id="VNET, with a slash at the end"),
        pytest.param(SUBNET, Kind.SUBNET, ("net", "pods"), id="subnet"),
    ],
)
def test_an_id_is_read_without_regard_to_case(
    text: str, kind: Kind, names: tuple[str, ...]
) -> None:
    for spelled in (text, text.upper(), text.lower()):
        assert arm_id(spelled) == ArmId(kind=kind, subscription="sub", group="group", names=names)


@given(st.sampled_from(Kind), NAMES, NAMES, st.data())
def test_the_canonical_form_is_one_for_all_spellings(
    kind: Kind, subscription: str, group: str, data: st.DataObject
) -> None:
    levels = kind.value.count("/")
    names = tuple(data.draw(NAMES).lower() for _ in range(levels))
    made = ArmId(kind=kind, subscription=subscription.lower(), group=group.lower(), names=names)
    assert arm_id(made.text.upper()) == made
    assert canonical(made.text) == made.text == made.text.lower()


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="nothing"),
        pytest.param(None, id="no text"),
        pytest.param("eni-1", id="EC2's"),
        pytest.param(NIC.removesuffix("/Nic0"), id="without its name"),
        pytest.param(NIC + "/ipConfigurations/a", id="deeper than a NIC"),
        pytest.param(NIC.replace("Group", "a/b"), id="a slash in a name"),
        pytest.param(NIC + "?x=1", id="a query"),
        pytest.param(NIC + "/../Other", id="another path"),
        pytest.param(NIC.replace("Nic0", ".."), id="two dots for a name"),
        pytest.param(NIC.replace("Group", "."), id="a dot for a group"),
        pytest.param("https://arm.test" + NIC, id="a URL"),
        pytest.param(NIC.replace("Nic0", "a b"), id="a blank"),
        pytest.param(NIC.replace("Nic0", "%2e%2e"), id="an escape"),
    ],
)
def test_what_is_no_id_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match=r"is not the id|names a"):
        arm_id(text)


def test_another_kind_than_asked_for_is_refused_with_both_named() -> None:
    with pytest.raises(ValueError, match=r"virtualmachines; expected microsoft\.network/network"):
        arm_id(VM, Kind.NIC)


def test_a_parent_is_what_a_thing_is_in() -> None:
    assert arm_id(SUBNET).parent == arm_id(VNET)
    assert arm_id(f"{INSTANCE}/networkInterfaces/n").parent == arm_id(INSTANCE)
    with pytest.raises(ValueError, match="is in nothing"):
        _ = arm_id(VM).parent
