"""Structures of a run as files for other programs, and as pictures.

export(Path("runs/si8"), ["cif", "extxyz"], "winners")
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final

import numpy as np

from csp_al import cif
from csp_al.direct.pairs import PairsError, pair_frames, pair_of
from csp_al.files import DamagedError
from csp_al.geometry import in_short_vectors
from csp_al.report.details import ranked_crystals
from csp_al.report.export_folder import ExportFolder
from csp_al.report.export_formats import ENDINGS, OF_CRYSTALS, Exported, writers_for
from csp_al.report.tables import Run, open_run
from csp_al.select.ranking import representatives
from csp_al.store import layout
from csp_al.store.method import block_name, method_of, prediction_items, result_items
from csp_al.structures import Structures

if TYPE_CHECKING:
    import pandas as pd
    from ase import Atoms


def export(
    run: Path,
    formats: Sequence[str],
    what: str,
    destination: Path | None = None,
    within: float | None = None,
    wavelength: str | None = None,
) -> list[Path]:
    """Write winners, relaxed candidates, labels, pool or pairs in formats of `ENDINGS`; return the new files.

    They go to ``destination``, by default ``export`` and the run directory's name, with a README and checksums; of an
    earlier export of the same run only what is written again is replaced. Several structures go into one file each with
    extxyz, ase-db, pymatgen and optimade, into a folder with a file each with cif, poscar and xrd (a powder pattern for
    this ``wavelength``, or copper's, and its picture), and into one picture with png and pdf. CIF files of winners and
    relaxed candidates have the conventional cell with its space group, the cell as computed beside it. Energies (eV),
    forces (eV/Å) and stress (eV/Å^3) of the reference method come along in extxyz, ase-db and pymatgen, energies and
    stress in optimade; those of relaxed candidates, the distinct ones within so many meV/atom of the lowest, are
    predictions, called so.
    ``info`` has the candidate's id and, but for the pool, the cycle. Labels without a result are left out. Pairs are
    what a direct relaxer learns from (`csp_al.direct.pairs`): candidates as generated and as the ensemble relaxed them
    in the last cycle, surrogates of relaxations, and where winners began and ended, both by the reference; ``origin``
    tells which. Candidates that are not trusted, or of which atoms moved too far, are left out.

    Raises ValueError for an unknown format or kind of structures, where there is nothing to write yet, and where files
    are in the way that no export of this run wrote, or that were changed.
    """
    wanted = dict.fromkeys(name.strip().lower() for name in formats)
    _refuse(wanted, what, within)
    if wavelength is not None and "xrd" not in wanted:
        raise ValueError("--wavelength is that of powder patterns, which --format xrd writes")
    writers = writers_for(wavelength)
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
            writers[form](found, aside / f"{what}{ENDINGS[form]}")
        return folder.take(aside, [f"{what}{ENDINGS[form]}" for form in wanted])


def _refuse(formats: Iterable[str], what: str, within: float | None) -> None:
    for name in formats:
        if name not in ENDINGS:
            msg = f"no format is called {name!r}; allowed: {', '.join(ENDINGS)}, several with commas"
            raise ValueError(msg)
    if what not in SOURCES:
        msg = f"there are no {what!r} to export; allowed: {', '.join(SOURCES)}"
        raise ValueError(msg)
    if within is not None and what != "relaxed":
        raise ValueError(f"--within chooses among relaxed candidates; with {what} it means nothing")
    if what == "pairs" and (others := set(formats) - {"extxyz"}):
        raise ValueError(f"{' and '.join(sorted(others))}: pairs are written as extxyz alone")
    if what in ("labels", "pool") and (drawn := sorted({*OF_CRYSTALS}.intersection(formats))):
        words = "powder patterns and pictures are" if "xrd" in drawn else "pictures are"
        raise ValueError(f"{' and '.join(drawn)}: {words} of winners or relaxed candidates, not of {what}")


def winners(run: Run) -> list[Exported]:
    """The ranked crystals as the reference relaxed them, lowest first. Raises DamagedError where files differ."""
    method = method_of(run.path, run.campaign)
    found = []
    for row, atoms in ranked_crystals(run):
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
    return predicted(run, last, representatives(table, relaxed.structures, len(table), run.campaign.stop.tolerance))


def predicted(run: Run, cycle: int, chosen: pd.DataFrame) -> list[Exported]:
    """Rows of a cycle's ranking as crystals, as the ensemble relaxed them, in this order."""
    crystals = run.structures(chosen["id"].to_numpy(), cycle)
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
    moves_cell = run.campaign.relax.cell == "free"
    both = [(start, end, "surrogate") for start, end in zip(begun, ended, strict=True)]
    both += [(_begun(run, winner), winner, "reference") for winner in run.winners]
    found = [_paired(*pair, cycle, moves_cell=moves_cell) for pair in both]
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


def _paired(start: Atoms, end: Atoms, origin: str, cycle: int, *, moves_cell: bool) -> Exported | None:
    """A frame of a file of pairs; None where atoms or cell moved too far."""
    try:
        pair = pair_of(start, end, moves_cell=moves_cell)
    except PairsError:
        return None
    identity = start.info["id"]
    info = {"id": identity, "cycle": cycle, "origin": origin, "name": f"{origin}-{identity:05d}"}
    (atoms,) = pair_frames(pair, [info])
    return Exported(atoms, atoms.info["name"])


SOURCES: Final[dict[str, Callable[[Run], list[Exported]]]] = {
    "winners": winners,
    "relaxed": _relaxed,
    "labels": _labels,
    "pool": _pool,
    "pairs": _pairs,
}
