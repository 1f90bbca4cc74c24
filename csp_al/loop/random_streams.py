"""The random streams of a cycle, and how structures are perturbed before they are labelled or relaxed.

Everything follows from the campaign's seed, the cycle, what it is for, and the candidate.
"""

from __future__ import annotations

import numpy as np

from csp_al.campaign import Campaign, resolve
from csp_al.geometry import in_short_vectors
from csp_al.select.perturb import decay_amplitude, perturb
from csp_al.structures import Structures

(
    DRAW, TRAIN, CLUSTER, PERTURB, FIRST_PERTURB, RESTART, EXPLORE, GROW, CHALLENGE, SCORE, FOUNDATION, DIRECT,
) = range(1, 13)  # fmt: skip
"""Random streams of a cycle; 0 is the pool's."""

RELAXED_CLOSEST = 0.8
"""A relaxation may bring atoms to this share of the least distance that candidates are generated with."""

PERTURBED_CLOSEST = 0.7
"""Likewise, the noise before labelling: the potential is to learn what closer atoms cost."""

RESTART_NOISE = 0.2
"""Å, amplitude of the noise on first cells."""


def stream(campaign: Campaign, cycle: int, purpose: int, index: int = 0) -> np.random.Generator:
    """The random numbers for one of the purposes above, and for one candidate where each has its own."""
    return np.random.default_rng([campaign.seed, cycle, purpose, index])


def to_label(campaign: Campaign, structures: Structures, cycle: int, purpose: int) -> Structures:
    """Structures as they are labelled: perturbed, by less in every cycle, and in short vectors.

    The random draw as the first choice.
    """
    amplitude = decay_amplitude(campaign.select.noise, campaign.select.noise_decay, cycle)
    return in_short_vectors(_perturbed(campaign, structures, amplitude, PERTURBED_CLOSEST, cycle, purpose))


def first_cells(campaign: Campaign, structures: Structures, cycle: int) -> Structures:
    """Where relaxations begin anew: candidates as generated and, in every other cycle, perturbed.

    From a random cell the way down branches, so that noise is another draw of where a candidate comes to rest, and
    costs no label. As generated, symmetric cells keep their symmetry.
    """
    if cycle % 2 == 0:
        return structures
    return _perturbed(campaign, structures, RESTART_NOISE, RELAXED_CLOSEST, cycle, RESTART)


def least_distances(campaign: Campaign, share: float) -> dict[str, float]:
    """Of each pair of species, so much of the least distance (Å) that candidates of any pool are generated with."""
    of_pools = [resolve(pool).min_distance for pool in campaign.pools]
    return {pair: share * min(distances[pair] for distances in of_pools) for pair in of_pools[0]}


def _perturbed(
    campaign: Campaign, structures: Structures, amplitude: float, closest: float, cycle: int, purpose: int
) -> Structures:
    distances = least_distances(campaign, closest)
    strained = campaign.relax.cell == "free"
    return perturb(
        structures, amplitude, lambda index: stream(campaign, cycle, purpose, index), distances, strained=strained
    )
