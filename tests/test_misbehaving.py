"""One bad calculation stays one: whatever it does, others go on, and nothing that it started outlives it."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk

from csp_al import claim
from csp_al.campaign.machine import Machine
from csp_al.engine import worker
from csp_al.engine.attempt import directory_of
from csp_al.engine.engines import start_engine
from csp_al.engine.output_log import KEPT, shorten
from csp_al.engine.tasks import create_task, label_task, read_result, relax_task, tidy
from csp_al.engine.wait import run_tasks
from csp_al.files import read_sealed, write_sealed
from csp_al.reference.ase_calculator import AseReference
from csp_al.store.repair import repair_tasks

ENDS = {
    "does_nothing": "",
    "drops_a_force": r"forces of shape \(3, 3\) for 4 atoms; \(4, 3\) is expected",
    "moves_the_atoms": "has changed the atoms that it was given; switch its own relaxation off",
    "exits_at_once": "exit status 0 and no result; see attempt-1/output.log",
    "raises_system_exit": "^SystemExit: enough$",
    "raises_keyboard_interrupt": "^KeyboardInterrupt$",
    "kills_its_group": "killed by SIGKILL, by the kernel if memory ran out",
    "kills_its_worker": "killed by SIGKILL when its worker died, by the kernel if memory ran out; see attempt-2/",
    "stops_its_worker": "",
    "terminates_its_worker": "killed by SIGKILL when its worker died",
    "removes_its_folder": "",
    "removes_its_folder_and_dies": "exit status 1 and no result",
    "leaves_an_outcome_that_is_none": "exit status 1 and no result",
    "writes_to_low_files": "",
    "closes_all_files": "",
    "closes_its_output": "",
    "ignores_its_children": "",
    "leaves_files_open": "^Too many open files, when its outcome was written; see attempt-1/output.log$",
    "allows_no_files": "^File too large, when its outcome was written",
    "goes_elsewhere": "",
    "leaves_threads": "",
    "forks_itself": "",
    "complains_in_bytes": "^ValueError: not converged: \ufffd\ufffd\ufffd.31m$",
    "complains_at_length": r"^SystemExit: nono[no]* \[\.\.\. \d+ letters left out \.\.\.\] [no]*$",
}
"""What a calculation does, and how the reason of its failure reads; of none where its values are good all the same."""


@pytest.fixture
def root(tmp_path, monkeypatch):
    here = str(Path(__file__).parent)
    monkeypatch.setenv("PYTHONPATH", here, prepend=os.pathsep)
    monkeypatch.syspath_prepend(here)
    folder = tmp_path / "tasks"
    folder.mkdir()
    return folder


@pytest.fixture
def engine(root):
    engine = start_engine(root, Machine(slots=1))
    yield engine
    engine.close()


@pytest.fixture
def notes(tmp_path):
    return tmp_path / "notes"


def section(does, notes="", **limits):
    parameters = {"does": does, "notes": str(notes)}
    return AseReference(
        kind="ase", calculator="misbehaving_emt.MisbehavingEMT", parameters=parameters, **{"time_limit": 60, **limits}
    )


def aluminium():
    atoms = bulk("Al", cubic=True)
    atoms.rattle(0.1, seed=0)
    return atoms


def label(root, does, notes="", **limits):
    return create_task(root, label_task(aluminium(), section(does, notes, **limits)))


def run(engine, *names, seconds=100.0):
    deadline = time.monotonic() + seconds
    run_tasks(engine, engine.root, names, lambda *_: None, lambda: time.monotonic() > deadline)
    return [read_result(engine.root, name) for name in names]


def wait_until(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def started(notes):
    return [int(pid) for pid in notes.read_text().split()] if notes.exists() else []


def alive(pid):
    return claim.start_time(pid) is not None


def start(engine, name, notes):
    """Give a task to the engine and wait until its program runs; the pid of its worker."""
    engine.submit(name)
    engine.tick()
    wait_until(lambda: started(notes))
    return claim.owner(engine.root / name)["pid"]


# --- one bad calculation


def test_whatever_a_calculation_does_it_is_one_failure_with_its_reason_and_others_go_on(engine, root):
    names = {does: label(root, does) for does in ENDS}
    results = dict(zip(names, run(engine, *names.values()), strict=True))
    good = results["does_nothing"].done
    for does, reason in ENDS.items():
        result = results[does]
        if reason:
            assert result.status == "failed", does
            assert re.search(reason, result.reason.words), (does, result.reason.words[:300])
            assert len(result.attempts) == (2 if "killed by SIGKILL" in reason else 1), does
        else:
            assert result.done, (does, result.reason)
            np.testing.assert_array_equal(result.done.forces, good.forces)
        assert (root / names[does] / "result.json").stat().st_size < 20_000
    assert not list(root.glob("*/claim*"))


def test_relaxation_that_removes_its_folder_fails_with_a_reason(engine, root):
    name = create_task(root, relax_task(aluminium(), section("removes_its_folder"), 0.05, 5))
    (result,) = run(engine, name)
    assert result.status == "failed"
    assert "FileNotFoundError" in result.reason.words


def test_module_that_takes_the_workers_input_and_ignores_children_when_imported_disturbs_nothing(
    engine, root, tmp_path, monkeypatch
):
    (tmp_path / "intruder.py").write_text(
        "import os, signal, sys\nfrom ase.calculators.emt import EMT as Intruder\n"
        "signal.signal(signal.SIGCHLD, signal.SIG_IGN)\nprint('read', repr(sys.stdin.read()))\n"
        "[os.write(number, b'{}\\n') for number in (1, 2)]\nos.chdir('/')\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    reference = AseReference(kind="ase", calculator="intruder.Intruder")
    tasks = [create_task(root, label_task(atoms, reference)) for atoms in (bulk("Al"), bulk("Cu"))]
    assert [result.status for result in run(engine, *tasks)] == ["done", "done"]
    assert "read ''" in (root / "worker-0.log").read_text()


def test_stored_values_of_other_atoms_are_a_failure_and_no_end(root):
    """As versions stored them that did not look: the result is damage, and what a repair makes of it has failed."""
    name = label(root, "does_nothing")
    worker.run_task(root, name, Machine())
    files = [(root / name / "result.json", "result"), (directory_of(root / name, 1) / "outcome.json", "outcome")]
    for path, kind in files:
        content = read_sealed(path, kind)
        values = content["values"] if kind == "outcome" else content
        values |= {"forces": values["forces"][:-1], "positions": values["positions"][:-1]}
        write_sealed(path, kind, content)
    repair_tasks(root.parent)
    worker.run_task(root, name, Machine())
    result = read_result(root, name)
    assert result.status == "failed"
    assert result.reason.words == "forces on 3 atoms, where the task has 4"


def test_label_of_other_positions_than_asked_for_is_damage(root):
    name = label(root, "does_nothing")
    worker.run_task(root, name, Machine())
    path = root / name / "result.json"
    content = read_sealed(path, "result")
    content["positions"][0][0] += 0.01
    write_sealed(path, "result", content)
    repair_tasks(root.parent)
    assert read_result(root, name) is None


# --- processes


@pytest.mark.parametrize("does", ["leaves_a_program", "leaves_a_daemon", "leaves_a_fork"])
def test_what_an_attempt_started_ends_with_it(engine, root, notes, does):
    (result,) = run(engine, label(root, does, notes))
    assert result.status == "done"
    assert len(pids := started(notes)) == 1
    assert not any(map(alive, pids))


@pytest.mark.parametrize(
    "does", ["waits_for_a_program", "waits_for_a_program_that_forgets_where_it_is_from", "waits_for_a_daemon"]
)
def test_program_of_a_killed_worker_ends_before_the_task_goes_on_and_nothing_is_left_in_the_end(
    engine, root, notes, does
):
    name = label(root, does, notes)
    for times in (1, 2):
        engine.submit(name)
        wait_until(lambda times=times: engine.tick() or len(started(notes)) == times)
        os.kill(claim.owner(root / name)["pid"], signal.SIGKILL)
        wait_until(lambda: engine.tick() or engine.lost() == [name])
        assert not any(map(alive, started(notes)))
    (result,) = run(engine, name)
    assert [attempt.status for attempt in result.attempts] == ["failed", "failed"]
    assert len(started(notes)) == 2


@pytest.mark.parametrize("stops", [False, True])
def test_closed_engine_leaves_no_daemon(root, notes, stops):
    engine = start_engine(root, Machine(slots=1))
    pid = start(engine, label(root, "waits_for_a_daemon", notes), notes)
    if stops:  # a worker that is suspended hears nothing
        os.kill(pid, signal.SIGSTOP)
    engine.close()
    assert not any(map(alive, [pid, *started(notes)]))


DRIVER = """
import sys
from pathlib import Path
from csp_al.campaign.machine import Machine
from csp_al.engine.engines import start_engine
from csp_al.engine.wait import run_tasks
root = Path(sys.argv[1])
run_tasks(start_engine(root, Machine(slots=1)), root, sys.argv[2:], lambda done, total: None, lambda: False)
"""


@pytest.mark.parametrize("taken_over_by", ["the next driver", "the next worker"])
def test_program_whose_worker_and_driver_were_killed_is_ended_by_whoever_takes_over(root, notes, taken_over_by):
    name = label(root, "waits_for_a_daemon", notes)
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, str(root), name])
    wait_until(lambda: started(notes))
    for pid in (driver.pid, claim.owner(root / name)["pid"]):
        os.kill(pid, signal.SIGKILL)
    driver.wait()
    wait_until(lambda: not claim.is_taken(root / name))
    assert all(map(alive, started(notes)))
    if taken_over_by == "the next driver":
        tidy(root)
    else:
        content = read_sealed(root / name / "task.json", "task")
        content["inputs"]["reference"]["time_limit"] = 0.1
        write_sealed(root / name / "task.json", "task", content)
        notes.rename(notes.with_name("before"))
        worker.run_task(root, name, Machine())
        assert [attempt.status for attempt in read_result(root, name).attempts] == ["interrupted", "failed"]
        assert not any(map(alive, started(notes)))
        notes.with_name("before").replace(notes)
    assert not any(map(alive, started(notes)))


# --- outputs


def test_endless_output_is_bounded_while_it_is_printed_and_its_two_ends_are_kept(engine, root):
    names = [label(root, "prints_without_end", time_limit=2.0), label(root, "prints_much")]
    endless, ended = (directory_of(root / name, 1) / "output.log" for name in names)
    largest = 0

    def look(*_):
        nonlocal largest
        largest = max([largest, *(path.stat().st_size for path in (endless, ended) if path.exists())])
        return False

    run_tasks(engine, root, names, look, look)
    first, second = (read_result(root, name) for name in names)
    assert (first.status, second.status) == ("failed", "done")
    assert "longer than 2 s" in first.reason.words
    for log in (endless, ended):
        text = log.read_text()
        assert text.startswith("the beginning\nSCF step")
        assert text.count("printed here is left out") == 1
    assert ended.read_text().endswith("the end\n")
    assert KEPT < largest < 4 * KEPT


def test_log_that_is_short_or_not_there_stays_as_it_is(tmp_path):
    shorten(tmp_path / "none")
    (tmp_path / "log").write_bytes(b"x" * 3 * KEPT)
    shorten(tmp_path / "log")
    assert (tmp_path / "log").stat().st_size == 3 * KEPT
    assert not (tmp_path / "none").exists()


def test_output_of_a_calculation_is_kept(engine, root):
    name = label(root, "raises_system_exit")
    run(engine, name)
    assert "SystemExit: enough" in (directory_of(root / name, 1) / "output.log").read_text()
