"""Campaigns run from Python: the same results as by the command line, and a run that can always be continued."""

import subprocess
import sys

import pytest
from outcomes import outcome
from small_run import TINY

import csp_al
from csp_al.campaign.errors import CampaignError
from csp_al.events import Calculated, CycleJudged, StageStarted
from csp_al.files import DamagedError
from csp_al.report.status import status
from csp_al.store.changes import ChangedError
from csp_al.store.links import UntrustedError


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "al2.yaml"
    path.write_text(TINY)
    return path


def test_a_run_from_python_ends_as_by_the_command_line_and_tells_what_happens(file, tmp_path):
    heard = []
    run = csp_al.run(file, tmp_path / "here", slots=1, device="cpu", on_event=heard.append)
    assert len(run.results) > 0
    assert status(run.path).state == "finished"
    assert {StageStarted, Calculated, CycleJudged} <= {type(event) for event in heard}
    before = len(heard)
    assert csp_al.run(file, tmp_path / "here", on_event=heard.append).results.equals(run.results)
    assert not any(isinstance(event, Calculated) for event in heard[before:])
    words = ["run", str(file), "--directory", str(tmp_path / "other"), "--slots", "1", "--device", "cpu"]
    subprocess.run([sys.executable, "-m", "csp_al", *words], check=True, stdout=subprocess.DEVNULL)
    assert outcome(run.path) == outcome(tmp_path / "other")


def test_a_link_out_of_the_run_directory_is_refused_unless_it_is_trusted(file, tmp_path):
    (tmp_path / "here" / "tasks").mkdir(parents=True)
    (tmp_path / "here" / "tasks" / "away").symlink_to(tmp_path)
    with pytest.raises(UntrustedError, match="a symbolic link out of the run directory"):
        csp_al.run(file, tmp_path / "here", device="cpu")
    assert [path.name for path in (tmp_path / "here").iterdir()] == ["tasks"]


def test_a_damaged_run_is_repaired_and_what_failed_tried_again_where_that_is_asked_for(file, tmp_path):
    run = csp_al.run(file, tmp_path / "here", slots=1, device="cpu")
    before = outcome(run.path)
    (run.path / "cycle-01" / "train" / "training.json").write_text("gone")
    with pytest.raises(DamagedError, match="--repair"):
        csp_al.run(file, run.path, device="cpu")
    heard = []
    assert outcome(csp_al.run(file, run.path, device="cpu", repair=True, on_event=heard.append).path) == before
    assert any(isinstance(event, StageStarted) and event.stage == "train" for event in heard)
    with pytest.raises(ValueError, match="no calculation"):
        csp_al.run(file, run.path, device="cpu", retry=[20 * "0"])


def test_a_callback_that_raises_ends_the_run_which_the_same_call_continues(file, tmp_path):
    def refuse(event):
        if type(event) is CycleJudged:
            msg = "enough"
            raise RuntimeError(msg)

    campaign = csp_al.load_campaign(file)
    with pytest.raises(RuntimeError, match="enough"):
        csp_al.run(campaign, tmp_path / "here", device="cpu", on_event=refuse)
    assert status(tmp_path / "here").state == "interrupted"
    assert len(csp_al.run(campaign, tmp_path / "here", device="cpu").results) > 0


def test_another_seed_is_another_run_and_not_that_of_this_directory(file, tmp_path):
    csp_al.run(file, tmp_path / "here", device="cpu", seed=2)
    assert csp_al.open_run(tmp_path / "here").campaign.seed == 2
    with pytest.raises(ChangedError, match="seed"):
        csp_al.run(file, tmp_path / "here", device="cpu", seed=3)


def test_what_is_wrong_with_a_file_is_raised_before_anything_is_made(file, tmp_path):
    file.write_text(TINY.replace("EMT", "EMTT"))
    with pytest.raises(CampaignError, match=r"al2\.yaml:4"):
        csp_al.run(file, tmp_path / "here")
    assert not (tmp_path / "here").exists()


@pytest.mark.parametrize("how", [{"seed": -1}, {"seed": "abc"}, {"slots": -3}])
def test_a_seed_or_slots_that_make_no_sense_are_refused_before_anything_is_made(file, tmp_path, how):
    with pytest.raises(ValueError, match=next(iter(how))):
        csp_al.run(file, tmp_path / "here", **how)
    assert not (tmp_path / "here").exists()


def test_a_campaign_changed_in_memory_is_refused(file, tmp_path):
    changed = csp_al.load_campaign(file).model_copy(update={"name": "other"})
    with pytest.raises(ValueError, match="only the seed may be another"):
        csp_al.run(changed, tmp_path / "here")
    assert not (tmp_path / "here").exists()


def test_a_campaign_of_no_file_is_refused(file, tmp_path):
    campaign = csp_al.load_campaign(file)
    assert campaign.model_copy(update={"seed": 2}).source == file
    with pytest.raises(ValueError, match="of no file"):
        csp_al.run(type(campaign).model_validate(campaign.model_dump()), tmp_path / "here")


def test_asking_for_the_names_imports_no_network():
    code = "import sys, csp_al; csp_al.run, csp_al.load_campaign; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
