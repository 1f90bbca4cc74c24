"""What looking at a large run costs, and going on with it: CPU seconds and memory, at two sizes each.

    python analysis/benchmarks/large_runs.py [--share 0.1]

Run directories are made without computing: stages with made-up numbers are published as the loop publishes them, and
every label has its task. Each verb runs in a process of its own, imports included. `resume` is the driver from opening
the run to its first new stage, which is not begun. ``--share`` makes smaller runs.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

VERBS: Final = ("status", "results", "export", "tables", "resume")
ATOMS: Final = 4
FEATURES: Final = 8
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

    def of(self, share: float, what: str) -> Size:
        """With so much of one of them."""
        return Size(**{**vars(self), what: max(2, round(share * getattr(self, what)))})


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
    budget, more = (size.cycles + 1) * size.labels, size.cycles + 1
    text = CAMPAIGN.format(candidates=size.candidates, labels=size.labels, budget=budget, more=more)
    run.mkdir(parents=True)
    source.write_text(text, encoding="utf-8")
    os.fsync = lambda _: None  # nothing here has to outlive a power cut
    campaign = read_campaign(source)
    prepare(run, campaign, source, {})
    log(run, "started")
    _publish_stages(run, campaign, size)
    log(run, "stopped")
    return run


def _publish_stages(run: Path, campaign: object, size: Size) -> None:
    """Every stage that the loop would have published."""
    import torch

    from csp_al.campaign.potentials import potential_kind
    from csp_al.interfaces import Verdict
    from csp_al.store import layout
    from csp_al.store.stages import stage
    from csp_al.structures import Picks

    rng = np.random.default_rng(0)
    section = campaign.potential
    ensemble = potential_kind(section).new(section, [0], torch.device("cpu"))
    pool = crystals(rng, np.arange(size.candidates))
    before: list[Path] = []

    def publish(cycle: int | None, name: str, **content: object) -> None:
        folder, after = layout.stage_folder(run, name, cycle), (before or [None])[-1]

        def write(aside: Path) -> None:
            for key, value in content.items():
                getattr(layout, key).write(aside, value)
            if name == "train":
                ensemble.save(aside)

        stage(folder, write, after, [after.relative_to(run).as_posix()] if after else [])
        before.append(folder)

    publish(None, "pool", CANDIDATES=pool, ORIGINS=origins(pool))
    publish(None, "check", CHECK={"evaluations": 4, "slopes": []})
    picks = pool.take(rng.choice(len(pool), size=size.labels, replace=False))
    for cycle in range(size.cycles):
        labels, listed = labelled(run, campaign, picks, cycle, rng)
        forward = {} if cycle == 0 else {"WALK_FORWARD": errors(size.labels)}
        publish(cycle, "label", LABELS=labels, LABEL_TASKS=listed, **forward)
        publish(cycle, "train", LEARNING_CURVE=curve(), TRAINING={"left_out": 0})
        relaxed = at_rest(pool, rng)
        publish(cycle, "relax", RELAXED=relaxed)
        publish(cycle, "rank", RANKING=ranking(relaxed, rng))
        if cycle == size.cycles - 1:
            return
        top = np.sort(relaxed.prediction.energy)[:3] / ATOMS
        lead = np.argsort(relaxed.prediction.energy)[:3]
        said = Verdict(stop=False, reason="continues", stable_cycles=0, top=lead.tolist(), energies=top.tolist(),
                       unseen=0.5)  # fmt: skip
        publish(cycle, "verdict", VERDICT=said)
        picks = pool.take(rng.choice(len(pool), size=size.labels, replace=False))
        publish(cycle, "select", PICKS=Picks(picks, picks), PREDICTED=predicted(len(picks), rng))


def crystals(rng: np.random.Generator, ids: np.ndarray) -> object:
    """Atoms of aluminium anywhere in cubes."""
    from csp_al.structures import Structures, pointer

    count = len(ids)
    return Structures(
        ids=ids.astype(np.int64),
        ptr=pointer(np.full(count, ATOMS)),
        numbers=np.full(count * ATOMS, 13, np.int64),
        positions=rng.uniform(0, 4, (count * ATOMS, 3)),
        cells=np.tile(4.0 * np.eye(3), (count, 1, 1)),
    )


def origins(pool: object) -> pd.DataFrame:
    """The table of the pool."""
    columns = {"origin": "random", "asked_group": 1, "space_group": "P1", "space_group_number": 1, "n_atoms": ATOMS}
    return pd.DataFrame({"id": pool.ids, **columns, "volume_per_atom": pool.volumes / ATOMS, "note": ""})


def labelled(run: Path, campaign: object, picks: object, cycle: int, rng: np.random.Generator) -> tuple:
    """Labels of a cycle, whose tasks have their results, and the table of them."""
    from csp_al.engine.tasks import create_task, label_task, publish_result
    from csp_al.loop.tasks import labels_of
    from csp_al.results import Result, Values
    from csp_al.structures import Status

    structures = picks.moved(picks.positions + rng.normal(0, 0.1, picks.positions.shape), picks.cells)
    names, results = [], []
    for atoms in structures.to_atoms():
        forces, now = rng.normal(0, 1, (ATOMS, 3)), datetime.now(UTC).isoformat()
        values = Values(float(rng.normal()), forces, np.eye(3), atoms.positions, atoms.cell.array,
                        float(np.linalg.norm(forces, axis=1).max()), 1, converged=False, steps=0)  # fmt: skip
        name = create_task(run / "tasks", label_task(atoms, campaign.reference))
        result = Result(values, name, "label", Status.DONE, None, 1.0, 1, [], "here", now, now)
        (run / "tasks" / name / "attempt-1").mkdir(exist_ok=True)
        publish_result(run / "tasks" / name, result)
        names.append(name)
        results.append(result)
    labels = labels_of(structures, results, cycle)
    columns = {"candidate": labels.structures.ids, "task": names, "status": labels.status, "reason": labels.reason}
    return labels, pd.DataFrame(columns | {"cost_s": labels.cost})


def predicted(count: int, rng: np.random.Generator) -> object:
    """A prediction for so many structures."""
    from csp_al.structures import Prediction

    atoms = count * ATOMS
    return Prediction(
        energy=rng.normal(0, 1, count),
        energy_sigma=np.full(count, 0.1),
        forces=np.zeros((atoms, 3)),
        forces_sigma=np.full(atoms, 0.1),
        stress=np.zeros((count, 3, 3)),
        stress_sigma=np.full(count, 0.1),
        features=rng.normal(0, 1, (count, FEATURES)),
    )


def at_rest(pool: object, rng: np.random.Generator) -> object:
    """The pool where it is, as if relaxed."""
    from csp_al.interfaces import CONVERGED
    from csp_al.structures import Relaxed

    count = len(pool)
    return Relaxed(pool, predicted(count, rng), np.full(count, CONVERGED), np.full(count, 20))


def ranking(relaxed: object, rng: np.random.Generator) -> pd.DataFrame:
    """The table of a ranking, with basins by chance: to tell crystals apart would compute."""
    count = len(relaxed)
    columns = {"sigma_per_atom": 0.1, "score": 0.1, "max_force": 0.01, "max_force_sigma": 0.1, "volume_per_atom": 16.0}
    return pd.DataFrame(
        {"id": relaxed.structures.ids, "energy_per_atom": relaxed.prediction.energy / ATOMS, **columns,
         "cluster": rng.integers(10, size=count), "basin": rng.integers(count, size=count), "reason": relaxed.reason,
         "steps": relaxed.steps, "trusted": True}
    )  # fmt: skip


def curve() -> pd.DataFrame:
    """Losses of one epoch."""
    return pd.DataFrame({"epoch": [0, 0], "member": [0, 1], "training": 0.1, "validation": 0.1})


def errors(labels: int) -> dict[str, object]:
    """What `csp_al.select.walk_forward` gives."""
    from csp_al.report.columns import PREDICTION_ERRORS

    return {"labels": labels, "compared": labels, **dict.fromkeys(PREDICTION_ERRORS, 0.1)}


def measure(verb: str, run: Path) -> dict[str, float]:
    """CPU seconds of this process and its children, and the most memory it held (MiB), once the verb is done."""
    with tempfile.TemporaryDirectory() as export:
        try:
            {"tables": read_tables, "resume": go_on}.get(verb, partial(look, verb, export=export))(run)
        except SystemExit as end:
            if end.code:
                raise
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {"seconds": used.ru_utime + used.ru_stime, "memory": used.ru_maxrss / 1024}


def look(verb: str, run: Path, export: str) -> None:
    """A verb of the command line."""
    from csp_al.cli import app

    options = ["--format", "extxyz", "--what", "labels", "--to", export] if verb == "export" else []
    app([verb, str(run), *options])


def read_tables(run: Path) -> None:
    """Every table of a run."""
    from csp_al import open_run

    opened = open_run(run)
    print([len(table) for table in (opened.pool, opened.labels, opened.cycles, opened.learning_curves)])
    print(len(opened.ranking()))


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
    halves = [size.of(share, what) for share in (0.5, 1)]
    runs = [make(folder / f"{what}-{number}", half) for number, half in enumerate(halves)]
    for verb in VERBS:
        figures = [measured(verb, run) for run in runs]
        cells = [f"{one['seconds']:.1f} s, {one['memory']:.0f} MiB" for one in figures]
        print(f"| {getattr(size, what)} {what} | {verb} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--share", type=float, default=1.0)
    parser.add_argument("--measure", nargs=2, metavar=("VERB", "DIR"), help="one verb here, for a run that is there")
    parser.add_argument("--only", choices=SIZES, help="one of the three runs")
    asked = parser.parse_args()
    if asked.measure:
        print(json.dumps(measure(asked.measure[0], Path(asked.measure[1]))))
        return
    print("| | | half of it | all |\n|---|---|---|---|")
    for what, size in SIZES.items():
        if asked.only in (None, what):
            with tempfile.TemporaryDirectory() as folder:
                compare(what, size.of(asked.share, what), Path(folder))


if __name__ == "__main__":
    main()
