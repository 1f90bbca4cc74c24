"""What a driver and its pilots tell each other: by files alone, so that either may die, and no port need be open.

    tasks/engine/engine.json                  the driver's word: whether there is work, which pilots there are
    tasks/engine/queue/<number>-<task>-<s>    a ticket: a task that waits, and how long one evaluation of it may take
    tasks/engine/<pilot>/                     made by the driver for a job; a pilot whose folder is gone ends
    tasks/engine/<pilot>/terms.json           what the pilot is to do
    tasks/engine/<pilot>/claim, begun.json    while it lives; since when, and by its last change until when
    tasks/engine/<pilot>/<number>-<task>-<s>  a ticket that it has taken, by one rename
    tasks/engine/<pilot>/trouble.json         what it could not go on for

A ticket says who is to work on a task; who does is said by the claim in the task's own folder, so that two tickets for
one task do no harm.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from pydantic import TypeAdapter

from csp_al.files import DamagedError, make_directory, read_json, write_json

TICKET: Final = re.compile(r"(?P<number>[0-9]{20})-(?P<task>[0-9a-f]{20})-(?P<seconds>[0-9]{1,9})")
MOST_SECONDS: Final = 999_999_999
PILOT: Final = re.compile(r"pilot-[0-9a-f]{16}")
TERMS, BEGUN, TROUBLE = "terms.json", "begun.json", "trouble.json"


@dataclass(frozen=True)
class Ticket:
    """A task that is to be done, and s that one evaluation of it may take. Tickets are taken in their order."""

    number: int
    task: str
    seconds: int

    def __str__(self) -> str:
        return f"{self.number:020}-{self.task}-{self.seconds}"


class Work(StrEnum):
    """What the driver wants of its pilots."""

    OPEN = "open"
    LEFT = "left"
    """Finish what was begun, begin nothing more, end."""
    CLOSED = "closed"
    """End at once."""


@dataclass
class Word:
    """The driver's word, as ``engine.json`` has it.

    ``folder`` is the inode of its folder, which a copy does not share; ``driver`` tells it from others; ``terms`` a
    checksum of what its pilots are to do; ``scheduler`` where they are; ``jobs`` by pilot what the scheduler knows each
    by, in the order in which they were submitted; ``kept`` those that stay though they have nothing to do;
    ``core_seconds`` of pilots that are over; ``refused`` the scheduler's words where it takes no more jobs.
    """

    folder: int
    driver: str
    terms: str
    scheduler: str
    work: Work = Work.OPEN
    jobs: dict[str, dict[str, str | int | None]] = field(default_factory=dict)
    kept: list[str] = field(default_factory=list)
    core_seconds: float = 0.0
    refused: str = ""


@dataclass(frozen=True)
class Terms:
    """What a pilot is to do: the `Machine` of its tasks as JSON, tasks side by side, cores, s that it lasts.

    Its tasks are labels, or, where ``stages`` names a device, stages of the loop on it.
    """

    machine: dict[str, Any]
    slots: int
    cores: int
    seconds: float | None
    stages: str = ""


@dataclass(frozen=True)
class Begun:
    """Where and when a pilot began (s since the epoch)."""

    host: str
    pid: int
    began: float
    cores: int


_WORD: Final = TypeAdapter(Word)
_TERMS: Final = TypeAdapter(Terms)
_BEGUN: Final = TypeAdapter(Begun)
_TROUBLE: Final = TypeAdapter(dict[str, str | int | None])


class Exchange:
    """The folder in which driver and pilots meet, below that of the tasks."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder = root / "engine"
        self.queue = self.folder / "queue"
        self._last = 0

    def make(self) -> None:
        """Make the folder."""
        make_directory(self.queue)

    def pilot(self, name: str) -> Path:
        """The folder of a pilot."""
        return self.folder / name

    def pilots(self) -> list[str]:
        """Those that have a folder."""
        return [name for name in _names(self.folder) if PILOT.fullmatch(name)]

    def say(self, word: Word) -> None:
        """Let pilots know."""
        write_json(self.folder / "engine.json", asdict(word))

    def word(self) -> Word | None:
        """What the driver said last; None where it is nothing that it can have said."""
        with suppress(OSError, DamagedError):
            word = read_json(self.folder / "engine.json", _WORD)
            if all(map(PILOT.fullmatch, word.jobs)):
                return word
        return None

    def dismiss(self) -> list[str]:
        """Let the pilots end that a driver has left behind; the ids of their jobs. There must be no driver."""
        word = self.word()
        if word is None or not word.jobs:
            return []
        word.work = Work.CLOSED
        self.say(word)
        self.forget_queue()
        return [str(known["job_id"]) for known in word.jobs.values() if "job_id" in known]

    def put(self, task: str, seconds: float) -> None:
        """Let a task wait for a pilot, behind those that wait already."""
        self._last = max(self._last + 1, time.time_ns())
        (self.queue / str(Ticket(self._last, task, min(math.ceil(seconds), MOST_SECONDS)))).touch()

    def waiting(self) -> list[Ticket]:
        """Those that no pilot has taken, in their order."""
        return _tickets(self.queue)

    def held(self, pilot: str) -> list[Ticket]:
        """Those that a pilot has taken and is not through with."""
        return _tickets(self.pilot(pilot))

    def take(self, ticket: Ticket, pilot: str) -> bool:
        """Take a ticket from the queue; False where another was faster."""
        target = self.pilot(pilot) / str(ticket)
        with suppress(FileNotFoundError):
            (self.queue / str(ticket)).rename(target)
        return target.exists()  # over a network it may be renamed and the answer lost

    def forget(self, ticket: Ticket, pilot: str | None = None) -> None:
        """Remove a ticket of a task that is done, or of nobody's concern any more."""
        ((self.pilot(pilot) if pilot else self.queue) / str(ticket)).unlink(missing_ok=True)

    def give_back(self, pilot: str) -> None:
        """Put what a pilot has taken back into the queue, where it stood."""
        for ticket in self.held(pilot):
            with suppress(FileNotFoundError):
                (self.pilot(pilot) / str(ticket)).rename(self.queue / str(ticket))

    def forget_queue(self) -> None:
        """Let nothing wait."""
        for ticket in self.waiting():
            self.forget(ticket)

    def begun(self, pilot: str) -> Begun | None:
        """Since when a pilot is there, or was; None where it waits for its job."""
        with suppress(OSError, DamagedError):
            return read_json(self.pilot(pilot) / BEGUN, _BEGUN)
        return None

    def beat(self, pilot: str) -> float:
        """The last sign of life of a pilot, by the clock of the file system (s since the epoch); 0 before the first."""
        with suppress(OSError):
            return (self.pilot(pilot) / BEGUN).stat().st_mtime
        return 0.0

    def lasted(self, pilot: str) -> float:
        """Core seconds of a pilot until its last sign of life."""
        begun = self.begun(pilot)
        return max(0.0, self.beat(pilot) - begun.began) * begun.cores if begun else 0.0

    def trouble(self, pilot: str) -> Mapping[str, Any] | None:
        """What a pilot could not go on for, as a worker says it; None where it had none."""
        with suppress(OSError, DamagedError):
            return read_json(self.pilot(pilot) / TROUBLE, _TROUBLE)
        return None

    def terms(self, pilot: str) -> Terms:
        """What a pilot is to do. Raises FileNotFoundError where nobody waits for it any more."""
        return read_json(self.pilot(pilot) / TERMS, _TERMS)


def _tickets(folder: Path) -> list[Ticket]:
    found = (TICKET.fullmatch(name) for name in _names(folder))
    tickets = [Ticket(int(one["number"]), one["task"], int(one["seconds"])) for one in found if one]
    return sorted(tickets, key=lambda ticket: ticket.number)


def _names(folder: Path) -> list[str]:
    try:
        return [path.name for path in folder.iterdir()]
    except FileNotFoundError:
        return []
