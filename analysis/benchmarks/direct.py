"""Direct relaxers on pairs made by effective medium theory (ASE's EMT), beside rivals that need no network.

    python analysis/benchmarks/direct.py alloys slabs vacancies [--train 500] [--test 150]

- alloys: fcc cells of 8, 12 and 16 atoms of one to three of seven metals, as large as one of them has it, strained by
  3% and rattled by 0.08 Å; atoms and cell relaxed. DeepRelax beside doing nothing and beside volumes by composition
  (from 12 relaxed crystals, and from all).
- vacancies: the same in cells of 18 sites, one of them empty.
- slabs: surfaces of alloys, (111), (100), (110) and (211), their lower half held; DOGSS beside doing nothing.

Pairs are split by sets of elements: no set of the test was trained on. Steps are evaluations of EMT by the optimiser of
a campaign's final relaxations (BFGS; with the cell where it moves) to 0.02 eV/Å. Files of pairs are kept in --folder.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk, fcc100, fcc110, fcc111, fcc211
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS

from csp_al.direct.metrics import coordinate_errors, displacements, spearman, table_row, within_one_size
from csp_al.direct.pairs import Pairs, joined, pair_of, read_pairs, write_pairs
from csp_al.direct.relaxer import Relaxer
from csp_al.direct.section import DEFAULTS, Kind
from csp_al.direct.training import train
from csp_al.direct.vegard import fit_volumes
from csp_al.structures import Structures

METALS = {"Al": 4.05, "Ni": 3.52, "Cu": 3.61, "Pd": 3.89, "Ag": 4.09, "Pt": 3.92, "Au": 4.08}
"""Lattice constants, Å."""
SHARE = 0.2
"""Of the sets of two or three elements that are for the test alone."""
RELAXED, FMAX, MOST = 0.01, 0.02, 300
"""eV/Å to which the pairs are relaxed, and to which steps are counted; steps at most."""


def sets_of_elements(rng: np.random.Generator) -> tuple[list[tuple[str, ...]], list[tuple[str, ...]]]:
    """For training and for the test; every element is in the first."""
    sets = [each for size in (2, 3) for each in combinations(METALS, size)]
    shuffled = [sets[k] for k in rng.permutation(len(sets))]
    apart = round(SHARE * len(sets))
    return [(metal,) for metal in METALS] + shuffled[apart:], shuffled[:apart]


def decorated(atoms: Atoms, chosen: tuple[str, ...], rng: np.random.Generator) -> Atoms:
    """The elements of the set at random places, each at least once."""
    symbols = [*chosen, *rng.choice(chosen, len(atoms) - len(chosen))]
    atoms.symbols = [symbols[k] for k in rng.permutation(len(atoms))]
    return atoms


def shaken(atoms: Atoms, rng: np.random.Generator) -> Atoms:
    """Strained by 3% and rattled by 0.08 Å."""
    strain = rng.normal(0, 0.03, (3, 3))
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + (strain + strain.T) / 2), scale_atoms=True)
    atoms.positions += rng.normal(0, 0.08, atoms.positions.shape)
    return atoms


def alloy(chosen: tuple[str, ...], rng: np.random.Generator) -> Atoms:
    """A substituted crystal of 8 to 16 atoms."""
    cell = bulk("Cu", "fcc", a=METALS[rng.choice(chosen)])
    cell = cell.repeat([(2, 2, 2), (3, 2, 2), (2, 2, 4)][rng.integers(3)])
    return shaken(decorated(cell, chosen, rng), rng)


def vacancy(chosen: tuple[str, ...], rng: np.random.Generator) -> Atoms:
    """A substituted crystal of 18 sites, one of them empty."""
    cell = bulk("Cu", "fcc", a=METALS[rng.choice(chosen)]).repeat((3, 3, 2))
    atoms = shaken(decorated(cell, chosen, rng), rng)
    del atoms[int(rng.integers(len(atoms)))]
    return atoms


def slab(chosen: tuple[str, ...], rng: np.random.Generator) -> Atoms:
    """A surface at the lattice constant of its composition, the lower half held."""
    facet, size = [(fcc111, (2, 2, 4)), (fcc100, (2, 2, 4)), (fcc110, (2, 2, 6)), (fcc211, (3, 2, 4))][rng.integers(4)]
    symbols = decorated(facet("Cu", size, a=4.0), chosen, rng).get_chemical_symbols()
    atoms = facet("Cu", size, a=float(np.mean([METALS[symbol] for symbol in symbols])), vacuum=6.0)
    atoms.symbols = symbols
    atoms.pbc = True
    heights = atoms.positions[:, 2]
    atoms.set_constraint(FixAtoms(mask=heights < np.median(heights)))
    return atoms


MAKERS: dict[str, tuple[Callable[[tuple[str, ...], np.random.Generator], Atoms], Kind, bool]] = {
    "alloys": (alloy, "deeprelax", True),
    "vacancies": (vacancy, "deeprelax", True),
    "slabs": (slab, "dogss", False),
}
"""What makes them, for which kind of relaxer, and whether their cells move."""


def relaxed(atoms: Atoms, fmax: float, *, moves_cell: bool) -> tuple[Atoms, int, float, bool]:
    """At rest, the evaluations that took, the energy (eV) and whether it got there."""
    moving = atoms.copy()
    moving.calc = EMT()
    optimiser = BFGS(FrechetCellFilter(moving) if moves_cell else moving, logfile=None)
    converged = bool(optimiser.run(fmax=fmax, steps=MOST))
    return moving, optimiser.nsteps + 1, moving.get_potential_energy(), converged


def made(family: str, sets: list[tuple[str, ...]], count: int, rng: np.random.Generator) -> Pairs:
    """So many pairs of a family, with these sets of elements."""
    maker, _, moves_cell = MAKERS[family]
    found: list[Pairs] = []
    while len(found) < count:
        start = maker(sets[rng.integers(len(sets))], rng)
        end, _, _, converged = relaxed(start, RELAXED, moves_cell=moves_cell)
        if converged:
            found.append(pair_of(start, end, moves_cell=moves_cell))
    return joined(found)


def family_of(family: str, folder: Path, counts: tuple[int, int]) -> tuple[Pairs, Pairs]:
    """Pairs to train on and to test on, made once."""
    rng = np.random.default_rng([len(family), 7])
    both = []
    for name, sets, count in zip(("train", "test"), sets_of_elements(rng), counts, strict=True):
        path = folder / f"{family}-{name}-{count}.extxyz"
        if not path.exists():
            write_pairs(path, made(family, sets, count, rng))
        both.append(read_pairs(path))
    return both[0], both[1]


def steps_of(pairs: Pairs, guess: Structures) -> tuple[np.ndarray, np.ndarray]:
    """Evaluations to rest from these structures, and the energies there."""
    found = []
    for atoms, free in zip(guess.to_atoms(), np.split(pairs.free, pairs.start.ptr[1:-1]), strict=True):
        atoms.set_constraint(FixAtoms(mask=~free))
        _, steps, energy, _ = relaxed(atoms, FMAX, moves_cell=pairs.moves_cell)
        found.append((steps, energy))
    steps, energies = np.array(found).T
    return steps, energies


def told(name: str, row: dict[str, float], base: dict[str, float]) -> None:
    """Print a row, errors as ratios to doing nothing beside."""
    cells = []
    for key, value in row.items():
        if key in ("worse", "adwt", "match"):
            cells.append(f"{value:.2f}")
        else:
            ratio = f" ({value / base[key]:.2f})" if base[key] else ""
            cells.append(f"{value:.3f}{ratio}")
    print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


def steps_told(name: str, pairs: Pairs, guess: Structures, base: tuple[np.ndarray, np.ndarray]) -> None:
    """Print steps, the share saved, the share that took more, and the share of ends as low or lower."""
    steps, energies = steps_of(pairs, guess)
    low = energies < base[1] + 1e-3 * pairs.start.counts
    print(
        f"{name}: {steps.mean():.1f} steps, {1 - steps.sum() / base[0].sum():.0%} fewer; "
        f"{np.mean(steps > base[0]):.0%} took more; {low.mean():.0%} ended as low or lower (1 meV/atom)",
        flush=True,
    )


def judged(test: Pairs, training: Pairs, relaxer: Relaxer, relaxations: int) -> None:
    """Print the tables of one relaxer."""
    rivals = {"nothing": test.start}
    if test.moves_cell:
        few = training.end.take(np.arange(12))
        seen = np.isin(test.start.numbers, few.numbers).all()
        rivals |= {"volumes of 12": fit_volumes(few).scaled(test.start)} if seen else {}
        rivals["volumes"] = fit_volumes(training.end).scaled(test.start)
    begin = time.process_time()
    predicted = relaxer.predict(test.start, test.free)
    each = 1000 * (time.process_time() - begin) / len(test)
    guesses = {**rivals, relaxer.section.kind: predicted.structures}
    base = table_row(test, test.start)
    print("| | displacement | worse | ADwT | coordinates | cell | volume | match |\n" + "|---" * 8 + "|")
    for name, guess in guesses.items():
        told(name, table_row(test, guess), base)
    error = displacements(test, predicted.structures)
    sizes = test.start.counts
    print(
        f"uncertainty: Spearman {spearman(predicted.uncertainty, error):.2f}, with coordinates "
        f"{spearman(predicted.uncertainty, coordinate_errors(test, predicted.structures)):.2f}; within one size "
        f"{within_one_size(predicted.uncertainty, error, sizes):.2f}; number of atoms alone "
        f"{spearman(sizes.astype(float), error):.2f}; trusted {predicted.trusted.mean():.0%}; "
        f"{each:.1f} ms a structure",
        flush=True,
    )
    if not relaxations:
        return
    rows = np.arange(min(relaxations, len(test)))
    fewer = test.take(rows)
    base_steps = steps_of(fewer, fewer.start)
    print(f"nothing: {base_steps[0].mean():.1f} steps ({len(fewer)} pairs)")
    for name in list(guesses)[-2:] if test.moves_cell else [relaxer.section.kind]:
        steps_told(name, fewer, guesses[name].take(rows), base_steps)


def random_cells_told(relaxer: Relaxer) -> None:
    """Print which share of random cells is trusted."""
    from csp_al.campaign.models import Pool
    from csp_al.generate import generate_pool

    pool = Pool(formula="Cu4Au4", size=50, volume_per_atom=(12, 22))
    structures, _ = generate_pool(pool, 0, report=lambda *_: None)
    predicted = relaxer.predict(structures, np.ones(len(structures.numbers), dtype=bool))
    print(f"random cells of Cu4Au4: {predicted.trusted.mean():.0%} of {len(structures)} trusted", flush=True)


def main() -> None:
    """Train and print, family after family."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", nargs="+", choices=list(MAKERS))
    parser.add_argument("--train", type=int, default=500)
    parser.add_argument("--test", type=int, default=150)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--members", type=int)
    parser.add_argument("--steps", type=int, help="of training")
    parser.add_argument("--relaxations", type=int, default=60, help="test pairs that EMT relaxes from each start")
    parser.add_argument("--folder", type=Path, default=Path("benchmarks/direct"))
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    for family in asked.families:
        training, test = family_of(family, asked.folder, (asked.train, asked.test))
        kind = MAKERS[family][1]
        changes = {name: getattr(asked, name) for name in ("members", "steps") if getattr(asked, name)}
        for seed in range(asked.seeds):
            section = DEFAULTS[kind].model_copy(update=changes | {"seed": seed})
            print(f"\n{family}: {len(training)} pairs to train on, {len(test)} to test, seed {seed}; {section!r}")
            begin = time.process_time()
            with TemporaryDirectory() as model:
                relaxer = train(training, section, Path(model), torch.device("cpu"))
            seconds = time.process_time() - begin
            memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
            print(f"trained in {seconds:.0f} CPU s, {memory:.2f} GiB at most; {relaxer.learnt}", flush=True)
            judged(test, training, relaxer, asked.relaxations)
            if training.moves_cell:
                random_cells_told(relaxer)


if __name__ == "__main__":
    main()
