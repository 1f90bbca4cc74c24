"""Errors of potentials that learned the same labels for the same CPU time, and what their steps cost.

    python analysis/benchmarks/equal_time.py training.json test.json --seconds 180 \
        "kind=schnet" "kind=leignn features=32 interactions=2"

The files are those of the mlearn collection (Y. Zuo et al., J. Phys. Chem. A 124, 731 (2020)). One member is trained,
on four fifths of the labels as in an ensemble, in batches of eight; how many steps fit into the time is found by
training for an epoch and for three. Other settings are the kind's, or as given.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from ase import Atoms, units
from pydantic import TypeAdapter
from ruamel.yaml import YAML
from suite import several

from csp_al.campaign.potentials import AnyPotential
from csp_al.interfaces import Ensemble, Trained
from csp_al.potential.ensemble import new_ensemble
from csp_al.potential.kind import NetworkPotential
from csp_al.potential.training import train
from csp_al.structures import Labels, Structures

COLUMNS = (
    "potential",
    "steps",
    "ms a step",
    "CPU s",
    "meV/Å",
    "meV/atom",
    "GPa",
    "ms to predict the test",
    "ms for one of it",
)
CHOSEN = {"cutoff": 5.0, "batch_size": 8, "patience": 10**9, "steps_per_label": 1e9}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("training", type=Path)
    parser.add_argument("test", type=Path)
    parser.add_argument("settings", nargs="+", help='such as "kind=leignn rank=1 features=32"')
    parser.add_argument("--seconds", type=float, default=180)
    parser.add_argument("--seeds", type=int, default=1)
    arguments = parser.parse_intermixed_args()
    warnings.filterwarnings("ignore", "var\\(\\): degrees of freedom")  # one member has no spread
    labels, test = mlearn(arguments.training), mlearn(arguments.test)
    print("| " + " | ".join(COLUMNS) + " |\n|" + "---|" * len(COLUMNS))
    for text in arguments.settings:
        timed(section_of(text, 1), labels, 1)  # compiles
        for seed in range(1, arguments.seeds + 1):
            print(f"| {text}, seed {seed} | {row(text, labels, test, arguments.seconds, seed)} |", flush=True)


def mlearn(path: Path) -> Labels:
    """Energies, forces and virial stress, kbar, compression positive, in VASP's order."""
    entries = json.loads(path.read_text())
    atoms, stress = [], []
    for entry in entries:
        sites, lattice = entry["structure"]["sites"], entry["structure"]["lattice"]["matrix"]
        symbols = [site["species"][0]["element"] for site in sites]
        atoms.append(Atoms(symbols, scaled_positions=[site["abc"] for site in sites], cell=lattice, pbc=True))
        xx, yy, zz, xy, yz, zx = -0.1 * units.GPa * np.array(entry["outputs"]["virial_stress"])
        stress.append([[xx, xy, zx], [xy, yy, yz], [zx, yz, zz]])
    n = len(entries)
    return Labels(
        structures=Structures.from_atoms(atoms),
        energy=np.array([entry["outputs"]["energy"] for entry in entries]),
        forces=np.concatenate([entry["outputs"]["forces"] for entry in entries]),
        stress=np.array(stress),
        status=np.full(n, "done"),
        reason=np.full(n, ""),
        cost=np.zeros(n),
        evaluations=np.ones(n, np.int64),
        cycle=np.zeros(n, np.int64),
    )


def section_of(text: str, steps: int) -> NetworkPotential:
    given = dict(part.split("=", 1) for part in several(text))
    values = CHOSEN | {key: YAML(typ="safe").load(value) for key, value in given.items()} | {"steps": steps}
    section = TypeAdapter(AnyPotential).validate_python(values)
    assert isinstance(section, NetworkPotential)
    return section.model_copy(update={"members": 1})


def timed(section: NetworkPotential, labels: Labels, seed: int) -> tuple[float, Trained]:
    begun = time.process_time()
    trained = train(new_ensemble(section, [seed], torch.device("cpu")), labels, [seed, 0])
    return time.process_time() - begun, trained


def row(text: str, labels: Labels, test: Labels, seconds: float, seed: int) -> str:
    epoch = -(-len(labels) // CHOSEN["batch_size"])
    one, three = (timed(section_of(text, epochs * epoch), labels, seed)[0] for epochs in (1, 3))
    epochs = max(1, int(seconds / ((three - one) / 2)))
    took, trained = timed(section_of(text, epochs * epoch), labels, seed)
    ensemble, one = trained.ensemble, test.structures.take([0])
    said = ensemble.predict(test.structures)
    asked, alone = (milliseconds(ensemble, structures) for structures in (test.structures, one))
    force = 1e3 * np.abs(said.forces - test.forces).mean()
    energy = 1e3 * np.abs((said.energy - test.energy) / test.structures.counts).mean()
    stress = np.abs(said.stress - test.stress).mean() / units.GPa
    steps = epochs * epoch
    errors = f"{force:.0f} | {energy:.1f} | {stress:.2f}"
    return f"{steps} | {1e3 * took / steps:.0f} | {took:.0f} | {errors} | {asked:.0f} | {alone:.1f}"


def milliseconds(ensemble: Ensemble, structures: Structures) -> float:
    """CPU time of a prediction, neighbours known: the median of seven."""
    times = []
    for _ in range(7):
        begun = time.process_time()
        ensemble.predict(structures)
        times.append(1e3 * (time.process_time() - begun))
    return float(np.median(times))


if __name__ == "__main__":
    main()
