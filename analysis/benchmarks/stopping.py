"""When to stop: the rule with other numbers of crystals and cycles, replayed on campaigns of the suite.

    python analysis/benchmarks/suite.py si8 tio2 lj
    python analysis/benchmarks/stopping.py si8 tio2 lj

A campaign is taken to have stopped where the rule would have stopped it, with the leading crystals that it had by then.
What the rule would let go on for longer than the campaign went on counts as not stopped, and its evaluations as
infinitely many; so only what stops earlier can be judged.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, replace
from itertools import pairwise, product
from pathlib import Path

import numpy as np

from csp_al.benchmark.comparison import HINDSIGHT
from csp_al.benchmark.target import Target
from csp_al.benchmark.trial import NEVER, evaluations_to, leaders_by_cycle
from csp_al.campaign.models import Stop
from csp_al.engine.local import LocalEngine
from csp_al.report.tables import Run, open_run
from csp_al.select.stopping import Top, changes, top_of
from csp_al.structures import Labels


@dataclass(frozen=True)
class Cycle:
    """What a cycle led to, as predicted and as the reference relaxes it, lowest predicted first; what it had cost."""

    leading: Top
    relaxed: Labels
    evaluations: int
    labels: int

    def cut(self, crystals: int) -> Cycle:
        """The same with fewer leading crystals."""
        first = range(crystals)
        top = Top(self.leading.structures.take(first), self.leading.energies[:crystals], self.leading.sigmas[:crystals])
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
    cycles = []
    for cycle, labels in leaders_by_cycle(
        run, hindsight, lambda folder: LocalEngine(folder, 1), lambda *_: None
    ).items():
        verdict, relaxed = run.verdict(cycle), run.relaxed(cycle)
        assert verdict is not None  # they are published
        assert relaxed is not None
        top = top_of(relaxed, verdict.top)
        cycles.append(Cycle(top, labels, int(spent["reference_evaluations"][cycle]), int(asked[cycle])))
    return cycles


def row(campaigns: list[list[Cycle]], rules: Stop, target: Target) -> str:
    """How many stop and find the target; medians of evaluations to it and in all; the share of labels after it led."""
    campaigns = [[cycle.cut(rules.top_k) for cycle in cycles] for cycles in campaigns]
    ends = [stopped(cycles, rules) for cycles in campaigns]
    to_target = [NEVER if end is None else end.evaluations + evaluations_to(end.relaxed, target) for end in ends]
    in_all = [NEVER if end is None else end.evaluations + end.relaxed.evaluations.sum() for end in ends]
    late = [
        1 - next(cycle.labels for cycle in cycles if target.hits(cycle.relaxed).any()) / end.labels
        for cycles, end, evaluations in zip(campaigns, ends, to_target, strict=True)
        if end is not None and evaluations < NEVER
    ]
    figures = [
        sum(end is not None for end in ends),
        len(late),
        f"{np.median(to_target):.0f}",
        f"{np.median(in_all):.0f}",
    ]
    return " | ".join(map(str, [*figures, f"{np.mean(late):.0%}"]))


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
