"""Relaxing a pool of candidates: ours against one structure at a time, and against torch-sim.

python analysis/benchmarks/relaxation.py [--pool 1000] [--control 4] [--device auto]

All relax silicon by the same ensemble (five SchNets, 64 features, 3 interactions, 6 Å, trained on Tersoff's silicon),
atoms and cell, to 0.05 eV/Å in at most 300 steps:

- control: each structure alone, by ASE's LBFGS with a cell filter, the members one after the other through
  schnetpack's own calculator, as the authors of the method describe it. Of the pool it relaxes a few, and the time for
  all follows from theirs.
- ours: `csp_al.relax`, nothing stopped for uncertainty.
- torch-sim: its FIRE with a cell filter, all at once, converged ones leave. It asks our ensemble for energies, forces
  and stress, so that it is its optimiser and its batches that are compared; when converged ones leave, the neighbour
  lists of the others are built anew.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any

import numpy as np
import silicon
import torch
from ase.calculators.calculator import Calculator, all_changes
from ase.data import covalent_radii
from ase.filters import FrechetCellFilter
from ase.optimize import LBFGS
from ase.stress import full_3x3_to_voigt_6_stress

from csp_al.campaign.models import Relax
from csp_al.interfaces import CONVERGED
from csp_al.potential.devices import resolve_device
from csp_al.potential.ensemble import Ensemble
from csp_al.potential.networks.member import spk
from csp_al.potential.schnet import SchnetPotential
from csp_al.relax.relaxation import relax
from csp_al.structures import Floats, Ints, Structures

FMAX, MOST = 0.05, 300
POTENTIAL = SchnetPotential(members=5, features=64, interactions=3, cutoff=6.0, steps=1200)


@dataclass(frozen=True)
class Outcome:
    """Seconds for all; and of each structure its evaluations, its energy (eV) and whether it converged."""

    seconds: float
    steps: Ints
    energies: Floats
    converged: Ints

    @property
    def rate(self) -> float:
        """Structure-steps per second."""
        return float(self.steps.sum()) / self.seconds


class OneMember(spk.interfaces.SpkCalculator):  # type: ignore[misc]
    """schnetpack's calculator, for a model that is at hand."""

    def _load_model(self, model: spk.model.AtomisticModel, *_: Any) -> spk.model.AtomisticModel:
        return model.eval()


class Control(Calculator):  # type: ignore[misc]
    """The mean of the members, asked one after the other."""

    implemented_properties = ("energy", "forces", "stress")

    def __init__(self, ensemble: Ensemble) -> None:
        super().__init__()
        self.shift = float(ensemble.state["energy_shift"][0])
        self.members = [
            OneMember(
                _model(ensemble, member),
                spk.transform.MatScipyNeighborList(ensemble.section.cutoff),
                energy_key="total",
                stress_key="stress",
                energy_unit="eV",
                device=ensemble.device,
            )
            for member in range(ensemble.section.members)
        ]
        self.evaluations = 0

    def calculate(self, atoms: Any = None, properties: Any = (), system_changes: Any = all_changes) -> None:
        super().calculate(atoms, properties, system_changes)
        self.evaluations += 1
        for member in self.members:
            member.calculate(atoms.copy(), ["energy", "forces", "stress"])
        mean = {key: np.mean([m.results[key] for m in self.members], axis=0) for key in ("energy", "forces", "stress")}
        stress = full_3x3_to_voigt_6_stress(mean["stress"])
        self.results = {"energy": mean["energy"] + self.shift * len(atoms), "forces": mean["forces"], "stress": stress}


def _model(ensemble: Ensemble, member: int) -> spk.model.NeuralNetworkPotential:
    """A member as schnetpack writes it: its own SchNet, ZBL, forces and stress."""
    section = ensemble.section
    weights = {name: tensor[member] for name, tensor in ensemble.state.items()}
    representation = spk.representation.SchNet(
        n_atom_basis=section.features,
        n_interactions=section.interactions,
        radial_basis=spk.nn.GaussianRBF(section.radial, section.cutoff),
        cutoff_fn=spk.nn.CosineCutoff(section.cutoff),
    )
    of_network = "representation."
    theirs = {name.removeprefix(of_network): value for name, value in weights.items() if name.startswith(of_network)}
    theirs.pop("tables")
    representation.load_state_dict(theirs)
    energy = spk.atomistic.Atomwise(n_in=section.features, output_key="energy")
    energy.load_state_dict({name.removeprefix("energy."): v for name, v in weights.items() if "energy.outnet" in name})
    for tensor in energy.outnet[1].parameters():
        tensor.data *= weights["energy_scale"]
    reach = spk.nn.CosineCutoff(0.9 * 2 * covalent_radii[14])
    return spk.model.NeuralNetworkPotential(
        representation=representation,
        input_modules=[spk.atomistic.Strain(), spk.atomistic.PairwiseDistances()],
        output_modules=[
            energy,
            spk.atomistic.ZBLRepulsionEnergy("eV", "Ang", "zbl", trainable=False, cutoff_fn=reach),
            spk.atomistic.Aggregation(["energy", "zbl"], output_key="total"),
            spk.atomistic.Forces(calc_stress=True, energy_key="total"),
        ],
    )


def control(structures: Structures, ensemble: Ensemble) -> Outcome:
    """One structure at a time."""
    start = time.perf_counter()
    steps, energies, converged = [], [], []
    for atoms in structures.to_atoms():
        atoms.calc = Control(ensemble)
        converged.append(LBFGS(FrechetCellFilter(atoms), logfile=None).run(fmax=FMAX, steps=MOST - 1))
        steps.append(atoms.calc.evaluations)
        energies.append(atoms.get_potential_energy())
    return Outcome(time.perf_counter() - start, np.array(steps), np.array(energies), np.array(converged))


def ours(
    structures: Structures, ensemble: Ensemble, batch_atoms: int | None = None, fmax: float = FMAX, most: int = MOST
) -> Outcome:
    """All of them, side by side."""
    section = Relax(fmax=fmax, max_steps=most, uncertainty=1e6, energy_patience=most)
    if batch_atoms:
        section = section.model_copy(update={"batch_atoms": batch_atoms})
    start = time.perf_counter()
    relaxed = relax(structures, ensemble, section, silicon.LIMITS)
    seconds = time.perf_counter() - start
    return Outcome(seconds, relaxed.steps, relaxed.prediction.energy, relaxed.reason == CONVERGED)


def torch_sim(structures: Structures, ensemble: Ensemble) -> Outcome:
    """All of them, by torch-sim's FIRE."""
    import torch_sim as ts
    from torch_sim.models.interface import ModelInterface

    class Model(ModelInterface):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self._device, self._dtype = ensemble.device, torch.float64
            self._compute_stress = self._compute_forces = True
            self.evaluations = 0

        def forward(self, state: Any, **_: Any) -> dict[str, torch.Tensor]:
            counts = torch.bincount(state.system_idx).cpu().numpy()
            self.evaluations += len(counts)
            batch = Structures(
                ids=np.arange(len(counts)),
                ptr=np.concatenate([[0], np.cumsum(counts)]),
                numbers=state.atomic_numbers.cpu().numpy(),
                positions=state.positions.cpu().numpy(),
                cells=state.row_vector_cell.cpu().numpy(),
            )
            said = ensemble.predict(batch)
            return {key: torch.from_numpy(getattr(said, key)).to(self.device) for key in ("energy", "forces", "stress")}

    model = Model()
    start = time.perf_counter()
    state = ts.optimize(
        system=structures.to_atoms(),
        model=model,
        optimizer=ts.Optimizer.fire,
        init_kwargs={"cell_filter": ts.CellFilter.frechet},
        convergence_fn=ts.runners.generate_force_convergence_fn(FMAX, include_cell_forces=True),
        max_steps=MOST,
    )
    seconds = time.perf_counter() - start
    force = structures.largest(state.forces.norm(dim=1).cpu().numpy())
    share = np.full(len(structures), model.evaluations / len(structures))
    return Outcome(seconds, share, state.energy.cpu().numpy(), force < FMAX)


def bounds(structures: Structures, ensemble: Ensemble) -> None:
    """Print where the time of our relaxation goes, and how near its matrix products come to the machine's peak."""
    from torch.profiler import ProfilerActivity, profile

    large = torch.rand(4096, 4096, device=ensemble.device)
    peak = 2 * 4096**3 / min(seconds_of(lambda: large @ large) for _ in range(5))
    section = ensemble.section
    per_atom = section.interactions * 3 * section.features**2 + (section.features + 1) * (section.features // 2)
    start = time.perf_counter()
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        outcome = ours(structures, ensemble)
    wall = time.perf_counter() - start
    spent = {event.key: event.self_cpu_time_total / 1e6 for event in profiled.key_averages()}
    products = sum(spent.get(name, 0.0) for name in ("aten::bmm", "aten::mm", "aten::addmm"))
    kernels = sum(seconds for name, seconds in spent.items() if "_Convolution" in name)
    flops = 4 * per_atom * section.members * float(outcome.steps @ structures.counts)  # forward and backward
    shares = {"compiled kernels": kernels, "matrix products": products, "torch, the rest": sum(spent.values())}
    shares["torch, the rest"] -= kernels + products
    shares["Python, lists, steps, limits"] = wall - sum(shares.values())
    print("Where it goes: " + ", ".join(f"{name} {seconds / wall:.0%}" for name, seconds in shares.items()))
    print(f"Matrix products reach {flops / products / peak:.0%} of the {peak / 1e9:.0f} GFLOP/s of one large product")


def seconds_of(work: Callable[[], object]) -> float:
    """Wall time of some work."""
    start = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def row(name: str, outcome: Outcome, of_pool: int, reference: float | None) -> float:
    """Print a row of the table; returns the seconds for the pool."""
    per = len(outcome.steps)
    seconds = outcome.seconds * of_pool / per
    ratio = "" if reference is None else f"{reference / seconds:8.1f}"
    print(
        f"{name:28s} {per:6d} {outcome.steps.mean():8.1f} {outcome.converged.mean():10.0%} {outcome.rate:10.1f}"
        f" {seconds:10.1f} {ratio:>8s}",
        flush=True,
    )
    return seconds


def main() -> None:
    """Print a table for each number of atoms."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pool", type=int, default=1000, help="candidates of 16 atoms; of 8 and 46 a fifth of it")
    parser.add_argument("--control", type=int, default=4, help="structures that the control relaxes")
    parser.add_argument("--atoms", type=int, nargs="+", default=[16, 8, 46])
    parser.add_argument("--device", type=resolve_device, default="auto")
    asked = parser.parse_args()
    start = time.perf_counter()
    ensemble = silicon.trained(POTENTIAL, device=str(asked.device))
    print(f"{asked.device}, {torch.get_num_threads()} threads; ensemble trained in {time.perf_counter() - start:.0f} s")
    ours(silicon.pool(16, 4), ensemble)  # compiles
    for atoms in asked.atoms:
        size = asked.pool if atoms == 16 else asked.pool // 5
        structures = silicon.pool(atoms, size)
        print(f"\nSi{atoms}, {size} candidates\n"
              f"{'':28s} {'number':>6s} {'steps':>8s} {'converged':>10s} {'steps/s':>10s}"
              f" {'all (s)':>10s} {'ratio':>8s}")  # fmt: skip
        reference = row("control", control(structures.take(np.arange(asked.control)), ensemble), size, None)
        row("ours, one at a time", ours(structures.take(np.arange(asked.control)), ensemble, 1), size, reference)
        row("ours", ours(structures, ensemble), size, reference)
        if find_spec("torch_sim"):
            row("torch-sim", torch_sim(structures, replace(ensemble)), size, reference)
        else:
            print("torch-sim: not installed (pip install torch-sim-atomistic)")
        if asked.device.type == "cpu":
            bounds(structures.take(np.arange(min(size, 100))), ensemble)


if __name__ == "__main__":
    main()
