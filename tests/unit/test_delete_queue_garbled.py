"""The queue's directory with anything in it: what is whole is read, all else is set aside."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cni_shim import frames
from cni_shim.delete_queue import DeleteQueue
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

GOOD = frames.pack_request(
    frames.Request(
        deadline_ms=1,
        env=tuple(
            frames.EnvVar(name=name, value=value)
            for name, value in (
                ("CNI_COMMAND", "DEL"),
                ("CNI_CONTAINERID", "c1"),
                ("CNI_IFNAME", "eth0"),
            )
        ),
        stdin=b'{"name": "net"}',
    )
)
KINDS = ("file", "directory", "link", "dangling link", "fifo", "hard link")


@st.composite
def contents(draw: st.DrawFn) -> bytes:
    """A whole entry, or one with bytes changed, cut off, or put behind it."""
    data = bytearray(GOOD)
    for _ in range(draw(st.integers(0, 3))):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    cut = draw(st.one_of(st.just(len(data)), st.integers(0, len(data))))
    return bytes(data[:cut]) + draw(st.binary(max_size=8))


names = st.one_of(
    st.sampled_from(
        [b"c1,eth0", b"c2,eth0", b"c1,", b",eth0", b",", b".c1,eth0.1.2", b"a\nb,eth0"]
    ),
    st.binary(min_size=1, max_size=30).filter(lambda name: not {0, 47} & set(name)),
).filter(lambda name: name not in (b".", b"..", b"lock", b"damaged"))


@contextmanager
def directory(made: dict[bytes, tuple[str, bytes]]) -> Iterator[Path]:
    """A run directory whose queue holds these."""
    top = Path(tempfile.mkdtemp())
    try:
        home = os.fsencode(top / "delete-queue")
        os.mkdir(home, 0o700)  # noqa: PTH102 - bytes: names need not be UTF-8
        for name, (kind, data) in made.items():
            make(home + b"/" + name, kind, data, top)
        yield top
    finally:
        shutil.rmtree(top)


def make(path: bytes, kind: str, data: bytes, top: Path) -> None:
    outside = top / "outside"
    outside.write_bytes(GOOD)
    match kind:
        case "file":
            Path(os.fsdecode(path)).write_bytes(data)
        case "directory":
            Path(os.fsdecode(path)).mkdir()
        case "link":
            Path(os.fsdecode(path)).symlink_to(outside)
        case "dangling link":
            Path(os.fsdecode(path)).symlink_to(top / "nothing")
        case "fifo":
            os.mkfifo(path)
        case "hard link":
            Path(os.fsdecode(path)).hardlink_to(outside)


@settings(max_examples=60)
@given(made=st.dictionaries(names, st.tuples(st.sampled_from(KINDS), contents()), max_size=6))
def test_every_entry_is_read_or_set_aside_and_nothing_outside_is_touched(
    made: dict[bytes, tuple[str, bytes]],
) -> None:
    with directory(made) as top, capture_logs():
        queue = DeleteQueue(top)
        queue.take_lock()
        entries = queue.entries()
        again = queue.entries()
        queue.release()
        assert entries == again, "what was set aside is not met again"
        held = {os.fsencode(f"{e.key.container_id},{e.key.ifname}") for e in entries}
        assert held <= set(made)
        assert all(made[name][0] in ("file", "hard link") for name in held)
        left = set(os.listdir(os.fsencode(top / "delete-queue")))  # noqa: PTH208 - bytes
        entries_left = {name for name in left if b"," in name and not name.startswith(b".")}
        assert entries_left == held, "an entry is neither read nor aside"
        if (top / "outside").exists():
            assert (top / "outside").read_bytes() == GOOD


@settings(max_examples=30)
@given(made=st.dictionaries(names, st.tuples(st.sampled_from(KINDS), contents()), max_size=3))
def test_every_entry_can_be_removed_and_put_again(made: dict[bytes, tuple[str, bytes]]) -> None:
    with directory(made) as top, capture_logs():
        queue = DeleteQueue(top)
        for entry in queue.entries():
            queue.remove(entry.key)
            queue.put(frames.pack_request(entry.request))
            queue.remove(entry.key)
        assert queue.entries() == ()
