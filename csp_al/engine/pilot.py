"""The pilot: what runs in a job of a cluster, computes the tasks that it takes from the queue, and ends in time.

    python -m csp_al.engine.pilot runs/si8/tasks pilot-0123456789abcdef

It has slots as the local engine has, and needs its driver for nothing: where that dies, it goes on with what is in the
queue. It takes up no task that may not end before its walltime, ends what still runs then, gives back what it has
taken, and ends early where there is nothing to do. On SIGTERM it does so at once, with exit status 143.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import sys
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any, Final, NoReturn

from csp_al import claim
from csp_al.campaign.machine import Machine
from csp_al.engine.attempt import directory_of
from csp_al.engine.exchange import BEGUN, TROUBLE, Begun, Exchange, Terms, Ticket, Word, Work
from csp_al.engine.local import JOB_BEGAN, LABELS, STAGES, LocalEngine
from csp_al.engine.tasks import is_done
from csp_al.files import DamagedError, write_json
from csp_al.printing import replace_unknown_letters, say

SHORTEST: Final = 0.05  # s between two looks while something happens
LONGEST: Final = 1.0  # s between two looks otherwise: file systems of clusters are shared by many
IDLE: Final = 120.0  # s without work after which a pilot ends
IDLE_KEPT: Final = 3600.0  # the same of one that is kept, lest it waits for ever for a driver that was killed
FRESH: Final = 60.0  # s in which a pilot has just begun
KNOWN: Final = 3  # tasks after which a pilot goes by how long they took
MARGIN: Final = 2.0  # times the longest of them, beyond which it does not expect the next one to take


class Pilot:
    """One pilot at work."""

    def __init__(self, root: Path, name: str, terms: Terms, left: float) -> None:
        """``left``: s until it ends what it runs."""
        self.root, self.name, self.slots = root, name, terms.slots
        self.exchange = Exchange(root)
        self.folder = self.exchange.pilot(name)
        worker = STAGES if terms.stages else LABELS
        self.engine = LocalEngine(root, Machine.model_validate(terms.machine), self.folder, worker)
        self.ready = time.monotonic()
        self.deadline = self.ready + left
        self.held: dict[Ticket, float] = {}  # since when
        self.took: list[float] = []  # s that each task took that was done here
        self.wait = False  # whether more time is needed for what is in the queue

    def work(self, mine: Path) -> None:
        """Take and compute tasks until there is a reason to end; what is not done then is given back.

        ``mine`` is the claim of this pilot. Raises what `LocalEngine.tick` does.
        """
        try:
            self._work(mine)
        finally:
            self.engine.close()
            with suppress(OSError):  # the folder may be gone
                self._let_go()
                self.exchange.give_back(self.name)
                os.utime(self.folder / BEGUN)

    def _work(self, mine: Path) -> None:
        pause, busy = SHORTEST, self.ready
        beat = -claim.HEARTBEAT
        while (now := time.monotonic()) < self.deadline and not claim.is_lost(mine):
            claim.touch(mine)
            if now - beat >= claim.HEARTBEAT:
                os.utime(self.folder / BEGUN)
                beat = now
            self.engine.tick()
            for task in self.engine.lost():
                self.engine.submit(task)
            changed = self._let_go()
            word = self.exchange.word()
            if word and (word.work is Work.CLOSED or self.name not in word.jobs):
                return
            if word and word.work is Work.OPEN:
                changed += self._take()
            if self.held:
                busy = now
            elif self._is_of_no_use(word, now - busy):
                return
            pause = SHORTEST if changed else min(2 * pause, LONGEST)
            time.sleep(pause)

    def _let_go(self) -> int:
        """Of tickets whose tasks are done: how many there were."""
        done = [ticket for ticket in self.held if is_done(self.root, ticket.task)]
        for ticket in done:
            self.exchange.forget(ticket, self.name)
            self.took.append(time.monotonic() - self.held.pop(ticket))
        return len(done)

    def _take(self) -> int:
        """As many tickets as there are slots free: how many there were."""
        taken, self.wait = 0, False
        if len(self.held) >= self.slots:
            return taken
        for ticket in self.exchange.waiting():
            if len(self.held) >= self.slots:
                break
            if not self._has_time_for(ticket):
                self.wait = True
            elif self.exchange.take(ticket, self.name):
                self.held[ticket] = time.monotonic()
                self.engine.submit(ticket.task)
                taken += 1
        return taken

    def _has_time_for(self, ticket: Ticket) -> bool:
        """Whether a task ends in time: by its limit, or, where it was not tried yet, by what others took.

        What no pilot would have time for is for one that has just begun.
        """
        now, seconds = time.monotonic(), float(ticket.seconds)
        if len(self.took) >= KNOWN and not directory_of(self.root / ticket.task, 1).exists():
            seconds = min(seconds, MARGIN * max(self.took))
        fresh = now - self.ready < FRESH and seconds > self.deadline - self.ready
        return seconds <= self.deadline - now or fresh

    def _is_of_no_use(self, word: Word | None, idle: float) -> bool:
        """Whether a pilot without work should end: it was told to, a new one has more time, or there is none to do."""
        left = word is not None and word.work is Work.LEFT
        kept = word is not None and self.name in word.kept
        return left or self.wait or idle > (IDLE_KEPT if kept else IDLE)


def main(root: Path, name: str) -> None:
    """Be the pilot of this name. What it cannot go on for is left in its folder, and is for its driver to say."""
    signal.signal(signal.SIGTERM, _on_sigterm)
    replace_unknown_letters()
    exchange = Exchange(root.absolute())
    folder = exchange.pilot(name)
    try:
        terms = exchange.terms(name)
    except FileNotFoundError:
        say(f"{folder}: nobody waits for this pilot any more, or the folder is not here")
        return
    mine = claim.take(folder)
    if mine is None:
        raise SystemExit(f"{folder}: another process is this pilot; start one in each job")
    began = float(os.environ.get(JOB_BEGAN) or time.time())
    write_json(folder / BEGUN, asdict(Begun(socket.gethostname(), os.getpid(), began, terms.cores)))
    left = terms.seconds - (time.time() - began) if terms.seconds else float("inf")
    try:
        Pilot(root.absolute(), name, terms, left).work(mine)
    except Exception as error:
        with suppress(OSError):
            write_json(folder / TROUBLE, _as_trouble(error))
        raise
    finally:
        claim.clear(folder)


def _as_trouble(error: Exception) -> dict[str, Any]:
    """As workers say it."""
    if isinstance(error, DamagedError):
        return {"damaged": str(error.path), "words": error.what}
    if isinstance(error, OSError):
        return {"errno": error.errno, "words": error.strerror, "file": str(error.filename or "")}
    if isinstance(error, ValueError):
        return {"refused": str(error)}
    return {"errno": errno.EIO, "words": f"{type(error).__name__}: {error}", "file": "the pilot"}


def _on_sigterm(signum: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough: what follows cleans up
    raise SystemExit(128 + signal.SIGTERM)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
