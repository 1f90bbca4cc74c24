"""A given cell: atoms at random places in the one cell that all these candidates have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, Literal

import numpy as np
from ase import Atoms
from ase.geometry import cellpar_to_cell
from pydantic import Field

from csp_al.campaign.constraints import Constraints
from csp_al.campaign.errors import Finding
from csp_al.campaign.section import Positive
from csp_al.campaign.sources import SourceSection
from csp_al.generate.random_cells import filled
from csp_al.interfaces import SourceKind
from csp_al.structures import Floats

FLATTEST: Final = 0.02
"""Least volume of a cell by the product of its lengths."""


class GivenCellSource(SourceSection):
    """Atoms at random places in one cell, for searches that keep it (relax.cell: fixed)."""

    kind: Literal["given_cell"]
    lengths: tuple[Positive, Positive, Positive] = Field(description="Å, [a, b, c]")
    angles: tuple[Positive, Positive, Positive] = Field((90, 90, 90), description="degrees, [alpha, beta, gamma]")

    def senseless(self, counts: Mapping[str, int]) -> Iterator[Finding]:  # noqa: ARG002
        """Angles that no cell has."""
        cosines = np.cos(np.radians(self.angles))
        flatness = 1 - (cosines**2).sum() + 2 * cosines.prod()  # square of volume over product of lengths
        if max(self.angles) >= 180 or flatness < FLATTEST**2:
            yield Finding(("angles",), "no cell has such angles, or only a flat one; they are of the other two vectors")


def given_cell(source: GivenCellSource, constraints: Constraints, rng: np.random.Generator) -> Atoms:
    """A candidate in this cell. Raises `UnplaceableError` where its atoms have no room."""
    cell: Floats = cellpar_to_cell([*source.lengths, *source.angles])
    return filled(lambda: cell, f"in a cell of {abs(np.linalg.det(cell)):.4g} Å^3", constraints, rng)


KIND: Final = SourceKind(GivenCellSource, given_cell)
