"""One member of the ensemble: a schnetpack representation and an atomwise energy.

The energy of a structure is a sum over atoms of what the network makes of their surroundings. Forces and stress
follow from the derivative with respect to the edge vectors alone.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import schnetpack as spk
import torch
from schnetpack import properties as keys
from torch import Tensor, nn

from csp_al.campaign.models import Potential
from csp_al.potential.schnet import POINTER, SchNet
from csp_al.potential.so3net import SO3net


class Graph(NamedTuple):
    """A batch of crystals as the network sees it, with each pair of neighbours once.

    Edge e leads from atom ``source[e]`` to an image of ``target[e]``. Shapes: numbers (N,), system (N,) row of each
    atom's structure, counts (n,), volumes (n,) Å^3, source and target (E,), vectors (E, 3) Å, pointer (n+1,) where
    the edges of each structure begin.
    """

    numbers: Tensor
    system: Tensor
    counts: Tensor
    volumes: Tensor
    source: Tensor
    target: Tensor
    vectors: Tensor
    pointer: Tensor


class Member(nn.Module):
    """Energies (n,) eV and atomic representations (N, features) of a graph, as a function of its edge vectors.

    Energies are without the repulsion of overlapping atoms, which is the same for all members, and relative to
    ``energy_shift`` (eV per atom), which whoever asks adds in double precision: single precision does not resolve
    relaxations on top of the total energies of some codes. The network's own numbers are of the order of one, in
    units of ``energy_scale`` (eV). Both belong to the state and are set when training begins.
    """

    energy_shift: Tensor
    energy_scale: Tensor

    def __init__(self, section: Potential) -> None:
        super().__init__()
        self.cutoff = section.cutoff
        self.representation = _representation(section)
        self.each_pair_once = isinstance(self.representation, SchNet)
        self.energy = spk.atomistic.Atomwise(
            n_in=section.features, aggregation_mode=None, per_atom_output_key=keys.energy
        )
        self.register_buffer("energy_shift", torch.zeros((), dtype=torch.float64))
        self.register_buffer("energy_scale", torch.ones(()))

    def forward(self, vectors: Tensor, graph: Graph) -> tuple[Tensor, Tensor]:
        """Energies (n,) eV and representations (N, features); ``vectors`` (E, 3) Å stand in for those of the graph."""
        edges = (graph.source, graph.target, vectors) if self.each_pair_once else both_ways(graph, vectors)
        inputs: dict[str, Any] = {
            keys.Z: graph.numbers,
            **dict(zip((keys.idx_i, keys.idx_j, keys.Rij), edges, strict=True)),
            POINTER: graph.pointer,
        }
        outputs = self.energy(self.representation(inputs))
        of_atoms = outputs[keys.energy][:, 0]
        # summed here, since schnetpack asks the device for the number of crystals, and a GPU would be waited for
        energy = of_atoms.new_zeros(len(graph.counts)).index_add(0, graph.system, of_atoms)
        return energy * self.energy_scale, outputs["scalar_representation"]


def both_ways(graph: Graph, vectors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Source, target and vectors of all edges and their reverses."""
    return (
        torch.cat([graph.source, graph.target]),
        torch.cat([graph.target, graph.source]),
        torch.cat([vectors, -vectors]),
    )


def _representation(section: Potential) -> nn.Module:
    common = {
        "n_atom_basis": section.features,
        "n_interactions": section.interactions,
        "radial_basis": spk.nn.GaussianRBF(n_rbf=section.radial, cutoff=section.cutoff),
        "cutoff_fn": spk.nn.CosineCutoff(section.cutoff),
    }
    match section.kind:
        case "schnet":
            return SchNet(**common)
        case "painn":
            return spk.representation.PaiNN(**common)
        case "so3net":
            return SO3net(lmax=2, **common)
