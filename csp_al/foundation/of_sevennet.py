"""SevenNet (https://doi.org/10.1021/acs.jctc.4c00190), with the weights that its package brings. See `worker`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import sevenn
import sevenn._keys as key
from ase.data import chemical_symbols
from sevenn.atom_graph_data import AtomGraphData
from sevenn.train.dataload import unlabeled_atoms_to_graph
from sevenn.util import load_checkpoint
from torch_geometric.data import Batch

WEIGHTS = {
    "sevennet-0": "SevenNet_0__11Jul2024/checkpoint_sevennet_0.pth",
    "sevennet-l3i5": "SevenNet_l3i5/checkpoint_l3i5.pth",
}
"""Below the folder of pretrained potentials. By path: for what has a name SevenNet would turn to the network."""

BYTES = {"sevennet-0": 150_000, "sevennet-l3i5": 300_000}
"""Seen for each edge of a graph, derivatives included."""

DENSEST = 500
"""Neighbours of an atom within the 5 Å of an edge: about 1 Å^3 per atom, less than hydrogen has at hundreds of GPa."""


def load(model: str, parameters: dict[str, Any], device: str) -> tuple[Any, Any, dict[str, Any]]:
    """Convert, evaluate, and what it is. There are no parameters."""
    if parameters:
        raise ValueError(f"{model} takes no parameters")
    weights = Path(sevenn.__file__).parent / "pretrained_potentials" / WEIGHTS[model]
    if not weights.is_file():
        raise ValueError(f"sevenn {sevenn.__version__} has no {weights.name}; pip install 'sevenn>=0.13'")
    network = load_checkpoint(weights).build_model()
    network.set_is_batch_data(True)
    network.to(device).eval().requires_grad_(requires_grad=False)

    def convert(atoms: Any) -> tuple[Any, int]:
        graph = unlabeled_atoms_to_graph(atoms, network.cutoff)
        close = np.bincount(graph[key.EDGE_IDX][0], minlength=len(atoms))
        if close.min() == 0:
            raise ValueError(f"an atom has no neighbour within {network.cutoff} Å")
        if close.max() > DENSEST:
            raise ValueError(f"an atom has {close.max()} neighbours within {network.cutoff} Å, more than any crystal")
        return AtomGraphData.from_numpy_dict(graph), BYTES[model] * int(close.sum())

    def evaluate(graphs: list[Any]) -> list[Any]:
        out = network(Batch.from_data_list(graphs).to(device))
        energy, forces = _array(out[key.PRED_TOTAL_ENERGY]), _array(out[key.PRED_FORCE])
        pressure = _array(out[key.PRED_STRESS])[:, [[0, 3, 5], [3, 1, 4], [5, 4, 2]]]  # it has xx, yy, zz, xy, yz, zx
        ends = np.cumsum([int(graph[key.NUM_ATOMS]) for graph in graphs])
        forces = np.split(forces, ends[:-1])
        return [(energy[row], forces[row], -pressure[row]) for row in range(len(graphs))]

    about = {
        "version": {"sevenn": sevenn.__version__},
        "weights": {weights.name: weights},
        "elements": [chemical_symbols[number] for number in sorted(network.type_map)],
        "functional": "PBE",
    }
    return convert, evaluate, about


def _array(tensor: Any) -> Any:
    return tensor.detach().cpu().numpy().astype(float)
