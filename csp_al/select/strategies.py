"""Which candidates are promising, by the strategy that ``select.strategy`` names.

    scores = scores_by("paper", relaxed, campaign.select, rng)

A strategy is a function of the candidates at rest, of the section ``select`` and of a random stream, which gives
scores (n,): low is labelled first, what is not finite never. It is found as a kind is (`csp_al.kinds`), by name or by
import path. All else of a cycle is the same for every strategy: labels are spread over clusters and basins, one in
five goes to a random candidate, and what leads is challenged before the end.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from csp_al import objective
from csp_al.campaign.models import Select
from csp_al.kinds import STRATEGIES, find
from csp_al.select.score import score
from csp_al.structures import Floats, Relaxed

Strategy = Callable[[Relaxed, Select, np.random.Generator], Floats]


def scores_by(name: str, relaxed: Relaxed, section: Select, rng: np.random.Generator) -> Floats:
    """Scores (n,) of the candidates by the strategy of this name; +inf where they are not finite.

    Raises ValueError, in plain words, for a strategy that cannot be found or gives other than n numbers.
    """
    strategy: Strategy = find(STRATEGIES, name)
    found = np.asarray(strategy(relaxed, section, rng))
    if found.shape != (len(relaxed),) or found.dtype.kind not in "fiu":
        what = f"an array of {found.dtype} of shape {found.shape}"
        raise ValueError(f"select.strategy: {name} gave {what}, where {len(relaxed)} numbers are expected")
    return np.where(np.isfinite(found), found, np.inf)


def paper(relaxed: Relaxed, section: Select, rng: np.random.Generator) -> Floats:  # noqa: ARG001 - a strategy's
    """Low energy, and large forces, by which a candidate can still fall: that of the paper, see `score`."""
    return score(relaxed, section.force_weight)


def lowest(relaxed: Relaxed, section: Select, rng: np.random.Generator) -> Floats:  # noqa: ARG001
    """The lowest predicted energies, eV/atom."""
    return objective.values(relaxed.prediction.energy, relaxed.structures)


def uncertainty(relaxed: Relaxed, section: Select, rng: np.random.Generator) -> Floats:  # noqa: ARG001
    """The largest spread of a force, eV/Å, with its sign changed.

    As in DP-GEN, Y. Zhang et al., Comput. Phys. Commun. 253, 107206 (2020).
    """
    return -relaxed.structures.largest(relaxed.prediction.forces_sigma)


def random(relaxed: Relaxed, section: Select, rng: np.random.Generator) -> Floats:  # noqa: ARG001
    """Any order."""
    return rng.permutation(len(relaxed)).astype(float)
