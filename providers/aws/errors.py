"""EC2's error codes by the reaction they ask for, as data.

Source: "Error codes for the Amazon EC2 API" (API reference). Some answers are told apart by their
text alone: CreateNetworkInterface reports a subnet with too few addresses as InvalidParameterValue
(amazon-vpc-cni-k8s issue 3105), while InsufficientCidrBlocks means fragmentation (AWS support, as
quoted in cilium pull request 31016).
"""

from __future__ import annotations

import re

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

BY_CODE: dict[str, type[CloudError]] = {
    "RequestLimitExceeded": Throttled,
    "Throttling": Throttled,
    "ThrottlingException": Throttled,
    "ThrottledException": Throttled,
    "RequestThrottled": Throttled,
    "RequestThrottledException": Throttled,
    "EC2ThrottledException": Throttled,
    "TooManyRequestsException": Throttled,
    "SlowDown": Throttled,
    "InsufficientFreeAddressesInSubnet": SubnetExhausted,
    "InsufficientCidrBlocks": NoPrefixFree,
    "PrivateIpAddressLimitExceeded": LimitReached,
    "AttachmentLimitExceeded": LimitReached,
    "NetworkInterfaceLimitExceeded": LimitReached,  # the account's quota of ENIs
    "UnauthorizedOperation": Denied,
    "AccessDenied": Denied,
    "AccessDeniedException": Denied,
    "AuthFailure": Denied,
    "InvalidClientTokenId": Denied,
    "SignatureDoesNotMatch": Denied,
    "UnrecognizedClientException": Denied,
    "OptInRequired": Denied,
    "Blocked": Denied,
    "PendingVerification": Denied,
    "ExpiredToken": Denied,
    "ExpiredTokenException": Denied,
    "RequestExpired": Denied,
    "InvalidNetworkInterfaceID.NotFound": NotFound,
    "InvalidNetworkInterfaceId.NotFound": NotFound,
    "InvalidAttachmentID.NotFound": NotFound,
    "InvalidInstanceID.NotFound": NotFound,
    "InvalidSubnetID.NotFound": NotFound,
    "InvalidGroup.NotFound": NotFound,
    "InvalidSecurityGroupID.NotFound": NotFound,
    "InvalidVpcID.NotFound": NotFound,
    "InternalError": Transient,
    "InternalFailure": Transient,
    "ServerInternal": Transient,
    "ServiceUnavailable": Transient,
    "Unavailable": Transient,
    "RequestTimeout": Transient,
    "RequestTimeoutException": Transient,
    "PriorRequestNotComplete": Transient,
    # Attach and detach race with each other's states; the next look shows where they ended.
    "IncorrectState": Transient,
    "IncorrectInstanceState": Transient,
    "InvalidNetworkInterface.InUse": Transient,
}

ADDRESS_TAKEN = "InvalidIPAddress.InUse"
"""A named address that somebody else holds."""

STILL_IN_USE = frozenset(
    {"InvalidParameterValue", "InvalidNetworkInterface.InUse", "IncorrectState"}
)
"""With a Transient of DeleteNetworkInterface: detaching has not ended."""

# In order; the first that is found in the text decides.
_BY_TEXT: tuple[tuple[re.Pattern[str], type[CloudError]], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE), kind)
    for pattern, kind in (
        (r"sufficient free ipv[46] addresses", SubnetExhausted),
        (r"(enough|sufficient) free addresses", SubnetExhausted),
        (r"(enough|sufficient) free cidr blocks", NoPrefixFree),
        # Our picture of the instance is stale:
        (r"already has an interface attached at device index", LimitReached),
        (r"interface count \d+ exceeds the limit", LimitReached),
        (r"number of private addresses will exceed limit", LimitReached),
        (r"currently in use", Transient),
    )
)

# The codes that EC2 gives to whatever has none of its own: only with them the text decides.
_VAGUE_CODES = frozenset({"InvalidParameterValue", "InvalidParameterCombination", "InvalidRequest"})


def classify(code: str, message: str, http_status: int) -> type[CloudError]:
    """The error class for one answer; plain CloudError where only a person can tell.

    Example: ("InvalidParameterValue", "There aren't sufficient free Ipv4 addresses or prefixes",
    400) -> SubnetExhausted.
    """
    code = code.removeprefix("Client.").removeprefix("Server.")  # as some tools and proxies say
    if code in BY_CODE:
        return BY_CODE[code]
    if code in _VAGUE_CODES:
        for pattern, kind in _BY_TEXT:
            if pattern.search(message):
                return kind
    if http_status == 429:
        return Throttled
    return Transient if http_status >= 500 else CloudError
