"""What the loop tells while it runs, to whoever listens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class StageStarted:
    """A stage is under way; those outside the cycles have none."""

    cycle: int | None
    stage: str


@dataclass(frozen=True)
class Advanced:
    """So much of the stage under way is done."""

    done: int
    all: int


@dataclass(frozen=True)
class Calculated:
    """A calculation by the reference has ended: its id, how, energy (eV/atom), cost (core seconds), why it failed."""

    task: str
    status: str
    energy: float | None
    cost: float
    reason: str


@dataclass(frozen=True)
class LabelsImported:
    """Labels were read, so many of them fit to train on; the remarks say what was left out of the files."""

    usable: int
    rejected: int
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Noted:
    """Something to know, in words."""

    text: str


@dataclass(frozen=True)
class Warned:
    """Something that nothing stops for, but that should be known."""

    text: str


@dataclass(frozen=True)
class CycleJudged:
    """A cycle has ended; energies in eV/atom, their error in meV/atom, that of forces in eV/Å, None where unknown.

    ``predicted`` is the lowest energy by the word of the ensemble, with its spread; ``labelled`` the lowest label.
    """

    cycle: int
    from_elsewhere: int
    labels: int
    failed: int
    predicted: float | None
    predicted_sigma: float | None
    labelled: float | None
    energy_error: float | None
    force_error: float | None
    stable: int
    unseen: float | None
    reason: str


Event = StageStarted | Advanced | Calculated | LabelsImported | Noted | Warned | CycleJudged
Listener = Callable[[Event], None]
