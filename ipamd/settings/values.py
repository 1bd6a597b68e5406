"""Texts of environment variables as values: each parser takes the text, or says what it must be.

A parser raises ValueError with a phrase that follows "must be".
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from ipaddress import IPv4Network
from pathlib import Path

Parser = Callable[[str], object]

WHOLE_MAX = 2**31

TRUE_WORDS = frozenset({"1", "t", "T", "TRUE", "true", "True"})
FALSE_WORDS = frozenset({"0", "f", "F", "FALSE", "false", "False"})
"""What Go's strconv.ParseBool takes; aws-node reads its switches with it."""

RESERVED_TAG_PART = "k8s.amazonaws.com"
"""Tag keys that contain this belong to the agent (aws-node drops them from ADDITIONAL_ENI_TAGS)."""

RESERVED_VETH_PREFIXES = frozenset({"eth", "lo", "vlan"})

Tags = tuple[tuple[str, str], ...]


def whole(low: int, high: int = WHOLE_MAX) -> Parser:
    """A whole number in decimal digits, as Go's strconv.Atoi reads it."""

    def parse(text: str) -> object:
        if not re.fullmatch(r"[+-]?[0-9]+", text) or not low <= int(text) <= high:
            raise ValueError(f"a whole number from {low} to {high}")
        return int(text)

    return parse


def flag(text: str) -> object:
    """True or false, in the words that aws-node takes."""
    if text in TRUE_WORDS:
        return True
    if text in FALSE_WORDS:
        return False
    raise ValueError("true or false (or 1, t, T, TRUE, True, 0, f, F, FALSE, False)")


def one_of(*words: str) -> Parser:
    """One of some words, in any case."""

    def parse(text: str) -> object:
        if text.strip().lower() not in words:
            raise ValueError("one of " + ", ".join(words))
        return text.strip().lower()

    return parse


def optional(parse: Parser) -> Parser:
    """What `parse` takes, or nothing."""

    def parse_any(text: str) -> object:
        return parse(text) if text else ""

    return parse_any


def usable_cidrs(text: str) -> tuple[str, tuple[str, ...]]:
    """The IPv4 networks of a list with commas between, and the words that are none.

    Host bits are cut off and doubles left out, as aws-node does: "10.0.0.1/8, x" -> "10.0.0.0/8"
    and ("x",).
    """
    found: dict[str, None] = {}
    dropped: list[str] = []
    for word in filter(None, (part.strip() for part in text.split(","))):
        try:
            found[str(IPv4Network(word, strict=False))] = None
        except ValueError:
            dropped.append(word)
    return ",".join(found), tuple(dropped)


def mark(text: str) -> object:
    """A packet mark: one to 32 bits, decimal, or with 0x, 0o or 0b in front."""
    try:
        value = int(text, 0)
    except ValueError:
        value = 0
    if not 0 < value < 2**32:
        raise ValueError("a number from 1 to 0xffffffff")
    return hex(value)


def stripped(text: str) -> object:
    """Any text, without blanks around it."""
    return text.strip()


def object_name(text: str) -> object:
    """The name of a cluster-scoped Kubernetes object (a DNS subdomain, RFC 1123)."""
    if len(text) > 253 or not re.fullmatch(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?", text):
        raise ValueError("a name in small letters, digits, dots and dashes")
    return text


def origin(scheme: str) -> Parser:
    """Where something answers by this scheme alone, without a path."""

    def parse(text: str) -> object:
        if not re.fullmatch(rf"{scheme}://[0-9A-Za-z.-]+(:[0-9]{{1,5}})?/?", text):
            raise ValueError(f"{scheme}:// and a host, perhaps with a port")
        return text.rstrip("/")

    return parse


def api_version(text: str) -> object:
    """A version of one of ARM's APIs: a date, perhaps of a preview."""
    if not re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}(-preview)?", text):
        raise ValueError("a date such as 2018-10-01")
    return text


def absolute_path(text: str) -> object:
    """An absolute path; None where the text is empty."""
    if not text:
        return None
    if not text.startswith("/") or "\0" in text:
        raise ValueError("an absolute path")
    return Path(text)


def listen_address(text: str) -> object:
    """Where an HTTP server listens; empty: nowhere."""
    if text.startswith("unix:/") or not text:
        return text
    host, _, port = text.rpartition(":")
    if not re.fullmatch(r"[0-9A-Za-z.\[\]:-]+", host) or not re.fullmatch(r"[0-9]{1,5}", port):
        raise ValueError("host:port or unix:/path")
    if int(port) > 65535:
        raise ValueError("host:port with a port up to 65535")
    return text


def tags(text: str) -> object:
    """A JSON object of texts, as pairs in the order of its keys; of a doubled key the last counts.

    Reserved keys are still among them: see `allowed_tags`.
    """
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict) or not all(isinstance(v, str) for v in found.values()):
        raise ValueError('a JSON object of texts, such as {"team": "blue"}')
    return tuple(sorted(found.items()))


def allowed_tags(pairs: Tags) -> tuple[Tags, tuple[str, ...]]:
    """The pairs that may be used, and the keys that may not."""
    dropped = tuple(key for key, _ in pairs if RESERVED_TAG_PART in key)
    return tuple(pair for pair in pairs if pair[0] not in dropped), dropped


def veth_prefix(text: str) -> object:
    """The first letters of a host veth's name: with 11 more it must fit in the kernel's 15."""
    if not 1 <= len(text) <= 4 or text in RESERVED_VETH_PREFIXES:
        raise ValueError("1 to 4 characters and none of eth, lo, vlan")
    return text


def without_password(text: str) -> str:
    """The text with the user part of any URL in it left out."""
    return re.sub(r"//[^/@\s]*@", "//***@", text)


def shown(value: object) -> str:
    """A parsed value as it would be written in the environment, fit to be seen."""
    match value:
        case bool():
            return "true" if value else "false"
        case None:
            return ""
        case tuple():
            return json.dumps(dict(value), sort_keys=True)
        case _:
            return without_password(str(value))
