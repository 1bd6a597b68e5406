"""What a write target looks like, what callers want of it, and how wants become one write. Pure.

A write target is what one PUT replaces: a NIC of a VM, or a scale set instance with all its NICs.
The caller's unit is the change, which is never taken apart: it is had whole or refused whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ipamd.cloud import AddressChange, AddressOutcome
from ipamd.errors import CloudError, NotFound, Transient, Unsupported
from ipamd.model import EniId, IPAddress, IPNetwork
from providers.azure.bodies import MAX_CONFIGS, Edit, too_many
from providers.azure.configs import Body, Config
from providers.azure.names import Kind, names_of

Edits = Mapping[EniId, Edit]
"""The edits of one write, by NIC."""

MOVING = frozenset({"creating", "updating", "deleting", "migrating"})
"""Values of provisioningState, in lower case, that end by themselves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NicPicture:
    """One NIC. `shown` is what the NIC itself has; `written` what its model says: the kind of each
    configuration by its key. For a NIC of a VM they are the same; for an instance's, `shown`
    follows `written` only when the operation ends. `subnet_id` is canonical, "" where it cannot be
    told."""

    eni_id: EniId
    subnet_id: str
    shown: Mapping[str, Config]
    written: Mapping[str, Kind]

    @property
    def is_known(self) -> bool:
        """Whether the NIC itself was read: it has a primary configuration at least."""
        return bool(self.shown)


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A write target as read: `body` is what to edit, `state` its provisioningState, lower case."""

    etag: str
    state: str
    body: Body
    nics: Mapping[EniId, NicPicture]

    @property
    def is_moving(self) -> bool:
        """Whether an operation is under way, as far as the state tells."""
        return self.state in MOVING


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """One change in terms of names: `adding` in the order of the outcome, `removing` by key.

    `missing` and `leaving` are what is not yet written of them.
    """

    eni_id: EniId
    adding: tuple[tuple[str, Kind], ...] = ()
    removing: frozenset[str] = frozenset()
    missing: tuple[tuple[str, Kind], ...] = ()
    leaving: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Merged:
    """One write for several wants: their goals or refusals, in the order asked, and its edits."""

    goals: tuple[Goal | CloudError, ...]
    edits: Edits = field(default_factory=dict)


def merge(
    picture: Picture,
    changes: Sequence[AddressChange],
    stuck: Mapping[EniId, frozenset[str]],
) -> Merged:
    """The wants as one write. Each has its own refusal (NotFound, NotOurs, LimitReached) where it
    cannot be, so that the others go on.

    `stuck` are keys, by NIC, of what an earlier write that failed left behind: they go with this
    write, unless a want asks for the same names again.
    """
    leaving = _all_leaving(picture, changes)
    asked = {name for c in changes for kind in Kind for name in names_of(c.token, kind, _all(c))}
    drafts = {
        eni_id: _Draft(
            nic=nic,
            useless=(stuck.get(eni_id, frozenset()) - asked) & nic.written.keys(),
            held={key: kind for key, kind in nic.written.items() if key not in leaving[eni_id]},
        )
        for eni_id, nic in picture.nics.items()
    }
    goals = tuple(_goal(drafts.get(change.eni_id), change) for change in changes)
    return Merged(goals=goals, edits=_edits(drafts, goals))


def is_reached(goal: Goal, picture: Picture) -> bool:
    """Whether all that a goal adds is usable, and all that it removes is gone everywhere."""
    nic = picture.nics.get(goal.eni_id)
    if nic is None or not nic.is_known:
        return False
    gone = not any(key in nic.shown or key in nic.written for key in goal.removing)
    return gone and len(_usable(goal, nic)) == len(goal.adding)


def is_written(goal: Goal, picture: Picture) -> bool:
    """Whether the model is as a goal wants it, whatever the NICs show."""
    nic = picture.nics.get(goal.eni_id)
    if nic is None:
        return False
    has_all = all(name.lower() in nic.written for name, _ in goal.adding)
    return has_all and not goal.removing & nic.written.keys()


def has_effect(goal: Goal, picture: Picture) -> bool:
    """Whether anything of a goal can be seen in the model or on the NIC.

    What is added without being usable is none: nobody has been told of it.
    """
    nic = picture.nics.get(goal.eni_id)
    if nic is None or not nic.is_known:
        return True
    gone = any(key not in nic.shown or key not in nic.written for key in goal.removing)
    return gone or bool(_usable(goal, nic))


def is_partly_had(goal: Goal, picture: Picture) -> bool:
    """Whether some of what a goal adds is usable, and all that it removes is gone."""
    rest = replace(goal, adding=())
    return is_reached(rest, picture) and bool(_usable(goal, picture.nics[goal.eni_id]))


def outcome(goal: Goal, picture: Picture) -> AddressOutcome:
    """What of a goal's additions is usable."""
    usable = _usable(goal, picture.nics[goal.eni_id])
    singles = [c.carries for c in usable if isinstance(c.carries, IPAddress)]
    blocks = [c.carries for c in usable if isinstance(c.carries, IPNetwork)]
    return AddressOutcome(eni_id=goal.eni_id, added=tuple(singles), added_prefixes=tuple(blocks))


def left_behind(goals: Iterable[Goal], picture: Picture) -> dict[EniId, frozenset[str]]:
    """What a failed write left of what it added itself that is of no use, by NIC."""
    found: dict[EniId, frozenset[str]] = {}
    for goal in goals:
        nic = picture.nics.get(goal.eni_id)
        if nic is None:
            continue
        names = {name.lower() for name, _ in goal.missing}
        useless = {key for key in names if key in nic.written or key in nic.shown}
        useless -= {config.key for config in _usable(goal, nic)}
        found[goal.eni_id] = found.get(goal.eni_id, frozenset()) | useless
    return {eni_id: keys for eni_id, keys in found.items() if keys}


def usable_names(goals: Iterable[Goal], nic: NicPicture) -> frozenset[str]:
    """What the goals of a NIC add and may be told of by now."""
    mine = [goal for goal in goals if goal.eni_id == nic.eni_id]
    return frozenset(config.key for goal in mine for config in _usable(goal, nic))


def _usable(goal: Goal, nic: NicPicture) -> list[Config]:
    found = (nic.shown.get(name.lower()) for name, _ in goal.adding)
    return [config for config in found if config is not None and config.is_usable]


def _all_leaving(picture: Picture, changes: Sequence[AddressChange]) -> dict[EniId, frozenset[str]]:
    """What any of the wants removes: its room is there for what the same write adds."""
    found = {eni_id: frozenset[str]() for eni_id in picture.nics}
    for change in changes:
        nic = picture.nics.get(change.eni_id)
        if nic is not None:
            ours = {c.key for c in _named(nic, change) if c.is_pods}
            found[change.eni_id] |= ours & nic.written.keys()
    return found


@dataclass(slots=True, kw_only=True)
class _Draft:
    """One NIC while its wants are put together: `useless` goes in any case, `held` is what will be
    there by key, `claimed` whose token each name of this write is."""

    nic: NicPicture
    useless: frozenset[str]
    held: dict[str, Kind]
    claimed: dict[str, str] = field(default_factory=dict)

    @property
    def slots(self) -> int:
        return len(self.held.keys() - self.useless)


def _goal(draft: _Draft | None, change: AddressChange) -> Goal | CloudError:
    if draft is None:
        return NotFound(
            f"{change.eni_id} is not a NIC of this node", code="NotOnNode", eni_id=change.eni_id
        )
    if not draft.nic.is_known:
        return Transient(f"{change.eni_id} is not shown", code="NicNotShown", eni_id=change.eni_id)
    named = _named(draft.nic, change)
    refusal = _refusal(named, change)
    if refusal is not None:
        return refusal
    adding = _adding(change, draft)
    missing = tuple((name, kind) for name, kind in adding if name not in draft.held)
    if missing and draft.slots + len(missing) > MAX_CONFIGS:
        return too_many(draft.slots, len(missing))
    draft.held.update(missing)
    draft.claimed.update((name, change.token) for name, _ in adding)
    removing = frozenset(config.key for config in named)
    return Goal(
        eni_id=change.eni_id,
        adding=adding,
        removing=removing,
        missing=missing,
        leaving=removing & draft.nic.written.keys(),
    )


def _refusal(named: Sequence[Config], change: AddressChange) -> CloudError | None:
    foreign = [config.name for config in named if not config.is_pods]
    if foreign:
        return CloudError(
            f"ipConfiguration {', '.join(foreign)} is not ours to remove",
            code="NotOurs",
            eni_id=change.eni_id,
        )
    if change.add_prefixes_v6:
        return Unsupported("Azure has no IPv6 blocks", code="NoPrefixV6", eni_id=change.eni_id)
    return None


def _adding(change: AddressChange, draft: _Draft) -> tuple[tuple[str, Kind], ...]:
    """The names of a change's token. One that another token of this write has, or that stands on
    the NIC for the other kind, is there by chance, and passed over."""
    made: list[tuple[str, Kind]] = []
    for kind, count in ((Kind.ADDRESS, change.add), (Kind.BLOCK, change.add_prefixes)):
        refused = {key for key, held_kind in draft.held.items() if held_kind is not kind}
        refused |= {name for name, token in draft.claimed.items() if token != change.token}
        refused |= {name for name, _ in made}
        made += [(name, kind) for name in names_of(change.token, kind, count, refused=refused)]
    return tuple(made)


def _all(change: AddressChange) -> int:
    return change.add + change.add_prefixes


def _named(nic: NicPicture, change: AddressChange) -> list[Config]:
    """The configurations that carry exactly what the change removes; what is gone has none."""
    leaving: set[IPAddress | IPNetwork] = {*change.remove, *change.remove_prefixes}
    return [config for config in nic.shown.values() if config.carries in leaving]


def _edits(drafts: Mapping[EniId, _Draft], goals: Sequence[Goal | CloudError]) -> dict[EniId, Edit]:
    wanted = [goal for goal in goals if isinstance(goal, Goal)]
    edits = {
        eni_id: Edit(
            adds=tuple(one for goal in wanted if goal.eni_id == eni_id for one in goal.missing),
            removes=draft.useless.union(*(g.leaving for g in wanted if g.eni_id == eni_id)),
        )
        for eni_id, draft in drafts.items()
    }
    return {eni_id: edit for eni_id, edit in edits.items() if not edit.is_empty}
