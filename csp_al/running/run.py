"""One run of the driver: its machine, lock, engine and loop, and how it ended.

    found = run(load_campaign("campaigns/lj8.yaml"), "runs/lj8", on_event=print)

`csp-al run` goes the same way, step by step, with a panel and signals of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from csp_al.campaign.machine import Machine, cores_of_this_process, read_machine
from csp_al.campaign.models import Campaign
from csp_al.events import Listener, Noted, Warned
from csp_al.foundation.client import FoundationError
from csp_al.interfaces import State
from csp_al.interruption import Interrupted, end_in_peace, safe_point
from csp_al.store.changes import SUPERSEDED, refuse_retry, try_winners_again
from csp_al.store.links import refuse_links
from csp_al.store.opening import open_to_drive, refuse_other_folder
from csp_al.store.run_directory import POTENTIALS, forget_stop_request, log, programs_of

# what takes a second to import is imported where signals are heard
if TYPE_CHECKING:
    from csp_al.foundation.universal import Universal
    from csp_al.report.tables import Run


@dataclass(frozen=True)
class Start:
    """How a driver was started: campaign file, run directory, machine, and what was asked for.

    ``source`` is None where a run directory goes on with its own copy; ``base`` is the folder that file names in the
    campaign file refer to. ``repair``: set aside what is damaged; ``retry``: calculations that are tried again although
    they failed; ``foundation``: that of the campaign; ``programs``: versions of what runs, see `pinned`.
    """

    source: Path | None
    base: Path
    directory: Path
    machine: Machine
    slots: int | None = None
    device: str = "auto"
    repair: bool = False
    retry: tuple[str, ...] = ()
    foundation: Universal | None = None
    programs: dict[str, str] = field(default_factory=dict)


def run(
    campaign: Campaign | str | Path,
    directory: str | Path,
    *,
    seed: int | None = None,
    machine: str | None = None,
    slots: int | None = None,
    device: str = "auto",
    repair: bool = False,
    retry: Sequence[str] = (),
    trust: bool = False,
    on_event: Listener = lambda _: None,
) -> Run:
    """Run a campaign in this directory, or go on with it there, and open it: as `csp-al run FILE --directory` does.

    The campaign is the path of its file, or what `csp_al.load_campaign` made of it; ``seed`` is instead of its own.
    ``machine``, ``slots``, ``device``, ``repair``, ``retry`` (["failed"], or ids of calculations) and ``trust`` (links
    that lead out of the directory are yours) are those of the command line. ``on_event(event)`` hears what happens, in
    the thread that runs: one of `csp_al.events`. An exception that it raises, a KeyboardInterrupt among them, ends the
    run, which the same call continues; calculations under way are ended and done again. Signals are left alone. One
    process runs one campaign at a time.

    Raises, each with a message that says what to do: CampaignError for what is wrong with the file; ValueError for a
    machine or a directory that does not do; `csp_al.store.links.UntrustedError` for a link that leads out of the
    directory; `csp_al.store.lock.InUseError` where another driver is at it;
    `csp_al.store.changes.ChangedError` where the directory has another campaign; one of `failures` where it ends
    without a result; `csp_al.loop.tasks.StoppedError` where `csp-al stop` was asked for.
    """
    from csp_al.report.tables import open_run
    from csp_al.running.checks import checked_campaign
    from csp_al.store.lock import locked

    found = load_campaign(campaign) if isinstance(campaign, str | Path) else campaign
    if (source := found.source) is None:
        raise ValueError("the campaign is of no file; csp_al.load_campaign(path) reads one")
    here = read_machine(machine)
    of_file = checked_campaign(source, here, lambda doubt: on_event(Warned(str(doubt)))).campaign
    if slots is not None and slots < 1:
        raise ValueError(f"slots={slots}: at least 1, or None for one for each core")
    if seed is not None:
        found = found.model_copy(update={"seed": seed})
    if type(found.seed) is not int or found.seed < 0:
        raise ValueError(f"seed={found.seed!r}: a whole number, 0 or more")
    if found.written() != of_file.model_copy(update={"seed": found.seed}).written():
        raise ValueError(f"the campaign is not that of {source}: only the seed may be another; change the file")
    start = Start(source, source.parent, Path(directory), here, slots, device, repair, tuple(retry))
    foundation = foundation_here(found, start)
    try:
        found, start = pinned(found, replace(start, foundation=foundation))
        start.directory.mkdir(parents=True, exist_ok=True)
        if not trust:
            refuse_links(start.directory)
        with locked(start.directory) as still_ours:
            drive(found, start, on_event, still_ours)
    finally:
        if foundation is not None:
            foundation.close()
    return open_run(start.directory)


def load_campaign(path: str | Path) -> Campaign:
    """The campaign of a file, checked, with every default. Raises CampaignError with everything that is wrong.

    ``campaign.model_copy(update={"seed": 2})`` is the same one with another seed.
    """
    from csp_al.campaign import read_campaign

    return read_campaign(Path(path)).of_file(Path(path))


def failures() -> tuple[type[Exception], ...]:
    """What ends a campaign without a result; the message says why."""
    from csp_al.loop.elsewhere import StageFailedError
    from csp_al.loop.imported import UntrustedLabelsError
    from csp_al.loop.reference_check import WrongReferenceError
    from csp_al.loop.tasks import CalculationsFailedError

    return WrongReferenceError, UntrustedLabelsError, CalculationsFailedError, FoundationError, StageFailedError


def foundation_here(campaign: Campaign, start: Start) -> Universal | None:
    """The campaign's foundation, if it has one, which is started; whoever asks for it closes it."""
    if campaign.foundation is None:
        return None
    from csp_al.potential.devices import resolve_device
    from csp_al.running.checks import foundation_of

    refuse_other_folder(start.directory)
    return foundation_of(campaign, start.machine, start.base, str(resolve_device(start.device)))


def pinned(campaign: Campaign, start: Start) -> tuple[Campaign, Start]:
    """The campaign with the checksums of what it asks, and how it starts on this machine, with versions of programs.

    Raises ValueError where the machine or the run directory does not do.
    """
    from csp_al.engine.engines import check_machine
    from csp_al.running.checks import reference_of

    refuse_other_folder(start.directory)
    machine = start.machine.model_copy(update={"slots": start.slots or start.machine.slots})
    check_machine(machine)
    reference = reference_of(campaign, machine, start.base)
    campaign = campaign.model_copy(update={"reference": reference.pinned()})
    programs = reference.versions()
    if start.foundation is not None:
        campaign = campaign.model_copy(update={"foundation": start.foundation.pinned()})
        programs |= start.foundation.about.versions
    return campaign, replace(start, machine=machine, programs=programs)


def drive(campaign: Campaign, start: Start, tell: Listener, still_ours: Callable[[], None]) -> str:
    """Drive a run directory that is ours; why the search ended. How it ends is in its log.

    Raises StoppedError, Interrupted, `failures`, and TakenOverError where it is another's now.
    """
    from csp_al.loop.tasks import StoppedError

    directory = start.directory
    try:
        try:
            reason = _search(campaign, start, tell, still_ours)
        finally:
            still_ours()  # the log is another's otherwise, and what went wrong is its doing
    except (Interrupted, StoppedError, KeyboardInterrupt):
        log(directory, "stopped")
        raise
    except failures() as failure:
        log(directory, State.FAILED, reason=str(failure))
        raise
    log(directory, State.FINISHED, reason=reason)
    return reason


def _search(campaign: Campaign, start: Start, tell: Listener, still_ours: Callable[[], None]) -> str:
    """Open the run directory and search; why the search ended."""
    from csp_al.engine.engines import start_engine, start_stage_engine
    from csp_al.engine.exchange import Exchange
    from csp_al.loop.drive import Drive
    from csp_al.loop.elsewhere import Elsewhere
    from csp_al.loop.search import search
    from csp_al.potential.devices import resolve_device, use_cores
    from csp_al.running.checks import for_workers

    def note(text: str) -> None:
        tell(Noted(text))

    directory, base, programs = start.directory, start.base, start.programs
    use_cores(cores_of_this_process())
    device = resolve_device(start.device)  # may refuse, and opening changes what it finds
    refuse_retry(directory, start.retry)
    campaign = open_to_drive(directory, campaign, start.source, programs, mend=start.repair, tell=note)
    for program, version in programs.items():
        if (before := programs_of(directory).get(program)) != version:
            note(f"Warning: {program} was {before} when this campaign began, and is {version} now")
    if again := try_winners_again(directory, start.retry):
        note(f"Final relaxations to be tried again: {again}; the results so far are under {SUPERSEDED}/ now")
    log(directory, "started")
    machine = for_workers(start.machine, campaign, base)
    engine = start_engine(directory / "tasks", machine)
    stages = start_stage_engine(directory / POTENTIALS, machine)
    if stages is None:
        Exchange(directory / POTENTIALS).dismiss()  # jobs of a driver that was killed, and had another machine file
    try:
        drive = Drive(
            campaign,
            directory,
            base,
            device,
            tell,
            engine,
            start.repair,
            cores=cores_of_this_process(),
            retry=start.retry,
            still_ours=still_ours,
            foundation=start.foundation,
            stages=stages and Elsewhere(*stages),
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
            with closing(engine), closing(stages[0]) if stages else nullcontext():
                pass
