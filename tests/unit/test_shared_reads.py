"""Reads that share an answer, with real threads and no sleeps."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Event

import pytest

from ipamd.errors import Throttled
from providers.shared_reads import FRESH_SECONDS, SharedReads


class Slow:
    """A read that lasts until it is told to end; each answer is the number of the read."""

    def __init__(self) -> None:
        self.began = Event()
        self.may_end = Event()
        self.count = 0

    def __call__(self) -> int:
        self.count += 1
        mine = self.count
        self.began.set()
        assert self.may_end.wait(10)
        return mine


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as made:
        yield made


def under_way(pool: ThreadPoolExecutor, reads: SharedReads, slow: Slow) -> Future[int]:
    first = pool.submit(reads.read, "k", slow)
    assert slow.began.wait(10)
    slow.began.clear()
    return first


def joined(pool: ThreadPoolExecutor, reads: SharedReads, slow: Slow) -> Future[int]:
    """A second question while the first is under way."""
    asked = Event()

    def ask() -> int:
        asked.set()
        return reads.read("k", slow)

    second = pool.submit(ask)
    assert asked.wait(10)
    return second


def test_questions_at_the_same_time_share_one_read(pool: ThreadPoolExecutor) -> None:
    reads, slow = SharedReads(), Slow()
    first = under_way(pool, reads, slow)
    second = joined(pool, reads, slow)
    assert not slow.began.wait(0.05)
    slow.may_end.set()
    assert (first.result(), second.result()) == (1, 1)


def test_a_question_after_a_change_gets_a_read_of_its_own(pool: ThreadPoolExecutor) -> None:
    reads, slow = SharedReads(), Slow()
    first = under_way(pool, reads, slow)
    with reads.changing():
        pass
    second = joined(pool, reads, slow)
    assert slow.began.wait(10)
    slow.may_end.set()
    assert (first.result(), second.result()) == (1, 2)


def test_a_read_that_began_during_a_change_does_not_answer_after_it(
    pool: ThreadPoolExecutor,
) -> None:
    reads, slow = SharedReads(), Slow()
    with reads.changing():
        first = under_way(pool, reads, slow)
    second = joined(pool, reads, slow)
    assert slow.began.wait(10)
    slow.may_end.set()
    assert (first.result(), second.result()) == (1, 2)


def test_a_failed_change_counts_as_one() -> None:
    reads, made = SharedReads(), iter((1, 2))
    assert reads.read("k", lambda: next(made), fresh_seconds=60) == 1
    with pytest.raises(KeyError), reads.changing():
        raise KeyError
    assert reads.read("k", lambda: next(made), fresh_seconds=60) == 2


def test_a_fresh_answer_serves_again_and_an_old_one_does_not() -> None:
    now = [0.0]
    reads, made = SharedReads(lambda: now[0]), iter((1, 2, 3))

    def ask(fresh_seconds: float) -> int:
        return reads.read("k", lambda: next(made), fresh_seconds=fresh_seconds)

    assert [ask(FRESH_SECONDS), ask(FRESH_SECONDS)] == [1, 1]
    now[0] += FRESH_SECONDS
    assert [ask(FRESH_SECONDS), ask(0.0)] == [2, 3]


def test_an_error_is_everybodys_and_is_not_kept(pool: ThreadPoolExecutor) -> None:
    reads = SharedReads()

    def fail() -> int:
        raise Throttled("slow down")

    with pytest.raises(Throttled):
        reads.read("k", fail, fresh_seconds=60)
    assert reads.read("k", lambda: 5, fresh_seconds=60) == 5


def test_other_questions_have_their_own_answers() -> None:
    reads = SharedReads()
    assert reads.read("a", lambda: 1, fresh_seconds=60) == 1
    assert reads.read("b", lambda: 2, fresh_seconds=60) == 2
