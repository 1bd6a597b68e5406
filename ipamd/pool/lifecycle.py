"""Which state an address may go to from which. The ledger looks every change up here.

An address enters the ledger in one of `BIRTHS` and leaves it from one of `DEATHS`; an illegal step
raises and changes nothing.
"""

from __future__ import annotations

from ipamd.model import AddressState

_S = AddressState

BIRTHS = frozenset({_S.PREPARING, _S.AVAILABLE, _S.ALLOCATED, _S.COOLING, _S.QUARANTINED})
"""AVAILABLE: assigned by us on an ENI that is ready. ALLOCATED: adopted from a running pod."""

DEATHS = frozenset({_S.UNASSIGNING, _S.QUARANTINED, _S.PREPARING})
"""Only these may be forgotten; PREPARING when its ENI went before the node ever had it ready."""

TRANSITIONS: dict[AddressState, frozenset[AddressState]] = {
    _S.PREPARING: frozenset({_S.AVAILABLE, _S.ALLOCATED, _S.UNASSIGNING, _S.QUARANTINED}),
    _S.AVAILABLE: frozenset({_S.PREPARING, _S.ALLOCATED, _S.UNASSIGNING, _S.QUARANTINED}),
    _S.ALLOCATED: frozenset({_S.COOLING, _S.QUARANTINED}),
    # To ALLOCATED only by adoption: the kernel shows a pod that the ledger had lost.
    _S.COOLING: frozenset({_S.AVAILABLE, _S.PREPARING, _S.ALLOCATED, _S.QUARANTINED}),
    _S.QUARANTINED: frozenset({_S.COOLING, _S.ALLOCATED}),
    _S.UNASSIGNING: frozenset({_S.COOLING, _S.QUARANTINED}),
}


class IllegalTransition(AssertionError):
    """A programming error: some decision asked for a step that the table does not hold."""


def check(old: AddressState | None, new: AddressState | None, subject: str) -> None:
    """Raise IllegalTransition unless `old` -> `new` is allowed; None is outside the ledger.

    Staying in a state is always allowed (its reason or ENI facts may change).
    """
    if old is new:
        return
    if old is None:
        allowed = new in BIRTHS
    elif new is None:
        allowed = old in DEATHS
    else:
        allowed = new in TRANSITIONS[old]
    if not allowed:
        raise IllegalTransition(f"{subject}: {_word(old)} -> {_word(new)} is not in the table")


def _word(state: AddressState | None) -> str:
    return state.value if state else "outside"
