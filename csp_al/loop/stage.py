"""One stage of a campaign in a process of its own, here or on another node that sees the run directory.

    python -m csp_al.loop.stage runs/si8 cycle-03/train --device cpu

It is done from what earlier stages published, and left in ``cycle-03/train.partial``; the driver publishes it when it
comes there. What a reference has to compute needs an engine, and so the driver.
"""

from __future__ import annotations

import argparse
import re
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

from csp_al.campaign import Campaign, species_counts
from csp_al.campaign.errors import CampaignError, shown
from csp_al.campaign.machine import Machine, cores_of_this_process, read_machine
from csp_al.disk_space import is_machine_failure, machine_failure_in_words, require_space
from csp_al.engine.engines import start_engine
from csp_al.events import Advanced, CycleJudged, Event, LabelsImported, Listener, StageStarted
from csp_al.files import DamagedError, OtherVersionError
from csp_al.foundation.client import FoundationError
from csp_al.foundation.universal import build_foundation
from csp_al.interfaces import UnplaceableError
from csp_al.kinds import REFERENCES, is_ours
from csp_al.loop.drive import Drive, Work
from csp_al.loop.search import search
from csp_al.printing import replace_unknown_letters, say
from csp_al.spelling import did_you_mean
from csp_al.store.filled import fill, settings_of
from csp_al.store.lock import InUseError, holder
from csp_al.store.run_directory import (
    FIRST,
    LAST,
    SETTINGS,
    STAGES,
    NoRunError,
    cycle_folder,
    folder_of_campaign,
    read_campaign_of,
)
from csp_al.store.stages import is_published, partial

if TYPE_CHECKING:
    import torch

ALONE: Final = ("pool", "foundation", "train", "relax", "direct", "grow", "rank", "verdict", "select")
"""Stages that need no engine, and nothing from outside but the seeds of a pool."""

REFUSED, MACHINE_FAILED = 2, 75
"""Exit statuses, as of `csp-al run`."""


class RefusedError(Exception):
    """The stage cannot be done by itself, or not now; the message says why."""


class _DoneError(Exception):
    """The stage that was asked for is done; nothing after it is."""


@dataclass(frozen=True)
class Replay(Drive):
    """A driver that reads back what is published, does the stage that was asked for, and ends; it publishes nothing."""

    asked: Path = field(kw_only=True)
    settings: str = field(kw_only=True)
    driver: str | None = field(default=None, kw_only=True)
    reached: threading.Event = field(kw_only=True)

    def do(self, folder: Path, after: Path | None, write: Callable[[Path], None]) -> NoReturn:
        """Fill the stage that was asked for. Raises `RefusedError` where another one is missing."""
        if folder != self.asked:
            raise RefusedError(_why_not(self.run, self.asked, folder))
        _refuse_taken(self.run, folder, self.driver)  # a driver may have come here meanwhile
        require_space(self.run)
        self.reached.set()
        fill(folder, after, self.settings, write)
        raise _DoneError

    def report(self, done: int, everything: int) -> None:
        """Tell how far the stage is."""
        Work.report(self, done, everything)

    def refuse_stop(self) -> None:
        """Who asks the run's driver to stop does not mean this process."""

    def announce(self, name: str, event: StageStarted | CycleJudged | LabelsImported) -> None:
        """What happened was told when it happened."""


def do_stage(
    run: Path,
    name: str,
    device: torch.device,
    tell: Listener,
    *,
    trust: bool = False,
    machine: Machine | None = None,
    base: Path | None = None,
    driver: str | None = None,
) -> Path:
    """Do a stage of this name, such as "cycle-03/train", and return the partial folder that it is in.

    The machine says where a foundation is. Nothing that the author of the run directory chose is imported unless it is
    trusted: no reference is needed here, and where another kind is not ours the stage is refused. ``base``: where the
    campaign file is; None: where it was when the run began. ``driver``: the token of a driver that waits for the stage
    instead of doing it. What is told is of this stage alone. Raises `RefusedError`, InUseError where somebody is at it,
    and what opening a run directory raises.
    """
    settings = settings_of(run) if (run / SETTINGS).is_file() else ""  # then there is no run, which is said next
    campaign = read_campaign_of(run, trust=trust, base=base)
    base = base or folder_of_campaign(run)
    folder = _folder_of(run, name)
    _refuse_senseless(campaign, run, folder, trust=trust)
    aside = partial(folder)
    if is_published(folder):
        raise RefusedError(f"{name} of {run} is published already; there is nothing to do")
    if not aside.resolve().is_relative_to(run.resolve()):
        raise RefusedError(f"{aside} leads out of the run directory")
    _refuse_taken(run, folder, driver)
    engine = start_engine(run / "tasks", Machine())  # of which nothing is asked
    cores, reached = cores_of_this_process(), threading.Event()
    foundation = None
    if campaign.foundation is not None:
        foundation = build_foundation(campaign.foundation, machine or Machine(), base, str(device), cores)
    try:
        if foundation and (wrong := foundation.check(list(species_counts(campaign.pool.formula)))):
            raise RefusedError(f"{name} of {run} cannot be done here: {wrong[0]}")
        search(
            Replay(
                campaign,
                run,
                base,
                device,
                lambda event: tell(event) if reached.is_set() else None,
                engine,
                asked=folder,
                settings=settings,
                driver=driver,
                reached=reached,
                cores=cores,
                foundation=foundation,
            )
        )
    except _DoneError:
        return aside
    finally:
        if foundation is not None:
            foundation.close()
    raise RefusedError(_why_not(run, folder, run / LAST))


def _refuse_senseless(campaign: Campaign, run: Path, folder: Path, *, trust: bool) -> None:
    """Raise `RefusedError` where a stage would run code that is not trusted, and where the campaign has none such."""
    foreign = [kind for group, kind in campaign.kinds if group != REFERENCES and not is_ours(group, kind)]
    if campaign.foundation is not None and not campaign.foundation.is_ours:
        foreign.append(campaign.foundation.model)
    if foreign and not trust:
        msg = f"{run} asks for {foreign[0]}, code of its author; if you know what made this directory, add --trust"
        raise RefusedError(msg)
    if folder.name == "direct" and campaign.direct is None:
        raise RefusedError(f"{folder.relative_to(run)} of {run} is none: the campaign asks for no direct relaxer")
    if folder.name == "grow" and campaign.pools[-1].grow is None:
        raise RefusedError(f"{folder.relative_to(run)} of {run} is none: its pool does not grow")
    if folder.name == "foundation" and (campaign.foundation is None or campaign.unlabelled):
        raise RefusedError(f"{folder.relative_to(run)} of {run} is none: no foundation goes before its labels")


def _folder_of(run: Path, name: str) -> Path:
    """Folder of a stage that can be done by itself. Raises `RefusedError` for any other name."""
    found = re.fullmatch(r"(?:cycle-(\d+)/)?(\w+)", name)
    cycle, stage = found.groups() if found else (None, "")
    known = (*FIRST, LAST) if cycle is None else STAGES
    if stage not in known:
        hint = did_you_mean(stage, known) or f"; there are pool, and in cycle-NN/ {', '.join(STAGES)}"
        raise RefusedError(f"no stage is called {shown(name)}{hint}")
    if stage not in ALONE:
        raise RefusedError(f"{name} needs an engine, and so a driver: csp-al resume {run}")
    return run / stage if cycle is None else cycle_folder(run, int(cycle)) / stage


def _refuse_taken(run: Path, folder: Path, driver: str | None) -> None:
    """Raise InUseError where another process is at this stage, be it one like this or a driver that does not wait."""
    aside, other = partial(folder), None
    if aside.exists() or driver is not None:
        other = holder(run)
    if other is not None and other.get("token") == driver:
        other = None
    other = holder(aside) or other
    if other is not None:
        name = folder.relative_to(run)
        raise InUseError(f"{name} of {run} is being done by process {other['pid']} on {other['host']}")


def _why_not(run: Path, asked: Path, missing: Path) -> str:
    name = asked.relative_to(run)
    if missing.name == LAST:
        return f"{name} of {run} is none: the search ends before it"
    return f"{name} of {run} cannot be done yet: {missing.relative_to(run)} comes before it and is not published"


def main(words: Sequence[str]) -> int:
    """Do the stage that the words of a command line ask for; the exit status."""
    parser = argparse.ArgumentParser("python -m csp_al.loop.stage", description=__doc__.partition("\n")[0])
    parser.add_argument("run", type=Path, help="run directory")
    parser.add_argument("stage", help="e.g. cycle-03/train")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--trust", action="store_true", help="the run directory is mine: its code may be run")
    parser.add_argument("--machine", help="machine file: a name, or a path ending in .yaml; default: default")
    replace_unknown_letters()
    given = parser.parse_args(words)
    from csp_al.potential.devices import resolve_device, use_cores

    def tell(event: Event) -> None:
        if isinstance(event, Advanced):
            say(f"{given.stage}: {event.done} of {event.all}")

    use_cores(cores_of_this_process())
    try:
        device, machine = resolve_device(given.device), read_machine(given.machine)
        aside = do_stage(given.run, given.stage, device, tell, trust=given.trust, machine=machine)
    except (
        RefusedError, InUseError, CampaignError, FoundationError, NoRunError, DamagedError, OtherVersionError,
        UnplaceableError, ValueError,
    ) as error:  # fmt: skip
        say(error, err=True)
        return REFUSED
    except OSError as error:
        say(machine_failure_in_words(error, given.run), err=True)
        return MACHINE_FAILED if is_machine_failure(error) else REFUSED
    say(f"{aside} is done; the driver publishes it")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
