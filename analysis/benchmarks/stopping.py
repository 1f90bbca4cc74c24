"""When to stop: the rule with other numbers of crystals and cycles, replayed on campaigns of the suite.

    python analysis/benchmarks/suite.py si8 tio2 lj
    python analysis/benchmarks/stopping.py si8 tio2 lj

A campaign is taken to have stopped where the rule would have stopped it, and to report the crystals that the rule
watches. Evaluations are medians over all campaigns; what the rule would let go on for longer than the campaign went on
counts as infinitely many, so only what stops earlier can be judged. Labels after it led: means of those that find it.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, replace
from itertools import pairwise, product
from pathlib import Path

import numpy as np

from csp_al.benchmark.comparison import HINDSIGHT
from csp_al.benchmark.statistics import upper_median
from csp_al.benchmark.target import Target
from csp_al.benchmark.trial import NEVER, evaluations_to, leaders_by_cycle, leading
from csp_al.campaign.machine import Machine
from csp_al.campaign.models import Stop
from csp_al.engine.engines import start_engine
from csp_al.report.tables import Run, open_run
from csp_al.select.stopping import Top, changes
from csp_al.structures import Labels


@dataclass(frozen=True)
class Cycle:
    """What a cycle led to, as predicted and as the reference relaxes it, lowest predicted first; what it had cost."""

    leading: Top
    relaxed: Labels
    evaluations: int
    labels: int

    def cut(self, crystals: int) -> Cycle:
        """The same with so many leading crystals at most."""
        first = np.arange(min(crystals, len(self.relaxed)))
        top = Top(self.leading.structures.take(first), self.leading.energies[first], self.leading.sigmas[first])
        return replace(self, leading=top, relaxed=self.relaxed.take(first))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("systems", nargs="+", help="such as si8")
    parser.add_argument("--directory", type=Path, default=Path("benchmarks"))
    arguments = parser.parse_args()
    print("| system | crystals | patience | stopped | found | evaluations | in all | labels after it led |")
    print("|---|---|---|---|---|---|---|---|")
    for name in arguments.systems:
        directory = arguments.directory / f"suite-{name}"
        if not (directory / "result.json").exists():
            parser.error(f"{directory}: no benchmark with a result; run suite.py {name} first")
        result = json.loads((directory / "result.json").read_text())
        target = Target(**result["target"])
        runs = [open_run(directory / f"seed-{seed}") for seed in result["seeds"]]
        campaigns = [cycles_of(run, directory / HINDSIGHT) for run in runs]
        rules = runs[0].campaign.stop
        for top_k, patience in product(range(1, rules.top_k + 1), range(1, rules.patience + 1)):
            tried = rules.model_copy(update={"top_k": top_k, "patience": patience})
            print(f"| {name} | {top_k} | {patience} | {row(campaigns, tried, target)} |", flush=True)


def cycles_of(run: Run, hindsight: Path) -> list[Cycle]:
    """Every cycle of a campaign; what its benchmark has not relaxed yet, is relaxed."""
    spent = run.cycles.set_index("cycle")
    asked = spent["labels_done"] + spent["labels_failed"]
    leaders = leaders_by_cycle(run, hindsight, lambda folder: start_engine(folder, Machine(slots=1)), lambda *_: None)
    evaluations = spent["reference_evaluations"]
    return [
        Cycle(leading(run, cycle), labels, int(evaluations[cycle]), int(asked[cycle]))
        for cycle, labels in leaders.items()
    ]


def row(campaigns: list[list[Cycle]], rules: Stop, target: Target) -> str:
    """How many stop, and find the target; evaluations to it and in all; of those, the share of labels after it led."""
    ends = [stopped([cycle.cut(rules.top_k) for cycle in cycles], rules) for cycles in campaigns]
    to_target = [NEVER if end is None else end.evaluations + evaluations_to(end.relaxed, target) for end in ends]
    in_all = [NEVER if end is None else end.evaluations + end.relaxed.evaluations.sum() for end in ends]
    late = [
        1 - labels_until_it_led(cycles, target) / end.labels
        for cycles, end, evaluations in zip(campaigns, ends, to_target, strict=True)
        if end is not None and evaluations < NEVER
    ]
    medians = [f"{upper_median(np.array(figures)):.0f}" for figures in (to_target, in_all)]
    counts = [str(sum(end is not None for end in ends)), str(len(late))]
    return " | ".join([*counts, *medians, f"{np.mean(late):.0%}" if late else ""])


def labels_until_it_led(cycles: list[Cycle], target: Target) -> int:
    """Labels by the first cycle that has the target among all its leading crystals."""
    return next(cycle.labels for cycle in cycles if target.hits(cycle.relaxed).any())


def stopped(cycles: list[Cycle], rules: Stop) -> Cycle | None:
    """The cycle at which a campaign would have stopped; None if not before its end."""
    stable = 0
    for before, now in pairwise(cycles):
        stable = 0 if changes(now.leading, before.leading, rules) else stable + 1
        if stable >= rules.patience:
            return now
    return None


if __name__ == "__main__":
    main()
