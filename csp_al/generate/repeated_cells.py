"""Repeated cells: a smaller random cell of the same composition, repeated in some direction, and shaken.

Most crystals have a primitive cell smaller than the cell that is searched, and small cells are searched much faster:
of random cells of Si16 one in a thousand relaxes to diamond, of cells of Si4 that were repeated seven in a hundred
(Stillinger and Weber's potential).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from math import cbrt, gcd
from typing import Final, Literal

import numpy as np
from ase import Atoms
from ase.build import make_supercell
from ase.geometry import minkowski_reduce

from csp_al.campaign.constraints import Constraints
from csp_al.campaign.errors import Finding
from csp_al.campaign.sources import SourceSection
from csp_al.generate.offspring import ordered
from csp_al.generate.random_cells import random_cell
from csp_al.generate.sources import why_unsound
from csp_al.generate.symmetric_cells import symmetric_cell
from csp_al.interfaces import SourceKind, UnplaceableError
from csp_al.structures import Ints

SYMMETRIC: Final = 0.5
"""Share of small cells with a space group."""
SHAKES: Final = (0.1, 0.05, 0.02, 0.0)
"""Å, standard deviations of a displacement in each direction, tried one after the other until atoms are apart."""
ONE_UNIT: Final = "the formula is one formula unit, and so has no smaller cell to repeat; take this source out"
COMPACT: Final = 1.5
"""How many times as long, at most, the longest vector of a repeated cell may be as that of the most compact one."""


class RepeatedSource(SourceSection):
    """Smaller cells of the same composition, repeated and shaken."""

    kind: Literal["repeated"]

    def senseless(self, counts: Mapping[str, int]) -> Iterator[Finding]:
        """A formula that no smaller cell has."""
        if not divisors(counts):
            yield Finding(("kind",), ONE_UNIT)


def repeated_cell(constraints: Constraints, rng: np.random.Generator) -> Atoms:
    """A candidate of smaller cells; how many is in ``info["note"]``.

    Raises `UnplaceableError` for a formula that no smaller cell has, and where the small cell cannot be made.
    """
    ways = divisors(constraints.counts)
    if not ways:
        raise UnplaceableError(ONE_UNIT)
    times = int(rng.choice(ways))
    make = symmetric_cell if rng.random() < SYMMETRIC else random_cell
    small = make(_of_small_cells(constraints, times), rng)
    atoms = repeat(small, constraints, rng)
    atoms.info["note"] = f"{times} times {small.symbols.formula}"
    return atoms


def repeat(small: Atoms, constraints: Constraints, rng: np.random.Generator) -> Atoms:
    """A cell with a part of the formula, repeated to the whole of it, and shaken as far as atoms stay apart.

    Raises `UnplaceableError` where they are too near to one another as they stand.
    """
    times = constraints.n_atoms // len(small)
    whole = ordered(make_supercell(small, _compact_shape(small, times, rng)), constraints)
    for amplitude in SHAKES:
        atoms = whole.copy()
        atoms.positions += rng.normal(0, 1, atoms.positions.shape) * amplitude
        if not (wrong := why_unsound(atoms, constraints)):
            return atoms
    raise UnplaceableError(wrong)


def divisors(counts: Mapping[str, int]) -> list[int]:
    """How many smaller cells of the same composition, at least two, so many atoms of each species can be."""
    units = gcd(*counts.values())
    return [number for number in range(2, units + 1) if units % number == 0]


def _of_small_cells(constraints: Constraints, times: int) -> Constraints:
    least, most = (length / cbrt(times) for length in constraints.lengths)
    shortest = max(constraints.min_distance[f"{symbol}-{symbol}"] for symbol in constraints.species)
    return replace(
        constraints,
        counts={symbol: count // times for symbol, count in constraints.counts.items()},
        lengths=(max(least, shortest), max(most, shortest)),
    )


def _compact_shape(small: Atoms, times: int, rng: np.random.Generator) -> Ints:
    """How to repeat a cell so many times: drawn from the ways that give a cell about as compact as can be."""
    shapes = list(_superlattices(times))
    longest = [np.linalg.norm(minkowski_reduce(shape @ small.cell.array)[0], axis=1).max() for shape in shapes]
    compact = [shape for shape, length in zip(shapes, longest, strict=True) if length <= COMPACT * min(longest)]
    return compact[int(rng.integers(len(compact)))]


def _superlattices(times: int) -> Iterator[Ints]:
    """Every lattice of so many cells once, as a matrix in Hermite normal form."""
    for a in (number for number in range(1, times + 1) if times % number == 0):
        for b in (number for number in range(1, times // a + 1) if (times // a) % number == 0):
            c = times // (a * b)
            for x, y, z in np.ndindex(b, c, c):
                yield np.array([[a, x, y], [0, b, z], [0, 0, c]])


KIND: Final = SourceKind(RepeatedSource, lambda _, constraints, rng: repeated_cell(constraints, rng))
