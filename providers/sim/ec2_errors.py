"""EC2's refusals: the code, the text and the HTTP status that a client sees.

Codes from the EC2 API Reference, "Error codes for the Amazon EC2 API", unless docs/emulated-ec2.md
marks the row otherwise. The texts are EC2's where an issue thread quotes them.
"""

from __future__ import annotations

import uuid
from xml.sax.saxutils import escape

# What is not 400 (Errors, "Client error codes" and "Server error codes").
_STATUSES = {
    "AuthFailure": 401,
    "DryRunOperation": 412,
    "InternalError": 500,
    "InternalFailure": 500,
    "RequestLimitExceeded": 503,
    "ServiceUnavailable": 503,
    "Unavailable": 503,
    "UnauthorizedOperation": 403,
}


def status_of(code: str) -> int:
    """The HTTP status that goes with an error code."""
    return _STATUSES.get(code, 400)


class Ec2Error(Exception):
    """An API call that EC2 refuses. Nothing has changed when it is raised."""

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.status = status

    def xml(self) -> str:
        """The body of the answer, in the shape of the EC2 query API."""
        return (
            '<?xml version="1.0" encoding="UTF-8"?>\n<Response><Errors><Error>'
            f"<Code>{escape(self.code)}</Code><Message>{escape(self.message)}</Message>"
            f"</Error></Errors><RequestID>{uuid.uuid4()}</RequestID></Response>"
        )


def invalid(message: str) -> Ec2Error:
    """InvalidParameterValue, EC2's most used code."""
    return Ec2Error("InvalidParameterValue", message)


def combination(message: str) -> Ec2Error:
    """InvalidParameterCombination."""
    return Ec2Error("InvalidParameterCombination", message)


def missing(parameter: str) -> Ec2Error:
    """MissingParameter."""
    return Ec2Error("MissingParameter", f"The request must contain the parameter {parameter}")


def unsupported(what: str) -> Ec2Error:
    """What EC2 has and the emulator has not: said aloud, never ignored."""
    return Ec2Error("UnsupportedOperation", f"The emulated EC2 does not support {what}.")


def no_interface(eni_id: str) -> Ec2Error:
    """InvalidNetworkInterfaceID.NotFound."""
    return Ec2Error(
        "InvalidNetworkInterfaceID.NotFound", f"The networkInterface ID '{eni_id}' does not exist"
    )


def no_instance(instance_id: str) -> Ec2Error:
    """InvalidInstanceID.NotFound."""
    return Ec2Error("InvalidInstanceID.NotFound", f"The instance ID '{instance_id}' does not exist")


def no_attachment(attachment_id: str) -> Ec2Error:
    """InvalidAttachmentID.NotFound."""
    return Ec2Error(
        "InvalidAttachmentID.NotFound", f"The attachment '{attachment_id}' does not exist."
    )


def subnet_full(subnet_id: str) -> Ec2Error:
    """InsufficientFreeAddressesInSubnet."""
    return Ec2Error(
        "InsufficientFreeAddressesInSubnet",
        f"The subnet {subnet_id} has not enough free addresses to satisfy the request.",
    )


def capacity_short() -> Ec2Error:
    """What EC2 says of prefixes when the subnet has too few addresses left: no code of its own.

    amazon-vpc-cni-k8s #3105; cilium/cilium #31016 quotes AWS on when it comes.
    """
    return invalid("There aren't sufficient free Ipv4 addresses or prefixes")


def no_free_block() -> Ec2Error:
    """InsufficientCidrBlocks: enough addresses are free, but none in a whole aligned block."""
    return Ec2Error(
        "InsufficientCidrBlocks",
        "The specified subnet does not have enough free cidr blocks to satisfy the request.",
    )


def no_subnet_cidr_v6(subnet_id: str) -> Ec2Error:
    """A wish for IPv6 in a subnet that has none; the code is from memory."""
    return invalid(f"The subnet '{subnet_id}' has no IPv6 CIDR block associated with it.")


def no_prefixes_on(instance_type: str) -> Ec2Error:
    """A prefix on an instance that is not built on Nitro; the code is from memory."""
    return combination(f"Prefixes are not supported for the instance type '{instance_type}'.")


def address_limit() -> Ec2Error:
    """PrivateIpAddressLimitExceeded, with the text that clients have matched on."""
    return Ec2Error(
        "PrivateIpAddressLimitExceeded", "Number of private addresses will exceed limit."
    )


def throttled() -> Ec2Error:
    """RequestLimitExceeded; EC2 answers it with 503."""
    return Ec2Error("RequestLimitExceeded", "Request limit exceeded.", 503)
