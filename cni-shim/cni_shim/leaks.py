"""Which allocations no pod uses any more: what the signs of one look at the node mean. Pure.

A runtime that loses a DEL would cost an address for ever. `leak_watch` collects the signs and acts;
here it is decided, on values, with the time as an argument.

**Signs.** For each allocation: a host veth of ours with its name (the veth dies with the pod's
namespace), a route to its address by some other link, its namespace's cookie among the mounted
namespaces and among those of processes, its entry in libcni's cache, its sandbox in the runtime's
list. Each is seen, missing or unknown, and **unknown never counts as missing**: it is what becomes
of a socket that does not answer, a directory that is not there, an entry that cannot be opened, a
dump that was torn.

**Trust.** Missing is worth something only from a witness that would have shown it: one that has
shown an attachment which another sign proves alive, since this process began, and that in this look
shows all of these (the mounts), or at least as many as it misses (the cache and the runtime's list,
which may each have forgotten one). Pods (named by Kubernetes) and other containers are weighed
apart, since `ctr` and podman neither stand in the CRI's list nor mount every namespace. Processes
are believed where the whole host's can be seen.

**Rules**, the first that holds, for each allocation:

====  =====================================================================  ====================
 #    What is seen                                                           Verdict
====  =====================================================================  ====================
 1    its DEL is queued, a verb holds its lock, or it is younger than 60 s   live
 2    the runtime has its sandbox ready                                      live
 3    ours; link and route missing; cookie missing among the mounts or the   gone: candidate
      processes and seen in neither; and the runtime's list has it not
      ready or not at all, or the cache has no entry, or no process of the
      whole host is in the namespace
 4    another plugin's (we served as IPAM); route missing; cookie as in 3;   gone: candidate
      and the list has it not ready or not at all, or the cache has no
      entry
 5    ours, whether or not a link or a mount stands; the runtime's list      forgotten: candidate
      does not have the sandbox, the cache has no entry, no process is seen
      in the namespace, links were read, no route leads elsewhere; a pod,
      known for 300 s
 6    aws-node's; the runtime's list does not have the sandbox, no route to  forgotten: candidate
      its addresses, no entry in the cache seen, no sign of its namespace; a
      pod, known for 300 s
 7    any sign of life                                                       live
 8    anything else                                                          unsure
====  =====================================================================  ====================

A candidate that the same rule names again 30 s later or more is confirmed; any other verdict in
between starts it anew, and so do a new epoch of the store, a new generation and a restart. A
confirmed one is looked at once more under its key's lock before anything is done (`leak_watch`).

No single witness, however wrong, makes a living attachment a candidate: each rule needs two that
know nothing of each other (the kernel's links and routes, the namespaces, the cache, the runtime).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum

from cni_shim.signs import (
    Held,
    HeldName,
    Links,
    Look,
    Sandbox,
    Sight,
    Signs,
    Trust,
    Wiring,
    believed,
    sandbox_of,
    signs_of,
    signs_of_life,
    weigh,
)


class Rule(Enum):
    """Why an allocation is a candidate."""

    GONE = "gone"
    FORGOTTEN = "forgotten"


class Standing(Enum):
    """What is thought of one allocation."""

    LIVE = "live"
    UNSURE = "unsure"
    CANDIDATE = "candidate"
    CONFIRMED = "confirmed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Waits:
    """In seconds.

    `young` is twice what a launcher has for an ADD. `forgotten` is above the 240 s that the kubelet
    gives a sandbox to start, in which containerd 1.6 does not list it. `confirm` is I5's. `first`
    is the first look's, by when launchers that waited for us have come; `between` the others'.
    """

    first: float = 10.0
    between: float = 60.0
    young: float = 60.0
    forgotten: float = 300.0
    confirm: float = 30.0


USUAL = Waits()


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspicion:
    """Since when, in monotonic seconds, one rule has held without a break."""

    rule: Rule
    since: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What is carried from look to look. `known` is when each allocation was first seen."""

    epoch: str = ""
    trust: Trust = frozenset()
    known: Mapping[HeldName, float] = field(default_factory=dict)
    suspicions: Mapping[HeldName, Suspicion] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What is thought of one allocation, and why; `rule` where it is suspected."""

    held: Held
    standing: Standing
    reason: str
    rule: Rule | None = None
    signs: Signs | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Assessment:
    """The verdicts in the order of the ledger, and the memory for the next look."""

    memory: Memory
    verdicts: tuple[Verdict, ...]

    def of(self, standing: Standing) -> tuple[Verdict, ...]:
        """The verdicts of one kind."""
        return tuple(v for v in self.verdicts if v.standing is standing)


def assess(
    memory: Memory, look: Look, *, now: float, now_unix: float, waits: Waits = USUAL
) -> Assessment:
    """The verdict on every allocation of the look. `now` is monotonic, `now_unix` the wall clock's:
    a wall clock that was set back makes allocations young, one that was set forward ends the 60 s
    of rule 1 early and nothing else."""
    if memory.epoch != look.epoch:
        memory = Memory(epoch=look.epoch)
    known = {h.name: memory.known.get(h.name, now) for h in look.held}
    raw = signs_of(look)
    settled = [h for h in look.held if now_unix - h.allocated_unix >= waits.young]
    trust = weigh(memory.trust, settled, raw)

    found = []
    for held in look.held:
        ages = _Ages(wall=now_unix - held.allocated_unix, known=now - known[held.name])
        signs = believed(raw[held.name], held, trust)
        found.append(_judge(held, signs, look, ages, waits))
    suspicions = {
        v.held.name: _suspicion(memory.suspicions.get(v.held.name), v.rule, now)
        for v in found
        if v.rule is not None
    }
    verdicts = tuple(_confirmed(v, suspicions, now, waits) for v in found)
    return Assessment(
        memory=Memory(epoch=look.epoch, trust=trust, known=known, suspicions=suspicions),
        verdicts=verdicts,
    )


def explains_all(look: Look, *, now_unix: float, waits: Waits = USUAL) -> bool:
    """Whether links, sandboxes and age alone show every allocation alive, so that nothing else need
    be read: the usual look."""
    links = Links(look.links)
    return all(
        now_unix - held.allocated_unix < waits.young
        or (
            held.wiring is Wiring.OURS
            and links.sight(held.key) is Sight.SEEN
            and sandbox_of(held, look.sandboxes) is not Sandbox.MISSING
        )
        for held in look.held
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ages:
    """Seconds since the allocation by the wall clock, and since this process first saw it."""

    wall: float
    known: float


def _judge(held: Held, signs: Signs, look: Look, ages: _Ages, waits: Waits) -> Verdict:
    """The rule table of the module's docstring, top down."""
    at_work = _at_work(held, look, ages, waits)
    if at_work:
        return Verdict(held=held, standing=Standing.LIVE, reason=at_work)
    if signs.runtime is Sandbox.READY:
        reason = "the runtime has its sandbox ready"
        return Verdict(held=held, standing=Standing.LIVE, reason=reason)
    rule = None
    if _is_gone(held, signs):
        rule = Rule.GONE
    elif ages.known >= waits.forgotten and _is_forgotten(held, signs):
        rule = Rule.FORGOTTEN
    if rule is not None:
        standing = Standing.CANDIDATE
    else:
        standing = Standing.LIVE if signs_of_life(signs) else Standing.UNSURE
    return Verdict(held=held, standing=standing, reason=_words(signs), rule=rule, signs=signs)


def _at_work(held: Held, look: Look, ages: _Ages, waits: Waits) -> str:
    if held.key in look.queued:
        return "its DEL is queued"
    if held.key in look.busy:
        return "a verb is at work on it"
    if ages.wall < waits.young:
        return f"allocated less than {waits.young:.0f} s ago"
    return ""


def _is_gone(held: Held, signs: Signs) -> bool:
    """Rules 3 and 4."""
    if signs.route is not Sight.MISSING or not _is_namespace_gone(signs):
        return False
    is_doubted = (
        signs.runtime in {Sandbox.MISSING, Sandbox.NOT_READY} or signs.cache is Sight.MISSING
    )
    match held.wiring:
        case Wiring.OURS:
            is_doubted = is_doubted or signs.processes is Sight.MISSING
            return signs.link is Sight.MISSING and is_doubted
        case Wiring.MAIN_PLUGIN:
            return is_doubted
        case Wiring.PEER:
            return False


def _is_namespace_gone(signs: Signs) -> bool:
    both = (signs.mounts, signs.processes)
    return Sight.SEEN not in both and Sight.MISSING in both


def _is_forgotten(held: Held, signs: Signs) -> bool:
    """Rules 5 and 6. The list misses pods alone (`sandbox_of`)."""
    if (
        signs.runtime is not Sandbox.MISSING
        or signs.route is not Sight.MISSING
        or signs.processes is Sight.SEEN
    ):
        return False
    match held.wiring:
        case Wiring.OURS:
            return signs.link is not Sight.UNKNOWN and signs.cache is Sight.MISSING
        case Wiring.MAIN_PLUGIN:
            return False
        case Wiring.PEER:
            return signs.cache is not Sight.SEEN and signs.mounts is not Sight.SEEN


def _words(signs: Signs) -> str:
    return (
        f"link {signs.link.value}, other route {signs.route.value}, "
        f"namespace {signs.mounts.value} among mounts and {signs.processes.value} among processes, "
        f"cache entry {signs.cache.value}, sandbox {signs.runtime.value}"
    )


def _suspicion(earlier: Suspicion | None, rule: Rule, now: float) -> Suspicion:
    return earlier if earlier and earlier.rule is rule else Suspicion(rule=rule, since=now)


def _confirmed(
    verdict: Verdict, suspicions: Mapping[HeldName, Suspicion], now: float, waits: Waits
) -> Verdict:
    suspicion = suspicions.get(verdict.held.name)
    if suspicion is None or now - suspicion.since < waits.confirm:
        return verdict
    return replace(verdict, standing=Standing.CONFIRMED)
