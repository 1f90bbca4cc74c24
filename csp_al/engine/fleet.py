"""The pilots that a driver has: as many as there is work for, taken over from the driver before, ended in the end."""

from __future__ import annotations

import errno
import math
import secrets
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any, Final

from csp_al import claim
from csp_al.engine.exchange import TERMS, Exchange, Terms, Word, Work
from csp_al.engine.jobs import Jobs, RefusedError, last_words
from csp_al.engine.local import raise_trouble
from csp_al.files import digest, make_directory, write_json
from csp_al.printing import say

ASK: Final = (2.0, 60.0)  # s between two questions to the scheduler: of a new job, and of one that waits for long
RETRY: Final = 60.0  # s until a scheduler that takes no more jobs is asked again
PATIENCE: Final = 86400.0  # s without any pilot, since none is taken, after which a driver ends
MOST_IN_VAIN: Final = 3  # times, one after the other, that pilots may end for a fault of their own
SILENCE: Final = 3 * claim.HEARTBEAT  # s without a sign of life after which a pilot is looked at more closely
GRACE: Final = 20.0  # s for pilots to end what they run


@dataclass(frozen=True)
class Crew:
    """What pilots there are: what each is to do, least and most of them, cores on each node, the Python they run."""

    terms: Terms
    least: int
    most: int
    cores_per_node: int
    python: Sequence[str]


class Fleet:
    """The pilots of one driver. Nothing is done before `open`."""

    def __init__(self, exchange: Exchange, jobs: Jobs, crew: Crew) -> None:
        self.exchange, self.jobs, self.crew = exchange, jobs, crew
        self.in_vain = 0
        self._driver = secrets.token_hex(8)
        self._word: Word | None = None
        self._beats: dict[str, tuple[float, float]] = {}  # last sign of life of a pilot, and when it was seen
        self._submitted: dict[str, float] = {}
        self._asked = -math.inf
        self._refused: float | None = None  # since when
        self._retry = -math.inf

    @property
    def work(self) -> Work | None:
        """What is wanted of the pilots; None before anything was."""
        return None if self._word is None else self._word.work

    @property
    def pilots(self) -> list[str]:
        """Their names."""
        return [] if self._word is None else list(self._word.jobs)

    def open(self) -> bool:
        """Begin, unless it has begun. Pilots of an earlier driver are taken over, or ended where terms differ."""
        if self.work is Work.OPEN:
            return False
        self.exchange.make()
        self.exchange.forget_queue()
        folder = self.exchange.folder.stat().st_ino
        terms = digest({"terms": asdict(self.crew.terms), "version": version("csp_al")})
        word = Word(folder, self._driver, terms, self.jobs.scheduler)
        before = self._word or self.exchange.word()
        if before is not None and before.folder == folder:  # else it came with a copy, and the pilots are another's
            word.core_seconds = before.core_seconds
            if before.scheduler == word.scheduler:
                word.jobs = before.jobs
                self.jobs.adopt([known for name, known in word.jobs.items() if known and not self._is_over(name)])
        self._word = word
        for name in self.pilots:
            if before is not None and before.terms != terms:
                self._bury(name)
        for name in set(self.exchange.pilots()) - set(word.jobs):
            shutil.rmtree(self.exchange.pilot(name), ignore_errors=True)
        self.exchange.say(word)
        return True

    def tend(self, tasks: int) -> None:
        """Bury the pilots that have ended, and submit those that so many tasks want.

        Raises what a pilot could not go on for, OSError or DamagedError, and OSError where pilots keep ending before
        they begin, or where the scheduler takes none for a day.
        """
        if self._is_anothers():
            return
        assert self._word is not None  # it is open
        before = asdict(self._word)
        faults = [self._bury(name) for name in self.pilots if self._is_over(name)]
        faults += self._bury_those_that_never_began()
        self._judge([fault for fault in faults if fault])
        wanted = math.ceil(tasks / self.crew.terms.slots)
        self._hire(min(self.crew.most, max(self.crew.least, wanted)) - len(self._word.jobs))
        self._word.kept = self.pilots[: self.crew.least]
        if asdict(self._word) != before:
            self.exchange.say(self._word)

    def dismiss(self, work: Work) -> None:
        """Let the pilots end, at once or when they are through, and nothing wait for them."""
        assert self._word is not None  # there are pilots, or were
        self._word.work = work
        self.exchange.say(self._word)
        self.exchange.forget_queue()

    def close(self) -> None:
        """End all pilots, also those that a driver has left that was killed."""
        if self._is_anothers() or (self._word is None and not getattr(self.exchange.word(), "jobs", None)):
            return
        self.open()
        self.dismiss(Work.CLOSED)
        assert self._word is not None  # it was opened
        self.jobs.cancel([known for name, known in self._word.jobs.items() if known and not self._is_over(name)])
        deadline = time.monotonic() + GRACE
        while any(self._is_alive(name) for name in self.pilots) and time.monotonic() < deadline:
            time.sleep(0.1)
        for name in self.pilots:
            self._bury(name, cancel=False)
        self.exchange.forget_queue()
        self.exchange.say(self._word)

    def _is_anothers(self) -> bool:
        """Whether another driver has taken the pilots over from this one, while this one slept."""
        word = self.exchange.word()
        return self._word is not None and word is not None and word.driver != self._driver

    def _is_alive(self, name: str) -> bool:
        """Whether a pilot is at work; what a killed one leaves counts no longer than it takes to be sure."""
        folder, now = self.exchange.pilot(name), time.monotonic()
        if claim.token(folder) is None:
            return False
        beat, seen = self.exchange.beat(name), self._beats.get(name)
        if seen is None and not claim.is_taken(folder):
            return False
        if seen is None or beat != seen[0]:
            self._beats[name] = (beat, now)
            return True
        return now - seen[1] < SILENCE or claim.is_taken(folder)

    def _is_over(self, name: str) -> bool:
        return self.exchange.begun(name) is not None and not self._is_alive(name)

    def _bury(self, name: str, *, cancel: bool = True) -> Mapping[str, Any] | None:
        """Forget a pilot, which ends if it lives; what it had waits again. What it could not go on for, if anything."""
        assert self._word is not None  # there are pilots
        folder, known = self.exchange.pilot(name), self._word.jobs.pop(name)
        self._beats.pop(name, None)
        begun, trouble = self.exchange.begun(name), self.exchange.trouble(name)
        if cancel and known and (begun is None or claim.token(folder) is not None):  # it did not end by itself
            self.jobs.cancel([known])
        self.jobs.forget(known)
        self._word.core_seconds += self.exchange.lasted(name)
        self.exchange.give_back(name)
        if begun is None and trouble is None and known:
            words = last_words(folder) or f"nothing; do the nodes share {self.exchange.folder}?"
            trouble = {"errno": errno.EIO, "words": f"a pilot ended before it began, and said {words}", "file": None}
        shutil.rmtree(folder, ignore_errors=True)
        return trouble

    def _bury_those_that_never_began(self) -> list[Mapping[str, Any] | None]:
        """Forget pilots that wait for jobs that are over, as far as the scheduler says so."""
        assert self._word is not None  # it is open
        waiting = {name: known for name, known in self._word.jobs.items() if self.exchange.begun(name) is None}
        now = time.monotonic()
        youngest = min((now - self._submitted.get(name, -math.inf) for name in waiting), default=math.inf)
        if not waiting or now - self._asked < min(max(youngest / 2, ASK[0]), ASK[1]):
            return []
        self._asked = now
        over = [name for name, over in zip(waiting, self.jobs.are_over(list(waiting.values())), strict=True) if over]
        return [self._bury(name) for name in over if self.exchange.begun(name) is None]

    def _judge(self, faults: Sequence[Mapping[str, Any]]) -> None:
        """Raise what pilots could not go on for, where that is no bad luck."""
        if not faults:
            return
        self.in_vain += 1
        if self.in_vain >= MOST_IN_VAIN or any("errno" not in fault for fault in faults):
            raise_trouble(next((fault for fault in faults if "errno" not in fault), faults[-1]))

    def _hire(self, count: int) -> None:
        """Submit so many pilots, as far as the scheduler takes them."""
        assert self._word is not None  # it is open
        if count <= 0 or time.monotonic() < self._retry:
            return
        root = self.exchange.root.absolute()
        for _ in range(count):
            name = f"pilot-{secrets.token_hex(8)}"
            folder = self.exchange.pilot(name)
            make_directory(folder)
            write_json(folder / TERMS, asdict(self.crew.terms))
            self._word.jobs[name] = {}  # first, lest a job is nobody's whose driver is killed now
            self.exchange.say(self._word)
            command = [*self.crew.python, "-P", "-m", "csp_al.engine.pilot", str(root), name]
            called = f"csp-al-{root.parent.name}"
            try:
                self._word.jobs[name] = self.jobs.submit(folder.absolute(), called, command, self.crew.cores_per_node)
            except RefusedError as refused:
                del self._word.jobs[name]
                shutil.rmtree(folder, ignore_errors=True)
                self._be_refused(str(refused))
                return
            self._submitted[name] = time.monotonic()
            self.exchange.say(self._word)
        self._refused, self._word.refused = None, ""

    def _be_refused(self, words: str) -> None:
        """Ask again later, and say so. Raises OSError where that has gone on for too long."""
        assert self._word is not None  # it is open
        now = time.monotonic()
        self._refused = now if self._refused is None else self._refused
        self._retry = now + RETRY
        if not self._word.jobs and now - self._refused > PATIENCE:
            raise OSError(errno.EAGAIN, f"no pilot for {PATIENCE / 3600:g} h: {words}", str(self.exchange.folder))
        if words != self._word.refused:
            say(f"Warning: no further pilot for now: {words}. The scheduler is asked again every minute.", err=True)
        self._word.refused = words
