"""Messages that nobody would send: protobufs with one field bent, and bytes that are nearly one."""

from __future__ import annotations

import random
import struct
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

F = FieldDescriptor
STRINGS = (
    "", " ", "x", "\x00", "a\nb", "é" * 300, "../..", "eth0", "10.0.0.5", "10.0.0.5/32", "::",
    "fe80::1%eth0", "999.1.1.1", "primary", "eni-elsewhere", "0123456789abcdef", "'; --", "%s{}",
    "a" * 253, "a" * 70_000, "\U0010ffff", "c1", "nan", "-1",
)  # fmt: skip
FLOATS = (0.0, -1.0, 1e308, -1e308, 5e-324, float("nan"), float("inf"), float("-inf"), 0.001)
INTEGERS = (0, 1, 2, 7, 255, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1, -1, -(2**31))
_LIMITS = {
    F.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    F.CPPTYPE_ENUM: (-(2**31), 2**31 - 1),
    F.CPPTYPE_UINT32: (0, 2**32 - 1),
    F.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    F.CPPTYPE_UINT64: (0, 2**64 - 1),
}
MANY = (1, 3, 300)


def bend(message: Message, chance: random.Random) -> None:
    """Give one field, at any depth, a value of its type that nobody would give it."""
    fields: Any = message.DESCRIPTOR.fields
    if not fields:
        return
    field = chance.choice(fields)
    if chance.random() < 0.1:
        message.ClearField(field.name)
    elif field.is_repeated:
        _bend_repeated(getattr(message, field.name), field, chance)
    elif field.cpp_type == F.CPPTYPE_MESSAGE:
        inner = getattr(message, field.name)
        inner.SetInParent()
        bend(inner, chance)
    else:
        setattr(message, field.name, _odd(field, chance))


def _bend_repeated(items: Any, field: FieldDescriptor, chance: random.Random) -> None:
    if field.cpp_type != F.CPPTYPE_MESSAGE:
        items.extend(_odd(field, chance) for _ in range(chance.choice(MANY)))
    elif items and chance.random() < 0.5:
        bend(chance.choice(items), chance)
    else:
        made = items.add()
        bend(made, chance)
        items.extend([made] * chance.choice(MANY))


def _odd(field: FieldDescriptor, chance: random.Random) -> Any:
    match field.cpp_type:
        case F.CPPTYPE_STRING:
            return chance.choice(STRINGS)
        case F.CPPTYPE_BOOL:
            return chance.random() < 0.5
        case F.CPPTYPE_DOUBLE | F.CPPTYPE_FLOAT:
            return chance.choice(FLOATS)
    low, high = _LIMITS[field.cpp_type]
    return chance.choice([number for number in INTEGERS if low <= number <= high])


def bend_bytes(data: bytes, chance: random.Random) -> bytes:
    """The bytes cut, flipped, spliced, or with a field more that may be of any number and type."""
    place = chance.randrange(len(data) + 1)
    match chance.randrange(6):
        case 0:
            return data[:place]
        case 1:
            return data[:place] + bytes([chance.randrange(256)]) + data[place + 1 :]
        case 2:
            return data[:place] + chance.randbytes(chance.randrange(9)) + data[place:]
        case 3:
            return data + data[place:]
        case _:
            return data + odd_field(chance)


def odd_field(chance: random.Random) -> bytes:
    """A field as it is sent: unknown, of another type, no UTF-8, or longer than it is."""
    number, wire_type = chance.choice((1, 2, 3, 4, 8, 15, 99, 536870911)), chance.randrange(8)
    tag = _varint(number << 3 | wire_type)
    match wire_type:
        case 0:
            return tag + _varint(chance.choice((0, 1, 2**63, 2**64 - 1)))
        case 1:
            return tag + struct.pack("<d", chance.choice(FLOATS))
        case 2:
            text = chance.choice((b"", b"\xff\xfe", b"\xed\xa0\x80", b"a" * 9, b"\x0a\x02\xff\xff"))
            return tag + _varint(len(text) + chance.choice((0, 0, 0, 1, 2**31))) + text
        case 3:  # groups, which proto3 has not, as deep as no parser should follow
            return tag * chance.choice((1, 5, 500))
    return tag + chance.randbytes(4)


def _varint(number: int) -> bytes:
    made = bytearray()
    while number > 0x7F:
        made.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*made, number])
