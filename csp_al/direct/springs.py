"""Atoms tied by springs, and where they come to rest: many structures at once, differentiably.

The inner solver of DOGSS (J. Yoon, Z. W. Ulissi, Phys. Rev. Lett. 125, 173001, eqs. 5 to 7; the plus sign of eq. 7 is a
misprint), and for DeepRelax the geometry that is nearest to all predicted distances.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from csp_al.potential.networks.member import Graph

RATE: Final = 0.3
MOMENTUM: Final = 0.8
LOST: Final = 5.0
"""Å of a step; a structure of which an atom takes a longer one stays where it was."""


@dataclass(frozen=True)
class Patience:
    """How long atoms may take: so many steps at least and at most, and the step (Å) that is none."""

    least: int
    most: int
    tolerance: float


def settle(graph: Graph, lengths: Tensor, stiffness: Tensor, free: Tensor, patience: Patience) -> Tensor:
    """How far atoms move (N, 3) Å until springs along the edges of the graph are at rest.

    Springs have these lengths (E,) Å and, in any unit, stiffness (E,); atoms that are not ``free`` (N,) stay. Each
    structure stops by itself, and its springs count in proportion to the mean of an atom's: neither what else is in the
    batch nor the size of a cell changes the result (the published code divides by the atoms of the batch).
    """
    edges = graph.pointer.diff().to(stiffness)
    scale = graph.counts / edges.clamp_min(1)
    of_edges = graph.system[graph.source]
    pull = 2 * stiffness * scale[of_edges]
    moves = torch.zeros(len(graph.numbers), 3, dtype=lengths.dtype, device=lengths.device)
    velocity = torch.zeros_like(moves)
    going = torch.ones(len(graph.counts), dtype=torch.bool, device=lengths.device)
    for step in range(1, patience.most + 1):
        vectors = graph.vectors + moves[graph.target] - moves[graph.source]
        distance = vectors.norm(dim=1).clamp_min(1e-6)
        force = (pull * (1 - lengths / distance))[:, None] * vectors
        slope = torch.zeros_like(moves).index_add(0, graph.target, force).index_add(0, graph.source, -force)
        slope = torch.where(free[:, None], slope, 0)
        with torch.no_grad():
            size = _largest(RATE * slope.norm(dim=1), graph)
            going = going & (size < LOST)  # false for NaN, too
            if step > patience.least:
                going = going & (size > patience.tolerance)
            if not going.any():
                break
        velocity = MOMENTUM * velocity + (1 - MOMENTUM) * slope
        moves = torch.where(going[graph.system][:, None], moves - RATE * velocity, moves)
    return moves


def _largest(of_atoms: Tensor, graph: Graph) -> Tensor:
    """The largest number (n,) of the atoms (N,) of each structure; NaN where one is."""
    none = of_atoms.new_zeros(len(graph.counts))
    return none.scatter_reduce(0, graph.system, of_atoms, "amax")
