"""When another thread is hired, and when all are idle."""

from __future__ import annotations

import threading
from contextlib import ExitStack

import pytest
from cni_shim.crew import Crew


def made(*, first: int = 2, most: int = 4) -> tuple[Crew, list[int]]:
    hired: list[int] = []
    crew = Crew(first=first, most=most)
    crew.start(hired.append)
    return crew, hired


@pytest.mark.parametrize(
    ("at_work", "expected"), [(0, 2), (1, 2), (2, 3), (3, 4), (4, 4)],
    ids=["none", "one", "all of the first", "more", "as many as may be"],
)  # fmt: skip
def test_one_more_is_hired_than_were_ever_at_work(at_work: int, expected: int) -> None:
    crew, hired = made()
    with ExitStack() as stack:
        for _ in range(at_work):
            stack.enter_context(crew.working())

    assert hired == list(range(expected))


def test_who_was_hired_once_serves_the_next_rush() -> None:
    crew, hired = made()
    for _ in range(2):
        with ExitStack() as stack:
            for _ in range(3):
                stack.enter_context(crew.working())

    assert len(hired) == 4


def test_where_no_thread_can_be_started_those_that_are_there_go_on() -> None:
    crew, hired = Crew(first=1, most=9), list[int]()

    def hire(number: int) -> None:
        if len(hired) == 1:
            hired.append(-1)
            raise RuntimeError("can't start new thread")
        hired.append(number)

    crew.start(hire)
    for _ in range(2):
        with crew.working():
            pass

    assert hired == [0, -1, 1]


def test_idle_is_when_nobody_works() -> None:
    crew, _ = made()
    with crew.working():
        is_idle_early = crew.wait_until_idle(timeout_seconds=0.01)
        waiter = threading.Thread(target=crew.wait_until_idle, kwargs={"timeout_seconds": 5.0})
        waiter.start()
    waiter.join(timeout=5.0)

    assert (is_idle_early, waiter.is_alive()) == (False, False)
