"""A pool whose cloud answers at once: what plans lead to when they are carried out to the end.

Only counts, no ledger: pods fill the fullest ENI and prefix first as `choice.choose` does.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network

from ipamd.model import EniId, IPNetwork
from ipamd.pool.plan import (
    Action,
    AssignAddresses,
    CreateEni,
    DeleteEni,
    EniView,
    PrefixView,
    UnassignAddresses,
    View,
    plan,
)
from ipamd.pool.targets import Counts, Targets
from tests import views


@dataclass(slots=True)
class EniModel:
    """Counts of one ENI: single addresses, and allocated addresses per prefix."""

    index: int
    allocated: int = 0
    idle: int = 0
    prefixes: dict[IPNetwork, int] = field(default_factory=dict)

    @property
    def pods(self) -> int:
        return self.allocated + sum(self.prefixes.values())

    @property
    def addresses(self) -> int:
        return self.allocated + self.idle + 16 * len(self.prefixes)


class PoolModel:
    """One node. `slots` are per ENI; ENI 0 is the primary and starts empty."""

    def __init__(self, targets: Targets, *, slots: int, max_enis: int) -> None:
        self.targets = targets
        self.slots = slots
        self.max_enis = max_enis
        self.enis = [EniModel(0)]
        self.calls = 0
        self._blocks = iter(IPv4Network("10.1.0.0/16").subnets(new_prefix=28))

    @property
    def pods(self) -> int:
        return sum(e.pods for e in self.enis)

    @property
    def prefixes(self) -> int:
        return sum(len(e.prefixes) for e in self.enis)

    @property
    def addresses(self) -> int:
        return sum(e.addresses for e in self.enis)

    def view(self, *, waiting: int = 0) -> View:
        singles = sum(e.idle for e in self.enis)
        blocks = sum(16 * len(e.prefixes) - sum(e.prefixes.values()) for e in self.enis)
        is_prefix = self.targets.use_prefixes
        return views.view(
            *map(_eni_view, self.enis),
            targets=self.targets,
            counts=Counts(
                allocated=self.pods,
                available=blocks if is_prefix else singles,
                inactive=singles if is_prefix else blocks,
                preparing=0,
                cooling=0,
                incoming=0,
                waiting=waiting,
            ),
            slots_per_eni=self.slots,
            max_enis=self.max_enis,
        )

    def apply(self, action: Action) -> None:
        self.calls += 1
        match action:
            case AssignAddresses():
                self._grow(self._eni(action.eni_id), action.addresses, action.prefixes)
            case CreateEni():
                assert all(e.index != action.device_index for e in self.enis)
                self.enis.append(EniModel(action.device_index))
                self._grow(self.enis[-1], action.addresses, action.prefixes)
            case UnassignAddresses():
                eni = self._eni(action.eni_id)
                eni.idle -= len(action.addresses)
                assert eni.idle >= 0
                for prefix in action.prefixes:
                    assert eni.prefixes.pop(prefix) == 0, "a prefix with pods was given back"
            case DeleteEni():
                assert self._eni(action.eni_id).pods == 0
                self.enis = [e for e in self.enis if _eni_id(e) != action.eni_id]

    def settle(self, *, waiting: int = 0) -> None:
        """Plan and apply until nothing is left to do."""
        for _ in range(60):
            actions = plan(self.view(waiting=waiting)).actions
            if not actions:
                return
            for action in actions:
                self.apply(action)
        raise AssertionError("plans do not converge")

    def add(self, pods: int) -> None:
        """Pods come one after the other; each gets its address before the next comes."""
        for _ in range(pods):
            if not self._place():
                self.settle(waiting=1)
                assert self._place(), "no address for a pod"
            self.settle()

    def remove(self, pods: int) -> None:
        """Pods go from the emptiest ENI and prefix, and their addresses have cooled at once."""
        for _ in range(pods):
            eni = min((e for e in self.enis if e.pods), key=lambda e: e.pods)
            used = [p for p, count in eni.prefixes.items() if count]
            if used:
                eni.prefixes[min(used, key=lambda p: eni.prefixes[p])] -= 1
            else:
                eni.allocated, eni.idle = eni.allocated - 1, eni.idle + 1

    def _place(self) -> bool:
        for eni in sorted(self.enis, key=lambda e: (-e.pods, e.index)):
            free = [p for p, count in eni.prefixes.items() if count < 16]
            if free and self.targets.use_prefixes:
                eni.prefixes[max(free, key=lambda p: eni.prefixes[p])] += 1
                return True
            if eni.idle:
                eni.allocated, eni.idle = eni.allocated + 1, eni.idle - 1
                return True
        return False

    def _grow(self, eni: EniModel, addresses: int, prefixes: int) -> None:
        eni.idle += addresses
        eni.prefixes |= {next(self._blocks): 0 for _ in range(prefixes)}
        used = eni.allocated + eni.idle + len(eni.prefixes)
        assert used <= self.slots, f"{used} of {self.slots} slots"

    def _eni(self, eni_id: EniId) -> EniModel:
        return next(e for e in self.enis if _eni_id(e) == eni_id)


def _eni_id(eni: EniModel) -> EniId:
    return EniId(f"eni-{eni.index}")


def _eni_view(eni: EniModel) -> EniView:
    return views.eni(
        eni.index,
        allocated=eni.allocated,
        idle=tuple(IPv4Address(f"10.0.{eni.index}.{n}") for n in range(eni.idle)),
        prefixes=tuple(
            PrefixView(
                prefix=prefix,
                allocated=used,
                available=16 - used,
                held=0,
                idle_seconds=views.LONG_AGO_SECONDS,
            )
            for prefix, used in eni.prefixes.items()
        ),
    )
