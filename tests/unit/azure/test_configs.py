from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from providers.azure.configs import configs_of, is_block
from tests.unit.azure.memory_arm import config


def nic(*listed: dict[str, Any], state: str = "Succeeded") -> dict[str, Any]:
    return {"properties": {"provisioningState": state, "ipConfigurations": list(listed)}}


def of(**properties: Any) -> dict[str, Any]:
    return {"name": "Ipamd-0a1b2c3d", "properties": properties}


@pytest.mark.parametrize(
    ("raw", "carries"),
    [
        pytest.param(of(privateIPAddress="10.0.0.5"), ip_address("10.0.0.5"), id="address"),
        pytest.param(of(privateIPAddress="10.0.0.5/32"), ip_address("10.0.0.5"), id="as /32"),
        pytest.param(
            of(privateIPAddress="10.0.0.16/28", privateIPAddressPrefixLength=28),
            ip_network("10.0.0.16/28"),
            id="block, both ways",
        ),
        pytest.param(
            of(privateIPAddress="10.0.0.16", privateIPAddressPrefixLength=28),
            ip_network("10.0.0.16/28"),
            id="block, length apart",
        ),
        pytest.param(
            of(privateIPAddress="10.0.0.19/28"), ip_network("10.0.0.16/28"), id="host bits set"
        ),
        pytest.param(of(privateIPAddress="fd00::4"), ip_address("fd00::4"), id="IPv6"),
        pytest.param(of(), None, id="none yet"),
        pytest.param(of(privateIPAddress=None), None, id="null"),
        pytest.param(of(privateIPAddress=""), None, id="empty"),
    ],
)
def test_what_a_configuration_carries(raw: dict[str, Any], carries: object) -> None:
    assert configs_of(nic(raw))[0].carries == carries


def test_a_view_without_lengths_is_read_by_what_the_model_calls_blocks() -> None:
    (seen,) = configs_of(nic(of(privateIPAddress="10.0.0.16")), blocks={"ipamd-0a1b2c3d"})
    assert seen.carries == ip_network("10.0.0.16/28")


def test_a_configuration_without_a_state_has_that_of_its_nic() -> None:
    (seen,) = configs_of(nic(of(privateIPAddress="10.0.0.5"), state="Updating"))
    assert (seen.state, seen.is_usable) == ("updating", False)


def test_the_primary_comes_first_wherever_it_is_listed() -> None:
    seen = configs_of(nic(config("b", "10.0.0.6"), config("a", "10.0.0.5", is_primary=True)))
    assert [(c.name, c.is_primary) for c in seen] == [("a", True), ("b", False)]


def test_a_single_configuration_may_leave_unsaid_that_it_is_the_primary() -> None:
    assert configs_of(nic(of(privateIPAddress="10.0.0.5")))[0].is_primary


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param({"properties": {}}, id="no name"),
        pytest.param({"name": "a"}, id="no properties"),
        pytest.param(of(privateIPAddress="none"), id="no address"),
        pytest.param(of(privateIPAddress="10.0.0.16", privateIPAddressPrefixLength=99), id="99"),
    ],
)
def test_what_cannot_be_read_says_so(raw: dict[str, Any]) -> None:
    with pytest.raises((LookupError, ValueError)):
        configs_of(nic(raw))


@pytest.mark.parametrize(
    ("raw", "is_one"),
    [
        pytest.param(of(privateIPAddressPrefixLength=28), True, id="in a model"),
        pytest.param(of(privateIPAddress="10.0.0.16/28"), True, id="by its address"),
        pytest.param(of(privateIPAddress="10.0.0.16"), False, id="address"),
        pytest.param(of(privateIPAddressPrefixLength=None), False, id="null"),
    ],
)
def test_which_configurations_are_blocks(raw: dict[str, Any], is_one: bool) -> None:
    assert is_block(raw) is is_one
