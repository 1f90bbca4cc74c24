"""What one campaign of a benchmark found, when, and what it would have found had it stopped earlier."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from csp_al import objective
from csp_al.benchmark.campaigns import why_no_result
from csp_al.benchmark.control import Engines, Report, relax_again
from csp_al.benchmark.target import Target
from csp_al.engine.tasks import read_result
from csp_al.report.tables import Run
from csp_al.select.identity import distinct, pairs_of_same
from csp_al.select.ranking import rows_of
from csp_al.select.stopping import Top, top_of
from csp_al.structures import Labels, concatenate

NEVER = float("inf")
LOW = 0.1
"""eV/atom above the target, below which a minimum is one of those that are to be found as well."""


@dataclass(frozen=True)
class Trial:
    """One campaign: what it took, and what came of it. Evaluations are calls of the reference method.

    ``first_hit``: evaluations until the target was relaxed by the reference at the end, infinite where it was not.
    ``early_cycle``: the first cycle whose leading crystals have it, None where none has; ``early_hit``: evaluations
    until it had been relaxed, had the campaign stopped where that is soonest. ``small``: evaluations of cells that are
    not searched, beside a search pool. ``late_labels`` were asked for after the early cycle. ``ended``: with a result;
    else the reason says why there is none. ``minima``: how many low minima the control found, ``minima_found`` of them
    by the campaign.
    """

    seed: int
    first_hit: float
    evaluations: int
    early_cycle: int | None
    early_hit: float
    cycles: int
    small: int
    labels: int
    late_labels: int
    minima: int
    minima_found: int
    ended: bool
    reason: str
    seconds: float

    @property
    def found(self) -> bool:
        """Whether the target is among the results."""
        return self.first_hit < NEVER


def leaders_by_cycle(run: Run, root: Path, engine: Engines, report: Report) -> dict[int, Labels]:
    """The leading crystals of each cycle, relaxed by the reference, as if it had been the last."""
    leaders = {cycle: leading(run, cycle).structures for cycle in run.published("verdict")}
    if not leaders:
        return {}
    labels = relax_again(concatenate(leaders.values()), run.campaign, run.path, root, engine, report)
    cycles = np.repeat(list(leaders), [len(structures) for structures in leaders.values()])
    return {cycle: labels.take(cycles == cycle) for cycle in leaders}


def leading(run: Run, cycle: int) -> Top:
    """The leading crystals of a cycle, as predicted."""
    verdict, relaxed = run.verdict(cycle), run.relaxed(cycle)
    assert verdict is not None  # they are published
    assert relaxed is not None
    return top_of(relaxed, verdict.top)


def relaxed_in_the_end(run: Run, root: Path, engine: Engines) -> Labels | None:
    """What a campaign's last relaxations by the reference came to, lowest predicted first; None without a result."""
    summary, relaxed, ranking = run.summary, run.relaxed(), run.ranking()
    if summary is None or relaxed is None:
        return None
    structures = run.begun
    if structures is None:  # of an older run, whose winners stood where their candidates do
        merged = {candidate for group in summary["merged"] for candidate in group}
        ids = {*run.results["id"], *merged, *(failed["id"] for failed in summary["failed"])}
        ascending = ranking.loc[ranking["id"].isin(ids), "id"]
        structures = relaxed.structures.take(rows_of(relaxed.structures, ascending))
    return relax_again(structures, run.campaign, run.path, root, engine, lambda *_: None)


def trial_of(run: Run, leaders: dict[int, Labels], final: Labels | None, control: Labels, target: Target) -> Trial:
    """Judge a campaign by the target; ``control`` is of the same pool.

    ``leaders`` are those of `leaders_by_cycle`, ``final`` what `relaxed_in_the_end` gives.
    """
    cycles = run.cycles.set_index("cycle")
    spent = dict.fromkeys(leaders, 0) | cycles["reference_evaluations"].to_dict()  # without labels there are no cycles
    hits = {cycle: spent[cycle] + evaluations_to(labels, target) for cycle, labels in leaders.items()}
    early = next((cycle for cycle, hit in hits.items() if hit < NEVER), None)
    asked = cycles["labels_done"] + cycles["labels_failed"]
    labels = int(asked.iloc[-1]) if len(asked) else 0
    last = run.verdict()
    known = known_minima(control, target)
    return Trial(
        seed=run.campaign.seed,
        first_hit=NEVER if final is None else float(spent[max(hits)] + evaluations_to(final, target)),
        evaluations=_count_task_evaluations(run.path) if final is None else run.reference_evaluations,
        early_cycle=early,
        early_hit=float(min(hits.values(), default=NEVER)),
        cycles=len(hits),
        small=_count_small_evaluations(run),
        labels=labels,
        late_labels=0 if early is None else labels - int(asked.get(early, 0)),
        minima=len(known),
        minima_found=0 if final is None or not len(known) else _count_matched(known, final, target),
        ended=final is not None,
        reason=last.reason if final is not None and last else why_no_result(run.path),
        seconds=run.seconds,
    )


def _count_small_evaluations(run: Run) -> int:
    """Evaluations of candidates that are not searched: their labels, and the check, which is made on the first ones."""
    searched = run.pool.set_index("id")["searched"]
    small = run.labels[run.labels["id"].isin(searched.index[~searched])]
    return int(small["evaluations"].sum()) + (run.check_evaluations if len(small) else 0)


def _count_task_evaluations(run: Path) -> int:
    """Of all tasks, those of stages included that were never published."""
    results = [read_result(run / "tasks", path.parent.name) for path in (run / "tasks").glob("*/result.json")]
    return sum(result.evaluations for result in results if result is not None)


def evaluations_to(labels: Labels, target: Target) -> float:
    """Evaluations until the first of these relaxations, one after the other, that is the target; else infinite."""
    hits = np.flatnonzero(target.hits(labels))
    return float(labels.evaluations[: hits[0] + 1].sum()) if len(hits) else NEVER


def known_minima(control: Labels, target: Target) -> Labels:
    """The different crystals within `LOW` of the target among these relaxed structures, lowest first."""
    energies = objective.values(control.energy, control.structures)
    low = np.flatnonzero(energies <= target.energy + LOW)
    groups = distinct(control.structures.take(low), energies[low], target.tolerance, len(low))
    return control.take(low[[group[0] for group in groups]])


def _count_matched(known: Labels, found: Labels, target: Target) -> int:
    """How many of the known crystals are among those that were found, by structure and energy."""
    ours = found.usable
    here, there = (objective.values(labels.energy, labels.structures) for labels in (known, ours))
    return len(pairs_of_same(known.structures, ours.structures, here, there, target.tolerance))
