"""Atoms into a cell, at random and never too close: one site after another, or all at once and pushed apart.

A site is a set of affine maps (m, 3, 4): each takes a random point of the unit cube to the fractional coordinates of
one atom, so that a single atom is the identity and a Wyckoff position is its orbit.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from csp_al.geometry import lattice_translations
from csp_al.structures import Floats, Ints

PROPOSALS = 32
"""Random points tried for one site before the cell is given up."""

SWEEPS = 50
"""Rounds of pushing before a cell is given up."""
MARGIN = 1.02
"""What pairs are pushed to, in least distances: aiming beyond the goal reaches it in finitely many rounds."""


class OverlapError(Exception):
    """No room for a site; carries the indices of the pair of species in the way."""

    def __init__(self, kind: int, other: int) -> None:
        super().__init__(kind, other)
        self.pair = (kind, other)


def place(
    cell: Floats, sites: Sequence[tuple[int, Floats]], distances: Floats, rng: np.random.Generator
) -> tuple[Ints, Floats]:
    """Species (N,) and fractional coordinates (N, 3) of all sites, each given by its species and maps (m, 3, 4).

    The cell (3, 3) holds its vectors in rows; distances (s, s) are the least ones between species, Å. Within a site
    the atoms must be equivalent by a symmetry that the cell and the sites before it share, since the first of them is
    checked for all. Raises `OverlapError` after `PROPOSALS` points for one site.
    """
    translations = lattice_translations(cell, float(distances.max()))
    _check_images(translations, {kind for kind, _ in sites}, distances)
    kinds = np.zeros(0, dtype=np.int64)
    fractional = np.zeros((0, 3))
    for kind, maps in sites:
        orbits = np.einsum("mij,pj->pmi", maps[:, :, :3], rng.random((PROPOSALS, 3))) + maps[:, :, 3]
        placed = np.broadcast_to(fractional, (PROPOSALS, *fractional.shape))
        others = np.concatenate([np.full(len(maps) - 1, kind), kinds]).astype(np.int64)
        apart = _shortest(orbits[:, :1], np.concatenate([orbits[:, 1:], placed], axis=1), cell, translations)
        overlaps = apart < distances[kind, others]
        free = np.flatnonzero(~overlaps.any(axis=1))
        if len(free) == 0:
            raise OverlapError(kind, int(np.bincount(others, overlaps.sum(axis=0)).argmax()))
        fractional = np.concatenate([fractional, orbits[free[0]]])
        kinds = np.concatenate([kinds, np.full(len(maps), kind)]).astype(np.int64)
    return kinds, fractional - np.floor(fractional)


def push_apart(cell: Floats, kinds: Ints, distances: Floats, rng: np.random.Generator) -> Floats:
    """Fractional coordinates (N, 3) of atoms that started anywhere and gave way to one another.

    Fills cells that are too dense for placing one atom after another, at the price of many pairs at their least
    distance. In each of `SWEEPS` rounds both atoms of a pair that overlaps move by half of the overlap. Raises
    `OverlapError`.
    """
    translations = lattice_translations(cell, MARGIN * float(distances.max()))
    _check_images(translations, set(kinds.tolist()), distances)
    inverse = np.linalg.inv(cell)
    least = distances[np.ix_(kinds, kinds)]
    np.fill_diagonal(least, 0)  # an atom cannot escape its own images
    fractional = rng.random((len(kinds), 3))
    for _ in range(SWEEPS):
        difference = fractional - fractional[:, None]
        vectors = ((difference - np.round(difference)) @ cell)[:, :, None] + translations
        apart = np.linalg.norm(vectors, axis=-1)
        overlaps = apart < least[:, :, None]
        if not overlaps.any():
            return fractional - np.floor(fractional)
        push = np.clip(MARGIN * least[:, :, None] - apart, 0, None) / np.maximum(apart, 1e-9)
        fractional = fractional - 0.5 * np.einsum("ijk,ijkx->ix", push, vectors) @ inverse
    first, second = np.unravel_index(overlaps.any(axis=2).argmax(), least.shape)
    raise OverlapError(int(kinds[first]), int(kinds[second]))


def _check_images(translations: Floats, present: set[int], distances: Floats) -> None:
    kind = max(present, key=lambda kind: distances[kind, kind])
    if (np.linalg.norm(translations[1:], axis=1) < distances[kind, kind]).any():
        raise OverlapError(kind, kind)


def _shortest(ends: Floats, others: Floats, cell: Floats, translations: Floats) -> Floats:
    """Shortest distances (p, n), Å, from p points (p, 1, 3) to n others each (p, n, 3), fractional, over all images."""
    difference = others - ends
    vectors = (difference - np.round(difference)) @ cell
    distances: Floats = np.linalg.norm(vectors[:, :, None] + translations, axis=-1).min(axis=-1)
    return distances
