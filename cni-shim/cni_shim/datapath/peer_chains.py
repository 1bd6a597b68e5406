"""Which chains and rules of a host are aws-node's, and how they are taken away. Pure.

aws-node's agent writes with iptables (amazon-vpc-cni-k8s, pkg/networkutils: network.go,
iptables_connmark.go, nftables_connmark.go):

- nat: chains AWS-SNAT-CHAIN-<n> from POSTROUTING and AWS-CONNMARK-CHAIN-<n> from PREROUTING, and
  in PREROUTING a rule with the comment "AWS, CONNMARK";
- mangle: rules in PREROUTING with the comment "AWS, primary ENI";
- on hosts whose iptables is that of nftables, in place of the connmark chain a table of its own.

All of it is known by name; what has another name is somebody else's.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass

NFT_TABLE = "aws-cni"  # of family ip
_CHAIN = re.compile(r"AWS-(?:SNAT|CONNMARK)-CHAIN-\d+")
_KERNELS = frozenset({"PREROUTING", "POSTROUTING"})
_COMMENTS = frozenset({"AWS, CONNMARK", "AWS, primary ENI"})
_TABLES = frozenset({"nat", "mangle"})


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerRules:
    """What is aws-node's in one table: its chains, and its rules in chains of the kernel's, as
    iptables-save writes them."""

    table: str
    chains: tuple[str, ...]
    rules: tuple[str, ...]

    @property
    def has_snat(self) -> bool:
        """Whether the pods' SNAT is here."""
        return any("AWS-SNAT-CHAIN-" in rule for rule in self.rules)


def found_in(saved: str) -> tuple[PeerRules, ...]:
    """aws-node's part of what iptables-save says, table by table."""
    return tuple(rules for table in _tables(saved) if (rules := _part(*table)) is not None)


def unreadable(saved: str) -> tuple[str, ...]:
    """What iptables-nft-save says of tables in which somebody wrote with nft what it cannot show;
    its exit status is 0 all the same."""
    lines = (line.removeprefix("# ") for line in saved.splitlines())
    return tuple(line for line in lines if line.startswith("Table ") and " is incompatible" in line)


def removal(found: tuple[PeerRules, ...]) -> str:
    """What iptables-restore --noflush is to be told; each table changes at one moment.

    First the rules that lead to the chains, then what stands in the chains, since one may lead to
    the next, then the chains.
    """
    lines: list[str] = []
    for part in found:
        lines.append(f"*{part.table}")
        lines += [f"-D{rule.removeprefix('-A')}" for rule in part.rules]
        lines += [f"-F {chain}" for chain in part.chains]
        lines += [f"-X {chain}" for chain in part.chains]
        lines.append("COMMIT")
    return "\n".join(lines) + "\n" if lines else ""


def _tables(saved: str) -> Iterator[tuple[str, list[str]]]:
    name, lines = "", list[str]()
    for line in saved.splitlines():
        if line.startswith("*"):
            name, lines = line[1:], []
        elif line == "COMMIT":
            yield name, lines
        else:
            lines.append(line)


def _part(table: str, lines: list[str]) -> PeerRules | None:
    if table not in _TABLES:
        return None
    declared = (line[1:].split()[0] for line in lines if line.startswith(":"))
    chains = tuple(chain for chain in declared if _CHAIN.fullmatch(chain))
    rules = tuple(line for line in lines if _is_peers(line))
    if not chains and not rules:
        return None
    return PeerRules(table=table, chains=chains, rules=rules)


def _is_peers(line: str) -> bool:
    """Whether a rule in a chain of the kernel's leads to a chain of aws-node's, or is one of those
    that it writes there itself."""
    try:
        words = shlex.split(line)
    except ValueError:  # not as aws-node quotes
        return False
    if len(words) < 2 or words[0] != "-A" or words[1] not in _KERNELS:
        return False
    target = _after("-j", words)
    is_mark = target == "CONNMARK" and _after("--comment", words) in _COMMENTS
    return is_mark or _CHAIN.fullmatch(target) is not None


def _after(option: str, words: list[str]) -> str:
    """The value of an option; "" without it."""
    return words[words.index(option) + 1] if option in words[:-1] else ""
