"""Winners that are nearly symmetric, made symmetric where the reference finds them no higher.

A relaxation ends where forces are small, which may be a few tenths of an Å from where symmetry is: half-Heusler LiGaSi
was told to be I-4m2, hexagonal Th2Ga4 Pmmn. Of 86 crystals of campaigns in `campaigns/outside/` 18 were more symmetric
within 0.3 Å than within 0.1; made so, none was higher by more than 0.1 meV/atom, after 3 evaluations each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import spglib

from csp_al.cif import STRICT, SYMPREC, space_group
from csp_al.events import Noted
from csp_al.geometry import symmetrised
from csp_al.interfaces import Task
from csp_al.loop.drive import Drive
from csp_al.loop.tasks import relaxations
from csp_al.results import Values
from csp_al.structures import Structures

if TYPE_CHECKING:
    from ase import Atoms

WIDER: Final = (0.2, 0.3)
"""Å, within which a crystal may be symmetric, beyond `csp_al.cif.SYMPREC`; one after the other."""

COST: Final = 0.001
"""eV/atom that symmetry may cost, as relaxations leave that much: what lowers a crystal by more is no noise."""

STEPS: Final = 20
"""Of the relaxation of a symmetric crystal at most: most of those 18 took 1 to 6, the longest 11."""


@dataclass(frozen=True)
class Winner:
    """A crystal as the reference method relaxed it."""

    atoms: Atoms
    rested: Values


def more_symmetric(
    drive: Drive, folder: Path, before: Sequence[Task], winners: Mapping[int, Winner]
) -> tuple[dict[int, Winner], int]:
    """The winners by candidate, and how many evaluations it took to try symmetry; ``before`` are their relaxations.

    A cell that is fixed stays as it is.
    """
    found, tasks, spent = dict(winners), list(before), dict[str, int]()
    if drive.campaign.relax.cell == "fixed":
        return found, 0
    finish = drive.campaign.finish
    few = finish.model_copy(update={"max_steps": min(finish.max_steps, STEPS)})
    campaign = drive.campaign.model_copy(update={"finish": few})
    for symprec in WIDER:
        tried = {name: atoms for name, one in found.items() if (atoms := _hidden(one.atoms, symprec)) is not None}
        if not tried:
            continue
        tasks += relaxations(campaign, Structures.from_atoms(list(tried.values()), list(tried)))
        names, results = drive.calculate(folder, tasks)
        last = slice(-len(tried), None)
        for (name, atoms), task, result in zip(tried.items(), names[last], results[last], strict=True):
            spent[task] = result.evaluations  # one that is asked for again counts once
            if (values := result.done) is not None and _is_no_worse(values, found[name].rested):
                symmetric = Winner(values.atoms(atoms.numbers), values)
                was, now = space_group(found[name].atoms).symbol, space_group(symmetric.atoms).symbol
                drive.tell(Noted(f"Candidate {name} is no higher where it is symmetric: {now}, not {was}"))
                found[name] = symmetric
    return found, sum(spent.values())


def _is_no_worse(new: Values, old: Values) -> bool:
    """Whether a relaxation is no higher, but for `COST`, and came to rest if the other one did."""
    return new.energy <= old.energy + COST * len(new.forces) and (new.converged or not old.converged)


def _hidden(atoms: Atoms, symprec: float) -> Atoms | None:
    """The crystal with the symmetry that it has within so much, if that is more than it is told with."""
    symmetric = symmetrised(atoms, symprec)
    is_more = symmetric is not None and _operations(symmetric, STRICT) > _operations(atoms, SYMPREC)
    return symmetric if is_more else None


def _operations(atoms: Atoms, symprec: float) -> int:
    found = spglib.get_symmetry_dataset((atoms.cell.array, atoms.get_scaled_positions(), atoms.numbers), symprec)
    return len(found.rotations) if found else 1
