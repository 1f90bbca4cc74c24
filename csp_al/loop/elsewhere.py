"""Stages that are done in a job of the cluster, one at a time, where the machine file has ``potentials``.

    do_elsewhere(drive, folder, after)  # then the stage is in its partial folder, ready to be published

    potentials/<id>/task.json      which stage, and from what
    potentials/<id>/begun-1.json   written each time that a worker begins it
    potentials/<id>/advanced.json  how far it is
    potentials/<id>/result.json    how it ended, and what there was to tell

The job is a pilot, as those of labels are, and keeps its Python, and the GPU, from one stage to the next.
"""

from __future__ import annotations

import errno
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pydantic import TypeAdapter

from csp_al.engine.tasks import result_path
from csp_al.engine.wait import run_tasks
from csp_al.events import Noted, Warned
from csp_al.files import DamagedError, digest, make_directory, read_json, write_json
from csp_al.foundation.client import FoundationError
from csp_al.interfaces import Engine, UnplaceableError
from csp_al.store.filled import settings_of, take_filled
from csp_al.store.lock import holder
from csp_al.store.run_directory import POTENTIALS
from csp_al.store.stages import history, partial

if TYPE_CHECKING:
    from csp_al.loop.drive import Drive

GIVEN: Final = ("pool", "foundation", "train", "relax", "direct", "grow", "select")
"""Stages that are given to the job: those that compute for long, or ask the ensemble or the foundation."""

LATE: Final = 90.0
"""s within which what another node has written is seen here: file systems over a network are looked at that seldom."""


class StageFailedError(Exception):
    """A stage that was done in a job has failed there; the message says why."""


FAILURES: Final = {kind.__name__: kind for kind in (FoundationError, UnplaceableError, StageFailedError)}
"""What a stage may raise for a reason that lies in the campaign, and that the driver raises in its place."""


@dataclass(frozen=True)
class Elsewhere:
    """Where stages are done: what runs them, and on which device."""

    engine: Engine
    device: str


@dataclass(frozen=True)
class Asked:
    """A stage that a job is asked for.

    ``stage`` by its name, and ``after``, the published stage that it follows from, with its ``history``; ``settings``
    by their checksum; ``base``, where the campaign file is; ``driver``, the token of who waits for it.
    """

    stage: str
    after: str | None
    history: str | None
    settings: str
    base: str
    device: str
    driver: str | None

    @property
    def task(self) -> str:
        """The id of the task, whoever waits for it."""
        return digest(asdict(replace(self, driver=None)))[:20]


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


_ASKED: Final = TypeAdapter(Asked)
_ADVANCED: Final = TypeAdapter(Advanced)
_ENDED: Final = TypeAdapter(Ended)


def do_elsewhere(drive: Drive, folder: Path, after: Path | None) -> float:
    """Have a stage that follows from the published stage ``after`` done in a job; how long that took (s).

    Its partial folder is ready to be published then. Raises one of `FAILURES` where it failed there, what the engine of
    the job raises, and as `Drive.report`.
    """
    assert drive.stages is not None  # it is asked where there is one
    root, asked = drive.run / POTENTIALS, _asked(drive, folder, after)
    seconds = take_filled(drive.run, folder, after)
    if seconds is None:
        _wait(drive, root, asked, folder)
    ended = _ended(root, asked.task)
    for text in ended.noted:
        drive.tell(Noted(text))
    for text in ended.warned:
        drive.tell(Warned(text))
    if ended.failure and seconds is None:
        raise FAILURES.get(ended.failure, StageFailedError)(ended.words)
    end = time.monotonic() + LATE
    while seconds is None and (seconds := take_filled(drive.run, folder, after)) is None:
        if time.monotonic() > end:
            raise OSError(errno.EIO, f"a job did this stage, and {LATE:g} s later its files are not here", str(folder))
        drive.refuse_stop()
        time.sleep(0.5)
    return seconds


def read_asked(root: Path, task: str) -> Asked:
    """The stage that a task asks for. Raises FileNotFoundError where there is no such task."""
    return read_json(root / task / "task.json", _ASKED)


def is_seen(run: Path, asked: Asked) -> bool:
    """Whether what a stage follows from is here, or will not come."""
    if asked.after is None:
        return True
    end = time.monotonic() + LATE
    while time.monotonic() < end:
        with suppress(DamagedError, OSError):
            list((run / asked.after).parent.iterdir())  # asks a file server what there is now
            if history(run / asked.after) == asked.history:
                return True
        time.sleep(0.5)
    return False


def say_advanced(folder: Path, done: int, everything: int) -> None:
    """Say, in the folder of its task, how far a stage is."""
    write_json(folder / "advanced.json", asdict(Advanced(done, everything)))


def say_ended(root: Path, task: str, ended: Ended) -> None:
    """Say how a stage ended."""
    write_json(result_path(root, task), asdict(ended))


def _asked(drive: Drive, folder: Path, after: Path | None) -> Asked:
    assert drive.stages is not None  # it is asked where there is one
    owner = holder(drive.run)
    return Asked(
        stage=folder.relative_to(drive.run).as_posix(),
        after=after.relative_to(drive.run).as_posix() if after else None,
        history=history(after),
        settings=settings_of(drive.run),
        base=str(drive.base.absolute()),
        device=drive.stages.device,
        driver=str(owner.get("token")) if owner else None,
    )


def _wait(drive: Drive, root: Path, asked: Asked, folder: Path) -> None:
    """Ask for a stage, and wait until its task has a result."""
    assert drive.stages is not None  # it is asked where there is one
    place, told = root / asked.task, Advanced()
    make_directory(place)
    write_json(place / "task.json", asdict(asked))
    result_path(root, asked.task).unlink(missing_ok=True)  # it was of no use
    if holder(partial(folder)) is None:  # else somebody is at it
        for path in place.glob("begun-*.json"):
            path.unlink(missing_ok=True)

    def look() -> bool:
        nonlocal told
        drive.refuse_stop()
        if (now := _advanced(place)) != told:
            told = now
            drive.report(now.done, now.all)
        return False

    run_tasks(drive.stages.engine, root, [asked.task], lambda *_: None, look)


def _ended(root: Path, task: str) -> Ended:
    try:
        return read_json(result_path(root, task), _ENDED)
    except FileNotFoundError:  # a stage that was done by hand
        return Ended()


def _advanced(folder: Path) -> Advanced:
    with suppress(OSError, DamagedError):
        return read_json(folder / "advanced.json", _ADVANCED)
    return Advanced()
