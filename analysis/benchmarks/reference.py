"""How well the reference methods do: lattice constants of known crystals, and what becomes of random cells.

python analysis/benchmarks/reference.py lattice [--kind espresso]
python analysis/benchmarks/reference.py cells [--folder cells]

`lattice` relaxes diamond, rock salt, zinc blende and corundum to 0.02 eV/Å from cells 1.5% too large and compares with
the PBE values of the Materials Project (A. Jain et al., APL Mater. 1, 011002 (2013)). `cells` labels 80 random cells
and 20 nasty ones (dense, flat, isolated atoms) with pw.x, one task each as in a campaign, and counts how they ended
and what rescued them; what is in the folder already is not computed again. Both need the pseudopotentials that
ESPRESSO_PSEUDO names.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.spacegroup import crystal

from csp_al.campaign.machine import Machine
from csp_al.campaign.models import Pool, species_counts
from csp_al.engine.engines import start_engine
from csp_al.engine.tasks import create_task, label_task, read_result
from csp_al.engine.wait import run_tasks
from csp_al.generate import generate_pool
from csp_al.reference.espresso import EspressoReference
from csp_al.reference.evaluate import relax
from csp_al.reference.gpaw import GpawReference
from csp_al.reference.references import build_reference
from csp_al.structures import Status

CORUNDUM = {"a": 4.805, "c": 13.116}
PUBLISHED = {"Si": 5.469, "NaCl": 5.692, "GaAs": 5.750, "Al2O3": CORUNDUM["a"]}
"""Å, of the conventional cell; mp-149, mp-22862, mp-2534, mp-1143."""

CUTOFFS = {"Si": (36, 400), "NaCl": (88, 500), "GaAs": (84, 500), "Al2O3": (84, 500)}
"""Ry for pw.x, what PseudoDojo suggests; eV for GPAW."""

KSPACING = {"Si": 0.25, "NaCl": 0.35, "GaAs": 0.25, "Al2O3": 0.5}
POOLS = {
    "Si8": Pool(formula="Si8", size=27, min_distance={"Si-Si": 1.8}, volume_per_atom=(14, 28)),
    "Na4Cl4": Pool(formula="Na4Cl4", size=27, volume_per_atom=(15, 35)),
    "Al4O6": Pool(formula="Al4O6", size=26, volume_per_atom=(6, 14)),
}
CELLS = {"kspacing": 1.0, "ecutwfc": 30, "time_limit": 600, "namelists": {"electrons": {"conv_thr": 1e-6}}}
"""Coarse, since whether a calculation ends is asked, and not what it says."""


def crystals() -> dict[str, Atoms]:
    """The four crystals in their primitive cells, as published."""
    a, c = CORUNDUM["a"], CORUNDUM["c"]
    corundum = crystal(
        ["Al", "O"], [(0, 0, 0.352), (0.306, 0, 0.25)], spacegroup=167, cellpar=[a, a, c, 90, 90, 120],
        primitive_cell=True,
    )  # fmt: skip
    return {
        "Si": bulk("Si", "diamond", a=PUBLISHED["Si"]),
        "NaCl": bulk("NaCl", "rocksalt", a=PUBLISHED["NaCl"]),
        "GaAs": bulk("GaAs", "zincblende", a=PUBLISHED["GaAs"]),
        "Al2O3": corundum,
    }


def lattice(kind: str) -> None:
    """Print lattice constants from volumes, which for corundum is of the cell's shape too."""
    print(f"{kind:10} {'published (Å)':>14} {'here':>8} {'apart':>8} {'evaluations':>12} {'seconds':>8}")
    for name, atoms in crystals().items():
        rydberg, volt = CUTOFFS[name]
        section = (
            EspressoReference(kind="espresso", ecutwfc=rydberg, kspacing=KSPACING[name], smearing=0.02)
            if kind == "espresso"
            else GpawReference(cutoff=volt, kspacing=KSPACING[name], smearing=0.02)
        )
        start = atoms.copy()
        start.set_cell(1.015 * atoms.cell, scale_atoms=True)
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            attempt = Path(folder) / "attempt-1"
            attempt.mkdir()
            result = relax(build_reference(section, list(set(atoms.symbols))), start, attempt, fmax=0.02, max_steps=40)
        factor = (abs(np.linalg.det(result.cell)) / atoms.get_volume()) ** (1 / 3)
        rest = f"{result.evaluations:12d} {time.monotonic() - began:8.0f}"
        rest += "" if result.converged else " unconverged"
        print(
            f"{name:10} {PUBLISHED[name]:14.3f} {PUBLISHED[name] * factor:8.3f} {100 * (factor - 1):7.2f}% {rest}",
            flush=True,
        )


def nasty() -> Iterator[tuple[str, Atoms]]:
    """Cells that a random generator of bad days makes: too dense, flat as a sheet, atoms by themselves."""
    rng = np.random.default_rng(7)
    for number in range(20):
        formula = ("Si4", "Na2Cl2", "Al2O3")[number % 3]
        pool = Pool(formula=formula, size=1, symmetric_fraction=0)
        (atoms,) = generate_pool(pool, 100 + number)[0].to_atoms()
        if number < 7:
            kind = "dense"
            atoms.set_cell(0.8 * atoms.cell, scale_atoms=True)
        elif number < 14:
            kind = "flat"
            atoms.set_cell(np.diag([1.7, 1.7, 0.45]) @ atoms.cell, scale_atoms=True)
        else:
            kind = "isolated"
            atoms = Atoms(atoms.symbols[:1], positions=rng.uniform(0, 1, (1, 3)), cell=[8, 8.5, 9], pbc=True)
            if number % 2:
                atoms += Atoms(("Si", "Na", "Al")[number % 3], positions=atoms.positions + np.array([4.0, 4.2, 4.5]))
        yield kind, atoms


def cells(folder: Path, slots: int) -> None:
    """Print how every cell ended, and what rescued those that failed first."""
    asked: list[tuple[str, Atoms]] = []
    for name, pool in POOLS.items():
        asked += [(name, atoms) for atoms in generate_pool(pool, 1)[0].to_atoms()]
    asked += nasty()
    root = folder / "tasks"
    names = []
    for _, atoms in asked:
        reference = build_reference(
            EspressoReference(kind="espresso", **CELLS), list(species_counts(str(atoms.symbols)))
        )
        names.append(create_task(root, label_task(atoms, reference.pinned())))
    engine = start_engine(root, Machine(slots=slots))
    try:
        run_tasks(
            engine, root, names, lambda done, every: print(f"\r{done}/{every}", end="", flush=True), lambda: False
        )
    finally:
        engine.close()
    results = [result for name in names if (result := read_result(root, name))]
    print(f"\n{'':10} {'cells':>6} {'done':>6} {'rescued':>8} {'rejected':>9} {'failed':>7} {'core s each':>12}")
    for kind in dict.fromkeys(kind for kind, _ in asked):
        rows = [result for (of, _), result in zip(asked, results, strict=True) if of == kind]
        ends = Counter(row.status for row in rows)
        rescued = sum(row.status is Status.DONE and len(row.attempts) > 1 for row in rows)
        cost = np.mean([row.cost for row in rows])
        counts = f"{ends[Status.DONE]:6d} {rescued:8d} {ends[Status.REJECTED]:9d} {ends[Status.FAILED]:7d}"
        print(f"{kind:10} {len(rows):6d} {counts} {cost:12.1f}")
    for reason, count in Counter(row.reason for row in results if row.reason).most_common():
        print(f"{count:4d} x {reason}")
    tried = Counter(
        (attempt.reason.kind if attempt.reason else "", later.remedy, later.status)
        for row in results
        for attempt, later in zip(row.attempts, row.attempts[1:], strict=False)
    )
    for (reason, remedy, status), count in tried.most_common():
        print(f"{count:4d} x after '{reason}': {remedy}: {status}")


def main() -> None:
    """Print one of the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=["lattice", "cells"])
    parser.add_argument("--kind", choices=["espresso", "gpaw"], default="espresso")
    parser.add_argument("--folder", type=Path, default=Path("cells"))
    parser.add_argument("--slots", type=int, default=os.cpu_count() or 1)
    asked = parser.parse_args()
    if asked.table == "lattice":
        lattice(asked.kind)
    else:
        cells(asked.folder, asked.slots)


if __name__ == "__main__":
    main()
