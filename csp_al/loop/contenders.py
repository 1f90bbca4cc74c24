"""Which crystals the reference relaxes in the end: the lowest predicted, and what may be lower than they are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from csp_al import objective
from csp_al.campaign import Campaign
from csp_al.engine.retry import is_due
from csp_al.events import Noted, Warned
from csp_al.loop.drive import Drive
from csp_al.loop.progress import Progress
from csp_al.loop.tasks import CalculationsFailedError, final_relaxations
from csp_al.results import Result
from csp_al.select.ranking import representatives, rows_of
from csp_al.structures import Floats, Ints, Structures, concatenate

MOST_IN_VAIN = 20
"""Crystals that may fail one after the other before no other takes their places."""

ENOUGH = 2
"""Relaxations at least, for their errors to say anything of others."""

RESOLVED = 0.001
"""eV/atom, by which a label lies below a result at least, if relaxations leave that much."""


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


def relaxed_by_reference(drive: Drive, folder: Path, progress: Progress) -> Relaxations:
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
    found, told = _found(relaxed, results), _energies_of(progress, relaxed.ids)
    low = (found - told)[np.isfinite(found - told) & ~np.isin(relaxed.ids, labelled.ids)]
    if len(low) < ENOUGH:
        return 0
    hoped_for = _energies_of(progress, others.ids) + low.mean() - 2 * low.std(ddof=1)
    return int(np.cumprod(hoped_for < np.nanmin(found)).sum())


def _found(relaxed: Structures, results: list[Result]) -> Floats:
    """The reference's energies of what it relaxed, eV/atom; NaN where that failed."""
    energies = np.array([np.nan if result.done is None else result.done.energy for result in results])
    return objective.values(energies, relaxed)


def _energies_of(progress: Progress, ids: Ints) -> Floats:
    """Predicted, eV/atom."""
    return np.array([energy for energy, _ in predicted(progress, ids)])


def predicted(progress: Progress, ids: Ints | list[int]) -> list[tuple[float, float]]:
    """The ensemble's energy of each of these candidates and its spread, eV/atom."""
    columns = ["energy_per_atom", "sigma_per_atom"]
    rows = progress.table.set_index("id").loc[ids, columns].to_numpy(dtype=float)
    return [(energy, sigma) for energy, sigma in rows.tolist()]


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
