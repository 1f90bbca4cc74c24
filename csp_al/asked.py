"""Labels that were asked for: what they are of, where that stood before, and what was predicted.

came, left = parted(asked, results)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from csp_al.structures import Picks, Prediction, Structures, concatenate, take


@dataclass(frozen=True)
class Asked:
    """Labels that were asked for: perturbed structures, where they stood before, and what was predicted for them.

    Predictions have no features; they are NaN where nothing was predicted, as of a random draw.
    """

    structures: Structures
    origin: Structures
    predicted: Prediction

    def __len__(self) -> int:
        return len(self.structures)


def unpredicted(structures: Structures) -> Prediction:
    """What is known of structures beforehand where nothing is."""
    n, atoms = len(structures), int(structures.ptr[-1])
    return Prediction(
        energy=np.full(n, np.nan),
        energy_sigma=np.full(n, np.nan),
        forces=np.full((atoms, 3), np.nan),
        forces_sigma=np.full(atoms, np.nan),
        stress=np.full((n, 3, 3), np.nan),
        stress_sigma=np.full(n, np.nan),
        features=np.zeros((n, 0)),
    )


def nothing_asked() -> Asked:
    """No labels."""
    nothing = Structures.from_atoms([])
    return Asked(nothing, nothing, unpredicted(nothing))


def asked_for(picks: Picks, predicted: Prediction | None) -> Asked:
    """Labels that are chosen, as they are kept while they are out."""
    known = unpredicted(picks.structures) if predicted is None else predicted
    return Asked(picks.structures, picks.origin, replace(known, features=np.zeros((len(known), 0))))


def with_opened(asked: Asked, structures: Structures) -> Asked:
    """The same labels, and those of cells that were opened: the first ``structures`` are theirs already."""
    opened = structures.take(np.arange(len(asked), len(structures)))
    return concatenate([asked, Asked(opened, opened, unpredicted(opened))])


def parted(asked: Asked, results: Sequence[object | None]) -> tuple[Asked, Asked]:
    """Labels that have come in, and those that have not."""
    there = np.array([result is not None for result in results], dtype=bool)
    return (
        take(asked, np.flatnonzero(there), asked.structures),
        take(asked, np.flatnonzero(~there), asked.structures),
    )
