"""What each witness says of one attachment, and whether its silence means anything. Pure.

The values that `leak_watch` fills from `witnesses`, and their reading; `leaks` decides on the
result, and its docstring states the whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from enum import Enum

from cni_shim.datapath.families import Address
from cni_shim.datapath.identity import Identity
from cni_shim.spec import AttachmentKey


class Sight(Enum):
    """What a witness says of one attachment."""

    SEEN = "seen"
    MISSING = "missing"
    UNKNOWN = "unknown"


class Sandbox(Enum):
    """What the runtime's list says of one sandbox."""

    READY = "ready"
    NOT_READY = "not ready"
    MISSING = "missing"
    UNKNOWN = "unknown"


class Wiring(Enum):
    """Who wired the attachment; the values are those of Allocation.wired_by."""

    OURS = ""
    MAIN_PLUGIN = "main-plugin"
    PEER = "peer"


class Witness(Enum):
    """Those whose silence has to be earned; see Trust above."""

    MOUNTS = "mounted namespaces"
    CACHE = "libcni's cache"
    RUNTIME = "the runtime's list"


Trust = frozenset[tuple[Witness, bool]]
"""Who has shown a living attachment so far: of pods (True) and of other containers (False)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """An allocation of the ledger, as far as it matters here. `netns_cookie` 0: never known."""

    key: AttachmentKey
    generation: int
    netns_cookie: int
    network_name: str
    addresses: frozenset[Address]
    wiring: Wiring
    is_pod: bool
    allocated_unix: float

    @property
    def name(self) -> HeldName:
        """What tells it from an earlier or later allocation of its key."""
        return self.key, self.generation


HeldName = tuple[AttachmentKey, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Namespaces:
    """Cookies of network namespaces that were found; whether these are all of their kind."""

    cookies: frozenset[int] = frozenset()
    is_whole: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutedAddress:
    """An address that a route leads to, and whose link that is; None: not a link of ours."""

    address: Address
    owner: Identity | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """All that was seen at one time. None stands for what could not be read, or was not asked.

    `held` was read first: what is newer than the ledger's answer can only be alive. `cache` holds
    file names; `sandboxes` says of each id whether it is ready.
    """

    epoch: str
    held: tuple[Held, ...]
    links: tuple[Identity, ...] | None = None
    routes: tuple[RoutedAddress, ...] | None = None
    mounts: Namespaces = Namespaces()
    processes: Namespaces = Namespaces()
    cache: frozenset[str] | None = None
    sandboxes: Mapping[str, bool] | None = None
    busy: frozenset[AttachmentKey] = frozenset()
    queued: frozenset[AttachmentKey] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Signs:
    """What each witness says of one attachment."""

    link: Sight
    route: Sight
    mounts: Sight
    processes: Sight
    cache: Sight
    runtime: Sandbox


class Links:
    """Finds an attachment among our links; names that had to be hashed are compared one by one."""

    def __init__(self, links: tuple[Identity, ...] | None) -> None:
        self._is_known = links is not None
        self._plain = {(i.container_id, i.ifname) for i in links or ()}
        self._hashed = [i for i in links or () if "~" in (i.container_id[:1], i.ifname[:1])]

    def sight(self, key: AttachmentKey) -> Sight:
        """Whether one of the links is the attachment's."""
        if not self._is_known:
            return Sight.UNKNOWN
        is_there = (key.container_id, key.ifname) in self._plain or any(
            i.is_of(key.container_id, key.ifname) for i in self._hashed
        )
        return _sight(is_there=is_there)


def signs_of(look: Look) -> dict[HeldName, Signs]:
    """The signs of every allocation, before anybody's trust is weighed."""
    links = Links(look.links)
    routed: dict[Address, list[Identity | None]] = {}
    for route in look.routes or ():
        routed.setdefault(route.address, []).append(route.owner)
    return {
        held.name: Signs(
            link=links.sight(held.key) if held.wiring is Wiring.OURS else Sight.UNKNOWN,
            route=Sight.UNKNOWN if look.routes is None else _route(held, routed),
            mounts=_namespace(held, look.mounts),
            processes=_namespace(held, look.processes),
            cache=_cached(held, look.cache),
            runtime=sandbox_of(held, look.sandboxes),
        )
        for held in look.held
    }


def _sight(*, is_there: bool) -> Sight:
    return Sight.SEEN if is_there else Sight.MISSING


def _route(held: Held, routed: Mapping[Address, list[Identity | None]]) -> Sight:
    owners = [owner for address in held.addresses for owner in routed.get(address, ())]
    key = held.key
    return _sight(
        is_there=any(o is None or not o.is_of(key.container_id, key.ifname) for o in owners)
    )


def _namespace(held: Held, found: Namespaces) -> Sight:
    if held.netns_cookie and held.netns_cookie in found.cookies:
        return Sight.SEEN
    return Sight.MISSING if held.netns_cookie and found.is_whole else Sight.UNKNOWN


def _cached(held: Held, cache: frozenset[str] | None) -> Sight:
    """libcni names its files <network>-<container id>-<interface>.

    Any entry of the container counts: the config may have been renamed since, and of what Multus
    delegates to us only Multus's own attachment is in this cache. Not that of the loopback, which
    containerd attaches by itself beside ours.
    """
    if cache is None:
        return Sight.UNKNOWN
    usual = f"{held.network_name}-{held.key.container_id}-{held.key.ifname}"
    container = f"-{held.key.container_id}-"
    is_there = usual in cache or any(container in n and not n.endswith("-lo") for n in cache)
    return _sight(is_there=is_there)


def sandbox_of(held: Held, sandboxes: Mapping[str, bool] | None) -> Sandbox:
    """What the list says. Of what is not Kubernetes' it says nothing by leaving it out."""
    if sandboxes is None:
        return Sandbox.UNKNOWN
    is_ready = sandboxes.get(held.key.container_id)
    if is_ready is None:
        return Sandbox.MISSING if held.is_pod else Sandbox.UNKNOWN
    return Sandbox.READY if is_ready else Sandbox.NOT_READY


def signs_of_life(signs: Signs) -> tuple[Witness | None, ...]:
    """Who sees it alive; None for the kernel's own witnesses. A cache entry is no sign of life: it
    stays until a DEL."""
    own = (signs.link, signs.route, signs.processes)
    seen: list[Witness | None] = [None for sight in own if sight is Sight.SEEN]
    if signs.mounts is Sight.SEEN:
        seen.append(Witness.MOUNTS)
    if signs.runtime is Sandbox.READY:
        seen.append(Witness.RUNTIME)
    return tuple(seen)


_SAYS: Mapping[Witness, Callable[[Signs], Sight]] = {
    Witness.MOUNTS: lambda signs: signs.mounts,
    Witness.CACHE: lambda signs: signs.cache,
    Witness.RUNTIME: lambda signs: {
        Sandbox.READY: Sight.SEEN,
        Sandbox.NOT_READY: Sight.SEEN,
        Sandbox.MISSING: Sight.MISSING,
        Sandbox.UNKNOWN: Sight.UNKNOWN,
    }[signs.runtime],
}


def weigh(earlier: Trust, settled: Iterable[Held], raw: Mapping[HeldName, Signs]) -> Trust:
    """Who is believed when it misses something. `earlier` is the answer to the last look."""
    hits, misses = dict.fromkeys(_WEIGHED, 0), dict.fromkeys(_WEIGHED, 0)
    for held in settled:
        signs = raw[held.name]
        alive = signs_of_life(signs)
        for witness, says in _SAYS.items():
            if not any(other is not witness for other in alive):
                continue  # nobody else says that it lives
            sight = says(signs)
            hits[witness, held.is_pod] += sight is Sight.SEEN
            misses[witness, held.is_pod] += sight is Sight.MISSING
    return frozenset(
        name
        for name in _WEIGHED
        if (hits[name] or name in earlier)
        and misses[name] <= (0 if name[0] is Witness.MOUNTS else hits[name])
    )


_WEIGHED = tuple((witness, is_pod) for witness in Witness for is_pod in (True, False))


def believed(signs: Signs, held: Held, trusted: Trust) -> Signs:
    """The signs, with unknown for what an unproven witness misses."""
    if signs.mounts is Sight.MISSING and (Witness.MOUNTS, held.is_pod) not in trusted:
        signs = replace(signs, mounts=Sight.UNKNOWN)
    if signs.cache is Sight.MISSING and (Witness.CACHE, held.is_pod) not in trusted:
        signs = replace(signs, cache=Sight.UNKNOWN)
    if signs.runtime is Sandbox.MISSING and (Witness.RUNTIME, held.is_pod) not in trusted:
        signs = replace(signs, runtime=Sandbox.UNKNOWN)
    return signs
