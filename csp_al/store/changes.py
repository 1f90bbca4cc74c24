"""A campaign file that changed since the run began: which changes keep what is there, and what must be done again.

accept(run, read_campaign_of(run), campaign)
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from csp_al.campaign.models import Campaign
from csp_al.store.repair import set_aside
from csp_al.store.run_directory import cycle_folder, cycles
from csp_al.store.stages import is_published

QUARANTINE: Final = "superseded"
"""Folder of the run directory for what another campaign file decided otherwise."""

STOPPING: Final = ("stop.max_cycles", "stop.patience", "budget.labels", "budget.hours")
"""Keys that say when to stop: the last verdict may change with them."""

FINISHING: Final = ("finish.crystals", "finish.fmax", "finish.max_steps")
"""Keys of the final relaxations."""

FREE: Final = ("reference.time_limit", "reference.max_fail_fraction", "reference.remedies")
"""Keys that change no result: when to give up."""

ASIDE: Final = {"reference": {"pseudo_dir"}}
"""Where something is; each machine has its own answer."""


class ChangedError(Exception):
    """The campaign file is not the one that the run directory was made with; the message shows what differs."""


def differences(before: Any, now: Any, where: str = "") -> dict[str, str]:
    """What differs between two sections as JSON, by key: what it was then, what it is now."""
    if isinstance(before, dict) and isinstance(now, dict):
        keys = [*before, *(key for key in now if key not in before)]
        return {
            place: words
            for key in keys
            for place, words in differences(before.get(key), now.get(key), f"{where}.{key}".lstrip(".")).items()
        }
    return {} if before == now else {where: f"{before!r} then, {now!r} now"}


def accept(run: Path, before: Campaign, now: Campaign) -> list[str]:
    """Make a run directory ready for a changed campaign file; the changes, in words. Raises ChangedError.

    Where the change may let the search go on, its last verdict and the winners are set aside.
    """
    found = differences(before.model_dump(mode="json", exclude=ASIDE), now.model_dump(mode="json", exclude=ASIDE))
    refused = {key: words for key, words in found.items() if _root(key) is None}
    if "stop.max_cycles" in found and now.stop.max_cycles < (decided := _decided(run)):
        refused["stop.max_cycles"] = f"{now.stop.max_cycles}, but {decided} cycles have been begun or decided on"
    if refused:
        lines = "\n".join(f"  {key}: {words}" for key, words in refused.items())
        msg = (
            f"{run} was made with another campaign file:\n{lines}\n"
            "Take these changes back, or give the new campaign another name (or --directory); with "
            f"'labels: [{run}]' it begins with the labels of this one, if the reference is the same."
        )
        raise ChangedError(msg)
    _reopen(run, {root for key in found if (root := _root(key))})
    return [f"{key}: {words}" for key, words in found.items()]


def _root(key: str) -> str | None:
    """The harmless key that this one is, or lies below; None for a key that is not harmless."""
    return next((root for root in (*STOPPING, *FINISHING, *FREE) if f"{key}.".startswith(f"{root}.")), None)


def _decided(run: Path) -> int:
    """Cycles that have begun, and the one that the last of them has chosen labels for."""
    begun = cycles(run)
    return len(begun) + bool(begun and is_published(cycle_folder(run, begun[-1]) / "select"))


def _reopen(run: Path, changed: set[str]) -> None:
    """Set aside what was decided by keys that are others now."""
    decided = [run / "winners"] if changed & {*STOPPING, *FINISHING} else []
    if begun := cycles(run):
        verdict = cycle_folder(run, begun[-1]) / "verdict"
        if changed & set(STOPPING) and _said_stop(verdict):
            decided.insert(0, verdict)
    set_aside(run, QUARANTINE, [folder for folder in decided if is_published(folder)])


def _said_stop(verdict: Path) -> bool:
    path = verdict / "verdict.json"
    return path.is_file() and bool(json.loads(path.read_text(encoding="utf-8"))["stop"])
