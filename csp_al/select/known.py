"""What labels say of crystals that came to rest beside them.

A small ensemble cannot follow all its labels: after 150 of LiGaSi (SchNet, CHGNet as the reference) it was wrong by 18
meV/atom about the lowest crystal, which had been labelled twice, and by nothing about the next. So that crystal neither
led nor was it relaxed in the end.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from scipy.spatial.distance import cdist

from csp_al.interfaces import trusted
from csp_al.select.challenge import average_distances
from csp_al.structures import Floats, Labels, Prediction, Relaxed, Structures

DISTANCES: Final = 0.05
"""How far two ends of relaxations of one crystal are apart by `average_distances`; those of fcc and hcp are 0.15."""

VOLUMES: Final = 0.05
"""Likewise, by the logarithm of the volume per atom."""


@dataclass(frozen=True)
class Known:
    """Where crystals are that were labelled (m, d), and what the ensemble is wrong by about each, (m,) eV/atom."""

    places: Floats
    errors: Floats

    def moves(self, structures: Structures) -> Floats:
        """What to add to the energies predicted for these, (n,) eV/atom.

        The errors about all labelled crystals with Gaussian weights (`DISTANCES`, `VOLUMES`), as far as the nearest of
        them is near: equal crystals are moved alike, and one that no label is near to is not moved.
        """
        if not len(self.errors) or not len(structures):
            return np.zeros(len(structures))
        weights = np.exp(-cdist(_places(structures), self.places, "sqeuclidean") / 2)
        mean = weights @ self.errors / np.maximum(weights.sum(axis=1), np.finfo(float).tiny)
        moves: Floats = weights.max(axis=1) * mean
        return moves


NOTHING: Final = Known(np.zeros((0, 0)), np.zeros(0))


def known_of(labels: Labels, origins: Structures, predicted: Prediction) -> Known:
    """What usable labels of the composition say of an ensemble that ``predicted`` their structures.

    ``origins`` are the crystals that these were before they were perturbed, row by row.
    """
    errors = (labels.energy - predicted.energy) / labels.structures.counts
    finite = np.flatnonzero(np.isfinite(errors))
    return Known(_places(origins.take(finite)), errors[finite]) if len(finite) else NOTHING


def corrected(relaxed: Relaxed, known: Known) -> Relaxed:
    """Energies of what can be trusted moved by what is known; forces and spreads are the ensemble's."""
    energy = relaxed.prediction.energy.copy()
    rows = np.flatnonzero(trusted(relaxed.reason) & np.isfinite(energy))
    structures = relaxed.structures.take(rows)
    energy[rows] += structures.counts * known.moves(structures)
    return replace(relaxed, prediction=replace(relaxed.prediction, energy=energy))


def _places(structures: Structures) -> Floats:
    """Where structures are, (n, d), in units within which they are the same crystal."""
    sizes = np.log(structures.volumes / structures.counts)
    return np.column_stack([average_distances(structures) / DISTANCES, sizes / VOLUMES])
