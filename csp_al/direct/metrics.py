"""How far predicted crystals are from relaxed ones.

Displacements are internal: differences of fractional coordinates in the relaxed cell, without a drift where no atom is
held. They say nothing of the cell, whose errors are told by themselves; coordinate errors have both.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from scipy.stats import spearmanr

from csp_al.direct.pairs import Pairs, cartesian, fractional, without_drift
from csp_al.structures import Floats, Structures

WITHIN: Final = np.arange(0.01, 0.5005, 0.001)
"""Å, over which the share of near structures is averaged (ADwT, as the Open Catalyst Project does)."""


def displacements(pairs: Pairs, guess: Structures) -> Floats:
    """Mean distance (n,) Å of free atoms from where they come to rest."""
    off = fractional(guess) - fractional(pairs.end)
    off = without_drift(off - np.round(off), pairs.end, pairs.free)
    lengths = np.linalg.norm(cartesian(off, pairs.end.cells, pairs.end.system), axis=1)
    return _mean_over_free(pairs, lengths)


def coordinate_errors(pairs: Pairs, guess: Structures) -> Floats:
    """Mean error (n,) Å of a Cartesian coordinate of free atoms."""
    off = without_drift(guess.positions - pairs.end.positions, pairs.end, pairs.free)
    return _mean_over_free(pairs, np.abs(off).mean(axis=1))


def cell_errors(pairs: Pairs, guess: Structures) -> Floats:
    """Mean error (n,) Å of the nine numbers of a cell."""
    errors: Floats = np.abs(guess.cells - pairs.end.cells).mean(axis=(1, 2))
    return errors


def volume_errors(pairs: Pairs, guess: Structures) -> Floats:
    """Errors (n,) Å^3 of volumes."""
    return np.abs(guess.volumes - pairs.end.volumes)


def near_share(displacement: Floats) -> float:
    """ADwT: the share of structures with a displacement below a threshold, averaged over `WITHIN`."""
    return float((displacement[:, None] < WITHIN).mean())


def match_rate(pairs: Pairs, guess: Structures) -> float:
    """The share of structures that pymatgen's StructureMatcher takes for the relaxed ones, as it stands."""
    from pymatgen.analysis.structure_matcher import StructureMatcher

    matcher = StructureMatcher()
    both = zip(guess.to_pymatgen(), pairs.end.to_pymatgen(), strict=True)
    return float(np.mean([matcher.fit(predicted, relaxed) for predicted, relaxed in both]))


def spearman(a: Floats, b: Floats) -> float:
    """Rank correlation; 0 where one of the two is the same everywhere."""
    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    return float(spearmanr(a, b).statistic)


def within_one_size(a: Floats, b: Floats, sizes: np.ndarray) -> float:
    """Rank correlation among structures of as many atoms, averaged over them; NaN where no number has ten."""
    counted = [(sizes == size) for size in np.unique(sizes)]
    large = [rows for rows in counted if rows.sum() >= 10]
    if not large:
        return float("nan")
    return float(np.average([spearman(a[rows], b[rows]) for rows in large], weights=[rows.sum() for rows in large]))


def table_row(pairs: Pairs, guess: Structures) -> dict[str, float]:
    """All errors of one guess: Å, Å^3, shares. ``worse`` is the share with a larger displacement than unrelaxed."""
    displacement, nothing = displacements(pairs, guess), displacements(pairs, pairs.start)
    return {
        "displacement": float(displacement.mean()),
        "worse": float((displacement > nothing + 1e-6).mean()),
        "adwt": near_share(displacement),
        "coordinates": float(coordinate_errors(pairs, guess).mean()),
        "cell": float(cell_errors(pairs, guess).mean()),
        "volume": float(volume_errors(pairs, guess).mean()),
        "match": match_rate(pairs, guess),
    }


def _mean_over_free(pairs: Pairs, of_atoms: Floats) -> Floats:
    n = len(pairs)
    return np.bincount(pairs.start.system, of_atoms * pairs.free, n) / np.bincount(pairs.start.system, pairs.free, n)
