"""Slots that wait: how busy labels keep them, and what it costs to choose labels before others have come in.

    python analysis/benchmarks/slots.py                      # simulated: label times, trainings, slots; a minute
    python analysis/benchmarks/slots.py al8 si8 --seeds 3    # campaigns of the suite, whose reference sleeps
    python analysis/benchmarks/slots.py al8 --seeds 1 --in-flight 24 --mean 60 --labels 250  # a long one

Simulated label times spread as much as their mean, and a training, with all that a cycle computes, takes half of a mean
label. Campaigns sleep likewise, on so many slots whatever the number of cores; ``busy`` is of the time from the first
label to the last, ``led`` the evaluations until the target had been relaxed, had the campaign stopped as soon as it
led. What was run before is not run again.
"""

from __future__ import annotations

import argparse
import heapq
import os
import shutil
from itertools import product
from pathlib import Path

import numpy as np
import torch
from ruamel.yaml import YAML
from sleeping import MEAN

from csp_al.benchmark.target import Target
from csp_al.benchmark.trial import evaluations_to, leaders_by_cycle
from csp_al.campaign import read_campaign
from csp_al.campaign.machine import Machine
from csp_al.engine.engines import start_engine
from csp_al.engine.local import LocalEngine
from csp_al.engine.tasks import read_result
from csp_al.loop.drive import Drive
from csp_al.loop.search import search
from csp_al.report.tables import Run, open_run
from csp_al.store.lock import locked
from csp_al.store.run_directory import log, prepare
from csp_al.store.stages import is_published

SUITE = Path(__file__).parents[2] / "campaigns" / "suite"
LOWEST = {"al8": -0.0087, "si8": -4.3366, "cuau": -0.0145, "lj": -6.3306}
"""eV/atom; of the suite."""
IN_FLIGHT = (0, 8, 16, 24, 32)
TRAINING = 0.5
"""Of a mean label."""
REPEATS = 200


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("systems", nargs="*", choices=[*LOWEST, []], help="such as si8; default: simulations")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--slots", type=int, default=16)
    parser.add_argument("--in-flight", type=int, nargs="+", default=[0, 24])
    parser.add_argument("--per-cycle", type=int, default=10)
    parser.add_argument("--mean", type=float, default=10.0, help="s that a label sleeps on average")
    parser.add_argument("--labels", type=int, help="search on until there are so many, whatever is found")
    parser.add_argument("--directory", type=Path, default=Path("benchmarks") / "slots")
    arguments = parser.parse_args()
    if not arguments.systems:
        return simulate(arguments.slots, arguments.per_cycle)
    os.environ[MEAN] = str(arguments.mean)
    paths = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)
    print("| system | seed | in flight | labels | busy | training, of a label | found | led | in all |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name, seed, in_flight in product(arguments.systems, range(1, arguments.seeds + 1), arguments.in_flight):
        folder = arguments.directory / f"{name}-{in_flight}-{seed}{f'-{arguments.labels}' if arguments.labels else ''}"
        select = {"per_cycle": arguments.per_cycle, "in_flight": in_flight}
        run = finished(name, seed, select, arguments.slots, folder, arguments.labels)
        print(f"| {name} | {seed} | {in_flight} | {row(run, arguments.slots, LOWEST[name], folder)} |", flush=True)
    return None


def simulate(slots: int, per_cycle: int) -> None:
    """Print how busy slots are, for campaigns of several lengths."""
    rng = np.random.default_rng(0)
    print(f"{slots} slots, {per_cycle} labels a cycle: share of the time that slots are busy, by labels in flight")
    print("| labels | " + " | ".join(map(str, IN_FLIGHT)) + " |")
    print("|---" * (len(IN_FLIGHT) + 1) + "|")
    for labels in (60, 150, 300, 1000):
        shares = [np.mean([simulated(slots, per_cycle, out, labels, rng) for _ in range(REPEATS)]) for out in IN_FLIGHT]
        print(f"| {labels} | " + " | ".join(f"{100 * share:.0f}%" for share in shares) + " |", flush=True)


def simulated(slots: int, per_cycle: int, in_flight: int, labels: int, rng: np.random.Generator) -> float:
    """Share of the time that slots are busy, in one campaign of so many labels."""
    free, out = [0.0] * slots, list[float]()
    now, busy, asked = 0.0, 0.0, 0

    def ask(count: int) -> None:
        nonlocal busy, asked
        for _ in range(min(count, labels - asked)):
            begins, takes = max(heapq.heappop(free), now), float(rng.exponential())
            heapq.heappush(free, begins + takes)
            out.append(begins + takes)
            busy, asked = busy + takes, asked + 1

    ask(per_cycle + in_flight)
    while out:
        left = in_flight if asked < labels else 0
        if len(out) > left:
            now = max(now, sorted(out)[len(out) - left - 1])
        out[:] = [ends for ends in out if ends > now]
        now += TRAINING
        ask(per_cycle + max(0, in_flight - len(out)))
    return busy / (slots * max(free))


def finished(name: str, seed: int, select: dict[str, int], slots: int, folder: Path, labels: int | None) -> Run:
    """A campaign of the suite with a reference that sleeps, run to its end unless it was before.

    With so many ``labels``, of a larger pool, where they are given.
    """
    run = folder / "run"
    if not is_published(run / "winners"):
        shutil.rmtree(folder, ignore_errors=True)
        run.mkdir(parents=True)
        source = folder / "campaign.yaml"
        content = YAML(typ="safe").load((SUITE / f"suite-{name}.yaml").read_text())
        reference = content["reference"]
        of = {"calculator": reference["calculator"], "parameters": reference.get("parameters", {})}
        reference |= {"calculator": "sleeping.Sleeping", "parameters": of, "time_limit": 3600}
        content |= {"seed": seed, "select": select}
        if labels is not None:
            content["pool"]["size"] = max(content["pool"]["size"], labels + select["in_flight"])
            content["stop"] |= {"patience": labels, "max_cycles": labels}
            content["budget"] = {"labels": labels}
        YAML(typ="safe").dump(content, source)
        campaign = read_campaign(source)
        with locked(run):
            prepare(run, campaign, source, {})
            engine = LocalEngine(run / "tasks", Machine(slots=slots))
            try:
                log(run, "started")
                device = torch.device("cpu")
                verdict = search(Drive(campaign, run, folder.resolve(), device, lambda _: None, engine))
                log(run, "finished", reason=verdict.reason)
            finally:
                engine.close()
    return open_run(run)


def row(run: Run, slots: int, lowest: float, folder: Path) -> str:
    """How busy slots were, and what was found when."""
    results = [read_result(run.path / "tasks", task) for task in run.labels["task"]]
    began, ended = (
        np.array([np.datetime64(getattr(result, at).split("+")[0]) for result in results if result])
        for at in ("started", "finished")
    )
    second = np.timedelta64(1, "s")
    span, times = (ended.max() - began.min()) / second, (ended - began) / second
    training = run.cycles[["seconds_train", "seconds_relax", "seconds_rank", "seconds_select"]].sum(axis=1).mean()
    target = Target(lowest, run.campaign.stop.tolerance, "the suite's")
    awake = os.environ.pop(MEAN)
    by_cycle = leaders_by_cycle(
        run, folder / "hindsight", lambda tasks: start_engine(tasks, Machine(slots=2)), lambda *_: None
    )
    os.environ[MEAN] = awake
    spent = run.cycles.set_index("cycle")["reference_evaluations"]
    led = [spent[cycle] + evaluations_to(labels, target) for cycle, labels in by_cycle.items()]
    lowest_found = run.results["energy_per_atom"].min()
    return (
        f"{len(run.labels)} | {100 * times.sum() / (slots * span):.0f}% | {training / times.mean():.2f} | "
        f"{'yes' if lowest_found <= lowest + run.campaign.stop.tolerance else 'no'} | {min(led):.0f} | "
        f"{run.reference_evaluations}"
    )


if __name__ == "__main__":
    main()
