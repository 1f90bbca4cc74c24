"""The pilots of a campaign on a cluster, as its run directory tells of them."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from csp_al import claim
from csp_al.engine.exchange import Exchange
from csp_al.files import DamagedError


@dataclass(frozen=True)
class Pilots:
    """What is there now, and what pilots have cost.

    - queued, running: pilots whose jobs wait in the queue of the scheduler, or are under way
    - slots, busy: of those that run; waiting: calculations that wait for a slot
    - core_hours: of all pilots so far, their idle time included
    - core_hours_to_come: for the labels that may still come, at most; None where nothing is known
    - refused: the scheduler's words where it takes no further job for now; empty elsewhere
    """

    queued: int
    running: int
    slots: int
    busy: int
    waiting: int
    core_hours: float
    core_hours_to_come: float | None
    refused: str


def pilots(run: Path, labelled: int = 0, to_come: int = 0, *, tasks: str = "tasks") -> Pilots | None:
    """Of a run directory with so many labels, and at most so many to come; None where there never was a pilot.

    ``tasks``: the folder of what they do.
    """
    exchange = Exchange(run / tasks)
    word = exchange.word()
    if word is None or not (word.jobs or word.core_seconds):
        return None
    here = [name for name in word.jobs if not exchange.pilot(name).is_symlink()]
    begun = {name: found for name in here if (found := exchange.begun(name))}
    running = [name for name in begun if claim.owner(exchange.pilot(name)) is not None]
    seconds = word.core_seconds + sum(
        max(0.0, time.time() - begun[name].began) * begun[name].cores if name in running else exchange.lasted(name)
        for name in begun
    )
    hours = max(0.0, seconds / 3600)
    return Pilots(
        queued=len(here) - len(begun),
        running=len(running),
        slots=sum(_slots(exchange, name) for name in running),
        busy=sum(len(exchange.held(name)) for name in running),
        waiting=len(exchange.waiting()),
        core_hours=hours,
        core_hours_to_come=hours / labelled * to_come if labelled else None,
        refused=word.refused,
    )


def _slots(exchange: Exchange, pilot: str) -> int:
    try:
        return exchange.terms(pilot).slots
    except (OSError, DamagedError):
        return 0
