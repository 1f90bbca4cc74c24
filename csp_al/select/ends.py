"""Where each candidate stands, of all ends that its relaxations came to.

The lowest of its ends would hide the others, and with them crystals that an ensemble puts too high: of LiGaSi (three
atoms, CHGNet) the last ensemble of a search took 3 of 200 first cells to the lowest crystal, and none of the 200 stood
there, since each had another end that was predicted lower. What nobody stands for is never labelled.

A label is an end too, whose energy is known: another search for LiGaSi labelled its lowest crystal, and called it
settled at one 6 meV/atom above, since its ensembles relaxed the labelled one away to what they thought was lower still.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from csp_al import objective
from csp_al.interfaces import CONVERGED, LABELLED, trusted
from csp_al.select.challenge import average_distances
from csp_al.select.identity import UNKNOWN, basins
from csp_al.select.known import DISTANCES
from csp_al.structures import Floats, Ints, Labels, Prediction, Relaxed, take


def as_labelled(labels: Labels, predicted: Prediction) -> Relaxed:
    """Labels as ends: their energies, without spread, and what else an ensemble ``predicted`` for them.

    They are usable labels of candidates, under the ids of these.
    """
    sure = np.zeros(len(labels))
    prediction = replace(predicted, energy=labels.energy, energy_sigma=sure)
    return Relaxed(labels.structures, prediction, np.full(len(labels), LABELLED), sure.astype(np.int64))


def one_end_each(ends: Relaxed) -> tuple[Relaxed, Relaxed]:
    """Where each candidate stands, in the order of the ids, and the lowest ends of those that stand elsewhere.

    A candidate stands at the lowest of its ends that can be trusted, else at the first. Then, upwards in energy, each
    basin that nobody stands in and that a relaxation converged to is given a candidate that came there, if one has a
    twin where it stands, so that no other crystal loses its last: of several the one from the fullest basin. ``ends``
    holds several of most candidates, under their ids.
    """
    candidate = np.unique(ends.structures.ids, return_inverse=True)[1]
    energies = objective.descent(ends.prediction, ends.structures).energy
    energies = np.where(trusted(ends.reason), energies, np.inf)
    lowest = _lowest_of_each(candidate, energies)
    standing = _placed(ends, candidate, lowest, energies)
    elsewhere = lowest[standing != lowest]
    return take(ends, standing, ends.structures), take(ends, elsewhere, ends.structures)


def _lowest_of_each(candidate: Ints, energies: Floats) -> Ints:
    """Row of the lowest end of each candidate, the first of equal ones."""
    rows = np.lexsort((np.arange(len(energies)), energies, candidate))
    _, firsts = np.unique(candidate[rows], return_index=True)
    chosen: Ints = rows[firsts]
    return chosen


def _placed(ends: Relaxed, candidate: Ints, lowest: Ints, energies: Floats) -> Ints:
    """The rows of ``lowest``, with others where a crystal would have nobody."""
    basin, converged = basins(ends), ends.reason == CONVERGED
    standing, own = lowest.copy(), basin[lowest]
    free = np.flatnonzero(converged[lowest] & (own != UNKNOWN))
    places = dict(zip(free.tolist(), average_distances(ends.structures.take(lowest[free])), strict=True))
    lost = converged & (basin != UNKNOWN) & ~np.isin(basin, own)
    for home in np.unique(basin[lost]).tolist():  # basins are numbered upwards in energy
        came = {}
        for row in np.flatnonzero(lost & (basin == home)).tolist():
            who = int(candidate[row])
            beside = [other for other in places if own[other] == own[who] and other != who]
            if who in places and any(np.linalg.norm(places[other] - places[who]) <= DISTANCES for other in beside):
                came[row] = len(beside)
        if came:
            row = min(came, key=lambda row: (-came[row], energies[row], row))
            del places[int(candidate[row])]
            standing[candidate[row]] = row
    return standing
