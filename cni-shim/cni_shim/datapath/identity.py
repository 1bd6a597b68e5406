"""Whose a host veth is, written on the link itself (IFLA_IFALIAS). Pure.

The alias survives every restart of ours and can be read by anybody with `ip link`. Form:

    vpc-ipamd/1/<netns cookie, hex>/<ifname>/<container id>/<network>/<pod namespace>/<pod name>

"/" cannot occur in an interface name (kernel, dev_valid_name) nor in the other fields' alphabets
(CNI SPEC for ids and network names, RFC 1123 for pods). A field outside its alphabet, or one for
which there is no room, is written as "~" and 32 hex digits of its SHA-256.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

# IFALIASZ is 256 with the closing zero (linux/if.h).
MAX_ALIAS_BYTES = 255
ALIAS_START = "vpc-ipamd/1/"
_HASH_MARK = "~"
_PLAIN = re.compile(r"[A-Za-z0-9_.@:-]*", re.ASCII)
_FIELDS = 6
# Which field gives way first when the whole does not fit; the container id is part of the key and
# goes last. Positions in the tuple of fields after the cookie.
_SHORTENING_ORDER = (4, 3, 2, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """The attachment a host veth belongs to. Fields that were hashed start with "~"."""

    container_id: str
    ifname: str
    network_name: str
    netns_cookie: int
    pod_namespace: str
    pod_name: str

    @property
    def is_hashed(self) -> bool:
        """Whether the key itself was hashed, so that nobody can be asked for it."""
        return self.container_id.startswith(_HASH_MARK) or self.ifname.startswith(_HASH_MARK)

    def is_of(self, container_id: str, ifname: str) -> bool:
        """Whether this names the attachment of that key, be it written out or hashed."""
        return self.ifname in {ifname, _hashed(ifname)} and self.container_id in {
            container_id,
            _hashed(container_id),
        }


def encode_alias(identity: Identity) -> str:
    """The alias of a link, at most 255 bytes of ASCII."""
    fields = [
        _plain_or_hashed(field)
        for field in (
            identity.ifname,
            identity.container_id,
            identity.network_name,
            identity.pod_namespace,
            identity.pod_name,
        )
    ]
    for position in _SHORTENING_ORDER:
        alias = f"{ALIAS_START}{identity.netns_cookie:x}/{'/'.join(fields)}"
        if len(alias) <= MAX_ALIAS_BYTES:
            return alias
        fields[position] = _shortest(fields[position])
    return f"{ALIAS_START}{identity.netns_cookie:x}/{'/'.join(fields)}"


def decode_alias(alias: str) -> Identity | None:
    """The identity in an alias; None where the alias is not ours."""
    if not alias.startswith(ALIAS_START):
        return None
    parts = alias.removeprefix(ALIAS_START).split("/")
    if len(parts) != _FIELDS:
        return None
    try:
        cookie = int(parts[0], 16)
    except ValueError:
        return None
    return Identity(
        netns_cookie=cookie,
        ifname=parts[1],
        container_id=parts[2],
        network_name=parts[3],
        pod_namespace=parts[4],
        pod_name=parts[5],
    )


def _plain_or_hashed(field: str) -> str:
    return field if _PLAIN.fullmatch(field) else _hashed(field)


def _shortest(field: str) -> str:
    hashed = _hashed(field)
    return field if field.startswith(_HASH_MARK) or len(field) <= len(hashed) else hashed


def _hashed(field: str) -> str:
    return _HASH_MARK + hashlib.sha256(field.encode(errors="surrogatepass")).hexdigest()[:32]
