"""What people and programs see of a run: tables, status, plan, exports, figures, the notebook, and this machine."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import h5py
import jupytext
import numpy as np
import pandas as pd
import pytest
import torch
from ase.calculators.emt import EMT
from ase.units import GPa
from nbclient import NotebookClient
from rich.console import Console
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler
from typer.testing import CliRunner

import csp_al
from csp_al.campaign import Budget, Campaign, Pool, Select, Stop, read_campaign
from csp_al.cli import app
from csp_al.cli.panel import Pace, Panel
from csp_al.cli.tables import results_table, say_where_it_stands
from csp_al.engine.tasks import read_result
from csp_al.events import Advanced, StageStarted
from csp_al.files import DamagedError
from csp_al.hdf5 import load
from csp_al.potential.devices import available_devices, describe_device, resolve_device
from csp_al.reference.ase_calculator import AseReference
from csp_al.reference.gpaw import GpawReference
from csp_al.report import columns, doctor, figures
from csp_al.report.plan import describe_plan, plan, schedule
from csp_al.report.projection import principal_components
from csp_al.report.status import Best, LabelCounts, status
from csp_al.report.status_in_words import describe
from csp_al.report.tables import open_run
from csp_al.select.walk_forward import walk_forward
from csp_al.store import layout
from csp_al.store.lock import locked
from csp_al.store.run_directory import NoRunError, log, prepare
from csp_al.store.stages import manifest
from csp_al.structures import Labels, Prediction, Relaxed, Structures, concatenate

ROOT = Path(__file__).parents[1]
STAGES = ("label", "train", "relax", "rank", "verdict", "select")


@pytest.fixture(scope="module")
def run(finished_run):
    return open_run(finished_run)


@pytest.fixture(scope="module")
def labels(finished_run):
    return concatenate(
        [load(finished_run / f"cycle-{cycle:02d}" / "label" / "labels.h5", Labels) for cycle in range(3)]
    )


@pytest.fixture
def begun(tmp_path, finished_run):
    """A run directory in which nothing has been done."""
    source = finished_run / "campaign.yaml"
    prepare(tmp_path / "begun", read_campaign(source), source, {})
    return tmp_path / "begun"


@pytest.fixture
def copy(tmp_path, finished_run):
    shutil.copytree(finished_run, tmp_path / "copy")
    return tmp_path / "copy"


@pytest.fixture
def labelling(copy):
    """A run that is labelling in its last cycle and has no result yet for three of the labels; and their results."""
    shutil.rmtree(copy / "winners")
    for stage in ("train", "relax", "rank", "verdict"):
        shutil.rmtree(copy / "cycle-02" / stage)
    partial = copy / "cycle-02" / "label.partial"
    shutil.move(copy / "cycle-02" / "label", partial)
    for path in partial.iterdir():
        if path.name != "tasks.json":
            path.unlink()
    names = json.loads((partial / "tasks.json").read_text())
    for name in names[:3]:
        (copy / "tasks" / name / "result.json").unlink()
    log(copy, "started")
    log(copy, "stage started", cycle=2, stage="label")
    return copy, [read_result(copy / "tasks", name) for name in names[3:]]


# tables


def test_the_package_opens_a_run(finished_run):
    assert csp_al.open_run(str(finished_run)).campaign.name == "al4"
    with pytest.raises(AttributeError, match="nonsense"):
        _ = csp_al.nonsense


def test_a_folder_that_is_no_run_directory_is_refused(tmp_path):
    with pytest.raises(NoRunError, match="no run directory"):
        open_run(tmp_path)
    file = tmp_path / "campaign.yaml"
    file.write_text("name: al4\n")
    with pytest.raises(NoRunError, match="a file, where a run directory is expected"):
        open_run(file)


def test_pool_table_and_structures_are_those_published(run, finished_run):
    structures = load(finished_run / "pool" / "structures.h5", Structures)
    np.testing.assert_array_equal(run.pool["id"], structures.ids)
    np.testing.assert_allclose(run.pool["volume_per_atom"], structures.volumes / structures.counts)
    for identity, atoms in zip([5, 2], run.structures([5, 2]), strict=True):
        assert atoms.info == {"id": identity}
        np.testing.assert_array_equal(atoms.positions, structures.to_atoms()[identity].positions)


def test_labels_table_equals_the_labels_published(run, labels, finished_run):
    table, structures = run.labels, labels.structures
    assert set(labels.status) == {"done", "rejected"}  # else the fixture has lost its failed labels
    for column, values in (
        ("cycle", labels.cycle), ("id", structures.ids), ("status", labels.status), ("reason", labels.reason),
        ("cost_s", labels.cost), ("evaluations", labels.evaluations),
        ("energy_per_atom", labels.energy / structures.counts),
        ("max_stress_gpa", np.abs(labels.stress).max(axis=(1, 2)) / GPa),
    ):  # fmt: skip
        np.testing.assert_array_equal(table[column], values, err_msg=column)
    forces = [np.linalg.norm(labels.take([row]).forces, axis=1).max() for row in range(len(labels))]
    np.testing.assert_allclose(table["max_force"], forces)
    for row in table[table["status"] == "done"].itertuples():
        result = read_result(finished_run / "tasks", row.task)
        assert result.done.energy == pytest.approx(4 * row.energy_per_atom)


def test_labels_are_beside_what_was_predicted_before_them(run, finished_run, labels):
    predicted = [load(finished_run / f"cycle-{cycle:02d}" / "select" / "predicted.h5", Prediction) for cycle in (0, 1)]
    table = run.labels
    first = table["cycle"] == 0
    assert table.loc[first, "predicted_energy_per_atom"].isna().all()
    expected = np.concatenate([part.energy for part in predicted]) / labels.structures.counts[~first]
    sigma = np.concatenate([part.energy_sigma for part in predicted]) / labels.structures.counts[~first]
    np.testing.assert_array_equal(table.loc[~first, "predicted_energy_per_atom"], expected)
    np.testing.assert_array_equal(table.loc[~first, "predicted_sigma_per_atom"], sigma)


def test_cycles_table_counts_up_to_each_cycle(run, labels, finished_run):
    table = run.cycles
    assert table["cycle"].tolist() == [0, 1, 2]
    for row in table.itertuples():
        until = labels.take(labels.cycle <= row.cycle)
        usable = until.usable
        assert row.labels_done == len(usable)
        assert row.labels_done + row.labels_failed == len(until)
        assert row.reference_evaluations == until.evaluations.sum() + CHECK
        assert row.best_labelled_energy_per_atom == (usable.energy / usable.structures.counts).min()
        said = json.loads((finished_run / f"cycle-{row.cycle:02d}" / "verdict" / "verdict.json").read_text())
        assert (row.stop, row.reason, row.stable_cycles, row.unseen) == (
            said["stop"], said["reason"], said["stable_cycles"], said["unseen"],
        )  # fmt: skip
        assert row.best_predicted_energy_per_atom == said["energies"][0]
        assert row.seconds_train == manifest(finished_run / f"cycle-{row.cycle:02d}" / "train")["seconds"]
    assert np.isnan(table["energy_mae_mev_per_atom"][0])
    assert np.isnan(table["seconds_select"][2])
    newest = labels.take(labels.cycle == 1)
    foreseen = walk_forward(load(finished_run / "cycle-00" / "select" / "predicted.h5", Prediction), newest)
    assert table["forces_rmse_ev_per_angstrom"][1] == pytest.approx(foreseen["forces_rmse_ev_per_angstrom"])
    assert run.walk_forward(1) == pytest.approx(foreseen)


def test_ranking_is_that_of_the_cycle_lowest_trusted_first(run, finished_run):
    relaxed = load(finished_run / "cycle-01" / "relax" / "relaxed.h5", Relaxed)
    ranking = run.ranking(1)
    by_id = ranking.sort_values("id")
    np.testing.assert_array_equal(by_id["energy_per_atom"], relaxed.prediction.energy / relaxed.structures.counts)
    np.testing.assert_array_equal(by_id["reason"], relaxed.reason)
    trusted = ranking[ranking["trusted"]]
    assert ranking["trusted"].is_monotonic_decreasing
    assert trusted["energy_per_atom"].is_monotonic_increasing
    published = layout.RANKING.read(finished_run / "cycle-01" / "rank")
    elsewhere = published.loc[published["lowest_basin"] != published["basin"], "lowest_basin"]
    arrived = pd.concat([published["basin"], elsewhere]).value_counts()
    for row in trusted.itertuples():
        assert row.times_reached == arrived[row.basin]
    pd.testing.assert_frame_equal(run.ranking(), run.ranking(2))


@pytest.mark.parametrize("columns", ["80", None])
def test_printed_results_lose_no_digit(capsys, monkeypatch, columns):
    if columns:
        monkeypatch.setenv("COLUMNS", columns)
        monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes this for a terminal
    row = {
        "rank": 12,
        "id": 4321,
        "energy_per_atom": -310.12345,
        "energy_above_best": 0.1234,
        "volume_per_atom": 20.512,
    }
    row |= {"predicted_energy_per_atom": -310.1, "predicted_sigma": 0.02, "times_reached": 113, "converged": False}
    results_table([row | {"space_group": {"symbol": "P2_12_12_1", "number": 19}}])
    printed = capsys.readouterr().out
    for text in ("12", "4321", "P2_12_12_1 (19)", "-310.1234", "123.4", "20.51", "-310.100 ± 0.020", "113", "NO"):
        assert text in printed
    assert "…" not in printed


def test_results_equal_what_was_published(run, finished_run):
    rows = json.loads((finished_run / "winners" / "results.json").read_text())
    assert run.result_rows == rows
    assert list(run.results.columns) == list(columns.RESULTS)
    for row, result in zip(run.results.to_dict("records"), rows, strict=True):
        group = result.pop("space_group")
        assert row == result | {"space_group_symbol": group["symbol"], "space_group_number": group["number"]}


def test_winners_have_the_energy_forces_and_stress_of_the_reference(run):
    for atoms, row in zip(run.winners, run.result_rows, strict=True):
        again = atoms.copy()
        again.calc = EMT()
        assert atoms.info["id"] == row["id"]
        assert atoms.get_potential_energy() == pytest.approx(4 * row["energy_per_atom"])
        assert atoms.get_potential_energy() == pytest.approx(again.get_potential_energy(), abs=1e-5)
        np.testing.assert_allclose(atoms.get_forces(), again.get_forces(), atol=1e-4)
        np.testing.assert_allclose(atoms.get_stress(), again.get_stress(), atol=1e-5)


def test_structures_as_relaxed_in_a_cycle(run, finished_run):
    relaxed = load(finished_run / "cycle-02" / "relax" / "relaxed.h5", Relaxed).structures.to_atoms()
    (atoms,) = run.structures(7, cycle=-1)
    assert atoms.info == {"id": 7, "cycle": 2}
    np.testing.assert_array_equal(atoms.positions, relaxed[7].positions)
    np.testing.assert_array_equal(atoms.cell.array, relaxed[7].cell.array)


def test_evaluations_include_the_final_relaxations(run, labels):
    final = run.summary["evaluations"]["final_relaxations"]
    assert final > 0
    assert run.summary["evaluations"]["check"] == CHECK
    assert run.reference_evaluations == CHECK + labels.evaluations.sum() + final == run.summary["evaluations"]["all"]


def test_unknown_ids_and_cycles_are_named(run, begun):
    with pytest.raises(ValueError, match="no candidate has the id 24; it has 24 candidates"):
        run.structures([3, 24])
    with pytest.raises(ValueError, match=r"cycle 9 has no finished stage 'rank'; those with one: \[0, 1, 2\]"):
        run.ranking(9)
    with pytest.raises(ValueError, match="no structures yet"):
        open_run(begun).structures([0])


def test_a_run_that_has_only_begun_has_empty_tables_with_all_columns(begun):
    run = open_run(begun)
    for table, expected in (
        (run.pool, columns.POOL), (run.labels, columns.LABELS), (run.cycles, columns.CYCLES),
        (run.ranking(), columns.RANKING), (run.results, columns.RESULTS), (run.pool_map(), columns.POOL_MAP),
        (run.learning_curves, columns.LEARNING_CURVES),
    ):  # fmt: skip
        assert table.empty
        assert list(table.columns) == list(expected)
        assert all(str(kind) == expected[name] for name, kind in table.dtypes.items())
    assert (run.winners, run.result_rows, run.verdict(), run.relaxed(), run.all_labels) == ([], [], None, None, None)


def test_a_changed_file_is_refused(copy):
    with (copy / "cycle-01" / "rank" / "ranking.csv").open("a") as file:
        file.write("\n")
    run = open_run(copy)
    assert not run.ranking(0).empty
    with pytest.raises(DamagedError, match=r"ranking\.csv"):
        run.ranking(1)


def test_the_last_map_is_that_of_the_last_ranking(copy):
    shutil.rmtree(copy / "cycle-02" / "rank")  # relaxed, not yet ranked
    pd.testing.assert_frame_equal(open_run(copy).pool_map(), open_run(copy).pool_map(1))


def test_an_open_run_sees_what_is_published_later(copy):
    shutil.move(copy / "winners", copy / "aside")
    run = open_run(copy)
    assert run.results.empty
    shutil.move(copy / "aside", copy / "winners")
    assert not run.results.empty


def test_map_of_the_pool_is_a_principal_component_analysis(run, finished_run):
    features = load(finished_run / "cycle-01" / "relax" / "relaxed.h5", Relaxed).prediction.features
    features = features[np.isfinite(features).all(axis=1)]  # one candidate is thinner than a relaxation may make it
    scaled = StandardScaler().fit_transform(features)
    analysis = PCA(2).fit(scaled)
    points, shares = principal_components(features)
    np.testing.assert_allclose(np.abs(points), np.abs(analysis.transform(scaled)), atol=1e-8)
    np.testing.assert_allclose(shares, analysis.explained_variance_ratio_)
    table = run.pool_map(1)
    with h5py.File(finished_run / "cycle-01" / "select" / "picks.h5") as file:
        picked = set(file["origin/ids"][()].tolist())
    assert set(table.loc[table["picked"], "id"]) == picked & set(table["id"])
    assert set(table.loc[table["labelled"], "id"]) == set(run.labels.query("cycle <= 1")["id"]) & set(table["id"])
    assert set(table.loc[table["leading"], "id"]) == set(run.verdict(1).top)
    assert (table["cycle"] == 1).all()


@pytest.mark.parametrize("features", [np.ones((3, 4)), np.arange(3.0)[:, None], np.zeros((1, 5)), np.zeros((0, 5))])
def test_principal_components_of_less_than_a_plane(features):
    points, shares = principal_components(features)
    assert points.shape == (len(features), 2)
    assert np.isfinite(points).all()
    assert (points[:, 1] == 0).all()
    assert shares[1] == pytest.approx(0)


# status

CHECK = 4  # evaluations that tell whether forces and stress are derivatives
FIELDS = [
    "name", "state", "cycle", "stage", "labels", "reference_evaluations", "best", "lowest_label", "top_k",
    "relaxations", "walk_forward", "foundation", "direct", "members", "stop", "judgement", "elapsed_s", "eta_s",
    "check", "pilots", "potentials",
]  # fmt: skip


def test_status_of_a_new_run(begun):
    now = status(begun)
    assert list(asdict(now)) == FIELDS
    assert (now.state, now.cycle, now.stage, now.best, now.top_k) == ("new", None, None, None, None)
    assert now.labels == LabelCounts(done=0, failed=0, pending=0, from_elsewhere=0, opened=0)
    assert (now.reference_evaluations, now.elapsed_s, now.eta_s) == (0, 0, None)
    assert "al4: new" in describe(now)


def test_status_of_a_finished_run(finished_run, run, labels):
    now = status(finished_run)
    assert list(asdict(now)) == FIELDS
    assert json.loads(json.dumps(asdict(now))) == asdict(now)
    assert (now.state, now.cycle, now.stage, now.eta_s) == ("finished", 2, "winners", None)
    done = int((labels.status == "done").sum())
    opened = len(labels) - len(set(zip(labels.cycle, labels.structures.ids, strict=True)))
    assert opened > 0  # else the fixture has lost its tight cells
    assert now.labels == LabelCounts(done, failed=len(labels) - done, pending=0, from_elsewhere=0, opened=opened)
    assert now.reference_evaluations == run.reference_evaluations
    best = run.result_rows[0]
    assert now.best == Best(best["id"], best["energy_per_atom"], "reference")
    assert now.top_k.ids == run.verdict().top
    assert now.stop.reason == run.verdict().reason
    assert now.walk_forward == run.walk_forward(2)
    folders = [finished_run / name for name in ("pool", "check", "winners")]
    folders += [finished_run / f"cycle-{cycle:02d}" / stage for cycle in range(3) for stage in STAGES]
    assert now.elapsed_s == pytest.approx(sum(manifest(path)["seconds"] for path in folders if path.exists()))
    for part in ("finished, cycle 2, winners", f"{done} done", "by the reference", "meV/atom", now.stop.reason):
        assert part in describe(now)


def test_status_tells_where_the_spread_is_too_small_and_what_of(finished_run):
    now = status(finished_run)
    figures = now.walk_forward | {"energy_spread_factor": 2.2, "forces_spread_factor": 3.0, "stress_spread_factor": 5.5}
    told = describe(replace(now, walk_forward=figures, members=None))
    assert "larger by a factor of: energy 2.2, forces 2.8, stress 5.1" in told
    assert "up to 2.8 times the uncertainty that relax.uncertainty sets" in told
    told = describe(replace(now, walk_forward=figures, members=3))  # of so few an honest one misses more
    assert "if the spread of 3 potentials is right" in told
    assert "larger by a factor of: forces 2.2, stress 4.1" in told
    shares = [figures[f"{quantity}_within_1_sigma"] for quantity in ("energy", "forces", "stress")]
    assert all(f"{share:.0%} and" in told for share in shares)
    older = {name: value for name, value in figures.items() if not name.endswith("factor")}
    assert "too small" not in describe(replace(now, walk_forward=older))


def test_status_of_a_run_interrupted_while_labelling(labelling, labels):
    folder, fresh = labelling
    now = status(folder)
    old = labels.take(labels.cycle < 2)
    done = int((old.status == "done").sum()) + sum(result.status == "done" for result in fresh)
    assert (now.state, now.cycle, now.stage) == ("interrupted", 2, "label")
    labelled = {"done": done, "failed": len(old) + len(fresh) - done, "pending": 3, "from_elsewhere": 0}
    assert asdict(now.labels).items() >= labelled.items()
    assert now.reference_evaluations == CHECK + old.evaluations.sum() + sum(r.evaluations for r in fresh)
    assert now.best.by == "potential"
    assert now.lowest_label == pytest.approx(labels.energy[labels.status == "done"].min() / 4)
    assert f"{now.best.energy_per_atom:.4f} ± {now.best.sigma:.4f} eV/atom predicted" in describe(now)
    assert f"lowest label {now.lowest_label:.4f} eV/atom" in describe(now)
    assert now.stop.reason is None
    assert now.top_k.verdict.startswith("continues: ")
    assert "3 pending" in describe(now)


def test_time_left_is_the_mean_cycle_times_the_cycles_allowed(labelling):
    folder, _ = labelling
    seconds = [sum(manifest(folder / f"cycle-0{cycle}" / stage)["seconds"] for stage in STAGES) for cycle in (0, 1)]
    seconds[0] += manifest(folder / "cycle-00" / "relax")["seconds"]  # once a candidate there, twice later
    assert status(folder).eta_s == pytest.approx(np.mean(seconds))  # one of three cycles is left


def test_status_of_a_run_under_way(labelling):
    folder, _ = labelling
    before = status(folder)
    with locked(folder):
        now = status(folder)
    assert now.state == "running"
    assert now.elapsed_s >= before.elapsed_s
    assert now.eta_s <= before.eta_s
    assert status(folder).state == "interrupted"


def test_status_while_the_winners_are_relaxed(copy):
    shutil.move(copy / "winners", copy / "winners.partial")
    now = status(copy)
    assert (now.state, now.cycle, now.stage) == ("interrupted", 2, "winners")
    assert now.labels.pending == 0  # a relaxation is no label
    assert now.reference_evaluations == status_evaluations(copy)


def status_evaluations(folder):
    """Counted anew from the task directories."""
    return sum(json.loads(path.read_text())["evaluations"] for path in folder.glob("tasks/*/result.json"))


def test_relaxations_that_all_stop_at_once_are_told(tmp_path, finished_run):
    file, run = tmp_path / "al4.yaml", str(tmp_path / "run")
    text = (finished_run / "campaign.yaml").read_text()
    doubtful = text.replace("max_steps: 40}", "uncertainty: 1.0e-9, uncertainty_floor: 1.0e-9}", 1)
    file.write_text(doubtful.replace("max_cycles: 3", "max_cycles: 1").replace("steps: 50", "steps: 5"))
    words = "of 24 relaxations stopped in their first step, because the potentials disagree there"
    ran = CliRunner().invoke(app, ["run", str(file), "--directory", run, "--slots", "2", "--device", "cpu"])
    assert ran.exit_code == 0
    assert re.search(rf"Warning: cycle 0: 2\d {words}", ran.output)
    assert re.search(rf"2\d {words}", CliRunner().invoke(app, ["results", run]).output)
    assert re.search(rf"relaxations 2\d {words}", CliRunner().invoke(app, ["status", run]).output)
    assert "relax.uncertainty" in status(Path(run)).relaxations
    assert status(finished_run).relaxations is None


def test_status_of_a_failed_run_gives_the_reason(copy):
    shutil.rmtree(copy / "winners")
    log(copy, "failed", reason="none of the 2 leading crystals could be relaxed")
    now = status(copy)
    assert now.state == "failed"
    assert now.stop.reason == "none of the 2 leading crystals could be relaxed"
    log(copy, "started")
    assert status(copy).state == "interrupted"


def test_results_of_a_run_without_any_say_where_it_stands_and_what_to_do(copy):
    shutil.rmtree(copy / "winners")
    log(copy, "failed", reason="none of the 2 leading crystals could be relaxed")
    said = say_where_it_stands(copy)
    assert said.startswith(f"{copy}: no results yet; the campaign is failed, cycle 2, verdict:")
    assert said.endswith("none of the 2 leading crystals could be relaxed")
    log(copy, "started")
    assert f"is interrupted, cycle 2, verdict. Nothing is lost. Continue with: csp-al resume {copy} --trust" in (
        say_where_it_stands(copy)
    )
    empty = CliRunner().invoke(app, ["results", str(copy), "--csv"])
    assert pd.read_csv(io.StringIO(empty.stdout)).columns.tolist() == list(columns.RESULTS)
    assert empty.stderr.startswith(f"{copy}: no results yet; the campaign is interrupted")
    assert json.loads(CliRunner().invoke(app, ["results", str(copy), "--json"]).stdout) == []
    with locked(copy):
        assert say_where_it_stands(copy).endswith(f"How far it is: csp-al status {copy}")


def test_a_log_line_cut_off_by_a_kill_is_passed_over(copy):
    shutil.rmtree(copy / "winners")
    with (copy / "log.jsonl").open("a") as file:
        file.write('{"time": "2026-01-01T00:')
    assert status(copy).state == "interrupted"


# plan


@pytest.fixture
def campaign():
    return Campaign(
        name="si8",
        pool=Pool(formula="Si8", size=400),
        reference=AseReference(kind="ase", calculator="ase.calculators.emt.EMT"),
        select=Select(per_cycle=40),
        stop=Stop(top_k=3),
        budget=Budget(labels=280),
    )


def changed(campaign, section, **values):
    return campaign.model_copy(update={section: getattr(campaign, section).model_copy(update=values)})


@pytest.mark.parametrize(
    ("budget", "cycles", "candidates", "expected"),
    [
        (280, 15, 400, [40] * 7),
        (300, 15, 400, [40] * 7),  # another cycle would exceed the budget
        (280, 3, 400, [40] * 3),
        (30, 15, 400, [30]),
        (280, 3, 25, [25] * 3),
    ],
)
def test_schedule_keeps_the_budget_and_the_cycles(campaign, budget, cycles, candidates, expected):
    limited = changed(changed(campaign, "budget", labels=budget), "stop", max_cycles=cycles)
    assert schedule(limited, candidates) == expected


def test_schedule_of_what_is_left(campaign):
    assert schedule(campaign, 400, cycles=5, asked=200) == [40, 40]
    assert schedule(campaign, 400, cycles=7, asked=280) == []


def test_plan_before_the_start_knows_the_numbers_and_not_the_time(campaign):
    planned = plan(campaign, None)
    assert (planned["labels_at_most"], planned["cycles_at_most"]) == (280, 7)
    assert planned["final_relaxations_at_most"] == 7
    assert planned["core_hours"] == {
        "labels": None, "final_relaxations": None, "basis": "unknown before the first cycle",
    }  # fmt: skip
    assert planned["hours_at_most"] is None
    assert 1e6 < planned["disk_bytes"] < 1e9
    for part in ("400 candidates of Si8", "at most 280 single points, 0 done; more,", "unknown before the first cycle"):
        assert part in describe_plan(planned)


def test_plan_with_gpaw_estimates_and_says_on_what_it_rests(campaign):
    seen = campaign.model_copy(update={"reference": GpawReference(cutoff=325, kspacing=0.42)})
    planned = plan(seen, None)
    assert planned["core_hours"]["labels"] == pytest.approx([280 * 10 / 3600, 280 * 68 / 3600])  # where it was seen
    finer = plan(changed(seen, "reference", kspacing=0.21), None)
    assert finer["core_hours"]["labels"][0] == pytest.approx(8 * 280 * 10 / 3600)
    assert "Al4O6" in planned["core_hours"]["basis"]
    assert "46.7 min to 5.3 h" in describe_plan(planned)


def test_plan_after_the_first_cycle_is_measured(finished_run, run, labels):
    planned = plan(run.campaign, finished_run)
    one = labels.cost.sum() / labels.evaluations.sum()
    assert planned["labels_at_most"] == planned["labels_done"] == 24 + run.opened == len(labels)
    assert planned["core_hours"]["labels"] == pytest.approx([len(labels) * one / 3600] * 2)
    assert planned["core_hours"]["final_relaxations"][1] == pytest.approx(5 * 41 * one / 3600)
    assert planned["seconds_per_cycle"]["train"] == pytest.approx(run.cycles["seconds_train"].mean())
    relax = run.cycles["seconds_relax"]
    assert planned["seconds_per_cycle"]["relax"] == pytest.approx((relax.sum() + relax[0]) / len(relax))
    assert planned["hours_at_most"] == pytest.approx(3 * sum(planned["seconds_per_cycle"].values()) / 3600)
    assert "measured" in describe_plan(planned)
    poorer = plan(changed(run.campaign, "budget", labels=len(labels) - 1), finished_run)
    assert (poorer["cycles_at_most"], poorer["labels_at_most"]) == (2, 16 + run.opened)  # openings are of the budget
    more = plan(changed(run.campaign, "stop", max_cycles=6), finished_run)
    assert more["disk_bytes"] == pytest.approx(2 * planned["disk_bytes"], abs=2)


def test_plan_of_a_run_that_has_only_begun_is_an_estimate(begun):
    assert plan(open_run(begun).campaign, begun)["hours_at_most"] is None


# doctor and devices


def lines_about(word):
    found = [line for line in doctor.examine() if word in line[1]]
    assert found, word
    return found


def test_doctor_finds_programs_on_path(tmp_path, monkeypatch):
    hello = {"pw.x": "Program PWSCF v.7.3.1 starts", "vasp_std": "vasp.6.4.2 20Jul23", "mpirun": "", "sbatch": ""}
    for name, words in hello.items():
        (tmp_path / name).write_text(f"#!/bin/sh\necho '{words}'\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "Si.upf").touch()
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("ESPRESSO_PSEUDO", str(tmp_path))
    for word in ("Quantum ESPRESSO 7.3.1", "VASP 6.4.2", "MPI", "Slurm", "1 UPF files", "GPAW", "torch"):
        assert lines_about(word)[0][0] is True


def test_doctor_asks_a_program_what_it_is(tmp_path, monkeypatch):
    for name in ("pw.x", "vasp_std"):
        (tmp_path / name).write_text("#!/bin/sh\necho something else\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("pw.x", "VASP, but"):
        assert lines_about(f"does not say that it is {name}")[0][0] is False


def test_doctor_names_a_remedy_for_what_lacks(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("ESPRESSO_PSEUDO", str(tmp_path / "nowhere"))
    for ok, what, remedy in doctor.examine():
        assert ok or remedy, what
    assert lines_about("ESPRESSO_PSEUDO")[0][0] is False
    assert lines_about("pw.x")[0][0] is None


def test_doctor_survives_broken_packages(monkeypatch):
    def broken(name):
        raise OSError("libcuda.so.1: cannot open shared object file")

    monkeypatch.setattr("csp_al.potential.devices.resolve_device", broken)
    monkeypatch.setattr("csp_al.reference.gpaw.Gpaw.check", broken)
    monkeypatch.setattr(doctor, "PACKAGES", ("a-package-that-is-not-there",))
    for word in ("torch", "GPAW", "a-package-that-is-not-there"):
        assert lines_about(word)[0][0] is False
    assert "libcuda" in lines_about("torch")[0][1]


@pytest.fixture
def broken_pipe():
    """What a program prints to whose reader has gone."""
    read, write = os.pipe()
    os.close(read)
    yield write
    os.close(write)


def test_a_reader_who_has_read_enough_gets_no_complaint(broken_pipe):
    command = [sys.executable, "-m", "csp_al", "doctor"]
    done = subprocess.run(command, stdout=broken_pipe, stderr=subprocess.PIPE, check=False)
    assert (done.stderr, done.returncode) == (b"", 1)


def test_a_campaign_whose_reader_has_gone_goes_on(broken_pipe, tmp_path):
    file = tmp_path / "al4.yaml"
    file.write_text(
        "{name: al4, pool: {formula: Al4, size: 6}, reference: {kind: ase, calculator: ase.calculators.emt.EMT}, "
        "potential: {members: 2, features: 8, interactions: 1, cutoff: 4.0, steps: 10}, relax: {max_steps: 5}, "
        "select: {per_cycle: 4}, stop: {top_k: 1, max_cycles: 1}, budget: {labels: 4}}"
    )
    command = [sys.executable, "-m", "csp_al", "run", str(file), "--directory", str(tmp_path / "run")]
    done = subprocess.run(command, stdout=broken_pipe, stderr=subprocess.PIPE, check=False)
    assert (done.stderr, done.returncode) == (b"", 0)
    assert len(csp_al.open_run(tmp_path / "run").results) == 1


def test_doctor_sees_that_the_folder_is_not_writable(monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everywhere
    assert lines_about("current folder")[0][0] is False


@pytest.mark.parametrize(
    ("there", "name", "expected"),
    [
        (["cpu"], "auto", "cpu"),
        (["cpu", "cuda", "cuda:0"], "auto", "cuda"),
        (["cpu", "mps"], "auto", "cpu"),
        (["cpu", "cuda", "cuda:0", "cuda:1"], "cuda:1", "cuda:1"),
    ],
)
def test_devices_that_are_there_can_be_named(monkeypatch, there, name, expected):
    monkeypatch.setattr("csp_al.potential.devices.available_devices", lambda: there)
    assert resolve_device(name) == torch.device(expected)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gpu", "no device is called 'gpu'; allowed here: auto, cpu"),
        ("cpu:3", "no device is called 'cpu:3'"),
        ("cuda:x", "no device is called 'cuda:x'"),
        ("cuda:99", "device 'cuda:99' is not there"),
    ],
)
def test_other_devices_are_refused_with_what_is_allowed(name, message):
    with pytest.raises(ValueError, match=message):
        resolve_device(name)


def test_every_device_can_be_described():
    assert "cpu" in available_devices()
    for name in available_devices():
        assert describe_device(torch.device(name)).startswith(name)


# figures and notebook


def test_convergence_shows_the_cycles_and_the_result(run):
    labelled, predicted, final = figures.convergence(run.cycles, run.results, run.reference_evaluations).data
    np.testing.assert_array_equal(labelled.y, run.cycles["best_labelled_energy_per_atom"])
    np.testing.assert_array_equal(predicted.x, run.cycles["reference_evaluations"])
    np.testing.assert_array_equal(predicted.y, run.cycles["best_predicted_energy_per_atom"])
    assert (final.x[0], final.y[0]) == (run.reference_evaluations, run.result_rows[0]["energy_per_atom"])


def test_a_ghost_is_named_and_does_not_set_the_scale(run):
    cycles = run.cycles.assign(best_predicted_energy_per_atom=[-1e3, *[0.1] * (len(run.cycles) - 1)])
    figure = figures.convergence(cycles, run.results, run.reference_evaluations)
    (note,) = figure.layout.annotations
    assert (note.x, note.text) == (cycles["reference_evaluations"][0], "-1000.0 ↓")
    lowest = min(cycles["best_labelled_energy_per_atom"].min(), run.results["energy_per_atom"].min())
    assert lowest - 1.01 < figure.layout.yaxis.range[0] < lowest
    assert figure.layout.yaxis.range[1] > 0.1
    assert not figures.convergence(run.cycles, run.results, run.reference_evaluations).layout.annotations


def test_parity_shows_every_label_that_was_predicted(run):
    diagonal, *points = figures.parity(run.labels).data
    known = run.labels.dropna(subset=["energy_per_atom", "predicted_energy_per_atom"])
    assert diagonal.x == diagonal.y
    np.testing.assert_array_equal(np.concatenate([trace.x for trace in points]), known["energy_per_atom"])
    bars = np.concatenate([trace.error_y.array for trace in points])
    np.testing.assert_array_equal(bars, known["predicted_sigma_per_atom"])


def test_ghosts_leave_parity_as_wide_as_the_truth(run):
    known = run.labels.dropna(subset=["energy_per_atom", "predicted_energy_per_atom"]).copy()
    known.loc[known.index[:2], "predicted_energy_per_atom"] = -1e3
    figure = figures.parity(known)
    lowest = known["energy_per_atom"].min() - figures.GHOST
    assert [note.text for note in figure.layout.annotations] == ["-1000.0 ↓"] * 2
    assert min(figure.data[0].x) == pytest.approx(lowest)
    assert figure.layout.yaxis.range[0] == pytest.approx(lowest)


def test_a_few_high_labels_do_not_flatten_the_parity_of_the_others():
    low = np.linspace(-5.4, -4.9, 60)
    energies = np.concatenate([low, [-2.4, -3.0]])
    known = pd.DataFrame(
        {"id": 0, "cycle": 1, "energy_per_atom": energies, "predicted_energy_per_atom": energies - 0.02}
    )
    known["predicted_sigma_per_atom"] = 0.01
    figure = figures.parity(known)
    assert figure.layout.xaxis.range == figure.layout.yaxis.range
    assert -5.5 < figure.layout.xaxis.range[0] < -5.42
    assert -4.95 < figure.layout.xaxis.range[1] < -4.8
    assert [note.text for note in figure.layout.annotations] == ["2 higher: double-click shows all"]
    assert len(figure.data[1].x) == 62
    assert figures.parity(known[:60]).layout.xaxis.range is None


def test_pool_map_rings_the_picks(run):
    table = run.pool_map(0)
    traces = figures.pool_map(table).data
    assert sum(len(trace.x) for trace in traces[:2]) == len(table)
    (ring,) = [trace for trace in traces if trace.name == "picked next"]
    np.testing.assert_array_equal(ring.x, table.loc[table["picked"], "x"])


def test_learning_curves_show_the_mean_of_the_members(run):
    traces = [trace for trace in figures.learning_curves(run.learning_curves).data if trace.name]
    held_out = np.concatenate([trace.y for trace in traces if trace.name.startswith("held out")])
    expected = run.learning_curves.groupby(["cycle", "epoch"])["validation"].mean()
    np.testing.assert_allclose(held_out, expected)


def test_figures_of_a_run_that_has_only_begun_are_empty(begun):
    run = open_run(begun)
    for figure in (
        figures.convergence(run.cycles, run.results, run.reference_evaluations),
        figures.parity(run.labels),
        figures.pool_map(run.pool_map()),
        figures.learning_curves(run.learning_curves),
    ):
        assert figure.layout.title.text
        assert not any(len(trace.x) for trace in figure.data)


def test_notebook_runs_from_start_to_end(finished_run, monkeypatch):
    monkeypatch.setenv("CSP_AL_RUN", str(finished_run))
    notebook = jupytext.read(ROOT / "analysis" / "explore_run.py")
    NotebookClient(notebook, timeout=60, kernel_name="python3", resources={"metadata": {"path": ROOT}}).execute()
    pictures = [
        output
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if "application/vnd.plotly.v1+json" in output.get("data", {})
    ]
    assert len(pictures) == 5


@pytest.mark.parametrize(("name", "pictures"), [("trust", 4), ("compare_settings", 3)])
def test_other_notebooks_run_from_start_to_end(name, pictures, finished_run, tmp_path, monkeypatch):
    other = tmp_path / "other"
    shutil.copytree(finished_run, other)
    monkeypatch.setenv("CSP_AL_RUN", str(finished_run))
    monkeypatch.setenv("CSP_AL_RUNS", f"{finished_run} {other}")
    notebook = jupytext.read(ROOT / "analysis" / f"{name}.py")
    NotebookClient(notebook, timeout=60, kernel_name="python3", resources={"metadata": {"path": ROOT}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert sum("application/vnd.plotly.v1+json" in output.get("data", {}) for output in outputs) == pictures
    assert not any(output["output_type"] == "error" for output in outputs)


def test_notebook_of_parts_of_ones_own_runs_its_campaign_to_the_end(tmp_path, monkeypatch):
    monkeypatch.setenv("CSP_AL_PARTS", str(tmp_path))
    notebook = jupytext.read(ROOT / "analysis" / "own_potential.py")
    NotebookClient(notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": ROOT}}).execute()
    run = open_run(tmp_path / "runs" / "own")
    assert run.campaign.reference.kind == "my_reference.KIND"
    assert len(run.results) > 0


def test_a_terminal_that_cannot_draw_gets_plain_lines(monkeypatch, tmp_path):
    monkeypatch.setenv("TERM", "dumb")
    panel = Panel(Campaign(name="al4", pool=Pool(formula="Al4"), reference=GpawReference()), tmp_path)
    panel.console.file = out = io.StringIO()
    panel.console._force_terminal = True
    assert panel.console.is_terminal
    with panel:
        panel.tell(StageStarted(3, "train"))
    assert "cycle 3: training the ensemble" in out.getvalue()


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_output_of_any_encoding_ends_nothing(encoding, finished_run, monkeypatch):
    out = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(out, encoding=encoding))
    for words in (["status", str(finished_run)], ["results", str(finished_run)], ["plan", "--help"], ["doctor"]):
        app(words, standalone_mode=False)
    with Panel(Campaign(name="al4", pool=Pool(formula="Al4"), reference=GpawReference()), finished_run) as panel:
        panel.note("± 0.1 Å, Al₄")
    sys.stdout.flush()
    said = out.getvalue().decode(encoding, errors="replace")
    assert "predicted: by the ensemble, " in said
    assert ("? 0.1 ?, Al?" if encoding == "ascii" else "± 0.1 Å, Al?") in said


def test_time_left_follows_from_what_was_done_since_the_stage_was_begun():
    resumed = Pace(since=100.0, first=4, at=100.0, done=4, all=24)  # four labels were there before
    assert resumed.left(now=110.0) is None
    assert resumed.advanced(130.0, 5, 24).left(now=130.0) is None  # one of 24 is too little to tell from
    going = resumed.advanced(130.0, 5, 24).advanced(160.0, 6, 24)
    assert going.left(now=160.0) == pytest.approx(18 * 30)
    assert going.advanced(170.0, 6, 24).left(now=170.0) == pytest.approx(18 * 30 - 10)
    assert going.left(now=1e6) == 0
    assert going.advanced(170.0, 24, 24).left(now=170.0) is None
    assert going.advanced(170.0, 0, 10) == Pace(170.0, 0, 170.0, 0, 10)


def test_a_terminal_that_draws_shows_the_time_left(monkeypatch, tmp_path):
    clock = iter([0.0, 60.0])
    monkeypatch.setattr("csp_al.cli.panel.monotonic", lambda: next(clock, 60.0))
    panel = Panel(Campaign(name="al4", pool=Pool(formula="Al4"), reference=GpawReference()), tmp_path)
    panel.tell(StageStarted(3, "label"))
    panel.tell(Advanced(0, 10))
    panel.tell(Advanced(5, 10))
    drawn = io.StringIO()
    Console(file=drawn, width=120).print(panel.progress)
    assert "about 60 s left" in drawn.getvalue()
    panel.tell(StageStarted(3, "train"))
    Console(file=drawn, width=120).print(panel.progress)
    assert drawn.getvalue().count(" left") == 1
