"""LEIGNN, with scalars and vectors and a node that all atoms of a structure share.

Z. Yang et al., arXiv:2311.02869; numbers of equations are theirs. Where the paper and its code differ, this follows the
code: maps of two layers, and the residuals of (3). Ours are: forces and stress as derivatives of the energy, where
vectors after the last interaction, which only the published force head uses, are left out; in the published, direct
mode a head for the stress beside that of (9) for the forces; a shared node that no longer listens in the last
interaction, since nobody asks it again; by default 20 radial functions instead of 128, as in the other networks; no
limit to the number of neighbours, which would make energies jump; schnetpack's atomwise energy. And with ``rank`` 2
each atom also receives components of l = 2, the norms of which enter its update: vectors to the corners of a
tetrahedron sum to zero, whatever their angles.

The shared node takes means over atoms, so that a supercell has exactly as many times the energy; but two fragments, or
two halves of a cell of which one changes, feel each other at any distance.
"""

from __future__ import annotations

from math import sqrt
from typing import Any, Final, NamedTuple

import torch
from schnetpack import properties as keys
from schnetpack.nn import GaussianRBF
from torch import Tensor, nn

from csp_al.potential.kind import HEAVIEST, NetworkPotential
from csp_al.potential.leignn import LeignnPotential
from csp_al.potential.networks.member import FORCES, POINTER, VIRIAL, Network
from csp_al.potential.networks.messages import Geometry, angular_functions, gather
from csp_al.potential.networks.schnet import Pairs, values_and_slopes

FLOOR = 1e-4
"""Added to squared norms: without it rounding makes forces of 1e-3 eV/Å in perfect diamond."""

KEPT, KEPT_COMPILED = 400, 40
"""Bytes that a pass takes, see `Network`; with compiled kernels, of what belongs to atoms."""

MATRICES: Final = torch.tensor(
    [
        [[0, 1, 0], [1, 0, 0], [0, 0, 0]],
        [[0, 0, 0], [0, 0, 1], [0, 1, 0]],
        [[-1 / sqrt(3), 0, 0], [0, -1 / sqrt(3), 0], [0, 0, 2 / sqrt(3)]],
        [[0, 0, 1], [0, 0, 0], [1, 0, 0]],
        [[1, 0, 0], [0, -1, 0], [0, 0, 0]],
    ],
    dtype=torch.float64,
)
"""Symmetric matrices without a trace that the components of l = 2 stand for, see `angular_functions`."""


class Crystals(NamedTuple):
    """Which structure each atom belongs to (N,), and how many atoms each has (n,)."""

    system: Tensor
    counts: Tensor

    def sum(self, of_atoms: Tensor) -> Tensor:
        """Sums over the atoms of each structure, (n, ...)."""
        return of_atoms.new_zeros(len(self.counts), *of_atoms.shape[1:]).index_add(0, self.system, of_atoms)

    def mean(self, of_atoms: Tensor) -> Tensor:
        """Means over the atoms of each structure, (n, ...)."""
        return self.sum(of_atoms) / self.counts.reshape(-1, *[1] * (of_atoms.ndim - 1))


class Envelope(nn.Module):
    """A polynomial of distances (Å) that falls from 1 to 0 at the cutoff, with two derivatives (arXiv:2003.03123)."""

    def __init__(self, cutoff: float, power: int = 5) -> None:
        super().__init__()
        self.cutoff, self.power = cutoff, power

    def forward(self, distance: Tensor) -> Tensor:
        """Of any shape."""
        p, x = self.power, distance / self.cutoff
        inner = -(p + 1) * (p + 2) / 2 + p * (p + 2) * x - p * (p + 1) / 2 * x**2
        return (1 + x**p * inner) * (x < 1)


def _linear(inputs: int, outputs: int, *, bias: bool = True, gain: float = 1.0) -> nn.Linear:
    layer = nn.Linear(inputs, outputs, bias=bias)
    nn.init.xavier_uniform_(layer.weight, gain)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


def _map(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    # the published SiLU is divided by 0.6, which keeps variances; the weights after it may as well begin larger
    return nn.Sequential(_linear(inputs, hidden), nn.SiLU(), _linear(hidden, outputs, gain=1 / 0.6))


class Leignn(nn.Module):
    """Representations of atoms for inputs that hold each pair of atoms once.

    ``tables`` (interactions, knots, 2, 3 or 4, F) are as SchNet's: set by whoever knows that the weights are final.
    """

    tables: Tensor
    interactions: Any

    def __init__(self, section: LeignnPotential, interaction: type[Interaction] | None = None) -> None:
        super().__init__()
        features, depth = section.features, section.interactions
        self.cutoff = section.cutoff
        self.embedding = nn.Embedding(HEAVIEST + 1, features)
        nn.init.uniform_(self.embedding.weight, -sqrt(3), sqrt(3))
        if section.global_node:
            self.shared = nn.Parameter(torch.empty(1, features).uniform_(-sqrt(3), sqrt(3)))
        self.interactions = nn.ModuleList(
            [(interaction or Interaction)(section, last=k == depth - 1) for k in range(depth)]
        )
        if not section.conservative:
            self.beside = _linear(features, features, bias=False)
            self.heads = Heads(features, section.rank)
        self.register_buffer("tables", torch.empty(0), persistent=False)
        basis = GaussianRBF(n_rbf=section.radial, cutoff=section.cutoff)
        # no buffer: the same for all members, it would be stacked and saved with each
        self.at_knots = values_and_slopes(basis, Envelope(section.cutoff), section.cutoff)

    def forward(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Add the scalar representation (N, F), and in the direct mode forces and virials."""
        pairs = Pairs(inputs[keys.idx_i], inputs[keys.idx_j], inputs[POINTER])
        crystals = Crystals(inputs[keys.idx_m], inputs[keys.n_atoms])
        geometry = angular_functions(inputs[keys.Rij])
        x = self.embedding(inputs[keys.Z])
        v = x.new_zeros(len(x), 3, x.shape[1])
        shared = None
        if hasattr(self, "shared"):
            scalar = self.shared.expand(len(crystals.counts), -1)
            shared = scalar, scalar.new_zeros(len(scalar), 3, scalar.shape[1])
        tables = self.tables if self.tables.numel() else self.tabulate()
        for interaction, table in zip(self.interactions, tables, strict=True):
            spacing = self.cutoff / (len(table) - 1)
            x, v, tensor, shared = interaction(x, v, shared, crystals, table, spacing, geometry, pairs)
        outputs = inputs | {"scalar_representation": x}
        if not hasattr(self, "heads"):
            return outputs
        forces, virials = self.heads(x, v, self.beside(v), tensor)
        return outputs | {FORCES: forces, VIRIAL: crystals.sum(virials)}

    def tabulate(self) -> Tensor:
        """What belongs into ``tables``."""
        basis, basis_slope, fade, fade_slope = (tensor.to(self.embedding.weight) for tensor in self.at_knots)
        radial = torch.stack([basis * fade, basis_slope * fade + basis * fade_slope], dim=1)
        return torch.stack([interaction.filters_of(radial) for interaction in self.interactions])


class Heads(nn.Module):
    """Forces, (9), and virials of atoms, each linear in what turns as it does: so both turn with the crystal.

    A virial is a sum of a(x) times the unit matrix, vectors times others of the same channel, and tensors.
    """

    def __init__(self, features: int, rank: int) -> None:
        super().__init__()
        self.force = _linear(features, 1, bias=False)
        self.pressure = _linear(features, 1)
        self.products = _linear(features, 1, bias=False)
        self.tensors = _linear(features, 1, bias=False) if rank == 2 else None

    def forward(self, x: Tensor, v: Tensor, beside: Tensor, tensor: Tensor | None) -> tuple[Tensor, Tensor]:
        """Forces (N, 3) and virials (N, 3, 3) from scalars (N, F), vectors (N, 3, F), twice, and tensors (N, 5, F)."""
        forces = self.force(v).squeeze(-1)
        products = self.products(v[:, :, None] * beside[:, None]).squeeze(-1)
        virials = self.pressure(x)[..., None] * torch.eye(3).to(x) + (products + products.transpose(1, 2)) / 2
        if self.tensors is not None and tensor is not None:
            virials = virials + torch.einsum("nc,cij->nij", self.tensors(tensor).squeeze(-1), MATRICES.to(x))
        return forces, virials


class Interaction(nn.Module):
    """The shared node speaks, (5) and (6), atoms send and update, (1) to (4), and the node listens, (7) and (8)."""

    def __init__(self, section: LeignnPotential, *, last: bool) -> None:
        super().__init__()
        features, kinds = section.features, 2 + section.rank
        self.rank, self.last = section.rank, last
        self.turns = not (last and section.conservative)
        if section.global_node:
            self.to_scalars = nn.Sequential(_map(2 * features, features, features), nn.SiLU())
            self.to_vectors = _linear(features, features, bias=False)
        self.given = _map(features, max(1, features // 2), kinds * features)
        # with a bias, energies would jump at the cutoff
        self.filters = _linear(section.radial, kinds * features, bias=False)
        self.measured = _linear(features, features, bias=False)
        if self.turns:
            self.turned = _linear(features, features, bias=False)
        if section.rank == 2:
            self.measured_tensors = _linear(features, features, bias=False)
        self.update = _map((1 + section.rank) * features, features, (2 + self.turns) * features)
        if section.global_node and not last:
            self.from_scalars = nn.Sequential(_map(2 * features, features, features), nn.SiLU())
            self.from_vectors = _linear(features, features, bias=False)
        scale = torch.full((kinds, 1), 1 / sqrt(3))
        scale[1:] /= sqrt(features)
        self.scale = scale

    def filters_of(self, radial: Tensor) -> Tensor:
        """Filters (knots, 2, kinds, F) of a radial basis (knots, 2, K), values and slopes."""
        rows = self.filters(radial)
        return rows.unflatten(-1, (len(self.scale), -1)) * self.scale.to(rows)

    def forward(
        self,
        x: Tensor,
        v: Tensor,
        shared: tuple[Tensor, Tensor] | None,
        crystals: Crystals,
        table: Tensor,
        spacing: float,
        geometry: Geometry,
        pairs: Pairs,
    ) -> tuple[Tensor, Tensor, Tensor | None, tuple[Tensor, Tensor] | None]:
        """Scalars (N, F), vectors (N, 3, F), the tensors received (N, 5, F), the shared node (n, F) and (n, 3, F)."""
        if shared is not None:
            scalars, vectors = (each[crystals.system] for each in shared)
            x = x + self.to_scalars(torch.cat([x, scalars], dim=1))
            v = v + self.to_vectors(v + vectors)
        scalar, carried, directed = self.given(x).unflatten(1, (-1, x.shape[1])).split([1, 1, self.rank], dim=1)
        given = scalar, carried * v, directed
        scalar, vector, *rest = gather(given, table, spacing, geometry, pairs)
        tensor = rest[0] if rest else None
        x, v = self.updated((x + scalar.squeeze(1)) / sqrt(2), v + vector, tensor)
        if shared is not None and not self.last:
            mean_scalar, mean_vector = crystals.mean(x), crystals.mean(v)
            scalar, vector = shared
            scalar = scalar + self.from_scalars(torch.cat([mean_scalar, scalar], dim=1))
            shared = scalar, vector + self.from_vectors(mean_vector + vector)
        return x, v, tensor, shared

    def updated(self, x: Tensor, v: Tensor, tensor: Tensor | None) -> tuple[Tensor, Tensor]:
        """What atoms make of what they received, (3) and (4)."""
        lengths = [_norm(self.measured(v))]
        if tensor is not None:
            lengths.append(_norm(self.measured_tensors(tensor)))
        added, kept, *gate = self.update(torch.cat([x, *lengths], dim=1)).split(x.shape[1], dim=1)
        x = x + added / sqrt(2) + torch.tanh(kept) * x
        if self.turns:
            v = v + gate[0][:, None] * self.turned(v)
        return x, v


def _norm(components: Tensor) -> Tensor:
    """Norms (N, F) of components (N, k, F), never quite zero."""
    return (components.square().sum(dim=1) + FLOOR).sqrt()


def _representation(section: NetworkPotential) -> nn.Module:
    assert isinstance(section, LeignnPotential)
    return Leignn(section)


def _tables(representation: nn.Module) -> dict[str, Tensor]:
    assert isinstance(representation, Leignn)
    return {"tables": representation.tabulate()}


NETWORK = Network(
    representation=_representation,
    bytes_per_edge=lambda device: KEPT_COMPILED if device.type == "cpu" else KEPT,
    each_pair_once=True,
    tables=_tables,
)
