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
from collections.abc import Iterator
from dataclasses import dataclass

NFT_TABLE = "aws-cni"  # of family ip
_CHAIN = r"AWS-(?:SNAT|CONNMARK)-CHAIN-\d+"
_DECLARED = re.compile(rf":({_CHAIN}) ")
_JUMP = re.compile(rf"-A (?:PREROUTING|POSTROUTING) .*-j {_CHAIN}\b")
_MARKS = re.compile(r'-A PREROUTING .*--comment "AWS, (?:CONNMARK|primary ENI)" .*-j CONNMARK\b')
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
    chains = tuple(match[1] for line in lines if (match := _DECLARED.match(line)))
    rules = tuple(line for line in lines if _JUMP.match(line) or _MARKS.match(line))
    if not chains and not rules:
        return None
    return PeerRules(table=table, chains=chains, rules=rules)
