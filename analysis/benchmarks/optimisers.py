"""Evaluations that optimisers need for atoms and cell together, on the same candidates and the same ensemble.

python analysis/benchmarks/optimisers.py [--candidates 30] [--atoms 8] [--only LBFGS] [--half-way 0.5]

Ours against those of ASE with its cell filters, each structure alone, to 0.05 eV/Å in at most 300 evaluations. Means
are over the candidates that converge with every optimiser; "same minimum" counts those whose energy is within
1 meV/atom of that of ours. From a random cell the way down branches, and no two optimisers take the same one; so all
begin again half way, where ours had come to 0.5 eV/Å.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import relaxation
import silicon
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.filters import FrechetCellFilter, UnitCellFilter
from ase.optimize import BFGS, FIRE, FIRE2, LBFGS, CellAwareBFGS
from ase.optimize.precon import Exp, PreconLBFGS
from ase.stress import full_3x3_to_voigt_6_stress

from csp_al.campaign.models import Relax
from csp_al.potential.ensemble import Ensemble
from csp_al.relax.relaxation import relax
from csp_al.structures import Structures

OPTIMISERS: dict[str, Callable[[Atoms], Any]] = {
    "FIRE": lambda atoms: FIRE(FrechetCellFilter(atoms), logfile=None),
    "FIRE2": lambda atoms: FIRE2(FrechetCellFilter(atoms), logfile=None),
    "BFGS": lambda atoms: BFGS(FrechetCellFilter(atoms), logfile=None),
    "LBFGS": lambda atoms: LBFGS(FrechetCellFilter(atoms), logfile=None),
    "LBFGS, UnitCellFilter": lambda atoms: LBFGS(UnitCellFilter(atoms), logfile=None),
    "CellAwareBFGS": lambda atoms: CellAwareBFGS(FrechetCellFilter(atoms, exp_cell_factor=1.0), logfile=None),
    "PreconLBFGS": lambda atoms: PreconLBFGS(UnitCellFilter(atoms), precon=Exp(), logfile=None),
}


class TooManyError(Exception):
    """More evaluations than are allowed."""


class Counting(Calculator):  # type: ignore[misc]
    """The mean of an ensemble, and how often it was asked."""

    implemented_properties = ("energy", "free_energy", "forces", "stress")

    def __init__(self, ensemble: Ensemble) -> None:
        super().__init__()
        self.ensemble = ensemble
        self.evaluations = 0

    def calculate(self, atoms: Any = None, properties: Any = (), system_changes: Any = all_changes) -> None:
        super().calculate(atoms, properties, system_changes)
        self.evaluations += 1
        if self.evaluations > relaxation.MOST:
            raise TooManyError
        said = self.ensemble.predict(Structures.from_atoms([atoms]))
        stress = full_3x3_to_voigt_6_stress(said.stress[0])
        energy = said.energy[0]
        self.results = {"energy": energy, "free_energy": energy, "forces": said.forces, "stress": stress}


def alone(atoms: Atoms, ensemble: Ensemble, optimiser: Callable[[Atoms], Any]) -> tuple[int, float, bool]:
    """Evaluations, energy (eV) and whether it converged; a cell that flies apart or overlaps has not."""
    atoms.calc = Counting(ensemble)
    try:
        converged = bool(optimiser(atoms).run(fmax=relaxation.FMAX, steps=relaxation.MOST))
        return atoms.calc.evaluations, atoms.get_potential_energy(), converged
    except TooManyError:
        return relaxation.MOST, np.nan, False
    except (RuntimeError, ValueError, np.linalg.LinAlgError) as error:
        print(f"# {type(error).__name__}: {error}")
        return relaxation.MOST, np.nan, False


def compare(structures: Structures, ensemble: Ensemble, names: list[str]) -> None:
    """Print a row for each optimiser."""
    mine = relaxation.ours(structures, ensemble)
    results = {"ours": [mine.steps, mine.energies, mine.converged]}
    for name in names:
        rows = [alone(atoms, ensemble, OPTIMISERS[name]) for atoms in structures.to_atoms()]
        results[name] = [np.array(column) for column in zip(*rows, strict=True)]
    everywhere = np.all([converged for _, _, converged in results.values()], axis=0)
    print(f"{len(structures)} candidates, {everywhere.sum()} converge with all optimisers")
    print("                        evaluations  converged  same minimum")
    for name, (steps, energies, converged) in results.items():
        same = (np.abs(energies - mine.energies) / structures.counts < 1e-3)[everywhere]
        print(f"{name:22s} {steps[everywhere].mean():12.1f} {converged.mean():10.0%} {same.mean():13.0%}", flush=True)


def main() -> None:
    """Compare from both starting points."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candidates", type=int, default=30)
    parser.add_argument("--atoms", type=int, default=8)
    parser.add_argument("--only", nargs="+", choices=list(OPTIMISERS), default=list(OPTIMISERS))
    parser.add_argument("--half-way", type=float, default=0.5, help="eV/Å")
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    ensemble = silicon.trained(relaxation.POTENTIAL)
    structures = silicon.pool(asked.atoms, asked.candidates, seed=4)
    print(f"Si{asked.atoms}, as generated: ", end="")
    compare(structures, ensemble, asked.only)
    section = Relax(fmax=asked.half_way, uncertainty=1e6)
    print(f"From {asked.half_way} eV/Å: ", end="")
    compare(relax(structures, ensemble, section, silicon.LIMITS).structures, ensemble, asked.only)


if __name__ == "__main__":
    main()
