"""What looking at a large run costs, and going on with it: CPU seconds and memory, at two sizes each.

    python analysis/benchmarks/large_runs.py [--only cycles] [--share 0.1]

Run directories are made without computing: stages with made-up numbers are published as the loop publishes them, and
every label has its task. Each verb runs in a process of its own, imports included. `resume` is the driver from opening
the run to its first new stage, which is not begun. ``--share`` makes smaller runs.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from csp_al.campaign import Campaign
    from csp_al.structures import Labels, Prediction, Relaxed, Structures

VERBS: Final = ("status", "results", "export", "tables", "report", "resume")
ATOMS: Final = 4
CAMPAIGN: Final = """
name: large
pool: {{formula: Al4, size: {candidates}, min_distance: {{Al-Al: 2.2}}, volume_per_atom: [13, 23]}}
reference: {{kind: ase, calculator: ase.calculators.emt.EMT, time_limit: 60}}
potential: {{members: 2, features: 4, interactions: 1, cutoff: 4.0, steps: 50}}
select: {{per_cycle: {labels}, clusters: 10}}
stop: {{top_k: 3, patience: {more}, max_cycles: {more}}}
budget: {{labels: {budget}}}
"""


@dataclass(frozen=True)
class Size:
    """Of a run: cycles, labels of each, candidates."""

    cycles: int
    labels: int
    candidates: int


SIZES: Final = {
    "cycles": Size(1000, 10, 40),
    "labels": Size(100, 1000, 1000),
    "candidates": Size(3, 10, 50_000),
}
"""By what is large."""


def make(folder: Path, size: Size) -> Path:
    """A run directory whose last cycle is ranked and not yet judged."""
    from csp_al.campaign import read_campaign
    from csp_al.store.run_directory import log, prepare

    source, run = folder / "large.yaml", folder / "large"
    run.mkdir(parents=True)
    numbers = vars(size) | {"more": size.cycles + 1, "budget": (size.cycles + 1) * size.labels}
    source.write_text(CAMPAIGN.format(**numbers), encoding="utf-8")
    os.fsync = lambda _: None  # nothing here has to outlive a power cut
    campaign = read_campaign(source)
    prepare(run, campaign, source, {})
    log(run, "started")
    publish_stages(run, campaign, size)
    log(run, "stopped")
    return run


def publish_stages(run: Path, campaign: Campaign, size: Size) -> None:
    """Every stage that the loop would have published."""
    import torch

    from csp_al.campaign.potentials import potential_kind
    from csp_al.interfaces import Verdict
    from csp_al.store import layout
    from csp_al.store.stages import stage
    from csp_al.structures import Picks

    rng = np.random.default_rng(0)
    ensemble = potential_kind(campaign.potential).new(campaign.potential, [0], torch.device("cpu"))
    pool = crystals(rng, size.candidates)
    after: Path | None = None

    def publish(cycle: int | None, name: Any, **content: Any) -> None:
        nonlocal after
        folder = layout.stage_folder(run, name, cycle)

        def write(aside: Path) -> None:
            for key, value in content.items():
                getattr(layout, key).write(aside, value)
            if name == "train":
                ensemble.save(aside)

        stage(folder, write, after, [after.relative_to(run).as_posix()] if after else [])
        after = folder

    publish(None, "pool", CANDIDATES=pool, ORIGINS=origins(pool))
    publish(None, "check", CHECK={"evaluations": 4, "slopes": []})
    for cycle in range(size.cycles):
        picks = pool.take(rng.choice(len(pool), size=size.labels, replace=False))
        if cycle:
            publish(cycle - 1, "select", PICKS=Picks(picks, picks), PREDICTED=predicted(len(picks), rng))
        labels, listed = labelled(run, campaign, picks, cycle, rng)
        errors = {"WALK_FORWARD": walk_forward(len(picks))} if cycle else {}
        publish(cycle, "label", LABELS=labels, LABEL_TASKS=listed, **errors)
        curve = pd.DataFrame({"epoch": [0, 0], "member": [0, 1], "training": 0.1, "validation": 0.1})
        publish(cycle, "train", LEARNING_CURVE=curve, TRAINING={"left_out": 0})
        relaxed = at_rest(pool, rng)
        publish(cycle, "relax", RELAXED=relaxed)
        publish(cycle, "rank", RANKING=ranking(relaxed, rng))
        if cycle < size.cycles - 1:
            lead = np.argsort(relaxed.prediction.energy)[:3]
            energies = (relaxed.prediction.energy[lead] / ATOMS).tolist()
            publish(cycle, "verdict", VERDICT=Verdict(False, "continues", 0, lead.tolist(), energies, 0.5))


def crystals(rng: np.random.Generator, count: int) -> Structures:
    """Atoms of aluminium anywhere in cubes."""
    from csp_al.structures import Structures, pointer

    return Structures(
        ids=np.arange(count),
        ptr=pointer(np.full(count, ATOMS)),
        numbers=np.full(count * ATOMS, 13, np.int64),
        positions=rng.uniform(0, 4, (count * ATOMS, 3)),
        cells=np.tile(4.0 * np.eye(3), (count, 1, 1)),
    )


def origins(pool: Structures) -> pd.DataFrame:
    """The table of the pool."""
    columns = {"origin": "random", "asked_group": 1, "space_group": "P1", "space_group_number": 1, "n_atoms": ATOMS}
    return pd.DataFrame({"id": pool.ids, **columns, "volume_per_atom": pool.volumes / ATOMS, "note": ""})


def labelled(
    run: Path, campaign: Campaign, picks: Structures, cycle: int, rng: np.random.Generator
) -> tuple[Labels, pd.DataFrame]:
    """Labels of a cycle, whose tasks have their results, and the table of them."""
    from csp_al.engine.tasks import create_task, label_task, publish_result
    from csp_al.loop.tasks import labels_of
    from csp_al.results import Result, Values
    from csp_al.structures import Status

    structures = picks.moved(picks.positions + rng.normal(0, 0.1, picks.positions.shape), picks.cells)
    now, results = datetime.now(UTC).isoformat(), []
    for atoms in structures.to_atoms():
        forces = rng.normal(0, 1, (ATOMS, 3))
        fmax = float(np.linalg.norm(forces, axis=1).max())
        values = Values(float(rng.normal()), forces, np.eye(3), atoms.positions, atoms.cell.array, fmax, 1, False, 0)
        name = create_task(run / "tasks", label_task(atoms, campaign.reference))
        result = Result(values, name, "label", Status.DONE, None, 1.0, 1, [], "here", now, now)
        (run / "tasks" / name / "attempt-1").mkdir()
        publish_result(run / "tasks" / name, result)
        results.append(result)
    labels = labels_of(structures, results, cycle)
    columns = {"candidate": picks.ids, "task": [result.id for result in results], "status": labels.status}
    return labels, pd.DataFrame(columns | {"reason": labels.reason, "cost_s": labels.cost})


def walk_forward(labels: int) -> dict[str, float]:
    """How well the labels had been predicted."""
    from csp_al.store.records import WalkForward

    return dict.fromkeys(WalkForward.__annotations__, 0.1) | {"labels": labels, "compared": labels}


def predicted(count: int, rng: np.random.Generator) -> Prediction:
    """A prediction for so many structures."""
    from csp_al.structures import Prediction

    sigma, atoms = np.full(count, 0.1), count * ATOMS
    forces, stress = np.zeros((atoms, 3)), np.zeros((count, 3, 3))
    features = rng.normal(0, 1, (count, 8))
    return Prediction(rng.normal(0, 1, count), sigma, forces, np.full(atoms, 0.1), stress, sigma, features)


def at_rest(pool: Structures, rng: np.random.Generator) -> Relaxed:
    """The pool where it is, as if relaxed."""
    from csp_al.interfaces import CONVERGED
    from csp_al.structures import Relaxed

    count = len(pool)
    return Relaxed(pool, predicted(count, rng), np.full(count, CONVERGED), np.full(count, 20))


def ranking(relaxed: Relaxed, rng: np.random.Generator) -> pd.DataFrame:
    """The table of a ranking, with basins by chance: to tell crystals apart would compute."""
    count = len(relaxed)
    columns = {"sigma_per_atom": 0.1, "score": 0.1, "max_force": 0.01, "max_force_sigma": 0.1, "volume_per_atom": 16.0}
    groups = {"cluster": rng.integers(10, size=count), "basin": rng.integers(count, size=count)}
    ends = {"reason": relaxed.reason, "steps": relaxed.steps, "trusted": True}
    energies = relaxed.prediction.energy / ATOMS
    return pd.DataFrame({"id": relaxed.structures.ids, "energy_per_atom": energies, **columns, **groups, **ends})


def measure(verb: str, run: Path) -> dict[str, float]:
    """CPU seconds of this process and the most memory it held (MiB; Linux), once the verb is done."""
    if verb == "tables":
        read_tables(run)
    elif verb == "resume":
        go_on(run)
    else:
        look(verb, run)
    seconds = time.process_time()
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()  # rusage has the parent's memory in it
    return {"seconds": seconds, "memory": next(int(line.split()[1]) / 1024 for line in lines if "VmHWM" in line)}


def look(verb: str, run: Path) -> None:
    """A verb of the command line."""
    from csp_al.cli import app

    with tempfile.TemporaryDirectory() as folder:
        options = ["--format", "extxyz", "--what", "labels", "--to", folder] if verb == "export" else []
        app([verb, str(run), *options], standalone_mode=False)


def read_tables(run: Path) -> None:
    """Every table of a run."""
    from csp_al import open_run

    opened = open_run(run)
    for table in (opened.pool, opened.labels, opened.cycles, opened.learning_curves, opened.ranking()):
        print(len(table))


class FirstStageError(Exception):
    """A stage is about to be done that is not published."""


def go_on(run: Path) -> None:
    """A driver, to its first new stage."""
    import torch

    from csp_al.campaign import read_campaign
    from csp_al.campaign.machine import Machine
    from csp_al.cli.panel import Panel
    from csp_al.engine.engines import start_engine
    from csp_al.events import Event, StageStarted
    from csp_al.loop.drive import Drive
    from csp_al.loop.search import search
    from csp_al.store.lock import locked
    from csp_al.store.opening import open_to_drive

    campaign = read_campaign(run.with_suffix(".yaml"))
    with locked(run), Panel(campaign, run) as panel:

        def tell(event: Event) -> None:
            if isinstance(event, StageStarted):
                raise FirstStageError(f"cycle {event.cycle}: {event.stage}")
            panel.tell(event)

        opened = open_to_drive(run, campaign, None, {}, mend=False, tell=panel.note)
        engine = start_engine(run / "tasks", Machine(slots=1))
        try:
            search(Drive(opened, run, run.parent, torch.device("cpu"), tell, engine))
        except FirstStageError as reached:
            print(reached)


def measured(verb: str, run: Path) -> dict[str, float]:
    """`measure` in a process of its own."""
    command = [sys.executable, __file__, "--measure", verb, str(run)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{verb} {run}: {done.stderr}")
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def compare(what: str, size: Size, folder: Path) -> None:
    """Print a line for each verb: half the size and all of it."""
    all_of_it = getattr(size, what)
    runs = [make(folder / str(count), replace(size, **{what: count})) for count in (all_of_it // 2, all_of_it)]
    for verb in VERBS:
        figures = [measured(verb, run) for run in runs]
        cells = [f"{one['seconds']:.1f} s, {one['memory']:.0f} MiB" for one in figures]
        print(f"| {all_of_it} {what} | {verb} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--share", type=float, default=1.0, help="of what is large in each of the runs")
    parser.add_argument("--only", choices=SIZES, help="one of the runs")
    parser.add_argument("--measure", nargs=2, metavar=("VERB", "DIR"), help="one verb, here, for a run that is there")
    asked = parser.parse_args()
    if asked.measure:
        print(json.dumps(measure(asked.measure[0], Path(asked.measure[1]))))
        return
    print("| | | half of it | all |\n|---|---|---|---|")
    for what, size in SIZES.items():
        if asked.only in (None, what):
            smaller = replace(size, **{what: round(asked.share * getattr(size, what))})
            with tempfile.TemporaryDirectory() as folder:
                compare(what, smaller, Path(folder))


if __name__ == "__main__":
    main()
