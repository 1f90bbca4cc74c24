"""Where each candidate stands, of all ends that its relaxations came to.

The lowest of its ends would hide the others, and with them crystals that an ensemble puts too high: of LiGaSi (three
atoms, CHGNet) the last ensemble of a search took 3 of 200 first cells to the lowest crystal, and none of the 200 stood
there, since each had another end that was predicted lower. What nobody stands at is never labelled.
"""

from __future__ import annotations

import numpy as np

from csp_al import objective
from csp_al.interfaces import CONVERGED, trusted
from csp_al.select.challenge import average_distances
from csp_al.select.identity import UNKNOWN, basins
from csp_al.select.known import DISTANCES
from csp_al.structures import Bools, Floats, Ints, Relaxed, take


def one_end_each(ends: Relaxed, searched: Bools) -> tuple[Relaxed, Relaxed]:
    """Where each candidate stands, in the order of the ids, and the lowest ends of those that stand elsewhere.

    A candidate stands at the lowest of its ends that can be trusted, else at the first. Then, upwards in energy, each
    basin that nobody stands in and that a relaxation converged to is given a candidate that came there, if one has a
    twin where it stands, so that no other crystal loses its last: of several the one from the fullest basin. ``ends``
    holds several of most candidates, under their ids; those that are ``searched`` (n,), and may lead, know nothing of
    the others.
    """
    candidate = np.unique(ends.structures.ids, return_inverse=True)[1]
    energies = objective.values(ends.prediction.energy, ends.structures)
    energies = np.where(trusted(ends.reason), energies, np.inf)
    lowest = _lowest_of_each(candidate, energies)
    standing = _placed(ends, searched, candidate, lowest, energies)
    elsewhere = lowest[standing != lowest]
    return take(ends, standing, ends.structures), take(ends, elsewhere, ends.structures)


def _lowest_of_each(candidate: Ints, energies: Floats) -> Ints:
    """Row of the lowest end of each candidate, the first of equal ones."""
    rows = np.lexsort((np.arange(len(energies)), energies, candidate))
    _, firsts = np.unique(candidate[rows], return_index=True)
    chosen: Ints = rows[firsts]
    return chosen


def _placed(ends: Relaxed, searched: Bools, candidate: Ints, lowest: Ints, energies: Floats) -> Ints:
    """The rows of ``lowest``, with others where a crystal would have nobody."""
    basin, converged = basins(ends), ends.reason == CONVERGED
    basin = np.where(basin == UNKNOWN, UNKNOWN, 2 * basin + searched)  # still numbered upwards in energy
    standing, own = lowest.copy(), basin[lowest]
    free = converged[lowest] & (own != UNKNOWN)
    lost = np.flatnonzero(converged & (basin != UNKNOWN) & ~np.isin(basin, own) & free[candidate])
    if not len(lost):
        return standing
    near = average_distances(ends.structures.take(lowest[free]))
    places = np.full((len(lowest), near.shape[1]), np.nan)
    places[free] = near

    def crowd(row: int) -> int:
        """How many others are in the basin of this end's candidate; 0 if it has no twin there, or has moved."""
        who = candidate[row]
        others = free & (own == own[who])
        others[who] = False
        apart = np.linalg.norm(places[others] - places[who], axis=1)
        return int(others.sum()) if free[who] and apart.min(initial=np.inf) <= DISTANCES else 0

    for home in np.unique(basin[lost]).tolist():
        crowds = {row: crowd(row) for row in lost[basin[lost] == home].tolist()}
        row = min(crowds, key=lambda row: (-crowds[row], energies[row], row))
        if crowds[row]:
            free[candidate[row]] = False
            standing[candidate[row]] = row
    return standing
