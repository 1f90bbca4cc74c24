"""What a driver is doing, from the files that it leaves: for status, and for whoever follows it from another terminal.

entries, at = read_log(run)
events = [event for entry in entries if (event := event_of(entry))]
entries, at = read_log(run, at)  # what has come since
"""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError

from csp_al.engine.tasks import is_done, is_id
from csp_al.events import Advanced, CycleJudged, Event, LabelsImported, Noted, StageStarted
from csp_al.files import DamagedError, open_plain
from csp_al.store.layout import TASKS
from csp_al.store.run_directory import FIRST, LAST, STAGES, Place, under_way
from csp_al.store.stages import partial

EVENTS: Final[dict[str, TypeAdapter[Any]]] = {
    "stage started": TypeAdapter(StageStarted),
    "advanced": TypeAdapter(Advanced),
    "labels from elsewhere": TypeAdapter(LabelsImported),
    "cycle": TypeAdapter(CycleJudged),
}
"""What lines of the log are, by their names."""


def read_log(run: Path, start: int = 0) -> tuple[list[dict[str, Any]], int]:
    """The entries of the log from this byte on, and the byte to go on from.

    A line that is still being written is left for then; one that is none, as one cut off by the end of its driver, says
    nothing. Each entry has a ``time`` with its zone, and ``event``, a text.
    """
    try:
        with open_plain(run / "log.jsonl") as file:
            file.seek(start)
            whole, newline, _ = file.read().rpartition(b"\n")
    except FileNotFoundError:
        return [], 0
    entries = []
    for line in whole.decode(errors="replace").splitlines():
        try:
            entry = json.loads(line)
            if datetime.fromisoformat(entry["time"]).tzinfo is not None:
                entries.append(entry | {"event": str(entry["event"])})
        except (ValueError, KeyError, TypeError, RecursionError):
            continue
    return entries, start + len(whole) + len(newline)


def event_of(entry: dict[str, Any]) -> Event | None:
    """What an entry of the log tells, as the driver told it; None for one that tells nothing to people."""
    name = entry["event"]
    if name == "cells opened":
        return Noted(f"Cells enlarged and labelled again: {entry.get('why')}")
    if name == "tried again":
        tasks = entry.get("tasks")
        return Noted(f"Calculations tried again: {len(tasks) if isinstance(tasks, list) else 'some'}")
    try:
        event: Event | None = EVENTS[name].validate_python(entry) if name in EVENTS else None
    except ValidationError:  # of another version
        return None
    known = not isinstance(event, StageStarted) or event.stage in {*FIRST, *STAGES, LAST}
    return event if known else None


def tasks_of(place: Place | None) -> list[str]:
    """Ids of the tasks of the stage under way, each once; none if it has no tasks or not yet."""
    if place is None:
        return []
    try:
        with open_plain(partial(place[2]) / TASKS) as file:
            names = json.loads(file.read())
    except (FileNotFoundError, ValueError, RecursionError):  # not there yet, or just now published
        return []
    return list(dict.fromkeys(filter(is_id, names if isinstance(names, list) else [])))


def advanced(run: Path) -> Advanced | None:
    """How many of the calculations of the stage under way have their results; None where it has none."""
    try:
        tasks = tasks_of(under_way(run))
    except DamagedError:  # whoever asks for the status will hear of it
        return None
    return Advanced(sum(is_done(run / "tasks", name) for name in tasks), len(tasks)) if tasks else None
