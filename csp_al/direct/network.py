"""The network of the direct relaxers: what it says of each pair of neighbours, and of the cell.

Atoms exchange scalars, vectors and tensors as in LEIGNN without its shared node, which is the network of DeepRelax
(PaiNN's messages and update; Z. Yang et al., arXiv:2404.00865) with compiled sums. Here it stands in for the gated
convolutions of DOGSS, too. Besides its element, whose covalent radius, electronegativity, group and period it is told,
an atom knows whether it may move.

What is predicted are changes: relaxed distances as corrections to those of the input, and a symmetric strain of its
cell. So an untrained network leaves a crystal as it is, and what it says of a turned crystal is turned with it; heads
as published predict distances themselves and nine numbers of a cell, which they must see in all orientations.
Neighbours are told by vectors, images included, and need no encoding of the cell that they are in (PCOE).
"""

from __future__ import annotations

from typing import Literal, NamedTuple, cast

import numpy as np
import torch
from ase.data import covalent_radii
from torch import Tensor, nn

from csp_al.direct.section import DirectSection
from csp_al.potential.kind import HEAVIEST
from csp_al.potential.leignn import LeignnPotential
from csp_al.potential.networks.leignn import Crystals, Envelope, Interaction
from csp_al.potential.networks.member import Graph
from csp_al.potential.networks.messages import angular_functions
from csp_al.potential.networks.schnet import Pairs, values_and_slopes

START = 0.05
"""Å, the width that an untrained network tells, and the unit of its corrections."""


Cell = Literal["fixed", "shape", "free"]
"""What of a cell a network changes; the shape alone where volumes are those of the composition."""


class Said(NamedTuple):
    """Of edges (E,): relaxed distance (Å), log of its width (Å), stiffness; of structures: strain (n, 3, 3)."""

    distance: Tensor
    log_width: Tensor
    stiffness: Tensor
    strain: Tensor


class DirectNetwork(nn.Module):
    """One member of a direct relaxer."""

    properties: Tensor

    def __init__(self, section: DirectSection, cell: Cell) -> None:
        from schnetpack.nn import GaussianRBF  # what `csp_al.potential.networks` mends must be mended first

        super().__init__()
        features = section.features
        self.cell = cell
        self.cutoff = section.cutoff
        self.embedding = nn.Embedding(HEAVIEST + 1, features)
        self.register_buffer("properties", _properties(), persistent=False)
        self.described = nn.Linear(self.properties.shape[1], features)
        self.held = nn.Parameter(torch.zeros(features))
        parts = LeignnPotential(
            features=features, interactions=section.interactions, cutoff=section.cutoff, global_node=False
        )
        self.interactions = nn.ModuleList([Interaction(parts, last=False) for _ in range(section.interactions)])
        self.basis = GaussianRBF(n_rbf=parts.radial, cutoff=section.cutoff)
        self.at_knots = values_and_slopes(self.basis, Envelope(section.cutoff), section.cutoff)
        self.of_atoms = nn.Linear(features, features)
        self.of_distance = nn.Linear(parts.radial, features)
        self.of_vectors = nn.Linear(features, features + 1, bias=False)
        self.of_projections = nn.Linear(features, features, bias=False)
        self.head = nn.Sequential(nn.SiLU(), nn.Linear(features, features), nn.SiLU(), nn.Linear(features, 4))
        for first_says_nothing in (*self.head[-1].parameters(), self.of_vectors.weight.data[:1]):
            nn.init.zeros_(first_says_nothing)

    def forward(self, graph: Graph, free: Tensor) -> Said:
        """What the network says of the edges and structures of a graph; ``free`` (N,) are the atoms that may move."""
        geometry = angular_functions(graph.vectors)
        pairs = Pairs(graph.source, graph.target, graph.pointer)
        x = self.embedding(graph.numbers) + self.described(self.properties[graph.numbers])
        x = x + (~free)[:, None] * self.held
        v = x.new_zeros(len(x), 3, x.shape[1])
        basis, basis_slope, fade, fade_slope = (tensor.to(x) for tensor in self.at_knots)
        radial = torch.stack([basis * fade, basis_slope * fade + basis * fade_slope], dim=1)
        spacing = self.cutoff / (len(radial) - 1)
        crystals = Crystals(graph.system, graph.counts)
        for interaction in self.interactions:
            table = cast("Interaction", interaction).filters_of(radial)
            x, v, *_ = interaction(x, v, None, crystals, table, spacing, geometry, pairs)
        return self._said(graph, geometry.distance, geometry.angles[:, :3], x, v)

    def _said(self, graph: Graph, distance: Tensor, normal: Tensor, x: Tensor, v: Tensor) -> Said:
        mapped, vectors = self.of_atoms(x), self.of_vectors(v)
        along = torch.einsum("ek,ekf->ef", normal, vectors[graph.target] - vectors[graph.source])
        both = mapped[graph.source] + mapped[graph.target]
        hidden = both + self.of_distance(self.basis(distance)) + self.of_projections(along[:, 1:])
        correction, width, stiffness, pull = self.head(hidden).unbind(1)
        strain = self._strain(graph, pull[:, None, None] * normal[:, :, None] * normal[:, None, :])
        stretched = torch.einsum("ek,ekl,el->e", normal, strain[graph.system[graph.source]], normal)
        change = START * (correction + along[:, 0]) + distance * stretched
        log_width = (width + np.log(START)).clamp(-5, 2)
        return Said((distance + change).abs(), log_width, nn.functional.softplus(stiffness), strain)

    def _strain(self, graph: Graph, of_edges: Tensor) -> Tensor:
        """Of structures (n, 3, 3), from what their edges (E, 3, 3) say, for each atom."""
        sums = of_edges.new_zeros(len(graph.counts), 3, 3)
        if self.cell == "fixed":
            return sums
        strain = START * sums.index_add(0, graph.system[graph.source], of_edges) / graph.counts[:, None, None]
        if self.cell == "free":
            return strain
        trace = strain.diagonal(dim1=1, dim2=2).mean(dim=1)
        return strain - trace[:, None, None] * torch.eye(3).to(strain)


def _properties() -> Tensor:
    """Of elements (100, k), of the order of one: covalent radius, electronegativity, group and period one by one."""
    from pymatgen.core import Element

    rows = np.zeros((HEAVIEST + 1, 2 + 18 + 7))
    for number in range(1, HEAVIEST + 1):
        element = Element.from_Z(number)
        negativity = float(element.data.get("X") or 0)  # noble gases have none
        rows[number, :2] = covalent_radii[number] - 1.4, negativity - 1.8
        rows[number, 1 + element.group] = rows[number, 19 + element.row] = 1
    return torch.tensor(rows, dtype=torch.float32)
