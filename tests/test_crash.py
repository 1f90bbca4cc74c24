"""A campaign may be killed at each call that changes a file of its run directory, and again while it goes on.

The calls of all its processes are counted together (`io_points`), so that a kill hits whichever makes the chosen one:
the driver, a worker, or an attempt at a calculation.
"""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from io_points import Note, Server, Shim, processes_in
from outcomes import computed_twice, outcome

from csp_al.report.status import status

CAMPAIGN = """
name: small
seed: 3
pool: {formula: Al2, size: 12, volume_per_atom: [13, 23], min_distance: {Al-Al: 2.2}, symmetric_fraction: 0}
reference:
  kind: ase
  calculator: counting_emt.CountingEMT
  parameters: {journal: journal}
  time_limit: 60
  remedies: [{when: killed by SIGKILL, say: and once more}]  # since each trial may kill one calculation twice
potential: {members: 2, features: 8, interactions: 1, cutoff: 4.0, steps: 5}
relax: {uncertainty: 3, max_steps: 10}
select: {per_cycle: 4, clusters: 4}
stop: {top_k: 1, max_cycles: 2}
finish: {max_steps: 8}
"""
RUN = ["run", "small.yaml", "--slots", "1", "--device", "cpu"]
FEW, SAMPLE, PARTS = 3, 60, 40
SOON = 20.0  # s for a worker that has lost its driver to end


@dataclass(frozen=True)
class Undisturbed:
    """How the campaign ends when it is left alone, and the calls that it takes."""

    outcome: dict[str, object]
    calls: list[Note]


class Trial:
    """One campaign in a folder of its own, its runs, and the kills that it has met."""

    def __init__(self, shim: Shim, server: Server, folder: Path) -> None:
        self.shim, self.server, self.folder = shim, server, folder
        self.watched = folder / "runs"
        self.run = self.watched / "small"
        self.kills: list[Note] = []
        folder.mkdir()
        (folder / "small.yaml").write_text(CAMPAIGN)

    def killed(self, at: int, again: int = 0) -> None:
        """Run until the driver is killed, or to the end: a kill at this call, and another so many calls later."""
        self.shim.kill(self.watched, at, again)
        ended = self.server.run(self.folder, RUN)
        kills = self.shim.notes()
        self.kills += kills
        expected = -signal.SIGKILL if any(kill.process == "driver" for kill in kills) else 0
        assert ended == expected, self

    def finish(self) -> None:
        """Run to the end, and wait for workers of drivers that were killed."""
        self.shim.count(self.watched)
        assert self.server.run(self.folder, RUN) == 0, self
        deadline = time.monotonic() + SOON
        while processes_in(self.folder) and time.monotonic() < deadline:
            time.sleep(0.05)

    @property
    def told(self) -> str:
        """The kills in words."""
        places = [(kill, Path(kill.path).relative_to(self.watched.resolve())) for kill in self.kills]
        return "; ".join(f"{kill.process} at {kill.number}, {kill.call} {place}" for kill, place in places) or "none"

    def __repr__(self) -> str:
        return f"kills: {self.told}\n{(self.folder / 'output.txt').read_text()}"


@pytest.fixture(scope="module")
def undisturbed(shim: Shim, server: Server, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    trial = Trial(shim, server, tmp_path_factory.mktemp("undisturbed") / "run")
    shim.trace(trial.watched)
    assert server.run(trial.folder, RUN) == 0, trial
    return Undisturbed(outcome(trial.run), shim.notes())


def refuse_changes(trial: Trial, undisturbed: Undisturbed) -> None:
    """The end state is the undisturbed one, nothing was lost, done without need, or left behind."""
    found, expected = outcome(trial.run), undisturbed.outcome
    assert sorted(name for name in found | expected if found.get(name) != expected.get(name)) == [], trial
    calculating = [kill for kill in trial.kills if kill.process != "driver"]
    assert len(computed_twice(trial.folder / "journal")) <= len(calculating), trial
    assert sorted([*trial.run.rglob("*.partial"), *trial.run.glob("LOCK*")]) == [], trial
    assert processes_in(trial.folder) == [], trial
    assert status(trial.run).state == "finished", trial


def survive(shim: Shim, server: Server, folder: Path, undisturbed: Undisturbed, at: int) -> Trial:
    """Kill at this call, and at a random one of what follows; then look at the end.

    What follows the kill of a driver is the resume; with any other, the driver goes on by itself.
    """
    trial = Trial(shim, server, folder)
    rest = max(len(undisturbed.calls) - at, 10)
    later = int(np.random.default_rng([4, at]).integers(1, rest + 1))
    trial.killed(at, later)
    if len(trial.kills) < 2:
        trial.killed(later)
    trial.finish()
    refuse_changes(trial, undisturbed)
    trial.finish()  # what workers of the last driver left is tidied by the next
    assert [*temporaries(trial.run), *trial.run.glob("tasks/*/claim*")] == [], trial
    return trial


def spread(index: int, parts: int, calls: int) -> int:
    """A random call of this part of all calls."""
    return 1 + int((index + np.random.default_rng([5, parts, index]).random()) * calls / parts)


@pytest.mark.parametrize("index", range(FEW))
def test_campaign_killed_at_a_call_and_again_in_its_resume_ends_as_an_undisturbed_one(
    shim, server, undisturbed, tmp_path, index
):
    survive(shim, server, tmp_path / "run", undisturbed, spread(index, FEW, len(undisturbed.calls)))


@pytest.mark.long
@pytest.mark.parametrize("index", range(SAMPLE))
def test_kill_at_a_sample_of_all_calls_changes_nothing(shim, server, undisturbed, tmp_path, record_property, index):
    trial = survive(shim, server, tmp_path / "run", undisturbed, spread(index, SAMPLE, len(undisturbed.calls)))
    record_property("kills", trial.told)


@pytest.mark.nightly
@pytest.mark.parametrize("part", range(PARTS))
def test_kill_at_every_call_changes_nothing(shim, server, undisturbed, tmp_path, part):
    failures = []
    for call in undisturbed.calls[part::PARTS]:
        try:
            survive(shim, server, tmp_path / str(call.number), undisturbed, call.number)
        except (AssertionError, TimeoutError) as failure:
            failures.append(f"call {call.number}: {failure}")
    assert failures == [], "\n".join(failures)


def test_temporary_file_does_not_outlive_the_kill_of_its_writer_and_a_resume(shim, server, undisturbed, tmp_path):
    at = next(call for call in undisturbed.calls if re.search(r"/\.resolved\.json\.\w+\.tmp$", call.path))
    trial = Trial(shim, server, tmp_path / "run")
    trial.killed(at.number + 1)
    assert len(temporaries(trial.run)) == 1
    trial.finish()
    assert temporaries(trial.run) == []


ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)


def run_out_of_room(shim: Shim, server: Server, folder: Path, undisturbed: Undisturbed, at: int, error: int) -> None:
    """From this call on nothing can be written; the driver says so and ends, and goes on when it can be."""
    trial = Trial(shim, server, folder)
    shim.fail(trial.watched, at, error)
    assert server.run(folder, RUN) == 75, trial
    told = (folder / "output.txt").read_text()
    assert re.search(rf"small\S*: {re.escape(os.strerror(error))}.*\. Nothing (is lost|has begun)", told), trial
    assert "Traceback" not in told, trial
    trial.finish()
    found, expected = outcome(trial.run), undisturbed.outcome
    assert sorted(name for name in found | expected if found.get(name) != expected.get(name)) == [], trial
    # a calculation whose result could not be written is done again
    assert len(computed_twice(folder / "journal")) <= 1, trial


@pytest.mark.parametrize("index", range(len(ERRORS)))
def test_campaign_that_runs_out_of_room_says_so_and_goes_on_when_there_is_some(
    shim, server, undisturbed, tmp_path, index
):
    at = spread(index, len(ERRORS), len(undisturbed.calls))
    run_out_of_room(shim, server, tmp_path / "run", undisturbed, at, ERRORS[index])


@pytest.mark.long
@pytest.mark.parametrize("index", range(24))
def test_room_that_runs_out_at_any_call_loses_nothing(shim, server, undisturbed, tmp_path, index):
    at = spread(index, 24, len(undisturbed.calls))
    run_out_of_room(shim, server, tmp_path / "run", undisturbed, at, ERRORS[index % len(ERRORS)])


def temporaries(run: Path) -> list[Path]:
    """Files that were to be renamed by `csp_al.files.write_atomically`."""
    return sorted(run.rglob(".*.tmp"))


def test_every_kind_of_process_and_of_change_is_counted(undisturbed, record_property):
    record_property("calls", str(Counter((call.process, call.call) for call in undisturbed.calls)))
    assert {call.process for call in undisturbed.calls} == {"driver", "worker", "attempt"}
    kinds = {call.call.removesuffix("64") for call in undisturbed.calls}
    assert kinds >= {"open", "write", "fsync", "rename", "link", "unlink", "mkdir"}


def test_write_is_torn_by_a_kill_and_a_full_disk_still_lets_files_be_removed(shim, tmp_path):
    writing = "open('{0}/a', 'wb', 0).write(b'12345678')"
    shim.kill(tmp_path, 2)
    assert plain(shim, writing.format(tmp_path)).returncode == -signal.SIGKILL
    assert (tmp_path / "a").read_bytes() == b"1234"
    shim.fail(tmp_path, 2, errno.ENOSPC)
    ended = plain(shim, writing.format(tmp_path))
    assert ended.returncode == 1
    assert "No space left on device" in ended.stderr
    assert plain(shim, f"import os; os.unlink('{tmp_path}/a')").returncode == 0
    assert list(tmp_path.iterdir()) == []


def plain(shim: Shim, program: str) -> subprocess.CompletedProcess[str]:
    """A program of a line of Python, under the shim."""
    environment = {**shim.environment}
    return subprocess.run(
        [sys.executable, "-I", "-c", program], env=environment, capture_output=True, text=True, check=False
    )
