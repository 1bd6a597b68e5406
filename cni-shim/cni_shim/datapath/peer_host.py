"""aws-node's chains on this host: found, and removed once ours do their work.

Called after a start, when the host's network stands and every ENI is ready, and by the way back,
which waits for them. Both marks and both SNATs may stand side by side: the mark is the same bit of
the connection, and the kernel asks no second nat chain for a connection that has its address. So
nothing is lost or changed twice while one goes and the other stays.

iptables keeps its rules in the kernel in one of two ways, and only its own program sees each: both
are asked, where the kernel has tables of that kind (asking would make the kernel have them).
"""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cni_shim.datapath import peer_chains
from cni_shim.datapath.errors import DatapathError
from cni_shim.datapath.peer_chains import NFT_TABLE, PeerRules

_TIMEOUT_SECONDS = 20.0
_LOCK_SECONDS = "10"  # iptables -w: kube-proxy holds the lock of iptables-legacy for a second or so
# The kernel's names of the legacy tables, in the namespace of the calling thread.
_NET = Path("/proc/thread-self/net")
_FAMILIES = (("iptables", "ip", "ip_tables_names"), ("ip6tables", "ip6", "ip6_tables_names"))
_TABLES = frozenset({"nat", "mangle"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """One of the kernel's places for iptables' rules: "iptables-legacy" or "ip6tables-nft" ..."""

    program: str
    parts: tuple[PeerRules, ...] = ()
    why_unseen: str = ""  # it has tables, and what is in one of them cannot be read


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerHost:
    """What is aws-node's on the host."""

    backends: tuple[Backend, ...]
    has_nft_table: bool

    @property
    def is_empty(self) -> bool:
        """Whether nothing was seen."""
        return not (self.has_nft_table or any(b.parts for b in self.backends))

    @property
    def has_snat(self) -> bool:
        """Whether it gives pods the node's address."""
        return any(part.has_snat for b in self.backends for part in b.parts)

    @property
    def unseen(self) -> tuple[str, ...]:
        """Sentences on tables that stand here and cannot be read."""
        return tuple(f"{b.program}: {b.why_unseen}" for b in self.backends if b.why_unseen)

    @property
    def sentences(self) -> tuple[str, ...]:
        """What was seen, in words."""
        said = [
            f"{b.program} {part.table}: {', '.join(part.chains) or 'no chain'}, "
            f"{len(part.rules)} rules"
            for b in self.backends
            for part in b.parts
        ]
        return (*said, f"nft table ip {NFT_TABLE}") if self.has_nft_table else tuple(said)


def look() -> PeerHost:
    """What is there. Changes nothing. Raises DatapathError where a program fails."""
    nft_tables = _nft_tables()
    return PeerHost(
        backends=tuple(_backends(nft_tables)),
        has_nft_table=f"table ip {NFT_TABLE}" in nft_tables,
    )


def remove(found: PeerHost) -> None:
    """Take it away; what went meanwhile is an error, and the next look sees the rest. Raises
    DatapathError."""
    for backend in found.backends:
        script = peer_chains.removal(backend.parts)
        if script:
            _run([f"{backend.program}-restore", "--noflush", "-w", _LOCK_SECONDS], script)
    if found.has_nft_table:
        table = f"table ip {NFT_TABLE}"
        # Declared first, so that its deletion cannot fail.
        _run(["nft", "-f", "-"], f"{table} {{ }}\ndelete {table}\n")


def _backends(nft_tables: Sequence[str]) -> Iterator[Backend]:
    for program, family, legacy_names in _FAMILIES:
        if _TABLES & set(_legacy_tables(legacy_names)):
            yield _backend(f"{program}-legacy")
        if {f"table {family} {name}" for name in _TABLES} & set(nft_tables):
            yield _backend(f"{program}-nft")


def _backend(program: str) -> Backend:
    try:
        saved = _run([f"{program}-save"])
    except DatapathError as e:
        if e.errno == errno.ENOENT:
            return Backend(program=program, why_unseen=f"{program}-save is not installed")
        if "Permission denied" in str(e):  # its raw socket; the others need none
            return Backend(program=program, why_unseen=f"{program}-save needs CAP_NET_RAW: {e}")
        raise
    return Backend(
        program=program,
        parts=peer_chains.found_in(saved),
        why_unseen="; ".join(peer_chains.unreadable(saved)),
    )


def _legacy_tables(file_name: str) -> list[str]:
    try:
        return (_NET / file_name).read_text().split()
    except FileNotFoundError:
        return []
    except OSError as e:
        raise DatapathError(f"read /proc/net/{file_name}", e.errno or errno.EIO) from e


def _nft_tables() -> list[str]:
    """No nft, no table that it could show."""
    try:
        return _run(["nft", "list", "tables"]).splitlines()
    except DatapathError as e:
        if e.errno == errno.ENOENT:
            return []
        raise


def _run(command: Sequence[str], script: str = "") -> str:
    try:
        done = subprocess.run(
            command,
            input=script,
            capture_output=True,
            text=True,
            check=False,
            timeout=_TIMEOUT_SECONDS,
            env={**os.environ, "LC_ALL": "C"},
        )
    except FileNotFoundError as e:
        raise DatapathError(f"run {command[0]}", errno.ENOENT, "it is not installed") from e
    except subprocess.TimeoutExpired as e:
        raise DatapathError(f"run {command[0]}", errno.ETIMEDOUT) from e
    except OSError as e:  # no process, no pipe
        raise DatapathError(f"run {command[0]}", e.errno or errno.EIO) from e
    if done.returncode != 0:
        first = done.stderr.strip().partition("\n")[0]
        raise DatapathError(f"run {' '.join(command)}", errno.EINVAL, first)
    return done.stdout
