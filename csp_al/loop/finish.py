"""The end of a campaign: the winners, relaxed by the reference method, merged, ranked and written for people."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from ase.calculators.singlepoint import SinglePointCalculator
from ase.stress import full_3x3_to_voigt_6_stress

from csp_al import cif, objective
from csp_al.campaign import Campaign
from csp_al.engine.retry import is_due
from csp_al.events import Warned
from csp_al.loop.drive import Drive
from csp_al.loop.progress import Progress
from csp_al.loop.tasks import CalculationsFailedError, final_relaxations
from csp_al.reference.derivatives import findings
from csp_al.results import Result, Values
from csp_al.select.identity import count_arrivals, distinct
from csp_al.select.judgement import figures_of, judge
from csp_al.select.ranking import lowest_basin, representatives, rows_of, stopped_at_once
from csp_al.store import layout
from csp_al.store.method import Method, block_name, method_of, result_items
from csp_al.store.stages import is_published
from csp_al.structures import Structures

if TYPE_CHECKING:
    from ase import Atoms

MOST_IN_VAIN = 20
"""Crystals that may fail one after the other before no other takes their places."""

COLUMNS = (
    "rank", "id", "formula", "n_atoms", "energy_per_atom", "energy_above_best", "predicted_energy_per_atom",
    "predicted_sigma", "space_group", "volume_per_atom", "fmax", "converged", "times_reached", "cycle",
)  # fmt: skip
"""Of a result, in their documented order; the name of its CIF file comes last."""


@dataclass(frozen=True)
class Winner:
    """A crystal as the reference method relaxed it."""

    atoms: Atoms
    rested: Values


class NoResultError(CalculationsFailedError):
    """No winner could be relaxed by the reference method; the message says what happened to each."""


def finish(drive: Drive, progress: Progress) -> Path:
    """Relax the lowest crystals with the reference method, and publish them as ``winners``. Raises `NoResultError`."""
    place = layout.stage_folder(drive.run, "winners")
    return drive.stage(place, lambda folder: _relax_winners(drive, folder, progress))


def _relax_winners(drive: Drive, folder: Path, progress: Progress) -> None:
    lowest, results = _relaxed_by_reference(drive, folder, progress)
    winners = {
        candidate: Winner(values.atoms(atoms.numbers), values)
        for (candidate, result), atoms in zip(results.items(), lowest.to_atoms(), strict=True)
        if (values := result.done)
    }
    failed = {candidate: str(result.reason) for candidate, result in results.items() if candidate not in winners}
    if not winners:
        raise NoResultError(_nothing_left(failed), passing=all(map(is_due, results.values())))
    rows, groups = _ranked(drive, progress, winners)
    _write(folder, rows, [winners[row["id"]] for row in rows], method_of(drive.run, drive.campaign))
    check = layout.stage_folder(drive.run, "check")
    checked: dict[str, Any] = layout.CHECK.read(check) if is_published(check) else {"evaluations": 0, "slopes": []}
    checks = int(checked["evaluations"])
    labels = int(progress.all_labels.evaluations.sum())
    relaxations = sum(result.evaluations for result in results.values())
    summary = {
        "stop": progress.verdict.reason if progress.verdict else None,
        "settled": progress.verdict.settled if progress.verdict else None,
        "evaluations": {
            "check": checks,
            "labels": labels,
            "final_relaxations": relaxations,
            "all": checks + labels + relaxations,
        },
        "labels": {"asked_for": progress.asked, "from_elsewhere": progress.given},
        "failed": [
            {"id": candidate, "reason": reason, "predicted_energy_per_atom": _predicted(progress, candidate)[0]}
            for candidate, reason in failed.items()
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
    labels = layout.stage_folder(drive.run, "label", progress.cycle)
    errors = layout.WALK_FORWARD.read(labels) if layout.WALK_FORWARD.is_in(labels) else {}
    doubts = found, stopped_at_once(progress.table)
    return asdict(judge(figures_of(drive.campaign, progress.verdict, errors, rows, summary, doubts)))


def _lowest(campaign: Campaign, progress: Progress, count: int) -> Structures:
    """So many different crystals, lowest predicted first; fewer where there are fewer. Raises `NoResultError`."""
    if progress.relaxed is None or progress.top is None or not len(progress.top.structures):
        msg = "no candidate was relaxed to a crystal that can be trusted; look at the reasons in rank/ranking.csv"
        raise NoResultError(msg)
    structures, sought = progress.relaxed.structures, progress.table[progress.table["id"].isin(progress.searched)]
    crystals = representatives(sought, structures, count, campaign.stop.tolerance)
    return structures.take(rows_of(structures, crystals["id"]))


def _relaxed_by_reference(drive: Drive, folder: Path, progress: Progress) -> tuple[Structures, dict[int, Result]]:
    """The crystals and the results of their final relaxations, by candidate, lowest predicted first.

    The next lowest takes the place of one that failed, as long as there is one; but where all of them lack something
    of the machine, or `MOST_IN_VAIN` have failed one after the other, the next would fail as well.
    """
    lowest = _lowest(drive.campaign, progress, drive.campaign.winners)
    while True:
        _, results = drive.calculate(folder, final_relaxations(drive.run, drive.campaign, lowest))
        by_candidate = dict(zip(lowest.ids.tolist(), results, strict=True))
        failed = sum(result.done is None for result in results)
        in_vain = len(results) >= MOST_IN_VAIN and not any(result.done for result in results[-MOST_IN_VAIN:])
        if not failed or in_vain or all(map(is_due, results)):
            return lowest, by_candidate
        more = _lowest(drive.campaign, progress, drive.campaign.winners + failed)
        if len(more) == len(lowest):
            return lowest, by_candidate
        drive.tell(Warned(f"{failed} of {len(lowest)} final relaxations failed; the next lowest crystals follow"))
        lowest = more


def _ranked(
    drive: Drive, progress: Progress, winners: dict[int, Winner]
) -> tuple[list[dict[str, Any]], list[list[int]]]:
    """A row for each distinct crystal, lowest energy first, and the candidates that came to be the same."""
    candidates = list(winners)
    structures = Structures.from_atoms([winner.atoms for winner in winners.values()], candidates)
    energies = objective.values(np.array([winner.rested.energy for winner in winners.values()]), structures)
    groups = distinct(structures, energies, drive.campaign.stop.tolerance, len(candidates))
    reached = _count_arrivals(progress, [[candidates[row] for row in group] for group in groups])
    rows = []
    for rank, (group, arrivals) in enumerate(zip(groups, reached, strict=True), start=1):
        candidate = candidates[group[0]]
        predicted, sigma = _predicted(progress, candidate)
        energy = float(energies[group[0]])
        rows.append(
            {
                "rank": rank,
                "id": candidate,
                **_description(winners[candidate]),
                "energy_per_atom": energy,
                "energy_above_best": energy - float(energies[groups[0][0]]),
                "predicted_energy_per_atom": predicted,
                "predicted_sigma": sigma,
                "times_reached": arrivals,
                "cycle": progress.cycle,
            }
        )
    return [_with_file_name(row) for row in rows], [[candidates[row] for row in group] for group in groups]


def _predicted(progress: Progress, candidate: int) -> tuple[float, float]:
    """The ensemble's energy of a candidate and its spread, eV/atom."""
    (row,) = progress.table.index[progress.table["id"] == candidate]
    energy, sigma = progress.table.loc[row, ["energy_per_atom", "sigma_per_atom"]]
    return float(energy), float(sigma)


def _count_arrivals(progress: Progress, groups: list[list[int]]) -> list[int]:
    """How many candidates that were drawn came to rest, by the ensemble, in the crystals of each group."""
    relaxed = progress.relaxed
    assert relaxed is not None  # crystals were chosen from it
    structures = relaxed.structures.take(rows_of(relaxed.structures, progress.table["id"]))  # in the table's order
    rows = [rows_of(structures, group).tolist() for group in groups]
    drawn = structures.ids < progress.generated
    return count_arrivals(rows, progress.table["basin"].to_numpy(), structures, drawn, lowest_basin(progress.table))


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
