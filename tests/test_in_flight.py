"""Labels that are out while the loop goes on: none is lost or computed twice, and what came in is kept."""

import json
import os
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from small_run import cut_after, go_on, run_to_its_end

from csp_al.campaign import CampaignError, read_campaign
from csp_al.campaign.machine import Machine
from csp_al.campaign.models import Budget, Stop
from csp_al.engine.tasks import read_task
from csp_al.engine.wait import going_on
from csp_al.report.plan import describe_plan, plan
from csp_al.report.status import status
from csp_al.report.tables import open_run
from csp_al.select.stopping import Judged, Rules, Spent, Top, verdict
from csp_al.store import layout
from csp_al.store.layout import stage_folder
from csp_al.structures import Structures

CAMPAIGN = """
name: al4
pool: {{formula: Al4, size: 24, volume_per_atom: [13, 23], min_distance: {{Al-Al: 2.2}}}}
reference: {{kind: ase, calculator: waiting_emt.WaitingEMT, parameters: {{run: {run}}}}}
potential: {{kind: schnet, members: 2, features: 8, interactions: 1, cutoff: 4, steps: 50}}
relax: {{max_steps: 20}}
select: {{per_cycle: 4, in_flight: 6}}
stop: {{max_cycles: 5, challenge: false}}
finish: {{max_steps: 5}}
budget: {{labels: 24}}
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)  # of its calculator
        folder = tmp_path_factory.mktemp("in_flight")
        yield run_to_its_end(folder, CAMPAIGN.format(run=folder / "runs" / "al4"))


def labelled_ids(run):
    return [name for folder in sorted(run.glob("cycle-*/label")) for name in layout.LABEL_TASKS.read(folder)["task"]]


def test_cycles_learn_from_what_came_in_while_others_are_out(run):
    out = [len(layout.OUT.read(folder)) for folder in sorted(run.glob("cycle-*/label"))]
    assert 0 < out[0] <= 6
    assert max(out) <= 6
    assert out[-1] == 0


def test_every_label_that_was_asked_for_comes_in_once(run):
    names = [path.parent.name for path in run.glob("tasks/*/task.json")]
    labels = {name for name in names if read_task(run / "tasks", name).kind == "label"}
    checked = set(json.loads((run / "check" / layout.TASKS).read_text()))
    came = labelled_ids(run)
    assert labels - checked <= set(came) <= labels
    assert len(set(came)) == len(came) <= 24


def test_late_labels_are_compared_with_what_was_predicted_when_they_were_chosen(run):
    labels, candidates = open_run(run).labels, 0
    for cycle in range(1, 3):
        came = layout.CAME_IN.read(stage_folder(run, "label", cycle))
        told = labels[labels["cycle"] == cycle]["predicted_energy_per_atom"].to_numpy()
        np.testing.assert_array_equal(told, came.predicted.energy / 4)
        candidates += int(np.isnan(told).sum())
    assert candidates > 0  # of the first draw, for which nothing was predicted


def test_a_cycle_done_again_from_the_labels_that_were_kept_chooses_the_same(run, tmp_path):
    copy = cut_after(run, tmp_path, "cycle-01/label")
    go_on(copy)
    for name in ("train", "relax", "rank", "select"):
        for path in (run / "cycle-01" / name).glob("*.h5"):
            assert (copy / "cycle-01" / name / path.name).read_bytes() == path.read_bytes()


def test_labels_that_are_out_are_told(run, tmp_path):
    copy = cut_after(run, tmp_path, "cycle-00/train")
    out = layout.OUT_TASKS.read(copy / "cycle-00" / "label")
    told = status(copy).labels
    assert told.done + told.failed == len(labelled_ids(copy)) + len(out)
    waiting = out[0]
    shutil.rmtree(copy / "tasks" / waiting)
    assert status(copy).labels.pending == 1


def crystal():
    return Top(Structures.from_atoms([]), np.zeros(0), np.zeros(0))


def test_a_search_does_not_stop_while_labels_are_out():
    from pandas import DataFrame

    table = DataFrame({"trusted": [], "reason": [], "basin": [], "lowest_basin": []})
    rules = Rules(Stop(max_cycles=3), Budget(labels=100), 5)
    waits = verdict(crystal(), Judged(crystal(), 0), table, Spent(3, 15, 0.0, out=2), rules)
    assert (waits.stop, waits.waits, waits.settled) == (False, True, None)
    assert "2 labels still out" in waits.reason
    stops = verdict(crystal(), Judged(crystal(), 0), table, Spent(3, 15, 0.0), rules)
    assert (stops.stop, stops.waits) == (True, False)


def campaign_of(folder, text):
    path = folder / "al4.yaml"
    path.write_text(text.format(run=folder))
    return path


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (("in_flight: 6", "in_flight: -1"), r"al4\.yaml:7.*in_flight"),
        (("in_flight: 6", "in_flight: 2.5"), r"al4\.yaml:7.*in_flight"),
        (("in_flight: 6", "in_flight: 21"), r"al4\.yaml:7.*25 labels at first .* from 24 candidates"),
        (("labels: 24", "labels: 9"), r"al4\.yaml:7.*9 labels in all .* 10 at first"),
    ],
)
def test_more_in_flight_than_there_can_be_is_refused(change, what, tmp_path):
    with pytest.raises(CampaignError, match=what):
        read_campaign(campaign_of(tmp_path, CAMPAIGN.replace(*change)))


def test_a_plan_names_how_many_keep_the_slots_of_a_machine_busy(tmp_path):
    text = CAMPAIGN.replace(", in_flight: 6", "").replace("size: 24", "size: 100").replace("labels: 24", "labels: 100")
    campaign = read_campaign(campaign_of(tmp_path, text))
    planned = plan(campaign, None, Machine(slots=16))
    assert (planned["slots"], planned["in_flight"]) == (16, 24)
    assert "select.in_flight: 24" in describe_plan(planned)
    assert plan(campaign, None, Machine(slots=2))["in_flight"] is None


class Ticked:
    """An engine that counts its ticks, and may fail."""

    def __init__(self, trouble=None):
        self.submitted, self.ticks, self.trouble, self.threads = [], 0, trouble, set()

    def submit(self, task):
        self.submitted.append(task)

    def tick(self):
        self.ticks += 1
        self.threads.add(threading.current_thread())
        if self.trouble:
            raise self.trouble

    def lost(self):
        return []


def test_an_engine_is_kept_going_beside_the_work_and_left_alone_after_it(tmp_path):
    engine = Ticked()
    with going_on(engine, tmp_path, ["a", "b"]):
        deadline = time.monotonic() + 10
        while engine.ticks < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
    ticks = engine.ticks
    assert engine.submitted == ["a", "b"]
    assert ticks >= 2
    assert threading.current_thread() not in engine.threads
    time.sleep(0.5)
    assert engine.ticks == ticks


def test_what_stops_an_engine_is_heard_after_the_work(tmp_path):
    done = []
    with pytest.raises(OSError, match="no room"), going_on(Ticked(OSError("no room")), tmp_path, ["a"]):
        done.append(True)
    assert done == [True]
