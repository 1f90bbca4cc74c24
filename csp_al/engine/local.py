"""Slots on this machine: a worker process for each, fed one task at a time.

engine = start_engine(run / "tasks", Machine(slots=2))  # csp_al.engine.engines
try:
    run_tasks(engine, run / "tasks", ids, report, should_stop)
finally:
    engine.close()
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections import OrderedDict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, NoReturn

from csp_al import claim
from csp_al.campaign.machine import THREADS, Machine, usable_cores
from csp_al.engine.output_log import shorten
from csp_al.engine.tasks import is_done, require_task
from csp_al.files import DamagedError
from csp_al.interfaces import EngineKind
from csp_al.reference.children import end_started_by, wake

GRACE: Final = 5.0  # s for the workers to end when told to
MOST_DEATHS: Final = 5  # workers of one slot that may die one after the other before the engine gives up
MOST_OF_ONE_TASK: Final = 2  # of them, which a task may take with it before it has failed, in every other slot
LABELS: Final = "csp_al.engine.worker"
"""Module of workers whose tasks are the reference's."""
STAGES: Final = "csp_al.loop.stage_worker"
"""The same of those whose tasks are stages of the loop."""
AGAIN: Final = " again"
"""What a worker is told after the id of a task whose last worker has died."""
JOB_BEGAN: Final = "CSP_AL_JOB_BEGAN"
"""Variable of the environment, in jobs of a cluster: when the job began, in s since the epoch."""


@dataclass
class _Worker:
    process: subprocess.Popen[bytes]
    mark: str  # in the environment of all that it starts
    task: str | None = None  # what it was given and has not yet said to be through with
    said: bytes = b""  # the beginning of a line


def check(machine: Machine, cores: int) -> int:
    """Labels side by side on so many cores. Raises ValueError where they would need more."""
    slots = _slots(machine, cores)
    if slots * machine.cores_per_label > cores:
        msg = (
            f"{slots} labels side by side on {machine.cores_per_label} cores each need "
            f"{slots * machine.cores_per_label} cores, this machine has {cores}: give fewer slots or cores_per_label"
        )
        raise ValueError(msg)
    return slots


class LocalEngine:
    """A `csp_al.interfaces.Engine` on this machine; workers start when there is work for them."""

    def __init__(self, root: Path, machine: Machine, logs: Path | None = None, worker: str = LABELS) -> None:
        """``logs``: where what workers print goes; None: to the tasks. ``worker``: what they run."""
        self.root = root
        self.worker = worker
        self.machine = machine
        self.logs = logs or root
        self.slots = _slots(machine, usable_cores())
        self._workers: dict[int, _Worker] = {}
        self._queue: OrderedDict[str, None] = OrderedDict()  # a deque is searched from its start
        self._handed_out: dict[str, None] = {}
        self._deaths = 0
        self._lost_with_worker: set[str] = set()

    def submit(self, task: str) -> None:
        """Queue the task of this id; a task that is queued, running or finished is left alone.

        Raises ValueError where there is no such task.
        """
        if is_done(self.root, task) or task in self._queue or task in self._running():
            return
        require_task(self.root, task)
        self._queue[task] = None

    def tick(self) -> None:
        """Hear what has ended and give every idle slot a task.

        Raises what a worker could not go on for, OSError or DamagedError, and OSError when workers keep dying, with
        the last line of their log.
        """
        for slot in list(self._workers):
            self._hear(slot)
        for slot in range(self.slots):
            if not self._queue:
                return
            worker = self._workers.get(slot)
            if worker is None:
                worker = self._workers[slot] = self._start(slot)
            if worker.task is None:
                self._give(worker)

    def lost(self) -> list[str]:
        """Tasks that were submitted, are not finished, and that no living worker, ours or another's, has."""
        self._handed_out = {task: None for task in self._handed_out if not is_done(self.root, task)}
        known = self._running() | self._queue.keys()
        return [task for task in self._handed_out if task not in known and not claim.is_taken(self.root / task)]

    def close(self) -> None:
        """End all workers and what they run, within seconds."""
        self._forget_queue()
        for worker in self._workers.values():
            worker.process.terminate()
        deadline = time.monotonic() + GRACE
        for worker in self._workers.values():
            try:
                worker.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()
            _close_pipes(worker)
        _end_what_is_left_of(self._workers.values())
        self._workers.clear()

    def leave(self) -> None:
        """Let go of the workers: each finishes the task at hand and ends, as when the driver is killed."""
        self._forget_queue()
        for worker in self._workers.values():
            _close_pipes(worker)
        self._workers.clear()

    def _forget_queue(self) -> None:
        self._handed_out |= self._queue
        self._queue.clear()

    def _running(self) -> set[str]:
        return {worker.task for worker in self._workers.values() if worker.task is not None}

    def _log(self, slot: int) -> Path:
        return self.logs / f"worker-{slot}.log"

    def _start(self, slot: int) -> _Worker:
        self.root.mkdir(parents=True, exist_ok=True)
        mark = secrets.token_hex(16)
        here = self.machine.model_dump_json(exclude={"engine", "slots"})
        with self._log(slot).open("ab") as log:
            # -P: a module in the current folder must not pass for one that the worker imports
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", self.worker, str(self.root), here],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,  # a key pressed in the terminal is for the driver alone
                bufsize=0,
                env=os.environ | dict.fromkeys(THREADS, str(self.machine.cores_per_label)) | {claim.MARK: mark},
            )
        os.set_blocking(_pipe(process.stdout).fileno(), False)
        return _Worker(process, mark)

    def _give(self, worker: _Worker) -> None:
        worker.task, _ = self._queue.popitem(last=False)
        self._handed_out[worker.task] = None
        again = AGAIN if worker.task in self._lost_with_worker else ""
        try:
            _pipe(worker.process.stdin).write(f"{worker.task}{again}\n".encode())
        except BrokenPipeError:  # it has just died, which the next tick hears
            self._queue[worker.task] = None
            self._queue.move_to_end(worker.task, last=False)
            worker.task = None

    def _hear(self, slot: int) -> None:
        worker = self._workers[slot]
        shorten(self._log(slot))
        *lines, worker.said = (worker.said + (_pipe(worker.process.stdout).read() or b"")).split(b"\n")
        for line in lines:
            if line.startswith(b"{"):
                raise_trouble(json.loads(line))
            if worker.task and line == worker.task.encode():
                self._lost_with_worker.discard(worker.task)
                worker.task = None
                self._deaths = 0
        if worker.process.poll() is None:
            wake(worker.process.pid)  # a calculation may have stopped it
            return
        _end_what_is_left_of([worker])
        _close_pipes(worker)
        del self._workers[slot]
        if worker.task and _had_begun(worker, self.root / worker.task):
            self._lost_with_worker.add(worker.task)
        self._deaths += 1
        if self._deaths >= MOST_DEATHS + MOST_OF_ONE_TASK * (self.slots - 1):
            log = self._log(slot)
            lines_of_log = log.read_text(encoding="utf-8", errors="replace").split("\n")
            last = next((line for line in reversed(lines_of_log) if line.strip()), "nothing")
            told = f"{self._deaths} workers died one after the other; the log ends with: {last}"
            raise OSError(errno.EIO, told, str(log))


def _slots(machine: Machine, cores: int) -> int:
    return machine.slots or max(1, cores // machine.cores_per_label)


def raise_trouble(trouble: Mapping[str, Any]) -> NoReturn:
    """Raise what a worker said before it ended."""
    if "refused" in trouble:
        raise ValueError(trouble["refused"])
    if "damaged" in trouble:
        raise DamagedError(Path(trouble["damaged"]), trouble["words"])
    raise OSError(trouble["errno"], trouble["words"], trouble["file"])


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None  # opened in _start
    return pipe


def _had_begun(worker: _Worker, folder: Path) -> bool:
    """Whether a worker that has died was at its task: then its claim is there, unless it was told to end."""
    told_to = worker.process.returncode == 128 + signal.SIGTERM
    return told_to or worker.mark in claim.marks_of_the_dead(folder)


def _end_what_is_left_of(workers: Collection[_Worker]) -> None:
    """End what workers that have ended leave running."""
    end_started_by({worker.mark for worker in workers}, {worker.process.pid for worker in workers})


def _close_pipes(worker: _Worker) -> None:
    _pipe(worker.process.stdin).close()
    _pipe(worker.process.stdout).close()


KIND: Final = EngineKind(Machine, LocalEngine, lambda machine: check(machine, usable_cores()))
