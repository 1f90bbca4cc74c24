"""`csp-al run FILE --seeds 1-10`: the same campaign with several seeds, each in a run directory of its own."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from csp_al import objective
from csp_al.campaign.errors import shown
from csp_al.campaign.models import Campaign
from csp_al.cli.driver import DONE, NO_RESULT, Start, drive
from csp_al.printing import say
from csp_al.store.lock import InUseError

if TYPE_CHECKING:
    import pandas as pd

IN_USE: Final = 3
MOST: Final = 1000
"""Seeds of one command; more are a slip of the keyboard."""


def seeds_of(text: str) -> list[int]:
    """The seeds that a text such as 1-10 or 1,4,7-9 means, each once. Raises ValueError."""
    seeds: list[int] = []
    for part in text.split(","):
        found = re.fullmatch(r"\s*(\d{1,18})(?:-(\d{1,18}))?\s*", part, re.ASCII)
        first, last = (int(end) for end in (found[1], found[2] or found[1])) if found else (1, 0)
        if last < first or last - first >= MOST:
            raise ValueError(f"--seeds {shown(text)}: write e.g. 1-10 or 1,4,7, at most {MOST} of them")
        seeds.extend(range(first, last + 1))
    return list(dict.fromkeys(seeds))


def folder_of(directory: Path, seed: int) -> Path:
    """Run directory of a seed, beside that of a campaign without --seeds."""
    return directory.with_name(f"{directory.name}-seed-{seed}")


def drive_each(campaign: Campaign, start: Start, seeds: Sequence[int]) -> int:
    """Run or continue the campaign with one seed after the other; 0 if all ended well.

    One that ends without a result, or that another driver has, is passed by, and its exit status is that of all. What
    stops one otherwise, stops all. Raises as `drive`.
    """
    statuses = {}
    for place, seed in enumerate(seeds, start=1):
        run = folder_of(start.directory, seed)
        say(f"Seed {seed}, {place} of {len(seeds)}: {run}")
        try:
            status = drive(campaign.model_copy(update={"seed": seed}), replace(start, directory=run))
        except InUseError as error:
            say(str(error), err=True)
            status = IN_USE
        statuses[seed] = status
        if status not in (DONE, NO_RESULT, IN_USE):
            say("The same command goes on with the seeds that are left.", err=True)
            return status
    _say_leaders(start.directory, seeds)
    if without := [seed for seed, status in statuses.items() if status]:
        say(f"Without a result: seed {', '.join(map(str, without))}", err=True)
    return max(statuses.values())


def _say_leaders(directory: Path, seeds: Sequence[int]) -> None:
    """A line for each seed that has ended: what it found, and which found the same."""
    from csp_al.report.runs import Runs
    from csp_al.report.tables import open_run
    from csp_al.store.run_directory import NoRunError

    runs = []
    for seed in seeds:
        try:
            runs.append(open_run(folder_of(directory, seed)))
        except NoRunError:
            continue
    leaders = Runs(runs).leaders
    if leaders.empty:
        return
    say("The lowest crystal of each seed; number 1 is the lowest of all, and equal crystals have one number:")
    say("\n".join(f"  {line}" for line in _lines(leaders)))
    found = int((leaders["crystal"] == 1).sum())
    say(f"{found} of {len(leaders)} seeds found number 1.")
    pattern = folder_of(directory, 0).name.removesuffix("0") + "*"
    say(f"Side by side: csp-al compare {directory.parent / pattern}")
    say(f"Tables of all in Python: csp_al.open_runs('{directory.parent / pattern}')")


def _lines(leaders: pd.DataFrame) -> list[str]:
    return [
        f"seed {row['seed']}: number {row['crystal']}, {row['space_group_symbol']}, "
        f"{objective.show(row['energy_per_atom'])}, times reached {row['times_reached']}, "
        f"{row['reference_evaluations']} evaluations, {row['judgement']}"
        for row in leaders.to_dict("records")
    ]
