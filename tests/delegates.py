"""The kernel side of pods that other plugins wire, for tests of the verbs: it keeps a diary."""

from __future__ import annotations

from collections.abc import Iterable

from cni_shim.datapath.delegation import Delegation
from cni_shim.datapath.errors import DatapathError
from cni_shim.datapath.families import Address
from cni_shim.spec import AttachmentKey


class FakeDelegates:
    """Refuses `put` with the next of `refusals`, and `remove` while `is_stuck`."""

    def __init__(self, diary: list[str] | None = None) -> None:
        self.diary = diary if diary is not None else []
        self.standing: dict[AttachmentKey, Delegation] = {}
        self.refusals: list[DatapathError] = []
        self.is_stuck = False
        self.problems: tuple[str, ...] = ()

    def put(self, key: AttachmentKey, delegation: Delegation, *, is_repeat: bool) -> None:
        self.diary.append("put again" if is_repeat else "put")
        if self.refusals:
            raise self.refusals.pop(0)
        self.standing[key] = delegation

    def remove(self, key: AttachmentKey, addresses: Iterable[Address]) -> bool:
        self.diary.append(f"remove rules of {' '.join(map(str, addresses)) or 'the key'}")
        if self.is_stuck:
            raise DatapathError("delete rule 1536", 16)
        return self.standing.pop(key, None) is not None

    def remove_unknown(self, addresses: Iterable[Address]) -> None:
        self.diary.append(f"remove unknown {' '.join(map(str, addresses))}")

    def check(self, delegation: Delegation) -> tuple[str, ...]:
        del delegation
        return self.problems

    def recall(self, key: AttachmentKey, delegation: Delegation) -> None:
        self.standing.setdefault(key, delegation)

    def mend(self) -> None:
        self.diary.append("mend")
