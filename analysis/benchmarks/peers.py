"""How many evaluations others need: a genetic algorithm of ase-ga, and random search among symmetric cells as AIRSS.

    pip install ase-ga
    python analysis/benchmarks/peers.py si8 lj cuau tio2 --seeds 3

prints a Markdown table with a row for each system of the suite: how many searches came to the ground state within
``--cap`` evaluations of the reference, and their median to the first hit. Every candidate is relaxed by the reference,
with optimiser, tolerance and limits of a campaign's final relaxations, and each step is counted. What is a hit, and
what campaigns took, stands in the table of `suite.py` in README.md; ``--campaigns N`` runs so many seeds here too.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from genetic import Search, genetic
from suite import SUITE, number, positive

from csp_al import open_run
from csp_al.benchmark.campaigns import run_campaigns
from csp_al.benchmark.control import labels_at_rest
from csp_al.benchmark.statistics import upper_median
from csp_al.benchmark.target import Target
from csp_al.benchmark.trial import NEVER, evaluations_to, relaxed_in_the_end
from csp_al.campaign import Campaign, read_campaign
from csp_al.campaign.machine import Machine
from csp_al.engine.engines import start_engine
from csp_al.generate import generate_pool
from csp_al.geometry import in_short_vectors
from csp_al.loop.tasks import relaxations, run_all
from csp_al.report.tables import Run
from csp_al.structures import Labels, Structures


class Truth(NamedTuple):
    """What README.md says of a system: the target's energy in eV/atom, campaigns that found it, evaluations."""

    energy: float
    found: str
    evaluations: str


def main() -> None:
    arguments = parsed()
    peers: dict[str, Callable[[Campaign, int], Search]] = {"ase-ga": genetic, "AIRSS-like": symmetric}
    try:
        import ase_ga  # noqa: F401
    except ImportError:
        print("ase-ga is not installed, so that it is left out; 'pip install ase-ga' brings it", file=sys.stderr)
        del peers["ase-ga"]
    truths = {name: published(name) for name in arguments.systems}
    print("| | " + " | ".join(f"{name} | evaluations" for name in (*peers, "csp_al")) + " |")
    print("|---" * (2 * len(peers) + 3) + "|", flush=True)
    for name, told in truths.items():
        campaign = read_campaign(SUITE / f"suite-{name}.yaml")
        target = Target(told.energy, campaign.stop.tolerance, "the ground state")
        cells = [f"{name}: {campaign.pool.formula}"]
        for search in peers.values():
            searches = (search(campaign, seed) for seed in range(1, arguments.seeds + 1))
            spent = [evaluations_of(one, campaign, target, arguments.cap) for one in searches]
            cells += in_words(spent, arguments.cap)
        if arguments.campaigns:
            cells += in_words(of_campaigns(name, arguments.campaigns, target, arguments.directory))
        else:
            cells += [told.found, told.evaluations]
        print("| " + " | ".join(cells) + " |", flush=True)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("systems", nargs="*", default=["si8", "lj", "cuau", "tio2"])
    parser.add_argument("--seeds", type=positive, default=3, help="searches of each peer; default: 3")
    parser.add_argument("--cap", type=positive, default=4000, help="evaluations of a search at most; default: 4000")
    parser.add_argument("--campaigns", type=positive, help="seeds of csp_al to run; default: what README.md says")
    parser.add_argument("--directory", type=Path, default=Path("benchmarks/peers"), help="of these campaigns")
    return parser.parse_args()


def published(name: str) -> Truth:
    """What the table of `suite.py` in README.md says of a system."""
    text = Path(__file__).with_name("README.md").read_text(encoding="utf-8")
    columns = r"\w+, \d+ seeds \| (\S+) \| (\d+ of \d+) \| [^|]+ \| (\d+) \|"
    row = re.search(rf"^\| {re.escape(name)}: {columns}", text, re.MULTILINE)
    if row is None:
        sys.exit(f"{name}: no such system in the table of suite.py in {Path(__file__).with_name('README.md')}")
    return Truth(float(row[1]), row[2], row[3])


def in_words(evaluations: list[float], cap: int | None = None) -> list[str]:
    """How many of the searches hit, and the median of their evaluations, with each of them where they are few."""
    hit = sum(each < NEVER for each in evaluations)

    def shown(value: float) -> str:
        return f"> {cap}" if value == NEVER and cap else number(value)

    each = f" ({', '.join(map(shown, sorted(evaluations)))})" if 1 < len(evaluations) <= 5 else ""
    return [f"{hit} of {len(evaluations)}", shown(upper_median(np.array(evaluations))) + each]


def evaluations_of(search: Search, campaign: Campaign, target: Target, cap: int) -> float:
    """Evaluations until a candidate of this search is relaxed to the target; infinite where the cap comes first."""
    spent = 0
    with relaxing(campaign) as relaxed:
        candidate = next(search)
        while spent < cap:
            labels = relaxed(candidate)
            spent += int(labels.evaluations.sum())
            if target.hits(labels)[0]:
                return spent if spent <= cap else NEVER
            candidate = search.send(with_energy(labels))
    return NEVER


@contextmanager
def relaxing(campaign: Campaign) -> Iterator[Callable[[Atoms], Labels]]:
    """What relaxes atoms by the reference of a campaign, as that relaxes its winners."""
    with TemporaryDirectory() as folder:
        root = Path(folder)
        engine = start_engine(root / "tasks", Machine(slots=1))

        def relaxed(atoms: Atoms) -> Labels:
            short = in_short_vectors(Structures.from_atoms([atoms]))
            return labels_at_rest(short, run_all(root, engine, root, relaxations(campaign, short), lambda *_: None)[1])

        try:
            yield relaxed
        finally:
            engine.close()


def with_energy(labels: Labels) -> Atoms | None:
    """The crystal at rest of one relaxation; None where that failed."""
    if not np.isfinite(labels.energy[0]):
        return None
    atoms = labels.structures.to_atoms()[0]
    atoms.calc = SinglePointCalculator(atoms, energy=float(labels.energy[0]))
    return atoms


def symmetric(campaign: Campaign, seed: int) -> Search:
    """Random cells with a space group, as in C. J. Pickard, R. J. Needs, J. Phys. Condens. Mat. 23, 053201."""
    pool = campaign.pools[-1].model_copy(update={"symmetric_fraction": 1.0, "sources": (), "seeds": (), "size": 100})
    for first in count(0, pool.size):
        for atoms in generate_pool(pool, seed, first=first)[0].to_atoms():  # noqa: UP028 - a list takes nothing back
            yield atoms


def of_campaigns(name: str, seeds: int, target: Target, directory: Path) -> list[float]:
    """Evaluations of so many campaigns until the target was relaxed in the end, as `csp-al benchmark` counts them."""
    here = directory / name
    here.mkdir(parents=True, exist_ok=True)
    runs = {seed: here / f"seed-{seed}" for seed in range(1, seeds + 1)}
    run_campaigns(SUITE / f"suite-{name}.yaml", [], runs, 1, lambda *_: None)
    return [first_hit(open_run(path), target, here / "hindsight") for path in runs.values()]


def first_hit(run: Run, target: Target, root: Path) -> float:
    """Evaluations of a campaign until the target was relaxed; infinite where it was not."""
    final = relaxed_in_the_end(run, root, lambda folder: start_engine(folder, Machine(slots=1)))
    before = int(run.cycles["reference_evaluations"].iloc[-1])
    return NEVER if final is None else before + evaluations_to(final, target)


if __name__ == "__main__":
    main()
