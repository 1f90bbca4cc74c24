"""A pool that grows: how offspring are made, and that a campaign that breeds is as reproducible as any other."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch
from ase import Atoms
from ase.build import bulk, make_supercell
from outcomes import outcome
from small_run import cut_after, go_on, run_to_its_end
from typer.testing import CliRunner

from csp_al import open_run
from csp_al.campaign import Pool, read_campaign, resolve
from csp_al.campaign.errors import CampaignError
from csp_al.cli import app
from csp_al.events import Warned
from csp_al.generate.offspring import OPERATORS, cut_and_splice, offspring, strain, symmetrise
from csp_al.generate.repeated_cells import repeat
from csp_al.generate.sources import why_unsound
from csp_al.interfaces import UnplaceableError
from csp_al.loop import grow
from csp_al.loop.stage import do_stage
from csp_al.store import layout
from csp_al.store.stages import manifest

CAMPAIGN = """\
name: growing
seed: 2
pool:
  formula: Al4
  size: 16
  volume_per_atom: [13, 22]
  symmetric_fraction: 0
  grow: {offspring: 8, generations: 2, parents: 5}
reference: {kind: ase, calculator: ase.calculators.emt.EMT}
potential: {members: 2, features: 8, interactions: 1, cutoff: 5.0, steps: 30, batch_size: 8}
relax: {max_steps: 30}
select: {per_cycle: 5, clusters: 6}
stop: {top_k: 3, max_cycles: 3}
finish: {max_steps: 10}
"""
ROCK_SALT = Pool(formula="Na4Cl4", volume_per_atom=(15, 40))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return open_run(run_to_its_end(tmp_path_factory.mktemp("growing"), CAMPAIGN))


def salts():
    """Rock salt, and caesium chloride, in cells of eight atoms."""
    rock_salt = bulk("NaCl", "rocksalt", a=5.6, cubic=True)
    caesium_chloride = make_supercell(bulk("NaCl", "cesiumchloride", a=3.5), np.diag([1, 2, 2]))
    return [rock_salt, caesium_chloride]


def children(parents, pool, count=60):
    return [offspring(parents, resolve(pool), np.random.default_rng([1, index])) for index in range(count)]


# --- offspring


def test_life_of_offspring_tells_parents_and_when_it_was_bred(run):
    bred = run.pool[run.pool["generation"].notna()]
    assert len(bred)
    for row in bred.itertuples():
        life = run.life(row.id)
        assert (life.origin["origin"], life.origin["parents"]) == (row.origin, row.parents)
        first = next(cycle for cycle in run.published("rank") if row.id in set(run.ranking(cycle)["id"]))
        assert life.cycles["cycle"].tolist() == list(run.published("rank"))[first:]
        for parent in map(int, row.parents.split()):
            if parent in set(run.pool["id"]):
                assert row.id in run.life(parent).offspring
    said = CliRunner().invoke(app, ["show", str(run.path), str(bred["id"].iloc[0])]).output
    assert f"generation {bred['generation'].iloc[0]}, in cycle " in said
    told = CliRunner().invoke(app, ["show", str(run.path), bred["parents"].iloc[0].split()[0], "--json"]).output
    assert bred["id"].iloc[0] in json.loads(told)["offspring"]


def test_offspring_have_the_composition_and_keep_the_bounds_whatever_made_them():
    constraints = resolve(ROCK_SALT)
    family = children(salts(), ROCK_SALT)
    for child in family:
        assert child.atoms.get_chemical_formula("hill") == "Cl4Na4"
        assert child.atoms.symbols[0] == "Na"
        assert why_unsound(child.atoms, constraints) == ""
        assert 15 <= child.atoms.cell.volume / 8 <= 40
    assert {child.operator for child in family} >= {"heredity", "strain", "shake", "swap"}


def test_offspring_follow_from_their_random_stream():
    first, again = (children(salts(), ROCK_SALT, 20) for _ in range(2))
    for one, other in zip(first, again, strict=True):
        assert one.parents == other.parents
        np.testing.assert_array_equal(one.atoms.positions, other.atoms.positions)
        np.testing.assert_array_equal(one.atoms.cell, other.atoms.cell)
    assert len({child.atoms.positions.tobytes() for child in first}) == 20


def test_heredity_takes_atoms_of_both_parents():
    """Told by where atoms of a species lie along the only axis that both parents have."""
    ends = [Atoms("Al4", scaled_positions=np.c_[np.full((4, 2), place), np.arange(4) / 4], cell=[4, 4, 9], pbc=True)
            for place in (0.0, 0.5)]  # fmt: skip
    mixed = 0
    for seed in range(50):
        child = cut_and_splice(ends, np.random.default_rng(seed))
        assert len(child) == 4
        mixed += len(np.unique(child.get_scaled_positions().round(6)[:, :2], axis=0)) > 1
    assert mixed > 25


def test_strain_keeps_the_volume():
    child = strain([bulk("Al", cubic=True)], np.random.default_rng(0))
    assert child.cell.volume == pytest.approx(bulk("Al", cubic=True).cell.volume)
    assert not np.allclose(child.cell, bulk("Al", cubic=True).cell, atol=0.05)


def test_nearly_symmetric_crystal_is_made_symmetric():
    crystal = bulk("Si", cubic=True)
    rough = crystal.copy()
    rough.rattle(0.02, seed=0)
    rough.set_cell(rough.cell.array + np.random.default_rng(0).normal(0, 0.01, (3, 3)), scale_atoms=True)
    found = [symmetrise([rough], np.random.default_rng(seed)) for seed in range(5)]
    whole = [atoms for atoms in found if atoms is not None]
    assert whole
    distances = whole[-1].get_all_distances(mic=True)
    np.testing.assert_allclose(np.sort(distances[0])[1:5], np.sort(distances[0])[1], atol=1e-3)
    assert symmetrise([crystal], np.random.default_rng(0)) is None


def test_one_atom_is_strained_alone_and_one_parent_has_no_heredity():
    (aluminium,) = ([bulk("Al")],)
    assert {child.operator for child in children(aluminium, Pool(formula="Al"), 20)} <= {"strain", "symmetry"}
    alone = children([bulk("Al", cubic=True)], Pool(formula="Al4"), 30)
    assert "heredity" not in {child.operator for child in alone}
    assert {child.parents for child in alone} == {(0,)}


def test_offspring_that_can_never_keep_the_distances_end_with_the_reason():
    pool = Pool(formula="Al4", min_distance={"Al-Al": 2.8}, volume_per_atom=(16, 18))
    crushed = bulk("Al", cubic=True)
    crushed.set_cell(crushed.cell * 0.9, scale_atoms=True)
    with pytest.raises(UnplaceableError, match=r"no offspring in 20 attempts: .*Al-Al"):
        offspring([crushed], resolve(pool), np.random.default_rng(0))


def test_shares_of_the_operators_are_parts_of_one():
    assert sum(operator.share for operator in OPERATORS) == pytest.approx(1)


# --- a campaign


def test_offspring_join_the_pool_with_their_origin_and_are_ranked_and_labelled(run):
    pool = run.pool
    bred = pool[pool["generation"].notna()]
    assert len(bred)
    assert bred["id"].min() >= 16
    assert bred["id"].is_unique
    assert set(bred["origin"]) <= {operator.name for operator in OPERATORS}
    assert bred["generation"].between(1, 2).all()
    assert bred["parents"].str.fullmatch(r"\d+( \d+)?").all()
    assert pool["generation"].isna().sum() == 16
    for cycle in range(3):
        joined = bred["id"] < 16 + (cycle + 1) * 2 * 8
        assert set(run.ranking(cycle)["id"]) == {*range(16), *bred.loc[joined, "id"]}
    assert run.structures(bred["id"].tolist())
    assert run.structures(bred["id"].tolist(), cycle=-1)


def test_at_most_as_many_join_in_a_cycle_as_breed_and_only_new_crystals(run):
    for cycle in range(3):
        first = 16 + cycle * 2 * 8
        ranking = run.ranking(cycle)
        joined = ranking[ranking["id"].between(first, first + 15)]
        assert len(joined) <= 5
        assert (joined["times_reached"] == 0).all()
        assert joined["basin"].is_unique


def test_offspring_are_not_counted_as_independent_draws(run):
    ranking, published = run.ranking(-1), layout.RANKING.read(max(run.published("rank").items())[1])
    bred = set(run.pool.loc[run.pool["generation"].notna(), "id"])
    drawn = published[~published["id"].isin(bred) & published["trusted"]]
    elsewhere = drawn.loc[drawn["lowest_basin"] != drawn["basin"], "lowest_basin"]
    for basin, count in pd.concat([drawn["basin"], elsewhere]).value_counts().items():
        assert (ranking.loc[ranking["basin"] == basin, "times_reached"] == count).all()
    assert run.results["times_reached"].le(16).all()
    arrived = drawn[drawn["reason"] == "converged"]["lowest_basin"].value_counts()
    expected = (arrived == 1).sum() / arrived.sum() if len(arrived) else 1.0
    assert run.verdict(-1).unseen == pytest.approx(expected)


def test_growing_campaign_that_is_continued_ends_the_same(run, tmp_path):
    continued = cut_after(run.path, tmp_path, "cycle-00/relax")
    go_on(continued)
    assert outcome(continued) == outcome(run.path)


def test_growth_done_by_itself_is_the_drivers_own(run, tmp_path):
    alone = cut_after(run.path, tmp_path, "cycle-01/relax")
    aside = do_stage(alone, "cycle-01/grow", torch.device("cpu"), quiet)
    expected = manifest(run.path / "cycle-01" / "grow")["files"]
    assert {name: (aside / name).read_bytes() for name in expected} == {
        name: (run.path / "cycle-01" / "grow" / name).read_bytes() for name in expected
    }


def test_where_nothing_can_be_bred_the_search_goes_on_and_says_so(tmp_path, monkeypatch):
    def no_room(*_):
        raise UnplaceableError("no offspring in 20 attempts: Al-Al 1.00 Å apart, allowed from 2.20 Å")

    monkeypatch.setattr(grow, "offspring", no_room)
    told = []
    run = open_run(run_to_its_end(tmp_path, CAMPAIGN.replace("max_cycles: 3", "max_cycles: 1"), told.append))
    assert len(run.pool) == 16
    assert not run.results.empty
    warned = [event.text for event in told if isinstance(event, Warned)]
    assert any("Al-Al 1.00 Å apart, allowed from 2.20 Å; the search goes on without" in words for words in warned)


def test_pool_beside_a_search_pool_does_not_grow(tmp_path):
    file = tmp_path / "growing.yaml"
    file.write_text(CAMPAIGN + "search_pool: {formula: Al8}\n")
    with pytest.raises(CampaignError, match=r"growing.yaml:8:9: pool.grow: beside a search pool only that one grows"):
        read_campaign(file)


# --- beside smaller cells


def larger(formula, cycles=2):
    """A campaign that learns from Al2 and searches another formula."""
    small = CAMPAIGN.replace("  grow: {offspring: 8, generations: 2, parents: 5}\n", "").replace("Al4", "Al2")
    searched = f"search_pool: {{formula: {formula}, size: 6, volume_per_atom: [13, 22], "
    searched += "grow: {offspring: 6, generations: 1, parents: 4}}\n"
    return small.replace("max_cycles: 3", f"max_cycles: {cycles}").replace("per_cycle: 5", "per_cycle: 10") + searched


@pytest.fixture(scope="module")
def beside(tmp_path_factory):
    # few parents may all repeat to what is there already, by the last bits of a machine
    text = larger("Al4").replace("parents: 4}}", "parents: 8}}").replace("seed: 2", "seed: 4")
    return open_run(run_to_its_end(tmp_path_factory.mktemp("beside"), text))


def test_search_pool_grows_by_cells_of_its_own_size(beside):
    bred = beside.pool[beside.pool["generation"].notna()]
    assert (bred["n_atoms"] == 4).all()
    assert bred["searched"].all()


def test_what_leads_among_smaller_cells_joins_the_search_pool_repeated(beside):
    repeated = beside.pool[beside.pool["origin"] == "repeated"]
    assert len(repeated)
    assert (repeated["generation"] == 0).all()
    rankings = [beside.ranking(cycle).set_index("id") for cycle in (0, 1)]
    for _, row in repeated.iterrows():
        ranking = next(ranking for ranking in rankings if row["id"] in ranking.index)
        small = ranking.loc[range(16)]
        parent = small.loc[int(row["parents"])]
        lower = small[small["trusted"] & (small["energy_per_atom"] < parent["energy_per_atom"])]
        assert parent["trusted"]
        assert lower["basin"].nunique() < 8  # as many breed
        # the same crystal, or one that it shook down to
        assert ranking.loc[row["id"], "energy_per_atom"] < parent["energy_per_atom"] + 0.01


def test_campaign_with_repeated_cells_that_is_continued_ends_the_same(beside, tmp_path):
    continued = cut_after(beside.path, tmp_path, "cycle-00/relax")
    go_on(continued)
    assert outcome(continued) == outcome(beside.path)


def test_smaller_cells_that_do_not_make_up_the_search_pools_are_not_repeated(tmp_path):
    run = open_run(run_to_its_end(tmp_path, larger("Al3", cycles=1)))
    assert "repeated" not in set(run.pool["origin"])
    assert not run.results.empty


def test_small_cell_is_repeated_to_the_whole_formula_with_its_atoms_apart():
    pool = Pool(formula="Na4Cl4", volume_per_atom=(15, 40))
    whole = repeat(bulk("NaCl", "rocksalt", a=5.6), resolve(pool), np.random.default_rng(0))
    assert whole.symbols.formula.count() == {"Na": 4, "Cl": 4}
    assert whole.cell.volume / 8 == pytest.approx(5.6**3 / 8)
    assert why_unsound(whole, resolve(pool)) == ""
    crushed = bulk("NaCl", "rocksalt", a=3.5)
    with pytest.raises(UnplaceableError, match=r"Cl-Na 1\.75 Å apart"):
        repeat(crushed, resolve(pool), np.random.default_rng(0))


def quiet(*_, **__):
    pass
