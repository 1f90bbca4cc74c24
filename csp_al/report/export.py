"""Structures of a run as files for other programs.

export(Path("runs/si8"), ["cif", "extxyz"], "winners", Path("export"))
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from csp_al.files import DamagedError
from csp_al.report.tables import Run, open_run
from csp_al.store import layout

if TYPE_CHECKING:
    from ase import Atoms


def export(run: Path, formats: Sequence[str], what: str, destination: Path) -> list[Path]:
    """Write winners, labels or the pool in each of the formats `FORMATS`, and return the files written.

    Several structures go into one file each with extxyz and ase-db, and into a folder with a file each with cif and
    poscar. Energies (eV), forces (eV/Å) and stress (eV/Å^3) of the reference method come along in extxyz and ase-db;
    ``info`` there has the candidate's id and, but for the pool, the cycle. Labels without a result are left out.
    Files of the same name are replaced. POSCAR files have their atoms sorted by species.

    Raises ValueError for an unknown format or kind of structures, or where there is nothing to write yet.
    """
    wanted = [name.strip() for name in formats]
    for name in wanted:
        if name not in FORMATS:
            msg = f"no format is called {name!r}; allowed: {', '.join(FORMATS)}, several with commas"
            raise ValueError(msg)
    if what not in SOURCES:
        msg = f"there are no {what!r} to export; allowed: {', '.join(SOURCES)}"
        raise ValueError(msg)
    atoms = SOURCES[what](open_run(run))
    if not atoms:
        msg = f"{run}: no {what} yet; see 'csp-al status {run}'"
        raise ValueError(msg)
    destination.mkdir(parents=True, exist_ok=True)
    return [path for name in dict.fromkeys(wanted) for path in FORMATS[name](atoms, what, destination)]


def _winners(run: Run) -> list[Atoms]:
    rows = {row["id"]: row for row in run.result_rows}
    winners = run.winners
    if sorted(rows) != sorted(atoms.info["id"] for atoms in winners):
        raise DamagedError(run.path / "winners" / layout.CRYSTALS.name, "other crystals than in results.json")
    for atoms in winners:
        row = rows[atoms.info["id"]]
        atoms.info |= {"cycle": row["cycle"], "name": Path(row["cif"]).stem}
    return winners


def _labels(run: Run) -> list[Atoms]:
    from ase.calculators.singlepoint import SinglePointCalculator
    from ase.stress import full_3x3_to_voigt_6_stress

    everything = run.all_labels
    if everything is None:
        return []
    labels = everything.usable
    structures = labels.structures.to_atoms()
    for row, atoms in enumerate(structures):
        identity, cycle = int(labels.structures.ids[row]), int(labels.cycle[row])
        name = f"cycle-{cycle:02d}-{identity:05d}" if identity >= 0 else f"elsewhere-{row:05d}"
        atoms.info |= {"id": identity, "cycle": cycle, "name": name}
        atoms.calc = SinglePointCalculator(
            atoms,
            energy=float(labels.energy[row]),
            forces=labels.forces[labels.structures.ptr[row] : labels.structures.ptr[row + 1]],
            stress=full_3x3_to_voigt_6_stress(labels.stress[row]),
        )
    return structures


def _pool(run: Run) -> list[Atoms]:
    if run.pool_structures is None:
        return []
    structures = run.structures(run.pool_structures.ids)
    if len(run.pool) != len(structures):
        raise DamagedError(run.path / "pool" / layout.ORIGINS.name, f"not the {len(structures)} candidates of the pool")
    for atoms, origin in zip(structures, run.pool["origin"], strict=True):
        atoms.info |= {"origin": origin, "name": f"{atoms.info['id']:05d}"}
    return structures


def _cif(structures: list[Atoms], what: str, destination: Path) -> list[Path]:
    return _one_by_one(structures, destination / f"{what}-cif", lambda name: f"{name}.cif", "cif", {})


def _poscar(structures: list[Atoms], what: str, destination: Path) -> list[Path]:
    keywords = {"direct": True, "sort": True}
    return _one_by_one(structures, destination / f"{what}-poscar", lambda name: f"POSCAR-{name}", "vasp", keywords)


def _one_by_one(
    structures: list[Atoms], folder: Path, file_name: Callable[[str], str], kind: str, keywords: dict[str, Any]
) -> list[Path]:
    from ase.io import write

    folder.mkdir(exist_ok=True)
    paths = [folder / file_name(atoms.info["name"]) for atoms in structures]
    for path, atoms in zip(paths, structures, strict=True):
        write(path, atoms, format=kind, **keywords)
    return paths


def _extxyz(structures: list[Atoms], what: str, destination: Path) -> list[Path]:
    from ase.io import write

    path = destination / f"{what}.extxyz"
    write(path, structures, format="extxyz")
    return [path]


def _ase_db(structures: list[Atoms], what: str, destination: Path) -> list[Path]:
    """An ASE database without its lock file, which a killed writer would leave behind; the id is called candidate."""
    from ase.db import connect

    path = destination / f"{what}.db"
    path.unlink(missing_ok=True)
    database = connect(path, type="db", use_lock_file=False)
    with database:
        for atoms in structures:
            info = {key: _plain(value) for key, value in atoms.info.items() if key not in ("id", "name")}
            database.write(atoms, candidate=int(atoms.info["id"]), **info)
    return [path]


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


SOURCES: Final[dict[str, Callable[[Run], list[Atoms]]]] = {"winners": _winners, "labels": _labels, "pool": _pool}
FORMATS: Final[dict[str, Callable[[list[Atoms], str, Path], list[Path]]]] = {
    "cif": _cif,
    "poscar": _poscar,
    "extxyz": _extxyz,
    "ase-db": _ase_db,
}
