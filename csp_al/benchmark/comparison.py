"""The benchmark as a whole: campaigns, control, target, and what follows from them.

    benchmark = Benchmark(file, campaign, base, seeds, directory, engine, slots, options, tell)
    result = compare(benchmark, target=None)

Below the directory: a run directory ``seed-N`` for each campaign with ``seed-N.log``, what it printed; ``hindsight``,
relaxations of leading crystals that the campaigns did not ask for and that are not counted; and, where the campaign has
a foundation, ``rival-N``, what that finds without labels. Beside it ``control``, where benchmarks of other settings
find the control of the same pools.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from csp_al import objective
from csp_al.benchmark import statistics
from csp_al.benchmark.calibration import calibration
from csp_al.benchmark.campaigns import run_campaigns
from csp_al.benchmark.control import Engines, random_search
from csp_al.benchmark.rival import CRYSTALS, foundation_first
from csp_al.benchmark.statistics import Runs
from csp_al.benchmark.target import Target, lowest, target_of_file
from csp_al.benchmark.trial import Trial, evaluations_to, leaders_by_cycle, relaxed_in_the_end, trial_of
from csp_al.campaign import Campaign
from csp_al.formats import VERSIONS
from csp_al.interfaces import Predictor
from csp_al.report.tables import Run, open_run
from csp_al.store.repair import repair_tasks
from csp_al.structures import Labels

CONTROL, HINDSIGHT, RIVAL = "control", "hindsight", "rival"
POINTS = 200
"""Evaluations at which success rates are given."""


@dataclass(frozen=True)
class Benchmark:
    """What is run, and where: the campaign of a file, its reference pinned, once with each seed.

    File names in the campaign are relative to ``base``. ``engine`` makes one for a folder of tasks; ``options`` are
    handed to `csp-al run`; ``slots`` processes run side by side. ``tell(what, done, all)`` hears how far it is. The
    control relaxes ``control_size`` candidates of each pool; None: all of them. The ``foundation`` of the campaign is
    compared with as well. To ``mend`` is to do again what is damaged.
    """

    file: Path
    campaign: Campaign
    base: Path
    seeds: Sequence[int]
    directory: Path
    engine: Engines
    slots: int
    options: Sequence[str]
    tell: Callable[[str, int, int], None]
    control_size: int | None = None
    mend: bool = False
    foundation: Predictor | None = None

    @property
    def runs(self) -> dict[int, Path]:
        """Run directory of each seed."""
        return {seed: self.directory / f"seed-{seed}" for seed in self.seeds}


def compare(benchmark: Benchmark, target: Path | float | None) -> dict[str, Any]:
    """Run what has not been run, and say how the campaigns did against the control.

    The target is a file with a structure, an energy in eV/atom, or None for the lowest energy that anybody finds.
    """
    if benchmark.mend:
        repair_tasks(benchmark.directory / HINDSIGHT)
    looked_for = _given_target(benchmark, target)
    run_campaigns(benchmark.file, benchmark.options, benchmark.runs, benchmark.slots, _tell(benchmark, "campaigns"))
    runs = [open_run(path) for path in benchmark.runs.values()]
    leaders = [_leaders(benchmark, run) for run in runs]
    finals = [relaxed_in_the_end(run, benchmark.directory / HINDSIGHT, benchmark.engine) for run in runs]
    controls = [_control(benchmark, seed) for seed in benchmark.seeds]
    rivals = [_rival(benchmark, seed) for seed in benchmark.seeds if benchmark.foundation is not None]
    if looked_for is None:
        led = (labels for by_cycle in leaders for labels in by_cycle.values())
        looked_for = lowest(benchmark.campaign, [*controls, *rivals, *led, *filter(None, finals)])
    trials = [trial_of(*of_seed, looked_for) for of_seed in zip(runs, leaders, finals, controls, strict=True)]
    return _result(benchmark, looked_for, trials, controls, rivals, runs)


def _given_target(benchmark: Benchmark, target: Path | float | None) -> Target | None:
    tolerance = benchmark.campaign.stop.tolerance
    if isinstance(target, Path):
        return target_of_file(target, benchmark.campaign, benchmark.directory / HINDSIGHT, benchmark.engine)
    return None if target is None else Target(target, tolerance, f"the {objective.NAME} that was given")


def _leaders(benchmark: Benchmark, run: Run) -> dict[int, Labels]:
    told = _tell(benchmark, f"seed {run.campaign.seed}: what each cycle led to")
    return leaders_by_cycle(run, benchmark.directory / HINDSIGHT, benchmark.engine, told)


def _control(benchmark: Benchmark, seed: int) -> Labels:
    campaign = benchmark.campaign.model_copy(update={"seed": seed})
    told = _tell(benchmark, f"seed {seed}: random search")
    root = benchmark.directory.parent / CONTROL
    size, mend = benchmark.control_size, benchmark.mend
    return random_search(campaign, benchmark.base, root, benchmark.engine, told, size, mend=mend)


def _rival(benchmark: Benchmark, seed: int) -> Labels:
    assert benchmark.foundation is not None  # it is asked for
    campaign = benchmark.campaign.model_copy(update={"seed": seed})
    told = _tell(benchmark, f"seed {seed}: the foundation, then the reference")
    root, engine, mend = benchmark.directory / f"{RIVAL}-{seed}", benchmark.engine, benchmark.mend
    return foundation_first(campaign, benchmark.base, root, benchmark.foundation, engine, told, mend=mend)


def _tell(benchmark: Benchmark, what: str) -> Callable[[int, int], None]:
    return lambda done, everything: benchmark.tell(what, done, everything)


def _result(
    benchmark: Benchmark,
    target: Target,
    trials: list[Trial],
    controls: list[Labels],
    rivals: list[Labels],
    runs: list[Run],
) -> dict[str, Any]:
    first = np.array([trial.first_hit for trial in trials])
    ours = statistics.campaigns(first, np.array([trial.evaluations for trial in trials]))
    hits = [target.hits(labels) for labels in controls]
    theirs = statistics.random_orders(
        [(labels.evaluations, hit) for labels, hit in zip(controls, hits, strict=True)], benchmark.seeds[0]
    )
    campaign = benchmark.campaign
    sought = campaign.pools[-1]
    return {
        "format": VERSIONS["benchmark"],
        "name": campaign.name,
        "formula": sought.formula,
        "candidates": int((runs[0].pool["searched"] & runs[0].pool["generation"].isna()).sum()),
        "candidates_of_control": len(controls[0]),
        "symmetric_fraction": sought.symmetric_fraction,
        "seeds": list(benchmark.seeds),
        "labels_from_elsewhere": len(campaign.labels),
        "smaller_cells": _smaller_cells(campaign, trials),
        "winners": campaign.winners,
        "target": {key: getattr(target, key) for key in ("words", "energy", "tolerance")},
        "campaign": _side(ours, [trial.found for trial in trials], [trial.seconds for trial in trials])
        | {"evaluations": _median([trial.evaluations for trial in trials])},
        "control": _side(theirs, [bool(hit.any()) for hit in hits], [float(labels.cost.sum()) for labels in controls])
        | {
            "hits_per_candidate": float(np.mean(np.concatenate(hits))),
            "evaluations_per_candidate": float(np.mean(np.concatenate([labels.evaluations for labels in controls]))),
        },
        "foundation": _of_rivals(campaign, rivals, target),
        "ratio": statistics.told(statistics.ratio_of_medians(theirs, ours), len(trials)),
        "ratio_of_expected": statistics.told(statistics.ratio_of_expected(theirs, ours), len(trials)),
        "stopping": _stopping(trials),
        "minima": _minima(trials, theirs),
        "calibration": calibration([run.labels for run in runs]),
        "curve": _curve(ours, theirs),
        "trials": [asdict(trial) | {"found": trial.found} for trial in trials],
    }


def _side(runs: Runs, found: list[bool], seconds: list[float]) -> dict[str, Any]:
    return {
        "found": sum(found),
        "of": len(found),
        "success": asdict(statistics.proportion(sum(found), len(found))),
        "median": statistics.told(statistics.median_of(runs), len(found)),
        "expected": statistics.told(statistics.expected_of(runs), len(found)),
        "seconds": _median(seconds),
    }


def _of_rivals(campaign: Campaign, rivals: list[Labels], target: Target) -> dict[str, Any] | None:
    """How the foundation did without labels; None where there is none."""
    if campaign.foundation is None:
        return None
    first = np.array([evaluations_to(labels, target) for labels in rivals])
    runs = statistics.campaigns(first, np.array([labels.evaluations.sum() for labels in rivals]))
    found = np.isfinite(first).tolist()
    return {"model": campaign.foundation.model, "crystals": CRYSTALS} | _side(
        runs, found, [float(labels.cost.sum()) for labels in rivals]
    )


def _stopping(trials: list[Trial]) -> dict[str, Any]:
    """Whether the stop rule ended the campaigns after the target led, and what they asked for after that."""
    led = [trial for trial in trials if trial.early_cycle is not None]
    shares = [trial.late_labels / trial.labels for trial in led if trial.labels]
    return {
        "target_led": len(led),
        "lost_again": sum(not trial.found for trial in led),
        "late_label_share": float(np.mean(shares)) if shares else None,
        "early_median": _median([trial.early_hit for trial in trials]),
    }


def _smaller_cells(campaign: Campaign, trials: list[Trial]) -> dict[str, Any] | None:
    """Of the evaluations those of cells that are not searched; None without a search pool."""
    if campaign.search_pool is None:
        return None
    return {"formula": campaign.pool.formula, "evaluations": _median([trial.small for trial in trials])}


def _median(figures: Sequence[float]) -> float:
    return statistics.upper_median(np.array(figures, dtype=float))


def _minima(trials: list[Trial], control: Runs) -> dict[str, Any]:
    """The low minima that the control found, and the share of them, and of its evaluations, that campaigns took."""
    known = sum(trial.minima for trial in trials)
    spent = sum(trial.evaluations for trial in trials)
    return {
        "known": known,
        "found": sum(trial.minima_found for trial in trials),
        "share": sum(trial.minima_found for trial in trials) / known if known else None,
        "evaluations_share": float(spent / control.all[:, 0].sum()),
    }


def _curve(ours: Runs, theirs: Runs) -> dict[str, Any]:
    """Success rates at evaluations that rise by a factor, as lists."""
    spent = np.concatenate([ours.spent.ravel(), ours.all.ravel(), theirs.all.ravel()])
    at = np.geomspace(max(1.0, float(spent.min()) / 2), max(2.0, float(spent.max())), POINTS)
    curves = {name: statistics.success_curve(runs, at) for name, runs in (("campaign", ours), ("control", theirs))}
    rows = {name: dict(zip(("value", "low", "high"), curve.tolist(), strict=True)) for name, curve in curves.items()}
    return {"evaluations": at.tolist()} | rows
