from __future__ import annotations

import pickle

import pytest

from ipamd.errors import (
    CloudError,
    Denied,
    LimitReached,
    NotFound,
    SubnetExhausted,
    Throttled,
    Transient,
)
from providers.aws.errors import classify
from providers.aws.provider import is_managed, token_unix

ROWS = [
    ("RequestLimitExceeded", "", 503, Throttled),
    ("Throttling", "Rate exceeded", 400, Throttled),
    ("InsufficientFreeAddressesInSubnet", "", 400, SubnetExhausted),
    ("InsufficientCidrBlocks", "", 400, SubnetExhausted),
    (
        "InvalidParameterValue",
        "There aren't sufficient free Ipv4 addresses or prefixes",
        400,
        SubnetExhausted,
    ),
    ("InvalidParameterValue", "Network interface 'eni-1' is currently in use.", 400, Transient),
    ("InvalidParameterValue", "device index 1 is taken", 400, CloudError),
    ("PrivateIpAddressLimitExceeded", "", 400, LimitReached),
    ("AttachmentLimitExceeded", "", 400, LimitReached),
    ("UnauthorizedOperation", "", 403, Denied),
    ("AuthFailure", "", 401, Denied),
    ("InvalidNetworkInterfaceID.NotFound", "", 400, NotFound),
    ("InternalError", "", 500, Transient),
    ("SomethingNew", "", 503, Transient),
    ("SomethingNew", "", 400, CloudError),
]


@pytest.mark.parametrize(("code", "message", "status", "kind"), ROWS, ids=[r[0] for r in ROWS])
def test_a_code_is_classed_by_the_reaction_it_asks_for(
    code: str, message: str, status: int, kind: type[CloudError]
) -> None:
    assert classify(code, message, status) is kind


def test_a_cloud_error_keeps_its_facts_over_the_pipe() -> None:
    error = SubnetExhausted("full", operation="assign", code="X", subnet_id="subnet-1")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is SubnetExhausted
    assert (str(again), again.code, again.subnet_id) == ("full", "X", "subnet-1")


@pytest.mark.parametrize(
    ("tags", "kind", "is_primary", "expected"),
    [
        ({}, "interface", False, True),
        ({"node.k8s.amazonaws.com/no_manage": "true"}, "interface", False, False),
        ({"node.k8s.amazonaws.com/no_manage": "true"}, "interface", True, True),
        ({"node.k8s.amazonaws.com/no_manage": "false"}, "interface", False, True),
        ({"node.k8s.amazonaws.com/instance_id": "i-1"}, "interface", False, True),
        ({"node.k8s.amazonaws.com/instance_id": "i-2"}, "interface", False, False),
        ({"node.k8s.amazonaws.com/instance_id": "i-1"}, "trunk", False, False),
        ({}, "efa-only", False, False),
    ],
)
def test_which_enis_are_ours(
    tags: dict[str, str], kind: str, is_primary: bool, expected: bool
) -> None:
    managed = is_managed(tags, interface_type=kind, is_primary=is_primary, instance_id="i-1")
    assert managed is expected


def test_the_creation_time_is_in_the_token() -> None:
    assert token_unix("5f5e100-abc") == 100_000_000.0
    assert token_unix("nonsense") == 0.0
