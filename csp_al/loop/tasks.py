"""From structures to results of the reference method, by way of the engine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NoReturn

import numpy as np

from csp_al.campaign import Campaign
from csp_al.disk_space import require_space
from csp_al.engine.retry import is_due
from csp_al.engine.tasks import create_task, read_result, relax_task, task_id
from csp_al.engine.wait import run_tasks
from csp_al.files import write_json
from csp_al.geometry import in_short_vectors
from csp_al.interfaces import Engine, Failure, Task
from csp_al.interruption import safe_point
from csp_al.reasons import TOO_TIGHT, without_numbers
from csp_al.results import Result
from csp_al.store.layout import TASKS
from csp_al.store.run_directory import stop_requested
from csp_al.structures import Labels, Status, Structures

AGAIN: Final = "When the machine has what it lacked, the same command tries them again, and goes on."
MEND: Final = (
    "Mend the reference section and start the campaign under a new name; where something else was wrong, "
    "'csp-al run FILE --retry failed' tries them again."
)
OPEN: Final = (
    "Their atoms are too near to one another: give larger distances (pool.min_distance) or volumes "
    "(pool.volume_per_atom), or allow for such labels (reference.max_force, reference.max_stress), and start the "
    "campaign under a new name."
)


class StoppedError(Exception):
    """Somebody asked the driver to stop; the campaign can be continued."""


class CalculationsFailedError(Exception):
    """What failed ends the campaign; the message has the reasons.

    ``passing``: for want of something of the machine, which may pass.
    """

    def __init__(self, message: str, *, passing: bool = False) -> None:
        super().__init__(message)
        self.passing = passing


class TooManyFailedError(CalculationsFailedError):
    """So many calculations failed that something is wrong; the message counts the reasons."""


def run_all(
    run: Path, engine: Engine, folder: Path, tasks: Sequence[Task], report: Callable[[int, int], None]
) -> tuple[list[str], list[Result]]:
    """Ids and results of these tasks, in their order; what was computed before is not computed again.

    The ids are left in the folder first, for whoever watches. Raises `StoppedError` when somebody asked
    for a stop, and OSError where the disk is about to be full.
    """
    names, results = run_some(run, engine, folder, tasks, report, 0)
    return names, [result for result in results if result is not None]


def run_some(
    run: Path, engine: Engine, folder: Path, tasks: Sequence[Task], report: Callable[[int, int], None], out: int
) -> tuple[list[str], list[Result | None]]:
    """As `run_all`, but as many as ``out`` may be without a result (None)."""
    root = run / "tasks"
    names = [create_task(root, task) for task in tasks]
    write_json(folder / TASKS, names)

    def should_stop() -> bool:
        safe_point()
        require_space(run)
        return stop_requested(run)

    run_tasks(engine, root, names, report, should_stop, out)
    results = [read_result(root, name) for name in names]
    if results.count(None) > out:
        raise StoppedError
    return names, results


def relaxations(campaign: Campaign, structures: Structures) -> list[Task]:
    """Tasks that relax these crystals as they stand, as far as a campaign relaxes its winners."""
    how = (campaign.reference, campaign.finish.fmax, campaign.finish.max_steps, campaign.relax.cell)
    return [relax_task(atoms, *how) for atoms in structures.to_atoms()]


def final_relaxations(run: Path, campaign: Campaign, structures: Structures) -> list[Task]:
    """Tasks that relax these crystals as the winners of this run.

    In short vectors, but for those that were begun as they stood, by a version that did so.
    """
    both = (relaxations(campaign, batch) for batch in (structures, in_short_vectors(structures)))
    return [old if (run / "tasks" / task_id(old)).exists() else task for old, task in zip(*both, strict=True)]


def labels_of(structures: Structures, results: Sequence[Result], cycle: int) -> Labels:
    """Single points as labels; what is not DONE is NaN and keeps its reason."""
    values = [result.done for result in results]
    forces = [
        np.full((count, 3), np.nan) if one is None else one.forces
        for count, one in zip(structures.counts, values, strict=True)
    ]
    return Labels(
        structures=structures,
        energy=np.array([np.nan if one is None else one.energy for one in values], dtype=float),
        forces=np.concatenate([np.zeros((0, 3)), *forces]),
        stress=np.array([np.full((3, 3), np.nan) if one is None else one.stress for one in values]).reshape(-1, 3, 3),
        status=np.array([result.status for result in results], dtype=np.str_),
        reason=np.array([str(result.reason or "") for result in results], dtype=np.str_),
        cost=np.array([result.cost for result in results], dtype=float),
        evaluations=np.array([result.evaluations for result in results], dtype=np.int64),
        cycle=np.full(len(results), cycle, dtype=np.int64),
    )


def refuse_many_failures(results: Sequence[Result], most: float) -> None:
    """Raise `TooManyFailedError` when more than this share is not DONE."""
    failed = [result for result in results if result.status is not Status.DONE]
    if len(failed) > most * len(results):
        refuse(failed, f"{len(failed)} of {len(results)} calculations failed, more than max_fail_fraction = {most:g} "
               "allows")  # fmt: skip


def refuse(failed: Sequence[Result], what: str) -> NoReturn:
    """Raise `TooManyFailedError` for these results, with the reasons and the way out."""
    passing = 2 * sum(is_due(result) for result in failed) > len(failed)
    tight = 2 * sum(is_tight(result) for result in failed) > len(failed)
    way_out = AGAIN if passing else OPEN if tight else MEND
    msg = f"{what}:\n  {told_once(failed, chr(10) + '  ')}\nTheir folders, with all output, are under tasks/. {way_out}"
    raise TooManyFailedError(msg, passing=passing)


def is_tight(result: Result) -> bool:
    """Whether a calculation was rejected for what atoms do that are too near to one another."""
    return result.reason is not None and result.reason.kind in TOO_TIGHT


def told_once(failed: Sequence[Result], between: str = "; ") -> str:
    """The reasons of these results, each with how many of them it is for, most frequent first."""
    examples = {alike(result): result.reason for result in reversed(failed)}
    counted = Counter(map(alike, failed)).most_common()
    return between.join(f"{count} x {examples[alike]}" for alike, count in counted)


def alike(result: Result) -> tuple[Failure | None, str]:
    """What is equal for the same failure of two cells: its kind, and its words without their numbers."""
    kind = result.reason.kind if result.reason else None
    return kind, without_numbers(str(result.reason or ""))
