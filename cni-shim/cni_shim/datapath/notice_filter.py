"""Which rtnetlink notices reach us, decided by the kernel: a classic BPF program. Pure.

Without it the listener would be woken for every pod's coming and going, in the middle of that
pod's own ADD (one Python interpreter lock), and would take our own doing for damage. Dropped are:

- links that appear or change and are host veths of ours;
- whatever a socket of ours asked for, by its port (`messages` of the kernel carry it on);
- routes that the kernel took away itself, since their link went: the link's notice says so;
- routes of others in main and local, where other agents write one for each of their pods;
- rules that appear.

Loads are big-endian, netlink is not: numbers are compared as the bytes that they are.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from cni_shim.datapath import messages, names

# linux/filter.h: opcodes, and the extension that looks an attribute up (A: start, X: type).
_LOAD_WORD, _LOAD_HALF, _LOAD_BYTE, _LOAD_HALF_X = 0x20, 0x28, 0x30, 0x48
_SET_A, _SET_X, _A_TO_X, _JUMP_EQUAL, _RETURN = 0x00, 0x01, 0x07, 0x15, 0x06
_FIND_ATTRIBUTE = 0xFFFFF000 + 12
_ACCEPT, _DROP = 0xFFFFFFFF, 0
_INSTRUCTION = struct.Struct("=HBBI")

_TYPE_AT, _PORT_AT = 4, 12  # in struct nlmsghdr
_TABLE_AT, _PROTOCOL_AT = messages.HEADER.size + 4, messages.HEADER.size + 5  # in struct rtmsg
_MAIN, _LOCAL = names.MAIN_TABLE, messages.RT_TABLE_LOCAL


@dataclass(frozen=True, slots=True, kw_only=True)
class _Step:
    """An instruction; a jump goes to the label `then` where A equals k, else to `otherwise`, and
    without a label to the next instruction."""

    code: int
    k: int
    label: str = ""
    then: str = ""
    otherwise: str = ""


def program() -> bytes:
    """The instructions, as SO_ATTACH_FILTER takes them."""
    steps = _STEPS
    at = {step.label: number for number, step in enumerate(steps) if step.label}
    return b"".join(
        _INSTRUCTION.pack(
            step.code,
            at[step.then] - number - 1 if step.then else 0,
            at[step.otherwise] - number - 1 if step.otherwise else 0,
            step.k,
        )
        for number, step in enumerate(steps)
    )


def _kind(number: int) -> int:
    return int.from_bytes(struct.pack("=H", number), "big")


def _upper_half(number: int) -> tuple[int, int]:
    """Where in four bytes the upper half of a number stands, and what is loaded from there."""
    half = struct.pack("=H", number >> 16)
    return struct.pack("=I", number).index(half), int.from_bytes(half, "big")


_OWNER_AT, _OWNER = _upper_half(names.GROUP_BASE)
_OUR_PORT_AT, _OUR_PORT = _upper_half(names.PORT_BASE)

_STEPS = (
    _Step(code=_LOAD_HALF, k=_TYPE_AT),
    _Step(code=_JUMP_EQUAL, k=_kind(messages.RTM_NEWLINK), then="link"),
    _Step(code=_JUMP_EQUAL, k=_kind(messages.RTM_NEWRULE), then="drop"),
    _Step(code=_JUMP_EQUAL, k=_kind(messages.RTM_DELRULE), then="asked"),
    _Step(code=_JUMP_EQUAL, k=_kind(messages.RTM_NEWADDR), then="asked"),
    _Step(code=_JUMP_EQUAL, k=_kind(messages.RTM_DELADDR), then="asked"),
    _Step(code=_JUMP_EQUAL, k=_kind(messages.RTM_NEWROUTE), then="route"),
    _Step(code=_JUMP_EQUAL, k=_kind(messages.RTM_DELROUTE), then="route", otherwise="accept"),
    _Step(label="route", code=_LOAD_WORD, k=_PORT_AT),
    _Step(code=_JUMP_EQUAL, k=0, then="drop"),
    _Step(code=_LOAD_BYTE, k=_PROTOCOL_AT),
    _Step(code=_JUMP_EQUAL, k=names.PROTOCOL, then="asked"),
    _Step(code=_LOAD_BYTE, k=_TABLE_AT),
    _Step(code=_JUMP_EQUAL, k=_MAIN, then="drop"),
    _Step(code=_JUMP_EQUAL, k=_LOCAL, then="drop"),
    _Step(label="asked", code=_LOAD_HALF, k=_PORT_AT + _OUR_PORT_AT),
    _Step(code=_JUMP_EQUAL, k=_OUR_PORT, then="drop", otherwise="accept"),
    _Step(label="link", code=_SET_X, k=messages.IFLA_GROUP),
    _Step(code=_SET_A, k=messages.HEADER.size + messages.IFINFO.size),
    _Step(code=_LOAD_WORD, k=_FIND_ATTRIBUTE),
    _Step(code=_JUMP_EQUAL, k=0, then="accept"),
    _Step(code=_A_TO_X, k=0),
    _Step(code=_LOAD_HALF_X, k=4 + _OWNER_AT),
    _Step(code=_JUMP_EQUAL, k=_OWNER, then="drop"),
    _Step(label="accept", code=_RETURN, k=_ACCEPT),
    _Step(label="drop", code=_RETURN, k=_DROP),
)
