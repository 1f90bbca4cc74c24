"""What the user sees while a campaign runs: a live panel on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Final, Self

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table
from rich.text import Text

from csp_al import objective
from csp_al.campaign.models import Campaign
from csp_al.events import Advanced, Calculated, CycleJudged, Event, LabelsImported, Noted, StageStarted, Warned
from csp_al.printing import printable_lines
from csp_al.report.plan import duration

BASIS: Final = 0.05
"""Share of a stage that must be done before it is said how long the rest takes: the first of many relaxations converge
long after the start."""

DOING = {
    "elsewhere": "reading labels from elsewhere",
    "pool": "generating candidates",
    "label": "labelling by the reference",
    "check": "checking forces and stress of the reference",
    "train": "training the ensemble",
    "foundation": "relaxations of the pool by the foundation",
    "relax": "relaxations of the pool",
    "direct": "training the direct relaxer",
    "grow": "breeding offspring of the leaders",
    "rank": "scoring and clustering",
    "verdict": "comparing the leaders with those of the cycle before",
    "select": "choosing what to label next",
    "winners": "relaxing the winners by the reference",
}


QUIET, NORMAL, VERBOSE = -1, 0, 1
"""How much is told: warnings and how it ended; each stage and cycle; how far stages are and each calculation, too."""

ROWS: Final = 20
"""Cycles that are drawn while a campaign runs: a thousand, four times a second, would take two cores."""


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Whoever read has gone: go on in silence, since the run directory tells everything as well."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@dataclass(frozen=True)
class Pace:
    """How far a stage was when it was first heard of, and when it last went on; times in s."""

    since: float
    first: int
    at: float
    done: int
    all: int

    def advanced(self, at: float, done: int, everything: int) -> Pace:
        """The pace once so much is done; one that goes back, or has another end, begins anew."""
        if done < self.done or everything != self.all:
            return Pace(at, done, at, done, everything)
        return self if done == self.done else replace(self, at=at, done=done)

    def left(self, now: float) -> float | None:
        """Seconds that the rest takes, if it goes on like this; None where too little was done to tell."""
        made = self.done - self.first
        if self.done >= self.all or made < max(1, BASIS * self.all):
            return None
        return max(0.0, (self.at - self.since) / made * (self.all - self.done) - (now - self.at))


class _LeftColumn(ProgressColumn):
    """How long the stage still takes, where there is a basis to say so."""

    def render(self, task: Task) -> Text:
        pace: Pace | None = task.fields.get("pace")
        left = pace.left(monotonic()) if pace else None
        return Text(f"about {duration(left)} left" if left else "")


class Panel:
    """Listens to the loop. A terminal that can draw has the stage under way and the last cycles, others lines.

    All cycles are shown in the end.
    """

    def __init__(self, campaign: Campaign, directory: Path, loudness: int = NORMAL) -> None:
        self.console = _Console()
        self.loudness = loudness
        self.told = 0
        self.live: Live | None = None
        self.pace: Pace | None = None
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            _LeftColumn(),
            console=self.console,
        )
        self.task = self.progress.add_task("starting", total=None)
        self.heading = f"{campaign.name}: {campaign.candidates}"
        self.cycles: list[list[str]] = []
        self.most = ROWS
        self.title = f"{campaign.name}: running in {directory}"
        self.clock: Callable[[], datetime] = datetime.now
        """Of the user; whoever follows another's log sets that of the lines."""

    def __enter__(self) -> Self:
        if self.loudness > QUIET:
            self.note(self.title)
        if self.draws and self.loudness > QUIET:
            self.live = Live(get_renderable=self._drawn, console=self.console, refresh_per_second=4)
            self.live.__enter__()
        return self

    @property
    def draws(self) -> bool:
        """Whether the terminal can draw, and is one."""
        return self.console.is_terminal and not self.console.is_dumb_terminal

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.live is not None:
            self.progress.remove_task(self.task)
            self.most = len(self.cycles)
            self.live.__exit__(kind, error, trace)

    def tell(self, event: Event) -> None:
        """Show what happened."""
        if self.loudness > QUIET or isinstance(event, Warned):
            self._tell(event)

    def begin_again(self) -> None:
        """Another driver goes on, and tells of all cycles again."""
        self.cycles.clear()

    def date_back(self, seconds: float) -> None:
        """The stage under way began so long ago (s), and not when it was heard of."""
        self.progress.tasks[0].start_time = self.progress.get_time() - seconds

    def _tell(self, event: Event) -> None:
        match event:
            case StageStarted(cycle, stage):
                doing = f"cycle {cycle}: {DOING[stage]}" if cycle is not None else DOING[stage]
                self.progress.reset(self.task, description=doing, pace=None)
                self.progress.tasks[0].total = None  # to reset and update None means to keep it
                self.pace, self.told = None, 0
                if self.live is None:
                    self.note(doing)
            case Advanced(done, everything):
                self._advance(done, everything)
            case Calculated() if self.loudness == VERBOSE:
                self.note(_in_words(event))
            case LabelsImported(usable, rejected):
                why = " (elsewhere/table.csv says why)" if rejected else ""
                self.note(f"{usable} usable labels from elsewhere, {rejected} rejected{why}")
            case Noted(text):
                self.note(text)
            case Warned(text):
                self.note(f"Warning: {text}")
            case CycleJudged():
                shown = {title: value(event) for title, value in _COLUMNS.items()}
                self.cycles.append(list(shown.values()))
                if self.live is None:
                    self.note(", ".join(f"{title} {said}" for title, said in shown.items()))

    def _advance(self, done: int, everything: int) -> None:
        """Move the bar; where everything is told and nothing is drawn, a line for each tenth of a stage."""
        now = monotonic()
        self.pace = (self.pace or Pace(now, done, now, done, everything)).advanced(now, done, everything)
        self.progress.update(self.task, completed=done, total=everything, pace=self.pace)
        tenth = 10 * done // max(1, everything)
        if self.loudness == VERBOSE and self.live is None and tenth > self.told:
            self.told = tenth
            self.note(f"  {done} of {everything}")

    def _drawn(self) -> Group:
        return Group(_cycle_table(self.heading, self.cycles[-self.most :]), self.progress)

    def note(self, text: str) -> None:
        """Print a line above the panel, or, where there is none, with the time, which a log is read by."""
        time = "" if self.draws else f"{self.clock():%Y-%m-%d %H:%M:%S} "
        self.console.print(f"{time}{printable_lines(text)}", soft_wrap=True, highlight=False, markup=False)


_COLUMNS: Final[dict[str, Callable[[CycleJudged], str]]] = {
    "cycle": lambda judged: str(judged.cycle),
    "labels": lambda judged: str(judged.labels),
    "failed": lambda judged: str(judged.failed),
    f"lowest predicted ({objective.UNIT})": lambda judged: f"{_shown(judged.predicted, '.3f')}" + _spread(judged),
    f"lowest label ({objective.UNIT})": lambda judged: _shown(judged.labelled, ".4f"),
    "E error (meV/atom)": lambda judged: _shown(judged.energy_error),
    "F error (eV/Å)": lambda judged: _shown(judged.force_error),
    "stable cycles": lambda judged: str(judged.stable),
    "unseen minima": lambda judged: _shown(judged.unseen),
}


def _spread(judged: CycleJudged) -> str:
    return "" if judged.predicted_sigma is None else f"±{judged.predicted_sigma:.3f}"


def _in_words(calculated: Calculated) -> str:
    energy = "" if calculated.energy is None else f", {objective.show(calculated.energy)}"
    reason = f": {' '.join(calculated.reason.split())}" if calculated.reason else ""
    return f"  calculation {calculated.task} {calculated.status}{energy}, {calculated.cost:.3g} s of a core{reason}"


def _cycle_table(title: str, rows: list[list[str]]) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=0, pad_edge=False)
    for name in _COLUMNS:  # a line for each word: rich cuts what does not fit into 80 columns
        table.add_column(name.replace(" ", "\n"), justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table


def _shown(value: float | None, form: str = ".4g") -> str:
    return "-" if value is None else f"{value:{form}}"
