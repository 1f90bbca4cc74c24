"""What a stage works with, and one run of the driver, which publishes the stages.

drive.stage(stage_folder(run, "train", cycle), lambda folder: train_ensemble(drive, folder, cycle, progress))
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Final

from csp_al.campaign import Campaign
from csp_al.disk_space import require_space
from csp_al.engine.retry import forget_failure, is_due
from csp_al.engine.tasks import read_result, task_id
from csp_al.engine.wait import going_on
from csp_al.events import Advanced, Calculated, CycleJudged, LabelsImported, Listener, Noted, StageStarted, Warned
from csp_al.foundation.universal import Universal
from csp_al.interfaces import Engine, Task
from csp_al.interruption import safe_point
from csp_al.loop.elsewhere import GIVEN, Elsewhere, do_elsewhere
from csp_al.loop.tasks import StoppedError, run_some, told_once
from csp_al.results import Result
from csp_al.store.disk_use import cycle_bytes
from csp_al.store.filled import take_filled
from csp_al.store.lock import InUseError, holder
from csp_al.store.repair import QUARANTINE, set_aside, set_aside_from
from csp_al.store.run_directory import LAST, log, published_after, stop_requested
from csp_al.store.stages import UnconnectedError, follows, is_published, partial, publish, seconds_of, stage, verify

if TYPE_CHECKING:
    import torch


APART: Final = 10.0
"""s, between two lines of the log that tell how far a stage is."""


@dataclass(frozen=True)
class Work:
    """What the body of a stage works with: the campaign, its run directory, where tensors live, who is told.

    ``base`` is the folder that file names in the campaign file refer to; ``cores`` is for processes of its own;
    ``foundation`` is the campaign's, where it has one.
    """

    campaign: Campaign
    run: Path
    base: Path
    device: torch.device
    tell: Listener
    cores: int = field(default=1, kw_only=True)
    foundation: Universal | None = field(default=None, kw_only=True)

    def report(self, done: int, everything: int) -> None:
        """Tell how far a stage is."""
        self.tell(Advanced(done, everything))


@dataclass
class Milestones:
    """Which reports of a slow stage the log tells, for those who follow it from elsewhere: ten at most."""

    done: int = 0
    all: int = 0
    at: float = field(default_factory=monotonic)

    def is_next(self, done: int, everything: int) -> bool:
        """Whether a tenth more is done, and `APART` seconds have gone by, since the last, or since the stage began."""
        if everything != self.all or done < self.done:
            self.done, self.all, self.at = done, everything, monotonic()
        is_due = 10 * (done - self.done) >= everything > 0 and monotonic() - self.at >= APART
        if is_due:
            self.done, self.at = done, monotonic()
        return is_due


@dataclass(frozen=True)
class Drive(Work):
    """One run of the driver: what it works with, what runs tasks.

    - mend: do again what no longer follows from the stage before it
    - still_ours: raises where another driver has the run directory now, lest this one publishes in what is not its own
    - retry: names of calculations that are tried again although they failed, see `csp_al.engine.retry`
    - tried: those that this driver asked for; awaited: those of them whose results were not told yet
    - passed: the stages that the search has come by, in order, with the wall time (s) of each
    - milestones: how far the stage under way was when the log last told it
    - out: ids of the calculations that go on while stages are done that ask for none
    - stages: where some of the stages are done; None: here
    """

    engine: Engine
    mend: bool = False
    still_ours: Callable[[], None] = field(default=lambda: None, kw_only=True)
    retry: Collection[str] = field(default=(), kw_only=True)
    tried: set[str] = field(default_factory=set, kw_only=True)
    awaited: set[str] = field(default_factory=set, kw_only=True)
    passed: dict[Path, float] = field(default_factory=dict, kw_only=True)
    milestones: Milestones = field(default_factory=Milestones, kw_only=True)
    out: list[str] = field(default_factory=list, kw_only=True)
    stages: Elsewhere | None = field(default=None, kw_only=True)

    def stage(self, folder: Path, write: Callable[[Path], None]) -> Path:
        """Publish a stage unless it is there; it follows from the one that was passed last.

        Raises as `do` and `refuse_stop`.
        """
        self.refuse_stop()
        after = next(reversed(self.passed), None)
        if not self.stands(folder, after):
            self.do(folder, after, write)
        self.passed[folder] = seconds_of(folder)
        return folder

    def do(self, folder: Path, after: Path | None, write: Callable[[Path], None]) -> None:
        """Publish a stage that is not there, with a word at its start and at its end.

        One that another process has done is published as it is. Raises DamagedError, InUseError where another process
        is at it, and OSError where there is no room for it.
        """
        self.still_ours()
        is_given = self.stages is not None and folder.name in GIVEN
        if not is_given and (other := holder(partial(folder))) is not None:
            msg = f"{folder} is being done by process {other['pid']} on {other['host']}; wait until it has ended"
            raise InUseError(msg)
        require_space(self.run, cycle_bytes(self.campaign))
        started = StageStarted(_cycle_of(folder), folder.name)
        self.announce("stage started", started)
        needs = [after.relative_to(self.run).as_posix()] if after else []
        with going_on(self.engine, self.run / "tasks", self.out):
            seconds = do_elsewhere(self, folder, after) if is_given else take_filled(self.run, folder, after)
            if seconds is None:
                stage(folder, lambda aside: self._unless_lost(write, aside), after, needs)
            else:
                self.still_ours()
                publish(folder, after, needs, seconds)
        log(self.run, "stage finished", **asdict(started))

    def _unless_lost(self, write: Callable[[Path], None], aside: Path) -> None:
        write(aside)
        safe_point()
        self.still_ours()

    def calculate(self, folder: Path, tasks: Sequence[Task]) -> tuple[list[str], list[Result]]:
        """Ids and results of these tasks, in their order, for a stage in this folder; see `csp_al.loop.tasks.run_all`.

        Of what failed before this driver began, some is tried again.
        """
        names, results = self.calculate_some(folder, tasks, 0)
        return names, [result for result in results if result is not None]

    def calculate_some(self, folder: Path, tasks: Sequence[Task], out: int) -> tuple[list[str], list[Result | None]]:
        """As `calculate`, but as many as ``out`` may be without a result (None); these go on until they have one."""
        new = {task_id(task) for task in tasks} - self.tried
        self._try_again(new)
        self.tried.update(new)
        self.awaited.update(new)
        names, results = run_some(self.run, self.engine, folder, tasks, self.report, out)
        for result in results:
            if result is not None and result.id in self.awaited:
                self.awaited.discard(result.id)
                self.tell(_calculated(result))
        return names, results

    def keep_going(self, tasks: Sequence[Task]) -> None:
        """Let these calculations, and no others, go on while stages are done that ask for none."""
        self.out[:] = [task_id(task) for task in tasks]

    def _try_again(self, names: Collection[str]) -> None:
        root = self.run / "tasks"
        results = [result for name in sorted(names) if (result := read_result(root, name)) is not None]
        failed = [result for result in results if is_due(result, self.retry)]
        for result in failed:
            forget_failure(root, result.id)
        if failed:
            log(self.run, "tried again", tasks=[result.id for result in failed])
            self.tell(Noted(f"Tried again: {told_once(failed)}"))

    def stands(self, folder: Path, after: Path | None) -> bool:
        """Whether a stage is there and follows from the one before it."""
        if not is_published(folder):
            return False
        try:
            verify(folder)
            follows(folder, after)
        except UnconnectedError as error:
            if not self.mend:
                raise
            set_aside_from(self.run, folder)
            self.tell(Warned(f"{error.path}: {error.what}; it is done again, with all that follows"))
            return False
        return True

    def report(self, done: int, everything: int) -> None:
        """Tell how far a stage is. Raises `StoppedError` where a stop was asked for."""
        super().report(done, everything)
        self.still_ours()
        require_space(self.run)
        self.refuse_stop()
        if self.milestones.is_next(done, everything):
            log(self.run, "advanced", done=done, all=everything)

    def refuse_stop(self) -> None:
        """Raise `StoppedError` where a stop was asked for, and `Interrupted` where a signal has come."""
        safe_point()
        if stop_requested(self.run):
            raise StoppedError

    def announce(self, name: str, event: StageStarted | CycleJudged | LabelsImported) -> None:
        """Write what happened in the log, under this name, and tell of it."""
        log(self.run, name, **asdict(event))
        self.tell(event)

    def end_with(self, folder: Path) -> None:
        """Where a stage that was mended ends a search that had gone on from there, set aside what came after it."""
        if self.mend:
            set_aside(
                self.run, QUARANTINE, [later for later in published_after(self.run, folder) if later.name != LAST]
            )


def _calculated(result: Result) -> Calculated:
    values = result.values
    energy = None if values is None else values.energy / len(values.forces)
    return Calculated(result.id, result.status, energy, result.cost, str(result.reason or ""))


def _cycle_of(folder: Path) -> int | None:
    name = folder.parent.name
    return int(name.removeprefix("cycle-")) if name.startswith("cycle-") else None
