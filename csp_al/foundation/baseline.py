"""An ensemble that learns what a reference adds to a foundation.

    Baselined(ensemble, foundation).train(labels, seed)

Energies, forces and stress are the sum of both, spread and features the ensemble's. A foundation that knows nothing of
a reference, such as of Lennard-Jones argon, or less than the labels tell themselves, is no help: held-out labels say
which of two ensembles predicts better, one on the foundation and one without.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

from csp_al.interfaces import Ensemble, Gives, Predictor, Trained
from csp_al.structures import Labels, Prediction, Structures, choose, is_finite, scatter, take

ENOUGH: Final = 0.9
"""Share of the labels that a foundation must have something to say of."""


@dataclass(frozen=True)
class Below:
    """What a foundation says of structures that are asked again and again: those of the labels."""

    structures: Structures
    prediction: Prediction

    @cached_property
    def rows(self) -> dict[bytes, int]:
        """Row of each structure, by all that it is."""
        return {key: row for row, key in enumerate(_keys(self.structures))}


@dataclass(frozen=True)
class Baselined:
    """Keeps `csp_al.interfaces.Ensemble`; of structures that are ``known`` the foundation is not asked."""

    ensemble: Ensemble
    foundation: Predictor
    known: Below | None = field(default=None, repr=False)

    @property
    def gives(self) -> Gives:
        """What the ensemble gives."""
        return self.ensemble.gives

    @property
    def guide(self) -> Baselined | None:
        """That of the ensemble, if it has one, on the same foundation."""
        guide = getattr(self.ensemble, "guide", None)
        return None if guide is None else replace(self, ensemble=guide)

    def predict(self, structures: Structures) -> Prediction:
        """The sum of both."""
        above, below = self.ensemble.predict(structures), self._below(structures)
        return replace(
            above,
            energy=above.energy + below.energy,
            forces=above.forces + below.forces,
            stress=above.stress + below.stress,
        )

    def fresh(self) -> Baselined:
        """Both without what they remember."""
        return replace(self, ensemble=self.ensemble.fresh(), foundation=self.foundation.fresh())

    def train(self, labels: Labels, seed: list[int], report: Callable[[int, int], None] = lambda *_: None) -> Trained:
        """Train the ensemble on what labels add to the foundation, where that says anything."""
        above = differences(labels, self._below(labels.structures))
        trained = self.ensemble.train(above, seed, report)
        left_out = trained.left_out + len(labels) - len(above)
        return replace(trained, ensemble=replace(self, ensemble=trained.ensemble), left_out=left_out)

    def can_help(self, labels: Labels) -> bool:
        """Whether the foundation has something to say of nine in ten labels, which makes most of them smaller."""
        below = self._below(labels.structures)
        known = labels.take(is_finite(below, labels.structures))
        enough = len(np.unique(known.structures.ids)) > 1 and len(known) >= ENOUGH * len(labels)
        return enough and bool(np.median(differences(labels, below).strength / known.strength) < 1)

    def save(self, folder: Path) -> None:
        """The ensemble; the foundation stays where it is."""
        self.ensemble.save(folder)

    def _below(self, structures: Structures) -> Prediction:
        """What the foundation says."""
        if self.known is None:
            return self.foundation.predict(structures)
        rows = np.array([self.known.rows.get(key, -1) for key in _keys(structures)], dtype=np.int64)
        known = rows >= 0
        asked = scatter(self.foundation.predict(structures.take(~known)), ~known, structures)
        said = scatter(take(self.known.prediction, rows[known], self.known.structures), known, structures)
        return choose(known, said, asked, structures)


def differences(labels: Labels, below: Prediction) -> Labels:
    """Labels less what a foundation says of their structures, without those of which it says nothing."""
    rows = np.flatnonzero(is_finite(below, labels.structures))
    less, kept = take(below, rows, labels.structures), labels.take(rows)
    return replace(
        kept, energy=kept.energy - less.energy, forces=kept.forces - less.forces, stress=kept.stress - less.stress
    )


def held_out_loss(curve: pd.DataFrame) -> float:
    """Loss of the labels that were held out, the geometric mean over the members of the lowest of each."""
    return float(np.exp(np.log(curve.groupby("member")["validation"].min()).mean()))


def _keys(structures: Structures) -> list[bytes]:
    """All that each structure is, its id apart."""
    ends = zip(structures.ptr[:-1], structures.ptr[1:], structures.cells, strict=True)
    return [
        structures.numbers[a:b].tobytes() + structures.positions[a:b].tobytes() + cell.tobytes() for a, b, cell in ends
    ]
