"""The end of a campaign: the winners, relaxed by the reference method, merged, ranked and written for people."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import spglib
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write as write_atoms
from ase.stress import full_3x3_to_voigt_6_stress

from csp_al import objective
from csp_al.campaign import Campaign
from csp_al.engine.tasks import atoms_of, relax_task
from csp_al.files import write_json
from csp_al.loop.drive import Drive
from csp_al.loop.stages import Progress
from csp_al.loop.tasks import run_all
from csp_al.report.tables import open_run
from csp_al.select.identity import distinct, times_reached
from csp_al.select.ranking import representatives, rows_of
from csp_al.store.run_directory import cycles
from csp_al.structures import Structures

SYMPREC = 0.1
"""Å, within which spglib takes the atoms of a winner to be related by symmetry: it is relaxed to fmax, not further.
With 0.02 a diamond that came to rest at 0.05 eV/Å was called I4_1/amd."""


COLUMNS = (
    "rank", "id", "formula", "n_atoms", "energy_per_atom", "energy_above_best", "predicted_energy_per_atom",
    "predicted_sigma", "space_group", "volume_per_atom", "fmax", "converged", "times_reached", "cycle",
)  # fmt: skip
"""Of a result, in their documented order; the name of its CIF file comes last."""


class NoResultError(Exception):
    """No winner could be relaxed by the reference method; the message says what happened to each."""


def finish(drive: Drive, progress: Progress) -> Path:
    """Relax the lowest crystals with the reference method, and publish them as ``winners``. Raises `NoResultError`."""

    def write(folder: Path) -> None:
        results = _relaxed_by_reference(drive, folder, _lowest(drive.campaign, progress))
        done = {candidate: result for candidate, result in results.items() if result["status"] == "done"}
        failed = {candidate: result["reason"] for candidate, result in results.items() if result["status"] != "done"}
        if not done:
            raise NoResultError(_nothing_left(failed))
        rows, groups = _ranked(drive, progress, done)
        _write(folder, rows, [done[row["id"]] for row in rows])
        checks = open_run(drive.run).check_evaluations
        labels = int(progress.all_labels.evaluations.sum())
        asked_for = len(progress.all_labels.asked_for)
        relaxations = sum(int(result["evaluations"]) for result in results.values())
        summary = {
            "stop": progress.verdict.reason if progress.verdict else None,
            "evaluations": {
                "check": checks,
                "labels": labels,
                "final_relaxations": relaxations,
                "all": checks + labels + relaxations,
            },
            "labels": {"asked_for": asked_for, "from_elsewhere": len(progress.all_labels) - asked_for},
            "failed": [{"id": candidate, "reason": reason} for candidate, reason in failed.items()],
            "merged": [group for group in groups if len(group) > 1],
        }
        write_json(folder / "summary.json", summary)

    return drive.stage(drive.run / "winners", write)


def _lowest(campaign: Campaign, progress: Progress) -> Structures:
    if progress.relaxed is None or progress.top is None or not len(progress.top.structures):
        msg = "no candidate was relaxed to a crystal that can be trusted; look at the reasons in rank/ranking.csv"
        raise NoResultError(msg)
    structures, sought = progress.relaxed.structures, progress.table[progress.table["id"].isin(progress.searched)]
    crystals = representatives(sought, structures, campaign.winners, campaign.stop.tolerance)
    return structures.take(rows_of(structures, crystals["id"]))


def _relaxed_by_reference(drive: Drive, folder: Path, lowest: Structures) -> dict[int, dict[str, Any]]:
    """Results of the final relaxations, by candidate."""
    section, reference = drive.campaign.finish, drive.campaign.reference
    crystals = lowest.to_atoms()
    tasks = [relax_task(atoms, reference, section.fmax, section.max_steps) for atoms in crystals]
    _, results = run_all(drive.run, drive.engine, folder, tasks, drive.report)
    return {
        candidate: result | {"numbers": atoms.numbers}
        for candidate, atoms, result in zip(lowest.ids.tolist(), crystals, results, strict=True)
    }


def _ranked(
    drive: Drive, progress: Progress, done: dict[int, dict[str, Any]]
) -> tuple[list[dict[str, Any]], list[list[int]]]:
    """A row for each distinct crystal, lowest energy first, and the candidates that came to be the same."""
    candidates = list(done)
    structures = Structures.from_atoms([atoms_of(result) for result in done.values()], candidates)
    energies = objective.values(np.array([result["energy"] for result in done.values()]), structures)
    groups = distinct(structures, energies, drive.campaign.stop.tolerance, len(candidates))
    reached = times_reached(progress.table["basin"].to_numpy())
    rows = []
    for rank, group in enumerate(groups, start=1):
        candidate = candidates[group[0]]
        place = progress.table.index[progress.table["id"] == candidate][0]
        predicted = progress.table.loc[place]
        energy = float(energies[group[0]])
        rows.append(
            {
                "rank": rank,
                "id": candidate,
                **_description(done[candidate]),
                "energy_per_atom": energy,
                "energy_above_best": energy - float(energies[groups[0][0]]),
                "predicted_energy_per_atom": float(predicted["energy_per_atom"]),
                "predicted_sigma": float(predicted["sigma_per_atom"]),
                "times_reached": int(reached[place]),
                "cycle": cycles(drive.run)[-1],
            }
        )
    return [_with_file_name(row) for row in rows], [[candidates[row] for row in group] for group in groups]


def _description(result: dict[str, Any]) -> dict[str, Any]:
    """What can be said of a relaxed crystal by itself."""
    atoms = atoms_of(result)
    found = spglib.get_symmetry_dataset((atoms.cell.array, atoms.get_scaled_positions(), atoms.numbers), SYMPREC)
    symbol, number = (found.international, int(found.number)) if found else ("P1", 1)
    return {
        "formula": atoms.get_chemical_formula(),
        "n_atoms": len(atoms),
        "space_group": {"symbol": symbol, "number": number},
        "volume_per_atom": float(atoms.get_volume() / len(atoms)),
        "fmax": float(result["fmax"]),
        "converged": bool(result["converged"]),
    }


def _with_file_name(row: dict[str, Any]) -> dict[str, Any]:
    """The row with its keys in the documented order, and the name of its CIF file."""
    name = f"{row['rank']:02d}-{row['formula']}-{row['space_group']['number']}.cif"
    return {key: row[key] for key in COLUMNS} | {"cif": name}


def _write(folder: Path, rows: list[dict[str, Any]], results: list[dict[str, Any]]) -> None:
    crystals = []
    for row, result in zip(rows, results, strict=True):
        atoms = atoms_of(result)
        write_atoms(folder / row["cif"], atoms)
        atoms.calc = SinglePointCalculator(
            atoms,
            energy=result["energy"],
            forces=np.array(result["forces"]),
            stress=full_3x3_to_voigt_6_stress(np.array(result["stress"])),
        )
        atoms.info |= {"id": row["id"], "rank": row["rank"], "space_group": row["space_group"]["number"]}
        crystals.append(atoms)
    write_atoms(folder / "winners.extxyz", crystals)
    write_json(folder / "results.json", rows)
    pd.json_normalize(rows, sep="_").to_csv(folder / "table.csv", index=False)


def _nothing_left(failed: dict[int, str]) -> str:
    reasons = "\n".join(f"  candidate {candidate}: {reason}" for candidate, reason in failed.items())
    return f"none of the {len(failed)} lowest crystals could be relaxed by the reference method:\n{reasons}"
