"""The control: random search, which relaxes candidates with the reference method, one after the other.

Optimiser, tolerance and cells are those of a campaign's final relaxations, and every step is one reference evaluation.
What came out is kept for each pool, by a digest of everything that it depends on, so that other settings of a campaign
cost no control. ``control.json`` says what the digest is of, so that a control is found by a version with more keys.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from csp_al.campaign import AnyReference, Campaign
from csp_al.engine.tasks import LIMITS, read_result, task_id
from csp_al.files import DamagedError, digest, make_directory, read_sealed, write_sealed
from csp_al.generate import generate_candidates, is_searched
from csp_al.geometry import in_short_vectors
from csp_al.hdf5 import load, save
from csp_al.interfaces import Engine, Task
from csp_al.loop.tasks import final_relaxations, labels_of, relaxations, run_all
from csp_al.reference.evaluate import OPTIMISER
from csp_al.reference.references import places
from csp_al.results import Result
from csp_al.store.lock import InUseError, locked
from csp_al.store.repair import QUARANTINE, repair_tasks, set_aside
from csp_al.store.stages import file_of, is_published, stage, verify
from csp_al.structures import Labels, Structures

NAME, ABOUT = "relaxed.h5", "control.json"
LOOK = 3.0
"""s between two looks at a pool that another benchmark is at."""
Engines = Callable[[Path], Engine]
Report = Callable[[int, int], None]


def random_search(
    campaign: Campaign,
    base: Path,
    root: Path,
    engine: Engines,
    report: Report,
    size: int | None = None,
    *,
    mend: bool = False,
) -> Labels:
    """Every candidate of the campaign's pool, relaxed by its reference; what is below ``root`` is not done again.

    Of a pool that is larger than ``size``, the first so many, and its seeds from files. ``engine`` makes one for a
    folder of tasks; file names in the campaign are relative to ``base``. A pool that another benchmark is at is waited
    for. Raises DamagedError; to ``mend`` is to do again what is damaged.
    """
    pool = searched_pool(campaign, base, size)
    tasks = relaxations(campaign, in_short_vectors(pool))  # as a campaign relaxes its winners
    reference = campaign.reference.model_copy(update=dict.fromkeys(places(campaign.reference)))
    here = _place(root, tasks, reference)
    folder = here / "relaxed"
    make_directory(here)
    write_sealed(here / ABOUT, "control", _description(tasks) | {"reference": reference.written()}, indent=1)
    if mend:
        with suppress(InUseError), locked(here):
            repair(folder)
    while not is_published(folder):
        with suppress(InUseError), locked(here):
            if not is_published(folder):
                stage(
                    folder,
                    lambda aside: save(aside / NAME, labels_at_rest(pool, _run(here, tasks, engine, report))),
                    None,
                )
        if not is_published(folder):
            time.sleep(LOOK)
    shutil.rmtree(here / "tasks", ignore_errors=True)  # a trajectory of every candidate, which nobody asks for again
    verify(folder)
    return load(file_of(folder, NAME), Labels)


def searched_pool(campaign: Campaign, base: Path, size: int | None = None) -> Structures:
    """The candidates that a campaign searches; of more than ``size`` the first so many, and seeds from files."""
    *smaller, sought = campaign.pools
    sought = sought.model_copy(update={"size": min(size or sought.size, sought.size)})
    candidates, table = generate_candidates([*smaller, sought], campaign.seed, lambda *_: None, base)
    return candidates.take(is_searched(table))


def _place(root: Path, tasks: Sequence[Task], reference: AnyReference) -> Path:
    """Folder of the control of these tasks: one whose reference agrees with this one, or a new one."""
    for path in sorted(root.glob(f"*/{ABOUT}")):
        with suppress(DamagedError):  # it is written again when its control is asked for by the digest
            about = read_sealed(path, "control")
            if reference.agrees_with(about.pop("reference", None)) and about == _description(tasks):
                return path.parent
    limits = {key: value for key, value in reference.written().items() if key in LIMITS}
    what = {"tasks": [task_id(task) for task in tasks], "limits": limits, "optimiser": OPTIMISER}
    return root / digest(what)[:20]


def _description(tasks: Sequence[Task]) -> dict[str, Any]:
    """What a control depends on beside the reference."""
    asked = [{key: value for key, value in task.inputs.items() if key != "reference"} for task in tasks]
    return {"relaxations": digest(asked), "optimiser": OPTIMISER}


def repair(folder: Path) -> None:
    """Set aside this stage if it is damaged, and what is damaged of the tasks beside it."""
    repair_tasks(folder.parent)
    try:
        if is_published(folder):
            verify(folder)
    except DamagedError:
        set_aside(folder.parent, QUARANTINE, [folder])


def relax_again(
    structures: Structures, campaign: Campaign, known: Path, root: Path, engine: Engines, report: Report
) -> Labels:
    """These structures relaxed as a campaign relaxes its winners.

    Results are taken from the run directory ``known`` where it has them, and else from ``root``, which keeps them.
    """
    tasks = final_relaxations(known, campaign, structures)
    found = [read_result(known / "tasks", task_id(task)) for task in tasks]
    missing = [task for task, result in zip(tasks, found, strict=True) if result is None]
    fresh = iter(_run(root, missing, engine, report))
    return labels_at_rest(structures, [result or next(fresh) for result in found])


def _run(root: Path, tasks: Sequence[Task], engine: Engines, report: Report) -> list[Result]:
    make_directory(root)
    runner = engine(root / "tasks")
    try:
        return run_all(root, runner, root, tasks, report)[1]
    finally:
        runner.close()


def labels_at_rest(structures: Structures, results: Sequence[Result]) -> Labels:
    """Relaxations as labels of the structures as they came to rest; one that failed stays where it began."""
    positions, cells = structures.positions.copy(), structures.cells.copy()
    for row, result in enumerate(results):
        if (rested := result.done) is not None:
            positions[structures.ptr[row] : structures.ptr[row + 1]] = rested.positions
            cells[row] = rested.cell
    return labels_of(structures.moved(positions, cells), results, cycle=0)
