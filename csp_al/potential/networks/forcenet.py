"""ForceNet: forces from directions as plain numbers, by a network that has to learn what a rotation is.

W. Hu et al., arXiv:2103.01436; numbers of equations are theirs. Where the paper and its code differ, this follows the
code: a linear map of the basis in each layer, and one more of the atoms before their heads. Its layer of atoms' own
messages and the filters of (3) are as published. Ours are: an embedding of each element in place of nine of its
properties, since a campaign has few elements and their labels; layer norms in place of batch norms, by which
predictions would depend on what else is in a batch; harmonics as polynomials; schnetpack's atomwise energy, with a
weight in the loss; and a head for the stress: the last messages tell the tension along each edge. Six numbers of each
atom, summed, did not learn from 15 labels what shear is, and pushed every crystal apart. Neighbours are all within the
cutoff, at which their messages fade: the published limit of 50 makes forces jump where one atom takes another's place
among them.
"""

from __future__ import annotations

from math import pi
from typing import ClassVar, Final

import torch
from ase.data import covalent_radii
from schnetpack import properties as keys
from torch import Tensor, nn

from csp_al.potential.kind import HEAVIEST, NetworkPotential
from csp_al.potential.networks.member import FORCES, VIRIAL, Network
from csp_al.potential.networks.messages import angular_functions

KEPT = 130
"""Bytes that a pass takes, see `Network`."""

SHORTEST: Final = 1e-3
"""Least length between the surfaces of two atoms, as a share of the cutoff."""


class ForceNet(nn.Module):
    """Representations, forces and virials for inputs that hold each pair of atoms both ways."""

    lengths: ClassVar[int] = 4
    components: ClassVar[int] = 9

    def __init__(self, section: NetworkPotential, activation: type[nn.Module] = nn.SiLU) -> None:
        super().__init__()
        features = section.features
        self.cutoff, self.waves = section.cutoff, section.radial
        self.embedding = nn.Embedding(HEAVIEST + 1, features)
        self.heights = nn.Linear(self.lengths * section.radial, self.lengths)
        width = self.lengths * self.components
        self.interactions = nn.ModuleList(
            [Interaction(width, features, activation) for _ in range(section.interactions)]
        )
        self.last = nn.Sequential(nn.Linear(features, features), activation())
        self.decoder = nn.Sequential(nn.Linear(features, features), nn.LayerNorm(features), activation())
        self.heads = nn.ModuleDict({"forces": nn.Linear(features, 3), "tension": nn.Linear(features, 1, bias=False)})

    def forward(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Add the scalar representation (N, F), forces and virials."""
        target, source, vectors = inputs[keys.idx_i], inputs[keys.idx_j], inputs[keys.Rij]
        numbers, system = inputs[keys.Z], inputs[keys.idx_m]
        radii = torch.from_numpy(covalent_radii).to(vectors)[numbers]
        basis = self.basis(vectors, radii[source], radii[target])
        distance = vectors.norm(dim=1)
        fade = torch.cos(pi / (2 * self.cutoff) * distance)[:, None]
        h = messages = self.embedding(numbers)
        for interaction in self.interactions:
            h, messages = interaction(h, basis, fade, source, target)
        h = self.last(h)
        n = vectors / distance[:, None]
        virials = self.heads["tension"](messages)[:, :, None] * n[:, :, None] * n[:, None]
        virial = virials.new_zeros(len(inputs[keys.n_atoms]), 3, 3).index_add(0, system[target], virials)
        forces = self.heads["forces"](self.decoder(h))
        return inputs | {"scalar_representation": h, FORCES: forces, VIRIAL: virial}

    def basis(self, vectors: Tensor, of_source: Tensor, of_target: Tensor) -> Tensor:
        """The spherical basis (E, 36): harmonics up to l = 2 of the directions, each at four heights.

        The heights are sines of the distance, with and without the radii of both atoms (E,) taken off.
        """
        distance, angles = angular_functions(vectors)
        harmonics = torch.cat([torch.ones_like(distance)[:, None], angles], dim=1)[:, : self.components]
        lengths = [distance, distance - of_source, distance - of_target, distance - of_source - of_target]
        heights = self.heights(self.sines(torch.stack(lengths, dim=1)))
        return (heights[:, :, None] * harmonics[:, None]).flatten(1)

    def sines(self, lengths: Tensor) -> Tensor:
        """Sines (E, k waves) of lengths (E, k) Å with frequencies 1.1^j."""
        scaled = (lengths / self.cutoff).clamp_min(SHORTEST)
        frequencies = 1.1 ** torch.arange(self.waves).to(scaled)
        return torch.sin(scaled[:, :, None] * frequencies).flatten(1)


class Interaction(nn.Module):
    """One layer, (1) to (3): what atoms send, by filters of the edge and both its atoms, and what is made of it."""

    def __init__(self, width: int, features: int, activation: type[nn.Module]) -> None:
        super().__init__()
        # the first layer of the filters' network, which is linear in the basis and both atoms, in three parts
        self.of_basis = nn.Linear(width, features)
        self.of_source = nn.Linear(features, features, bias=False)
        self.of_target = nn.Linear(features, features, bias=False)
        self.filters = nn.Sequential(
            activation(), nn.Linear(features, features), activation(), nn.Linear(features, features)
        )
        self.given = nn.Linear(features, features)
        self.own = nn.Parameter(torch.ones(features))
        self.update = nn.Sequential(
            nn.Linear(features, features), nn.LayerNorm(features), activation(), nn.Linear(features, features)
        )

    def forward(self, h: Tensor, basis: Tensor, fade: Tensor, source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Atoms (N, F) from atoms, and what they sent (E, F).

        The basis (E, width) and the fading (E, 1) are those of edges from source to target.
        """
        inner = self.of_basis(basis) + self.of_source(h)[source] + self.of_target(h)[target]
        given = self.given(h)
        messages = self.filters(inner) * fade * given[source]
        return h + self.update((self.own * given).index_add(0, target, messages)), messages


NETWORK = Network(representation=ForceNet, bytes_per_edge=lambda _: KEPT)
