"""Pilots, without a scheduler: what they take and give back, and what the driver makes of how they end."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from ase.build import bulk
from typer.testing import CliRunner

from csp_al import claim
from csp_al.campaign import CampaignError
from csp_al.campaign.machine import Machine, read_machine
from csp_al.cli import app
from csp_al.engine import fleet, pilot, pilots
from csp_al.engine.clusters import hire
from csp_al.engine.exchange import BEGUN, TERMS, Begun, Exchange, Terms, Word, Work
from csp_al.engine.fleet import Crew
from csp_al.engine.jobs import Jobs, RefusedError
from csp_al.engine.pilots import PilotEngine
from csp_al.engine.tasks import create_task, label_task, read_result, relax_task
from csp_al.files import write_json
from csp_al.reference.ase_calculator import AseReference

NAME = "pilot-" + 16 * "0"
TERMS_OF_ONE = Terms({}, slots=1, cores=4, seconds=3600.0)


@pytest.fixture
def root(tmp_path) -> Path:
    folder = tmp_path / "tasks"
    folder.mkdir()
    return folder


def slow(notes: Path, seconds: float, **section) -> AseReference:
    parameters = {"notes": str(notes), "name": "slow", "seconds": seconds}
    return AseReference(
        kind="ase", calculator="csp_al.engine.contract.NotingEMT", parameters=parameters, time_limit=60.0, **section
    )


def labels(root: Path, count: int) -> list[str]:
    section = slow(root.parent / "notes", 0)
    return [create_task(root, label_task(bulk("Al", a=4 + number / 100), section)) for number in range(count)]


# --- the pilot


def employ(root: Path, terms: Terms) -> Exchange:
    """The exchange of a driver that has one pilot."""
    exchange = Exchange(root)
    exchange.make()
    exchange.pilot(NAME).mkdir(exist_ok=True)
    write_json(exchange.pilot(NAME) / TERMS, asdict(terms))
    exchange.say(Word(exchange.folder.stat().st_ino, "", "", "none", jobs={NAME: {}}))
    return exchange


def wait_until(condition, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def a_pilot(root: Path, left: float) -> pilot.Pilot:
    folder = Exchange(root).pilot(NAME)
    write_json(folder / BEGUN, asdict(Begun("here", os.getpid(), time.time(), 4)))
    return pilot.Pilot(root, NAME, TERMS_OF_ONE, left)


def work_until(root: Path, condition) -> None:
    """Be a pilot whose time is up when this is so."""
    working, mine = a_pilot(root, left=1000), claim.take(Exchange(root).pilot(NAME))

    def let_time_be_up() -> None:
        wait_until(condition)
        working.deadline = 0.0

    clock = threading.Thread(target=let_time_be_up)
    clock.start()
    working.work(mine)
    clock.join()
    claim.clear(Exchange(root).pilot(NAME))


def test_relaxation_that_outlasts_its_pilot_is_handed_back_and_goes_on_in_the_next_one(root):
    notes, atoms = root.parent / "notes", bulk("Al", cubic=True)
    atoms.rattle(0.1, seed=0)
    task = create_task(root, relax_task(atoms, slow(notes, 0.1), 0.001, 12))
    exchange = employ(root, TERMS_OF_ONE)
    exchange.put(task, 60)
    work_until(root, lambda: notes.exists() and len(notes.read_text().splitlines()) > 2)
    assert [ticket.task for ticket in exchange.waiting()] == [task]
    assert not claim.is_taken(root / task)
    work_until(root, lambda: read_result(root, task))
    result = read_result(root, task)
    assert [attempt.status for attempt in result.attempts] == ["interrupted", "done"]
    assert result.evaluations - len(notes.read_text().splitlines()) in (0, 1)  # the one that was cut off
    assert exchange.waiting() == exchange.held(NAME) == []


def test_pilot_that_has_no_time_for_what_waits_ends_and_leaves_it_to_the_next_one(root):
    (task,) = labels(root, 1)
    exchange = employ(root, TERMS_OF_ONE)
    exchange.put(task, 60)
    near_its_end = a_pilot(root, left=3600)
    near_its_end.ready -= 3550
    near_its_end.deadline -= 3550
    near_its_end.work(claim.take(exchange.pilot(NAME)))
    assert [ticket.task for ticket in exchange.waiting()] == [task]
    assert not (root / task / "attempt-1").exists()


def test_what_no_pilot_would_have_time_for_is_begun_by_one_that_has_just_begun(root):
    """Else pilots would begin and end for ever: the one that was asked for a whole walltime begins a little late."""
    (task,) = labels(root, 1)
    exchange = employ(root, TERMS_OF_ONE)
    exchange.put(task, 3600)
    (ticket,) = exchange.waiting()
    fresh = a_pilot(root, left=3590)
    assert fresh._has_time_for(ticket)
    fresh.ready -= 120
    fresh.deadline -= 120
    assert not fresh._has_time_for(ticket)


def test_pilot_that_has_seen_how_long_labels_take_goes_by_that_unless_one_was_cut_off(root, monkeypatch):
    monkeypatch.setattr(pilot, "FRESH", 0.0)
    (task,) = labels(root, 1)
    exchange = employ(root, TERMS_OF_ONE)
    exchange.put(task, 3000)
    (ticket,) = exchange.waiting()
    near_its_end = a_pilot(root, left=100)
    near_its_end.took = [5.0, 7.0]
    assert not near_its_end._has_time_for(ticket)
    near_its_end.took = [5.0, 7.0, 6.0]
    assert near_its_end._has_time_for(ticket)
    (root / task / "attempt-1").mkdir()
    assert not near_its_end._has_time_for(ticket)


def test_pilot_nobody_waits_for_any_more_ends_at_once(root, monkeypatch, capsys):
    exchange = employ(root, TERMS_OF_ONE)
    (task,) = labels(root, 1)
    exchange.put(task, 60)
    exchange.say(Word(exchange.folder.stat().st_ino, "", "", "none"))  # of another driver, which has not this one
    a_pilot(root, left=1000).work(claim.take(exchange.pilot(NAME)))
    assert [ticket.task for ticket in exchange.waiting()] == [task]
    shutil.rmtree(exchange.pilot(NAME))
    monkeypatch.setattr(pilot.signal, "signal", lambda *_: None)
    pilot.main(root, NAME)
    assert "nobody waits for this pilot any more" in capsys.readouterr().out


def test_label_whose_program_is_ended_before_its_worker_counts_as_cut_off(root):
    """As where a scheduler ends the processes of a job one after the other."""
    notes = root.parent / "notes"
    task = create_task(root, label_task(bulk("Al"), slow(notes, 1000)))
    process = subprocess.Popen(
        [sys.executable, "-m", "csp_al.engine.worker", str(root), "{}"],
        stdin=subprocess.PIPE,
        env=os.environ | {"CSP_AL_JOB_BEGAN": "0"},
    )
    process.stdin.write(f"{task}\n".encode())
    process.stdin.flush()
    wait_until(lambda: notes.exists() and notes.read_text().strip())
    os.kill(int(notes.read_text().split()[-1]), 15)
    wait_until((root / task / "attempt-1" / "outcome.json").exists)
    process.terminate()
    assert process.wait(10) == 143
    assert not (root / task / "attempt-1" / "outcome.json").exists()
    assert not (root / task / "result.json").exists()


# --- the driver


class FakeJobs(Jobs):
    """A scheduler that takes every job, and runs none."""

    scheduler = "fake"

    def __init__(self) -> None:
        self.submitted, self.cancelled, self.adopted, self.over = [], [], [], set()
        self.refuses = ""

    def submit(self, folder, name, command, cores):
        if self.refuses:
            raise RefusedError(self.refuses)
        self.submitted.append(folder.name)
        return {"job_id": str(len(self.submitted))}

    def adopt(self, jobs):
        self.adopted += [known["job_id"] for known in jobs]

    def are_over(self, jobs):
        return [known.get("job_id") in self.over for known in jobs]

    def forget(self, known):
        pass

    def cancel(self, jobs):
        self.cancelled += [known["job_id"] for known in jobs]


CREW = Crew(TERMS_OF_ONE, least=0, most=3, cores_per_node=4, python=("python",))


@pytest.fixture(autouse=True)
def always_looking(monkeypatch):
    monkeypatch.setattr(pilots, "LOOK", 0.0)
    monkeypatch.setattr(fleet, "ASK", (0.0, 0.0))
    monkeypatch.setattr(fleet, "GRACE", 0.0)


def at_work(root: Path, tasks: list[str], jobs: FakeJobs, crew: Crew = CREW) -> PilotEngine:
    engine = PilotEngine(root, jobs, crew)
    for task in tasks:
        engine.submit(task)
    engine.tick()
    return engine


def test_there_are_as_many_pilots_as_there_is_work_for(root):
    jobs = FakeJobs()
    at_work(root, labels(root, 2), jobs)
    assert len(jobs.submitted) == 2
    engine = at_work(root, labels(root, 7), jobs)
    assert len(jobs.submitted) == 3
    assert engine.lost() == []
    engine.close()
    assert jobs.cancelled == ["1", "2", "3"]
    assert engine.lost() == labels(root, 7)
    assert Exchange(root).pilots() == []


def test_next_driver_takes_over_the_pilots_of_one_that_was_killed(root):
    jobs, tasks = FakeJobs(), labels(root, 2)
    at_work(root, tasks, jobs)
    (ticket, _), holder = Exchange(root).waiting(), jobs.submitted[0]
    assert Exchange(root).take(ticket, holder)
    again = FakeJobs()
    engine = at_work(root, tasks, again)
    assert again.adopted == ["1", "2"]
    assert again.submitted == again.cancelled == []
    assert [ticket.task for ticket in Exchange(root).held(holder)] == tasks[:1], "what it has is left alone"
    assert [ticket.task for ticket in Exchange(root).waiting()] == tasks[1:]
    engine.close()
    assert again.cancelled == ["1", "2"]


def test_driver_that_slept_while_another_took_over_leaves_the_pilots_alone(root):
    jobs, tasks = FakeJobs(), labels(root, 2)
    sleeper = at_work(root, tasks[:1], jobs)
    at_work(root, tasks, FakeJobs())
    sleeper.tick()
    sleeper.close()
    assert jobs.cancelled == []
    assert Exchange(root).word().work is Work.OPEN
    assert len(Exchange(root).waiting()) == 2


def test_pilots_that_would_compute_otherwise_are_ended(root):
    at_work(root, tasks := labels(root, 1), FakeJobs())
    jobs = FakeJobs()
    machine = Machine(launcher=("srun", "-n", "{cores}")).model_dump(mode="json", exclude={"engine", "slots"})
    at_work(root, tasks, jobs, replace(CREW, terms=replace(TERMS_OF_ONE, machine=machine)))
    assert jobs.cancelled == ["1"]
    assert len(jobs.submitted) == 1


def test_copy_of_a_run_directory_has_no_pilots(root):
    at_work(root, tasks := labels(root, 1), FakeJobs())
    copy = root.with_name("copy")
    shutil.copytree(root, copy)
    jobs = FakeJobs()
    engine = at_work(copy, tasks, jobs)
    engine.close()
    assert jobs.adopted == []
    assert jobs.cancelled == ["1"] == [str(len(jobs.submitted))], "its own"
    assert Exchange(root).word().jobs


def test_killed_pilot_leaves_what_it_has_to_others_and_its_cores_count(root):
    jobs, tasks = FakeJobs(), labels(root, 1)
    engine = at_work(root, tasks, jobs)
    (name,) = jobs.submitted
    exchange = Exchange(root)
    assert exchange.take(exchange.waiting()[0], name)
    begun = {"host": "here", "pid": 1, "began": time.time() - 100, "cores": 4}
    write_json(exchange.pilot(name) / "begun.json", begun)
    engine.tick()
    assert len(jobs.submitted) == 2
    assert [ticket.task for ticket in exchange.waiting()] == tasks
    assert engine.lost() == []
    assert exchange.word().core_seconds == pytest.approx(400, abs=40)


def test_pilots_that_end_before_they_begin_end_the_driver_with_their_last_words(root):
    jobs = FakeJobs()
    engine = at_work(root, labels(root, 1), jobs)
    for turn in range(fleet.MOST_IN_VAIN - 1):
        (Exchange(root).pilot(jobs.submitted[-1]) / "job.stderr").write_text("slurm\nbash: python: command not found\n")
        jobs.over.add(str(turn + 1))
        engine.tick()
        assert len(jobs.submitted) == turn + 2
    (Exchange(root).pilot(jobs.submitted[-1]) / "job.stderr").write_text("bash: python: command not found\n")
    jobs.over.add(str(fleet.MOST_IN_VAIN))
    with pytest.raises(OSError, match="a pilot ended before it began, and said bash: python: command not found"):
        engine.tick()


def test_what_a_pilot_could_not_go_on_for_is_the_drivers_to_say(root):
    jobs = FakeJobs()
    engine = at_work(root, labels(root, 1), jobs)
    exchange, name = Exchange(root), jobs.submitted[0]
    write_json(exchange.pilot(name) / "begun.json", {"host": "here", "pid": 1, "began": 0.0, "cores": 4})
    write_json(exchange.pilot(name) / "trouble.json", {"refused": "format 9"})
    with pytest.raises(ValueError, match="format 9"):
        engine.tick()


def test_scheduler_that_takes_no_more_jobs_is_asked_again(root, capsys, monkeypatch):
    jobs = FakeJobs()
    jobs.refuses = "QOSMaxSubmitJobPerUserLimit"
    engine = at_work(root, labels(root, 1), jobs)
    assert capsys.readouterr().err.count("QOSMaxSubmitJobPerUserLimit") == 1
    assert Exchange(root).word().refused == "QOSMaxSubmitJobPerUserLimit"
    jobs.refuses = ""
    engine.tick()
    assert jobs.submitted == [], "not yet"
    engine.fleet._retry = 0.0
    engine.tick()
    assert len(jobs.submitted) == 1
    assert Exchange(root).word().refused == ""
    jobs.refuses, jobs.over = "closed for good", {"1"}
    monkeypatch.setattr(fleet, "PATIENCE", -1.0)
    with pytest.raises(OSError, match="closed for good"):
        engine.tick()


def test_label_that_no_pilot_has_time_for_is_refused_before_a_job_is_submitted(root):
    jobs = FakeJobs()
    engine = PilotEngine(root, jobs, replace(CREW, terms=replace(TERMS_OF_ONE, seconds=30.0)))
    with pytest.raises(ValueError, match=r"60 s \(reference.time_limit\), longer than 30 s"):
        engine.submit(labels(root, 1)[0])
    assert not Exchange(root).folder.exists()


def test_stop_ends_the_pilots_that_a_killed_driver_has_left(finished_run, tmp_path):
    run = tmp_path / "runs" / "al4"
    shutil.copytree(finished_run, run)
    assert "nothing to stop" in CliRunner().invoke(app, ["stop", str(run)]).output
    at_work(run / "tasks", labels(run / "tasks", 2), FakeJobs())
    told = CliRunner().invoke(app, ["stop", str(run)])
    assert "its pilots are told to end; jobs, if you want to cancel some: 1 2" in told.output
    assert Exchange(run / "tasks").word().work is Work.CLOSED
    assert Exchange(run / "tasks").waiting() == []


def test_pilots_are_told_to_finish_when_they_are_left(root):
    engine = at_work(root, tasks := labels(root, 1), jobs := FakeJobs())
    engine.leave()
    assert Exchange(root).word().work is Work.LEFT
    assert engine.lost() == tasks
    assert jobs.cancelled == []


# --- the schedulers


STUB = """#!/bin/sh
echo "$(basename $0) $*" >> {log}
case "$(basename $0) $*" in
    qsub*) echo 17.head ;;
    bsub*) cat > /dev/null; echo "Job <17> is submitted to queue <cpu>." ;;
    "bqueues nosuch") echo "nosuch: No such queue" >&2; exit 255 ;;
    "qstat -Q nosuch") echo "qstat: Unknown queue nosuch" >&2; exit 170 ;;
    "qconf -sq nosuch") echo 'No cluster queue matches "nosuch"' >&2; exit 1 ;;
esac
"""
MACHINE = """\
engine: {engine}
queue: {queue}
account: abc123
walltime: 08:00:00
cores_per_node: 64
cores_per_label: 16
setup: [module load qe/7.3]
options: [{option}]
"""
SCHEDULERS = {
    "pbs": (
        "-l place=excl",
        ["#PBS -l walltime=08:00:00", "#PBS -l select=1:ncpus=64:mpiprocs=64", "#PBS -l place=excl"],
        "qsub -q cpu -A abc123 ",
        "qdel 17.head",
        "qstat: Unknown queue nosuch",
    ),
    "lsf": (
        "-x",
        ["#BSUB -W 480", "#BSUB -n 64", '#BSUB -R "span[ptile=64]"', "#BSUB -q cpu", "#BSUB -P abc123", "#BSUB -x"],
        "bsub",
        "bkill 17",
        "nosuch: No such queue",
    ),
    "sge": (
        "-pe smp 64",
        ["#$ -l h_rt=08:00:00", "#$ -pe smp 64", "#$ -P abc123"],
        "qsub -q cpu -terse ",
        "qdel 17.head",
        'No cluster queue matches "nosuch"',
    ),
}


@pytest.fixture
def stubs(tmp_path, monkeypatch) -> Path:
    """Programs of schedulers that note how they are called."""
    log = tmp_path / "called"
    for name in ("qsub", "qdel", "qstat", "qconf", "bsub", "bkill", "bqueues", "bjobs"):
        stub = tmp_path / "bin" / name
        stub.parent.mkdir(exist_ok=True)
        stub.write_text(STUB.format(log=log))
        stub.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    return log


@pytest.mark.parametrize("engine", SCHEDULERS)
def test_jobs_are_submitted_as_each_scheduler_has_it(tmp_path, stubs, engine):
    from csp_al.engine.engines import check_machine

    option, lines, submits, cancels, complains = SCHEDULERS[engine]
    file = tmp_path / "big.yaml"
    file.write_text(MACHINE.format(engine=engine, queue="cpu", option=option))
    machine = read_machine(str(file))
    assert check_machine(machine) == 4
    jobs, _ = hire(machine)
    known = jobs.submit(tmp_path, "pilot-1", ["python", "-m", "a pilot"], 64)
    (script,) = [path.read_text() for path in tmp_path.glob("*pilot-1*")]
    assert set(lines) <= set(script.splitlines())
    assert script.index("CSP_AL_JOB_BEGAN=$(date +%s)") < script.index("module load qe/7.3")
    assert script.rstrip().endswith("exec python -m 'a pilot'")
    jobs.cancel([known])
    called = stubs.read_text().splitlines()
    assert any(line.startswith(submits) for line in called)
    assert called[-1] == cancels
    file.write_text(MACHINE.format(engine=engine, queue="nosuch", option=option))
    with pytest.raises(ValueError, match=complains):
        check_machine(read_machine(str(file)))


def test_job_ids_of_a_file_reach_no_command_line_unless_they_are_such(tmp_path, stubs):
    file = tmp_path / "big.yaml"
    file.write_text(MACHINE.format(engine="pbs", queue="cpu", option=""))
    jobs, _ = hire(read_machine(str(file)))
    odd = [{"job_id": f"1; touch {tmp_path / 'gone'}"}, {"job_id": None}, {}]
    jobs.adopt(odd)
    assert jobs.are_over(odd) == [True, True, True]
    jobs.cancel(odd)
    assert not stubs.exists()


def test_job_that_slurm_has_forgotten_is_over(monkeypatch):
    """Parsl takes the answer for none, and would wait for ever."""
    from parsl.jobs.states import JobState, JobStatus

    class Forgetful:
        label, said = "slurm", "slurm_load_jobs error: Unable to contact slurm controller"

        def __init__(self):
            self.resources = {"5": {"job_id": "5", "status": JobStatus(JobState.PENDING)}}

        def status(self, names):
            return [self.resources[name]["status"] for name in names]

        def execute_wait(self, command):
            return 1, "", self.said

    jobs = Jobs(Forgetful())
    assert jobs.are_over([{"job_id": "5"}]) == [False]
    monkeypatch.setattr(Forgetful, "said", "slurm_load_jobs error: Invalid job id specified")
    assert jobs.are_over([{"job_id": "5"}]) == [True]


def test_own_config_that_is_none_is_told(tmp_path):
    from csp_al.engine.engines import check_machine

    (tmp_path / "own.yaml").write_text("parsl: own.py\n")
    for text, said in {
        "import nowhere\n": "ModuleNotFoundError: No module named 'nowhere'",
        "config = 3\n": "one Config with one executor that has a provider is expected",
    }.items():
        (tmp_path / "own.py").write_text(text)
        with pytest.raises(ValueError, match=said):
            check_machine(read_machine(str(tmp_path / "own.yaml")))
    (tmp_path / "own.py").write_text("config =\n")
    with pytest.raises(CampaignError, match=r"parsl: .*own.py: no Python"):
        read_machine(str(tmp_path / "own.yaml"))


def test_folder_that_no_node_can_see_or_no_shell_can_name_is_refused(tmp_path, stubs, monkeypatch):
    from csp_al.engine import clusters

    file = tmp_path / "big.yaml"
    file.write_text(MACHINE.format(engine="pbs", queue="cpu", option=""))
    with pytest.raises(ValueError, match="takes no folder of jobs whose name has spaces"):
        clusters._start(tmp_path / "my tasks", read_machine(str(file)))
    monkeypatch.setattr(clusters, "_file_system", lambda _: "tmpfs")
    with pytest.raises(ValueError, match=r"is in the memory of this machine \(tmpfs\)"):
        clusters._start(tmp_path, read_machine(str(file)))


def test_what_driver_and_pilot_say_is_json(root):
    exchange = employ(root, TERMS_OF_ONE)
    assert json.loads((exchange.folder / "engine.json").read_text())["work"] == "open"
    (exchange.folder / "engine.json").write_text('{"jobs": {"../..": {}}}')
    assert exchange.word() is None


# --- what is told of them


def test_status_and_plan_tell_what_pilots_there_are_and_what_they_cost(finished_run, tmp_path):
    from csp_al.report.plan import describe_plan, plan
    from csp_al.report.status import status
    from csp_al.report.status_in_words import describe
    from csp_al.report.tables import open_run

    run = tmp_path / "runs" / "al4"
    shutil.copytree(finished_run, run)
    shutil.rmtree(run / "winners")
    assert status(run).pilots is None
    exchange = employ(run / "tasks", TERMS_OF_ONE)
    word = exchange.word()
    queued = "pilot-" + 16 * "1"
    word.jobs[queued], word.core_seconds, word.refused = {}, 24 * 3600.0, "QOSMaxSubmitJobPerUserLimit"
    exchange.say(word)
    begun = Begun("here", os.getpid(), time.time() - 900, 4)
    write_json(exchange.pilot(NAME) / BEGUN, asdict(begun))
    mine = claim.take(exchange.pilot(NAME))
    for number in range(3):
        exchange.put(f"{number:020x}", 60)
    assert exchange.take(exchange.waiting()[0], NAME)
    now = status(run)
    assert (now.pilots.running, now.pilots.queued) == (1, 1)
    assert (now.pilots.busy, now.pilots.slots, now.pilots.waiting) == (1, 1, 2)
    assert now.pilots.core_hours == pytest.approx(25, abs=0.1)
    assert "pilots      1 running, 1 queued; 1 of 1 slots busy, 2 calculations wait for one; 25 core hours" in describe(
        now
    )
    assert "            no further one for now: QOSMaxSubmitJobPerUserLimit" in describe(now)
    file = tmp_path / "big.yaml"
    file.write_text(MACHINE.format(engine="pbs", queue="cpu", option="").replace("account", "blocks: [0, 8]\naccount"))
    campaign = open_run(run).campaign
    told = describe_plan(plan(campaign, run, read_machine(str(file))))
    assert "pilots            at most 8 of 64 cores, 32 labels at once; 25 core hours so far\n" in told
    assert "pilots" not in describe_plan(plan(campaign, None, Machine()))
    claim.release(mine)
    assert status(run).pilots.running == 0


def test_time_limit_that_no_pilot_has_time_for_has_its_place_in_the_campaign_file(tmp_path):
    from csp_al.running.checks import checked_campaign

    file, campaign = tmp_path / "big.yaml", tmp_path / "small.yaml"
    text = MACHINE.format(engine="pbs", queue="cpu", option="").replace("08:00:00", "00:30:00")
    file.write_text(text)
    campaign.write_text(
        "name: small\npool: {formula: Al4, size: 20}\n"
        "reference:\n  kind: ase\n  calculator: ase.calculators.emt.EMT\n  time_limit: 1800\n"
    )
    said = r"small.yaml:6:15: reference.time_limit: an evaluation may take 1800 s, and a pilot works for 1770 s"
    with pytest.raises(CampaignError, match=said):
        checked_campaign(campaign, read_machine(str(file)))
    file.write_text(text.replace("00:30:00", "00:31:00"))
    checked_campaign(campaign, read_machine(str(file)))
