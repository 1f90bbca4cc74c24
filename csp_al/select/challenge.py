"""Candidates that test what the ensemble believes, for the moment when its leading crystals no longer change.

The best-scored candidates lie where the ensemble believes already, and all that it says of itself, errors and spreads
and minima not seen, is then said of its own landscape. Asked here are crystals of kinds that have few labels, whatever
the ensemble ranks them by, as they come to rest with the symmetry that they were generated with: from a poor landscape
high symmetry falls off to a crystal that is known, and is never labelled. LiGaSi (three atoms, CHGNet): a search
stopped sure of P-6m2, its errors 10 meV/atom, 35 above the lowest crystal; of ten such labels three lay 77 and 100
below their predictions, and led it on.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import spglib

from csp_al import objective
from csp_al.interfaces import trusted
from csp_al.structures import Ints, Relaxed, Structures

SYMPREC = 0.1
"""Å, within which spglib takes atoms of a relaxed crystal to be related by symmetry."""


def challengers(relaxed: Relaxed, labelled: Structures, count: int) -> Ints:
    """Rows of at most ``count`` of these candidates, lowest energy first.

    Kinds are space groups; ``labelled`` are the structures that were labelled before they were perturbed. Twice as many
    are chosen, one after the other, each time the first one of the kind with the fewest labels, and of these the lower
    half is asked: few errors bring down the others. Candidates that are not trusted are left out.
    """
    energies = objective.values(relaxed.prediction.energy, relaxed.structures)
    rows = np.flatnonzero(trusted(relaxed.reason) & np.isfinite(energies))
    waiting = dict(zip(rows.tolist(), kinds(relaxed.structures.take(rows)), strict=True))
    known = Counter(kinds(labelled))
    chosen: list[int] = []
    while waiting and len(chosen) < 2 * count:
        row = min(waiting, key=lambda row: known[waiting[row]])
        known[waiting.pop(row)] += 1
        chosen.append(row)
    return np.array(sorted(chosen, key=energies.__getitem__)[:count], dtype=np.int64)


def kinds(structures: Structures) -> list[int]:
    """Number of the space group of each structure; 1 where spglib finds none."""
    groups = [
        spglib.get_symmetry_dataset((atoms.cell.array, atoms.get_scaled_positions(), atoms.numbers), SYMPREC)
        for atoms in structures.to_atoms()
    ]
    return [int(group.number) if group else 1 for group in groups]
