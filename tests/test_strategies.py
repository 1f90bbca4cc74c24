"""Strategies by which candidates are labelled, ours and those of others."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from csp_al.campaign import Select
from csp_al.cli import app
from csp_al.cli.trust import refuse_code
from csp_al.files import read_sealed
from csp_al.importing import beside
from csp_al.kinds import OURS, STRATEGIES
from csp_al.loop.bodies import rank_candidates
from csp_al.loop.drive import Work
from csp_al.report.tables import open_run
from csp_al.select.strategies import scores_by
from csp_al.store.layout import RANKING
from csp_al.store.links import UntrustedError
from csp_al.store.run_directory import PROVENANCE
from csp_al.structures import take

FILE = "name: a\npool: {formula: Al4}\nreference: {kind: ase, calculator: ase.calculators.emt.EMT}\n"


@pytest.fixture(scope="module")
def relaxed(finished_run):
    return open_run(finished_run).relaxed()


def first(relaxed, name: str) -> int:
    """Row of the candidate that a strategy labels first."""
    return int(np.argmin(scores_by(name, relaxed, Select(), np.random.default_rng(1))))


def test_each_of_our_strategies_scores_by_what_its_name_says(relaxed):
    prediction, structures = relaxed.prediction, relaxed.structures
    energies = prediction.energy / structures.counts
    assert first(relaxed, "lowest") == np.nanargmin(energies)
    assert first(relaxed, "uncertainty") == np.nanargmax(structures.largest(prediction.forces_sigma))
    falling = energies - Select().force_weight * structures.largest(np.linalg.norm(prediction.forces, axis=1))
    assert first(relaxed, "paper") == np.nanargmin(falling)
    drawn = {tuple(scores_by("random", relaxed, Select(), np.random.default_rng(seed))) for seed in (1, 1, 2)}
    assert [sorted(one) for one in drawn] == [list(range(len(relaxed)))] * 2


@pytest.mark.parametrize("name", OURS[STRATEGIES])
def test_what_is_not_finite_is_never_labelled(relaxed, name):
    prediction = relaxed.prediction
    energy, sigma = prediction.energy.copy(), prediction.forces_sigma.copy()
    energy[3] = sigma[relaxed.structures.ptr[3]] = np.nan
    broken = replace(relaxed, prediction=replace(prediction, energy=energy, forces_sigma=sigma))
    scores = scores_by(name, broken, Select(), np.random.default_rng(1))
    assert not np.isnan(scores).any()
    assert scores[3] == np.inf or name == "random"


def test_strategy_of_a_user_is_looked_for_beside_the_campaign_file_and_its_scores_are_kept(finished_run, tmp_path):
    (tmp_path / "my_strategy.py").write_text(
        "def dense(relaxed, section, rng):\n    return relaxed.structures.volumes / relaxed.structures.counts\n"
        "def wrong(relaxed, section, rng):\n    return [1.0, 2.0]\n"
    )
    run = open_run(finished_run)
    select = run.campaign.select.model_copy(update={"strategy": "my_strategy.dense"})
    campaign = run.campaign.model_copy(update={"select": select})
    relaxed, work = run.relaxed(), Work(campaign, finished_run, tmp_path, torch.device("cpu"), print)
    rank_candidates(work, tmp_path, 2, relaxed, take(relaxed, np.zeros(0, np.int64), relaxed.structures), 10)
    table = pd.read_csv(tmp_path / RANKING.name)
    assert table["score"].to_numpy() == pytest.approx(table["volume_per_atom"].to_numpy())
    with beside(tmp_path), pytest.raises(ValueError, match=r"my_strategy\.wrong gave .* where 24 numbers are expected"):
        scores_by("my_strategy.wrong", run.relaxed(), select, np.random.default_rng(1))
    with pytest.raises(UntrustedError, match=r"select\.strategy: my_strategy\.dense, which this command would run"):
        refuse_code(campaign, finished_run)


@pytest.mark.parametrize(
    ("strategy", "said"),
    [
        ("lowst", "4:20: select.strategy: unknown word lowst, did you mean lowest?"),
        ("greedy", "unknown word greedy; allowed: paper, lowest, uncertainty, random, or an import path"),
        ("my_module.scores", "4:20: select.strategy: my_module.scores: no module 'my_module'"),
    ],
)
def test_strategy_that_is_not_there_is_told_at_its_place(tmp_path, strategy, said):
    (tmp_path / "a.yaml").write_text(f"{FILE}select: {{strategy: {strategy}}}\n")
    found = CliRunner().invoke(app, ["validate", str(tmp_path / "a.yaml")])
    assert (found.exit_code, said in found.stderr) == (2, True), found.stderr


def test_strategy_of_a_user_is_not_run_by_a_look(tmp_path):
    (tmp_path / "mine.py").write_text("raise RuntimeError\ndef scores(): ...\n")
    (tmp_path / "a.yaml").write_text(f"{FILE}select: {{strategy: mine.scores}}\n")
    found = CliRunner().invoke(app, ["validate", str(tmp_path / "a.yaml")])
    assert found.exit_code == 0
    assert "Warning: " in found.stderr
    assert "mine.py) was found, and is not run here" in found.stderr
    assert CliRunner().invoke(app, ["plan", str(tmp_path / "a.yaml")]).exit_code == 0
    assert CliRunner().invoke(app, ["validate", str(tmp_path / "a.yaml"), "--trust"]).exit_code == 2


def test_strategy_is_recorded_in_provenance(finished_run: Path):
    assert read_sealed(finished_run / PROVENANCE, "provenance")["strategy"] == "paper"
