"""A campaign that is killed and continued ends as one that was left alone, and computes nothing twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from outcomes import computed_twice, cut_off, outcome

CAMPAIGN = """
name: small
seed: 3
pool: {formula: Al4, size: 40, volume_per_atom: [13, 23], min_distance: {Al-Al: 2.2}}
reference: {kind: ase, calculator: counting_emt.CountingEMT, parameters: {journal: journal}, time_limit: 60}
potential: {members: 2, features: 8, interactions: 1, cutoff: 4.0, steps: 20}
relax: {uncertainty: 3}
select: {per_cycle: 8, clusters: 10}
stop: {top_k: 2, max_cycles: 3}
"""
ON_FOUNDATION = (
    CAMPAIGN
    + "foundation: {model: ase.calculators.morse.MorsePotential, parameters: {epsilon: 0.5, r0: 2.9, rho0: 4.0}}\n"
)
DIRECTED = (
    CAMPAIGN.replace("relax: {uncertainty: 3}", "relax: {uncertainty: 30, uncertainty_floor: 3}")
    + "direct: {kind: deeprelax, pairs: 20, members: 2, steps: 8}\n"
)
IN_FLIGHT = CAMPAIGN.replace("per_cycle: 8", "per_cycle: 4, in_flight: 6").replace("max_cycles: 3", "max_cycles: 6")
SLOTS = 2


def start(folder: Path) -> subprocess.Popen[bytes]:
    tests = str(Path(__file__).parent)
    paths = os.pathsep.join([tests, os.environ.get("PYTHONPATH", "")])
    command = [
        sys.executable,
        "-c",
        "from csp_al.cli import app; app()",
        "run",
        "small.yaml",
        "--slots",
        str(SLOTS),
        "--device",
        "cpu",
    ]
    with (folder / "output.txt").open("ab") as output:
        return subprocess.Popen(
            command, cwd=folder, env=os.environ | {"PYTHONPATH": paths}, stdout=output, stderr=subprocess.STDOUT
        )


def campaign_in(folder: Path, text: str = CAMPAIGN) -> Path:
    folder.mkdir()
    (folder / "small.yaml").write_text(text)
    return folder


def finish(folder: Path) -> None:
    assert start(folder).wait(timeout=300) == 0, (folder / "output.txt").read_text()


def left_alone(folder: Path, text: str) -> tuple[dict[str, object], float]:
    """How the campaign of this text ends, and its seconds."""
    campaign_in(folder, text)
    began = time.monotonic()
    finish(folder)
    return outcome(folder / "runs" / "small"), time.monotonic() - began


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, object], float]:
    return left_alone(tmp_path_factory.mktemp("undisturbed") / "run", CAMPAIGN)


@pytest.fixture(scope="module")
def founded(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, object], float]:
    return left_alone(tmp_path_factory.mktemp("founded") / "run", ON_FOUNDATION)


@pytest.fixture(scope="module")
def directed(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, object], float]:
    return left_alone(tmp_path_factory.mktemp("directed") / "run", DIRECTED)


def kill_after(moment: float, folder: Path) -> None:
    driver = start(folder)
    try:
        driver.wait(timeout=moment)
    except subprocess.TimeoutExpired:
        driver.send_signal(signal.SIGKILL)
        driver.wait()


def kill_and_continue(folder: Path, moments: list[float], expected: dict[str, object], text: str = CAMPAIGN) -> None:
    campaign_in(folder, text)
    for moment in moments:
        kill_after(moment, folder)
    finish(folder)
    assert outcome(folder / "runs" / "small") == expected
    assert computed_twice(folder / "journal") == []


def test_killed_and_continued_campaign_ends_as_an_undisturbed_one(undisturbed, tmp_path):
    expected, duration = undisturbed
    moments = np.random.default_rng(1).uniform(0.2, 0.9, 2) * duration
    kill_and_continue(tmp_path / "run", moments.tolist(), expected)


@pytest.mark.long
@pytest.mark.parametrize("index", range(20))
def test_kill_at_any_moment_changes_nothing(undisturbed, tmp_path, index):
    expected, duration = undisturbed
    moment = np.random.default_rng([2, index]).uniform(0, 1) * duration
    kill_and_continue(tmp_path / "run", [moment], expected)


def signal_and_continue(folder: Path, number: int, moment: float, expected: dict[str, object]) -> None:
    campaign_in(folder)
    driver = start(folder)
    try:
        driver.wait(timeout=moment)
    except subprocess.TimeoutExpired:
        driver.send_signal(number)
        # before Python listens, the signal ends it by itself
        assert driver.wait(timeout=30) in (128 + number, -number, 0), (folder / "output.txt").read_text()
    assert "Traceback" not in (folder / "output.txt").read_text()
    finish(folder)
    refuse_changes(folder, expected)


def refuse_changes(folder: Path, expected: dict[str, object]) -> None:
    """Of what a signal may leave behind: it ends calculations too, and what one has not written down is done again."""
    run = folder / "runs" / "small"
    assert outcome(run) == expected
    assert len(computed_twice(folder / "journal")) <= cut_off(run) <= SLOTS


@pytest.mark.long
@pytest.mark.parametrize("index", range(5))
def test_kill_at_any_moment_of_a_campaign_on_a_foundation_changes_nothing(founded, tmp_path, index):
    expected, duration = founded
    moments = np.random.default_rng([4, index]).uniform(0.1, 0.9, 2) * duration
    kill_and_continue(tmp_path / "run", moments.tolist(), expected, ON_FOUNDATION)


@pytest.mark.long
@pytest.mark.parametrize("index", range(2))
def test_kill_at_any_moment_of_a_campaign_with_labels_in_flight_keeps_every_cycle_and_computes_nothing_twice(
    undisturbed, tmp_path, index
):
    folder = campaign_in(tmp_path / "run", IN_FLIGHT)
    run, kept = folder / "runs" / "small", dict[Path, bytes]()
    for moment in np.random.default_rng([6, index]).uniform(0.2, 0.9, 3) * undisturbed[1]:
        kill_after(moment, folder)
        whole = [path.parent for path in run.glob("cycle-*/*/manifest.json") if ".partial" not in path.parent.name]
        kept |= {path: path.read_bytes() for folder in whole for path in folder.iterdir() if path.is_file()}
    finish(folder)
    assert {path: path.read_bytes() for path in kept} == kept
    labels = [name for path in run.glob("cycle-*/label/labels.csv") for name in pd.read_csv(path)["task"]]
    assert len(labels) == len(set(labels)) > 10
    assert computed_twice(folder / "journal") == []


@pytest.mark.long
@pytest.mark.parametrize("index", range(5))
def test_kill_at_any_moment_of_a_campaign_with_a_direct_relaxer_changes_nothing(directed, tmp_path, index):
    expected, duration = directed
    assert any(name.endswith("direct/relaxer/weights.pt") for name in expected)
    moments = np.random.default_rng([6, index]).uniform(0.1, 0.9, 2) * duration
    kill_and_continue(tmp_path / "run", moments.tolist(), expected, DIRECTED)


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("index", range(6))
def test_signal_at_any_moment_ends_cleanly_and_changes_nothing(undisturbed, tmp_path, number, index):
    expected, duration = undisturbed
    moment = np.random.default_rng([4, number, index]).uniform(0.1, 1) * duration
    signal_and_continue(tmp_path / "run", number, moment, expected)


@pytest.mark.nightly
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_at_a_hundred_moments_each_end_cleanly_and_change_nothing(shim, server, tmp_path, number):
    """Drivers are forked with all imported, which takes longer than the rest."""
    words = ["run", "small.yaml", "--slots", str(SLOTS), "--device", "cpu"]
    alone = campaign_in(tmp_path / "alone")
    shim.count(alone / "runs")
    began = time.monotonic()
    assert server.run(alone, words) == 0
    duration, expected = time.monotonic() - began, outcome(alone / "runs" / "small")
    seen = []
    for index, share in enumerate(np.random.default_rng([5, number]).uniform(0, 1, 100)):
        folder = campaign_in(tmp_path / f"run{index}")
        seen.append(server.run(folder, words, signalled=(number, share * duration)))
        told = (folder / "output.txt").read_text()
        assert seen[-1] in (128 + number, -number, 0), told
        assert "Traceback" not in told
        assert server.run(folder, words) == 0, (folder / "output.txt").read_text()
        refuse_changes(folder, expected)
    assert seen.count(128 + number) > 25  # beside other work, a run alone takes longer than most


def test_second_driver_is_refused_with_the_name_of_the_first(tmp_path):
    folder = campaign_in(tmp_path / "run")
    file = folder / "small.yaml"
    endless = "steps: 100000, steps_per_label: 100000}"  # the first must not end meanwhile
    file.write_text(file.read_text().replace("steps: 20}", endless))
    first = start(folder)
    try:
        lock = folder / "runs" / "small" / "LOCK"
        deadline = time.monotonic() + 60
        while not (lock.exists() and lock.read_text()):
            assert time.monotonic() < deadline, (folder / "output.txt").read_text()
            time.sleep(0.05)
        second = start(folder)
        assert second.wait(timeout=60) == 3
        assert f"process {first.pid}" in (folder / "output.txt").read_text()
    finally:
        first.send_signal(signal.SIGTERM)
        assert first.wait(timeout=30) == 143
