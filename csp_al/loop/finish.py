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
from csp_al.events import Noted, Warned
from csp_al.loop.bodies import errors_of
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
from csp_al.structures import Floats, Ints, Structures, concatenate

if TYPE_CHECKING:
    from ase import Atoms

MOST_IN_VAIN = 20
"""Crystals that may fail one after the other before no other takes their places."""

ENOUGH = 2
"""Relaxations at least, for their errors to say anything of others."""

RESOLVED = 0.001
"""eV/atom, by which a label lies below a result at least, if relaxations leave that much."""

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


@dataclass(frozen=True)
class Relaxations:
    """The crystals that the reference relaxed, with its results and how many evaluations all took.

    ``labelled`` are the ids of those that began at a label, and not where their candidates stand.
    """

    structures: Structures
    results: list[Result]
    evaluations: int
    labelled: Ints


class NoResultError(CalculationsFailedError):
    """No winner could be relaxed by the reference method; the message says what happened to each."""


def finish(drive: Drive, progress: Progress) -> Path:
    """Relax the lowest crystals with the reference method, and publish them as ``winners``. Raises `NoResultError`."""
    place = layout.stage_folder(drive.run, "winners")
    return drive.stage(place, lambda folder: _relax_winners(drive, folder, progress))


def _relax_winners(drive: Drive, folder: Path, progress: Progress) -> None:
    final = _relaxed_by_reference(drive, folder, progress)
    results = dict(zip(final.structures.ids.tolist(), final.results, strict=True))
    winners = {
        candidate: Winner(values.atoms(atoms.numbers), values)
        for (candidate, result), atoms in zip(results.items(), final.structures.to_atoms(), strict=True)
        if (values := result.done)
    }
    failed = {candidate: str(result.reason) for candidate, result in results.items() if candidate not in winners}
    if not winners:
        raise NoResultError(_nothing_left(failed), passing=all(map(is_due, results.values())))
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
            "final_relaxations": final.evaluations,
            "all": checks + labels + final.evaluations,
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
    errors = errors_of(layout.stage_folder(drive.run, "label", progress.cycle))
    doubts = found, stopped_at_once(progress.table)
    return asdict(judge(figures_of(drive.campaign, progress.verdict, errors, rows, summary, doubts)))


def _lowest(campaign: Campaign, progress: Progress, count: int, without: Ints) -> Structures:
    """So many different crystals, lowest predicted first, none of them ``without``; fewer where there are fewer.

    Raises `NoResultError`.
    """
    if progress.relaxed is None or progress.top is None or not len(progress.top.structures):
        msg = "no candidate was relaxed to a crystal that can be trusted; look at the reasons in rank/ranking.csv"
        raise NoResultError(msg)
    structures, ids = progress.relaxed.structures, progress.table["id"]
    sought = progress.table[ids.isin(progress.searched) & ~ids.isin(without)]
    crystals = representatives(sought, structures, count, campaign.stop.tolerance)
    return structures.take(rows_of(structures, crystals["id"]))


def _relaxed_by_reference(drive: Drive, folder: Path, progress: Progress) -> Relaxations:
    """The final relaxations, lowest predicted first.

    The next lowest takes the place of one that failed, as long as there is one; but where all of them lack something
    of the machine, or `MOST_IN_VAIN` have failed one after the other, the next would fail as well. Others that may be
    the lowest follow (`_contenders`), and a label that lies below all that came of it, from where it was labelled: no
    result is above a label.
    """
    campaign, labelled = drive.campaign, progress.pool.take([])
    spent: dict[str, int] = {}
    count = campaign.winners
    while True:
        crystals = _lowest(campaign, progress, count, labelled.ids)
        lowest = concatenate([crystals, labelled])
        names, results = drive.calculate(folder, final_relaxations(drive.run, campaign, lowest))
        spent |= {name: result.evaluations for name, result in zip(names, results, strict=True)}
        failed = sum(result.done is None for result in results)
        in_vain = len(results) >= MOST_IN_VAIN and not any(result.done for result in results[-MOST_IN_VAIN:])
        hopeless = failed and (in_vain or all(map(is_due, results)))
        most = campaign.winners + failed
        others = _lowest(campaign, progress, most + campaign.stop.top_k, labelled.ids)
        others = others.take(np.arange(len(crystals), len(others)))
        if len(others) and count < most and not hopeless:
            drive.tell(Warned(f"{failed} of {len(lowest)} final relaxations failed; the next lowest crystals follow"))
            count = most
        elif contenders := _contenders(progress, lowest, results, others, labelled):
            drive.tell(
                Noted(f"{contenders} more may be the lowest, by the errors of the predictions so far: relaxed too")
            )
            count = len(crystals) + contenders
        elif not len(labelled) and len(labelled := _label_below(progress, lowest, results)):
            drive.tell(Noted(f"The label of candidate {labelled.ids[0]} lies below all results: it is relaxed as well"))
        else:
            return Relaxations(lowest, results, sum(spent.values()), labelled.ids)


def _contenders(
    progress: Progress, relaxed: Structures, results: list[Result], others: Structures, labelled: Structures
) -> int:
    """How many of the ``others``, lowest predicted first, may be the lowest of all.

    Those whose energy is not above the lowest found, were they predicted too high by as much as those that were
    relaxed in the mean, and two standard deviations more. Of four stackings of close packed aluminium within 2 meV/atom
    an ensemble that is wrong by 4 relaxed three, and the ground state was the fourth.
    """
    found, predicted = _found(relaxed, results), _predicted_of(progress, relaxed.ids)
    low = (found - predicted)[np.isfinite(found - predicted) & ~np.isin(relaxed.ids, labelled.ids)]
    if len(low) < ENOUGH:
        return 0
    hoped_for = _predicted_of(progress, others.ids) + low.mean() - 2 * low.std(ddof=1)
    return int(np.cumprod(hoped_for < np.nanmin(found)).sum())


def _found(relaxed: Structures, results: list[Result]) -> Floats:
    """The reference's energies of what it relaxed, eV/atom; NaN where that failed."""
    energies = np.array([np.nan if result.done is None else result.done.energy for result in results])
    return objective.values(energies, relaxed)


def _predicted_of(progress: Progress, ids: Ints) -> Floats:
    """The ensemble's energies of candidates, eV/atom, in the order of these ids."""
    energies: Floats = progress.table.set_index("id").loc[ids, "energy_per_atom"].to_numpy(dtype=float)
    return energies


def _label_below(progress: Progress, relaxed: Structures, results: list[Result]) -> Structures:
    """The lowest label of what may lead, as it was labelled, if it lies below all results; else none.

    An ensemble that is wrong about one crystal relaxes it away, or ranks it behind others.
    """
    labels, _ = progress.own_labels
    labels = labels.take(np.flatnonzero(np.isin(labels.structures.ids, progress.searched)))
    found, values = _found(relaxed, results), objective.values(labels.energy, labels.structures)
    if not len(values) or not values.min() < np.nanmin(found, initial=np.inf) - RESOLVED or np.isnan(found).all():
        return labels.structures.take([])
    return labels.structures.take([int(values.argmin())])


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
    relaxed, table = progress.relaxed, progress.table
    assert relaxed is not None  # crystals were chosen from it
    structures = relaxed.structures.take(rows_of(relaxed.structures, table["id"]))  # in the table's order
    rows, basin = [rows_of(structures, group).tolist() for group in groups], table["basin"].to_numpy()
    if progress.lower is not None:
        lower = progress.lower.structures
        basin = np.concatenate([basin, lowest_basin(table)[rows_of(structures, lower.ids)]])
        structures = concatenate([structures, lower])
    return count_arrivals(rows, basin, structures, structures.ids < progress.generated)


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
