"""One member of the ensemble: a representation and an atomwise energy.

The energy of a structure is a sum over atoms of what the network makes of their surroundings. Forces and stress
follow from the derivative with respect to the edge vectors alone, unless the representation gives them itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import Any, Final, NamedTuple

import schnetpack as spk
import torch
from schnetpack import properties as keys
from torch import Tensor, nn

from csp_al.formats import SPECIES
from csp_al.potential.kind import NetworkPotential

POINTER: Final = "pair_pointer"
"""Where the pairs of each structure begin, in the inputs of a representation."""

OUTPUT_LAYER: Final = "energy.outnet.1.weight"
"""Weight that makes energies of the last hidden layer."""


FORCES: Final = "forces_of_heads"
VIRIAL: Final = "virial_of_heads"
"""What a representation of forces that are no gradient adds to its inputs: (N, 3) and, symmetric, (n, 3, 3), positive
under tension, both in units of the energy scale (and Å)."""

HEADS: Final = "representation.heads."
"""Weights that make these of the last hidden layer."""


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


@dataclass(frozen=True)
class Network:
    """What tells one network from another; it is found by the ``network`` of its section.

    ``representation`` builds the module that adds "scalar_representation" (N, features) to its inputs, those of
    schnetpack's representations: each edge both ways, or with ``each_pair_once`` as in the graph.
    ``bytes_per_edge`` says, for a device, what a pass takes for each edge, feature, member and interaction: twice what
    it keeps for its gradient. ``tables`` are buffers of the representation that follow from weights alone, and are
    made once when these are final.
    """

    representation: Callable[[NetworkPotential], nn.Module]
    bytes_per_edge: Callable[[torch.device], int]
    each_pair_once: bool = False
    tables: Callable[[nn.Module], dict[str, Tensor]] | None = None


def network_of(section: NetworkPotential) -> Network:
    """The network of a section."""
    network: Network = resolve_name(section.network)
    return network


class Member(nn.Module):
    """Energies (n,) eV and atomic representations (N, features) of a graph, as a function of its edge vectors.

    All are without the repulsion of overlapping atoms, which is the same for all members, and energies are relative to
    the zero of energy, ``energy_shift`` (eV per atom) and ``species_shift`` (119,) (eV per atom of each atomic number),
    which whoever asks adds in double precision: single precision does not resolve relaxations on top of the total
    energies of some codes. The network's own numbers are of the order of one, in units of ``energy_scale`` (eV). All
    three belong to the state and are set when training begins.
    """

    energy_shift: Tensor
    species_shift: Tensor
    energy_scale: Tensor

    def __init__(self, section: NetworkPotential) -> None:
        super().__init__()
        self.cutoff = section.cutoff
        self.conservative = section.conservative
        self.network = network_of(section)
        self.representation = self.network.representation(section)
        self.energy = spk.atomistic.Atomwise(
            n_in=section.features, aggregation_mode=None, per_atom_output_key=keys.energy
        )
        self.register_buffer("energy_shift", torch.zeros((), dtype=torch.float64))
        self.register_buffer("species_shift", torch.zeros(SPECIES, dtype=torch.float64))
        self.register_buffer("energy_scale", torch.ones(()))

    def forward(self, vectors: Tensor, graph: Graph) -> tuple[Tensor, ...]:
        """Energies (n,) eV and representations (N, features); ``vectors`` (E, 3) Å stand in for those of the graph.

        Of a network with heads for them also forces (N, 3) eV/Å, whose sum is taken off, and virials (n, 3, 3) eV.
        """
        edges = (graph.source, graph.target, vectors) if self.network.each_pair_once else both_ways(graph, vectors)
        inputs: dict[str, Any] = {
            keys.Z: graph.numbers,
            **dict(zip((keys.idx_i, keys.idx_j, keys.Rij), edges, strict=True)),
            POINTER: graph.pointer,
            keys.idx_m: graph.system,
            keys.n_atoms: graph.counts,
        }
        outputs = self.energy(self.representation(inputs))
        of_atoms = outputs[keys.energy][:, 0]
        # summed here, since schnetpack asks the device for the number of crystals, and a GPU would be waited for
        energy = of_atoms.new_zeros(len(graph.counts)).index_add(0, graph.system, of_atoms)
        energy, representation = energy * self.energy_scale, outputs["scalar_representation"]
        if self.conservative:
            return energy, representation
        forces = outputs[FORCES] * self.energy_scale
        pushed = forces.new_zeros(len(graph.counts), 3).index_add(0, graph.system, forces) / graph.counts[:, None]
        return energy, representation, forces - pushed[graph.system], outputs[VIRIAL] * self.energy_scale

    def tables(self) -> dict[str, Tensor]:
        """The part of the state that follows from the rest, see `Network`."""
        if self.network.tables is None:
            return {}
        return {f"representation.{name}": table for name, table in self.network.tables(self.representation).items()}


def both_ways(graph: Graph, vectors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Source, target and vectors of all edges and their reverses."""
    return (
        torch.cat([graph.source, graph.target]),
        torch.cat([graph.target, graph.source]),
        torch.cat([vectors, -vectors]),
    )


def schnetpack_keywords(section: NetworkPotential) -> dict[str, Any]:
    """Keywords that schnetpack's representations share."""
    return {
        "n_atom_basis": section.features,
        "n_interactions": section.interactions,
        "radial_basis": spk.nn.GaussianRBF(n_rbf=section.radial, cutoff=section.cutoff),
        "cutoff_fn": spk.nn.CosineCutoff(section.cutoff),
    }
