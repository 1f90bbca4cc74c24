"""CHGNet (https://doi.org/10.1038/s42256-023-00716-3), with the weights that its package brings. See `worker`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import chgnet
import numpy as np
import torch
from ase.data import chemical_symbols
from chgnet.model import CHGNet
from pymatgen.io.ase import AseAtomsAdaptor

FUNCTIONALS = {"0.3.0": "PBE", "0.2.0": "PBE", "r2scan": "r2SCAN"}
"""Weights, and what their training data were computed with."""

ELEMENTS = [*range(1, 84), *range(89, 95)]
"""The 89 of its training data, MPtrj, as its README says and SevenNet-0, of the same data, lists. It has embeddings of
Po, At, Rn, Fr and Ra too, which nothing has taught."""

BYTES = 20_000
"""Seen for each edge and angle of a graph, derivatives included."""

DENSEST = 100
"""Neighbours of an atom within the 3 Å in which angles are counted, about 1 Å^3 per atom, less than hydrogen has at
hundreds of GPa. Angles grow with their square: a collapsed cell of 8 atoms would take tens of GB."""


def load(model: str, parameters: dict[str, Any], device: str) -> tuple[Any, Any, dict[str, Any]]:
    """Convert, evaluate, and what it is. The one parameter is ``model_name``, one of `FUNCTIONALS`."""
    name = parameters.get("model_name", "0.3.0")
    if set(parameters) - {"model_name"} or name not in FUNCTIONALS:
        raise ValueError(f"{model} takes one parameter: model_name, which is one of {', '.join(FUNCTIONALS)}")
    weights = list((Path(chgnet.__file__).parent / "pretrained" / name).glob("*.pth.tar"))
    if len(weights) != 1:  # where pip finds no wheel it falls back to 0.1.4
        raise ValueError(f"chgnet {chgnet.__version__} has no weights {name}; pip install 'chgnet>=0.4.2'")
    network = CHGNet.load(model_name=name, use_device="cpu", verbose=False).to(device).eval()
    network.requires_grad_(requires_grad=False)  # half of the memory

    def convert(atoms: Any) -> tuple[Any, int]:
        structure = AseAtomsAdaptor.get_structure(atoms)
        # asked before the converter, whose compiled part reads beyond the end of an empty list
        first, _, _, distance = structure.get_neighbor_list(network.graph_converter.atom_graph_cutoff)
        if len(set(first.tolist())) < len(atoms):
            raise ValueError(f"an atom has no neighbour within {network.graph_converter.atom_graph_cutoff} Å")
        close = np.bincount(first[distance < network.graph_converter.bond_graph_cutoff], minlength=1).max()
        if close > DENSEST:
            raise ValueError(f"an atom has {close} neighbours within 3 Å, more than any crystal")
        graph = network.graph_converter(structure)
        return graph, BYTES * (len(graph.atom_graph) + len(graph.bond_graph))

    def evaluate(graphs: list[Any]) -> list[Any]:
        """Derivatives by coordinates and lattice, once: CHGNet's own prepare to be derived again, as training does."""
        graphs = [graph.to(device) for graph in graphs]
        counts = torch.tensor([len(graph.atomic_number) for graph in graphs], device=device)
        energies = network(graphs, task="e")["e"] * counts
        places = [graph.atom_frac_coord for graph in graphs]
        lattices = [graph.lattice for graph in graphs]
        slopes = [_array(slope) for slope in torch.autograd.grad(energies.sum(), places + lattices)]
        energy = _array(energies)
        results = []
        for row, lattice in enumerate(map(_array, lattices)):
            by_strain = lattice.T @ slopes[len(graphs) + row]
            stress = (by_strain + by_strain.T) / (2 * abs(np.linalg.det(lattice)))
            results.append((energy[row], -slopes[row] @ np.linalg.inv(lattice).T, stress))
        return results

    about = {
        "version": {"chgnet": chgnet.__version__},
        "weights": {weights[0].name: weights[0]},
        "elements": [chemical_symbols[number] for number in ELEMENTS],
        "functional": FUNCTIONALS[name],
    }
    return convert, evaluate, about


def _array(tensor: Any) -> Any:
    return tensor.detach().cpu().numpy().astype(float)
