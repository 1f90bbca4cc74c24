"""What each stage computes: functions of the work at hand, of the stages before, and of the folder to write to.

None of them publishes anything, and none needs an engine, so that each can be run in a process of its own, here or on
another node: see `csp_al.loop.stage`. What needs one is in `csp_al.loop.labelling`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from ase.data import atomic_numbers

from csp_al import objective
from csp_al.campaign import Campaign, resolve
from csp_al.campaign.potentials import potential_kind
from csp_al.direct.starts import Starts, starts_of
from csp_al.events import Noted
from csp_al.generate import generate_candidates
from csp_al.importing import beside, here_too
from csp_al.interfaces import CONVERGED, Predictor, trusted
from csp_al.loop.below import refuse_silence, train_on_foundation
from csp_al.loop.direct import tell_worth
from csp_al.loop.drive import Drive, Work
from csp_al.loop.out import wanted
from csp_al.loop.progress import Progress
from csp_al.loop.random_streams import (
    CHALLENGE,
    CLUSTER,
    EXPLORE,
    PERTURB,
    RELAXED_CLOSEST,
    SCORE,
    TRAIN,
    first_cells,
    least_distances,
    stream,
    to_label,
)
from csp_al.relax.limits import Limits
from csp_al.relax.relaxation import relax, relax_pool
from csp_al.select.challenge import challengers
from csp_al.select.cluster import k_means
from csp_al.select.descriptor import with_descriptor
from csp_al.select.ends import one_end_each
from csp_al.select.known import NOTHING, Known, corrected, known_of
from csp_al.select.pick import pick
from csp_al.select.ranking import rank, representatives, rows_of
from csp_al.select.stopping import Missed, Rules, Spent, is_challenged, top_of, verdict
from csp_al.select.strategies import scores_by
from csp_al.store import layout
from csp_al.store.stages import is_published
from csp_al.structures import Picks, Relaxed, Structures, concatenate

EXPLORED = 5
"""Of so many labels asked for in a cycle one goes to an explorer, see `_explorers`; of fewer none."""

DRAWN = 25
"""Candidates that are drawn for each label of a challenge, see `_drawn`."""

PROVEN = 2
"""Times the leading crystals so many candidates with the lowest labels have a further start, see `_proven`."""

RELAXED_VOLUME = 2.0
"""A relaxation may leave the range of volumes that candidates are generated with by this factor."""

DESCRIBED = "The potential gives no features: a descriptor, SOAP averaged over atoms, tells clusters and basins apart"


def make_candidates(work: Work, folder: Path) -> None:
    """The candidates of all pools, and where each is from."""
    campaign = work.campaign
    with beside(work.base), here_too():  # for its processes, which import sources
        structures, table = generate_candidates(campaign.pools, campaign.seed, work.report, work.base, work.cores)
    layout.CANDIDATES.write(folder, structures)
    layout.ORIGINS.write(folder, table)


def train_ensemble(work: Work, folder: Path, cycle: int, progress: Progress) -> None:
    """The ensemble, trained on every usable label so far, from the one before or anew.

    On the foundation, where there is one and it helps.
    """
    section = work.campaign.potential
    seed = [work.campaign.seed, cycle, TRAIN]
    if progress.ensemble is not None and getattr(section, "warm_start", False):
        start = progress.ensemble()
    else:
        start = potential_kind(section).new(section, seed, work.device)
    trained = start.train(progress.all_labels.usable, seed, work.report)
    said: dict[str, Any] = {}
    if progress.on_foundation:
        trained, said = train_on_foundation(work, cycle, start, seed, progress, trained)
    trained.ensemble.save(folder)
    layout.LEARNING_CURVE.write(folder, trained.curve)
    layout.TRAINING.write(folder, {"left_out": trained.left_out} | said)


def relax_candidates(work: Work, folder: Path, cycle: int, progress: Progress, ensemble: Predictor) -> None:
    """Every candidate at rest on the ensemble's mean energy, see `relax_pool` and `one_end_each`."""
    section, limits = work.campaign.relax, relaxation_limits(work.campaign)
    proven, before = _proven(work.campaign, progress), progress.ends
    starts, known = _direct_starts(work, progress, cycle, ensemble), known_by(ensemble, progress)
    proven = concatenate([proven, starts.originals])
    ends = relax_pool(starts.structures, before, ensemble, section, limits, work.report, proven)
    if work.campaign.direct is not None:
        tell_worth(work, folder, cycle, "relaxed again", starts.worth(ends))
    ends = corrected(ends, known)
    if work.campaign.unlabelled and work.foundation is not None:
        refuse_silence(ends, work.foundation)
    if not ensemble.gives.features and cycle == 0 and not work.campaign.unlabelled:
        work.tell(Noted(DESCRIBED))
    relaxed, lower = one_end_each(described(ends, ensemble), np.isin(ends.structures.ids, progress.searched))
    layout.RELAXED.write(folder, relaxed)
    layout.LOWER_ENDS.write(folder, lower)


def _starts(campaign: Campaign, progress: Progress, cycle: int) -> Structures:
    """Where candidates begin anew, beside where they stood last.

    On a foundation, every step asks that, and most fresh starts lead where it has led already: there are none but for
    candidates that do not stand anywhere.
    """
    starts = first_cells(campaign, progress.starts, cycle)
    if not progress.on_foundation or progress.ends is None:
        return starts
    standing = progress.ends.structures.ids[trusted(progress.ends.reason)]
    return starts.take(~np.isin(starts.ids, standing))


def _direct_starts(work: Work, progress: Progress, cycle: int, ensemble: Predictor) -> Starts:
    """The same, but where a direct relaxer says for candidates that came to rest before: it has learnt from them."""
    starts = _starts(work.campaign, progress, cycle)
    relaxer, last = progress.relaxer and progress.relaxer(), progress.relaxed
    rested = [] if last is None else last.structures.ids[last.reason == CONVERGED]
    return starts_of(relaxer, starts, np.isin(starts.ids, rested), ensemble, relaxation_limits(work.campaign))


def _proven(campaign: Campaign, progress: Progress) -> Structures:
    """The lowest that were labelled so far, and what challenged last: their candidates may have left for worse.

    Each candidate once, as it was before it was perturbed, and only such as may lead.
    """
    labels, origins = progress.own_labels
    order = np.argsort(objective.values(labels.energy, labels.structures), kind="stable")
    order = order[np.isin(origins.ids[order], progress.searched)]
    _, firsts = np.unique(origins.ids[order], return_index=True)
    lowest = origins.take(order[np.sort(firsts)[: PROVEN * campaign.stop.top_k]])
    return concatenate([lowest, progress.origins[-1]]) if is_challenged(campaign.stop, progress.verdict) else lowest


def known_by(ensemble: Predictor, progress: Progress) -> Known:
    """What the labels so far say of this ensemble."""
    labels, origins = progress.own_labels
    return known_of(labels, origins, ensemble.fresh().predict(labels.structures)) if len(labels) else NOTHING


def at_rest(work: Work, starts: Structures, ensemble: Predictor) -> Relaxed:
    """These structures at rest, each from where it is."""
    # as read back: what is remembered of other relaxations would change the last bits
    return relax(starts, ensemble.fresh(), work.campaign.relax, relaxation_limits(work.campaign))


def described(relaxed: Relaxed, ensemble: Predictor) -> Relaxed:
    """The same, with features where the potential gives none."""
    return relaxed if ensemble.gives.features else with_descriptor(relaxed)


def rank_candidates(work: Work, folder: Path, cycle: int, relaxed: Relaxed, lower: Relaxed, labels: int) -> None:
    """Score, cluster and basins of every candidate, where at most so many labels are chosen next."""
    section = work.campaign.select
    groups = section.groups(labels)
    clusters = k_means(relaxed.prediction.features, stream(work.campaign, cycle, CLUSTER), groups)
    with beside(work.base):
        scores = scores_by(section.strategy, relaxed, section, stream(work.campaign, cycle, SCORE))
    layout.RANKING.write(folder, rank(relaxed, lower, scores, clusters))


def judge_cycle(
    drive: Drive, folder: Path, cycle: int, relaxed: Relaxed, table: pd.DataFrame, progress: Progress
) -> None:
    """Whether the leading crystals are still changing."""
    campaign, rules = drive.campaign, drive.campaign.stop
    sought = table[table["id"].isin(progress.searched)]
    leaders = representatives(sought, relaxed.structures, rules.top_k, rules.tolerance)
    top = top_of(relaxed, leaders["id"])
    spent = Spent(cycle + 1, progress.asked, sum(drive.passed.values()) / 3600, len(progress.out))
    drawn = sought[sought["id"] < progress.generated]  # offspring are no independent draws
    missed = _missed(layout.stage_folder(drive.run, "label", cycle))
    said = verdict(top, progress.judged, drawn, spent, Rules(rules, campaign.budget, campaign.select.per_cycle), missed)
    layout.VERDICT.write(folder, said)


def errors_of(folder: Path) -> dict[str, Any]:
    """How well the labels in a folder had been predicted; nothing where they were not, or there are none."""
    there = is_published(folder) and layout.WALK_FORWARD.is_in(folder)
    return layout.WALK_FORWARD.read(folder) if there else {}


def _missed(folder: Path) -> Missed:
    """By how much predictions of the labels of a cycle were off."""
    figures = errors_of(folder)
    apart, below = figures.get("energy_apart_mev_per_atom"), figures.get("energy_below_mev_per_atom")
    return Missed(None if apart is None else apart / 1000, None if below is None else below / 1000)


def select_picks(
    work: Work, folder: Path, cycle: int, progress: Progress, ensemble: Predictor, relaxed: Relaxed
) -> None:
    """What is labelled next, perturbed, with its prediction, corrected by what is known of its crystal.

    The best-scored candidates of different clusters and a few `_explorers`; where the leading crystals were unchanged,
    `challengers` instead; nothing where only what is out is waited for.
    """
    known, origin = known_by(ensemble, progress), progress.pool.take([])
    count = 0 if progress.verdict and progress.verdict.waits else wanted(work.campaign, progress)
    if count and is_challenged(work.campaign.stop, progress.verdict):
        rested = corrected(at_rest(work, _drawn(work, cycle, progress, count), ensemble), known)
        origin = challengers(progress.sought(relaxed), rested, progress.labelled, count)
    if count and not len(origin):
        origin = _promising(work, cycle, progress, ensemble, relaxed, count)
    perturbed = to_label(work.campaign, origin, cycle, PERTURB)
    layout.PICKS.write(folder, Picks(perturbed, origin))
    # as read back: neighbour lists remembered from the relaxation would change the last bits
    predicted = ensemble.fresh().predict(perturbed)
    energy = predicted.energy + perturbed.counts * known.moves(origin)
    layout.PREDICTED.write(folder, replace(predicted, energy=energy))


def _promising(
    work: Work, cycle: int, progress: Progress, ensemble: Predictor, relaxed: Relaxed, count: int
) -> Structures:
    exploring = count // EXPLORED
    chosen = pick(progress.table, relaxed.structures, progress.labelled, count - exploring)
    origin = relaxed.structures.take(rows_of(relaxed.structures, chosen))
    if exploring and len(chosen):
        drawn = progress.pool.ids < progress.generated
        others = progress.pool.take(drawn & ~np.isin(progress.pool.ids, chosen))
        origin = concatenate([origin, _explorers(work, cycle, others, exploring, ensemble)])
    return origin


def _drawn(work: Work, cycle: int, progress: Progress, count: int) -> Structures:
    """Candidates that are drawn at random for a challenge, where relaxations begin anew."""
    rng = stream(work.campaign, cycle, CHALLENGE)
    ids = progress.pool.ids
    searched = progress.starts.take(np.isin(ids, progress.searched) & (ids < progress.generated))
    return searched.take(rng.permutation(len(searched))[: DRAWN * count])


def _explorers(work: Work, cycle: int, others: Structures, count: int, ensemble: Predictor) -> Structures:
    """Candidates drawn at random, each where the ensemble takes it from its first cell.

    An ensemble that is shown nothing but what leads forgets the ways down. It takes most first cells to minima that
    are none, which are never labelled otherwise, since no candidate stands lowest there.
    """
    rng = stream(work.campaign, cycle, EXPLORE)
    drawn = others.take(np.sort(rng.choice(len(others), size=min(count, len(others)), replace=False)))
    return at_rest(work, first_cells(work.campaign, drawn, cycle), ensemble).structures


def relaxation_limits(campaign: Campaign) -> Limits:
    """How far a relaxation may go beyond the bounds that candidates are generated within."""
    distances = {}
    for pair, distance in least_distances(campaign, RELAXED_CLOSEST).items():
        a, b = (atomic_numbers[symbol] for symbol in pair.split("-"))
        distances[a, b] = distances[b, a] = distance
    if campaign.relax.cell == "fixed":  # then no relaxation can leave any range of volumes
        return Limits(distances, (0.0, np.inf))
    volumes = [resolve(pool).volume_per_atom for pool in campaign.pools]
    least, most = min(least for least, _ in volumes), max(most for _, most in volumes)
    return Limits(distances, (least / RELAXED_VOLUME, most * RELAXED_VOLUME))
