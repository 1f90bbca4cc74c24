"""Repulsion of overlapping atoms, fixed, so that no potential believes in them before it has seen any.

The screened Coulomb repulsion of nuclei of J. F. Ziegler, J. P. Biersack and U. Littmark, The Stopping and Range of
Ions in Solids (Pergamon, 1985), brought to zero below the lengths of bonds. schnetpack has it with one reach for all
pairs, that of the largest species; a pair such as Al-O would feel it at its bond length.
"""

from __future__ import annotations

from math import pi
from typing import TYPE_CHECKING

import torch
from ase.data import covalent_radii
from ase.units import Bohr, Hartree
from torch import Tensor, nn

if TYPE_CHECKING:
    from csp_al.potential.architecture import Graph

REACH = 0.9
"""Reach of the repulsion in sums of the covalent radii of each pair: single bonds are longer."""

COEFFICIENTS = (0.18175, 0.50986, 0.28022, 0.02817)
EXPONENTS = (3.19980, 0.94229, 0.40290, 0.20162)
"""Universal screening function: sum of coefficient x exp(-exponent x r / a), a = 0.8854 a_0 / (Z_i^0.23 + Z_j^0.23)."""


class Repulsion(nn.Module):
    """Repulsion energies (n,) eV of a graph with these species, nowhere beyond the cutoff (Å)."""

    reach: Tensor

    def __init__(self, species: list[int], cutoff: float) -> None:
        super().__init__()
        radii = torch.from_numpy(covalent_radii[: max(species) + 1])
        reach = REACH * (radii[:, None] + radii[None, :])
        self.register_buffer("reach", reach.clamp(max=cutoff).float())

    def forward(self, vectors: Tensor, graph: Graph) -> Tensor:
        """Vectors (E, 3) Å stand in for those of the graph."""
        distance = vectors.norm(dim=1)
        z_i, z_j = graph.numbers[graph.source], graph.numbers[graph.target]
        scaled = distance * (z_i.to(distance) ** 0.23 + z_j.to(distance) ** 0.23) / (0.8854 * Bohr)
        terms = [c * torch.exp(-e * scaled) for c, e in zip(COEFFICIENTS, EXPONENTS, strict=True)]
        screening = sum(terms[1:], start=terms[0]) / sum(COEFFICIENTS)
        switch = 0.5 * (1 + torch.cos(pi * (distance / self.reach[z_i, z_j]).clamp(max=1.0)))
        half = 0.5 * Hartree * Bohr * z_i * z_j / distance * screening * switch  # a pair has two edges
        return half.new_zeros(len(graph.counts)).index_add(0, graph.system[graph.source], half)
