"""What potentials learn from a few labels: errors at the minima that a campaign has to rank.

    python analysis/benchmarks/potentials.py campaigns/suite/suite-si8.yaml kind=painn "kind=so3net features=32"

The first candidates of the campaign's pool are relaxed by its reference. An ensemble with each of the given settings
of the section `potential`, the others as in the file, is trained on one frame of each relaxation: a fifth as generated,
a fifth at rest, the others on the way, early frames being as likely as late ones by the logarithm of their step. It is
asked about the ends of relaxations that it has seen nothing of.
"""

from __future__ import annotations

import argparse
import time
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from ase import Atoms
from pydantic import TypeAdapter
from ruamel.yaml import YAML
from scipy.stats import spearmanr
from suite import positive, several

from csp_al.campaign import Campaign, read_campaign
from csp_al.campaign.machine import Machine
from csp_al.campaign.potentials import AnyPotential, PotentialSection
from csp_al.generate import generate_pool
from csp_al.interfaces import Reference, ReferenceFailedError
from csp_al.potential.ensemble import Ensemble, new_ensemble
from csp_al.potential.training import train
from csp_al.reference.evaluate import frames, relax
from csp_al.results import Frame
from csp_al.running.checks import reference_of
from csp_al.structures import Ints, Labels, Status, Structures

Step = tuple[Ints, Frame]
"""Atomic numbers and an evaluation."""
COLUMNS = ("potential", "s", "meV/atom", "eV/Å", "rank correlation", "lowest ten, too high by", "spread")
KINDS_OF_FRAME = 5
LOWEST = 10


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("file", type=Path)
    parser.add_argument("settings", nargs="*", help='such as "kind=painn features=32"; default: as in the file')
    parser.add_argument("--labels", type=positive, default=100)
    parser.add_argument("--tests", type=positive, default=50)
    parser.add_argument(
        "--ensembles", type=positive, default=3, help="trained with each setting; errors are their means"
    )
    arguments = parser.parse_intermixed_args()
    campaign = read_campaign(arguments.file)
    try:
        sections = {text: with_settings(campaign.potential, text) for text in arguments.settings or [""]}
    except (ValueError, argparse.ArgumentTypeError) as error:
        parser.error(str(error))
    paths = relaxations(campaign, arguments.labels + arguments.tests, arguments.file.parent)
    paths, held_out = paths[: -arguments.tests], paths[-arguments.tests :]
    rng = np.random.default_rng(campaign.seed)
    labels = as_labels([path[one_of(path, index, rng)] for index, path in enumerate(paths)])
    minima = as_labels([path[-1] for path in held_out])
    print("| " + " | ".join(COLUMNS) + " |\n|" + "---|" * len(COLUMNS))
    for text, section in sections.items():
        begun = time.perf_counter()
        seeds = [[campaign.seed + number, 0, 0] for number in range(arguments.ensembles)]
        ensembles = [train(new_ensemble(section, seed, torch.device("cpu")), labels, seed).ensemble for seed in seeds]
        seconds = (time.perf_counter() - begun) / len(seeds)
        energy, force, rank, lowest, spread = np.mean([errors(ensemble, minima) for ensemble in ensembles], axis=0)
        figures = f"{energy:.0f} | {force:.2f} | {rank:.2f} | {lowest:.0f} | {spread:.0f}"
        print(f"| {text or 'as in the file'} | {seconds:.0f} | {figures} |", flush=True)


def with_settings(section: PotentialSection, text: str) -> PotentialSection:
    """Raises ValueError for what is no setting of a potential."""
    values = dict(part.split("=", 1) for part in several(text))
    return TypeAdapter(AnyPotential).validate_python(
        section.model_dump() | {key: YAML(typ="safe").load(value) for key, value in values.items()}
    )


def relaxations(campaign: Campaign, count: int, base: Path) -> list[list[Step]]:
    """The frames of as many relaxations by the reference, each from a candidate to rest."""
    pool, _ = generate_pool(campaign.pool, campaign.seed, folder=base)
    reference = reference_of(campaign, Machine(), base)
    found = (relaxation(reference, atoms, campaign) for atoms in pool.to_atoms())
    return list(islice(filter(None, found), count))


def relaxation(reference: Reference, atoms: Atoms, campaign: Campaign) -> list[Step]:
    """Empty where the reference failed."""
    with TemporaryDirectory() as name:
        folder = Path(name) / "attempt-1"
        folder.mkdir()
        try:
            relax(reference, atoms, folder, fmax=campaign.finish.fmax, max_steps=campaign.finish.max_steps)
        except ReferenceFailedError:
            return []
        return [(atoms.numbers, frame) for frame in frames(folder)]


def one_of(path: list[Step], index: int, rng: np.random.Generator) -> int:
    place = index % KINDS_OF_FRAME
    between = int(len(path) ** rng.random())
    return 0 if place == 0 else len(path) - 1 if place == 1 else min(between, len(path) - 1)


def as_labels(steps: list[Step]) -> Labels:
    frames = [frame for _, frame in steps]
    atoms = [Atoms(numbers, frame.positions, cell=frame.cell, pbc=True) for numbers, frame in steps]
    return Labels(
        structures=Structures.from_atoms(atoms),
        energy=np.array([frame.energy for frame in frames]),
        forces=np.concatenate([frame.forces for frame in frames]),
        stress=np.array([frame.stress for frame in frames]),
        status=np.full(len(frames), str(Status.DONE)),
        reason=np.full(len(frames), ""),
        cost=np.zeros(len(frames)),
        evaluations=np.ones(len(frames), np.int64),
        cycle=np.zeros(len(frames), np.int64),
    )


def errors(ensemble: Ensemble, minima: Labels) -> tuple[float, ...]:
    """Mean errors, correlation of ranks, and of the ten lowest minima the mean signed error; the mean spread."""
    said, counts = ensemble.predict(minima.structures), minima.structures.counts
    wrong = 1e3 * (said.energy - minima.energy) / counts
    lowest = np.argsort(minima.energy / counts)[:LOWEST]
    rank = spearmanr(said.energy / counts, minima.energy / counts)[0]
    force = np.abs(said.forces - minima.forces).mean()
    spread = 1e3 * (said.energy_sigma / counts).mean()
    return float(np.abs(wrong).mean()), float(force), float(rank), float(wrong[lowest].mean()), float(spread)


if __name__ == "__main__":
    main()
