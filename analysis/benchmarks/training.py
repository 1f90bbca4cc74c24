"""Training five members together against five runs of schnetpack's own training task, one after the other.

python analysis/benchmarks/training.py [--epochs 15] [--labels 500] [--device auto]

Both get the same labels of silicon (Tersoff, 16 atoms), of which each member holds one in five out for validation, in
batches of 16 for the same number of epochs, and are judged by 100 labels more. Of schnetpack's runs one is timed and
counted five times; its neighbour lists are made beforehand, which is not counted.
"""

from __future__ import annotations

import argparse
import logging
import time
import warnings

import numpy as np
import pytorch_lightning as pl
import silicon
import torch

from csp_al.potential.devices import resolve_device
from csp_al.potential.ensemble import new_ensemble
from csp_al.potential.networks.member import keys, spk
from csp_al.potential.schnet import SchnetPotential
from csp_al.potential.training import BLOCK, train
from csp_al.structures import Floats, Labels

SECTION = SchnetPotential(members=5, features=64, interactions=3, cutoff=6.0, batch_size=16)


def ours(labels: Labels, test: Labels, epochs: int, device: torch.device) -> tuple[float, Floats]:
    """Seconds for all members, and the test errors (m, 2) of each: eV/atom, eV/Å."""
    steps = epochs * -(-len(labels) // SECTION.batch_size)
    section = SECTION.model_copy(update={"steps": steps, "patience": steps})
    start = time.perf_counter()
    ensemble = train(new_ensemble(section, [1], device), labels, [1, 0]).ensemble
    seconds = time.perf_counter() - start
    errors = []
    for member in range(section.members):
        state = {name: tensor[member].expand(2, *tensor[member].shape) for name, tensor in ensemble.state.items()}
        twins = type(ensemble)(section.model_copy(update={"members": 2}), ensemble.skeleton, state, device)
        said = twins.predict(test.structures)
        errors.append(_errors(said.energy, said.forces, test))
    return seconds, np.array(errors)


def theirs(labels: Labels, test: Labels, epochs: int, device: torch.device) -> tuple[float, Floats]:
    """Seconds for one member, and its test errors."""
    pl.seed_everything(1, verbose=False)
    shift = float(np.median(labels.energy / labels.structures.counts))
    task = spk.task.AtomisticTask(
        model=_model(),
        outputs=[
            _output("energy", SECTION.energy_weight / 16**2),
            _output("forces", SECTION.force_weight),
            _output("stress", SECTION.stress_weight),
        ],
        optimizer_cls=torch.optim.AdamW,
        optimizer_args={"lr": 1e-3},
    )
    inputs = _inputs(labels, shift)
    held_out = len(inputs) // BLOCK
    batches = spk.data.AtomsLoader(inputs[held_out:], SECTION.batch_size, shuffle=True)
    validation = spk.data.AtomsLoader(inputs[:held_out], SECTION.batch_size)
    trainer = pl.Trainer(
        max_epochs=epochs, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, accelerator="gpu" if device.type == "cuda" else "cpu", devices=1,
        gradient_clip_val=10.0, inference_mode=False,
    )  # fmt: skip
    start = time.perf_counter()
    trainer.fit(task, batches, validation)
    seconds = time.perf_counter() - start
    energy, forces = [], []
    model = task.model.to(device)
    for batch in spk.data.AtomsLoader(_inputs(test, shift), SECTION.batch_size):
        said = model({name: tensor.to(device) for name, tensor in batch.items()})
        energy.append(said["energy"].detach().cpu().numpy())
        forces.append(said["forces"].detach().cpu().numpy())
    total = np.concatenate(energy) + shift * test.structures.counts
    return seconds, _errors(total, np.concatenate(forces), test)[None]


def _model() -> spk.model.NeuralNetworkPotential:
    return spk.model.NeuralNetworkPotential(
        representation=spk.representation.SchNet(
            n_atom_basis=SECTION.features,
            n_interactions=SECTION.interactions,
            radial_basis=spk.nn.GaussianRBF(SECTION.radial, SECTION.cutoff),
            cutoff_fn=spk.nn.CosineCutoff(SECTION.cutoff),
        ),
        input_modules=[spk.atomistic.Strain(), spk.atomistic.PairwiseDistances()],
        output_modules=[
            spk.atomistic.Atomwise(n_in=SECTION.features, output_key="energy"),
            spk.atomistic.Forces(calc_stress=True),
        ],
    )


def _output(name: str, weight: float) -> spk.task.ModelOutput:
    return spk.task.ModelOutput(name=name, loss_fn=torch.nn.MSELoss(), loss_weight=weight, metrics={})


def _inputs(labels: Labels, shift: float) -> list[dict[str, torch.Tensor]]:
    """Labels as schnetpack's loader gives them, neighbour lists included."""
    prepared = []
    neighbours, to_single = spk.transform.MatScipyNeighborList(SECTION.cutoff), spk.transform.CastTo32()
    structures = labels.structures
    for row, atoms in enumerate(structures.to_atoms()):
        own = slice(structures.ptr[row], structures.ptr[row + 1])
        inputs = {
            keys.idx: torch.tensor([row]),
            keys.n_atoms: torch.tensor([len(atoms)]),
            keys.Z: torch.from_numpy(atoms.numbers),
            keys.R: torch.from_numpy(atoms.positions),
            keys.cell: torch.from_numpy(atoms.cell.array)[None],
            keys.pbc: torch.ones(1, 3, dtype=torch.bool),
            "energy": torch.tensor([labels.energy[row] - shift * len(atoms)]),
            "forces": torch.from_numpy(labels.forces[own]),
            "stress": torch.from_numpy(labels.stress[row])[None],
        }
        prepared.append(to_single(neighbours(inputs)))
    return prepared


def _errors(energy: Floats, forces: Floats, truth: Labels) -> Floats:
    """Root mean square errors of energies per atom and of forces."""
    per_atom = (energy - truth.energy) / truth.structures.counts
    return np.array([np.sqrt((per_atom**2).mean()), np.sqrt(((forces - truth.forces) ** 2).mean())])


def main() -> None:
    """Print times, their ratio, and the errors."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--labels", type=int, default=500)
    parser.add_argument("--device", type=resolve_device, default="auto")
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    everything = silicon.labels(silicon.pool(16, asked.labels + 100, seed=3))
    labels, test = everything.take(np.arange(asked.labels)), everything.take(np.arange(asked.labels, len(everything)))
    ours(labels.take(np.arange(20)), test, 1, asked.device)  # compiles
    print(f"{asked.labels} labels of Si16, {asked.epochs} epochs, {asked.device}, {torch.get_num_threads()} threads")
    print("                   five members (s)  ratio  test error: meV/atom       eV/Å")
    their_seconds, errors = theirs(labels, test, asked.epochs, asked.device)
    print(f"schnetpack's task {5 * their_seconds:17.1f} {'':>6s} {1000 * errors[0, 0]:21.0f} {errors[0, 1]:11.3f}")
    for epochs in (asked.epochs, 2 * asked.epochs):
        seconds, errors = ours(labels, test, epochs, asked.device)
        (energy, forces), (_, spread) = errors.mean(axis=0), errors.std(axis=0)
        ratio = 5 * their_seconds / seconds
        print(
            f"ours, {epochs:3d} epochs {seconds:18.1f} {ratio:6.1f} {1000 * energy:21.0f} {forces:11.3f} ± {spread:.3f}"
        )


if __name__ == "__main__":
    main()
