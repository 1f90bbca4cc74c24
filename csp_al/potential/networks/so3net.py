"""schnetpack's SO3net with convolutions that do the same in fewer operations.

The coupling of two sets of spherical components is sparse, and schnetpack writes out its products term by term: 65 of
them for each edge and feature up to l = 2, each kept for the backward passes. Here one product of small matrices does
it for each edge; and the first convolution, which meets scalars only, needs no coupling at all.
"""

from __future__ import annotations

from typing import Any

import schnetpack as spk
import torch
from schnetpack.nn import GaussianRBF, scatter_add, so3
from schnetpack.nn.ops.so3 import generate_clebsch_gordan_rsh, sh_indices
from torch import Tensor, nn

from csp_al.potential.networks.member import Network, schnetpack_keywords


class SO3net(spk.representation.SO3net):
    """As schnetpack's, to rounding, with the same names of weights."""

    def __init__(
        self, n_atom_basis: int, n_interactions: int, lmax: int, radial_basis: GaussianRBF, **keywords: Any
    ) -> None:
        super().__init__(n_atom_basis, n_interactions, lmax, radial_basis, **keywords)
        kinds = [FirstConvolution, *[Convolution] * (n_interactions - 1)]
        self.so3convs = nn.ModuleList([kind(lmax, n_atom_basis, radial_basis.n_rbf) for kind in kinds])


class FirstConvolution(so3.SO3Convolution):
    """Of features (N, S, F) whose components beyond the first, the scalar one, are zero."""

    def forward(
        self, x: Tensor, radial_ij: Tensor, dir_ij: Tensor, cutoff_ij: Tensor, idx_i: Tensor, idx_j: Tensor
    ) -> Tensor:
        """Features of the neighbours, spread over the spherical harmonics (E, S) of their directions, (N, S, F)."""
        carried = _filters(self, radial_ij, cutoff_ij) * x[idx_j, :1]
        messages = carried[:, sh_indices(self.lmax)[0]] * dir_ij[..., None]
        return scatter_add(messages, idx_i, dim_size=x.shape[0])


class Convolution(so3.SO3Convolution):
    """Of any features (N, S, F)."""

    couplings: Tensor

    def __init__(self, lmax: int, n_atom_basis: int, n_radial: int) -> None:
        super().__init__(lmax, n_atom_basis, n_radial)
        degree = nn.functional.one_hot(sh_indices(lmax)[0]).double()
        couplings = torch.einsum("abc,al->aclb", generate_clebsch_gordan_rsh(lmax), degree)
        self.register_buffer("couplings", couplings.flatten(1).float(), persistent=False)

    def forward(
        self, x: Tensor, radial_ij: Tensor, dir_ij: Tensor, cutoff_ij: Tensor, idx_i: Tensor, idx_j: Tensor
    ) -> Tensor:
        """Features of the neighbours, coupled with the spherical harmonics (E, S) of their directions, (N, S, F)."""
        size = x.shape[1]
        carried = _filters(self, radial_ij, cutoff_ij)[:, :, None] * x[idx_j][:, None]
        coupling = (dir_ij @ self.couplings).unflatten(-1, (size, -1))
        return scatter_add(coupling @ carried.flatten(1, 2), idx_i, dim_size=x.shape[0])


def _filters(convolution: so3.SO3Convolution, radial: Tensor, cutoff: Tensor) -> Tensor:
    """Radial filters (E, lmax + 1, F)."""
    filters: Tensor = convolution.filternet(radial) * cutoff
    return filters.reshape(-1, convolution.lmax + 1, convolution.n_atom_basis)


NETWORK = Network(
    representation=lambda section: SO3net(lmax=2, **schnetpack_keywords(section)),
    bytes_per_edge=lambda _: 820,
)
