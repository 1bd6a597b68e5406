"""The delete queue from the daemon's side, and what a crash at each system call leaves."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from cni_shim import delete_queue, frames
from cni_shim.delete_queue import DeleteQueue, QueueError
from cni_shim.errors import CniError
from cni_shim.spec import AttachmentKey
from structlog.testing import capture_logs

KEY = AttachmentKey(container_id="c1", ifname="eth0")


def frame(
    container_id: str = "c1", ifname: str = "eth0", stdin: bytes = b"{}", verb: str = "DEL"
) -> bytes:
    env = {"CNI_COMMAND": verb, "CNI_CONTAINERID": container_id, "CNI_IFNAME": ifname}
    request = frames.Request(
        deadline_ms=1000,
        env=tuple(frames.EnvVar(name=name, value=value) for name, value in env.items()),
        stdin=stdin,
    )
    return frames.pack_request(request)


@pytest.fixture
def queue(tmp_path: Path) -> DeleteQueue:
    return DeleteQueue(tmp_path)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "delete-queue"


def keys(queue: DeleteQueue) -> list[str]:
    return [str(entry.key) for entry in queue.entries()]


def names(home: Path) -> set[str]:
    return {path.name for path in home.iterdir()}


def test_the_directory_is_private(queue: DeleteQueue, home: Path) -> None:
    assert home.stat().st_mode & 0o777 == 0o700


def test_without_a_run_directory_there_is_no_queue(tmp_path: Path) -> None:
    with pytest.raises(QueueError, match="cannot be made"):
        DeleteQueue(tmp_path / "absent")


def test_a_new_queue_is_empty(queue: DeleteQueue) -> None:
    assert queue.entries() == ()


def test_what_was_put_is_an_entry(queue: DeleteQueue, home: Path) -> None:
    assert queue.put(frame(stdin=b"config")) == KEY
    (entry,) = queue.entries()
    assert (entry.key, entry.request.stdin) == (KEY, b"config")
    assert (home / "c1,eth0").stat().st_mode & 0o777 == 0o600


def test_a_frame_that_had_an_fd_is_kept_without(queue: DeleteQueue) -> None:
    with_fd = bytearray(frame())
    with_fd[6] = frames.FLAG_NETNS
    queue.put(bytes(with_fd))
    assert not queue.entries()[0].request.has_netns


def test_the_same_key_replaces(queue: DeleteQueue) -> None:
    queue.put(frame(stdin=b"old"))
    queue.put(frame(stdin=b"new"))
    assert [entry.request.stdin for entry in queue.entries()] == [b"new"]


def test_entries_come_oldest_first(queue: DeleteQueue, home: Path) -> None:
    for age, container_id in enumerate(["a", "c", "b"]):
        queue.put(frame(container_id))
        os.utime(home / f"{container_id},eth0", (0, 1000 - age))
    assert keys(queue) == ["b/eth0", "c/eth0", "a/eth0"]


def test_a_removed_entry_is_gone(queue: DeleteQueue) -> None:
    queue.put(frame("a"))
    queue.put(frame("b"))
    queue.remove(AttachmentKey(container_id="a", ifname="eth0"))
    assert keys(queue) == ["b/eth0"]


def test_removing_what_is_not_there_is_no_error(queue: DeleteQueue) -> None:
    queue.remove(KEY)
    assert queue.entries() == ()


def test_a_comma_in_the_ifname_is_kept(queue: DeleteQueue) -> None:
    queue.put(frame(ifname="a,b"))
    assert keys(queue) == ["c1/a,b"]


@pytest.mark.parametrize(
    ("container_id", "ifname"), [("", "eth0"), ("../x", "eth0"), ("a", ".."), ("a", "x" * 16)]
)
def test_unusable_names_are_not_put(queue: DeleteQueue, container_id: str, ifname: str) -> None:
    with pytest.raises(CniError):
        queue.put(frame(container_id, ifname))
    assert queue.entries() == ()


def test_only_a_del_is_put(queue: DeleteQueue) -> None:
    with pytest.raises(frames.FrameError, match="only a DEL"):
        queue.put(frame(verb="ADD"))


def test_a_full_queue_takes_no_new_key(queue: DeleteQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delete_queue, "ENTRY_LIMIT", 2)
    queue.put(frame("a"))
    queue.put(frame("b"))
    with pytest.raises(QueueError, match="is full: 2"):
        queue.put(frame("c"))
    assert keys(queue) == ["a/eth0", "b/eth0"]


def test_a_full_queue_still_replaces(queue: DeleteQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delete_queue, "ENTRY_LIMIT", 1)
    queue.put(frame(stdin=b"old"))
    queue.put(frame(stdin=b"new"))
    assert queue.entries()[0].request.stdin == b"new"


def write_garbage(path: Path) -> None:
    path.write_bytes(b"garbage")


def write_other_key(path: Path) -> None:
    path.write_bytes(frame("c2"))


def write_add(path: Path) -> None:
    path.write_bytes(frame(verb="ADD"))


def write_half(path: Path) -> None:
    path.write_bytes(frame()[:-1])


def make_link(path: Path) -> None:
    path.symlink_to("/etc/hostname")


def make_fifo(path: Path) -> None:
    os.mkfifo(path)


@pytest.mark.parametrize(
    "make",
    [
        Path.touch,
        write_garbage,
        write_half,
        write_other_key,
        write_add,
        make_link,
        make_fifo,
        Path.mkdir,
    ],
)
def test_a_damaged_entry_is_set_aside_and_told(
    queue: DeleteQueue, home: Path, make: Callable[[Path], None]
) -> None:
    make(home / "c1,eth0")
    queue.put(frame("good"))
    with capture_logs() as logs:
        assert keys(queue) == ["good/eth0"]
    assert [(line["event"], line["entry"]) for line in logs] == [
        ("queued_delete_damaged", "c1,eth0")
    ]
    assert names(home / "damaged") == {"c1,eth0"}
    assert keys(queue) == ["good/eth0"]


def test_a_damaged_entry_that_cannot_be_moved_is_skipped(queue: DeleteQueue, home: Path) -> None:
    (home / "damaged").touch()  # so that the directory cannot be made
    (home / "c1,eth0").touch()
    queue.put(frame("good"))
    assert keys(queue) == ["good/eth0"]


def test_temporary_files_are_removed_only_under_the_lock(queue: DeleteQueue, home: Path) -> None:
    temporary = home / ".c1,eth0.1.2"
    temporary.write_bytes(frame())
    assert queue.entries() == ()
    assert temporary.exists()
    queue.take_lock()
    assert queue.entries() == ()
    queue.release()
    assert not temporary.exists()


def test_the_lock_keeps_others_out_until_released(queue: DeleteQueue, tmp_path: Path) -> None:
    other = DeleteQueue(tmp_path)
    queue.take_lock()
    with pytest.raises(QueueError, match=r"was held for 0\.02 s"):
        other.take_lock(timeout_seconds=0.02)
    queue.release()
    other.take_lock(timeout_seconds=0.02)
    other.release()


def test_releasing_twice_leaves_the_fds_of_others_alone(queue: DeleteQueue) -> None:
    queue.take_lock()
    queue.release()
    reader, writer = os.pipe()  # the freed number is given out again
    queue.release()
    assert os.write(writer, b"x") == 1
    assert os.read(reader, 1) == b"x"
    os.close(reader)
    os.close(writer)


class Crash(BaseException):
    """The process ends here: no handler of the product runs on."""


SYSTEM_CALLS = ["open", "fsync", "rename", "fsync-of-the-directory"]


def fail_at(monkeypatch: pytest.MonkeyPatch, call: str, error: BaseException) -> None:
    """Let one system call of a write raise in place of being done."""
    real_open, real_fsync, real_rename = os.open, os.fsync, Path.rename

    def open_(path: os.PathLike[str], flags: int, *args: int) -> int:
        if call == "open" and flags & os.O_CREAT:
            raise error
        return real_open(path, flags, *args)

    def fsync(fd: int) -> None:
        is_directory = Path(f"/proc/self/fd/{fd}").is_dir()
        if call == ("fsync-of-the-directory" if is_directory else "fsync"):
            raise error
        real_fsync(fd)

    def rename(self: Path, target: Path) -> Path:
        if call == "rename":
            raise error
        return real_rename(self, target)

    monkeypatch.setattr(os, "open", open_)
    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "rename", rename)


@pytest.mark.parametrize("call", SYSTEM_CALLS)
def test_a_crash_during_a_put_leaves_the_old_entry_or_the_new(
    queue: DeleteQueue, tmp_path: Path, call: str
) -> None:
    queue.put(frame(stdin=b"old"))
    with pytest.MonkeyPatch.context() as patch:
        fail_at(patch, call, Crash())
        with pytest.raises(Crash):
            queue.put(frame(stdin=b"new"))
    after = DeleteQueue(tmp_path)
    after.take_lock()
    (entry,) = after.entries()
    after.release()
    assert entry.request.stdin == (b"new" if call == "fsync-of-the-directory" else b"old")
    assert names(tmp_path / "delete-queue") == {"c1,eth0", "lock"}


@pytest.mark.parametrize("call", SYSTEM_CALLS)
def test_a_full_disk_is_a_queue_error_and_leaves_no_temporary_file(
    queue: DeleteQueue, home: Path, call: str
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        fail_at(patch, call, OSError(errno.ENOSPC, "No space left on device"))
        with pytest.raises(QueueError, match="No space left"):
            queue.put(frame())
    assert not [name for name in names(home) if name.startswith(".")]


def test_a_failed_sync_of_a_removal_is_a_queue_error(queue: DeleteQueue) -> None:
    queue.put(frame())
    with pytest.MonkeyPatch.context() as patch:
        fail_at(patch, "fsync-of-the-directory", OSError(errno.EIO, "Input/output error"))
        with pytest.raises(QueueError, match="cannot be removed"):
            queue.remove(KEY)
