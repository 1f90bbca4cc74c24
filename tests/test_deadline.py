"""Time in which a calculation was stopped does not count against its limit."""

from __future__ import annotations

import signal
import subprocess

import pytest

from csp_al.engine.deadline import Deadline
from csp_al.reference.children import any_stopped


class Clock:
    """A clock that the test moves, and a calculation that it stops."""

    def __init__(self) -> None:
        self.now, self.is_stopped = 0.0, False

    def pass_(self, seconds: float, deadline: Deadline, every: float = 0.5) -> bool:
        """Whether the limit has passed at the end of so many seconds, with a look every fraction of one."""
        over = False
        for _ in range(round(seconds / every)):
            self.now += every
            over = deadline.is_over()
        return over


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def deadline(clock) -> Deadline:
    return Deadline(60.0, lambda: clock.is_stopped, lambda: clock.now)


def test_limit_is_for_each_evaluation(clock, deadline):
    assert not clock.pass_(59, deadline)
    deadline.restart()
    assert not clock.pass_(59, deadline)
    assert clock.pass_(2, deadline)


def test_calculation_that_a_scheduler_suspends_has_its_time_left_when_it_goes_on(clock, deadline):
    assert not clock.pass_(30, deadline)
    clock.is_stopped = True
    assert not clock.pass_(3600, deadline)
    clock.is_stopped = False
    assert not clock.pass_(20, deadline)
    assert clock.pass_(20, deadline)


def test_watcher_that_slept_blames_nobody(clock, deadline):
    assert not clock.pass_(30, deadline)
    clock.now += 3600
    assert not deadline.is_over()
    assert not clock.pass_(29, deadline)
    assert clock.pass_(2, deadline)


def test_stopped_process_is_told_from_a_running_one():
    with subprocess.Popen(["sleep", "60"]) as child:
        try:
            assert not any_stopped()
            child.send_signal(signal.SIGSTOP)
            while not any_stopped():
                pass
            child.send_signal(signal.SIGCONT)
            while any_stopped():
                pass
        finally:
            child.kill()
