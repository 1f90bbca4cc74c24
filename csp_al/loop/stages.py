"""The stages of a cycle: each is published once, from what earlier ones published, and read back.

What a stage computes is in `csp_al.loop.bodies`. What is returned here is read back from what was published, so that a
continued campaign goes on from the very same numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pandas as pd

from csp_al.campaign.potentials import potential_kind
from csp_al.direct.relaxer import load_relaxer
from csp_al.events import CycleJudged, Warned
from csp_al.generate import is_searched
from csp_al.interfaces import Ensemble, Predictor, Verdict
from csp_al.loop import bodies
from csp_al.loop.below import known_below, on_foundation
from csp_al.loop.direct import learn_to_relax
from csp_al.loop.drive import Drive
from csp_al.loop.foundation import leading_on_foundation, relax_on_foundation
from csp_al.loop.grow import grow_pool
from csp_al.loop.labelling import compute_labels
from csp_al.loop.out import label_tasks, most_wanted
from csp_al.loop.progress import Progress
from csp_al.loop.random_streams import DRAW, FIRST_PERTURB, stream, to_label
from csp_al.select.ranking import stopped_at_once
from csp_al.select.stopping import top_of
from csp_al.store import layout
from csp_al.store.layout import stage_folder
from csp_al.structures import Floats, Labels, Picks, Relaxed, concatenate, take


def generate(drive: Drive) -> Progress:
    """The candidates: all there is to begin with."""
    folder = drive.stage(stage_folder(drive.run, "pool"), lambda folder: bodies.make_candidates(drive, folder))
    structures = layout.CANDIDATES.read(folder)
    searched = structures.ids[is_searched(layout.ORIGINS.read(folder))]
    return Progress(structures, searched, len(structures))


def begin_on_foundation(drive: Drive, progress: Progress) -> None:
    """Every candidate at rest on the foundation, where there is one; ``progress`` begins with that."""
    if drive.foundation is None:
        return
    place = stage_folder(drive.run, "foundation")
    folder = drive.stage(place, lambda folder: relax_on_foundation(drive, folder, progress))
    progress.on_foundation = drive.foundation.section.baseline
    progress.founded, progress.table = layout.RELAXED.read(folder), layout.RANKING.read(folder)


def draw(drive: Drive, progress: Progress) -> Picks:
    """The labels of the first cycle: a random draw from the pool, perturbed, since symmetry leaves hardly any forces.

    Where a foundation went first, the lowest of its different clusters, and of five labels one of the draw. Of a search
    pool there is none among them.
    """
    rng = stream(drive.campaign, 0, DRAW)
    pool = progress.pool
    if drive.campaign.search_pool is not None:
        pool = pool.take(~np.isin(pool.ids, progress.searched))
    most = min(drive.campaign.select.at_first, drive.campaign.budget.labels, len(pool))
    leading = leading_on_foundation(progress, pool, most)
    others = pool.take(~np.isin(pool.ids, leading.ids))
    drawn = others.take(np.sort(rng.choice(len(others), size=most - len(leading), replace=False)))
    origin = concatenate([leading, drawn])
    return Picks(to_label(drive.campaign, origin, 0, FIRST_PERTURB), origin)


def label(drive: Drive, cycle: int, progress: Progress, picks: Picks) -> Labels:
    """What the reference method says of the picks, or of what was out before and has come in; ``progress`` knows."""
    place = stage_folder(drive.run, "label", cycle)
    drive.keep_going([])  # the engine is asked here
    folder = drive.stage(place, lambda folder: compute_labels(drive, folder, cycle, progress, picks))
    if layout.OUT.is_in(folder):
        progress.origins.append(layout.CAME_IN.read(folder).origin)
        progress.out = layout.OUT.read(folder)
        drive.keep_going(label_tasks(drive.campaign, progress.out.structures))
    else:
        progress.origins.append(picks.origin)
    return layout.LABELS.read(folder)


def learn(drive: Drive, cycle: int, progress: Progress, labels: Labels) -> None:
    """Let ``progress`` take in the labels of a cycle, and what the foundation says of them."""
    progress.learn(labels)
    if drive.foundation is not None:
        progress.below.append(layout.BELOW.read(stage_folder(drive.run, "label", cycle)))


def train(drive: Drive, cycle: int, progress: Progress) -> Callable[[], Ensemble]:
    """What loads the ensemble, trained on every usable label so far; once, and where a stage needs it."""
    place = stage_folder(drive.run, "train", cycle)
    folder = drive.stage(place, lambda folder: bodies.train_ensemble(drive, folder, cycle, progress))
    section, known = drive.campaign.potential, known_below(progress)
    on = drive.foundation is not None and layout.TRAINING.read(folder).get(layout.ON_FOUNDATION, False)
    progress.on_foundation = on

    def load() -> Ensemble:
        ensemble = potential_kind(section).load(folder, section, drive.device)
        return on_foundation(drive, ensemble, known) if on else ensemble

    return cache(load)


def relax(drive: Drive, cycle: int, progress: Progress, ensemble: Callable[[], Predictor]) -> Relaxed:
    """Every candidate at rest on the ensemble's mean energy; its features tell crystals apart."""
    place = stage_folder(drive.run, "relax", cycle)
    folder = drive.stage(place, lambda folder: bodies.relax_candidates(drive, folder, cycle, progress, ensemble()))
    return layout.RELAXED.read(folder)


def learn_direct(drive: Drive, cycle: int, progress: Progress, relaxed: Relaxed) -> None:
    """Train the direct relaxer, where there is one; ``progress`` knows it if it helps."""
    if drive.campaign.direct is None:
        return
    place = stage_folder(drive.run, "direct", cycle)
    folder = drive.stage(place, lambda folder: learn_to_relax(drive, folder, cycle, progress, relaxed))
    helps = layout.LEARNT.read(folder)["helps"]
    progress.relaxer = cache(lambda: load_relaxer(folder / layout.RELAXER, drive.device)) if helps else None


def grow(drive: Drive, cycle: int, progress: Progress, ensemble: Callable[[], Predictor], relaxed: Relaxed) -> Relaxed:
    """All candidates at rest, with offspring of what leads where the pool grows; ``progress`` takes these in."""
    if drive.campaign.pools[-1].grow is None:
        return relaxed
    place = stage_folder(drive.run, "grow", cycle)
    folder = drive.stage(place, lambda folder: grow_pool(drive, folder, cycle, progress, ensemble(), relaxed))
    progress.take_in(layout.CANDIDATES.read(folder))
    if drive.campaign.direct is not None:
        progress.bred = layout.BRED.read(folder), layout.BRED_ENDS.read(folder)
    return concatenate([relaxed, layout.RELAXED.read(folder)])


def rank(drive: Drive, cycle: int, progress: Progress, relaxed: Relaxed) -> pd.DataFrame:
    """Score, cluster and basin of every candidate."""
    place = stage_folder(drive.run, "rank", cycle)
    lower, most = _lower_ends(drive, cycle, relaxed), most_wanted(drive.campaign, progress)
    folder = drive.stage(place, lambda folder: bodies.rank_candidates(drive, folder, cycle, relaxed, lower, most))
    table = layout.RANKING.read(folder)
    if words := stopped_at_once(table):
        drive.tell(Warned(f"cycle {cycle}: {words}"))
    return table


def _lower_ends(drive: Drive, cycle: int, relaxed: Relaxed) -> Relaxed:
    """What `relax` published of candidates that do not stand at the lowest of their ends; nothing in older runs."""
    folder = stage_folder(drive.run, "relax", cycle)
    if layout.LOWER_ENDS.is_in(folder):
        return layout.LOWER_ENDS.read(folder)
    return take(relaxed, np.zeros(0, np.int64), relaxed.structures)


def judge(drive: Drive, cycle: int, relaxed: Relaxed, table: pd.DataFrame, progress: Progress) -> Verdict:
    """Whether the leading crystals are still changing; ``progress`` moves on to this cycle."""
    place = stage_folder(drive.run, "verdict", cycle)
    folder = drive.stage(place, lambda folder: bodies.judge_cycle(drive, folder, cycle, relaxed, table, progress))
    said = layout.VERDICT.read(folder)
    if said.stop:
        drive.end_with(folder)
    progress.relaxed, progress.table, progress.verdict = relaxed, table, said
    progress.lower = _lower_ends(drive, cycle, relaxed)
    progress.top = top_of(relaxed, said.top)
    _tell_of_cycle(drive, cycle, progress)
    return said


def select(drive: Drive, cycle: int, progress: Progress, ensemble: Callable[[], Predictor], relaxed: Relaxed) -> Picks:
    """What is labelled next."""
    place = stage_folder(drive.run, "select", cycle)
    folder = drive.stage(place, lambda folder: bodies.select_picks(drive, folder, cycle, progress, ensemble(), relaxed))
    return layout.PICKS.read(folder)


def _first_finite(values: Floats) -> float | None:
    """The first value (n,), if there is one and it is finite."""
    return float(values[0]) if len(values) and np.isfinite(values[0]) else None


def _tell_of_cycle(drive: Drive, cycle: int, progress: Progress) -> None:
    """One line on the cycle, for the panel and the log."""
    folder = stage_folder(drive.run, "label", cycle)
    errors = bodies.errors_of(folder)
    said, top = progress.verdict, progress.top
    judged = CycleJudged(
        cycle=cycle,
        from_elsewhere=progress.given,
        labels=progress.asked,
        failed=progress.failed,
        predicted=said.energies[0] if said and said.energies else None,
        predicted_sigma=_first_finite(top.sigmas) if top is not None else None,
        labelled=progress.lowest_label,
        energy_error=errors.get("energy_mae_mev_per_atom"),
        force_error=errors.get("forces_mae_ev_per_angstrom"),
        stable=said.stable_cycles if said else 0,
        unseen=said.unseen if said else None,
        reason=said.reason if said else "",
    )
    drive.announce("cycle", judged)
