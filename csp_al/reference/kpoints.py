"""Meshes of k-points by spacing, the same for every code."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from ase import Atoms


def monkhorst_pack(atoms: Atoms, kspacing: float) -> list[int]:
    """Divisions (3,) of a Gamma-centred mesh: ceil(|b| / kspacing) along each reciprocal vector b, 2 pi included.

    The spacing is in 1/Å. H. J. Monkhorst, J. D. Pack, Phys. Rev. B 13, 5188 (1976).
    """
    lengths = 2 * np.pi * np.linalg.norm(atoms.cell.reciprocal(), axis=1)
    # 1e-9: a length that is a multiple of the spacing stays one when rounded
    return [max(1, int(np.ceil(length / kspacing - 1e-9))) for length in lengths]
