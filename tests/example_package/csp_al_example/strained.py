"""A source of candidates in one file: rows of atoms along a long cell, strained."""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.geometry import wrap_positions
from pydantic import Field

from csp_al.campaign.constraints import Constraints
from csp_al.campaign.section import Positive
from csp_al.campaign.sources import SourceSection
from csp_al.geometry import too_close
from csp_al.interfaces import SourceKind, UnplaceableError


class StrainedSource(SourceSection):
    """Rows of atoms along a long cell, strained."""

    strain: Positive = Field(0.1, description="largest component of the strain")


def make(section: StrainedSource, constraints: Constraints, rng: np.random.Generator) -> Atoms:
    """A strained tetragonal cell, species in the order of the formula. Raises UnplaceableError."""
    n_atoms = constraints.n_atoms
    symbols = [symbol for symbol, count in constraints.counts.items() for _ in range(count)]
    for _ in range(constraints.max_attempts):
        edge = (rng.uniform(*constraints.volume_per_atom)) ** (1 / 3)
        cell = np.diag([edge, edge, n_atoms * edge]) @ (np.eye(3) + section.strain * rng.uniform(-1, 1, (3, 3)))
        fractional = [(0.5 * (row % 2), 0.5 * (row % 2), row / n_atoms) for row in range(n_atoms)]
        positions = wrap_positions(np.array(fractional) @ cell, cell)
        atoms = Atoms(symbols, positions=positions, cell=cell, pbc=True)
        if not too_close(atoms, constraints.min_distance):
            atoms.info["note"] = "strained rows"
            return atoms
    raise UnplaceableError(f"no strained cell kept the least distances in {constraints.max_attempts} attempts")


KIND = SourceKind(section=StrainedSource, make=make)
