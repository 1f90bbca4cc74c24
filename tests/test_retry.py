"""What failed is tried again: by the next driver where the machine lacked something, else where it is asked for."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from ase.build import bulk
from test_machine_fails import csp_al, pids

from csp_al.campaign.machine import Machine
from csp_al.engine import worker
from csp_al.engine.retry import forget_failure
from csp_al.engine.tasks import create_task, label_task, read_result
from csp_al.reasons import Failure, kind_of
from csp_al.reference.ase_calculator import AseReference


def results(here: Path) -> dict[str, dict[str, object]]:
    found = [json.loads(path.read_text()) for path in here.glob("runs/small/tasks/*/result.json")]
    return {result["id"]: result for result in found}


def test_outage_is_over_when_the_machine_has_again_what_it_lacked(here):
    (here / "away").touch()
    ended = csp_al("run", "small.yaml")
    assert ended.exit_code == 75, ended.output
    assert "RuntimeError: cannot reach the licence server" in ended.output
    assert "the same command tries them again" in ended.output
    failed = set(results(here))
    (here / "away").unlink()
    ended = csp_al("run", "small.yaml")
    assert ended.exit_code == 0, ended.output
    assert "Tried again: 1 x RuntimeError: cannot reach the licence server" in ended.output
    known = results(here)
    assert failed <= set(known)
    assert [attempt["status"] for attempt in known[failed.pop()]["attempts"]] == ["interrupted", "done"]


def test_calculation_that_failed_of_itself_is_tried_again_only_where_it_is_asked_for(here):
    (here / "wrong").touch()
    assert csp_al("run", "small.yaml").exit_code == 1
    begun = len(pids(here))
    (here / "wrong").unlink()
    ended = csp_al("run", "small.yaml")
    assert ended.exit_code == 1
    assert "--retry failed" in ended.output
    assert len(pids(here)) == begun
    ended = csp_al("run", "small.yaml", "--retry", "failed")
    assert ended.exit_code == 0, ended.output


def test_one_calculation_is_tried_again_by_its_id(here):
    (here / "wrong").touch()
    csp_al("run", "small.yaml")
    (here / "wrong").unlink()
    names = sorted(results(here))
    csp_al("run", "small.yaml", "--retry", names[0])
    known = results(here)
    assert [name for name in names if known[name]["status"] == "done"] == names[:1]


def test_label_of_an_outage_that_outlasts_many_starts_is_calculated_when_it_is_over(tmp_path, monkeypatch):
    (tmp_path / "away").touch()
    monkeypatch.setattr(worker, "MOST_INTERRUPTIONS", 3)
    monkeypatch.syspath_prepend(Path(__file__).parent)
    section = AseReference(kind="ase", calculator="faulty_emt.FaultyEMT", parameters={"folder": str(tmp_path)})
    root = tmp_path / "tasks"
    name = create_task(root, label_task(bulk("Al"), section))
    for _ in range(worker.MOST_INTERRUPTIONS + 1):
        worker.run_task(root, name, Machine())
        assert read_result(root, name).reason.kind is Failure.AWAY
        forget_failure(root, name)
    (tmp_path / "away").unlink()
    worker.run_task(root, name, Machine())
    assert read_result(root, name).status == "done"


@pytest.mark.parametrize("name", ["0123456789abcdef0123", "no id", "../tasks"])
def test_id_of_no_failed_calculation_is_refused_before_anything_changes(here, name):
    (here / "wrong").touch()
    csp_al("run", "small.yaml")
    before = (here / "runs/small/log.jsonl").read_bytes()
    ended = csp_al("run", "small.yaml", "--retry", name)
    assert ended.exit_code == 2
    assert f"--retry {name}: no calculation of this id has failed" in ended.output
    assert (here / "runs/small/log.jsonl").read_bytes() == before


def test_final_relaxation_that_failed_is_tried_again_and_the_results_have_it(here):
    assert csp_al("run", "small.yaml").exit_code == 0
    text = (here / "small.yaml").read_text()
    (here / "small.yaml").write_text(text.replace("max_steps: 3", "max_steps: 3, crystals: 2"))
    (here / "wrong").touch()
    ended = csp_al("run", "small.yaml")
    assert ended.exit_code == 0, ended.output
    (here / "wrong").unlink()
    summary = here / "runs/small/winners/summary.json"
    failed = json.loads(summary.read_text())["failed"]
    assert failed
    assert csp_al("run", "small.yaml").exit_code == 0
    assert json.loads(summary.read_text())["failed"] == failed
    ended = csp_al("run", "small.yaml", "--retry", "failed")
    assert ended.exit_code == 0
    assert f"tried again: {len(failed)}; the results so far are under superseded/ now" in ended.output
    assert json.loads(summary.read_text())["failed"] == []


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (FileNotFoundError(2, os.strerror(2), "vasp_std"), Failure.AWAY),
        (RuntimeError("Please set either command in calculator or one of the following environment variables"),
         Failure.AWAY),
        (RuntimeError('Calculator "vasp" failed with command "vasp_std" with error code 127'), Failure.AWAY),
        (RuntimeError("error code 12"), Failure.OTHER),
        (MemoryError(), Failure.OUT_OF_MEMORY),
        (ZeroDivisionError("float division by zero"), Failure.OTHER),
    ],
)  # fmt: skip
def test_what_the_machine_lacked_is_told_from_what_went_wrong_with_a_calculation(error, kind):
    assert kind_of(error) is kind
