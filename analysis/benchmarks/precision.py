"""Single against double precision, and the price of the spread, in relaxations of one pool.

python analysis/benchmarks/precision.py [--pool 60]

For each tolerance: structure-steps per second, evaluations of a candidate, and how many converge in 500 evaluations.
Then one pass of the ensemble with the gradient of every member, as relaxations have it, against one with the gradient
of the mean alone, which knows no spread of the forces.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import numpy as np
import relaxation
import silicon
import torch
from torch.func import functional_call, vmap

from csp_al.potential.ensemble import Ensemble, _sums, evaluate
from csp_al.potential.graphs import build_graph, find_edges
from csp_al.potential.repulsion import repel
from csp_al.structures import Structures


def in_double(ensemble: Ensemble) -> Ensemble:
    """The same weights in double precision."""
    state = {name: value.double() if value.is_floating_point() else value for name, value in ensemble.state.items()}
    return replace(ensemble, state=state)


def price_of_the_spread(ensemble: Ensemble, structures: Structures) -> float:
    """Time of a pass with every member's forces and stress over one with those of the mean."""
    edges = find_edges(structures, ensemble.section.cutoff)
    graph = build_graph(structures, edges, np.arange(len(structures)), ensemble.device)
    state = ensemble._fixed  # noqa: SLF001

    def mean_alone() -> None:
        vectors = graph.vectors.clone().requires_grad_()
        energy, _ = vmap(lambda weights: functional_call(ensemble.skeleton, weights, (vectors, graph)))(state)
        (slope,) = torch.autograd.grad(energy.mean(dim=0).sum(), vectors)
        slope = (slope + repel(graph, ensemble.section.cutoff)[1])[None]
        _sums(slope, graph.source, len(graph.numbers)) - _sums(slope, graph.target, len(graph.numbers))
        _sums(vectors[None, :, :, None] * slope[..., None, :], graph.system[graph.source], len(graph.counts))

    seconds = [
        min(relaxation.seconds_of(work) for _ in range(20))
        for work in (lambda: evaluate(ensemble.skeleton, state, graph), mean_alone)
    ]
    return seconds[0] / seconds[1]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pool", type=int, default=60)
    structures = silicon.pool(16, parser.parse_args().pool, seed=4)
    ensemble = silicon.trained(relaxation.POTENTIAL)
    print("            fmax (eV/Å)    steps/s      steps  converged")
    for name, each in (("single", ensemble), ("double", in_double(ensemble))):
        relaxation.ours(structures.take([0, 1]), each)  # compiles
        for fmax in (0.05, 0.005):
            outcome = relaxation.ours(structures, each, fmax=fmax, most=500)
            print(
                f"{name:10s} {fmax:12.3f} {outcome.rate:10.0f} {outcome.steps.mean():10.1f}"
                f" {outcome.converged.mean():10.0%}",
                flush=True,
            )
    print(f"A pass with every member's gradient takes {price_of_the_spread(ensemble, structures):.2f} times as long")


if __name__ == "__main__":
    main()
