from __future__ import annotations

import pickle

import pytest

from ipamd.errors import (
    CloudError,
    Denied,
    LimitReached,
    NoPrefixFree,
    NotFound,
    SubnetExhausted,
    Throttled,
    Transient,
)
from providers.aws.errors import classify

VAGUE = "InvalidParameterValue"

ROWS = [
    ("RequestLimitExceeded", "", 503, Throttled),
    ("Throttling", "Rate exceeded", 400, Throttled),
    ("InsufficientFreeAddressesInSubnet", "", 400, SubnetExhausted),
    ("RequestThrottled", "", 503, Throttled),
    ("ThrottledException", "", 400, Throttled),
    ("SomethingNew", "", 429, Throttled),
    ("InsufficientCidrBlocks", "", 400, NoPrefixFree),
    (VAGUE, "There aren't sufficient free Ipv4 addresses or prefixes", 400, SubnetExhausted),
    (VAGUE, "Interface count 5 exceeds the limit for m5.large", 400, LimitReached),
    (VAGUE, "Instance i-1 already has an interface attached at device index 1", 400, LimitReached),
    ("SomethingNew", "There aren't sufficient free Ipv4 addresses", 400, CloudError),
    ("IdempotentParameterMismatch", "", 400, CloudError),
    ("OperationNotPermitted", "", 400, CloudError),
    ("InvalidIPAddress.InUse", "Address is in use.", 400, CloudError),
    ("NetworkInterfaceLimitExceeded", "", 400, LimitReached),
    ("Client.UnauthorizedOperation", "", 403, Denied),
    ("ExpiredToken", "", 400, Denied),
    ("InvalidSubnetID.NotFound", "", 400, NotFound),
    ("InvalidGroup.NotFound", "", 400, NotFound),
    ("InvalidAttachmentID.NotFound", "", 400, NotFound),
    ("IncorrectState", "", 400, Transient),
    ("InvalidNetworkInterface.InUse", "", 400, Transient),
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


@pytest.mark.parametrize(
    ("code", "message", "status", "kind"), ROWS, ids=[f"{r[0]}-{r[3].__name__}" for r in ROWS]
)
def test_a_code_is_classed_by_the_reaction_it_asks_for(
    code: str, message: str, status: int, kind: type[CloudError]
) -> None:
    assert classify(code, message, status) is kind


def test_a_cloud_error_keeps_its_facts_over_the_pipe() -> None:
    error = SubnetExhausted("full", operation="assign", code="X", subnet_id="subnet-1")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is SubnetExhausted
    assert (str(again), again.code, again.subnet_id) == ("full", "X", "subnet-1")
