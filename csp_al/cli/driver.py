"""One run of the driver at the command line: its panel, its signals, its exit status."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from csp_al.campaign.models import Campaign
from csp_al.cli.panel import NORMAL, Panel
from csp_al.cli.tables import say_results
from csp_al.cli.trust import how_to_continue
from csp_al.disk_space import is_machine_failure, machine_failure_in_words
from csp_al.interruption import Interrupted, interruptible
from csp_al.printing import say
from csp_al.running import run

DONE, NO_RESULT, STOPPED = 0, 1, 143
MACHINE_FAILED = 75  # EX_TEMPFAIL of sysexits.h: it may be tried again


@dataclass(frozen=True)
class Start(run.Start):
    """How a driver was started at the command line.

    ``trust``: links may lead out of the run directory; ``loudness``: how much is told while it runs.
    """

    trust: bool = False
    loudness: int = NORMAL


def drive(campaign: Campaign, start: Start) -> int:
    """Run or continue a campaign and return the exit status.

    Raises InUseError (TakenOverError among them), ChangedError, DamagedError, UntrustedError and FoundationError.
    """
    foundation = run.foundation_here(campaign, start)
    if foundation is None:
        return _drive_here(campaign, start)
    try:
        with interruptible():
            foundation.pinned()  # which takes a while
        return _drive_here(campaign, replace(start, foundation=foundation))
    except Interrupted as end:
        return end.status
    finally:
        foundation.close()


def _drive_here(campaign: Campaign, start: Start) -> int:
    """As `drive`, with the foundation of the campaign at hand."""
    from csp_al.report.tables import open_run
    from csp_al.store.links import refuse_links
    from csp_al.store.lock import locked

    directory = start.directory
    campaign, here = run.pinned(campaign, start)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if not start.trust:
            refuse_links(directory)
        with interruptible(), locked(directory) as still_ours, Panel(campaign, directory, start.loudness) as panel:
            status = _drive(campaign, here, panel, still_ours)
    except Interrupted as end:  # before the run directory was ours
        return end.status
    except OSError as trouble:
        if not is_machine_failure(trouble):
            raise
        said = machine_failure_in_words(trouble, directory)
        say(f"{said}. {how_to_continue(campaign, directory)}", err=True)
        return MACHINE_FAILED
    if status == DONE:
        say_results(open_run(directory))
        say(f"Structures and tables: {directory / 'winners'}; a page for the browser: csp-al report {directory}")
    return status


def _drive(campaign: Campaign, start: run.Start, panel: Panel, still_ours: Callable[[], None]) -> int:
    """Drive a run directory that is ours, and say how that ended. Raises TakenOverError where it is another's now."""
    from csp_al.loop.tasks import CalculationsFailedError, StoppedError

    try:
        reason = run.drive(campaign, start, panel.tell, still_ours)
    except (Interrupted, StoppedError) as end:
        panel.note(f"Stopped. {how_to_continue(campaign, start.directory)}")
        return end.status if isinstance(end, Interrupted) else STOPPED
    except run.failures() as failure:
        panel.note(str(failure))
        passing = isinstance(failure, CalculationsFailedError) and failure.passing
        return MACHINE_FAILED if passing else NO_RESULT
    panel.note(f"Search ended: {reason.removeprefix('settled: ')}.")
    return DONE
