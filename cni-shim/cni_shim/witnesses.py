"""Where the signs come from by which a lost DEL is known: kernel, namespaces, cache, runtime.

Called by `leak_watch` on its thread alone; changes nothing. A source that cannot be read, or not
wholly, says so in its value (None, or not whole) and in `unseen`, which is for the log. It never
raises and never guesses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from cni_shim.datapath import answers, messages
from cni_shim.datapath.errors import DatapathError
from cni_shim.datapath.identity import ALIAS_START, Identity
from cni_shim.datapath.netlink import HostNetlink
from cni_shim.datapath.observe import ObservedPod
from cni_shim.namespaces import NamespaceReading
from cni_shim.runtime_list import RuntimeList, RuntimeUnseen
from cni_shim.signs import Namespaces, RoutedAddress

T = TypeVar("T")

_ALIAS_BYTES = ALIAS_START.encode()


class Witnesses:
    """The sources of one node."""

    def __init__(
        self,
        netlink: HostNetlink,
        observe: Callable[[], tuple[ObservedPod, ...]],
        runtime: RuntimeList,
        *,
        netns_directories: tuple[Path, ...],
        cache_directory: Path,
        proc: Path = Path("/proc"),
    ) -> None:
        """`observe` is that of PodDatapath."""
        self._netlink = netlink
        self._observe = observe
        self._runtime = runtime
        self._netns_directories = netns_directories
        self._cache_directory = cache_directory
        self._proc = proc
        self.unseen: dict[str, str] = {}
        """What could not be read when it was last tried, and why."""

    def links(self) -> tuple[Identity, ...] | None:
        """Whose our host veths are: one dump, in which only links with our alias are parsed."""

        def read() -> tuple[Identity, ...]:
            bodies = self._netlink.socket().dump_raw(messages.dump_links())
            links = (answers.link_of(body) for body in bodies if _ALIAS_BYTES in body)
            return tuple(link.identity for link in links if link.identity is not None)

        return self._read("links", read)

    def routes(self) -> tuple[RoutedAddress, ...] | None:
        """Where the routes to pods' addresses lead."""
        return self._read("routes", lambda: tuple(_routed(self._observe())))

    def namespaces(self) -> tuple[Namespaces, Namespaces]:
        """The mounted network namespaces, and those of processes."""
        reading = NamespaceReading(self._netlink.netns_cookie)
        mounts = reading.mounted(self._netns_directories)
        self._note("mounted namespaces", "; ".join(reading.gaps[:3]))
        processes = reading.of_processes(self._proc)
        self._note("processes", "; ".join(reading.gaps[:3]))
        return mounts, processes

    def cache(self) -> frozenset[str] | None:
        """The file names in libcni's cache."""
        return self._read("cache", self._cached)

    def _cached(self) -> frozenset[str]:
        return frozenset(path.name for path in self._cache_directory.iterdir())

    def sandboxes(self) -> dict[str, bool] | None:
        """Whether each sandbox of the container runtime is ready, by its id."""
        return self._read("runtime", self._runtime.sandboxes)

    def _read(self, name: str, read: Callable[[], T]) -> T | None:
        try:
            value = read()
        except (OSError, DatapathError, RuntimeUnseen) as e:
            self._note(name, str(e))
            return None
        self._note(name, "")
        return value

    def _note(self, name: str, why: str) -> None:
        self.unseen.pop(name, None)
        if why:
            self.unseen[name] = why


def _routed(observed: tuple[ObservedPod, ...]) -> Iterator[RoutedAddress]:
    """Addresses that only a rule names are left out: rules outlive the pod's link."""
    for pod in observed:
        if pod.address is None or not pod.ifindex:
            continue
        owner = None
        if pod.is_ours and pod.container_id:
            owner = Identity(
                container_id=pod.container_id,
                ifname=pod.ifname,
                network_name=pod.network_name,
                netns_cookie=pod.netns_cookie,
                pod_namespace=pod.pod_namespace,
                pod_name=pod.pod_name,
            )
        yield RoutedAddress(address=pod.address, owner=owner)
