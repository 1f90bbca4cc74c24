"""The final relaxations: one that fails costs a crystal its place, and no more."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from conftest import CAMPAIGN
from typer.testing import CliRunner

from csp_al.campaign import read_campaign
from csp_al.campaign.machine import Machine
from csp_al.cli import app
from csp_al.engine.engines import start_engine
from csp_al.engine.tasks import publish_result, read_result
from csp_al.interfaces import Failure, Reason, Status
from csp_al.loop.drive import Drive
from csp_al.loop.search import search
from csp_al.report.tables import open_run
from csp_al.store.layout import TASKS


@pytest.fixture
def run(finished_run, tmp_path):
    """A copy of the finished run whose lowest crystal could not be relaxed, and that is to be finished again."""
    run = tmp_path / "runs" / "al4"
    shutil.copytree(finished_run, run)
    (tmp_path / "al4.yaml").write_text(CAMPAIGN)
    first, *_ = json.loads((run / "winners" / TASKS).read_text())
    result = read_result(run / "tasks", first)
    reason = Reason(Failure.OTHER, "ValueError: forces of too few atoms")
    publish_result(run / "tasks" / first, replace(result, status=Status.FAILED, reason=reason, values=None))
    shutil.rmtree(run / "winners")
    return run


def test_next_lowest_crystal_takes_the_place_of_one_that_failed_and_results_tell(run):
    told = []
    engine = start_engine(run / "tasks", Machine(slots=1))
    try:
        campaign = read_campaign(run.parents[1] / "al4.yaml")
        search(Drive(campaign, run, run.parents[1], torch.device("cpu"), told.append, engine))
    finally:
        engine.close()
    finished = open_run(run)
    (failed,) = finished.summary["failed"]
    merged = [candidate for group in finished.summary["merged"] for candidate in group[1:]]
    assert len(finished.results) + len(merged) >= campaign.winners  # others that may be the lowest follow
    assert failed["id"] not in {*finished.results["id"], *merged}
    predicted = finished.ranking().set_index("id")["energy_per_atom"]
    assert failed["predicted_energy_per_atom"] == predicted[failed["id"]]
    assert all(predicted[candidate] >= predicted[failed["id"]] for candidate in finished.results["id"])
    assert any("1 of 2 final relaxations failed" in getattr(event, "text", "") for event in told)
    said = CliRunner().invoke(app, ["results", str(run)]).output
    assert f"candidate {failed['id']}, predicted {failed['predicted_energy_per_atom']:.3f} eV/atom: ValueError" in said
