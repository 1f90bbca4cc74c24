"""Cells that are opened until the reference's forces and stress in them are believed.

A random cell may hold atoms so near to one another that its label is rejected, and where all of them do, there is
nothing to learn from. Opened by a few per cent, with everything in it, the same cell tells what near atoms cost.

    asked, names, results = label_and_open(drive, folder, picks.structures, drawn, budget)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from csp_al.campaign import Campaign
from csp_al.events import Noted
from csp_al.loop.drive import Drive
from csp_al.loop.out import label_tasks
from csp_al.loop.tasks import is_tight, told_once
from csp_al.results import Result
from csp_al.store.run_directory import log
from csp_al.structures import Bools, Structures, concatenate

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


def label_and_open(
    drive: Drive, folder: Path, structures: Structures, drawn: Bools, budget: int, out: int = 0
) -> tuple[Structures, list[str], list[Result | None]]:
    """Structures, tasks and results of all labels: of these structures, and of those that are tight, opened.

    Only what was ``drawn`` (n,) at random is opened; a cell keeps its id. ``budget``: labels at most; ``out``: how many
    may be without a result (None).
    """
    asked, waiting = structures, set(np.flatnonzero(drawn).tolist() if may_open(drive.campaign) else [])
    for turn in range(ROUNDS + 1):
        names, results = drive.calculate_some(folder, label_tasks(drive.campaign, asked), out)
        tight = {row: result for row, result in enumerate(results) if row in waiting and result and is_tight(result)}
        rows = list(tight)[: max(0, budget - len(asked))] if turn < ROUNDS else []
        if not rows:
            break
        _tell(drive, asked, rows, [tight[row] for row in rows])
        waiting = waiting - tight.keys() | set(range(len(asked), len(asked) + len(rows)))
        asked = concatenate([asked, open_cells(asked.take(rows))])
    return asked, names, results


def _tell(drive: Drive, asked: Structures, rows: list[int], results: list[Result]) -> None:
    why = told_once(results)
    log(drive.run, "cells opened", candidates=asked.ids[rows].tolist(), why=why)
    cells = f"{len(rows)} cell{'s are' if len(rows) > 1 else ' is'}"
    drive.tell(Noted(f"{cells} enlarged by {100 * STRETCH - 100:.0f}% and labelled again: {why}"))
