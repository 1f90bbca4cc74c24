"""What no relaxation may leave: sensible distances between atoms and a sensible volume.

Potentials trained on a few hundred labels believe in overlapping atoms and in collapsed cells; a candidate that gets
there is stopped before it is evaluated, since its neighbour list would grow without end as well.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from matscipy.neighbours import neighbour_list

from csp_al.interfaces import TOO_CLOSE, VOLUME
from csp_al.structures import Floats, Strings, Structures

THINNEST = 0.8
"""Å, least distance between opposite faces of a cell."""


@dataclass(frozen=True)
class Limits:
    """Least distance (Å) for each pair of atomic numbers (both orders), and least and most volume per atom (Å^3)."""

    distances: dict[tuple[int, int], float]
    volume_per_atom: tuple[float, float]


def broken_limit(structures: Structures, limits: Limits) -> Strings:
    """The reason why each structure must not be relaxed further, (n,); empty where there is none."""
    per_atom = structures.volumes / structures.counts
    least, most = limits.volume_per_atom
    bad = ~((per_atom >= least) & (per_atom <= most)) | (_heights(structures) < THINNEST)
    close = np.array([not bad[row] and _too_close(structures, row, limits.distances) for row in range(len(bad))], bool)
    return np.where(bad, VOLUME, np.where(close, TOO_CLOSE, ""))


def _heights(structures: Structures) -> Floats:
    """Least distance between opposite faces of each cell, (n,), Å."""
    a, b, c = np.moveaxis(structures.cells, 1, 0)
    faces = np.stack([np.cross(b, c), np.cross(c, a), np.cross(a, b)], axis=1)
    areas = np.linalg.norm(faces, axis=2).max(axis=1)
    return structures.volumes / np.maximum(areas, 1e-12)


def _too_close(structures: Structures, row: int, distances: dict[tuple[int, int], float]) -> bool:
    atoms = slice(structures.ptr[row], structures.ptr[row + 1])
    return (
        len(
            neighbour_list(
                "i",
                positions=structures.positions[atoms],
                cell=structures.cells[row],
                pbc=np.ones(3, dtype=bool),
                numbers=structures.numbers[atoms].astype(np.int32),
                cutoff=distances,
            )
        )
        > 0
    )
