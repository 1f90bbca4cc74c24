"""Two ensembles for one campaign: a quick one leads candidates near rest, a conservative one ends and ranks them.

Both learn the same labels. What is predicted is the second one's word.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from csp_al.interfaces import Ensemble, Gives, Trained
from csp_al.structures import Labels, Prediction, Structures

FOLDER = "polish"
"""Of the files of the second one."""


@dataclass(frozen=True)
class Polished:
    """Keeps `csp_al.interfaces.Ensemble`; a relaxation begins with its ``guide``, see `csp_al.relax.relaxation`."""

    guide: Ensemble
    end: Ensemble

    @property
    def gives(self) -> Gives:
        """What the second one predicts."""
        return self.end.gives

    def predict(self, structures: Structures) -> Prediction:
        """What the second one says."""
        return self.end.predict(structures)

    def fresh(self) -> Polished:
        """Both without what they remember."""
        return replace(self, guide=self.guide.fresh(), end=self.end.fresh())

    def train(self, labels: Labels, seed: list[int], report: Callable[[int, int], None] = lambda *_: None) -> Trained:
        """Train one after the other; in the curve the members of the second one follow those of the first."""
        guide = self.guide.train(labels, seed, lambda done, all_: report(done, 2 * all_))
        end = self.end.train(labels, seed, lambda done, all_: report(all_ + done, 2 * all_))
        later = end.curve.assign(member=end.curve["member"] + guide.curve["member"].max() + 1)
        curve = pd.concat([guide.curve, later], ignore_index=True)
        return Trained(Polished(guide.ensemble, end.ensemble), curve, end.left_out)

    def save(self, folder: Path) -> None:
        """Files of the first one, and a folder with those of the second."""
        self.guide.save(folder)
        (folder / FOLDER).mkdir(exist_ok=True)
        self.end.save(folder / FOLDER)
