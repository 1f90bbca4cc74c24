"""Do the parts of ForceNet and LEIGNN do what their papers say? Each is trained with one part taken out.

    python analysis/benchmarks/ablations.py training.json test.json --steps 200 --seeds 3

The files are those of `equal_time.py`; all are small and see equally many steps. Errors are of the test set as it is,
and of the same crystals turned at random.
"""

from __future__ import annotations

import argparse
import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from equal_time import mlearn
from suite import positive
from torch import Tensor, nn

from csp_al.potential.ensemble import Ensemble, new_ensemble
from csp_al.potential.forcenet import ForcenetPotential
from csp_al.potential.kind import NetworkPotential
from csp_al.potential.leignn import LeignnPotential
from csp_al.potential.networks.forcenet import ForceNet
from csp_al.potential.networks.leignn import NETWORK, Interaction, Leignn
from csp_al.potential.networks.member import Network
from csp_al.potential.training import train
from csp_al.potential.turning import rotations
from csp_al.structures import Labels

COLUMNS = ("network", "meV/Å", "turned", "meV/atom", "turned")
SIZE = {"members": 3, "features": 16, "interactions": 2, "cutoff": 5.0, "batch_size": 8, "patience": 10**9}


class Distances(ForceNet):
    """Of the directions nothing."""

    components = 1


class Directions(ForceNet):
    """Directions without harmonics of l = 2."""

    components = 4


class Vanilla(Interaction):
    """The update of PaiNN, which multiplies two linear maps of vectors."""

    def __init__(self, section: LeignnPotential, *, last: bool) -> None:
        super().__init__(section, last=last)
        self.other = nn.Linear(section.features, section.features, bias=False)
        self.update[-1] = nn.Linear(section.features, 3 * section.features)
        if self.turns:
            del self.turned

    def updated(self, x: Tensor, v: Tensor, tensor: Tensor | None) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        """By scalar products."""
        first, second = self.measured(v), self.other(v)
        q1, q2, q3 = self.update(torch.cat([x, (first.square().sum(dim=1) + 1e-4).sqrt()], dim=1)).chunk(3, dim=1)
        along = (first * second).sum(dim=1) / x.shape[1] ** 0.5
        return x + (q1 + q2 * along) / 2**0.5, v + q3[:, None] * second


def _of_forcenet(representation: object) -> Network:
    return Network(representation=representation, bytes_per_edge=lambda _: 130)  # type: ignore[arg-type]


DISTANCES, DIRECTIONS, RELU = map(_of_forcenet, (Distances, Directions, partial(ForceNet, activation=nn.ReLU)))
VANILLA = replace(NETWORK, representation=partial(Leignn, interaction=Vanilla))  # type: ignore[arg-type]


class OfDistances(ForcenetPotential):
    network: ClassVar[str] = "ablations:DISTANCES"


class OfDirections(ForcenetPotential):
    network: ClassVar[str] = "ablations:DIRECTIONS"


class WithRelu(ForcenetPotential):
    network: ClassVar[str] = "ablations:RELU"


class NotTurned(ForcenetPotential):
    equivariant: ClassVar[bool] = True


class WithVanilla(LeignnPotential):
    network: ClassVar[str] = "ablations:VANILLA"


def sections(steps: int) -> dict[str, NetworkPotential]:
    size = SIZE | {"steps": steps, "steps_per_label": 1e6}
    leignn = size | {"rank": 1}
    return {
        "ForceNet": ForcenetPotential(**size),
        "distances alone": OfDistances(**size),
        "directions without l = 2": OfDirections(**size),
        "one sine of each length": ForcenetPotential(**size, radial=1),
        "ReLU": WithRelu(**size),
        "labels as they are, not turned": NotTurned(**size),
        "LEIGNN, rank 1": LeignnPotential(**leignn),
        "no global node": LeignnPotential(**leignn, global_node=False),
        "PaiNN's update": WithVanilla(**leignn),
        "PaiNN's update, no global node": WithVanilla(**leignn, global_node=False),
        "direct": LeignnPotential(**leignn, mode="direct"),
        "rank 2": LeignnPotential(**size),
        "rank 2, direct": LeignnPotential(**size, mode="direct"),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("training", type=Path)
    parser.add_argument("test", type=Path)
    parser.add_argument("--steps", type=positive, default=200)
    parser.add_argument("--seeds", type=positive, default=3, help="members of one ensemble, errors of each alone")
    parser.add_argument("--only", nargs="*", help="words in the names of networks")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", "var\\(\\): degrees of freedom")  # one member has no spread
    labels, test = mlearn(arguments.training), mlearn(arguments.test)
    print("| " + " | ".join(COLUMNS) + " |\n|" + "---|" * len(COLUMNS))
    for name, section in sections(arguments.steps).items():
        if arguments.only and not any(word in name for word in arguments.only):
            continue
        sized = section.model_copy(update={"members": arguments.seeds})
        trained = train(new_ensemble(sized, [1], torch.device("cpu")), labels, [1, 0]).ensemble
        assert isinstance(trained, Ensemble)
        found = [
            errors(alone(trained, member), each)
            for each in (test, at_random(test))
            for member in range(arguments.seeds)
        ]
        force, energy = np.array(found).reshape(2, arguments.seeds, 2).transpose(2, 0, 1)
        figures = [f"{each.mean():.0f} ± {each.std(ddof=1):.0f}" for each in (*force, *energy)]
        print(f"| {name} | {' | '.join(figures)} |", flush=True)


def alone(ensemble: Ensemble, member: int) -> Ensemble:
    state = {name: tensor[member : member + 1] for name, tensor in ensemble.state.items()}
    return Ensemble(ensemble.section.model_copy(update={"members": 1}), ensemble.skeleton, state, ensemble.device)


def at_random(test: Labels) -> Labels:
    """The test set, each crystal turned."""
    by, structures = rotations(len(test), np.random.default_rng(0)), test.structures
    of_atoms = by[structures.system]
    positions, forces = (np.einsum("nij,nj->ni", of_atoms, each) for each in (structures.positions, test.forces))
    moved = structures.moved(positions, structures.cells @ by.transpose(0, 2, 1))
    return Labels(**(vars(test) | {"structures": moved, "forces": forces}))


def errors(ensemble: Ensemble, test: Labels) -> tuple[float, float]:
    """Mean errors of forces, meV/Å, and energies, meV/atom."""
    said = ensemble.fresh().predict(test.structures)
    force = 1e3 * np.abs(said.forces - test.forces).mean()
    return float(force), float(1e3 * np.abs((said.energy - test.energy) / test.structures.counts).mean())


if __name__ == "__main__":
    main()
