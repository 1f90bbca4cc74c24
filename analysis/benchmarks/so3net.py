"""Training steps of SO3net with our convolutions against schnetpack's, as ratios of times in one run.

python analysis/benchmarks/so3net.py
"""

from __future__ import annotations

import time

import numpy as np
import torch
from ase.build import bulk

from csp_al.potential.ensemble import Ensemble, evaluate, new_ensemble
from csp_al.potential.graphs import build_graph, find_edges
from csp_al.potential.networks import so3net
from csp_al.potential.so3net import So3netPotential
from csp_al.structures import Structures

CUTOFF, BATCH, REPEATS = 4.0, 8, 5


def batch(seed: int = 1) -> Structures:
    """Silicon cells of eight atoms, perturbed by 0.3 Å."""
    rng = np.random.default_rng(seed)
    cells = [bulk("Si", cubic=True) for _ in range(BATCH)]
    for atoms in cells:
        atoms.positions += rng.uniform(-0.3, 0.3, atoms.positions.shape)
    return Structures.from_atoms(cells)


def seconds(ensemble: Ensemble) -> float:
    """Shortest time of a training step: energies, forces and stress of a batch, and their gradient."""
    structures = batch()
    graph = build_graph(structures, find_edges(structures, CUTOFF), np.arange(BATCH), ensemble.device)
    state = {name: tensor.clone().requires_grad_(name in ensemble.learned) for name, tensor in ensemble.state.items()}
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        energy, forces, stress, _ = evaluate(ensemble.skeleton, state, graph, differentiable=True)
        (energy.square().sum() + forces.square().sum() + stress.square().sum()).backward()
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    """Print a row for each depth and width."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print(f"three members, {BATCH} x Si8, {CUTOFF} Å, on {device}, {torch.get_num_threads()} threads")
    print("interactions  features  schnetpack (ms)  ours (ms)  ratio")
    for interactions, features in ((1, 16), (2, 16), (2, 32), (3, 64)):
        section = So3netPotential(members=3, features=features, interactions=interactions, cutoff=CUTOFF)
        ours = seconds(new_ensemble(section, [1], device))
        mine, so3net.SO3net = so3net.SO3net, so3net.spk.representation.SO3net
        theirs = seconds(new_ensemble(section, [1], device))
        so3net.SO3net = mine
        print(f"{interactions:12d} {features:9d} {1e3 * theirs:16.0f} {1e3 * ours:10.0f} {theirs / ours:6.1f}")


if __name__ == "__main__":
    main()
