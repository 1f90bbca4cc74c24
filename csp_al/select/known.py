"""What labels say of crystals that came to rest beside them.

A small ensemble cannot follow all its labels: after 150 of LiGaSi (SchNet, CHGNet as the reference) it was wrong by 18
meV/atom about the lowest crystal, which had been labelled twice, and by nothing about the next. So that crystal neither
led nor was it relaxed in the end.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np
from scipy.spatial.distance import cdist

from csp_al.interfaces import trusted
from csp_al.select.challenge import average_distances
from csp_al.structures import Floats, Labels, Prediction, Relaxed, Structures

DISTANCES: Final = 0.1
"""How far two structures of one crystal are apart by `average_distances`: labels are of structures that were shaken."""

VOLUMES: Final = 0.05
"""Likewise, by the logarithm of the volume per atom."""

DOUBT: Final = 0.1
"""How much less than one label of the very crystal keeps the ensemble's word."""


def corrected(relaxed: Relaxed, labels: Labels, predicted: Prediction) -> Relaxed:
    """Energies moved by what the ensemble is wrong by about labels of the same crystal; nothing else is changed.

    ``labels`` are usable ones of the composition, ``predicted`` what the ensemble says of their structures. The errors
    per atom are averaged with Gaussian weights (`DISTANCES`, `VOLUMES`), so that equal crystals are moved alike, and
    one that no label is near to is not moved. Nor are candidates that are not to be trusted.
    """
    energy = relaxed.prediction.energy.copy()
    rows = np.flatnonzero(trusted(relaxed.reason) & np.isfinite(energy))
    if len(rows) and len(labels):
        errors = (labels.energy - predicted.energy) / labels.structures.counts
        structures = relaxed.structures.take(rows)
        weights = np.exp(-cdist(_places(structures), _places(labels.structures), "sqeuclidean") / 2)
        energy[rows] += structures.counts * (weights @ errors) / (weights.sum(axis=1) + DOUBT)
    return replace(relaxed, prediction=replace(relaxed.prediction, energy=energy))


def _places(structures: Structures) -> Floats:
    """Where structures are, (n, d), in units within which they are the same crystal."""
    sizes = np.log(structures.volumes / structures.counts)
    return np.column_stack([average_distances(structures) / DISTANCES, sizes / VOLUMES])
