"""A pool of small cells to learn from, and one of larger cells that is searched."""

from pathlib import Path

import numpy as np
import pytest
from small_run import run_to_its_end

from csp_al import open_run
from csp_al.benchmark.control import random_search
from csp_al.benchmark.target import Target
from csp_al.benchmark.trial import leaders_by_cycle, relaxed_in_the_end, trial_of
from csp_al.campaign import CampaignError, Pool, read_campaign
from csp_al.campaign.machine import Machine
from csp_al.engine.engines import start_engine
from csp_al.generate import generate_candidates, generate_pool, is_searched

CAMPAIGN = """\
name: larger
pool: {formula: Al2, size: 12, volume_per_atom: [12, 24]}
search_pool: {formula: Al4, size: 10, volume_per_atom: [13, 22]}
reference: {kind: ase, calculator: ase.calculators.emt.EMT}
potential: {members: 2, features: 8, interactions: 1, cutoff: 5.0, steps: 30, batch_size: 8}
relax: {max_steps: 30}
select: {per_cycle: 6, clusters: 6}
stop: {top_k: 3, max_cycles: 2}
finish: {max_steps: 30}
"""


def quiet(*_, **__):
    pass


def engine(folder):
    return start_engine(folder, Machine(slots=2))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return open_run(run_to_its_end(tmp_path_factory.mktemp("larger"), CAMPAIGN))


def test_both_pools_are_candidates_and_keep_their_own_bounds(run):
    pool = run.pool
    assert pool["id"].tolist() == list(range(22))
    assert pool["n_atoms"].tolist() == [2] * 12 + [4] * 10
    assert pool["searched"].tolist() == [False] * 12 + [True] * 10
    assert pool["volume_per_atom"][12:].between(13, 22).all()


def test_the_first_labels_are_of_small_cells_and_larger_ones_are_labelled_where_they_lead(run):
    labels = run.labels
    assert (labels.loc[labels["cycle"] == 0, "id"] < 12).all()
    later = labels[labels["cycle"] == 1]
    assert len(later) == 6
    assert (later["id"] >= 12).any()
    assert set(run.ranking(0)["id"]) == set(range(22))


def test_what_leads_and_wins_is_of_the_search_pool_alone(run):
    for cycle in (0, 1):
        assert min(run.verdict(cycle).top) >= 12
    assert (run.results["n_atoms"] == 4).all()
    assert len(run.results) >= 1


def test_random_search_relaxes_the_search_pool_alone(run, tmp_path):
    control = random_search(run.campaign, Path(), tmp_path, engine, quiet)
    assert control.structures.ids.tolist() == list(range(12, 22))
    assert (control.structures.counts == 4).all()


def test_a_benchmark_tells_evaluations_of_small_cells_apart(run, tmp_path):
    control = random_search(run.campaign, Path(), tmp_path, engine, quiet)
    target = Target(0.0, 0.01, "what aluminium has")
    leaders, final = leaders_by_cycle(run, tmp_path, engine, quiet), relaxed_in_the_end(run, tmp_path, engine)
    trial = trial_of(run, leaders, final, control, target)
    labels = run.labels
    assert trial.small == run.check_evaluations + (labels["id"] < 12).sum()
    assert trial.small < run.reference_evaluations


def test_larger_cells_have_random_streams_of_their_own():
    small, large = Pool(formula="Al2", size=5), Pool(formula="Al2", size=5)
    structures, table = generate_candidates([small, large], 1, quiet, Path())
    assert is_searched(table).tolist() == [False] * 5 + [True] * 5
    assert not np.allclose(structures.cells[:5], structures.cells[5:])
    alone, its_table = generate_pool(small, 1)
    np.testing.assert_array_equal(structures.take(range(5)).positions, alone.positions)
    assert is_searched(its_table).all()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("search_pool: {formula: Al4O6}", "3:24: search_pool.formula: Al4O6 is of another composition"),
        ("search_pool: {formula: Al4, seeds: [none.cif]}", "search_pool.seeds[0]: there is no file"),
        ("search_pool: {formula: Al4, volume_per_atom: [1, 2]}", "search_pool.volume_per_atom: atoms"),
        ("search_pool: {formula: Al4, min_distance: {Al-Al: 5.5}, volume_per_atom: [200, 300]}", "a cutoff of 5 Å is"),
    ],
)
def test_a_search_pool_that_does_not_fit_is_refused_at_its_place(tmp_path, line, said):
    file = tmp_path / "larger.yaml"
    file.write_text(CAMPAIGN.replace(CAMPAIGN.splitlines()[2], line))
    with pytest.raises(CampaignError) as refused:
        read_campaign(file)
    assert said in str(refused.value)


def test_a_global_node_that_nobody_asked_for_is_refused_where_cells_differ_in_size(tmp_path):
    path = tmp_path / "larger.yaml"
    path.write_text(CAMPAIGN.replace("{members: 2,", "{kind: leignn, members: 2,"))
    with pytest.raises(CampaignError, match=r"5:19: potential.kind: its global node learns means over Al2 .* Al4; set"):
        read_campaign(path)
    for said in ("true", "false"):
        path.write_text(CAMPAIGN.replace("{members: 2,", f"{{kind: leignn, global_node: {said}, members: 2,"))
        read_campaign(path)
