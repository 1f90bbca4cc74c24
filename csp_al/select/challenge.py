"""Candidates that test what the ensemble believes, for the moment when its leading crystals no longer change.

The best-scored candidates lie where the ensemble believes already, and all that it says of itself, errors and spreads
and minima not seen, is then said of its own landscape. Half of those asked here are crystals of kinds that have few
labels, whatever the ensemble ranks them by, as they come to rest with the symmetry that they were generated with: from
a poor landscape high symmetry falls off to a crystal that is known, and is never labelled. LiGaSi (three atoms,
CHGNet): a search stopped sure of P-6m2, its errors 10 meV/atom, 35 above the lowest crystal; of ten such labels three
lay 77 and 100 below their predictions, and led it on.

The other half are strangers: those that stand farthest, by geometry alone, from all that was labelled. Si4 (CHGNet): a
search stopped sure of simple cubic, 211 meV/atom above diamond, which it put 70 to 140 above that with spreads
like those of what it knew; of 150 candidates one had come to rest near diamond, ranked among the last by energy and
anywhere by its spread, and first or second by distance.
"""

from __future__ import annotations

from collections import Counter
from itertools import combinations_with_replacement
from typing import Final

import numpy as np
import spglib
from matscipy.neighbours import neighbour_list

from csp_al import objective
from csp_al.interfaces import trusted
from csp_al.structures import Floats, Ints, Relaxed, Structures, concatenate, take

SYMPREC = 0.1
"""Å, within which spglib takes atoms of a relaxed crystal to be related by symmetry."""

NEIGHBOURS: Final = 30
"""Of each pair of species, in `average_distances`."""

WIDEN: Final = 1.3
"""The reach is that of so many neighbours in a uniform gas, and grows by this until all atoms have them."""

FENCE: Final = 1.5
"""Energies that lie above the third quartile by so many times the distance of the quartiles are outliers (Tukey)."""


def challengers(pool: Relaxed, generated: Relaxed, labelled: Structures, count: int) -> Structures:
    """At most ``count`` of these candidates, each once: `of_rare_kinds`, and from what is left `strangers`.

    ``pool`` are all candidates as they stand, ``generated`` some of them as they come to rest from where they were
    generated; ``labelled`` the structures that were labelled before they were perturbed. Candidates that are not
    trusted are left out.
    """
    pool, generated = _sane(pool), _sane(generated)
    rare = generated.structures.take(of_rare_kinds(generated, labelled, count - count // 2))
    left = concatenate([pool, generated])
    left = _rows(left, ~np.isin(left.structures.ids, rare.ids))
    others = left.structures.take(strangers(left, concatenate([labelled, rare]), count // 2))
    return concatenate([rare, others])


def of_rare_kinds(relaxed: Relaxed, labelled: Structures, count: int) -> Ints:
    """Rows of at most ``count`` of these candidates whose space groups have few labels, lowest energy first.

    Twice as many are chosen, one after the other, each time the first one of the kind with the fewest labels, and of
    these the lower half is asked: few errors bring down the others.
    """
    energies = objective.values(relaxed.prediction.energy, relaxed.structures)
    waiting = dict(enumerate(kinds(relaxed.structures)))
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


def strangers(relaxed: Relaxed, labelled: Structures, count: int) -> Ints:
    """Rows of at most ``count`` of these candidates, each the farthest from all labelled ones and from those before it.

    Farthest points by `average_distances`, each candidate once. Energies that are outliers even when less two sigma are
    left out, since what is farthest of all are chains and sheets with nothing between them.
    """
    energies = objective.values(relaxed.prediction.energy, relaxed.structures)
    if not len(energies):
        return np.zeros(0, dtype=np.int64)
    first, third = np.quantile(energies, [0.25, 0.75])
    hoped_for = energies - 2 * objective.sigmas(relaxed.prediction.energy_sigma, relaxed.structures)
    ids = relaxed.structures.ids
    places = average_distances(relaxed.structures)
    distance = np.where(hoped_for <= third + FENCE * (third - first), np.inf, 0.0)
    for place in average_distances(labelled):
        distance = np.minimum(distance, np.linalg.norm(places - place, axis=1))
    chosen: list[int] = []
    while len(chosen) < count and distance.max() > 0:
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, np.linalg.norm(places - places[chosen[-1]], axis=1))
        distance[ids == ids[chosen[-1]]] = 0
    return np.array(chosen, dtype=np.int64)


def average_distances(structures: Structures) -> Floats:
    """Mean distance to the first, second, ... `NEIGHBOURS`-th neighbour for each pair of species, (n, pairs x 30).

    In units of the cube root of the volume per atom, so that a pressure makes no difference; species are those of the
    batch, and each structure must have all of them.
    D. Widdowson et al., MATCH Commun. Math. Comput. Chem. 87, 529 (2022), there of all atoms alike.
    """
    pairs = list(combinations_with_replacement(np.unique(structures.numbers).tolist(), 2))
    rows = [
        _averages(atoms.numbers, atoms.positions / size, atoms.cell.array / size, pairs)
        for atoms, size in zip(structures.to_atoms(), np.cbrt(structures.volumes / structures.counts), strict=True)
    ]
    return np.array(rows).reshape(len(structures), len(pairs) * NEIGHBOURS)


def _averages(numbers: Ints, positions: Floats, cell: Floats, pairs: list[tuple[int, int]]) -> Floats:
    """The row of one structure, whose volume is 1 per atom."""
    rarest = min((numbers == number).sum() for pair in pairs for number in pair)
    reach = np.cbrt(3 / (4 * np.pi) * NEIGHBOURS * len(numbers) / rarest)
    found: list[Floats] = []
    while len(found) < len(pairs):
        reach *= WIDEN
        first, second, distance = neighbour_list(
            "ijd", positions=positions, cell=cell, pbc=np.ones(3, dtype=bool), cutoff=reach
        )
        order = np.lexsort((distance, first))
        first, second, distance = first[order], second[order], distance[order]
        found = []
        for one, other in pairs:
            of_pair = (numbers[first] == one) & (numbers[second] == other)
            counts = np.bincount(first[of_pair], minlength=len(numbers))[numbers == one]
            if counts.min() < NEIGHBOURS:
                break
            nearest = (np.cumsum(counts) - counts)[:, None] + np.arange(NEIGHBOURS)
            found.append(distance[of_pair][nearest].mean(axis=0))
    return np.concatenate(found)


def _sane(relaxed: Relaxed) -> Relaxed:
    return _rows(relaxed, trusted(relaxed.reason) & np.isfinite(relaxed.prediction.energy))


def _rows(relaxed: Relaxed, mask: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> Relaxed:
    return take(relaxed, np.flatnonzero(mask), relaxed.structures)
