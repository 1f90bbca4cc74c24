"""Pilots in jobs: the engine of clusters keeps the contract of every engine, on this machine and on a real Slurm."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import psutil
import pytest
from ase.build import bulk
from documented import cluster_file
from outcomes import computed_twice, cut_off, outcome
from slurm import UNPACKED, Slurm
from test_kill import CAMPAIGN

from csp_al.campaign.machine import read_machine
from csp_al.engine.engines import start_engine
from csp_al.engine.tasks import create_task, is_done, label_task, read_result, relax_task
from csp_al.engine.wait import run_tasks
from csp_al.reference.ase_calculator import AseReference
from csp_al.store.run_directory import POTENTIALS
from csp_al.testing import check_engine

OWN = """\
from parsl import Config
from parsl.executors import HighThroughputExecutor
from parsl.launchers import SimpleLauncher
from parsl.providers import LocalProvider

config = Config(
    executors=[
        HighThroughputExecutor(
            max_workers_per_node={slots},
            provider=LocalProvider(launcher=SimpleLauncher(), min_blocks=0, max_blocks=1),
        )
    ]
)
"""
SLURM = """\
engine: slurm
partition: cpu
walltime: 02:00:00
blocks: [0, {blocks}]
cores_per_node: {slots}
"""


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    if not UNPACKED.exists():
        pytest.skip("needs Slurm: .ci/slurm unpacks it where there are Debian's packages")
    patch = pytest.MonkeyPatch()
    with Slurm(tmp_path_factory.mktemp("slurm"), cpus=64) as running:
        for name in ("SLURM_CONF", "PATH", "LD_LIBRARY_PATH"):
            patch.setenv(name, running.env[name])
        yield running
    patch.undo()


def own_machine(folder: Path, slots: int = 1):
    """Pilots as processes of this machine, by an expert's Config."""
    (folder / "own.py").write_text(OWN.format(slots=slots))
    (folder / "own.yaml").write_text("parsl: own.py\n")
    return read_machine(str(folder / "own.yaml"))


def slurm_machine(folder: Path, slots: int = 1, blocks: int = 1):
    (folder / "toy.yaml").write_text(SLURM.format(slots=slots, blocks=blocks))
    return read_machine(str(folder / "toy.yaml"))


def test_pilots_on_this_machine_keep_the_contract_of_engines(tmp_path):
    machine = own_machine(tmp_path)
    check_engine(lambda root: start_engine(root, machine), tmp_path)


@pytest.mark.long
def test_pilots_in_jobs_of_slurm_keep_the_contract_of_engines(slurm, tmp_path):
    machine = slurm_machine(tmp_path)
    check_engine(lambda root: start_engine(root, machine), tmp_path)
    slurm.wait_for(lambda: not slurm.jobs(), 15)


# --- on Slurm


def noting(root: Path, count: int, seconds: float) -> list[str]:
    """Labels that note when they begin, and take so long."""
    section = partial(AseReference, kind="ase", calculator="csp_al.engine.contract.NotingEMT", time_limit=300)
    notes = str(root.parent / "notes")
    return [
        create_task(
            root,
            label_task(
                bulk("Al", a=4 + number / 100),
                section(parameters={"notes": notes, "name": f"label-{number}", "seconds": seconds}),
            ),
        )
        for number in range(count)
    ]


def noted(root: Path) -> list[str]:
    path = root.parent / "notes"
    return [line.split()[0] for line in path.read_text().splitlines()] if path.exists() else []


def processes_below(folder: Path) -> list[list[str]]:
    """Command lines of processes that were told this folder."""
    lines = [process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"])]
    return [line for line in lines if any(str(folder) in word for word in line)]


@pytest.mark.long
def test_what_befalls_pilots_in_slurm_costs_no_label_more_than_what_was_under_way(slurm, tmp_path):
    """A full queue, a pilot that is cancelled, one that is cancelled while it waits, a node down and up again."""
    root = tmp_path / "tasks"
    root.mkdir()
    blocker = slurm.command("sbatch", "--parsable", "-n", "64", "-o", os.devnull, "--wrap", "sleep 1000")
    slurm.wait_for(lambda: blocker in slurm.jobs("R"))
    tasks = noting(root, 24, 1.0)
    engine = start_engine(root, slurm_machine(tmp_path, slots=2, blocks=2))
    done = partial(sum_done, root, tasks)
    troubles = iter(
        [
            (lambda: len(slurm.jobs("PD")) == 2, lambda: slurm.command("scancel", slurm.jobs("PD")[0])),
            (lambda: len(slurm.jobs("PD")) == 2, lambda: slurm.command("scancel", blocker)),
            (lambda: done() >= 4, lambda: slurm.command("scancel", slurm.jobs("R")[0])),
            (lambda: done() >= 12 and len(slurm.jobs("R")) == 2, lambda: slurm.set_node("DOWN")),
            (lambda: slurm.jobs("PD"), lambda: slurm.set_node("RESUME")),
        ]
    )
    trouble = next(troubles)
    deadline = time.monotonic() + 240

    def meet_trouble() -> bool:
        nonlocal trouble
        if trouble and trouble[0]():
            trouble[1]()
            trouble = next(troubles, None)
        return time.monotonic() > deadline

    try:
        run_tasks(engine, root, tasks, lambda *_: None, meet_trouble)
    finally:
        engine.close()
    assert trouble is None, "all of it happened"
    results = [read_result(root, task) for task in tasks]
    assert all(result is not None and result.done for result in results)
    statuses = Counter(attempt.status for result in results for attempt in result.attempts)
    assert statuses["done"] == 24
    assert statuses["failed"] == 0
    assert statuses["interrupted"] <= 2 + 4, "of one pilot, and of a node with two"
    assert len(noted(root)) <= 24 + statuses["interrupted"]
    slurm.wait_for(lambda: not slurm.jobs(), 30)
    assert processes_below(tmp_path) == []


def sum_done(root: Path, tasks: list[str]) -> int:
    return sum(is_done(root, task) for task in tasks)


@pytest.mark.long
def test_relaxation_longer_than_the_walltime_of_pilots_goes_from_one_to_the_next(slurm, tmp_path):
    root, notes = tmp_path / "tasks", tmp_path / "notes"
    root.mkdir()
    atoms = bulk("Al", cubic=True)
    atoms.rattle(0.1, seed=0)
    parameters = {"notes": str(notes), "name": "relaxation", "seconds": 4.0}
    section = AseReference(
        kind="ase", calculator="csp_al.engine.contract.NotingEMT", parameters=parameters, time_limit=20
    )
    task = create_task(root, relax_task(atoms, section, 0.001, 10))
    (tmp_path / "toy.yaml").write_text(SLURM.format(slots=1, blocks=1).replace("02:00:00", "00:01:00"))
    engine = start_engine(root, read_machine(str(tmp_path / "toy.yaml")))
    deadline = time.monotonic() + 240
    try:
        run_tasks(engine, root, [task], lambda *_: None, lambda: time.monotonic() > deadline)
    finally:
        engine.close()
    result = read_result(root, task)
    assert result.done
    *cut_off, last = [attempt.status for attempt in result.attempts]
    assert set(cut_off) == {"interrupted"}
    assert last == "done"
    assert len(notes.read_text().splitlines()) <= 11 + len(cut_off)
    slurm.wait_for(lambda: not slurm.jobs(), 30)


def start(folder: Path, *words: str) -> subprocess.Popen[bytes]:
    paths = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    with (folder / "output.txt").open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "csp_al", *words],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": paths},
            stdout=output,
            stderr=subprocess.STDOUT,
        )


def campaign_in(folder: Path) -> Path:
    folder.mkdir()
    (folder / "small.yaml").write_text(CAMPAIGN)
    (folder / "toy.yaml").write_text(SLURM.format(slots=2, blocks=2).replace("02:00:00", "00:10:00"))
    return folder


RUN = ("run", "small.yaml", "--device", "cpu")


@pytest.mark.long
@pytest.mark.parametrize("potentials", ["", "potentials: {cores_per_node: 1, options: [--comment=stages]}\n"])
def test_campaign_on_slurm_whose_driver_is_killed_ends_as_one_on_this_machine_and_computes_nothing_twice(
    slurm, tmp_path, monkeypatch, potentials
):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # a sum over threads differs in its last bits
    here, there = campaign_in(tmp_path / "here"), campaign_in(tmp_path / "there")
    (there / "toy.yaml").write_text((there / "toy.yaml").read_text() + potentials)
    began = time.monotonic()
    assert start(here, *RUN, "--slots", "2").wait(timeout=300) == 0, (here / "output.txt").read_text()
    duration = time.monotonic() - began
    for moment in np.random.default_rng(7).uniform(0.3, 1, 3) * duration:
        driver = start(there, *RUN, "--machine", "toy.yaml")
        try:
            driver.wait(timeout=moment)
        except subprocess.TimeoutExpired:
            driver.kill()
            driver.wait()
    assert start(there, *RUN, "--machine", "toy.yaml").wait(timeout=300) == 0, (there / "output.txt").read_text()
    assert outcome(there / "runs" / "small") == outcome(here / "runs" / "small")
    assert computed_twice(there / "journal") == []
    assert cut_off(there / "runs" / "small") == 0
    assert bool(potentials) == (there / "runs" / "small" / POTENTIALS).exists()
    slurm.wait_for(lambda: not slurm.jobs(), 30)
    assert processes_below(there) == []


@pytest.mark.long
@pytest.mark.parametrize("how", ["SIGTERM", "stop"])
def test_campaign_on_slurm_that_is_stopped_leaves_no_job_and_no_process(slurm, tmp_path, how):
    folder = campaign_in(tmp_path / "run")
    text = (folder / "small.yaml").read_text()
    calculator = "{kind: ase, calculator: csp_al.engine.contract.NotingEMT, time_limit: 300, "
    slow = f"{calculator}parameters: {{notes: {folder / 'notes'}, name: slow, seconds: 1000}}}}"
    (folder / "small.yaml").write_text(re.sub(r"\{kind: ase.*\}\}?.*", slow, text))
    driver = start(folder, *RUN, "--machine", "toy.yaml")
    slurm.wait_for((folder / "notes").exists, 120)
    if how == "SIGTERM":
        driver.terminate()
    else:
        assert start(folder, "stop", "runs/small").wait(timeout=60) == 0
    assert driver.wait(timeout=60) == 143, (folder / "output.txt").read_text()
    slurm.wait_for(lambda: not slurm.jobs(), 30)
    assert processes_below(folder) == []
    assert not list(folder.glob("runs/small/tasks/*/claim*"))


@pytest.mark.long
def test_partition_that_is_none_is_told_in_slurms_own_words_before_anything_is_submitted(slurm, tmp_path):
    folder = campaign_in(tmp_path / "run")
    (folder / "toy.yaml").write_text((folder / "toy.yaml").read_text().replace("cpu", "night"))
    assert start(folder, *RUN, "--machine", "toy.yaml").wait(timeout=60) == 2
    assert "invalid partition specified: night" in (folder / "output.txt").read_text()
    assert not (folder / "runs").exists()


@pytest.mark.long
def test_doctor_tells_what_a_job_finds_of_the_machine_file_that_the_readme_shows(slurm, tmp_path):
    (tmp_path / "toy.yaml").write_text(f"{cluster_file()}potentials: {{cores_per_node: 2}}\n")
    assert start(tmp_path, "doctor", "--machine", "toy.yaml", "--json").wait(timeout=120) == 0, (
        tmp_path / "output.txt"
    ).read_text()
    lines = json.loads((tmp_path / "output.txt").read_text())
    told = {line["what"].split(" (")[0]: line["ok"] for line in lines}
    assert told[f"file system: {tmp_path} is shared"]
    assert told[f"there: csp_al {version('csp_al')}, here {version('csp_al')}"]
    assert told[f"there: Python {sys.version.split()[0]}"]
    assert told["there: srun --exact --ntasks 16 starts 16 of 16 processes"]
    assert told["there: the clock is that of the file system"]
    assert told["potentials: there: potentials are trained, and relax, on cpu"]
    assert slurm.jobs() == []
    assert list(tmp_path.glob(".csp-al-doctor*")) == []
    (tmp_path / "lost.yaml").write_text(SLURM.format(slots=1, blocks=1) + "programs: {python: /nowhere/python}\n")
    assert start(tmp_path, "doctor", "--machine", "lost.yaml").wait(timeout=120) == 0
    assert "NO  job: ended and left no answer; it said " in (tmp_path / "output.txt").read_text()
    assert "/nowhere/python: No such file or directory" in (tmp_path / "output.txt").read_text()
