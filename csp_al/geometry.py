"""Distances in crystals, right for cells of any shape: small and skewed ones have neighbours many cells away.

shortest_distances(atoms, cutoff=4.0)  # {"Al-O": 1.86, "O-O": 2.51}
too_close(atoms, {"Al-O": 1.3})  # "", or what is too close, in words
first_alike([atoms, others])  # [0, 1], or [0, 0] if they are the same atoms in the same cell
symmetrised(atoms, 0.1)  # with the symmetry that it has but for displacements of 0.1 Å
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from ase.geometry import minkowski_reduce
from matscipy.neighbours import neighbour_list

from csp_al.structures import Floats, Structures

ALIKE = 2e-4
"""Å, within which atoms and cell vectors are in the same place: files have four decimals or more."""


def pair_name(a: str, b: str) -> str:
    """Name of a pair of species whatever their order: O and Al give "Al-O"."""
    return "-".join(sorted((a, b)))


def shortest_distances(atoms: Atoms, cutoff: float) -> dict[str, float]:
    """Shortest distance (Å) of each pair of species, periodic images of an atom itself included.

    Pairs that never come within the cutoff (Å) are left out.
    """
    i, j, distances = neighbour_list("ijd", atoms, cutoff)
    pairs = np.sort(np.stack([atoms.numbers[i], atoms.numbers[j]], axis=1), axis=1)
    present, which = np.unique(pairs, axis=0, return_inverse=True)
    shortest = np.full(len(present), np.inf)
    np.minimum.at(shortest, which.ravel(), distances)
    names = [pair_name(chemical_symbols[a], chemical_symbols[b]) for a, b in present]
    return dict(zip(names, shortest.tolist(), strict=True))


def too_close(atoms: Atoms, min_distance: Mapping[str, float]) -> str:
    """The pair of species that is nearest in proportion to its least distance (Å), in words; empty if none is nearer.

    Pairs that are not named may have any distance.
    """
    least = {pair_name(*pair.split("-")): distance for pair, distance in min_distance.items()}
    found = shortest_distances(atoms, max(least.values(), default=0.0))
    ratios = {pair: distance / least[pair] for pair, distance in found.items() if pair in least}
    worst = min(ratios, key=ratios.__getitem__, default="")
    if not worst or ratios[worst] >= 1:
        return ""
    return f"{worst} {found[worst]:.2f} Å apart, allowed from {least[worst]:.2f} Å"


def distance_matrix(species: list[str], min_distance: Mapping[str, float]) -> Floats:
    """Least distances (Å) of s species as a matrix (s, s), from a table of every pair by name."""
    return np.array([[min_distance[pair_name(a, b)] for b in species] for a in species])


def lattice_translations(cell: Floats, reach: float) -> Floats:
    """Lattice vectors (K, 3) Å, zero first, that can bring two atoms of one cell within reach (Å).

    The fractional differences of the atoms must have been wrapped to [-0.5, 0.5]. The cell (3, 3) holds its vectors in
    rows; what counts is the distance between its opposite faces, which in a skewed cell is less than any edge.
    """
    heights = 1 / np.linalg.norm(np.linalg.inv(cell), axis=0)
    most = np.floor(reach / heights + 0.5).astype(int)
    steps = sorted(product(*(range(-m, m + 1) for m in most)), key=np.count_nonzero)
    return np.array(steps, dtype=float) @ cell


def in_short_vectors(structures: Structures) -> Structures:
    """The same crystals, their atoms where they are, in the shortest lattice vectors (Minkowski).

    A mesh of k-points of a given spacing has the fewest points there: for the 72 labels of a campaign of Si4, 9405 in
    place of 11744, and 108 in place of 504 for the longest.
    """
    cells = np.array([minkowski_reduce(cell)[0] for cell in structures.cells]).reshape(-1, 3, 3)
    return structures.moved(structures.positions, cells)


def first_alike(crystals: Sequence[Atoms]) -> list[int]:
    """For each crystal the index of the first that has the same cell and the same atoms in it, often its own.

    Atoms may stand in another order or another cell; places may differ by `ALIKE`, as rounding makes them.
    """
    from scipy.spatial import cKDTree  # every verb imports this module, and few come here

    first = list(range(len(crystals)))
    if not crystals:
        return first
    keys = np.array([_fingerprint(atoms) for atoms in crystals])
    tree = cKDTree(keys)
    for index, key in enumerate(keys):
        near = tree.query_ball_point(key, 10 * ALIKE)
        alike = (other for other in sorted(near) if other < index and first[other] == other)
        first[index] = next((other for other in alike if _is_alike(crystals[other], crystals[index])), index)
    return first


HARMONICS = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]])
"""Plane waves of a crystal's own cell, whose sums over its atoms do not depend on their order or cell."""


def _fingerprint(atoms: Atoms) -> Floats:
    """Numbers that are nearly the same for crystals that are alike: cell (Å), structure factors, atoms."""
    waves = np.exp(2j * np.pi * (atoms.get_scaled_positions(wrap=False) @ HARMONICS.T))
    factors = (atoms.numbers[:, None] * waves).sum(0) / atoms.numbers.sum()
    counted = [1e3 * len(atoms), 1e3 * atoms.numbers.sum(), float((atoms.numbers**2).sum())]
    return np.concatenate([atoms.cell.array.ravel(), factors.real, factors.imag, counted])


def _is_alike(one: Atoms, other: Atoms) -> bool:
    if sorted(one.numbers) != sorted(other.numbers) or np.abs(one.cell.array - other.cell.array).max() > ALIKE:
        return False
    moved = other.get_scaled_positions(wrap=False)[None] - one.get_scaled_positions(wrap=False)[:, None]
    apart = np.linalg.norm((moved - np.round(moved)) @ one.cell.array, axis=2)
    apart[one.numbers[:, None] != other.numbers[None]] = np.inf
    in_order = np.diagonal(apart)
    if in_order.max() <= ALIKE:
        return True
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(np.where(apart <= ALIKE, apart, 1e6))
    return bool(apart[rows, columns].max() <= ALIKE)


def symmetrised(atoms: Atoms, symprec: float) -> Atoms | None:
    """The same cell with the symmetry that it has within ``symprec`` (Å) as spglib finds it; None where that fails."""
    from ase.spacegroup.symmetrize import refine_symmetry

    found = atoms.copy()
    try:
        refine_symmetry(found, symprec=symprec)
    except Exception:  # noqa: BLE001 - spglib and its caller fail in many ways on what has no symmetry
        return None
    return found
