"""One run of the driver: lock, engine, loop, panel, and how it ended."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from csp_al.campaign.machine import Machine, cores_of_this_process
from csp_al.campaign.models import Campaign
from csp_al.cli.panel import NORMAL, Panel
from csp_al.cli.tables import say_results
from csp_al.cli.trust import how_to_continue, refuse_links
from csp_al.disk_space import is_machine_failure, machine_failure_in_words
from csp_al.foundation.client import FoundationError
from csp_al.foundation.universal import Universal
from csp_al.interfaces import State
from csp_al.interruption import Interrupted, end_in_peace, interruptible, safe_point
from csp_al.printing import say
from csp_al.store.changes import SUPERSEDED, refuse_retry, try_winners_again
from csp_al.store.opening import open_to_drive, refuse_other_folder
from csp_al.store.run_directory import forget_stop_request, log, programs_of

DONE, NO_RESULT, STOPPED = 0, 1, 143
MACHINE_FAILED = 75  # EX_TEMPFAIL of sysexits.h: it may be tried again


@dataclass(frozen=True)
class Start:
    """How a driver was started: campaign file, run directory, machine, and what the command line says.

    ``source`` is None where a run directory goes on with its own copy; ``base`` is the folder that file names in the
    campaign file refer to. ``repair``: set aside what is damaged; ``trust``: links may lead out of the run directory;
    ``retry``: calculations that are tried again although they failed; ``loudness``: how much is told while it runs;
    ``foundation``: that of the campaign, which `drive` starts.
    """

    source: Path | None
    base: Path
    directory: Path
    machine: Machine
    slots: int | None
    device: str
    repair: bool
    trust: bool
    retry: tuple[str, ...] = ()
    loudness: int = NORMAL
    foundation: Universal | None = None


def drive(campaign: Campaign, start: Start) -> int:
    """Run or continue a campaign and return the exit status.

    Raises InUseError (TakenOverError among them), ChangedError, DamagedError, UntrustedError and FoundationError.
    """
    if campaign.foundation is None:
        return _drive_here(campaign, start)
    from csp_al.cli.checks import foundation_of
    from csp_al.potential.devices import resolve_device

    refuse_other_folder(start.directory)
    foundation = foundation_of(campaign, start.machine, start.base, str(resolve_device(start.device)))
    assert foundation is not None  # the campaign has one
    try:
        with interruptible():
            campaign = campaign.model_copy(update={"foundation": foundation.pinned()})
        return _drive_here(campaign, replace(start, foundation=foundation))
    except Interrupted as end:
        return end.status
    finally:
        foundation.close()


def _drive_here(campaign: Campaign, start: Start) -> int:
    """As `drive`, with the foundation of the campaign at hand."""
    from csp_al.cli.checks import reference_of
    from csp_al.engine.engines import check_machine
    from csp_al.report.tables import open_run
    from csp_al.store.lock import locked

    directory = start.directory
    refuse_other_folder(directory)
    machine = start.machine.model_copy(update={"slots": start.slots or start.machine.slots})
    check_machine(machine)
    reference = reference_of(campaign, machine, start.base)
    campaign = campaign.model_copy(update={"reference": reference.pinned()})
    programs = reference.versions() | (start.foundation.about.versions if start.foundation else {})
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if not start.trust:
            refuse_links(directory)
        with interruptible(), locked(directory) as still_ours, Panel(campaign, directory, start.loudness) as panel:
            start = replace(start, machine=machine)
            status = _drive(campaign, start, programs, panel, still_ours)
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


def _drive(
    campaign: Campaign, start: Start, programs: dict[str, str], panel: Panel, still_ours: Callable[[], None]
) -> int:
    """Drive a run directory that is ours, and say how that ended. Raises TakenOverError where it is another's now."""
    from csp_al.loop.imported import UntrustedLabelsError
    from csp_al.loop.reference_check import WrongReferenceError
    from csp_al.loop.tasks import CalculationsFailedError, StoppedError

    directory = start.directory
    try:
        try:
            reason = _search(campaign, start, programs, panel, still_ours)
        finally:
            still_ours()  # the log is another's otherwise, and what went wrong is its doing
    except (Interrupted, StoppedError) as end:
        log(directory, "stopped")
        panel.note(f"Stopped. {how_to_continue(campaign, directory)}")
        return end.status if isinstance(end, Interrupted) else STOPPED
    except (WrongReferenceError, UntrustedLabelsError, CalculationsFailedError, FoundationError) as failure:
        log(directory, State.FAILED, reason=str(failure))
        panel.note(str(failure))
        passing = isinstance(failure, CalculationsFailedError) and failure.passing
        return MACHINE_FAILED if passing else NO_RESULT
    log(directory, State.FINISHED, reason=reason)
    panel.note(f"Search ended: {reason.removeprefix('settled: ')}.")
    return DONE


def _search(
    campaign: Campaign, start: Start, programs: dict[str, str], panel: Panel, still_ours: Callable[[], None]
) -> str:
    """Open the run directory and search; why the search ended."""
    from csp_al.cli.checks import for_workers
    from csp_al.engine.engines import start_engine
    from csp_al.loop.drive import Drive
    from csp_al.loop.search import search
    from csp_al.potential.devices import resolve_device, use_cores

    directory, base = start.directory, start.base
    use_cores(cores_of_this_process())
    device = resolve_device(start.device)  # may refuse, and opening changes what it finds
    refuse_retry(directory, start.retry)
    campaign = open_to_drive(directory, campaign, start.source, programs, mend=start.repair, tell=panel.note)
    for program, version in programs.items():
        if (before := programs_of(directory).get(program)) != version:
            panel.note(f"Warning: {program} was {before} when this campaign began, and is {version} now")
    if again := try_winners_again(directory, start.retry):
        panel.note(f"Final relaxations to be tried again: {again}; the results so far are under {SUPERSEDED}/ now")
    log(directory, "started")
    engine = start_engine(directory / "tasks", for_workers(start.machine, campaign, base))
    try:
        drive = Drive(
            campaign,
            directory,
            base,
            device,
            panel.tell,
            engine,
            start.repair,
            cores=cores_of_this_process(),
            retry=start.retry,
            still_ours=still_ours,
            foundation=start.foundation,
        )
        return search(drive).reason
    except SystemError:  # what compiled code makes of a signal that was raised in it
        safe_point()
        raise
    finally:
        try:
            end_in_peace()
            forget_stop_request(directory)
        finally:
            engine.close()
