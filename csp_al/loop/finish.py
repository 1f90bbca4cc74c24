"""The end of a campaign: the winners, relaxed by the reference method, merged, ranked and written for people."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from ase.calculators.singlepoint import SinglePointCalculator
from ase.stress import full_3x3_to_voigt_6_stress

from csp_al import cif, objective
from csp_al.engine.retry import is_due
from csp_al.loop.bodies import errors_of
from csp_al.loop.contenders import NoResultError, predicted, relaxed_by_reference
from csp_al.loop.drive import Drive
from csp_al.loop.progress import Progress
from csp_al.loop.symmetry import Winner, more_symmetric
from csp_al.loop.tasks import final_relaxations
from csp_al.reference.derivatives import findings
from csp_al.select.identity import distinct
from csp_al.select.judgement import figures_of, judge
from csp_al.select.ranking import arrivals, stopped_at_once
from csp_al.store import layout
from csp_al.store.method import Method, block_name, method_of, result_items
from csp_al.store.stages import is_published
from csp_al.structures import Ints, Structures

COLUMNS = (
    "rank", "id", "formula", "n_atoms", "energy_per_atom", "energy_above_best", "predicted_energy_per_atom",
    "predicted_sigma", "space_group", "volume_per_atom", "fmax", "converged", "times_reached", "cycle",
)  # fmt: skip
"""Of a result, in their documented order; the name of its CIF file comes last."""


def finish(drive: Drive, progress: Progress) -> Path:
    """Relax the lowest crystals with the reference method, and publish them as ``winners``. Raises `NoResultError`."""
    place = layout.stage_folder(drive.run, "winners")
    return drive.stage(place, lambda folder: _relax_winners(drive, folder, progress))


def _relax_winners(drive: Drive, folder: Path, progress: Progress) -> None:
    final = relaxed_by_reference(drive, folder, progress)
    results = dict(zip(final.structures.ids.tolist(), final.results, strict=True))
    winners = {
        candidate: Winner(values.atoms(atoms.numbers), values)
        for (candidate, result), atoms in zip(results.items(), final.structures.to_atoms(), strict=True)
        if (values := result.done)
    }
    failed = {candidate: str(result.reason) for candidate, result in results.items() if candidate not in winners}
    if not winners:
        raise NoResultError(_nothing_left(failed), passing=all(map(is_due, results.values())))
    relaxations = final_relaxations(drive.run, drive.campaign, final.structures)
    winners, tries = more_symmetric(drive, folder, relaxations, winners)
    evaluations = final.evaluations + tries
    rows, groups = _ranked(drive, progress, winners, final.labelled)
    layout.BEGUN.write(folder, final.structures)
    _write(folder, rows, [winners[row["id"]] for row in rows], method_of(drive.run, drive.campaign))
    check = layout.stage_folder(drive.run, "check")
    checked: dict[str, Any] = layout.CHECK.read(check) if is_published(check) else {"evaluations": 0, "slopes": []}
    checks = int(checked["evaluations"])
    labels = int(progress.all_labels.evaluations.sum())
    summary = {
        "stop": progress.verdict.reason if progress.verdict else None,
        "settled": progress.verdict.settled if progress.verdict else None,
        "evaluations": {
            "check": checks,
            "labels": labels,
            "final_relaxations": evaluations,
            "all": checks + labels + evaluations,
        },
        "labels": {"asked_for": progress.asked, "from_elsewhere": progress.given},
        "failed": [
            {"id": candidate, "reason": reason, "predicted_energy_per_atom": energy}
            for (candidate, reason), (energy, _) in zip(failed.items(), predicted(progress, list(failed)), strict=True)
        ],
        "merged": [group for group in groups if len(group) > 1],
    }
    summary["judgement"] = _judgement(drive, progress, rows, summary, findings(checked["slopes"]))
    layout.SUMMARY.write(folder, summary)


def _judgement(
    drive: Drive, progress: Progress, rows: list[dict[str, Any]], summary: dict[str, Any], found: list[str]
) -> dict[str, Any]:
    """What the results are worth, from what `csp_al.report.tables.Run.judgement` will read."""
    assert progress.verdict is not None  # a search has ended
    errors = errors_of(layout.stage_folder(drive.run, "label", progress.cycle))
    doubts = found, stopped_at_once(progress.table)
    return asdict(judge(figures_of(drive.campaign, progress.verdict, errors, rows, summary, doubts)))


def _ranked(
    drive: Drive, progress: Progress, winners: dict[int, Winner], labelled: Ints
) -> tuple[list[dict[str, Any]], list[list[int]]]:
    """A row for each distinct crystal, lowest energy first, and the candidates that came to be the same."""
    candidates = list(winners)
    structures = Structures.from_atoms([winner.atoms for winner in winners.values()], candidates)
    energies = objective.values(np.array([winner.rested.energy for winner in winners.values()]), structures)
    groups = distinct(structures, energies, drive.campaign.stop.tolerance, len(candidates))
    standing = [[candidates[row] for row in group if candidates[row] not in labelled] for group in groups]
    reached = _count_arrivals(progress, standing)
    told = predicted(progress, candidates)
    rows = []
    for rank, (group, times) in enumerate(zip(groups, reached, strict=True), start=1):
        candidate = candidates[group[0]]
        energy_told, sigma = told[group[0]]
        energy = float(energies[group[0]])
        rows.append(
            {
                "rank": rank,
                "id": candidate,
                **_description(winners[candidate]),
                "energy_per_atom": energy,
                "energy_above_best": energy - float(energies[groups[0][0]]),
                "predicted_energy_per_atom": energy_told,
                "predicted_sigma": sigma,
                "times_reached": times,
                "cycle": progress.cycle,
            }
        )
    return [_with_file_name(row) for row in rows], [[candidates[row] for row in group] for group in groups]


def _count_arrivals(progress: Progress, groups: list[list[int]]) -> list[int]:
    """How many candidates that were drawn came to rest, by the ensemble, in the crystals of each group."""
    relaxed, table = progress.relaxed, progress.table
    assert relaxed is not None  # crystals were chosen from it
    lower = relaxed.structures.take([]) if progress.lower is None else progress.lower.structures
    drawn = table.loc[table["id"] < progress.generated, "id"]
    return arrivals(drawn, groups, table, relaxed.structures, lower)


def _description(winner: Winner) -> dict[str, Any]:
    """What can be said of a relaxed crystal by itself."""
    atoms = winner.atoms
    return {
        "formula": cif.formula(atoms),
        "n_atoms": len(atoms),
        "space_group": cif.space_group(atoms)._asdict(),
        "volume_per_atom": float(atoms.get_volume() / len(atoms)),
        "fmax": winner.rested.fmax,
        "converged": winner.rested.converged,
    }


def _with_file_name(row: dict[str, Any]) -> dict[str, Any]:
    """The row with its keys in the documented order, and the name of its CIF file."""
    name = f"{row['rank']:02d}-{row['formula']}-{row['space_group']['number']}.cif"
    return {key: row[key] for key in COLUMNS} | {"cif": name}


def _write(folder: Path, rows: list[dict[str, Any]], winners: list[Winner], method: Method) -> None:
    crystals = []
    for row, winner in zip(rows, winners, strict=True):
        atoms, rested = winner.atoms.copy(), winner.rested
        cif.write_cif(folder / row["cif"], atoms, block_name(method, row), result_items(row, method))
        atoms.calc = SinglePointCalculator(
            atoms,
            energy=rested.energy,
            forces=rested.forces,
            stress=full_3x3_to_voigt_6_stress(rested.stress),
        )
        atoms.info |= {"id": row["id"], "rank": row["rank"], "space_group": row["space_group"]["number"]}
        crystals.append(atoms)
    layout.CRYSTALS.write(folder, crystals)
    layout.RESULTS.write(folder, rows)
    layout.RESULT_TABLE.write(folder, pd.json_normalize(rows, sep="_"))


def _nothing_left(failed: dict[int, str]) -> str:
    reasons = "\n".join(f"  candidate {candidate}: {reason}" for candidate, reason in failed.items())
    return (
        f"none of the {len(failed)} lowest crystals could be relaxed by the reference method:\n{reasons}\n"
        "The same command tries again where the machine lacked something; with --retry failed it tries all of them."
    )
