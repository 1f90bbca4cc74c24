"""What tells one crystal from another where the potential itself says nothing of it: SOAP, averaged over atoms.

A. P. Bartók, R. Kondor and G. Csányi, Phys. Rev. B 87, 184115 (2013), by dscribe (the extra ``csp_al[descriptor]``).

Crystals are scaled to one volume per atom first, so that one reach serves all elements, and a pressure left over is
not taken for another crystal; volumes are compared elsewhere. Chosen on silicon among random cells, in the measure of
`csp_al.select.identity.basins`, whose limit is 0.05: copies of one crystal with noise of 0.02 Å are up to 0.01 apart
(diamond, fcc, hcp) and 0.04 at most (bct-5); the nearest different ones are diamond and its polytype 4H, 0.13, fcc and
dhcp, 0.18. With degrees up to 4 only, those are 0.06 and 0.08; with averages taken before the power spectrum, hcp and
dhcp are the same; with Gaussians of 0.7 Å, fcc and dhcp.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np

from csp_al.structures import Floats, Relaxed, Structures

VOLUME: Final = 20.0
"""Å^3 per atom, what crystals are scaled to."""

REACH, GAUSSIAN, RADIAL, DEGREE = 6.0, 0.5, 8, 6
"""Å, Å, number of radial functions, highest degree."""


def describe(structures: Structures) -> Floats:
    """SOAP averaged over the atoms of each structure, (n, d); d depends on the species of the batch."""
    from dscribe.descriptors import SOAP

    soap = SOAP(
        species=np.unique(structures.numbers).tolist(), periodic=True, average="outer",
        r_cut=REACH, sigma=GAUSSIAN, n_max=RADIAL, l_max=DEGREE,
    )  # fmt: skip
    factors = np.cbrt(VOLUME * structures.counts / structures.volumes)
    scaled = structures.moved(
        structures.positions * factors[structures.system, None], structures.cells * factors[:, None, None]
    )
    features: Floats = soap.create(scaled.to_atoms()).reshape(len(structures), -1)
    return features


def with_descriptor(relaxed: Relaxed) -> Relaxed:
    """The same, with the descriptor as features, NaN where the potential gave no energy.

    What it was not asked about may be a collapsed cell, whose neighbours fit into no memory.
    """
    known = np.flatnonzero(np.isfinite(relaxed.prediction.energy))
    features = np.full((len(relaxed), 0), np.nan)
    if len(known):
        rows = describe(relaxed.structures.take(known))
        features = np.full((len(relaxed), rows.shape[1]), np.nan)
        features[known] = rows
    return replace(relaxed, prediction=replace(relaxed.prediction, features=features))
