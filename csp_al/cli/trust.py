"""What a run directory could do to whoever continues it, and that it does not unless they say so.

To look at a run directory (`status`, `results`, `export`, `open_run`) runs nothing of it. To continue one with its own
settings may: a calculator, or a kind that is not ours, is code that its author chose.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from csp_al.campaign.models import Campaign
from csp_al.kinds import POTENTIALS, REFERENCES, SOURCES, is_ours
from csp_al.reference.references import reference_kind
from csp_al.store.run_directory import SETTINGS

PLACE: Final = {REFERENCES: "reference.kind", SOURCES: "pool.sources.kind", POTENTIALS: "potential.kind"}
"""Where a campaign file names a kind."""


class UntrustedError(Exception):
    """The run directory would run code, or lead elsewhere; the message says which, and how to allow it."""


def refuse_code(campaign: Campaign, run: Path) -> None:
    """Raise UntrustedError if continuing the run with its own copy of the settings could run its author's code."""
    found = _code(campaign)
    if found:
        msg = (
            f"{run}: its copy of the campaign file has {found}, which this command would run. Continue with the "
            "campaign file itself (csp-al run FILE), or, if you know what made this directory, with: "
            f"csp-al resume {run} --trust"
        )
        raise UntrustedError(msg)


def refuse_links(run: Path) -> None:
    """Raise UntrustedError if the run directory has a symbolic link that leads out of it, a pipe or a device."""
    for path in _found_in(run):
        if path.is_symlink() and not _leads_inside(path, run):
            what = "a symbolic link out of the run directory, and would be followed in writing and in removing"
        elif path.is_symlink() or path.is_file() or path.is_dir():
            continue
        else:
            what = "neither a file nor a folder, and would be waited for"
        raise UntrustedError(f"{path} is {what}. Remove it, or, if you made it yourself, add --trust")


def how_to_continue(campaign: Campaign, run: Path) -> str:
    """What a driver that ended before its time tells its user."""
    if not (run / SETTINGS).exists():
        return "Nothing has begun yet"
    return f"Nothing is lost. Continue with: csp-al resume {run}{' --trust' * bool(_code(campaign))}"


def _code(campaign: Campaign) -> str:
    """The first key whose value is code that its author chose, as is every kind that is not ours; empty if none is."""
    for group, name in campaign.kinds:
        if not is_ours(group, name):
            return f"{PLACE[group]}: {name}"
    return reference_kind(campaign.reference).foreign_code(campaign.reference)


def _found_in(run: Path) -> Iterator[Path]:
    for folder, folders, files in os.walk(run):
        yield from (Path(folder, name) for name in (*folders, *files))


def _leads_inside(link: Path, run: Path) -> bool:
    try:
        return link.resolve().is_relative_to(run.resolve())
    except (OSError, RuntimeError):  # it leads in a circle
        return False
