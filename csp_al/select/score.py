"""How promising each relaxed candidate is."""

from __future__ import annotations

import numpy as np

from csp_al.structures import Floats, Relaxed, Structures


def score(relaxed: Relaxed, force_weight: float) -> Floats:
    """Scores (n,) in eV/atom, low is good: L = E/n - w_F max_a |F_a|, of the ensemble's means; w_F in Å.

    A large remaining force means that the candidate can still fall. What is not finite scores +inf.
    Hessmann et al., npj Comput. Mater. (2025), arXiv:2408.04073.
    """
    prediction, structures = relaxed.prediction, relaxed.structures
    force = largest_of_atoms(structures, np.linalg.norm(prediction.forces, axis=1))
    scores = prediction.energy / structures.counts - force_weight * force
    return np.where(np.isfinite(scores), scores, np.inf)


def largest_of_atoms(structures: Structures, values: Floats) -> Floats:
    """The largest of a number per atom (N,) in each structure, (n,); NaN where one is."""
    largest: Floats = np.maximum.reduceat(values, structures.ptr[:-1]) if len(structures) else np.zeros(0)
    return largest
