"""vpc-cnid's door: the calls that it makes of the service, over a plain unix socket.

The messages are the gRPC service's; only the transport differs. One call at a time per connection,
numbers little endian:

    request   u32 length of the message, u8 method, the message
    answer    u32 length of the message, u8 status, the reply (an ErrorDetail unless status is 0)

WatchNode has an answer for each change, until one of the two ends the connection; an answer with
an error is the last. The status is the number of the gRPC status code. The end of a connection
cancels its call.

Why a second transport: a gRPC call between two idle processes wakes five threads and takes 1.8 ms;
this wakes two and takes 0.3-0.4 ms (medians of 80 calls, 25 and 60 ms apart). An ADD makes one such
call and a DEL makes one: with it an ADD went from 0.49 to 0.38 of ptp + host-local. And grpc is
10 MB of a process's memory.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Mapping

from google.protobuf.message import Message

from ipam_api.v1 import ipam_pb2 as pb

SOCKET_NAME = "ipamd-verbs.sock"
HEADER = struct.Struct("<IB")

VERB_LIMIT = 64 << 10
"""Bytes of a verb's request; the largest message of a verb is an Allocation of under 1 KiB."""

LIST_LIMIT = 16 << 20
"""Bytes of a report, and of any answer. A List of 5,000 attachments has 1.8 MB, 3.6 MB where each
has the longest names and two families; a report of them has half of that."""


class Status(enum.IntEnum):
    """The status codes of gRPC, by number and name (its doc/statuscodes.md)."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class Method(enum.IntEnum):
    """What is called."""

    ALLOCATE = 1
    RELEASE = 2
    GET = 3
    LIST = 4
    WATCH_NODE = 5
    REPORT_NODE = 6
    REPORT_FLUSHED = 7


REQUESTS: Mapping[Method, type[Message]] = {
    Method.ALLOCATE: pb.AllocateRequest,
    Method.RELEASE: pb.ReleaseRequest,
    Method.GET: pb.GetRequest,
    Method.LIST: pb.ListRequest,
    Method.WATCH_NODE: pb.WatchNodeRequest,
    Method.REPORT_NODE: pb.ReportNodeRequest,
    Method.REPORT_FLUSHED: pb.ReportFlushedRequest,
}
REPLIES: Mapping[Method, type[Message]] = {
    Method.ALLOCATE: pb.AllocateReply,
    Method.RELEASE: pb.ReleaseReply,
    Method.GET: pb.Allocation,
    Method.LIST: pb.ListReply,
    Method.WATCH_NODE: pb.NodeNetwork,
    Method.REPORT_NODE: pb.ReportNodeReply,
    Method.REPORT_FLUSHED: pb.ReportFlushedReply,
}
_LONG = (Method.REPORT_NODE, Method.REPORT_FLUSHED)


class DoorError(Exception):
    """Bytes that are no frame of this protocol."""


def pack(kind: int, message: Message) -> bytes:
    """A frame; `kind` is a method or a status."""
    body = message.SerializeToString()
    return HEADER.pack(len(body), kind) + body


def request_header(header: bytes) -> tuple[int, Method]:
    """(length of the message, method). Raises DoorError over the method's limit, and for none."""
    length, kind = HEADER.unpack(header)
    try:
        method = Method(kind)
    except ValueError:
        raise DoorError(f"there is no method {kind}") from None
    _require(length, LIST_LIMIT if method in _LONG else VERB_LIMIT)
    return length, method


def answer_header(header: bytes) -> tuple[int, Status]:
    """(length of the message, status). Raises DoorError over the limit."""
    length, number = HEADER.unpack(header)
    _require(length, LIST_LIMIT)
    try:
        return length, Status(number)
    except ValueError:
        return length, Status.UNKNOWN


def _require(length: int, limit: int) -> None:
    if length > limit:
        raise DoorError(f"a message of {length} bytes is over the limit of {limit}")
