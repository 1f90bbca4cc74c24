"""The worker of a job that does stages of the loop: takes tasks from standard input, as `csp_al.engine.worker` does.

    python -m csp_al.loop.stage_worker runs/si8/potentials '{"cores_per_label": 8}'

A stage that ends says how, in its task's folder; one whose worker ends is begun anew by the next.
"""

from __future__ import annotations

import sys
import time
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Final

from csp_al.campaign.machine import Machine, cores_of_this_process
from csp_al.disk_space import is_machine_failure
from csp_al.engine.tasks import is_done
from csp_al.engine.worker import serve
from csp_al.events import Advanced, Event, Listener, Noted, Warned
from csp_al.files import DamagedError, OtherVersionError, write_json
from csp_al.importing import beside
from csp_al.loop.elsewhere import (
    FAILURES,
    Asked,
    Ended,
    StageFailedError,
    is_seen,
    read_asked,
    say_advanced,
    say_ended,
)
from csp_al.loop.stage import do_stage
from csp_al.potential.devices import resolve_device, use_cores
from csp_al.printing import say
from csp_al.store.lock import InUseError
from csp_al.store.run_directory import SETTINGS

APART: Final = 1.0
"""s, between two words on how far a stage is."""
MOST_BEGINNINGS: Final = 3
"""Times that a stage is begun without an end before it counts as the cause."""
LATER: Final = 5.0
"""s after which it is seen again whether another process is at a stage still."""


def run_stage(root: Path, task: str, machine: Machine) -> None:
    """Do the stage that a task is, unless it has ended, and say how it ended.

    Raises OSError for what the machine failed at, DamagedError and OtherVersionError.
    """
    folder = root / task
    if is_done(root, task):
        return
    asked, ended = read_asked(root, task), Ended()
    begun = len(list(folder.glob("begun-*.json")))
    if begun >= MOST_BEGINNINGS:
        words = f"{asked.stage} was begun {begun} times in jobs that ended before it did: give potentials a longer "
        say_ended(root, task, Ended(StageFailedError.__name__, f"{words}walltime, or more memory (options)"))
        return
    mark = folder / f"begun-{begun + 1}.json"
    write_json(mark, {})
    try:
        _do(root.parent, asked, machine, _listener(folder, ended))
    except InUseError as other:  # a worker that outlived its job, or a driver that does the stage itself
        mark.unlink(missing_ok=True)
        say(other)
        time.sleep(LATER)
        return
    except Exception as error:
        if isinstance(error, OSError) and is_machine_failure(error):
            mark.unlink(missing_ok=True)
            raise
        if isinstance(error, DamagedError | OtherVersionError):
            raise
        traceback.print_exc()
        known = type(error).__name__ in FAILURES
        words = str(error) if known else f"{asked.stage} failed in its job: {type(error).__name__}: {error}"
        ended = replace(ended, failure=type(error).__name__ if known else StageFailedError.__name__, words=words)
    say_ended(root, task, ended)


def _do(run: Path, asked: Asked, machine: Machine, tell: Listener) -> None:
    if not is_seen(run, asked):
        raise StageFailedError(f"{asked.stage}: its job does not see {asked.after} of {run}; do nodes share it?")
    try:
        device = resolve_device(asked.device)
    except ValueError as error:
        raise StageFailedError(f"{asked.stage}: potentials of the machine file asks for a GPU: {error}") from error
    say(f"{asked.stage} on {device}, {cores_of_this_process()} cores")
    try:
        # the run directory is that of the driver that asks, which has been trusted
        do_stage(
            run, asked.stage, device, tell, trust=True, machine=machine, base=Path(asked.base), driver=asked.driver
        )
    except DamagedError as damage:
        if damage.path.name != SETTINGS:
            raise
        words = f"{asked.stage}: the Python of its job ({sys.executable}) cannot read the settings: {damage.what}"
        raise StageFailedError(words) from damage


def _listener(folder: Path, ended: Ended) -> Listener:
    """What hears a stage, and lets its driver know."""
    said = -APART

    def tell(event: Event) -> None:
        nonlocal said
        if isinstance(event, Advanced) and time.monotonic() - said >= APART:
            said = time.monotonic()
            say_advanced(folder, event.done, event.all)
        elif isinstance(event, Noted):
            ended.noted.append(event.text)
        elif isinstance(event, Warned):
            ended.warned.append(event.text)

    return tell


if __name__ == "__main__":
    given = Machine.model_validate_json(sys.argv[2])
    use_cores(cores_of_this_process())
    with beside(Path(given.modules or "")):
        serve(Path(sys.argv[1]), lambda root, task, _: run_stage(root, task, given))
