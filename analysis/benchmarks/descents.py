"""Evaluations that ASE's optimisers need with the reference itself, from candidates as they are generated.

    python analysis/benchmarks/descents.py campaigns/suite/*.yaml [--candidates 60]

Atoms and cell of the first candidates of each campaign's pool, by its reference, one at a time. What a campaign relaxes
its winners with, and random search every candidate, is the first.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.filters import FrechetCellFilter, UnitCellFilter
from ase.optimize import BFGS, LBFGS, CellAwareBFGS

from csp_al.campaign import read_campaign
from csp_al.campaign.machine import Machine
from csp_al.campaign.models import Finish
from csp_al.generate import generate_pool
from csp_al.interfaces import Reference
from csp_al.running.checks import reference_of

OPTIMISERS: dict[str, Callable[[Atoms], Any]] = {
    "BFGS, UnitCellFilter": lambda atoms: BFGS(UnitCellFilter(atoms), logfile=None),
    "LBFGS, UnitCellFilter": lambda atoms: LBFGS(UnitCellFilter(atoms), logfile=None),
    "LBFGS, FrechetCellFilter": lambda atoms: LBFGS(FrechetCellFilter(atoms), logfile=None),
    "CellAwareBFGS": lambda atoms: CellAwareBFGS(FrechetCellFilter(atoms, exp_cell_factor=1.0), logfile=None),
}
SMAX = 0.005
"""eV/Å^3, at which CellAwareBFGS takes a stress for none; the others ask for a virial per atom below fmax."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--candidates", type=int, default=60)
    arguments = parser.parse_args()
    print("| system | optimiser | evaluations | converged | ms each |\n|---|---|---|---|---|")
    for file in arguments.files:
        campaign = read_campaign(file)
        pool, _ = generate_pool(campaign.pool, campaign.seed, folder=file.parent)
        reference = reference_of(campaign, Machine(), file.parent)
        for name in OPTIMISERS:
            row = measured(name, pool.to_atoms()[: arguments.candidates], reference, campaign.finish)
            print(f"| {file.stem} | {name} | {row} |", flush=True)


def measured(name: str, candidates: list[Atoms], reference: Reference, finish: Finish) -> str:
    tolerances = {"fmax": finish.fmax} | ({"smax": SMAX} if name == "CellAwareBFGS" else {})
    spent, converged, begun = [], [], time.perf_counter()
    for atoms in candidates:
        atoms.calc = reference.calculator(atoms, Path())
        optimiser = OPTIMISERS[name](atoms)
        try:
            converged.append(bool(optimiser.run(steps=finish.max_steps, **tolerances)))
        except (RuntimeError, ValueError, np.linalg.LinAlgError) as error:
            print(f"# {type(error).__name__}: {error}")
            converged.append(False)
        spent.append(optimiser.nsteps + 1)
    each = 1000 * (time.perf_counter() - begun) / sum(spent)
    return f"{np.mean(spent):.1f} | {np.mean(converged):.0%} | {each:.1f}"


if __name__ == "__main__":
    main()
