"""One run of the driver: lock, engine, loop, panel, and how it ended."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import typer

from csp_al.campaign.machine import Machine, usable_cores
from csp_al.campaign.models import Campaign
from csp_al.cli.panel import Panel
from csp_al.cli.tables import results_table

DONE, NO_RESULT, STOPPED, INTERRUPTED = 0, 1, 143, 130


class Interrupted(BaseException):
    """SIGTERM or SIGINT; not an Exception, so that nothing on the way swallows it."""

    def __init__(self, number: int) -> None:
        self.status = INTERRUPTED if number == signal.SIGINT else STOPPED
        super().__init__(signal.Signals(number).name)


def drive(campaign: Campaign, source: Path, directory: Path, machine: Machine, slots: int | None, device: str) -> int:
    """Run or continue a campaign and return the exit status. Raises InUseError and ChangedError."""
    from csp_al.cli.checks import for_workers, reference_of
    from csp_al.engine.local import LocalEngine
    from csp_al.loop.check import WrongReferenceError
    from csp_al.loop.elsewhere import UntrustedLabelsError
    from csp_al.loop.finish import NoResultError
    from csp_al.loop.search import search
    from csp_al.loop.stages import Drive
    from csp_al.loop.tasks import StoppedError, TooManyFailedError
    from csp_al.potential.devices import resolve_device
    from csp_al.report.tables import open_run
    from csp_al.store.lock import locked
    from csp_al.store.run import forget_stop_request, log, prepare, programs_of

    torch_device = resolve_device(device)
    machine = machine.model_copy(update={"slots": slots or machine.slots})
    slots = machine.slots_on(usable_cores())
    reference = reference_of(campaign, machine, source.parent)
    campaign = campaign.model_copy(update={"reference": reference.pinned()})
    directory.mkdir(parents=True, exist_ok=True)
    with locked(directory), _interruptible(), Panel(campaign, directory) as panel:
        programs = reference.versions()
        prepare(directory, campaign, source, programs)
        for program, version in programs.items():
            if (before := programs_of(directory).get(program)) != version:
                panel.note(f"Warning: {program} was {before} when this campaign began, and is {version} now")
        forget_stop_request(directory)
        log(directory, "started")
        engine = LocalEngine(directory / "tasks", slots, for_workers(machine, campaign, source.parent))
        try:
            verdict = search(Drive(campaign, directory, source.parent, engine, torch_device, panel.tell))
        except (Interrupted, StoppedError) as end:
            log(directory, "stopped")
            panel.note(f"Stopped; nothing is lost. Continue with: csp-al resume {directory}")
            return end.status if isinstance(end, Interrupted) else STOPPED
        except (WrongReferenceError, TooManyFailedError, UntrustedLabelsError, NoResultError) as failure:
            log(directory, "failed", reason=str(failure))
            panel.note(str(failure))
            return NO_RESULT
        finally:
            engine.close()
        log(directory, "finished", reason=verdict.reason)
    typer.echo(f"Search ended: {verdict.reason}.")
    results_table(open_run(directory).result_rows)
    typer.echo(f"Structures and tables: {directory / 'winners'}")
    return DONE


@contextmanager
def _interruptible() -> Iterator[None]:
    """Turn SIGTERM and SIGINT into `Interrupted`, so that everything is closed on the way out."""

    def interrupt(number: int, _: FrameType | None) -> None:
        raise Interrupted(number)

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
