"""Stages that are done in a job of the cluster, one at a time, where the machine file has ``potentials``.

    do_elsewhere(drive, folder, after)  # then the stage is in its partial folder, ready to be published

    potentials/<id>/task.json      which stage
    potentials/<id>/begun-1.json   written each time that a worker begins it
    potentials/<id>/advanced.json  how far it is
    potentials/<id>/result.json    how it ended, and what there was to tell

The job is a pilot, as those of labels are, and keeps its Python, and the GPU, from one stage to the next.
"""

from __future__ import annotations

import errno
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pydantic import TypeAdapter

from csp_al.engine.tasks import is_done, result_path
from csp_al.engine.wait import run_tasks
from csp_al.events import Noted, Warned
from csp_al.files import DamagedError, digest, make_directory, read_json, write_json
from csp_al.foundation.client import FoundationError
from csp_al.interfaces import UnplaceableError
from csp_al.store.filled import take_filled
from csp_al.store.lock import holder
from csp_al.store.run_directory import POTENTIALS
from csp_al.store.stages import history, partial

if TYPE_CHECKING:
    from csp_al.loop.drive import Drive

GIVEN: Final = ("pool", "foundation", "train", "relax", "direct", "grow", "select")
"""Stages that are given to the job: those that compute for long, or ask the ensemble or the foundation."""

LATE: Final = 30.0
"""s within which files that a job has written are seen here."""


class StageFailedError(Exception):
    """A stage that was done in a job has failed there; the message says where its log is."""


FAILURES: Final = {kind.__name__: kind for kind in (FoundationError, UnplaceableError, StageFailedError)}
"""What a stage may raise for a reason that lies in the campaign, and that the driver raises in its place."""


@dataclass(frozen=True)
class Advanced:
    """How far a stage is."""

    done: int = 0
    all: int = 0


@dataclass(frozen=True)
class Ended:
    """How a stage ended: the name of the failure, empty where there was none, its words, what there was to tell."""

    failure: str = ""
    words: str = ""
    noted: list[str] = field(default_factory=list)
    warned: list[str] = field(default_factory=list)


_ADVANCED: Final = TypeAdapter(Advanced)
_ENDED: Final = TypeAdapter(Ended)
_STAGE: Final = TypeAdapter(dict[str, str])


def do_elsewhere(drive: Drive, folder: Path, after: Path | None) -> float:
    """Have a stage that follows from the published stage ``after`` done in a job; how long that took (s).

    Its partial folder is ready to be published then. Raises one of `FAILURES` where it failed there, what the engine of
    the job raises, and as `Drive.report`.
    """
    assert drive.stages is not None  # it is asked where there is one
    root = drive.run / POTENTIALS
    task = _ask(root, folder.relative_to(drive.run).as_posix(), history(after), someone=holder(partial(folder)))
    told = Advanced()

    def look() -> bool:
        nonlocal told
        drive.refuse_stop()
        if (now := _advanced(root / task)) != told:
            told = now
            drive.report(now.done, now.all)
        return False

    run_tasks(drive.stages, root, [task], lambda *_: None, look)
    ended = read_json(result_path(root, task), _ENDED)
    for text in ended.noted:
        drive.tell(Noted(text))
    for text in ended.warned:
        drive.tell(Warned(text))
    if ended.failure:
        raise FAILURES.get(ended.failure, StageFailedError)(ended.words)
    end = time.monotonic() + LATE
    while (seconds := take_filled(drive.run, folder, after)) is None:
        if time.monotonic() > end:
            raise OSError(errno.EIO, f"a job did this stage, and {LATE:g} s later its files are not here", str(folder))
        time.sleep(0.5)
    return seconds


def stage_of(root: Path, task: str) -> str:
    """The name of the stage that a task is. Raises FileNotFoundError where nobody waits for it any more."""
    return read_json(root / task / "task.json", _STAGE)["stage"]


def say_advanced(folder: Path, done: int, everything: int) -> None:
    """Say, in the folder of its task, how far a stage is."""
    write_json(folder / "advanced.json", asdict(Advanced(done, everything)))


def say_ended(root: Path, task: str, ended: Ended) -> None:
    """Say how a stage ended."""
    write_json(result_path(root, task), asdict(ended))


def _ask(root: Path, stage: str, before: str | None, *, someone: object) -> str:
    """The id of the task that does this stage; begun anew, unless somebody is at it.

    Tasks stay when they are done: their pilot may not have seen that yet. A result that is there was of no use.
    """
    task = digest({"stage": stage, "after": before})[:20]
    make_directory(root / task)
    if someone is None or is_done(root, task):
        for path in (root / task).iterdir():
            path.unlink()
    write_json(root / task / "task.json", {"stage": stage})
    return task


def _advanced(folder: Path) -> Advanced:
    with suppress(OSError, DamagedError):
        return read_json(folder / "advanced.json", _ADVANCED)
    return Advanced()
