"""`csp-al watch`: a campaign that another process drives, followed by its files alone."""

import json
import os
import re
import shutil
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from csp_al import claim, open_run
from csp_al.campaign import Campaign, Pool, read_campaign
from csp_al.cli import app
from csp_al.cli import watch as watch_module
from csp_al.cli.panel import Panel
from csp_al.events import Advanced, CycleJudged, LabelsImported, Noted, StageStarted
from csp_al.loop import drive
from csp_al.loop.drive import Milestones
from csp_al.reference.gpaw import GpawReference
from csp_al.report.live import advanced, event_of, read_log
from csp_al.store.lock import locked
from csp_al.store.run_directory import log, prepare

NOW = "2026-01-02T03:04:05+00:00"


@pytest.fixture
def copy(tmp_path, finished_run, monkeypatch) -> Path:
    """A finished run that can be changed, and a watcher that looks often."""
    monkeypatch.setattr(watch_module, "LOOK", 0.02)
    monkeypatch.setattr(claim, "WATCH", 0.1)
    monkeypatch.setattr(claim, "LOOK", 0.02)
    shutil.copytree(finished_run, tmp_path / "al4")
    return tmp_path / "al4"


@pytest.fixture
def going(copy) -> Path:
    """A run that a driver on another host has in hand: there is nothing here but its lock."""
    shutil.rmtree(copy / "winners")
    lock = {"host": "node17", "pid": 4321, "start": "then", "since": datetime.now(UTC).isoformat(timespec="seconds")}
    (copy / "LOCK").write_text(json.dumps(lock))
    return copy


def watch(run: Path):
    return CliRunner().invoke(app, ["watch", str(run)])


def content(run: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in [run, *run.rglob("*")]}


# --- how it ends


def test_run_that_has_ended_is_told_with_its_status(copy):
    before = content(copy)
    ended = watch(copy)
    assert ended.exit_code == 0
    assert "al4: finished, cycle 2, winners" in ended.output
    assert ended.output.endswith(f"The campaign has ended. Its results: csp-al results {copy}\n")
    assert content(copy) == before


def test_run_without_a_driver_says_whether_it_was_stopped_or_died(copy):
    shutil.rmtree(copy / "winners")
    log(copy, "stopped")
    ended = watch(copy)
    assert ended.exit_code == 1
    assert "al4: interrupted" in ended.output
    assert "Its driver was stopped. Nothing is lost. Continue with: csp-al resume" in ended.output
    log(copy, "stage started", cycle=3, stage="train")
    assert "No driver is running: it died, or its host did. Nothing is lost." in watch(copy).output
    log(copy, "failed", reason="the reference is away")
    ended = watch(copy)
    assert ended.exit_code == 1
    assert "the reference is away" in ended.output
    assert ended.output.endswith("The campaign has ended without a result.\n")


def test_run_that_has_not_begun_says_what_begins_it(tmp_path, finished_run):
    source = finished_run / "campaign.yaml"
    prepare(tmp_path / "begun", read_campaign(source), source, {})
    ended = watch(tmp_path / "begun")
    assert ended.exit_code == 1
    assert "No driver is running, and nothing has begun yet. Continue with: csp-al resume" in ended.output
    nothing = watch(tmp_path / "nothing")
    assert (nothing.exit_code, len(nothing.stderr.splitlines())) == (2, 1)
    assert "no run directory (there is no resolved.json); 'csp-al run FILE' makes one" in nothing.stderr


def test_driver_that_has_only_begun_is_waited_for(tmp_path, copy, finished_run):
    run = tmp_path / "late"
    run.mkdir()
    (run / "LOCK").write_text(json.dumps({"host": "node17", "pid": 1, "start": "then"}))

    def begin() -> None:
        time.sleep(0.2)
        shutil.copytree(finished_run, run, dirs_exist_ok=True)
        (run / "LOCK").unlink()

    ended = while_it_goes_on(begin, run)
    assert "al4: finished" in ended.output


# --- while it runs


def while_it_goes_on(what, run: Path):
    thread = threading.Thread(target=what)
    thread.start()
    ended = watch(run)
    thread.join()
    return ended


def test_driver_on_another_host_is_followed_until_it_ends(going, finished_run):
    judged = json.loads(
        next(line for line in (going / "log.jsonl").read_text().splitlines() if '"event": "cycle"' in line)
    )

    def run_on() -> None:
        time.sleep(0.2)
        log(going, "stage started", cycle=3, stage="train")
        log(going, "cycle", **{key: judged[key] for key in judged if key not in ("time", "event")} | {"cycle": 77})
        log(going, "cells opened", candidates=[3], why="2 x force of 90 eV/Å")
        time.sleep(0.2)
        shutil.copytree(finished_run / "winners", going / "winners")
        log(going, "finished", reason="enough")
        (going / "LOCK").unlink()

    before = content(going)
    ended = while_it_goes_on(run_on, going)
    after = content(going)
    assert ended.exit_code == 0, ended.output
    lines = ended.output.splitlines()
    assert f"al4: running in {going}, by process 4321 on node17" in lines[0]
    assert "cycle 3: training the ensemble" in lines[1]
    assert "cycle 77, labels" in lines[2]
    assert "Cells enlarged and labelled again: 2 x force of 90 eV/Å" in lines[3]
    assert lines[4].startswith("al4: finished")  # of what an earlier driver did nothing is told
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ", line) for line in lines[:4])
    new = {path for path in after if path not in before}
    assert all("/winners" in path for path in new)  # those that the driver wrote


def test_driver_of_another_host_that_is_silent_has_died(going):
    past = time.time() - claim.STALE - 1
    os.utime(going / "LOCK", (past, past))
    ended = watch(going)
    assert ended.exit_code == 1
    assert "No driver is running: it died, or its host did." in ended.output
    assert "running in" not in ended.output


def test_driver_whose_clock_is_behind_lives_as_long_as_it_touches_its_lock(going, finished_run, monkeypatch):
    monkeypatch.setattr(claim, "WATCH", 5.0)
    past = time.time() - 10 * claim.STALE
    os.utime(going / "LOCK", (past, past))

    def touch() -> None:
        for second in range(1, 20):
            time.sleep(0.02)
            os.utime(going / "LOCK", (past + second, past + second))
        log(going, "stage started", cycle=3, stage="train")
        shutil.copytree(finished_run / "winners", going / "winners")
        (going / "LOCK").unlink()

    ended = while_it_goes_on(touch, going)
    assert ended.exit_code == 0
    assert "by process 4321 on node17" in ended.output


def test_look_ends_with_ctrl_c_and_the_campaign_goes_on(going, monkeypatch):
    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(watch_module.time, "sleep", interrupt)
    before = content(going)
    ended = watch(going)
    assert ended.exit_code == 130
    assert ended.output.endswith(f"The campaign goes on. To look again: csp-al watch {going}\n")
    assert content(going) == before


def test_driver_on_this_host_is_known_at_once_dead_or_alive(copy):
    shutil.rmtree(copy / "winners")
    with locked(copy):
        found = claim.watched_owner(copy, "LOCK")
    assert found["pid"] == os.getpid()
    assert claim.watched_owner(copy, "LOCK") is None


# --- what is read


def test_calculations_under_way_are_counted_by_their_results(copy):
    assert advanced(copy) is None
    shutil.move(copy / "winners", copy / "winners.partial")
    tasks = json.loads((copy / "winners.partial" / "tasks.json").read_text())
    (copy / "tasks" / tasks[0] / "result.json").unlink()
    assert advanced(copy) == Advanced(len(tasks) - 1, len(tasks))


def test_log_is_read_on_from_where_it_ended(tmp_path):
    path = tmp_path / "log.jsonl"
    assert read_log(tmp_path) == ([], 0)
    line = json.dumps({"time": NOW, "event": "started"}) + "\n"
    path.write_text(line + "no line\n[]\n" + '{"time": "2026-01-02T03:04:05", "event": "of no zone"}\n' + line[:20])
    entries, at = read_log(tmp_path)
    assert [entry["event"] for entry in entries] == ["started"]
    assert read_log(tmp_path, at) == ([], at)  # the last line is being written
    with path.open("a") as file:
        file.write(line[20:] + line)
    entries, end = read_log(tmp_path, at)
    assert [entry["event"] for entry in entries] == ["started", "started"]
    assert end == path.stat().st_size


@pytest.mark.parametrize(
    ("entry", "event"),
    [
        ({"event": "stage started", "cycle": None, "stage": "pool"}, StageStarted(None, "pool")),
        ({"event": "stage started", "cycle": 3, "stage": "\x1b[2J"}, None),
        ({"event": "advanced", "done": 3, "all": 7}, Advanced(3, 7)),
        ({"event": "advanced", "done": "x", "all": []}, None),
        ({"event": "labels from elsewhere", "usable": 3, "rejected": 1}, LabelsImported(3, 1)),
        ({"event": "tried again", "tasks": ["a", "b"]}, Noted("Calculations tried again: 2")),
        ({"event": "cycle", "cycle": 1}, None),
        ({"event": "stage finished", "cycle": 1, "stage": "pool"}, None),
        ({"event": "of a later version"}, None),
    ],
)
def test_lines_of_the_log_are_what_the_driver_told(entry, event):
    assert event_of(entry | {"time": NOW}) == event


def test_cycles_of_a_log_are_told_as_by_the_driver(finished_run):
    entries, _ = read_log(finished_run)
    judged = [event for entry in entries if isinstance(event := event_of(entry), CycleJudged)]
    assert [event.cycle for event in judged] == [0, 1, 2]
    assert judged[2].labels == len(open_run(finished_run).labels)


# --- what tells it


def test_a_slow_stage_tells_each_tenth_and_a_quick_one_nothing(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(drive, "monotonic", lambda: clock[0])

    def told(seconds: float) -> list[int]:
        milestones, found = Milestones(), []
        for done in range(101):
            if milestones.is_next(done, 100):
                found.append(done)
            clock[0] += seconds
        return found

    assert told(0.01) == []
    assert told(2.0) == list(range(10, 101, 10))
    assert told(0.5) == list(range(20, 101, 20))
    milestones = Milestones()
    milestones.is_next(50, 100)
    clock[0] += 60
    assert not milestones.is_next(0, 100)  # another stage
    assert not Milestones().is_next(0, 0)


def test_panel_of_a_stage_begun_before_counts_its_time_from_then(tmp_path):
    panel = Panel(Campaign(name="al4", pool=Pool(formula="Al4"), reference=GpawReference()), tmp_path)
    panel.tell(StageStarted(3, "label"))
    panel.tell(Advanced(3, 10))
    panel.tell(StageStarted(3, "train"))
    panel.date_back(600)
    (task,) = panel.progress.tasks
    assert task.total is None  # and not that of the stage before
    assert task.elapsed == pytest.approx(600, abs=1)
