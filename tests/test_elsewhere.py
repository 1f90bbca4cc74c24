"""Stages that are done in a job of a cluster, and published by a driver that waits for them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from small_run import cut_after, go_on
from test_cluster import own_machine

from csp_al.campaign.errors import CampaignError
from csp_al.campaign.machine import Machine, read_machine
from csp_al.engine.clusters import hire, hire_for_stages
from csp_al.engine.pilots import PilotEngine
from csp_al.engine.tasks import result_path
from csp_al.events import Advanced, Warned
from csp_al.files import write_json
from csp_al.loop import bodies, elsewhere, stage_worker
from csp_al.loop.elsewhere import GIVEN, Asked, Elsewhere, StageFailedError
from csp_al.loop.stage import ALONE
from csp_al.loop.stage_worker import MOST_BEGINNINGS, run_stage
from csp_al.store.filled import fill, settings_of, take_filled
from csp_al.store.lock import locked
from csp_al.store.run_directory import POTENTIALS, places
from csp_al.store.stages import history, is_published, manifest

CLUSTER = """\
engine: {engine}
walltime: 08:00:00
cores_per_node: 64
setup: [module load qe/7.3]
potentials: {potentials}
"""


class NotHereError(Exception):
    """A stage that is to be done in a job would be done by the driver."""


@contextmanager
def job_for(run: Path, folder: Path) -> Iterator[Elsewhere]:
    """A job that does stages, as a process of this machine."""
    jobs, crew = hire(own_machine(folder))
    crew = replace(crew, terms=replace(crew.terms, stages="cpu"))
    engine = PilotEngine(run / POTENTIALS, jobs, crew, lambda *_: 0.0)
    try:
        yield Elsewhere(engine, "cpu")
    finally:
        engine.close()


def ask(run: Path, **other: str) -> tuple[Path, str]:
    """The folder of tasks, and the id of one that asks for the first training, or for something else."""
    after = "cycle-00/label"
    usual = Asked("cycle-00/train", after, history(run / after), settings_of(run), str(run.parent), "cpu", None)
    asked, root = replace(usual, **other), run / POTENTIALS
    (root / asked.task).mkdir(parents=True)
    write_json(root / asked.task / "task.json", asdict(asked))
    return root, asked.task


def test_campaign_whose_stages_are_done_in_a_job_ends_as_one_whose_driver_does_them(
    finished_run, tmp_path, monkeypatch
):
    def refuse(*_, **__):
        raise NotHereError

    for body in ("make_candidates", "train_ensemble", "relax_candidates", "select_picks"):
        monkeypatch.setattr(bodies, body, refuse)
    run = cut_after(finished_run, tmp_path, "")
    told = []
    with job_for(run, tmp_path) as job:
        go_on(run, job, told.append)
        (pilot,) = job.engine.fleet.pilots
        log = (job.engine.exchange.pilot(pilot) / "worker-0.log").read_text()
    for _, _, place in filter(lambda found: is_published(found[2]), places(finished_run)):
        name = place.relative_to(finished_run)
        assert manifest(run / name)["files"] == manifest(place)["files"], name
    assert "cycle-01/train on cpu" in log, "one process did all of them"
    assert log.count("pool on cpu") == 1
    assert any(isinstance(event, Advanced) and event.done for event in told)


def test_stages_that_a_job_is_given_need_no_engine():
    assert set(GIVEN) < set(ALONE)


def test_driver_that_is_stopped_meanwhile_leaves_the_stage_to_the_next_one(finished_run, tmp_path):
    run = cut_after(finished_run, tmp_path, "cycle-00/label")

    def stop(event) -> None:
        if isinstance(event, Advanced):
            raise KeyboardInterrupt

    with job_for(run, tmp_path) as job, pytest.raises(KeyboardInterrupt):
        go_on(run, job, stop)
    assert not is_published(run / "cycle-00" / "train")
    with job_for(run, tmp_path) as job:
        go_on(run, job)
    assert manifest(run / "winners")["files"] == manifest(finished_run / "winners")["files"]


def test_what_a_stage_fails_for_is_told_by_the_driver(finished_run, tmp_path, monkeypatch):
    run = cut_after(finished_run, tmp_path, "cycle-00/label")

    def fail(run, name, device, tell, **_):
        tell(Warned("it is hot there"))
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr(stage_worker, "do_stage", fail)
    told = []

    def work_in_a_thread(engine, root, names, report, look) -> None:
        worker = threading.Thread(target=run_stage, args=(root, names[0], Machine()))
        worker.start()
        worker.join()

    monkeypatch.setattr(elsewhere, "run_tasks", work_in_a_thread)
    with pytest.raises(StageFailedError, match="cycle-00/train failed in its job: RuntimeError: CUDA out of memory"):
        go_on(run, Elsewhere(None, "cpu"), told.append)
    assert Warned("it is hot there") in told


def test_stage_that_no_job_ends_is_given_up(finished_run, tmp_path):
    run = cut_after(finished_run, tmp_path, "cycle-00/label")
    root, task = ask(run)
    for number in range(1, MOST_BEGINNINGS + 1):
        write_json(root / task / f"begun-{number}.json", {})
    run_stage(root, task, Machine())
    assert "was begun 3 times in jobs that ended before it did: give potentials a longer walltime" in (
        result_path(root, task).read_text()
    )


def test_stage_that_another_worker_is_at_is_left_to_it(finished_run, tmp_path, monkeypatch):
    monkeypatch.setattr(stage_worker, "LATER", 0.0)
    run = cut_after(finished_run, tmp_path, "cycle-00/label")
    root, task = ask(run)
    aside = run / "cycle-00" / "train.partial"
    aside.mkdir()
    with locked(aside):
        run_stage(root, task, Machine())
    assert not result_path(root, task).exists()
    assert not list((root / task).glob("begun-*"))
    run_stage(root, task, Machine())
    assert result_path(root, task).exists()


def test_stage_that_a_driver_does_itself_is_left_to_it(finished_run, tmp_path, monkeypatch):
    """A job that a killed driver has left begins while the next driver, with another machine file, is at the stage."""
    monkeypatch.setattr(stage_worker, "LATER", 0.0)
    run = cut_after(finished_run, tmp_path, "cycle-00/label")
    root, task = ask(run, driver="of one that was killed")
    with locked(run):
        run_stage(root, task, Machine())
        assert not (run / "cycle-00" / "train.partial").exists()
    assert not result_path(root, task).exists()
    run_stage(root, task, Machine())
    assert result_path(root, task).exists()


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"device": "cuda"}, "potentials of the machine file asks for a GPU"),
        ({"history": "of another label stage"}, "its job does not see"),
    ],
)
def test_job_that_lacks_what_it_needs_says_so(finished_run, tmp_path, monkeypatch, other, words):
    monkeypatch.setattr(elsewhere, "LATE", 0.1)
    run = cut_after(finished_run, tmp_path, "cycle-00/label")
    root, task = ask(run, **other)
    run_stage(root, task, Machine())
    assert words in result_path(root, task).read_text()


def test_stage_of_older_settings_is_not_published(finished_run, tmp_path):
    run = cut_after(finished_run, tmp_path, "cycle-00/label")
    label, train = run / "cycle-00" / "label", run / "cycle-00" / "train"
    fill(train, label, "settings that were changed meanwhile", lambda folder: (folder / "net").write_text("old"))
    assert take_filled(run, train, label) is None
    fill(train, label, settings_of(run), lambda folder: (folder / "net").write_text("new"))
    fill(train, label, settings_of(run), lambda folder: (folder / "net").write_text("once is enough"))
    assert take_filled(run, train, label) is not None
    assert (run / "cycle-00" / "train.partial" / "net").read_text() == "new"


@pytest.mark.parametrize(
    ("engine", "potentials", "lines"),
    [
        (
            "slurm",
            "{partition: gpu, gpus: 2, cores_per_node: 8, walltime: 04:00:00, setup: [module load cuda]}",
            ["#SBATCH --partition=gpu", "#SBATCH --gpus-per-node=2", "#SBATCH --time=240", "module load cuda"],
        ),
        ("pbs", "{queue: gpu, gpus: 1}", ["#PBS -l select=1:ncpus=64:mpiprocs=64:ngpus=1", "module load qe/7.3"]),
        ("lsf", "{queue: gpu, gpus: 1}", ['#BSUB -gpu "num=1"', "#BSUB -q gpu"]),
        ("sge", "{queue: gpu, options: [-l gpu=1]}", ["#$ -l gpu=1"]),
    ],
)
def test_job_for_potentials_is_as_the_machine_file_says(tmp_path, monkeypatch, engine, potentials, lines):
    answers = {"sbatch": "Submitted batch job 17", "qsub": "17.head", "bsub": "Job <17> is submitted to queue <gpu>."}
    for program, answer in answers.items():
        stub = tmp_path / "bin" / program
        stub.parent.mkdir(exist_ok=True)
        stub.write_text(f"#!/bin/sh\necho '{answer}'\n")
        stub.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    file = tmp_path / "big.yaml"
    file.write_text(CLUSTER.format(engine=engine, potentials=potentials))
    jobs, crew, _ = hire_for_stages(read_machine(str(file)))
    assert crew.most == 1
    assert crew.terms.stages == ("cpu" if engine == "sge" else "cuda")
    jobs.submit(tmp_path, "pilot-1", ["python"], crew.cores_per_node)
    (script,) = [path.read_text() for path in tmp_path.glob("*pilot-1*")]
    assert set(lines) <= {line.strip() for line in script.splitlines()}


@pytest.mark.parametrize(
    ("engine", "potentials", "words"),
    [
        ("sge", "{gpus: 1}", r"big.yaml:5.*each SGE has its own name for them; ask in options"),
        ("slurm", "{walltime: 4h}", r"big.yaml:5.*HH:MM:SS in whole minutes is expected"),
        ("slurm", "{partitoin: gpu}", r"big.yaml:5.*did you mean partition"),
        ("slurm", "{gpus: -1}", r"big.yaml:5.*gpus"),
        ("slurm", "{queue: gpu}", r"big.yaml:5.*queue"),
    ],
)
def test_job_for_potentials_that_cannot_be_is_refused_with_its_line(tmp_path, engine, potentials, words):
    file = tmp_path / "big.yaml"
    file.write_text(CLUSTER.format(engine=engine, potentials=potentials))
    with pytest.raises(CampaignError, match=words):
        read_machine(str(file))
