"""Which thread gets a connection, and that none is left waiting."""

from __future__ import annotations

import errno
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from queue import SimpleQueue

import pytest
from cni_shim.accepting import Accepting

SECONDS = 5.0


class Workers:
    """Threads that accept; each answers with its number and holds the connection until told."""

    def __init__(self, path: Path, count: int) -> None:
        self._path = path
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(str(path))
        listener.listen(64)
        self._accepting = Accepting(listener)
        self._waits: SimpleQueue[int] = SimpleQueue()
        for number in range(count):
            threading.Thread(target=self._work, args=(number,), daemon=True).start()
        for _ in range(count):
            self._waits.get(timeout=SECONDS)

    def _work(self, number: int) -> None:
        while True:
            self._waits.put(number)
            with self._accepting.accept() as connection:
                connection.sendall(bytes([number]))
                connection.recv(1)  # until the peer closes

    def connect(self) -> socket.socket:
        """A new connection, whether anybody takes it or not."""
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        made.settimeout(SECONDS)
        made.connect(str(self._path))
        return made

    def served_by(self) -> int:
        """Who serves one request; returns when that worker waits again."""
        with self.connect() as made:
            number = made.recv(1)[0]
        assert self._waits.get(timeout=SECONDS) == number
        return number


@pytest.fixture
def workers(tmp_path: Path) -> Workers:
    return Workers(tmp_path / "s", 8)


def test_one_worker_serves_all_requests_that_come_one_after_the_other(workers: Workers) -> None:
    served = [workers.served_by() for _ in range(40)]

    # "Waits again" is said just before a worker does, so now and then another is before it.
    assert max(served.count(number) for number in set(served)) > 20


def test_connections_at_once_get_a_worker_each(workers: Workers) -> None:
    with ExitStack() as stack:
        made = [stack.enter_context(workers.connect()) for _ in range(8)]

        assert {one.recv(1)[0] for one in made} == set(range(8))


def test_a_connection_that_found_no_worker_free_is_served_by_the_next_that_is(
    workers: Workers,
) -> None:
    with ExitStack() as stack:
        made = [stack.enter_context(workers.connect()) for _ in range(9)]
        served = [one.recv(1)[0] for one in made[:8]]
        made[3].close()

        assert made[8].recv(1)[0] == served[3]


class Scarce(socket.socket):
    """A listener that at first has nothing to accept with."""

    refusals = 0

    def accept(self) -> tuple[socket.socket, object]:
        if self.refusals:
            self.refusals -= 1
            raise OSError(self.error, "no more")
        return super().accept()

    error = errno.EMFILE


@pytest.fixture
def scarce(tmp_path: Path) -> Iterator[tuple[Scarce, socket.socket]]:
    """It, and a client that waits for it."""
    with (
        Scarce(socket.AF_UNIX, socket.SOCK_STREAM) as listener,
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client,
    ):
        listener.bind(str(tmp_path / "s"))
        listener.listen(1)
        client.connect(str(tmp_path / "s"))
        yield listener, client


def test_a_connection_waits_where_the_process_has_no_descriptor_left(
    scarce: tuple[Scarce, socket.socket],
) -> None:
    listener, client = scarce
    listener.refusals = 2

    with Accepting(listener).accept() as accepted:
        accepted.sendall(b"!")

    assert client.recv(1) == b"!"


def test_a_listener_that_is_none_is_an_error(scarce: tuple[Scarce, socket.socket]) -> None:
    listener, _ = scarce
    listener.refusals, listener.error = 1, errno.EINVAL

    with pytest.raises(OSError, match="no more"):
        Accepting(listener).accept()
