"""EC2's error codes by the reaction they ask for, as data.

Source: "Error codes for the Amazon EC2 API" (API reference), and for the message rule below
amazon-vpc-cni-k8s issue 3105: CreateNetworkInterface reports a full subnet as
InvalidParameterValue with a text about sufficient free addresses.
"""

from __future__ import annotations

import re

from ipamd.errors import (
    CloudError,
    Denied,
    LimitReached,
    NotFound,
    SubnetExhausted,
    Throttled,
    Transient,
)

BY_CODE: dict[str, type[CloudError]] = {
    "RequestLimitExceeded": Throttled,
    "Throttling": Throttled,
    "ThrottlingException": Throttled,
    "EC2ThrottledException": Throttled,
    "InsufficientFreeAddressesInSubnet": SubnetExhausted,
    "InsufficientCidrBlocks": SubnetExhausted,
    "PrivateIpAddressLimitExceeded": LimitReached,
    "AttachmentLimitExceeded": LimitReached,
    "NetworkInterfaceLimitExceeded": LimitReached,
    "UnauthorizedOperation": Denied,
    "AccessDenied": Denied,
    "AuthFailure": Denied,
    "InvalidClientTokenId": Denied,
    "ExpiredToken": Denied,
    "RequestExpired": Denied,
    "InvalidNetworkInterfaceID.NotFound": NotFound,
    "InvalidAttachmentID.NotFound": NotFound,
    "InvalidInstanceID.NotFound": NotFound,
    "InvalidSubnetID.NotFound": NotFound,
    "InvalidGroup.NotFound": NotFound,
    "InternalError": Transient,
    "InternalFailure": Transient,
    "ServerInternal": Transient,
    "ServiceUnavailable": Transient,
    "Unavailable": Transient,
    # Attach and detach race with each other's states; the next look shows where they ended.
    "IncorrectState": Transient,
    "InvalidNetworkInterface.InUse": Transient,
}

_CAPACITY_TEXT = re.compile(r"sufficient free ipv4 addresses", re.IGNORECASE)
_BUSY_TEXT = re.compile(r"currently in use", re.IGNORECASE)
_INDEX_TEXT = re.compile(r"already has an interface attached at device index", re.IGNORECASE)


def classify(code: str, message: str, http_status: int) -> type[CloudError]:
    """The error class for one answer; plain CloudError where only a person can tell.

    Example: ("InvalidParameterValue", "There aren't sufficient free Ipv4 addresses or prefixes",
    400) -> SubnetExhausted.
    """
    if code in BY_CODE:
        return BY_CODE[code]
    if _CAPACITY_TEXT.search(message):
        return SubnetExhausted
    if _INDEX_TEXT.search(message):
        return LimitReached  # our picture of the instance is stale
    if code == "InvalidParameterValue" and _BUSY_TEXT.search(message):
        return Transient
    return Transient if http_status >= 500 else CloudError
