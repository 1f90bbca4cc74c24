"""Training steps and predictions on one thread and on all cores, against the size of a pass.

python analysis/benchmarks/threads.py [--kinds schnet painn so3net leignn] [--features 16 64]

Three members, silicon (Tersoff), random cells of 8 atoms, the median of at least three repeats. Says where
`csp_al.potential.devices.WORTH_A_THREAD` belongs: two threads must pay where a pass has twice that.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import silicon
import torch
from pydantic import TypeAdapter

from csp_al.campaign.potentials import AnyPotential
from csp_al.potential import devices
from csp_al.potential.ensemble import bytes_per_edge, new_ensemble
from csp_al.potential.graphs import find_edges
from csp_al.potential.kind import NetworkPotential
from csp_al.potential.training import train
from csp_al.structures import Labels, Structures

TRAINED, PREDICTED, STEPS = (16, 64, 256), (30, 100, 300, 1000), 5
CPU = torch.device("cpu")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kinds", nargs="+", default=["schnet", "painn", "so3net", "leignn"])
    parser.add_argument("--features", nargs="+", type=int, default=[16, 64])
    arguments = parser.parse_args()
    devices.use_cores(len(os.sched_getaffinity(0)))
    labels = silicon.labels(silicon.pool(8, max(*TRAINED, *PREDICTED)))
    print(
        "| potential | what | structures | MB of a pass | ms on one thread | on all, shares of that |\n|" + "---|" * 6
    )
    for kind in arguments.kinds:
        for features in arguments.features:
            rows(kind, features, labels)


def rows(kind: str, features: int, labels: Labels) -> None:
    keys = {"kind": kind, "members": 3, "features": features, "interactions": 2, "cutoff": 5.0}
    section: NetworkPotential = TypeAdapter(AnyPotential).validate_python(keys)
    for size in TRAINED:
        at_once = section.model_copy(update={"batch_size": size, "steps": STEPS})
        learn = partial(train, new_ensemble(at_once, [1], CPU), labels.take(np.arange(size)), [1])
        row(f"{kind} {features} | {STEPS} steps", section, labels.structures.take(np.arange(size)), learn)
    for size in PREDICTED:
        structures = labels.structures.take(np.arange(size))
        predict = partial(new_ensemble(section, [1], CPU).predict, structures)
        row(f"{kind} {features} | predict", section, structures, predict)


def row(what: str, section: NetworkPotential, structures: Structures, work: Callable[[], object]) -> None:
    megabytes = len(find_edges(structures, section.cutoff).source) * bytes_per_edge(section, CPU) / 1e6
    one, every = (seconds(work, worth) for worth in (10**15, 1))
    print(f"| {what} | {len(structures)} | {megabytes:.0f} | {1e3 * one:.0f} | {every / one:.2f} |", flush=True)


def seconds(work: Callable[[], object], worth: int) -> float:
    """The median time of some repeats, where each thread must have so many bytes to do."""
    devices.WORTH_A_THREAD = worth
    work()
    times: list[float] = []
    while len(times) < 3 or (sum(times) < 0.5 and len(times) < 50):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return float(np.median(times))


if __name__ == "__main__":
    main()
