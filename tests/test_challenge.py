"""A search whose leaders stay the same is challenged before it stops, and a challenge that was cut off is the same."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from small_run import run_to_its_end
from typer.testing import CliRunner

from csp_al.cli import app
from csp_al.loop.bodies import _proven
from csp_al.loop.progress import Progress
from csp_al.report.tables import Run, open_run
from csp_al.select.challenge import kinds
from csp_al.store import layout
from csp_al.structures import concatenate

CAMPAIGN = """\
name: sure
seed: 2
pool: {formula: Al2, size: 16, volume_per_atom: [13, 23], min_distance: {Al-Al: 2.2}}
reference: {kind: ase, calculator: ase.calculators.emt.EMT, time_limit: 60}
potential: {members: 2, features: 8, interactions: 1, cutoff: 4.0, steps: 60}
relax: {max_steps: 40}
select: {per_cycle: 5}
stop: {top_k: 1, tolerance: 0.2, max_error: 1, max_unseen: 1, max_cycles: 8}
finish: {max_steps: 20}
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A campaign that is soon sure of itself, since it takes nearly all energies for the same. To be read."""
    return run_to_its_end(tmp_path_factory.mktemp("challenge"), CAMPAIGN)


def first_stable(run: Run) -> int:
    return next(cycle for cycle in run.published("verdict") if run.verdict(cycle).stable_cycles == 1)


def picks_of(run: Path, cycle: int):
    return layout.PICKS.read(layout.stage_folder(run, "select", cycle))


def test_a_search_stops_settled_only_after_a_challenge(run):
    opened = open_run(run)
    last = opened.verdict()
    assert (last.stop, last.settled, last.stable_cycles) == (True, True, 2)
    assert last.reason.startswith("settled: the lowest 1 crystal stayed the same for 2 cycles, after a challenge")
    assert opened.summary["settled"] is True
    assert opened.verdict(first_stable(opened)).reason.startswith("continues: unchanged for 1 cycle")
    assert opened.walk_forward()["energy_apart_mev_per_atom"] is not None


def test_a_challenge_asks_for_kinds_with_few_labels(run):
    cycle = first_stable(open_run(run))
    labelled = concatenate([picks_of(run, earlier).origin for earlier in range(cycle)])
    asked = picks_of(run, cycle).origin
    assert len(asked) == 5
    assert len(np.unique(asked.ids)) == 5
    assert len(set(kinds(asked))) > 1
    assert len(labelled) == 5 * cycle


def test_relaxations_go_on_from_the_lowest_that_was_labelled_and_from_what_challenged(run):
    opened = open_run(run)
    cycle = first_stable(opened)
    progress = Progress(opened.pool_structures, opened.pool_structures.ids, 16)
    for earlier in range(cycle + 1):
        progress.origins.append(picks_of(run, earlier).origin)
        progress.learn(layout.LABELS.read(layout.stage_folder(run, "label", earlier + 1)))
    labels = progress.all_labels
    before = concatenate(progress.origins)
    order = np.argsort(labels.energy, kind="stable")
    lowest = list(dict.fromkeys(before.ids[order].tolist()))[:2]  # two for each leader
    for judged, newest in ((cycle, progress.origins[-1].ids.tolist()), (0, [])):
        progress.verdict = opened.verdict(judged)
        starts = _proven(opened.campaign, progress)
        assert starts.ids.tolist() == [*lowest, *newest]
        assert (starts.cells[0] == before.cells[order[0]]).all()  # not shaken, in the vectors that it had


def test_a_challenge_that_was_cut_off_is_the_same_when_it_goes_on(run, tmp_path):
    cycle, again = first_stable(open_run(run)), tmp_path / "again"
    shutil.copytree(run, again)
    for folder in (again / f"cycle-{cycle + 1:02d}", again / f"cycle-{cycle:02d}" / "select", again / "winners"):
        shutil.rmtree(folder)
    ended = CliRunner().invoke(app, ["resume", str(again), "--trust", "--slots", "1", "--device", "cpu"])
    assert ended.exit_code == 0, ended.output
    for one, other in zip(*(sorted(each.glob("cycle-*/select")) for each in (run, again)), strict=True):
        assert [(path.name, path.read_bytes()) for path in sorted(one.glob("*.h5"))] == [
            (path.name, path.read_bytes()) for path in sorted(other.glob("*.h5"))
        ]
    assert (again / "winners" / "results.json").read_bytes() == (run / "winners" / "results.json").read_bytes()
