"""The benchmark: what counts as found, at which price, and how sure that is."""

import json
import runpy
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import spglib
from ase.build import bulk
from ase.io import read, write
from typer.testing import CliRunner

from csp_al import objective, open_run
from csp_al.benchmark import statistics
from csp_al.benchmark.calibration import calibration
from csp_al.benchmark.campaigns import CampaignFailedError, run_campaigns
from csp_al.benchmark.control import random_search, relax_again
from csp_al.benchmark.statistics import Runs
from csp_al.benchmark.target import Target, lowest, target_of_file
from csp_al.benchmark.trial import evaluations_to, known_minima, leaders_by_cycle, relaxed_in_the_end, trial_of
from csp_al.campaign import read_campaign, species_counts
from csp_al.campaign.machine import Machine
from csp_al.cli import app
from csp_al.cli.benchmark import _evaluations, _of_few_seeds, _ratio
from csp_al.engine.engines import start_engine
from csp_al.engine.tasks import task_id
from csp_al.files import DamagedError
from csp_al.loop.tasks import final_relaxations
from csp_al.reference.classical import lennard_jones
from csp_al.select.identity import same_structure
from csp_al.store.changes import ChangedError
from csp_al.store.opening import open_to_drive
from csp_al.store.run_directory import log
from csp_al.structures import Structures

INF = float("inf")
ROOT = Path(__file__).parents[1]


def quiet(*_):
    pass


def engine(folder):
    return start_engine(folder, Machine(slots=2))


def nothing(_):
    raise AssertionError("nothing is to be computed")


@pytest.fixture(scope="module")
def run(finished_run):
    return open_run(finished_run)


@pytest.fixture(scope="module")
def controls(tmp_path_factory):
    return tmp_path_factory.mktemp("controls")


@pytest.fixture(scope="module")
def control(run, controls):
    return random_search(run.campaign, Path(), controls, engine, quiet)


def one_each(first, everything):
    return statistics.campaigns(np.array(first, dtype=float), np.array(everything))


def test_a_run_that_never_found_it_counts_in_the_median():
    assert one_each([100, 200, INF], [150, 250, 400]).median == 200
    assert one_each([100, INF, INF], [150, 250, 400]).median == INF
    assert one_each([100, 200], [150, 250]).median == 200  # the upper of the two: more than half had succeeded
    assert one_each([100, INF], [150, 250]).median == INF


def test_expected_evaluations_with_restarts_include_those_spent_in_vain():
    assert one_each([100, INF, 300], [150, 250, 400]).expected == (100 + 250 + 300) / 2
    assert one_each([INF, INF], [150, 250]).expected == INF


@pytest.mark.parametrize(("successes", "low", "high"), [(0, 0.0, 0.278), (8, 0.490, 0.943), (10, 0.722, 1.0)])
def test_shares_have_wilsons_interval(successes, low, high):
    found = statistics.proportion(successes, 10)  # values of R's prop.test without correction
    assert found.value == successes / 10
    assert (found.low, found.high) == (pytest.approx(low, abs=1e-3), pytest.approx(high, abs=1e-3))


@pytest.mark.parametrize(("candidates", "hits"), [(50, 1), (50, 5), (9, 9)])
def test_random_orders_take_as_long_as_draws_without_replacement(candidates, hits):
    pool = (np.full(candidates, 7), np.arange(candidates) < hits)
    runs = statistics.random_orders([pool] * 4, seed=1)
    draws = (candidates + 1) / (hits + 1)  # expectation of the negative hypergeometric distribution
    assert runs.first.mean() == pytest.approx(7 * draws, rel=0.04)
    assert runs.first.max() <= 7 * candidates


def test_a_random_search_without_a_hit_costs_its_whole_pool():
    runs = statistics.random_orders([(np.array([3, 4]), np.array([False, False]))], seed=1)
    assert np.isinf(runs.first).all()
    assert (runs.spent == 7).all()


def test_ratio_of_medians_is_that_of_the_same_pools():
    control = statistics.random_orders([(np.array([90, 90]), np.array([True, True]))] * 5, seed=1)
    ratio = statistics.ratio_of_medians(control, one_each([9, 9, 9, 9, 9], [12] * 5))
    assert (ratio.value, ratio.low, ratio.high, ratio.bound) == (10, 10, 10, False)


def test_ratio_is_a_bound_where_half_of_the_controls_never_find_it():
    pools = [(np.array([50, 50]), np.array([False, found])) for found in (False, False, True)]
    control = statistics.random_orders(pools, seed=1)
    ratio = statistics.ratio_of_medians(control, one_each([10, 10, 10], [20] * 3))
    assert ratio.bound
    assert ratio.value == 10  # the median pool had been searched in vain after 100
    assert ratio.high == INF  # there may be nothing to find in any of them


def test_ratio_is_that_of_the_medians_beside_it_though_a_cheap_pool_was_searched_in_vain():
    control = Runs(np.array([[1000.0], [2000.0], [INF]]), np.array([[9000.0], [9000.0], [500.0]]))
    ours = one_each([10, 10, 10], [20] * 3)
    ratio = statistics.ratio_of_medians(control, ours)
    assert statistics.median_of(control).value / statistics.median_of(ours).value == ratio.value == 200
    assert not ratio.bound
    assert ratio.low <= 100  # that pool might have held it as its next candidate


def test_where_no_control_ever_finds_it_the_ratio_has_no_upper_end():
    control = statistics.random_orders([(np.array([50, 50]), np.array([False, False]))] * 6, seed=1)
    ours = one_each([10] * 6, [20] * 6)
    for ratio in (statistics.ratio_of_medians(control, ours), statistics.ratio_of_expected(control, ours)):
        assert (ratio.bound, ratio.high) == (True, INF)
        assert ratio.value >= 10


@pytest.mark.parametrize("seeds", [4, 10])
def test_a_campaign_that_is_a_random_search_saves_nothing(seeds):
    rng = np.random.default_rng(3)
    ratios = []
    for _ in range(40):
        pools = [(np.full(100, 60), rng.random(100) < 0.1) for _ in range(seeds)]
        control = statistics.random_orders(pools, seed=1)
        drawn = control.first[:, 0], control.all[:, 0]
        ratios.append(statistics.upper_median(control.first) / one_each(*drawn).median)
    assert np.exp(np.mean(np.log(ratios))) == pytest.approx(1 if seeds == 10 else 0.8, abs=0.2)
    assert np.exp(np.mean(np.log(ratios))) < 1.1


def test_campaigns_that_mostly_fail_save_nothing():
    control = statistics.random_orders([(np.array([50]), np.array([True]))] * 3, seed=1)
    assert statistics.ratio_of_medians(control, one_each([10, INF, INF], [20] * 3)).value == 0


def test_few_seeds_have_no_interval_and_the_words_say_what_they_show():
    runs = one_each([100, 200], [150, 250])
    few = statistics.told(statistics.median_of(runs), 2)
    assert few["value"] == 200
    assert np.isnan([few["low"], few["high"]]).all()
    assert statistics.told(statistics.median_of(runs), 6)["low"] == 100
    assert [statistics.holds_median(seeds) >= statistics.LEVEL for seeds in (5, 6)] == [False, True]
    assert _evaluations(few) == "200"
    assert _ratio(few) == "200"
    success = {"value": 1.0, "low": 0.342, "high": 1.0}
    (line,) = _of_few_seeds({"seeds": [1, 2], "campaign": {"success": success}})
    assert line.startswith("2 seeds show that a campaign finds it in 34% to 100% of all cases, and no more")
    assert "with a chance of 50%" in line
    assert not _of_few_seeds({"seeds": list(range(6)), "campaign": {"success": success}})


def test_intervals_shrink_with_more_seeds():
    rng = np.random.default_rng(0)
    few, many = (one_each(rng.exponential(100, n), np.full(n, 1000)) for n in (8, 80))
    widths = [(found.high - found.low) / found.value for found in map(statistics.median_of, (few, many))]
    assert widths[1] < widths[0] / 2


def test_success_curve_rises_from_none_to_the_share_of_successes():
    runs = one_each([100, 200, INF, 300], [400] * 4)
    value, low, high = statistics.success_curve(runs, np.array([99.0, 100.0, 250.0, 1e6]))
    assert value.tolist() == [0, 0.25, 0.5, 0.75]
    assert (low <= value).all()
    assert (value <= high).all()
    pools = Runs(np.array([[1.0, 3.0], [INF, INF]]), np.array([[5.0, 5.0], [5.0, 5.0]]))
    assert statistics.success_curve(pools, np.array([1.0, 3.0]))[0].tolist() == [0.25, 0.5]


def test_calibration_of_a_spread_that_is_right_and_of_one_that_is_half_of_it():
    rng = np.random.default_rng(1)
    sigma = rng.uniform(0.01, 0.5, 4000)
    for factor, one, two, rms in ((1.0, 0.683, 0.954, 1.0), (0.5, 0.383, 0.683, 2.0)):
        labels = pd.DataFrame(
            {
                "status": "done", "cycle": 1, "energy_per_atom": rng.normal(0, sigma),
                "predicted_energy_per_atom": 0.0, "predicted_sigma_per_atom": factor * sigma,
            }
        )  # fmt: skip
        (row,) = calibration([labels[:2000], labels[2000:]])
        assert row["labels"] == 4000
        assert row["within_1_sigma"] == pytest.approx(one, abs=0.03)
        assert row["within_2_sigma"] == pytest.approx(two, abs=0.03)
        assert row["rms_z"] == pytest.approx(rms, rel=0.05)
        assert row["rank_correlation"] > 0.4


def test_control_relaxes_every_candidate_and_counts_every_step(run, control):
    pool = run.pool_structures
    assert control.structures.ids.tolist() == pool.ids.tolist()
    done = control.status == "done"
    assert done.sum() > 20
    one = int(np.flatnonzero(done)[0])
    finish = run.campaign.finish
    again = relax_again(pool.take([one]), run.campaign, Path("none"), run.path.parent / "again", engine, quiet)
    assert again.energy[0] == control.energy[one]
    assert again.evaluations[0] == control.evaluations[one] > 2
    assert control.evaluations.max() <= finish.max_steps + 1


def test_control_of_a_pool_is_kept_for_other_settings(run, control, controls):
    other = run.campaign.model_copy(update={"select": run.campaign.select.model_copy(update={"per_cycle": 2})})
    again = random_search(other, Path(), controls, nothing, quiet)
    np.testing.assert_array_equal(again.energy, control.energy)
    assert not list(controls.glob("*/tasks"))
    with pytest.raises(AssertionError, match="nothing is to be computed"):
        random_search(other.model_copy(update={"seed": 4}), Path(), controls, nothing, quiet)


def test_a_damaged_control_is_refused_and_done_again_when_that_is_asked_for(run, control, tmp_path):
    random_search(run.campaign, Path(), tmp_path, engine, quiet, size=2)
    (file,) = tmp_path.glob("*/relaxed/relaxed.h5")
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(DamagedError, match="Continue with --repair"):
        random_search(run.campaign, Path(), tmp_path, engine, quiet, size=2)
    again = random_search(run.campaign, Path(), tmp_path, engine, quiet, size=2, mend=True)
    np.testing.assert_array_equal(again.energy, control.energy[:2])
    assert (file.parents[1] / "damaged" / "001" / "relaxed" / "relaxed.h5").stat().st_size == 100


def test_damage_to_an_interrupted_control_is_mended(run, control, tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("csp_al.benchmark.control.save", interrupt)
        with pytest.raises(KeyboardInterrupt):
            random_search(run.campaign, Path(), tmp_path, engine, quiet, size=2)
    file = min(tmp_path.glob("*/tasks/*/result.json"))
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(DamagedError, match="Continue with --repair"):
        random_search(run.campaign, Path(), tmp_path, engine, quiet, size=2)
    again = random_search(run.campaign, Path(), tmp_path, engine, quiet, size=2, mend=True)
    np.testing.assert_array_equal(again.energy, control.energy[:2])


def test_a_larger_pool_is_compared_with_random_search_on_its_first_candidates(run, control, controls):
    pool = run.campaign.pool.model_copy(update={"size": 2 * len(control)})
    larger = run.campaign.model_copy(update={"pool": pool})
    again = random_search(larger, Path(), controls, nothing, quiet, size=len(control))
    np.testing.assert_array_equal(again.energy, control.energy)


def test_a_hit_is_as_low_as_the_target_and_the_same_crystal(control):
    energies = objective.values(control.energy, control.structures)
    best = int(np.nanargmin(energies))
    target = Target(float(energies[best]), 0.01, "lowest")
    np.testing.assert_array_equal(target.hits(control), energies <= energies[best] + 0.01)
    crystal = control.structures.to_atoms()[best]
    hits = replace(target, crystal=crystal).hits(control)
    expected = [
        bool(energy <= energies[best] + 0.01) and same_structure(atoms, crystal)
        for energy, atoms in zip(energies, control.structures.to_atoms(), strict=True)
    ]
    assert hits.tolist() == expected
    assert hits[best]


def test_target_of_a_file_is_relaxed_by_the_reference(run, tmp_path):
    write(tmp_path / "fcc.cif", bulk("Al", a=4.1))
    target = target_of_file(tmp_path / "fcc.cif", run.campaign, tmp_path, engine)
    assert target.crystal is not None
    assert target.crystal.get_volume() == pytest.approx(3.995**3 / 4, rel=0.01)  # EMT's aluminium
    assert target.energy == pytest.approx(-0.005, abs=0.001)


@pytest.mark.parametrize(
    ("name", "atoms", "message"),
    [
        ("cu.cif", bulk("Cu"), "Cu is no periodic crystal of Al4"),
        ("none.cif", None, "there is no such file"),
        (".", None, "a folder; name the file of a crystal"),
    ],
)
def test_a_target_that_is_none_is_named(run, tmp_path, name, atoms, message):
    if atoms is not None:
        write(tmp_path / name, atoms)
    with pytest.raises(ValueError, match=f"{name}: .*{message}"):
        target_of_file(tmp_path / name, run.campaign, tmp_path, engine)


def test_first_hit_counts_the_relaxations_before_it(control):
    energies = objective.values(control.energy, control.structures)
    order = np.argsort(-energies[np.isfinite(energies)])
    downwards = control.usable.take(order)
    target = lowest_of(control)
    hits = np.flatnonzero(target.hits(downwards))
    assert evaluations_to(downwards, target) == downwards.evaluations[: hits[0] + 1].sum()
    assert evaluations_to(downwards.take([0]), target) == INF


def lowest_of(control):
    return Target(float(np.nanmin(objective.values(control.energy, control.structures))), 0.002, "lowest")


def test_low_minima_are_different_crystals_within_a_tenth_of_an_ev(control):
    target = lowest_of(control)
    known = known_minima(control, target)
    energies = objective.values(known.energy, known.structures)
    assert len(known) > 1
    assert energies.max() <= target.energy + 0.1
    atoms = known.structures.to_atoms()
    for i in range(len(known)):
        for j in range(i):
            same = same_structure(atoms[i], atoms[j])
            assert not (same and abs(energies[i] - energies[j]) <= target.tolerance)


def test_a_trial_tells_what_the_campaign_found_and_when_it_could_have_stopped(run, control, tmp_path):
    leaders = leaders_by_cycle(run, tmp_path, engine, quiet)
    assert list(leaders) == [0, 1, 2]
    assert {path.parent.name for path in tmp_path.glob("tasks/*/result.json")}.isdisjoint(
        task_id(task) for task in final_relaxations(run.path, run.campaign, last_leaders(run))
    )  # the last ones were relaxed by the campaign itself
    target = lowest(run.campaign, [leaders[2]])
    final = relaxed_in_the_end(run, tmp_path, engine)
    trial = trial_of(run, leaders, final, control, target)
    assert trial.found
    assert run.reference_evaluations == trial.evaluations >= trial.first_hit
    assert final.evaluations.sum() == run.summary["evaluations"]["final_relaxations"]
    assert trial.first_hit > trial.evaluations - final.evaluations.sum()
    assert trial.early_hit <= trial.first_hit
    assert trial.labels == len(run.labels)
    assert trial.late_labels == 8 * (2 - trial.early_cycle)
    never = trial_of(run, leaders, final, control, Target(-5.0, 0.01, "too low"))
    assert (never.found, never.first_hit, never.early_cycle, never.late_labels) == (False, INF, None, 0)


def test_cycles_of_which_no_crystal_can_be_trusted_lead_to_none(run, tmp_path, monkeypatch):
    verdict = run.verdict()
    monkeypatch.setattr(type(run), "verdict", lambda *_: replace(verdict, top=[], energies=[]))
    leaders = leaders_by_cycle(run, tmp_path, engine, quiet)
    assert {cycle: len(labels) for cycle, labels in leaders.items()} == {0: 0, 1: 0, 2: 0}


def last_leaders(run) -> Structures:
    relaxed = run.relaxed()
    return relaxed.structures.take([relaxed.structures.ids.tolist().index(i) for i in run.verdict().top])


def test_a_campaign_without_result_counts_what_it_spent_and_says_why(run, control, tmp_path):
    shutil.copytree(run.path, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "winners")
    log(tmp_path / "run", "failed", reason="none of the leading crystals could be relaxed")
    failed = open_run(tmp_path / "run")
    leaders = leaders_by_cycle(failed, tmp_path, engine, quiet)
    final = relaxed_in_the_end(failed, tmp_path, engine)
    assert final is None
    trial = trial_of(failed, leaders, final, control, lowest(run.campaign, [leaders[2]]))
    assert (trial.ended, trial.found, trial.reason) == (False, False, "none of the leading crystals could be relaxed")
    assert trial.evaluations == run.reference_evaluations > failed.reference_evaluations


class Statuses:
    """Stands for processes: each ends with the next of these exit statuses."""

    def __init__(self, *statuses):
        self.statuses = list(statuses)

    def __call__(self, command, stdout, **_):
        stdout.write(b"Traceback\nRuntimeError: out of memory\n")
        self.status = self.statuses.pop(0)
        return self

    def wait(self):
        return self.status

    def terminate(self):
        pass


@pytest.mark.parametrize(("event", "refused"), [("failed", False), ("stage started", True)])
def test_a_campaign_that_crashed_is_no_campaign_that_found_nothing(tmp_path, monkeypatch, event, refused):
    monkeypatch.setattr(subprocess, "Popen", Statuses(1))
    (tmp_path / "seed-1").mkdir()
    log(tmp_path / "seed-1", event, reason="too many failed")
    runs = {1: tmp_path / "seed-1"}
    if not refused:
        run_campaigns(Path("a.yaml"), [], runs, 1, quiet)
        return
    (tmp_path / "seed-1" / "log.jsonl").unlink()  # it may crash before it has written a word
    with pytest.raises(CampaignFailedError, match=r"exit status 1:\n  Traceback\n  RuntimeError: out of memory"):
        run_campaigns(Path("a.yaml"), [], runs, 1, quiet)


def test_a_campaign_whose_driver_outlived_a_killed_benchmark_is_waited_for(tmp_path, monkeypatch):
    processes = Statuses(3, 3, 0)
    monkeypatch.setattr(subprocess, "Popen", processes)
    monkeypatch.setattr("csp_al.benchmark.campaigns.LOOK", 0.01)
    run_campaigns(Path("a.yaml"), [], {1: tmp_path / "seed-1"}, 1, quiet)
    assert processes.statuses == []


def test_a_run_whose_settings_are_lost_is_not_repaired_with_another_seed(run, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run.path, copy)
    (copy / "resolved.json").unlink()
    other = run.campaign.model_copy(update={"seed": 8})
    with pytest.raises(ChangedError, match="it began with another seed; give --seed 3"):
        open_to_drive(copy, other, copy / "campaign.yaml", {}, mend=True, tell=quiet)
    open_to_drive(copy, run.campaign, copy / "campaign.yaml", {}, mend=True, tell=quiet)
    assert open_run(copy).campaign.seed == 3


BENCHMARK = """\
name: al4
pool: {formula: Al4, size: 8, volume_per_atom: [12, 24]}
reference: {kind: ase, calculator: ase.calculators.emt.EMT}
potential: {members: 2, features: 8, interactions: 1, cutoff: 5.0, steps: 20}
select: {per_cycle: 4, clusters: 4}
stop: {top_k: 2, max_cycles: 2}
budget: {labels: 8}
"""


def test_other_settings_of_the_suite_have_other_names(tmp_path):
    suite = runpy.run_path(str(ROOT / "analysis" / "benchmarks" / "suite.py"))
    file = ROOT / "campaigns" / "suite" / "suite-lj.yaml"
    assert suite["variant"](file, [], tmp_path) == file
    settings = ["select.force_weight=0.5", "pool.volume_per_atom=[9,21]", "potential.kind=painn"]
    other = read_campaign(suite["variant"](file, settings, tmp_path))
    assert other.name == "suite-lj-select.force_weight-0.5-pool.volume_per_atom-9.21-potential.kind-painn"
    assert (other.select.force_weight, other.pool.volume_per_atom, other.potential.kind) == (0.5, (9, 21), "painn")
    assert other.stop == read_campaign(file).stop


def test_every_hard_system_has_a_target_that_its_reference_confirms():
    suite = runpy.run_path(str(ROOT / "analysis" / "benchmarks" / "suite.py"))
    crystals = 0
    for file in sorted(suite["HARD"].glob("*.yaml")):
        assert suite["file_of"](file.stem) == file
        option, energy = suite["target_of"](file.stem)
        assert option == "--target-energy"
        if (crystal := file.with_suffix(".cif")).exists():
            campaign, atoms = read_campaign(file), read(crystal)
            reference = campaign.reference
            atoms.calc = lennard_jones(**reference.parameters)
            assert reference.calculator.endswith(".lennard_jones")
            assert atoms.get_potential_energy() / len(atoms) == pytest.approx(float(energy), abs=1e-4)
            assert atoms.symbols.formula.count() == species_counts(campaign.pool.formula)
            cell = (atoms.cell.array, atoms.get_scaled_positions(), atoms.numbers)
            assert len(spglib.find_primitive(cell, 0.1)[2]) == len(atoms)
            crystals += 1
    assert crystals == 2
    assert suite["target_of"]("si8") == []


def test_a_replayed_stop_rule_waits_for_cycles_in_a_row_that_change_nothing(run, tmp_path):
    stopping = runpy.run_path(str(ROOT / "analysis" / "benchmarks" / "stopping.py"))
    first, *_, last = stopping["cycles_of"](run, tmp_path)
    assert (first.labels, last.labels) == (8 + run.opened, 24 + run.opened)
    final = run.summary["evaluations"]["final_relaxations"]
    assert last.evaluations == run.reference_evaluations - final
    assert 0 < last.relaxed.evaluations.sum() <= final  # others that may be the lowest follow these
    once, twice = (run.campaign.stop.model_copy(update={"patience": patience}) for patience in (1, 2))
    stopped = stopping["stopped"]
    assert stopped([first, last], once) is None
    assert stopped([first, last, last], once) is last
    assert stopped([last, last, first, last], twice) is None
    assert stopped([first, last, last, last], twice) is last
    relaxed = last.cut(1).relaxed
    target = Target(objective.values(relaxed.energy, relaxed.structures)[0], 0.01, "what led in the end")
    found = stopping["row"]([[first, last, last], [first, last]], once, target).split(" | ")
    assert found[:2] == ["1", "1"]  # one of two stops, and has found it
    # it led in the first cycle too
    assert found[4] == f"{100 * (1 - first.labels / last.labels):.0f}%"
    assert stopping["row"]([[first, last]], once, target).split(" | ") == ["0", "0", "inf", "inf", ""]
    assert len(last.cut(1).leading.energies) == len(last.cut(1).relaxed) == 1
    assert len(last.cut(5).relaxed) == 2


@pytest.mark.long
@pytest.mark.parametrize("when", ["campaigns", "seed 1"])
def test_a_benchmark_is_printed_drawn_and_continued_after_a_kill(tmp_path, when):
    file = tmp_path / "al4.yaml"
    file.write_text(BENCHMARK)
    command = [sys.executable, "-m", "csp_al", "benchmark", str(file), "--seeds", "2"]
    first = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    for line in first.stdout:
        if when in line:
            break
    runs = [tmp_path / "benchmarks" / "al4" / f"seed-{seed}" for seed in (1, 2)]
    deadline = time.monotonic() + 60
    while not all((run / "pool").is_dir() for run in runs):  # the campaigns have begun, and outlive the benchmark
        assert time.monotonic() < deadline
        time.sleep(0.05)
    first.kill()
    first.wait()
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "Reference evaluations saved:" in done.stdout
    folder = tmp_path / "benchmarks" / "al4"
    result = json.loads((folder / "result.json").read_text())
    assert result["campaign"]["of"] == result["control"]["of"] == 2
    assert result["seeds"] == [1, 2]
    for seed, trial in zip((1, 2), result["trials"], strict=True):
        assert open_run(folder / f"seed-{seed}").reference_evaluations == trial["evaluations"]
    assert result["control"]["found"] >= 1  # nobody is lower than the lowest
    assert (folder / "success.png").stat().st_size > 10_000
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert json.loads((folder / "result.json").read_text()) == result
    assert again.stdout.splitlines()[-4:] == done.stdout.splitlines()[-4:]
    shutil.rmtree(folder)
    other = file.read_text().replace("labels: 8", "labels: 4")
    file.write_text(other)
    subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    cheaper = json.loads((folder / "result.json").read_text())
    assert cheaper["control"]["evaluations_per_candidate"] == result["control"]["evaluations_per_candidate"]


def test_a_benchmark_wants_one_target(tmp_path):
    file = tmp_path / "al4.yaml"
    file.write_text(BENCHMARK)
    said = CliRunner().invoke(app, ["benchmark", str(file), "--target", "a.cif", "--target-energy", "-1"])
    assert said.exit_code == 2
    assert "--target and --target-energy: give one of them" in said.stderr
    for options, words in (
        (["--target-energy", "nan"], "--target-energy: nan is no energy"),
        (["--directory", str(tmp_path / "control")], "benchmarks keep their random searches there"),
    ):
        said = CliRunner().invoke(app, ["benchmark", str(file), *options])
        assert (said.exit_code, words in said.stderr) == (2, True)


def test_a_campaign_takes_another_seed_from_the_command_line(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr("csp_al.cli.driver.drive", lambda campaign, _: seen.append(campaign.seed) or 0)
    file = tmp_path / "al4.yaml"
    file.write_text(BENCHMARK)
    for options in ([], ["--seed", "7"]):
        assert CliRunner().invoke(app, ["run", str(file), *options]).exit_code == 0
    assert seen == [1, 7]
    assert read_campaign(file).seed == 1
