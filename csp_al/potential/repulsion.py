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
from torch import Tensor

if TYPE_CHECKING:
    from csp_al.potential.networks.member import Graph

REACH = 0.9
"""Reach of the repulsion in sums of the covalent radii of each pair: single bonds are longer."""

COEFFICIENTS = (0.18175, 0.50986, 0.28022, 0.02817)
EXPONENTS = (3.19980, 0.94229, 0.40290, 0.20162)
"""Universal screening function: sum of coefficient x exp(-exponent x r / a), a = 0.8854 a_0 / (Z_i^0.23 + Z_j^0.23)."""


def repel(graph: Graph, cutoff: float) -> tuple[Tensor, Tensor]:
    """Energies (n,) eV of a graph, nowhere beyond the cutoff (Å), and their derivative by its vectors (E, 3) eV/Å."""
    radii = torch.from_numpy(covalent_radii).to(graph.vectors)
    reach = (REACH * (radii[graph.numbers[graph.source]] + radii[graph.numbers[graph.target]])).clamp(max=cutoff)
    near = torch.nonzero(graph.vectors.norm(dim=1) < reach)[:, 0]
    source, target = graph.source[near], graph.target[near]
    vectors = graph.vectors[near].requires_grad_()
    energy = _screened(vectors.norm(dim=1), reach[near], graph.numbers[source], graph.numbers[target])
    slope = torch.zeros_like(graph.vectors)
    slope[near] = torch.autograd.grad(energy.sum(), vectors)[0]
    total = slope.new_zeros(len(graph.counts)).index_add(0, graph.system[source], energy.detach())
    return total, slope


def _screened(distance: Tensor, reach: Tensor, z_i: Tensor, z_j: Tensor) -> Tensor:
    """Energy of each pair of nuclei within their reach."""
    scaled = distance * (z_i.to(distance) ** 0.23 + z_j.to(distance) ** 0.23) / (0.8854 * Bohr)
    terms = [c * torch.exp(-e * scaled) for c, e in zip(COEFFICIENTS, EXPONENTS, strict=True)]
    screening = sum(terms[1:], start=terms[0]) / sum(COEFFICIENTS)
    switch = 0.5 * (1 + torch.cos(pi * distance / reach))
    return Hartree * Bohr * z_i * z_j / distance * screening * switch
