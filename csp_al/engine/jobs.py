"""Jobs of a scheduler, by Parsl's provider for it.

    jobs = Jobs(provider)
    known = jobs.submit(folder, "pilot-1", ["python", "-m", "csp_al.engine.pilot"], cores=16)
    jobs.cancel([known])

Of Parsl the providers alone are used, which know how jobs are submitted, watched and cancelled. Its executors, which
send tasks over the network, lose what runs when their driver dies, and need ports that compute nodes can reach.
"""

from __future__ import annotations

import logging
import os
import re
import shlex
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from parsl.providers.base import ExecutionProvider

Known = dict[str, str | int | None]
"""What a provider knows a job by; JSON."""
KEPT: Final = ("SLURM_CONF", "SLURM_CLUSTERS")
"""Variables that say which Slurm, and not which job of it."""
ID: Final = re.compile(r"[\w.@\[\]-]+")
"""A job's id: it becomes part of a command line, and may have been read from a file."""


_ONE_AT_A_TIME: Final = threading.Lock()
"""What is submitted from several threads would share environment and log."""


class RefusedError(Exception):
    """The scheduler did not take a job; the message has its own words, in one line."""


class Jobs:
    """The jobs of one driver at one scheduler."""

    def __init__(self, provider: ExecutionProvider) -> None:
        self.provider = provider

    @property
    def scheduler(self) -> str:
        """What it is called."""
        return str(self.provider.label)

    def submit(self, folder: Path, name: str, command: Sequence[str], cores: int) -> Known:
        """Submit a job that runs the command once and has so many cores on each node. Raises RefusedError.

        Its script, and what it prints, go into the folder.
        """
        self.provider.script_dir = str(folder)
        with _ONE_AT_A_TIME, _heard() as heard, _as_outside_of_jobs():
            try:
                number = self.provider.submit(f"exec {shlex.join(command)}", cores, name)
            except Exception as error:
                raise RefusedError(in_one_line(getattr(error, "stderr", None) or str(error))) from error
        if not number:
            raise RefusedError(in_one_line("\n".join(heard)) or "no word of it")
        known = self.provider.resources[number]
        return {key: value for key, value in known.items() if isinstance(value, str | int | None)}

    def adopt(self, jobs: Sequence[Known]) -> None:
        """Take over jobs that another driver has submitted."""
        from parsl.jobs.states import JobState, JobStatus

        for known in jobs:
            number, process = known.get("job_id"), known.get("remote_pid", 0)
            if isinstance(number, str) and ID.fullmatch(number) and isinstance(process, int):
                self.provider.resources[number] = {**known, "status": JobStatus(JobState.PENDING)}

    def forget(self, known: Known) -> None:
        """Ask no more of a job."""
        self.provider.resources.pop(known.get("job_id"), None)

    def are_over(self, jobs: Sequence[Known]) -> list[bool]:
        """Whether each of these jobs is over, as far as the scheduler says so; it may say nothing at all."""
        names = [known.get("job_id") for known in jobs]
        missing = [name not in self.provider.resources for name in names]
        if any(missing):
            return missing
        with _heard():
            try:
                over = [bool(status.terminal) for status in self.provider.status(names)]
                return [True] if over == [False] and self._is_unknown_to_slurm(names[0]) else over
            except Exception:  # noqa: BLE001 - it is away for a while
                return [False for _ in names]

    def _is_unknown_to_slurm(self, name: object) -> bool:
        """Whether Slurm has forgotten a job: asked for that one alone it fails, as if it were away, and Parsl waits."""
        if self.scheduler != "slurm":
            return False
        _, _, said = self.provider.execute_wait(f"squeue --noheader --job {name}")
        return "Invalid job id" in said

    def cancel(self, jobs: Sequence[Known]) -> None:
        """Cancel jobs, those that have ended among them, as far as the scheduler is there."""
        names = [name for known in jobs if (name := known.get("job_id")) in self.provider.resources]
        if names and not self._cancel(names):  # one that is unknown may keep the others from being cancelled
            for name in names:
                self._cancel([name])

    def _cancel(self, names: Sequence[object]) -> bool:
        with _heard():
            try:
                return all(self.provider.cancel(names))
            except Exception:  # noqa: BLE001 - pilots see by themselves that nobody wants them any more
                return False


def last_words(folder: Path) -> str:
    """The last line that a job wrote, of its errors where there are any; empty where it wrote nothing."""
    for pattern in ("*.stderr", "*.err", "*.stdout", "*.out"):
        for path in folder.glob(pattern):
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
            if last := next((line.strip() for line in reversed(lines) if line.strip()), ""):
                return last
    return ""


@contextmanager
def _heard() -> Iterator[list[str]]:
    """What Parsl logs as an error, which it tells nobody else."""
    heard: list[str] = []

    class Listening(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            heard.append(record.getMessage())

    listener = Listening(logging.ERROR)
    logger = logging.getLogger("parsl")
    logger.addHandler(listener)
    try:
        yield heard
    finally:
        logger.removeHandler(listener)


@contextmanager
def _as_outside_of_jobs() -> Iterator[None]:
    """While this lasts nothing is inherited of the job that this driver itself may run in."""
    inside = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("SLURM_") and name not in KEPT}
    try:
        yield
    finally:
        os.environ |= inside


def in_one_line(words: object) -> str:
    """Several lines as one, each once."""
    return "; ".join(dict.fromkeys(line.strip() for line in str(words).splitlines() if line.strip()))
