"""Cells that are opened until the reference's forces and stress in them are believed.

A random cell may hold atoms so near to one another that its label is rejected, and where all of them do, there is
nothing to learn from. Opened by a few per cent, with everything in it, the same cell tells what near atoms cost.

    asked, names, results = label_and_open(drive, folder, picks.structures)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from csp_al.campaign import Campaign
from csp_al.engine.tasks import label_task
from csp_al.events import Noted
from csp_al.loop.drive import Drive
from csp_al.loop.tasks import is_tight, told_once
from csp_al.results import Result
from csp_al.store.run_directory import log
from csp_al.structures import Structures, concatenate

if TYPE_CHECKING:
    from ase import Atoms

STRETCH: Final = 1.1
"""What every length of a cell is multiplied by, its volume by 1.33."""

ROUNDS: Final = 5
"""So often at most, to 4.2 times the volume."""


def open_cells(structures: Structures) -> Structures:
    """The same crystals, every length of theirs times `STRETCH`."""
    return replace(structures, positions=STRETCH * structures.positions, cells=STRETCH * structures.cells)


def may_open(campaign: Campaign) -> bool:
    """Whether cells are opened: not where they are fixed."""
    return campaign.relax.cell == "free"


def openings(atoms: Atoms, campaign: Campaign) -> Iterator[Atoms]:
    """A crystal as it is, and as `label_and_open` opens it one time after the other."""
    structures = Structures.from_atoms([atoms])
    for _ in range(ROUNDS + 1 if may_open(campaign) else 1):
        yield structures.to_atoms()[0]
        structures = open_cells(structures)


def label_and_open(drive: Drive, folder: Path, structures: Structures) -> tuple[Structures, list[str], list[Result]]:
    """Structures, tasks and results of all labels: of these structures, and of those that are tight, opened.

    A cell keeps its id. No more labels are asked for than the budget has.
    """
    asked, latest = structures, slice(0, None)
    for turn in range(ROUNDS + 1):
        names, results = drive.calculate(folder, [label_task(a, drive.campaign.reference) for a in asked.to_atoms()])
        rows = [row for row in range(len(asked))[latest] if is_tight(results[row])] if may_open(drive.campaign) else []
        rows = rows[: max(0, drive.campaign.budget.labels - len(asked))] if turn < ROUNDS else []
        if not rows:
            break
        _tell(drive, asked, rows, results)
        latest = slice(len(asked), None)
        asked = concatenate([asked, open_cells(asked.take(rows))])
    return asked, names, results


def _tell(drive: Drive, asked: Structures, rows: list[int], results: list[Result]) -> None:
    why = told_once([results[row] for row in rows])
    log(drive.run, "cells opened", candidates=asked.ids[rows].tolist(), why=why)
    cells = f"{len(rows)} cell{'s are' if len(rows) > 1 else ' is'}"
    drive.tell(Noted(f"{cells} enlarged by {100 * STRETCH - 100:.0f}% and labelled again: {why}"))
