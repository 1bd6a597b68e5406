"""The errors a CNI verb can answer with, and how ipamd's errors become them.

Pure. A `CniError` ends as one JSON document on stdout (CNI SPEC, "Error"); runtimes show
`msg; details` in the pod's events, so `details` is where a user reads what to do.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Mapping
from types import MappingProxyType

from ipam_api.v1 import ipam_pb2


def shown(text: str) -> str:
    """Text of others inside a message: bounded, and free of what JSON or a terminal minds."""
    return ascii(text[:250])


class CniErrorCode(enum.IntEnum):
    """Codes 1-99 are the CNI specification's, 8 is libcni's own, from 100 they are ours."""

    INCOMPATIBLE_VERSION = 1
    UNSUPPORTED_FIELD = 2  # the message must hold key and value
    UNKNOWN_CONTAINER = 3  # tells the runtime that no DEL is needed; never for a DEL
    INVALID_ENVIRONMENT = 4
    IO_FAILURE = 5
    UNDECODABLE_CONTENT = 6
    INVALID_NETWORK_CONFIG = 7
    INVALID_NETNS = 8
    TRY_AGAIN_LATER = 11
    PLUGIN_NOT_AVAILABLE = 50
    LIMITED_CONNECTIVITY = 51
    INTERFACE_SETUP = 102
    CHECK_MISMATCH = 103


class CniError(Exception):
    """A verb's failure, as the runtime will see it."""

    def __init__(self, code: CniErrorCode, msg: str, details: str = "") -> None:
        super().__init__(f"{msg}; {details}" if details else msg)
        self.code = code
        self.msg = msg
        self.details = details

    def to_json(self, cni_version: str) -> bytes:
        """The document for stdout, newline included. `cni_version` is the config's."""
        document: dict[str, object] = {
            "cniVersion": cni_version,
            "code": int(self.code),
            "msg": self.msg,
        }
        if self.details:
            document["details"] = self.details
        return json.dumps(document).encode() + b"\n"


# Everything that time, another try or a restart can cure is 11; the runtime then tries again.
# ATTACHMENT_CONFLICT is one of them: the old attachment is torn down first, and only if that
# fails does the runtime see it.
CODE_BY_REASON: Mapping[int, CniErrorCode] = MappingProxyType(
    {
        ipam_pb2.ErrorDetail.NO_ADDRESS: CniErrorCode.TRY_AGAIN_LATER,
        ipam_pb2.ErrorDetail.NOT_READY: CniErrorCode.TRY_AGAIN_LATER,
        ipam_pb2.ErrorDetail.ATTACHMENT_CONFLICT: CniErrorCode.TRY_AGAIN_LATER,
        ipam_pb2.ErrorDetail.ATTEMPT_REVOKED: CniErrorCode.TRY_AGAIN_LATER,
        ipam_pb2.ErrorDetail.STORE_FAILED: CniErrorCode.TRY_AGAIN_LATER,
        # Only CHECK lets this one through: for ADD and DEL an unknown key is no error.
        ipam_pb2.ErrorDetail.UNKNOWN_ATTACHMENT: CniErrorCode.CHECK_MISMATCH,
        ipam_pb2.ErrorDetail.BAD_REQUEST: CniErrorCode.INVALID_NETWORK_CONFIG,
    }
)

# For an error without a reason: the transport's own, or another server's. Keys are the names of
# door.Status. What is not here is 11.
CODE_BY_STATUS: Mapping[str, CniErrorCode] = MappingProxyType(
    {
        "UNAVAILABLE": CniErrorCode.TRY_AGAIN_LATER,
        "DEADLINE_EXCEEDED": CniErrorCode.TRY_AGAIN_LATER,
        "RESOURCE_EXHAUSTED": CniErrorCode.TRY_AGAIN_LATER,
        "INVALID_ARGUMENT": CniErrorCode.INVALID_NETWORK_CONFIG,
        "PERMISSION_DENIED": CniErrorCode.IO_FAILURE,
        "UNAUTHENTICATED": CniErrorCode.IO_FAILURE,
        "UNIMPLEMENTED": CniErrorCode.IO_FAILURE,  # another version's ipamd
    }
)

_MSG_BY_REASON: Mapping[int, str] = MappingProxyType(
    {
        ipam_pb2.ErrorDetail.NO_ADDRESS: "no free address on this node",
        ipam_pb2.ErrorDetail.NOT_READY: "ipamd is not ready yet",
        ipam_pb2.ErrorDetail.ATTACHMENT_CONFLICT: "the attachment is still in use by another netns",
        ipam_pb2.ErrorDetail.ATTEMPT_REVOKED: "a DEL overtook this ADD",
        ipam_pb2.ErrorDetail.STORE_FAILED: "ipamd could not record the change",
        ipam_pb2.ErrorDetail.UNKNOWN_ATTACHMENT: "ipamd holds no allocation for this attachment",
        ipam_pb2.ErrorDetail.BAD_REQUEST: "ipamd refused the request",
    }
)

_MSG_BY_STATUS: Mapping[str, str] = MappingProxyType(
    {
        "UNAVAILABLE": "ipamd is not reachable",
        "DEADLINE_EXCEEDED": "ipamd did not answer in time",
    }
)


def from_ipamd(
    status_name: str, message: str, detail: ipam_pb2.ErrorDetail | None = None
) -> CniError:
    """What a failed call of ipamd means to the runtime.

    `status_name` is the name of the door.Status, `message` its text, `detail` the decoded
    "ipam-error-bin", where there was one.
    """
    if detail is None or detail.reason not in CODE_BY_REASON:
        code = CODE_BY_STATUS.get(status_name, CniErrorCode.TRY_AGAIN_LATER)
        msg = _MSG_BY_STATUS.get(status_name, f"ipamd failed with {status_name}")
        return CniError(code, msg, message)
    return CniError(
        CODE_BY_REASON[detail.reason], _MSG_BY_REASON[detail.reason], _details(detail, message)
    )


def _details(detail: ipam_pb2.ErrorDetail, message: str) -> str:
    """The daemon's sentence, then what was exhausted and when to ask again, unless it says so."""
    text = detail.message or message
    facts = [
        f"{noun} {name}"
        for noun, name in (("subnet", detail.subnet_id), ("ENI", detail.eni_id))
        if name and name not in text
    ]
    if detail.retry_after_seconds > 0:
        facts.append(f"try again in {detail.retry_after_seconds:.0f} s")
    return "; ".join([text, *facts] if text else facts)
