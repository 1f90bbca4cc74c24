"""Tasks for the pilots of a cluster, which take them from a queue of files.

    engine = PilotEngine(run / "tasks", jobs, Crew(terms, least=0, most=8, python=["python"], ...))

The driver may end at any time. What waits, what the pilots have taken and the ids of their jobs is in the file system:
the pilots go on, and the next driver takes them over.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from csp_al import claim
from csp_al.engine.calculation import reference_section
from csp_al.engine.exchange import Exchange, Work
from csp_al.engine.fleet import Crew, Fleet
from csp_al.engine.jobs import Jobs
from csp_al.engine.tasks import is_done, read_task, require_task

LOOK: Final = 1.0  # s between two looks at the pilots: file systems of clusters are shared by many


def longest_evaluation(root: Path, task: str) -> float:
    """S that one evaluation of a task of the reference may take."""
    return reference_section(read_task(root, task)).longest_evaluation


class PilotEngine:
    """A `csp_al.interfaces.Engine` on a cluster; jobs are submitted when there is work for them."""

    def __init__(
        self, root: Path, jobs: Jobs, crew: Crew, lasts: Callable[[Path, str], float] = longest_evaluation
    ) -> None:
        """``lasts`` says how long (s) a task may take that a pilot should not begin too late."""
        self.root, self.longest, self.lasts = root, crew.terms.seconds, lasts
        self.exchange = Exchange(root)
        self.fleet = Fleet(self.exchange, jobs, crew)
        self._known: set[str] = set()  # tasks that wait or that a pilot has, when last looked
        self._submitted: dict[str, None] = {}
        self._looked = -math.inf

    def submit(self, task: str) -> None:
        """Queue the task of this id; a task that is queued, running or finished is left alone.

        Raises ValueError where there is no such task, and where no pilot lasts as long as an evaluation may take.
        """
        if is_done(self.root, task):
            return
        require_task(self.root, task)
        seconds = self.lasts(self.root, task)
        if self.longest is not None and seconds > self.longest:
            most = f"{self.longest:g} s, for which a pilot works (walltime of the machine file)"
            raise ValueError(f"an evaluation may take {seconds:g} s (reference.time_limit), longer than {most}")
        if self.fleet.open():
            self._look()
        self._submitted[task] = None
        if task not in self._known:
            self.exchange.put(task, seconds)
            self._known.add(task)

    def tick(self) -> None:
        """See what pilots there are, and submit jobs for those that are wanted. Raises as `Fleet.tend`."""
        if self.fleet.work is Work.OPEN and time.monotonic() - self._looked > LOOK:
            self.fleet.tend(len(self._known))
            self._look()

    def lost(self) -> list[str]:
        """Tasks that were submitted, are not finished, and that neither waits nor any pilot or process has."""
        unknown = [task for task in self._submitted if task not in self._known]
        for task in filter(lambda task: is_done(self.root, task), unknown):
            del self._submitted[task]
            self.fleet.in_vain = 0
        return [task for task in unknown if task in self._submitted and not claim.is_taken(self.root / task)]

    def close(self) -> None:
        """End all pilots and what they run, within seconds, and cancel those that wait for their jobs."""
        self.fleet.close()
        self._known.clear()

    def leave(self) -> None:
        """Let go of the pilots: each finishes what it has, and ends."""
        if self.fleet.work is Work.OPEN:
            self.fleet.dismiss(Work.LEFT)
            self._look()

    def _look(self) -> None:
        """Note what waits and what pilots have.

        The queue comes first, and last again: what is taken, or given back, while one looks would be missed.
        """
        waiting = self.exchange.waiting()
        held = [ticket for pilot in self.fleet.pilots for ticket in self.exchange.held(pilot)]
        self._known = {ticket.task for ticket in (*waiting, *held, *self.exchange.waiting())}
        self._looked = time.monotonic()
