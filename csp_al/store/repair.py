"""Damage: what is not as it was written is set aside, so that the loop does it again.

A stage that is done again from the same inputs comes out the same, and what follows from it stays; where it comes out
otherwise, as on another machine, everything after it is set aside too. A calculation by the reference is done again
only where both its result and the attempt that gave it are lost.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

from csp_al.engine.attempt import read_outcome
from csp_al.engine.tasks import read_result, read_task
from csp_al.files import DamagedError, read_sealed
from csp_al.formats import Kind
from csp_al.store.run_directory import (
    PROVENANCE,
    SETTINGS,
    log,
    places,
    published_after,
    published_stages,
    stages_needed,
)
from csp_al.store.stages import UnconnectedError, follows, is_published, verify

QUARANTINE = "damaged"
"""Folder of the run directory for what was damaged, and for what followed from it."""


def refuse_damage(run: Path) -> None:
    """Raise DamagedError, naming all of it, if a file of the run directory or a published stage is damaged."""
    found = _damage(run)
    if found:
        others = "".join(f"; {other.path}: {other.what}" for other in found[1:])
        raise DamagedError(found[0].path, found[0].what + others)


def repair(run: Path) -> list[str]:
    """Set aside everything that is damaged, results of tasks included; what it was, in words."""
    found = [*_damage(run), *_damaged_tasks(run)]
    # what does not follow may follow again from a stage that is done again
    lost = [error.path for error in found if not isinstance(error, UnconnectedError)]
    set_aside(run, QUARANTINE, [place for path in lost if os.path.lexists(place := _stage_of(run, path) or path)])
    said = [f"{error.path.relative_to(run)}: {error.what}" for error in found]
    if said:
        log(run, "repaired", damage=said)
    return said


def repair_tasks(root: Path) -> None:
    """Set aside the damaged files of the tasks in this folder, and so have these calculations done again."""
    set_aside(root, QUARANTINE, [error.path for error in _damaged_tasks(root)])


def set_aside_from(run: Path, folder: Path) -> None:
    """Set aside a published stage and every later one."""
    set_aside(run, QUARANTINE, [folder, *published_after(run, folder)])


def set_aside(run: Path, shelf: str, paths: Iterable[Path]) -> None:
    """Move files and folders of the run directory to ``shelf/N/``, where they keep their place."""
    numbers = [int(path.name) for path in (run / shelf).glob("*") if path.name.isdecimal()]
    root = run / shelf / f"{max(numbers, default=0) + 1:03d}"
    # last first, so that what stays is the beginning of a history wherever this is cut off
    for path in reversed(list(dict.fromkeys(paths))):
        target = root / path.relative_to(run)
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)


def _damage(run: Path) -> list[DamagedError]:
    """What is wrong with the run directory's own files and its published stages, in the order of the loop."""
    found = [*_damaged_files(run), *_damaged_stages(run)]
    return list({error.path: error for error in reversed(found)}.values())[::-1]


def _damaged_files(run: Path) -> Iterator[DamagedError]:
    kinds: dict[str, Kind] = {SETTINGS: "settings", PROVENANCE: "provenance"}
    for name, kind in kinds.items():
        try:
            read_sealed(run / name, kind)
        except FileNotFoundError:
            yield DamagedError(run / name, "the file is missing")
        except DamagedError as error:
            yield error


def _damaged_stages(run: Path) -> Iterator[DamagedError]:
    before, missing = None, set()
    for _, _, folder in published_stages(run):
        try:
            for needed in stages_needed(run, folder):
                if not is_published(needed) and needed not in missing:
                    missing.add(needed)
                    yield DamagedError(needed, "the stage is missing")
            verify(folder)
            follows(folder, before)
        except DamagedError as error:
            yield error
        before = folder


def _damaged_tasks(run: Path) -> Iterator[DamagedError]:
    root = run / "tasks"
    for folder in sorted(root.glob("*/")):
        reads: list[Callable[[], object]] = [
            partial(read_result, root, folder.name),
            partial(read_task, root, folder.name),
            *(partial(read_outcome, attempt) for attempt in sorted(folder.glob("attempt-*/"))),
        ]
        for read in reads:
            try:
                read()
            except FileNotFoundError:
                continue
            except DamagedError as error:
                yield error


def _stage_of(run: Path, path: Path) -> Path | None:
    """The stage that a file belongs to."""
    return next((folder for _, _, folder in places(run) if folder in (path, *path.parents)), None)
