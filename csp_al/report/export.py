"""Structures of a run as files for other programs, and as pictures.

export(Path("runs/si8"), ["cif", "extxyz"], "winners")
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final

import numpy as np

from csp_al import cif
from csp_al.cif import write_cif
from csp_al.direct.pairs import PairsError, pair_frames, pair_of
from csp_al.files import DamagedError
from csp_al.geometry import in_short_vectors
from csp_al.report.export_folder import ExportFolder
from csp_al.report.pictures import draw
from csp_al.report.tables import Run, open_run
from csp_al.select.ranking import representatives
from csp_al.store import layout
from csp_al.store.method import block_name, method_of, prediction_items, result_items
from csp_al.structures import Structures

if TYPE_CHECKING:
    from ase import Atoms

AS_COMPUTED: Final = "as-computed"


@dataclass(frozen=True)
class Exported:
    """A structure to write. ``info`` of the atoms has its name; with items it is a crystal at rest.

    The block is that of a CIF file, which has these items.
    """

    atoms: Atoms
    block: str
    items: Mapping[str, object] = field(default_factory=dict)


def export(
    run: Path, formats: Sequence[str], what: str, destination: Path | None = None, within: float | None = None
) -> list[Path]:
    """Write winners, relaxed candidates, labels, pool or pairs in each of the formats `FORMATS`; return the new files.

    They go to ``destination``, by default ``export`` and the run directory's name, with a README and checksums; of an
    earlier export of the same run only what is written again is replaced. Several structures go into one file each with
    extxyz and ase-db, into a folder with a file each with cif and poscar, and into one picture with png and pdf. CIF
    files of winners and relaxed candidates have the conventional cell with its space group, the cell as computed
    beside it. Energies (eV), forces (eV/Å) and stress (eV/Å^3) of the reference method come along in extxyz and ase-db;
    those of relaxed candidates, the distinct ones within so many meV/atom of the lowest, are predictions, called so.
    ``info`` has the candidate's id and, but for the pool, the cycle. Labels without a result are left out. Pairs are
    what a direct relaxer learns from (`csp_al.direct.pairs`): candidates as generated and as the ensemble relaxed them
    in the last cycle, surrogates of relaxations, and where winners began and ended, both by the reference; ``origin``
    tells which. Candidates that are not trusted, or of which atoms moved too far, are left out.

    Raises ValueError for an unknown format or kind of structures, where there is nothing to write yet, and where files
    are in the way that no export of this run wrote, or that were changed.
    """
    wanted = dict.fromkeys(name.strip().lower() for name in formats)
    _refuse(wanted, what, within)
    opened = open_run(run)
    folder = ExportFolder(destination or Path("export") / run.resolve().name, opened)
    folder.refuse_others()
    found = _relaxed(opened, within) if within is not None else SOURCES[what](opened)
    if not found:
        msg = f"{run}: no {what} yet; see 'csp-al status {run}'"
        raise ValueError(msg)
    folder.path.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".", dir=folder.path) as name:
        aside = Path(name)
        for form in wanted:
            FORMATS[form](found, aside / f"{what}{ENDINGS[form]}")
        return folder.take(aside, [f"{what}{ENDINGS[form]}" for form in wanted])


def _refuse(formats: Iterable[str], what: str, within: float | None) -> None:
    for name in formats:
        if name not in FORMATS:
            msg = f"no format is called {name!r}; allowed: {', '.join(FORMATS)}, several with commas"
            raise ValueError(msg)
    if what not in SOURCES:
        msg = f"there are no {what!r} to export; allowed: {', '.join(SOURCES)}"
        raise ValueError(msg)
    if within is not None and what != "relaxed":
        raise ValueError(f"--within chooses among relaxed candidates; with {what} it means nothing")
    if what == "pairs" and (others := set(formats) - {"extxyz"}):
        raise ValueError(f"{' and '.join(sorted(others))}: pairs are written as extxyz alone")
    if what in ("labels", "pool") and (drawn := {"png", "pdf"}.intersection(formats)):
        raise ValueError(f"{' and '.join(sorted(drawn))}: pictures are of winners or relaxed candidates, not of {what}")


def _winners(run: Run) -> list[Exported]:
    rows = {row["id"]: row for row in run.result_rows}
    winners = run.winners
    if sorted(rows) != sorted(atoms.info["id"] for atoms in winners):
        raise DamagedError(run.path / "winners" / layout.CRYSTALS.name, "other crystals than in results.json")
    method = method_of(run.path, run.campaign)
    found = []
    for atoms in winners:
        row = rows[atoms.info["id"]]
        atoms.info |= {key: row[key] for key in ("cycle", "energy_per_atom")} | {"name": Path(row["cif"]).stem}
        found.append(Exported(atoms, block_name(method, row), result_items(row, method)))
    return found


def _relaxed(run: Run, within: float = np.inf) -> list[Exported]:
    """The distinct minima of the last ranking within so many meV/atom of the lowest, lowest first."""
    last = max(run.published("rank"), default=None)  # the next cycle may have relaxed already
    relaxed = None if last is None else run.relaxed(last)
    if relaxed is None or last is None:
        return []
    table = run.ranking(last)
    searched = run.pool.loc[run.pool["searched"], "id"]
    table = table[table["trusted"] & table["id"].isin(searched)]
    table = table[table["energy_per_atom"] <= table["energy_per_atom"].min() + within / 1000]
    chosen = representatives(table, relaxed.structures, len(table), run.campaign.stop.tolerance)
    crystals = run.structures(chosen["id"].to_numpy(), last)
    method = method_of(run.path, run.campaign)
    found = []
    for rank, (atoms, row) in enumerate(zip(crystals, chosen.to_dict("records"), strict=True), start=1):
        group = cif.space_group(atoms).number
        said = {
            "predicted_energy_per_atom": row["energy_per_atom"],
            "predicted_sigma": row["sigma_per_atom"],
            "times_reached": row["times_reached"],
        }
        name = f"{rank:03d}-{cif.formula(atoms)}-{group}"
        atoms.info |= {"name": name, "rank": rank, "space_group": group} | said
        found.append(Exported(atoms, f"{method.run}_relaxed_{name}", prediction_items(atoms.info, method)))
    return found


def _labels(run: Run) -> list[Exported]:
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
    return [Exported(atoms, f"{run.campaign.name}_label_{atoms.info['name']}") for atoms in structures]


def _pool(run: Run) -> list[Exported]:
    if run.pool_structures is None:
        return []
    structures = run.structures(run.pool_structures.ids)
    if len(run.pool) != len(structures):
        raise DamagedError(run.path / "pool" / layout.ORIGINS.name, f"not the {len(structures)} candidates of the pool")
    for atoms, origin in zip(structures, run.pool["origin"], strict=True):
        atoms.info |= {"origin": origin, "name": f"{atoms.info['id']:05d}"}
    return [Exported(atoms, f"{run.campaign.name}_candidate_{atoms.info['name']}") for atoms in structures]


def _pairs(run: Run) -> list[Exported]:
    """Pairs for direct relaxers; those by the reference come last."""
    cycle = max(run.published("rank"), default=None)
    if cycle is None:
        return []
    table = run.ranking(cycle)
    searched = run.pool.loc[run.pool["searched"], "id"]
    ids = table.loc[table["trusted"] & table["id"].isin(searched), "id"].to_numpy()
    begun, ended = run.structures(ids), run.structures(ids, cycle)
    found = [_paired(*both, "surrogate", cycle) for both in zip(begun, ended, strict=True)]
    found += [_paired(_begun(run, winner), winner, "reference", cycle) for winner in run.winners]
    return [one for one in found if one]


def _begun(run: Run, winner: Atoms) -> Atoms:
    """Where the reference began to relax a winner: in short vectors, or by an earlier version as it stood."""
    (before,) = run.structures(winner.info["id"], -1)
    if run.begun is not None:
        info = before.info
        (before,) = run.begun.take(run.begun.ids == winner.info["id"]).to_atoms()
        before.info |= info
    (short,) = in_short_vectors(Structures.from_atoms([before])).to_atoms()
    short.info |= before.info
    return min((short, before), key=lambda start: float(np.abs(start.cell.array - winner.cell.array).max()))


def _paired(start: Atoms, end: Atoms, origin: str, cycle: int) -> Exported | None:
    """A frame of a file of pairs; None where atoms or cell moved too far."""
    try:
        pair = pair_of(start, end, moves_cell=True)
    except PairsError:
        return None
    identity = start.info["id"]
    info = {"id": identity, "cycle": cycle, "origin": origin, "name": f"{origin}-{identity:05d}"}
    (atoms,) = pair_frames(pair, [info])
    return Exported(atoms, atoms.info["name"])


def _cif(found: list[Exported], folder: Path) -> None:
    """Crystals at rest in the conventional cell, and as computed; what was generated or shaken as it is."""
    folder.mkdir()
    for one in found:
        name = one.atoms.info["name"]
        write_cif(folder / f"{name}.cif", one.atoms, one.block, one.items, symmetric=bool(one.items))
        if one.items:
            (folder / AS_COMPUTED).mkdir(exist_ok=True)
            path, block = folder / AS_COMPUTED / f"{name}-{AS_COMPUTED}.cif", f"{one.block}-{AS_COMPUTED}"
            write_cif(path, one.atoms, block, one.items, symmetric=False)


def _poscar(found: list[Exported], folder: Path) -> None:
    from ase.io import write

    folder.mkdir()
    for one in found:
        write(folder / f"POSCAR-{one.atoms.info['name']}", one.atoms, format="vasp", direct=True, sort=True)


def _extxyz(found: list[Exported], path: Path) -> None:
    from ase.io import write

    write(path, [one.atoms for one in found], format="extxyz")


def _ase_db(found: list[Exported], path: Path) -> None:
    """An ASE database without its lock file, which a killed writer would leave behind; the id is called candidate."""
    from ase.db import connect

    database = connect(path, type="db", use_lock_file=False)
    with database:
        for one in found:
            info = {key: value for key, value in one.atoms.info.items() if key not in ("id", "name")}
            database.write(one.atoms, candidate=one.atoms.info["id"], **info)


def _picture(found: list[Exported], path: Path) -> None:
    draw([one.atoms for one in found], path)


SOURCES: Final[dict[str, Callable[[Run], list[Exported]]]] = {
    "winners": _winners,
    "relaxed": _relaxed,
    "labels": _labels,
    "pool": _pool,
    "pairs": _pairs,
}
FORMATS: Final[dict[str, Callable[[list[Exported], Path], None]]] = {
    "cif": _cif,
    "poscar": _poscar,
    "extxyz": _extxyz,
    "ase-db": _ase_db,
    "png": _picture,
    "pdf": _picture,
}
ENDINGS: Final = {
    "cif": "-cif", "poscar": "-poscar", "extxyz": ".extxyz", "ase-db": ".db", "png": ".png", "pdf": ".pdf"
}  # fmt: skip
"""Of the names of files and folders, behind what they hold."""
