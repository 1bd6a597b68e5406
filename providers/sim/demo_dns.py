"""One DNS question as a pod asks it: messages of RFC 1035 as bytes and back, by UDP."""

from __future__ import annotations

import socket
import struct
from ipaddress import IPv4Address

_HEADER = struct.Struct(">HHHHHH")
_QUESTION_END = struct.Struct(">HH")
_RECORD_HEAD = struct.Struct(">HHHIH")  # name as a pointer, type, class, TTL, length
_TYPE_A, _CLASS_IN, _RECURSION_DESIRED = 1, 1, 0x0100
_IDENTITY = 0x7067  # any number; one question, one socket
_PORT = 53
_LARGEST = 512  # RFC 1035, 2.3.4
_TRIES, _SECONDS = 2, 1.0


def resolve(name: str, server: str) -> IPv4Address:
    """Ask the server for the address of a name. OSError where nobody answers, ValueError where the
    answer has none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.settimeout(_SECONDS)
        asking.connect((server, _PORT))
        for number in range(_TRIES):
            asking.send(question(name))
            try:
                return address_in(asking.recv(_LARGEST), name)
            except TimeoutError:
                if number == _TRIES - 1:
                    raise
    raise AssertionError("the last try returns or raises")


def question(name: str) -> bytes:
    """The message that asks for the IPv4 address of a name."""
    labels = b"".join(bytes((len(one),)) + one.encode("ascii") for one in name.split("."))
    head = _HEADER.pack(_IDENTITY, _RECURSION_DESIRED, 1, 0, 0, 0)
    return head + labels + b"\0" + _QUESTION_END.pack(_TYPE_A, _CLASS_IN)


def address_in(answer: bytes, name: str) -> IPv4Address:
    """The address in an answer to `question(name)`; ValueError where there is none."""
    if len(answer) < _HEADER.size:
        raise ValueError(f"the answer for {name} has {len(answer)} bytes")
    identity, flags, _, answers, _, _ = _HEADER.unpack_from(answer)
    record = len(question(name))
    if identity != _IDENTITY or flags & 0xF or answers < 1:
        raise ValueError(f"{name} is not known: code {flags & 0xF}, {answers} answers")
    start = record + _RECORD_HEAD.size
    if len(answer) < start + 4:
        raise ValueError(f"the answer for {name} is cut short: {len(answer)} bytes")
    _, kind, _, _, length = _RECORD_HEAD.unpack_from(answer, record)
    if (kind, length) != (_TYPE_A, 4):
        raise ValueError(f"{name} has a record of type {kind} and {length} bytes")
    return IPv4Address(answer[start : start + 4])
