"""A run directory written once opens in every later version: this one was written with formats of version 2."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from csp_al.cli import app
from csp_al.report.tables import open_run
from csp_al.store.opening import open_to_drive
from csp_al.store.run_directory import read_campaign_of

WRITTEN = Path(__file__).parent / "data" / "run-format-2"


@pytest.fixture
def run(tmp_path) -> Path:
    shutil.copytree(WRITTEN, tmp_path / "al2")
    return tmp_path / "al2"


def csp_al(*words: str):
    return CliRunner().invoke(app, list(words))


def test_run_directory_of_format_2_is_read_as_it_was_written(run, tmp_path):
    opened = open_run(run)
    assert opened.results["energy_per_atom"].tolist() == [0.0019456615027437785]
    assert opened.results["space_group_symbol"].tolist() == ["Im-3m"]
    assert opened.labels.groupby("cycle").size().tolist() == [4, 4]
    assert (opened.labels["status"] == "done").all()
    assert len(opened.pool) == len(opened.ranking(0)) == len(opened.ranking(1)) == 12
    assert opened.reference_evaluations == opened.summary["evaluations"]["all"]
    assert np.isfinite(opened.all_labels.forces).all()
    assert opened.walk_forward(1)["compared"] == 4
    assert len(opened.learning_curves) > 0
    state = json.loads(csp_al("status", str(run), "--json").output)
    assert (state["state"], state["cycle"], state["labels"]["done"]) == ("finished", 1, 8)
    assert csp_al("export", str(run), "--format", "cif,extxyz", "--to", str(tmp_path / "out")).exit_code == 0


def test_run_directory_of_format_2_is_whole_and_is_continued(run):
    open_to_drive(run, read_campaign_of(run), run / "campaign.yaml", {}, mend=False, tell=str)
    file = run.parent / "al2.yaml"
    text = (WRITTEN / "campaign.yaml").read_text().replace("max_cycles: 2", "max_cycles: 3")
    # what were defaults when it was written
    text = text.replace("steps: 30", "steps: 30, learning_rate: 2e-3, force_weight: 0.1")
    file.write_text(text.replace("clusters: 6", "clusters: 6, force_weight: 0.5"))
    ended = csp_al("run", str(file), "--directory", str(run), "--slots", "1", "--device", "cpu")
    assert ended.exit_code == 0, ended.output
    assert "cycle 2, labels 12, failed 0" in ended.output
    assert "cycle 1: training" not in ended.output
