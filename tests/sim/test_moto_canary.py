"""What the emulator relies on inside moto. When one of these fails, moto has changed.

What to do then: pin moto back (pyproject.toml, requirements/), or read the named part of the new
moto, adapt providers/sim/ec2_moto.py and ec2_*actions.py, run tests/sim, and raise `PINNED` here.
"""

from __future__ import annotations

import importlib.metadata
import inspect

import pytest
from moto.core.responses import ActionResult
from moto.ec2.models import EC2Backend
from moto.ec2.models.instance_types import INSTANCE_TYPES
from moto.ec2.models.instances import Instance
from moto.ec2.models.subnets import Subnet
from moto.ec2.responses import EC2Response

from providers.sim.ec2_actions import InterfaceActions
from providers.sim.ec2_addresses import UNATTACHED_ADDRESS_LIMIT
from providers.sim.ec2_instance_actions import SimResponse
from providers.sim.ec2_moto import SimBackend

PINNED = "5.2.5"
WHAT_TO_DO = "moto has changed: read the top of tests/sim/test_moto_canary.py"


def test_moto_is_the_version_the_emulator_was_written_for() -> None:
    assert importlib.metadata.version("moto") == PINNED, WHAT_TO_DO


def _ours() -> list[str]:
    methods = vars(InterfaceActions) | vars(SimResponse)
    return [name for name, value in methods.items() if inspect.isfunction(value)]


@pytest.mark.parametrize("name", _ours())
def test_every_action_we_override_exists_in_moto(name: str) -> None:
    if name.startswith("_") or name in ("launch", "direct"):
        assert not hasattr(EC2Response, name) or name == "__init__", WHAT_TO_DO
    else:
        assert inspect.isfunction(getattr(EC2Response, name, None)), WHAT_TO_DO


def test_every_question_we_answer_for_moto_is_still_asked() -> None:
    for name in ("get_network_interface", "describe_network_interfaces"):
        assert inspect.isfunction(getattr(EC2Backend, name, None)), WHAT_TO_DO
    assert "get_network_interface" in inspect.getsource(Instance.prep_nics), WHAT_TO_DO
    assert "describe_network_interfaces" in inspect.getsource(EC2Backend.do_resources_exist)


def test_moto_starts_without_images() -> None:
    assert SimBackend(seed=0).amis == {}, WHAT_TO_DO
    assert inspect.isfunction(getattr(EC2Backend, "_load_amis", None)), WHAT_TO_DO


def test_the_parts_of_moto_we_use_are_there() -> None:
    for owner, names in {
        Subnet: ("del_subnet_ip", "cidr_block", "availability_zone"),
        EC2Response: ("setup_class", "call_action", "error_on_dryrun", "get_current_account"),
        EC2Backend: ("get_subnet", "get_vpc", "get_default_security_group", "create_tags"),
    }.items():
        for name in names:
            assert hasattr(owner, name) or name == "cidr_block", f"{name}: {WHAT_TO_DO}"
    assert isinstance(ActionResult({"a": 1}).result, dict), WHAT_TO_DO


def test_every_type_has_the_limits_we_read() -> None:
    backend = SimBackend(seed=0)
    limits = [backend.limits_of(name) for name in INSTANCE_TYPES]
    assert max(one.addresses_per_interface for one in limits) == UNATTACHED_ADDRESS_LIMIT
    assert all(one.interfaces_per_card for one in limits), WHAT_TO_DO


@pytest.mark.parametrize(
    ("name", "enis", "addresses"),
    [("m5.large", (3,), 10), ("t3.medium", (3,), 6), ("p4d.24xlarge", (15, 15, 15, 15), 50)],
)
def test_known_types_have_their_known_limits(
    name: str, enis: tuple[int, ...], addresses: int
) -> None:
    limits = SimBackend(seed=0).limits_of(name)
    assert (limits.interfaces_per_card, limits.addresses_per_interface) == (enis, addresses)
