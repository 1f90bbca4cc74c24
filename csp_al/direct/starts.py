"""Where relaxations begin that a direct relaxer helps, and what that is worth.

    starts = starts_of(relaxer, structures, related, ensemble, limits)
    ends = relax(concatenate([starts.structures, starts.originals]), ...)
    in_words(starts.worth(ends))

A start that it predicts is taken where it is sure of it and the ensemble finds it lower. Some of these are relaxed from
where they would have begun as well: steps are saved only where the end is the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from csp_al import objective
from csp_al.interfaces import CONVERGED, Predictor
from csp_al.relax.limits import Limits, broken_limit
from csp_al.select.identity import BASIN_ENERGY, same_structure
from csp_al.structures import Bools, Ints, Relaxed, Structures

if TYPE_CHECKING:  # it takes torch, and figures are for all
    from csp_al.direct.relaxer import Relaxer

SAMPLE: Final = 10
"""So many at most are relaxed from both."""
COUNTED: Final = (
    "proposed", "accepted", "compared", "steps", "steps_from_original", "other_ends", "lower_ends", "higher_ends",
)  # fmt: skip
"""Of `Starts.worth`."""


@dataclass(frozen=True)
class Starts:
    """Where relaxations begin: where they would have, and in the rows that were ``accepted`` where the relaxer says.

    ``proposed`` is for how many it was asked. The ``originals`` of some of the accepted, in the rows ``compared``, are
    to be relaxed too, last of all: what they come to tells what the others are worth.
    """

    structures: Structures
    originals: Structures
    proposed: int
    accepted: Ints
    compared: Ints

    def worth(self, ends: Relaxed) -> dict[str, int]:
        """The figures `COUNTED` of relaxations, of which those from the starts are first and the originals' last.

        Compared is what came to rest from the original; steps are sums over these. Other ends are other crystals, or
        none at all; some of them are lower than what the original came to, or higher.
        """
        last = np.arange(len(ends) - len(self.compared), len(ends))
        rest = ends.reason[last] == CONVERGED
        here, there = self.compared[rest], last[rest]
        energies = objective.values(ends.prediction.energy, ends.structures)
        above = energies[here] - energies[there]
        atoms = [ends.structures.take(rows).to_atoms() for rows in (here, there)]
        same = (ends.reason[here] == CONVERGED) & (np.abs(above) <= BASIN_ENERGY)
        same &= np.array([same_structure(*pair) for pair in zip(*atoms, strict=True)], dtype=bool)
        figures = (
            self.proposed, len(self.accepted), len(here), ends.steps[here].sum(), ends.steps[there].sum(),
            (~same).sum(), (~same & (above < -BASIN_ENERGY)).sum(), (~same & (above > BASIN_ENERGY)).sum(),
        )  # fmt: skip
        return dict(zip(COUNTED, map(int, figures), strict=True))


def starts_of(
    relaxer: Relaxer | None, structures: Structures, related: Bools, ensemble: Predictor, limits: Limits
) -> Starts:
    """Where relaxations of these structures begin.

    Of those that are ``related`` (n,) where the relaxer says, if it is sure of that, and the ensemble finds it lower.
    """
    rows = np.flatnonzero(related)
    if relaxer is None or not len(rows):
        return Starts(structures, structures.take([]), 0, np.zeros(0, np.int64), np.zeros(0, np.int64))
    asked = structures.take(rows)
    predicted = relaxer.predict(asked, np.ones(len(asked.numbers), dtype=bool))
    moved = predicted.structures
    sure = predicted.trusted & np.isfinite(moved.largest(np.abs(moved.positions).max(axis=1)))
    sure &= broken_limit(moved, limits) == ""
    before, after = (ensemble.fresh().predict(each.take(sure)).energy for each in (asked, moved))
    sure[sure] = after < before
    accepted, moved = rows[sure], moved.take(sure)
    positions, cells = structures.positions.copy(), structures.cells.copy()
    positions[structures.atoms_of(accepted)], cells[accepted] = moved.positions, moved.cells
    compared = accepted[:: max(1, -(-len(accepted) // SAMPLE))]
    return Starts(structures.moved(positions, cells), structures.take(compared), len(rows), accepted, compared)


def together(figures: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """The sums of several figures of `Starts.worth`."""
    every = list(figures)
    return {name: sum(each[name] for each in every) for name in COUNTED}


def said_of(learnt: Mapping[str, Any]) -> str:
    """How well a relaxer does what it learnt, in a line."""
    told = f"{learnt['pairs']} relaxations to learn from"
    if learnt["displacement"] is None:
        return f"{told}, too few yet"
    far = f"atoms {learnt['displacement']:.2g} Å from rest, without it {learnt['before']:.2g} Å"
    return f"{told}; of those held out {far}{'' if learnt['helps'] else ': it is not asked'}"


def in_words(figures: Mapping[str, int]) -> str:
    """What the relaxer was worth, in a line."""
    told = f"{figures['proposed']} starts proposed, {figures['accepted']} accepted"
    if not figures["compared"]:
        return told
    steps, before = (figures[name] / figures["compared"] for name in ("steps", "steps_from_original"))
    other, lower, higher = (figures[name] for name in ("other_ends", "lower_ends", "higher_ends"))
    return (
        f"{told}; of {figures['compared']} relaxed from both, {steps:.1f} steps instead of {before:.1f}, and {other} "
        f"with another end ({lower} lower, {higher} higher)"
    )
