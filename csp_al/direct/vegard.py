"""Volumes by composition: each element has one of its own (Vegard's law), fitted to relaxed crystals.

It needs no network, and on alloys is better than one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from csp_al.direct.pairs import Pairs
from csp_al.formats import SPECIES
from csp_al.structures import Floats, Structures

RIDGE: Final = 1e-6
"""Pulls volumes of elements to their mean where compositions do not tell them apart."""


@dataclass(frozen=True)
class Volumes:
    """Volumes of elements, (119,) Å^3, 0 for those that were not seen."""

    of_elements: Floats

    def of(self, structures: Structures) -> Floats:
        """Volumes (n,) Å^3 of structures by their composition."""
        return np.bincount(structures.system, self.of_elements[structures.numbers], len(structures)).astype(float)

    def scaled(self, structures: Structures) -> Structures:
        """The same structures at these volumes, their shapes and fractional coordinates kept."""
        factor = np.cbrt(self.of(structures) / structures.volumes)
        return structures.moved(
            structures.positions * factor[structures.system, None], structures.cells * factor[:, None, None]
        )


def fit_volumes(relaxed: Structures) -> Volumes:
    """Least squares over relaxed crystals, per atom."""
    elements, design, target, gram = _system(relaxed)
    mean = target.mean()
    of_elements = np.zeros(SPECIES)
    of_elements[elements] = mean + np.linalg.solve(gram, design.T @ (target - mean))
    return Volumes(of_elements)


def pays(pairs: Pairs) -> bool:
    """Whether such volumes, each from a fit to the other pairs, are nearer to the relaxed ones than the unrelaxed."""
    _, design, target, gram = _system(pairs.end)
    mean = target.mean()
    residual = target - mean - design @ np.linalg.solve(gram, design.T @ (target - mean))
    leverage = np.einsum("ij,ij->i", design @ np.linalg.inv(gram), design)
    left_out = residual / np.maximum(1 - leverage, 1e-9)
    nothing = (pairs.start.volumes - pairs.end.volumes) / pairs.end.counts
    return bool(np.abs(left_out).mean() < np.abs(nothing).mean())


def _system(relaxed: Structures) -> tuple[np.ndarray, Floats, Floats, Floats]:
    """Elements (k,), their shares in each crystal (n, k), volumes per atom (n,), and the normal matrix (k, k)."""
    elements, column = np.unique(relaxed.numbers, return_inverse=True)
    design = np.zeros((len(relaxed), len(elements)))
    np.add.at(design, (relaxed.system, column), 1)
    design /= relaxed.counts[:, None]
    gram = design.T @ design + RIDGE * len(relaxed) * np.eye(len(elements))
    return elements, design, relaxed.volumes / relaxed.counts, gram
