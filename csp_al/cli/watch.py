"""`csp-al watch`: a campaign that another process drives, here or on another host, in the driver's own panel.

Only files are read: the log, the lock, and which calculations have their results.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from csp_al.cli.panel import Panel
from csp_al.cli.trust import NOTHING_LOST, how_to_continue
from csp_al.events import StageStarted
from csp_al.interfaces import State
from csp_al.printing import say
from csp_al.report.live import advanced, event_of, read_log
from csp_al.report.status import status
from csp_al.report.status_in_words import describe
from csp_al.store.lock import holder, watched_holder
from csp_al.store.run_directory import SETTINGS, read_campaign_of

LOOK: Final = 1.0
"""s, between two looks."""


def follow(directory: Path) -> int:
    """Show a campaign until it ends, and its last status; the exit status. Raises NoRunError where there is none."""
    while holder(directory) is not None and not (directory / SETTINGS).exists():
        time.sleep(LOOK)  # its driver has only begun
    campaign = read_campaign_of(directory)
    driver = watched_holder(directory)
    if driver is not None:
        panel = Panel(campaign, directory)
        panel.title = f"{panel.title}, by process {driver['pid']} on {driver['host']}"
        try:
            with panel:
                _show(directory, panel, str(driver.get("since")))
        except KeyboardInterrupt:
            say(f"The campaign goes on. To look again: csp-al watch {directory}")
            raise
    now = status(directory)
    say(describe(now))
    say(_outlook(directory, now.state))
    return 0 if now.state is State.FINISHED else 1


def _show(directory: Path, panel: Panel, since: str) -> None:
    """Tell the panel what the driver tells, and has told since it has the run directory, until there is none."""
    entries, at = read_log(directory)
    entries, driven = [entry for entry in entries if not _is_older(entry, since)], True
    while True:
        for entry, after in zip(entries, [*entries[1:], {"event": ""}], strict=False):
            if {entry["event"], after["event"]} != {"advanced"}:  # several at once tell of no pace
                _tell(panel, entry)
        if (now := advanced(directory)) is not None:
            panel.tell(now)
        if not driven:
            return
        time.sleep(LOOK)
        driven = watched_holder(directory) is not None  # before the log is read, lest its last lines are missed
        entries, at = read_log(directory, at)


def _is_older(entry: dict[str, Any], since: str) -> bool:
    """Whether an entry of the log was written before this time; by the same clock, that of the driver's host."""
    try:
        return bool(datetime.fromisoformat(entry["time"]) < datetime.fromisoformat(since))
    except (ValueError, TypeError):  # the lock was only just made, and does not tell yet
        return False


def _tell(panel: Panel, entry: dict[str, Any]) -> None:
    told = datetime.fromisoformat(entry["time"])
    panel.clock = told.astimezone
    if entry["event"] == "started":
        panel.begin_again()
    if (event := event_of(entry)) is not None:
        panel.tell(event)
    if isinstance(event, StageStarted):
        panel.date_back(max(0.0, (datetime.now(UTC) - told).total_seconds()))


def _outlook(directory: Path, state: State) -> str:
    """What there is to do now."""
    if state is State.FINISHED:
        return f"The campaign has ended. Its results: csp-al results {directory}"
    if state is State.FAILED:
        return "The campaign has ended without a result."
    how = how_to_continue(read_campaign_of(directory), directory)
    if state is State.NEW:
        return f"No driver is running, and nothing has begun yet. {how.removeprefix(NOTHING_LOST)}"
    entries, _ = read_log(directory)
    stopped = entries and entries[-1]["event"] == "stopped"
    return f"{'Its driver was stopped' if stopped else 'No driver is running: it died, or its host did'}. {how}"
