"""How promising each relaxed candidate is."""

from __future__ import annotations

import numpy as np

from csp_al import objective
from csp_al.structures import Floats, Relaxed


def score(relaxed: Relaxed, force_weight: float) -> Floats:
    """Scores (n,) in eV/atom, low is good: L = E/n - w_F max_a |F_a|, of the ensemble's means; w_F in Å.

    A large remaining force means that the candidate can still fall. What is not finite scores +inf.
    Hessmann et al., npj Comput. Mater. (2025), arXiv:2408.04073.
    """
    prediction, structures = relaxed.prediction, relaxed.structures
    force = structures.largest(np.linalg.norm(prediction.forces, axis=1))
    scores = objective.values(prediction.energy, structures) - force_weight * force
    return np.where(np.isfinite(scores), scores, np.inf)
