"""A run costs what is read of it: twice the cycles are twice the files, stat calls and names of folders, no more."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from csp_al.campaign import Campaign, Pool
from csp_al.campaign.machine import Machine
from csp_al.cli.panel import ROWS, Panel
from csp_al.engine.engines import start_engine
from csp_al.events import CycleJudged, Event, StageStarted
from csp_al.loop.drive import Drive
from csp_al.loop.search import search
from csp_al.loop.stages import train
from csp_al.reference.gpaw import GpawReference
from csp_al.report.page import content
from csp_al.report.status import status
from csp_al.report.tables import open_run
from csp_al.store.repair import refuse_damage
from csp_al.store.run_directory import STAGES, cycle_folder, read_campaign_of
from csp_al.store.stages import MANIFEST, partial, publish

CYCLES = (4, 8, 12)


class FirstStageError(Exception):
    """A stage is about to be done that is not published."""


@pytest.fixture(scope="module")
def runs(finished_run, tmp_path_factory) -> list[Path]:
    """Runs of as many cycles as `CYCLES` says, to be gone on with; all from the second on are alike."""
    folder = tmp_path_factory.mktemp("large")
    return [lengthened(finished_run, folder / str(cycles), cycles) for cycles in CYCLES]


def lengthened(finished: Path, run: Path, cycles: int) -> Path:
    """A copy of a run, whose second cycle is repeated until there are so many."""
    shutil.copytree(finished, run, ignore=shutil.ignore_patterns("winners", "cycle-02"))
    after = cycle_folder(run, 1) / STAGES[-1]
    for cycle in range(2, cycles):
        for name in (name for name in STAGES if name not in ("direct", "grow")):
            place = cycle_folder(run, cycle) / name
            kept = shutil.ignore_patterns(MANIFEST)
            shutil.copytree(cycle_folder(finished, 1) / name, partial(place), ignore=kept)
            publish(place, after, [after.relative_to(run).as_posix()], 1.0)
            after = place
    return run


def go_on(run: Path) -> None:
    """A driver, to its first new stage."""

    def tell(event: Event) -> None:
        if isinstance(event, StageStarted):
            raise FirstStageError

    campaign = read_campaign_of(run)
    campaign = campaign.model_copy(update={"stop": campaign.stop.model_copy(update={"max_cycles": 100})})
    engine = start_engine(run / "tasks", Machine(slots=1))
    with pytest.raises(FirstStageError):
        search(Drive(campaign, run, run.parent, torch.device("cpu"), tell, engine))


def counted(monkeypatch, look: Callable[[Path], object], run: Path) -> int:
    """Files opened, stat calls, and names in the folders that are listed."""
    seen = 0

    def counting(function, cost=lambda _: 1):
        def call(path=".", *arguments, **keywords):
            nonlocal seen
            seen += cost(path)
            return function(path, *arguments, **keywords)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", counting(os.open))
        patch.setattr(os, "stat", counting(os.stat))
        patch.setattr(os, "scandir", counting(os.scandir, lambda path: len(list(Path(path).iterdir()))))
        look(run)
    return seen


@pytest.mark.parametrize(
    "look",
    [
        status,
        refuse_damage,
        go_on,
        lambda run: open_run(run).cycles,
        lambda run: open_run(run).labels,
        lambda run: open_run(run).learning_curves,
        lambda run: open_run(run).verdict(),
        lambda run: content(open_run(run), status(run)),
        lambda run: open_run(run).life(3),
    ],
    ids=["status", "damage", "go on", "cycles", "labels", "curves", "verdict", "report", "life"],
)
def test_what_is_looked_at_grows_in_proportion_to_the_cycles(monkeypatch, runs, look):
    look(runs[0])  # what is imported on the way is not of the run
    few, more, many = (counted(monkeypatch, look, run) for run in runs)
    assert few < many
    assert many - more <= 1.1 * (more - few)


def test_a_driver_loads_no_ensemble_before_a_stage_needs_it(monkeypatch, runs):
    loaded = []

    def noting(drive, cycle, progress):
        load = train(drive, cycle, progress)

        def noted():
            loaded.append(cycle)
            return load()

        return noted

    monkeypatch.setattr("csp_al.loop.stages.train", noting)
    go_on(runs[0])
    assert loaded == []


def test_status_and_effort_count_the_labels_that_the_tables_show(finished_run):
    run = open_run(finished_run)
    assert run.outcomes.equals(run.labels[run.outcomes.columns])
    assert run.effort.equals(run.cycles[run.effort.columns])


def test_a_panel_draws_the_last_cycles_and_all_of_them_in_the_end(monkeypatch, tmp_path):
    monkeypatch.setenv("TERM", "xterm")
    panel = Panel(Campaign(name="al4", pool=Pool(formula="Al4"), reference=GpawReference()), tmp_path)
    panel.console.file = out = io.StringIO()
    panel.console._force_terminal = True
    with panel:
        for cycle in range(ROWS + 30):
            panel.tell(CycleJudged(cycle, 0, 1000 + cycle, 0, *[None] * 5, 0, None, ""))
        panel.live.refresh()
        running = out.getvalue()
    assert "1000" not in running.rpartition("stable cycles")[2]
    assert "1000" in out.getvalue().rpartition("stable cycles")[2]
