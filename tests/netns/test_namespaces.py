"""Finding namespaces by cookie, with real mounts, processes and files that only look like them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cni_shim.datapath.netlink import HostNetlink
from cni_shim.namespaces import NamespaceReading

from providers.sim import netns

pytestmark = pytest.mark.netns

MakeNetns = Callable[[str], str]


@pytest.fixture
def netlink() -> Iterator[HostNetlink]:
    made = HostNetlink()
    yield made
    made.socket().close()
    made.close()


@pytest.fixture
def reading(netlink: HostNetlink) -> NamespaceReading:
    return NamespaceReading(netlink.netns_cookie)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    made = tmp_path / "netns"
    made.mkdir()
    return made


def cookie_of(netlink: HostNetlink, path: str) -> int:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return netlink.netns_cookie(descriptor)
    finally:
        os.close(descriptor)


def shown_in(directory: Path, path: str) -> None:
    """Have the namespace in the directory as well, by a link."""
    (directory / Path(path).name).symlink_to(path)


@contextmanager
def process_in(path: str) -> Iterator[int]:
    process = netns.popen_in(path, ["/bin/sleep", "60"], env={}, cwd="/")
    try:
        yield process.pid
    finally:
        process.kill()
        process.wait()


def test_every_mounted_namespace_is_found(
    make_netns: MakeNetns, netlink: HostNetlink, reading: NamespaceReading, directory: Path
) -> None:
    paths = [make_netns(name) for name in ("one", "two")]
    for path in paths:
        shown_in(directory, path)
    found = reading.mounted([directory])
    assert found.cookies == {cookie_of(netlink, path) for path in paths}
    assert found.is_whole
    assert reading.gaps == []


def test_a_namespace_that_was_deleted_is_found_no_more(
    make_netns: MakeNetns, netlink: HostNetlink, directory: Path
) -> None:
    path = make_netns("gone")
    cookie = cookie_of(netlink, path)
    netns.delete("gone")
    assert (
        cookie not in NamespaceReading(netlink.netns_cookie).mounted([Path("/run/netns")]).cookies
    )


def plain_file(path: Path) -> None:
    path.write_text("")


def fifo(path: Path) -> None:
    os.mkfifo(path)


def other_kind(path: Path) -> None:
    path.symlink_to("/proc/self/ns/mnt")


def subdirectory(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize("make", [plain_file, fifo, other_kind, subdirectory])
def test_an_entry_that_is_no_network_namespace_makes_the_rest_incomplete(
    make: Callable[[Path], None],
    make_netns: MakeNetns,
    netlink: HostNetlink,
    reading: NamespaceReading,
    directory: Path,
) -> None:
    path = make_netns("one")
    shown_in(directory, path)
    make(directory / "odd")
    found = reading.mounted([directory])
    assert found.cookies == {cookie_of(netlink, path)}
    assert not found.is_whole
    assert len(reading.gaps) == 1 and "odd" in reading.gaps[0]


def test_an_entry_that_went_since_the_listing_is_no_gap(
    reading: NamespaceReading, directory: Path
) -> None:
    (directory / "going").symlink_to("/run/netns/never-was")
    assert reading.mounted([directory]).is_whole


def test_no_directory_at_all_is_not_an_empty_one(
    reading: NamespaceReading, directory: Path, tmp_path: Path
) -> None:
    assert not reading.mounted([tmp_path / "none"]).is_whole
    assert reading.mounted([tmp_path / "none", directory]).is_whole


def test_a_directory_that_is_none_makes_the_rest_incomplete(
    reading: NamespaceReading, directory: Path, tmp_path: Path
) -> None:
    plain_file(tmp_path / "file")
    assert not reading.mounted([directory, tmp_path / "file"]).is_whole


def test_the_namespace_of_a_process_is_found_with_and_without_a_mount(
    make_netns: MakeNetns, netlink: HostNetlink, reading: NamespaceReading, directory: Path
) -> None:
    mounted, hidden = make_netns("mounted"), make_netns("hidden")
    wanted = {cookie_of(netlink, mounted), cookie_of(netlink, hidden)}
    shown_in(directory, mounted)
    with process_in(mounted), process_in(hidden):
        assert reading.mounted([directory]).cookies < wanted
        assert reading.of_processes(Path("/proc")).cookies >= wanted


def test_the_sandboxs_processes_are_not_the_hosts(reading: NamespaceReading) -> None:
    """These tests run in a pid namespace of their own, as vpc-cnid does without hostPID."""
    found = reading.of_processes(Path("/proc"))
    assert not found.is_whole
    assert reading.gaps == ["only the processes of our own container are seen (no hostPID)"]


class FakeProc:
    """A /proc that says it is the host's, with processes in namespaces of the test's."""

    def __init__(self, path: Path, options: str = "rw") -> None:
        self.path = path
        self.pids = iter(range(100, 200))
        own = path / "self" / "ns"
        own.mkdir(parents=True)
        (own / "pid").symlink_to("/proc/self/ns/pid")
        (path / "self" / "mountinfo").write_text(f"22 1 0:21 / {path} rw - proc proc {options}\n")

    def process(self, net: str) -> None:
        directory = self.path / str(next(self.pids)) / "ns"
        directory.mkdir(parents=True)
        (directory / "net").symlink_to(net)


@pytest.fixture
def as_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    own = Path("/proc/self/ns/pid").stat().st_ino
    monkeypatch.setattr("cni_shim.namespaces._INITIAL_PID_NAMESPACE", own)


@pytest.mark.usefixtures("as_the_host")
def test_the_hosts_processes_are_whole_when_each_was_asked(
    make_netns: MakeNetns, netlink: HostNetlink, reading: NamespaceReading, tmp_path: Path
) -> None:
    path = make_netns("one")
    proc = FakeProc(tmp_path / "proc")
    proc.process(path)
    proc.process(path)
    proc.process("/run/netns/ended-since")
    found = reading.of_processes(proc.path)
    assert found.cookies == {cookie_of(netlink, path)}
    assert found.is_whole


@pytest.mark.usefixtures("as_the_host")
@pytest.mark.parametrize(
    ("options", "is_whole"),
    [
        ("rw", True),
        ("rw,hidepid=0", True),
        ("rw,hidepid=2", False),
        ("rw,hidepid=invisible", False),
    ],
)
def test_a_proc_that_hides_processes_is_not_whole(
    options: str, is_whole: bool, reading: NamespaceReading, tmp_path: Path
) -> None:
    proc = FakeProc(tmp_path / "proc", options)
    assert reading.of_processes(proc.path).is_whole is is_whole


@pytest.mark.usefixtures("as_the_host")
def test_a_process_that_may_not_be_asked_makes_the_rest_incomplete(
    reading: NamespaceReading, tmp_path: Path
) -> None:
    proc = FakeProc(tmp_path / "proc")
    proc.process("/proc/1/ns/net/not-a-directory")
    assert not reading.of_processes(proc.path).is_whole
