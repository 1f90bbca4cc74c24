"""P1 candidates: a random lattice, and atoms wherever there is room."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Final, Literal

import numpy as np
from ase import Atoms
from ase.geometry import cellpar_to_cell

from csp_al.campaign.constraints import Constraints
from csp_al.campaign.sources import SourceSection
from csp_al.generate.placement import OverlapError, place, push_apart
from csp_al.geometry import distance_matrix, pair_name
from csp_al.interfaces import SourceKind, UnplaceableError
from csp_al.structures import Floats, Ints

LATTICES = 64
"""Random shapes drawn for one attempt."""
PUSH_EVERY = 10
"""Every tenth attempt pushes atoms apart: it fills dense cells, and costs ten times as much as placing one by one."""
ONE_ATOM = np.eye(3, 4)[None]


def random_cell(constraints: Constraints, rng: np.random.Generator) -> Atoms:
    """A candidate without symmetry, species in the order of the formula.

    Raises `UnplaceableError` after ``max_attempts`` cells, naming the constraint that failed most often.
    """

    def lattice() -> Floats | None:
        return random_lattice(constraints, rng.uniform(*constraints.volume_per_atom) * constraints.n_atoms, rng)

    least, most = constraints.volume_per_atom
    return filled(lattice, f"at {least:g} to {most:g} Å^3 per atom", constraints, rng)


def filled(
    lattice: Callable[[], Floats | None], which: str, constraints: Constraints, rng: np.random.Generator
) -> Atoms:
    """Atoms at random places in a cell, (3, 3) Å, that is asked for anew in each attempt; ``which`` cells, in words.

    Raises `UnplaceableError` after ``max_attempts`` cells, naming the constraint that failed most often.
    """
    species = constraints.species
    distances = distance_matrix(species, constraints.min_distance)
    kinds = np.repeat(np.arange(len(species)), list(constraints.counts.values()))
    failures: Counter[str] = Counter()
    for attempt in range(constraints.max_attempts):
        cell = lattice()
        if cell is None:
            failures["no cell of such a volume within lengths and angles; widen these"] += 1
            continue
        fill = push_apart if attempt % PUSH_EVERY == PUSH_EVERY - 1 else _place_one_by_one
        try:
            fractional = fill(cell, kinds, distances, rng)
        except OverlapError as overlap:
            failures[_explain(constraints, overlap)] += 1
            continue
        return Atoms([species[kind] for kind in kinds], scaled_positions=fractional, cell=cell, pbc=True)
    msg = (
        f"no cell of {constraints.n_atoms} atoms in {constraints.max_attempts} attempts {which}: "
        f"{failures.most_common(1)[0][0]}"
    )
    raise UnplaceableError(msg)


def random_lattice(constraints: Constraints, volume: float, rng: np.random.Generator) -> Floats | None:
    """Cell vectors in rows (3, 3) Å of this volume (Å^3), within the bounds; None if none of `LATTICES` shapes is.

    Lengths and angles are drawn evenly between their bounds, then the lengths are scaled to the volume.
    """
    lengths = rng.uniform(*constraints.lengths, size=(LATTICES, 3))
    angles = rng.uniform(*constraints.angles, size=(LATTICES, 3))
    cosines = np.cos(np.radians(angles))
    flatness = 1 - (cosines**2).sum(axis=1) + 2 * cosines.prod(axis=1)  # square of volume over product of lengths
    unscaled = np.sqrt(np.clip(flatness, 1e-6, None)) * lengths.prod(axis=1)
    scaled = lengths * np.cbrt(volume / unscaled)[:, None]
    least, most = constraints.lengths
    good = np.flatnonzero((flatness > 1e-6) & ((scaled >= least) & (scaled <= most)).all(axis=1))
    if len(good) == 0:
        return None
    cell: Floats = cellpar_to_cell([*scaled[good[0]], *angles[good[0]]])
    return cell


def _place_one_by_one(cell: Floats, kinds: Ints, distances: Floats, rng: np.random.Generator) -> Floats:
    """Fractional coordinates (N, 3) of atoms placed one after another, the largest while there is room."""
    order = np.argsort(-distances.diagonal()[kinds], kind="stable")
    fractional = np.empty((len(kinds), 3))
    fractional[order] = place(cell, [(kind, ONE_ATOM) for kind in kinds[order].tolist()], distances, rng)[1]
    return fractional


def _explain(constraints: Constraints, overlap: OverlapError) -> str:
    pair = pair_name(*(constraints.species[kind] for kind in overlap.pair))
    return f"min_distance {pair} {constraints.min_distance[pair]:g} Å leaves no room; lower it or raise volume_per_atom"


class RandomSource(SourceSection):
    """P1 cells, as the rest of the pool has them."""

    kind: Literal["random"]


KIND: Final = SourceKind(RandomSource, lambda _, constraints, rng: random_cell(constraints, rng))
