"""The worker of a job that does stages of the loop: takes tasks from standard input, as `csp_al.engine.worker` does.

    python -m csp_al.loop.stage_worker runs/si8/potentials '{"cores_per_label": 8}'

A stage that ends says how, in its task's folder; one whose worker ends is begun anew by the next.
"""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

from csp_al.campaign.errors import CampaignError
from csp_al.campaign.machine import Machine, cores_of_this_process
from csp_al.disk_space import is_machine_failure
from csp_al.engine.tasks import is_done
from csp_al.engine.worker import serve
from csp_al.events import Advanced, Event, Noted, Warned
from csp_al.files import DamagedError, OtherVersionError, write_json
from csp_al.importing import beside
from csp_al.loop.elsewhere import FAILURES, Ended, StageFailedError, say_advanced, say_ended, stage_of
from csp_al.loop.stage import do_stage
from csp_al.potential.devices import resolve_device, use_cores
from csp_al.printing import say
from csp_al.store.lock import InUseError

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
    name, ended = stage_of(root, task), Ended()
    begun = len(list(folder.glob("begun-*.json")))
    if begun >= MOST_BEGINNINGS:
        words = f"{name} was begun {begun} times in jobs that ended before it did: give potentials a longer walltime, "
        say_ended(root, task, Ended(StageFailedError.__name__, f"{words}or more memory (options)"))
        return
    mark = folder / f"begun-{begun + 1}.json"
    write_json(mark, {})
    device = resolve_device("auto")
    say(f"{name} on {device}, {cores_of_this_process()} cores")
    try:
        # the run directory is that of the driver that asks, which has been trusted
        do_stage(root.parent, name, device, _listener(folder, ended), trust=True, machine=machine, driver_waits=True)
    except InUseError as other:  # a worker that outlived its job
        mark.unlink()
        say(other)
        time.sleep(LATER)
        return
    except (DamagedError, OtherVersionError, CampaignError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and is_machine_failure(error):
            raise
        traceback.print_exc()
        known = type(error).__name__ in FAILURES
        words = str(error) if known else f"{name} failed in its job: {type(error).__name__}: {error}"
        ended = replace(ended, failure=type(error).__name__ if known else StageFailedError.__name__, words=words)
    say_ended(root, task, ended)


def _listener(folder: Path, ended: Ended) -> Callable[[Event], None]:
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
