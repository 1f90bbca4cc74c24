"""Tasks, workers and slots: every question is answered once, whatever dies meanwhile."""

import json
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT

from csp_al import claim
from csp_al.campaign.machine import Machine
from csp_al.campaign.references import Remedy
from csp_al.engine import calculation, local, worker
from csp_al.engine.engines import start_engine
from csp_al.engine.local import MOST_DEATHS
from csp_al.engine.tasks import create_task, is_done, label_task, read_result, relax_task, task_id
from csp_al.engine.wait import run_tasks
from csp_al.files import sha256, write_atomically
from csp_al.interfaces import Task
from csp_al.reference.ase_calculator import AseCalculator, AseReference
from csp_al.reference.classical import lennard_jones, tersoff
from csp_al.reference.gpaw import GpawReference
from csp_al.testing import check_engine

ODD = '''
import os, signal, subprocess, sys, time
from pathlib import Path
import numpy as np
from ase.calculators.emt import EMT


class Odd(EMT):
    """EMT that notes each call in a file and then does what it is told."""

    def __init__(self, notes, does="", seconds=0.0):
        super().__init__()
        self.odd = Path(notes), does, seconds

    def calculate(self, *arguments, **keywords):
        notes, does, seconds = self.odd
        with notes.open("a") as file:
            file.write(f"{os.getpid()}\\n")
        if does == "exit":
            os._exit(7)
        if does == "leave":
            sys.exit(3)
        if does == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if does == "raise":
            raise ValueError("no\\nsense")
        if does == "breed":
            helper = subprocess.Popen(["sleep", "1000"])
            with notes.open("a") as file:
                file.write(f"{helper.pid}\\n")
        if does == "print":
            print("0.1 \u00c5")
        time.sleep(seconds)
        super().calculate(*arguments, **keywords)
        if does == "nan":
            self.results["energy"] = self.results["free_energy"] = np.nan
'''
SILICON = {
    "m": 3, "gamma": 1, "lambda3": 0, "c": 100390, "d": 16.217, "h": -0.59825, "n": 0.78734, "beta": 1.1e-6,
    "lambda2": 1.73222, "B": 471.18, "R": 2.85, "D": 0.15, "lambda1": 2.4799, "A": 1830.8,
}  # fmt: skip
LJ = {"epsilon": 1.0, "sigma": 2.0, "cutoff": 5.0}
EMT_SECTION = AseReference(kind="ase", calculator="ase.calculators.emt.EMT")


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "tasks"
    folder.mkdir()
    return folder


@pytest.fixture
def notes(tmp_path, monkeypatch):
    """Where odd calculators note their calls; workers find the module beside it."""
    (tmp_path / "odd.py").write_text(ODD)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path / "notes"


@pytest.fixture
def engine(root):
    engine = start_engine(root, Machine(slots=2))
    yield engine
    engine.close()


def odd(notes, does="", seconds=0.0, **section):
    parameters = {"notes": str(notes), "does": does, "seconds": seconds}
    return AseReference(kind="ase", calculator="odd.Odd", parameters=parameters, **section)


def aluminium(seed=0):
    atoms = bulk("Al", cubic=True)
    atoms.rattle(0.1, seed=seed)
    return atoms


def run(engine, *names):
    deadline = time.monotonic() + 30
    run_tasks(engine, engine.root, names, lambda done, total: None, lambda: time.monotonic() > deadline)
    return [read_result(engine.root, name) for name in names]


def wait_until(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def alive(pid):
    return claim.start_time(int(pid)) is not None


def lines(path):
    return path.read_text().split() if path.exists() else []


def test_a_calculator_may_print_letters_that_its_log_has_not(engine, root, notes, monkeypatch):
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    name = create_task(root, label_task(aluminium(), odd(notes, "print")))
    assert run(engine, name)[0].done
    assert "0.1 ?" in (root / name / "attempt-1" / "output.log").read_text()


def test_labels_of_the_engine_equal_those_of_ase(engine, root):
    section = "csp_al.reference.classical"
    silicon, argon = bulk("Si", "diamond", a=5.4), bulk("Ar", "hcp", a=2.2, c=3.6)
    for atoms in (silicon, argon):
        atoms.rattle(0.1, seed=1)
    cases = [
        (aluminium(), EMT_SECTION, EMT()),
        (
            silicon,
            AseReference(kind="ase", calculator=f"{section}.tersoff", parameters={"Si-Si-Si": SILICON}),
            tersoff(**{"Si-Si-Si": SILICON}),
        ),
        (
            argon,
            AseReference(kind="ase", calculator=f"{section}.lennard_jones", parameters=LJ),
            lennard_jones(**LJ),
        ),
    ]
    results = run(engine, *(create_task(root, label_task(atoms, reference)) for atoms, reference, _ in cases))
    for (atoms, _, calculator), result in zip(cases, results, strict=True):
        atoms.calc = calculator
        assert result.status == "done"
        assert result.done.energy == pytest.approx(atoms.get_potential_energy(), abs=1e-12)
        np.testing.assert_allclose(result.done.forces, atoms.get_forces(), atol=1e-12)
        np.testing.assert_allclose(result.done.stress, atoms.get_stress(voigt=False), atol=1e-12)
        assert result.evaluations == 1
        assert result.cost > 0
        assert result.host == socket.gethostname()
        assert [a.status for a in result.attempts] == ["done"]


def test_what_a_module_prints_when_it_is_imported_disturbs_nobody(engine, root, tmp_path, monkeypatch):
    (tmp_path / "chatty.py").write_text(
        "print('{ hello, and welcome }')\nfrom ase.calculators.emt import EMT as Chatty\nprint('bye')\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    section = AseReference(kind="ase", calculator="chatty.Chatty")
    (result,) = run(engine, create_task(root, label_task(aluminium(), section)))
    assert result.status == "done"
    assert "welcome" in "".join(path.read_text() for path in root.glob("*.log"))


def test_task_id_tells_what_changes_a_result_from_what_does_not():
    base = task_id(label_task(aluminium(), EMT_SECTION))
    assert len(base) == 20
    patient = EMT_SECTION.model_copy(update={"time_limit": 1.0, "max_force": 7.0, "max_fail_fraction": 0.1})
    assert task_id(label_task(aluminium(), patient)) == base
    others = {
        task_id(label_task(aluminium(1), EMT_SECTION)),
        task_id(label_task(aluminium(), GpawReference())),
        task_id(label_task(aluminium(), GpawReference(cutoff=300))),
        task_id(relax_task(aluminium(), EMT_SECTION, 0.05, 100)),
        task_id(relax_task(aluminium(), EMT_SECTION, 0.05, 200)),
    }
    assert len(others) == 5
    assert base not in others


def test_result_survives_the_way_into_a_file_and_back_exactly(root):
    atoms = aluminium()
    name = create_task(root, label_task(atoms, EMT_SECTION))
    assert create_task(root, label_task(atoms, EMT_SECTION)) == name
    worker.run_task(root, name, Machine())
    np.testing.assert_array_equal(read_result(root, name).done.positions, atoms.positions)


@pytest.mark.parametrize(
    ("does", "reason"),
    [
        ("exit", "exit status 7 and no result; see attempt-1/output.log"),
        ("leave", "SystemExit: 3"),
        ("kill", "killed by SIGKILL, by the kernel if memory ran out"),
        ("raise", "ValueError: no sense"),
        ("nan", "not finite: energy"),
    ],
)
def test_every_way_to_fail_is_named_and_ends_the_task(root, notes, does, reason):
    name = create_task(root, label_task(aluminium(), odd(notes, does)))
    worker.run_task(root, name, Machine())
    result = read_result(root, name)
    assert result.status == "failed"
    assert reason in result.reason.words
    assert result.values is None
    times = 2 if does == "kill" else 1  # whoever killed it may have meant another
    assert result.evaluations == len(lines(notes)) == times
    assert not claim.is_taken(root / name)


def test_label_over_its_time_limit_fails_and_leaves_no_process(root, notes):
    name = create_task(root, label_task(aluminium(), odd(notes, "breed", seconds=1000, time_limit=0.5)))
    worker.run_task(root, name, Machine())
    result = read_result(root, name)
    assert (result.status, result.evaluations) == ("failed", 1)
    assert "longer than 0.5 s (reference.time_limit)" in result.reason.words
    pids = lines(notes)
    assert len(pids) == 2
    wait_until(lambda: not any(alive(pid) for pid in pids))


def test_time_limit_is_for_each_evaluation_of_a_relaxation(root, notes):
    name = create_task(root, relax_task(aluminium(), odd(notes, seconds=0.3, time_limit=3.0), 0.001, 12))
    worker.run_task(root, name, Machine())
    result = read_result(root, name)
    assert result.status == "done"
    assert result.evaluations * 0.3 > 3.0


def test_bad_geometry_is_rejected_before_and_strong_forces_after_the_calculation(root, notes):
    close = Atoms("Al2", positions=[[0, 0, 0], [0.5, 0, 0]], cell=[5, 5, 5], pbc=True)
    before = create_task(root, label_task(close, odd(notes)))
    after = create_task(root, label_task(aluminium(), odd(notes, max_force=1e-3)))
    for name in (before, after):
        worker.run_task(root, name, Machine())
    assert "atoms too close: Al-Al 0.50 Å" in read_result(root, before).reason.words
    assert read_result(root, before).evaluations == 0
    assert "reference.max_force" in read_result(root, after).reason.words
    assert {read_result(root, name).status for name in (before, after)} == {"rejected"}
    assert len(lines(notes)) == 1


def test_remedies_are_tried_in_their_order_until_one_helps(root, notes, monkeypatch):
    patience = notes.with_name("patience")

    class Fussy(AseCalculator):
        def calculator(self, atoms, directory):
            given = self.section.parameters
            with patience.open("a") as file:
                file.write(f"{json.dumps(given).replace(' ', '')}\n")
            if given != {"gently": True, "by_hand": {"left": 1, "right": 2}}:
                raise ValueError("this breaks: 7 times")
            return EMT()

    monkeypatch.setattr(calculation, "build_reference", lambda section, machine: Fussy(section))
    remedies = [
        Remedy(when="7 times", say="gently", set={"parameters": {"gently": True, "by_hand": {"left": 1}}}),
        Remedy(when="8 times", say="for another reason", set={"parameters": {"wrong": True}}),
        Remedy(when="^ValueError", say="by hand", set={"parameters": {"by_hand": {"right": 2}}}),
        Remedy(when="7 times", say="never", set={"time_limit": 1}),
    ]
    name = create_task(root, label_task(aluminium(), EMT_SECTION.model_copy(update={"remedies": tuple(remedies)})))
    worker.run_task(root, name, Machine())
    result = read_result(root, name)
    assert [json.loads(line) for line in lines(patience)] == [
        {},
        {"gently": True, "by_hand": {"left": 1}},
        {"gently": True, "by_hand": {"left": 1, "right": 2}},
    ]
    assert result.status == "done"
    assert [(a.attempt, a.status, a.remedy) for a in result.attempts] == [
        (1, "failed", ""),
        (2, "failed", "gently"),
        (3, "done", "by hand"),
    ]
    assert result.attempts[0].reason.words == "ValueError: this breaks: 7 times"


def test_gpaw_that_does_not_converge_is_saved_by_its_remedy(root):
    pytest.importorskip("gpaw")
    section = GpawReference(cutoff=200, kspacing=2.5, parameters={"maxiter": 2})
    name = create_task(root, label_task(bulk("Si", "diamond", a=5.43), section))
    worker.run_task(root, name, Machine())
    result = read_result(root, name)
    assert [a.status for a in result.attempts] == ["failed", "done"]
    assert "KohnShamConvergenceError" in result.attempts[0].reason.words


def test_same_task_submitted_twice_is_computed_once(engine, root, notes):
    first = create_task(root, label_task(aluminium(), odd(notes, seconds=0.3)))
    second = create_task(root, label_task(aluminium(), odd(notes, seconds=0.3, time_limit=99)))
    assert first == second
    engine.submit(first)
    engine.tick()
    engine.submit(second)
    run(engine, first, second)
    engine.submit(first)
    engine.tick()
    assert engine.lost() == []
    assert len(lines(notes)) == 1


DRIVER = """
import sys
from pathlib import Path
from csp_al.campaign.machine import Machine
from csp_al.engine.engines import start_engine
from csp_al.engine.wait import run_tasks
root = Path(sys.argv[1])
run_tasks(start_engine(root, Machine(slots=1)), root, sys.argv[2:], lambda done, total: None, lambda: False)
"""


def test_killed_driver_leaves_its_label_to_be_finished_and_the_next_one_waits_for_it(engine, root, notes):
    name = create_task(root, label_task(aluminium(), odd(notes, seconds=1.5)))
    later = create_task(root, label_task(aluminium(1), odd(notes)))
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, str(root), name, later])
    wait_until(lambda: lines(notes))
    owner = json.loads((root / name / "claim").read_text())["pid"]
    driver.kill()
    driver.wait()
    assert claim.is_taken(root / name)
    results = run(engine, name, later)
    assert [result.status for result in results] == ["done", "done"]
    assert [len(result.attempts) for result in results] == [1, 1]
    assert len(lines(notes)) == 2
    wait_until(lambda: not alive(owner))
    assert not list(root.glob("*/claim*"))


def test_killed_worker_takes_its_label_with_it_and_the_task_is_done_again(engine, root, notes):
    name = create_task(root, relax_task(aluminium(), odd(notes, seconds=0.1), 0.005, 100))
    engine.submit(name)
    engine.tick()
    wait_until(lambda: len(lines(notes)) > 4)
    owner = json.loads((root / name / "claim").read_text())["pid"]
    os.kill(owner, signal.SIGKILL)
    wait_until(lambda: not alive(lines(notes)[0]))
    wait_until(lambda: engine.tick() or engine.lost() == [name])
    result = run(engine, name)[0]
    assert [a.status for a in result.attempts] == ["failed", "done"]
    calm = create_task(root, relax_task(aluminium(), EMT_SECTION, 0.005, 100))
    undisturbed = run(engine, calm)[0]
    assert result.done.energy == undisturbed.done.energy
    np.testing.assert_array_equal(result.done.positions, undisturbed.done.positions)
    assert result.evaluations == len(lines(notes)) == undisturbed.evaluations + 1  # the one cut off


def test_worker_that_dies_before_it_begins_is_not_held_against_its_task(engine, root, tmp_path, monkeypatch):
    """As where memory is short, or a file system away, while it is imported; an earlier attempt was only cut off."""
    name = create_task(root, label_task(aluminium(), EMT_SECTION))
    (root / name / "attempt-1").mkdir()
    program = tmp_path / "dies"
    program.write_text("#!/bin/sh\nread task\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    engine.submit(name)
    wait_until(lambda: engine.tick() or engine.lost() == [name])
    monkeypatch.undo()
    (result,) = run(engine, name)
    assert [attempt.status for attempt in result.attempts] == ["interrupted", "done"]


def test_terminated_worker_exits_143_and_leaves_neither_claim_nor_process(root, notes):
    name = create_task(root, label_task(aluminium(), odd(notes, "breed", seconds=1000)))
    process = subprocess.Popen([sys.executable, "-m", "csp_al.engine.worker", str(root), "{}"], stdin=subprocess.PIPE)
    process.stdin.write(f"{name}\n".encode())
    process.stdin.flush()
    wait_until(lambda: len(lines(notes)) == 2)
    process.terminate()
    assert process.wait(5) == 143
    process.stdin.close()
    wait_until(lambda: not any(alive(pid) for pid in lines(notes)))
    assert not list((root / name).glob("claim*"))
    assert not is_done(root, name)


def test_closed_engine_leaves_nothing_running(root, notes):
    engine = start_engine(root, Machine(slots=2))
    for seed in range(2):
        engine.submit(create_task(root, label_task(aluminium(seed), odd(notes, "breed", seconds=1000))))
    engine.tick()
    wait_until(lambda: len(lines(notes)) == 4)
    engine.close()
    wait_until(lambda: not any(alive(pid) for pid in lines(notes)))
    assert not list(root.glob("*/claim*"))


def test_local_engine_keeps_the_contract(tmp_path):
    check_engine(lambda root: start_engine(root, Machine(slots=1)), tmp_path)


def test_a_task_is_submitted_in_the_same_time_whatever_the_number_that_wait(root, monkeypatch):
    monkeypatch.setattr(local, "is_done", lambda *_: False)
    monkeypatch.setattr(local, "require_task", lambda *_: None)
    engine = start_engine(root, Machine(slots=1))
    names = [f"{number:020x}" for number in range(100_000)]
    started = time.monotonic()
    for name in [*names, *names]:
        engine.submit(name)
    assert time.monotonic() - started < 10  # it took minutes where each looked through those before it


def test_workers_that_keep_dying_stop_the_engine_with_their_last_words(root):
    engine = start_engine(root, Machine(slots=1))
    structure = {"numbers": [13], "positions": [[0, 0, 0]], "cell": [[4, 0, 0], [0, 4, 0], [0, 0, 4]]}
    name = create_task(root, Task("label", {"structure": structure, "reference": {"kind": "of no kind"}}))
    engine.submit(name)

    def run_until_it_gives_up():
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            engine.tick()
            for lost in engine.lost():
                engine.submit(lost)
            time.sleep(0.02)

    with pytest.raises(OSError, match=rf"{MOST_DEATHS} workers died .* ends with: .*pydantic"):
        run_until_it_gives_up()
    engine.close()


def stale_claims(folder: Path):
    here = {key: value for key, value in claim._identity(folder).items() if key in ("host", "namespace", "start")}
    boot = here["start"].split()[0]
    gone = subprocess.Popen(["true"])
    gone.wait()
    return {
        "its process is gone": here | {"pid": gone.pid, "start": f"{boot} 1"},
        "its number belongs to another process now": here | {"pid": os.getpid(), "start": f"{boot} 1"},
    }


def test_claim_of_a_process_that_is_gone_is_taken_over(tmp_path):
    for number, content in enumerate(stale_claims(tmp_path).values()):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "claim").write_text(json.dumps(content))
        assert not claim.is_taken(folder)
        mine = claim.take(folder)
        assert mine is not None
        assert claim.is_taken(folder)
        assert claim.take(folder) is None
        claim.release(mine)
        assert not claim.is_taken(folder)
        assert claim.take(folder) is not None


@pytest.fixture
def unwatched(monkeypatch):
    """Let a claim that looks stale be so at once."""
    monkeypatch.setattr(claim, "WATCH", 0.0)


@pytest.mark.usefixtures("unwatched")
def test_claim_of_another_host_lives_as_long_as_it_is_touched(tmp_path):
    path = tmp_path / "claim"
    for content in (json.dumps({"host": "elsewhere", "pid": 1, "start": "then"}), ""):
        path.write_text(content)
        assert claim.take(tmp_path) is None
        past = time.time() - claim.STALE - 1
        os.utime(path, (past, past))
        assert not claim.is_taken(tmp_path)
    os.utime(path)  # as its owner does
    assert claim.is_taken(tmp_path)
    os.utime(path, (past, past))
    claim.touch(path)
    assert not claim.is_taken(tmp_path)


@pytest.mark.parametrize("jump", [-86400.0, 86400.0])
def test_clock_that_was_set_makes_no_claim_of_another_host_stale(tmp_path, monkeypatch, jump):
    """Nor one that is dead immortal: what counts is whether it is touched while it is watched."""
    path, now = tmp_path / "claim", time.time()
    path.write_text(json.dumps({"host": "elsewhere", "pid": 1, "start": "then"}))
    touches = [now + jump + 1]  # the owner lives, and touches it once more

    def pass_a_moment(_: float) -> None:
        if touches:
            os.utime(path, times=(now, touches.pop()))
        clock.append(clock[-1] + 1)

    clock = [0.0]
    monkeypatch.setattr(claim.time, "sleep", pass_a_moment)
    monkeypatch.setattr(claim.time, "monotonic", lambda: clock[-1])
    os.utime(path, (now, now + jump))
    assert claim.is_taken(tmp_path)
    assert claim.take(tmp_path) is None
    assert claim.take(tmp_path) is not None
    assert clock[-1] > claim.WATCH


def test_claim_of_another_machine_of_the_same_name_is_not_taken_over(tmp_path):
    """All of them number their processes alike; when this one booted tells it from the others."""
    content = claim._identity(tmp_path) | {"pid": 1, "start": "another-boot 17"}
    (tmp_path / "claim").write_text(json.dumps(content))
    assert claim.is_taken(tmp_path)
    assert claim.take(tmp_path) is None


def test_folder_that_cannot_be_read_says_nothing_of_its_claim(tmp_path, monkeypatch):
    """As on a file system that is away for a while: a driver must not take itself for replaced."""

    def away(path):
        raise PermissionError(13, "Permission denied", str(path))

    mine = claim.take(tmp_path)
    monkeypatch.setattr(os, "scandir", away)
    monkeypatch.setattr(os, "listdir", away)
    with pytest.raises(PermissionError):
        claim.is_lost(mine)
    with pytest.raises(PermissionError):
        claim.take(tmp_path)


@pytest.mark.skipif(shutil.which("ps") is None, reason="needs ps")
def test_start_of_a_process_is_told_in_the_same_words_to_everybody(monkeypatch):
    """Where there is no /proc, a claim would be stale to a user of another language, or after a journey."""
    said = set()
    for zone in ("Asia/Tokyo", "America/New_York"):
        monkeypatch.setenv("TZ", zone)
        said.add(claim._start_by_ps(os.getppid()))
    assert len(said) == 1


@pytest.mark.usefixtures("unwatched")
def test_worker_that_slept_while_another_took_its_task_leaves_it_to_that_one(root, monkeypatch):
    name = create_task(root, label_task(aluminium(), EMT_SECTION))
    folder, begun = root / name, []
    run_attempt = worker.run_attempt

    def sleep_through(task, directory, *others):
        begun.append(directory.name)
        run_attempt(task, directory, *others)
        (folder / "claim.1").write_text(json.dumps({"host": "elsewhere", "pid": 1, "start": "then"}))

    monkeypatch.setattr(worker, "run_attempt", sleep_through)
    worker.run_task(root, name, Machine())
    assert not is_done(root, name)
    assert claim.is_taken(folder)
    past = time.time() - claim.STALE - 1
    os.utime(folder / "claim.1", (past, past))
    worker.run_task(root, name, Machine())
    assert read_result(root, name).status == "done"
    assert begun == ["attempt-1"]


@pytest.mark.usefixtures("unwatched")
def test_copy_of_a_claimed_folder_is_nobodys_after_a_minute(tmp_path):
    original, copy = tmp_path / "original", tmp_path / "copy"
    original.mkdir()
    claim.take(original)
    shutil.copytree(original, copy)
    assert claim.take(copy) is None  # a file system may have given the folder another number
    past = time.time() - claim.STALE - 1
    os.utime(copy / "claim", (past, past))
    assert claim.owner(original) is not None
    assert claim.owner(copy) is None
    assert claim.marks_of_the_dead(copy) == set()
    assert claim.take(copy) is not None
    assert claim.take(original) is None


def test_moved_folder_keeps_its_owner_who_has_lost_it(tmp_path):
    """A driver goes by the name of its run directory: what stands there now is another's."""
    folder, moved = tmp_path / "run", tmp_path / "moved"
    folder.mkdir()
    mine = claim.take(folder)
    assert not claim.is_lost(mine)
    folder.rename(moved)
    assert claim.owner(moved) is not None
    assert claim.is_lost(mine)
    folder.mkdir()
    assert claim.is_lost(mine)
    (folder / "claim").write_text(json.dumps(claim._identity(folder) | {"token": "another"}))
    assert claim.is_lost(mine)
    claim.release(mine)
    assert claim.is_taken(folder)


def contend(folder, barrier, wins):
    barrier.wait()
    mine = claim.take(folder)
    wins.put(mine is not None)
    barrier.wait()  # stay alive until all have tried


def test_of_many_that_want_a_task_one_gets_it(tmp_path):
    context = multiprocessing.get_context("fork")
    for number, content in enumerate([None, *stale_claims(tmp_path).values()]):
        folder = tmp_path / str(number)
        folder.mkdir()
        if content is not None:
            (folder / "claim").write_text(json.dumps(content))
        barrier, wins = context.Barrier(8), context.Queue()
        rivals = [context.Process(target=contend, args=(folder, barrier, wins)) for _ in range(8)]
        for rival in rivals:
            rival.start()
        assert sum(wins.get(timeout=20) for _ in rivals) == 1
        for rival in rivals:
            rival.join()


def test_claim_that_changes_hands_all_the_time_is_never_two_processes(tmp_path):
    """Owners clear it, or end without a word; whoever looks at that moment must not count on."""
    context = multiprocessing.get_context("fork")
    inside, most, times = (context.Value("i", 0) for _ in range(3))
    rivals = [context.Process(target=take_turns, args=(tmp_path, 60, inside, most, times)) for _ in range(4)]
    for rival in rivals:
        rival.start()
    for rival in rivals:
        rival.join(60)
        assert rival.exitcode == 0
    assert times.value > 20
    assert most.value == 1


def take_turns(folder, turns, inside, most, times):
    for turn in range(turns):
        if (child := os.fork()) == 0:
            if (mine := claim.take(folder)) is not None:
                with inside.get_lock():
                    inside.value += 1
                    times.value += 1
                    most.value = max(most.value, inside.value)
                time.sleep(0.002)
                with inside.get_lock():
                    inside.value -= 1
                if turn % 3 == 0:
                    claim.clear(folder)
                elif turn % 3 == 1:
                    claim.release(mine)
            os._exit(0)
        os.waitpid(child, 0)


def test_written_file_is_whole_and_leaves_nothing_beside_it(tmp_path):
    path = tmp_path / "result.json"
    write_atomically(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(path, "new \ud800")
    assert path.read_text() == "old"
    write_atomically(path, "new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]
    assert sha256(path) == "11507a0e2f5e69d5dfa40a62a1bd7b6ee57e6bcd85c67c9b8431b36fff21c437"
