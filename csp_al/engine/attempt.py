"""One attempt at a task: a process of its own, watched, limited in time, and gone at the end.

The attempt works in ``attempt-N/`` of the task's directory, where ``output.log`` takes what it prints, the middle left
out where that is long. It always ends with ``outcome.json`` there, written by the attempt itself or, when it died, by
the process that watched it.
"""

from __future__ import annotations

import errno
import os
import re
import select
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from csp_al.campaign.machine import Machine
from csp_al.engine.calculation import OUTCOME, be_the_attempt, begun, reference_section, write_outcome
from csp_al.engine.deadline import Deadline
from csp_al.engine.output_log import take_in
from csp_al.engine.pipes import high_pipe
from csp_al.files import DamagedError, OtherVersionError, forget_temporaries, read_sealed
from csp_al.interfaces import Failure, Reason, Status, Task
from csp_al.reference.children import adopt_orphans, any_stopped, descendants, end_all
from csp_al.reference.evaluate import TRAJECTORY
from csp_al.reference.ladder import AnyRemedy, as_told, in_force
from csp_al.results import Outcome, outcome_of

LOOK: Final = 0.2  # s between two looks at a running attempt
REAP: Final = 0.005  # s until the first look at one that has closed its end of the pipe
OUTPUT: Final = "output.log"
ITS_OWN: Final = {errno.EMFILE, errno.EFBIG, errno.EACCES, errno.EPERM}
"""Errors that a calculation can bring upon itself, by files left open, limits and permissions; the watcher meets those
of the machine as well."""
SCRATCH: Final = "scratch"  # folder of an attempt that does not outlive it


def directory_of(folder: Path, number: int) -> Path:
    """Where an attempt at the task in the folder works; they count from 1."""
    return folder / f"attempt-{number}"


def run_attempt(
    task: Task, directory: Path, remedies: Sequence[AnyRemedy], machine: Machine, heartbeat: Callable[[], None]
) -> None:
    """Run the task in a new process inside the directory (made here) and wait for its ``outcome.json``.

    ``remedies`` are those of the reference's ladder in force. The limit is the reference section's ``time_limit`` (s)
    for each evaluation. ``heartbeat`` is called at every look. Whatever happens, an exception included, no process
    that the attempt started is left when this returns, nor its ``scratch`` folder; where the system does not let
    orphans be adopted, a daemon without our mark may be. Raises OSError where the machine was at fault, such as a
    full disk, and no outcome could be written.
    """
    directory = directory.absolute()  # the calculation may go elsewhere
    directory.mkdir()
    (directory / OUTPUT).touch()
    started = time.monotonic()
    adopt_orphans()
    before = descendants()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # a module that was imported may have ignored it
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # until the child is known
    (ours, theirs), (printed, output) = high_pipe(), high_pipe()
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        os.close(ours)
        os.close(printed)
        be_the_attempt(task, directory, remedies, machine, parent, theirs, output)
    os.close(theirs)
    os.close(output)
    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        limit = in_force(reference_section(task), remedies).time_limit
        reason, cost = _watch(child, ours, printed, directory, limit, heartbeat)
        trouble = _heard(ours)
    finally:
        end_all(lambda: descendants() - before)
        take_in(printed, directory / OUTPUT)
        os.close(ours)
        os.close(printed)
        shutil.rmtree(directory / SCRATCH, ignore_errors=True)
    if trouble in ITS_OWN:
        reason = Reason(Failure.OTHER, f"{os.strerror(trouble)}, when its outcome was written; {_see(directory)}")
    elif trouble:
        if begun(directory) <= 1:  # nothing to go on from
            shutil.rmtree(directory, ignore_errors=True)
        raise OSError(trouble, os.strerror(trouble), str(directory))
    if not _left_an_outcome(directory):
        seconds = time.monotonic() - started
        cost = max(cost, seconds * machine.cores_per_label)  # of programs killed with it, the system tells no time
        write_failure(directory, reason, remedies, seconds, cost)


def read_outcome(directory: Path) -> Outcome | None:
    """How an attempt ended, or None if it was interrupted (or runs). Raises DamagedError."""
    path = directory / OUTCOME
    try:
        return outcome_of(read_sealed(path, "outcome"), path)
    except FileNotFoundError:
        return None


def write_failure(
    directory: Path, reason: Reason, remedies: Sequence[AnyRemedy], seconds: float = 0.0, cost: float = 0.0
) -> None:
    """Write the outcome of an attempt that left none and has failed."""
    told = [as_told(remedy) for remedy in remedies]
    write_outcome(directory, Outcome(Status.FAILED, reason, told, seconds, cost, begun(directory), None))


def interrupted(directory: Path, remedies: Sequence[AnyRemedy]) -> Outcome:
    """The outcome of an attempt whose process and watcher died; what it left half done is removed."""
    shutil.rmtree(directory / SCRATCH, ignore_errors=True)
    forget_temporaries(directory)
    reason = Reason(Failure.CUT_OFF, "its worker was stopped")
    told = [as_told(remedy) for remedy in remedies]
    return Outcome(Status.INTERRUPTED, reason, told, 0.0, 0.0, begun(directory), None)


def _watch(
    child: int, pipe: int, printed: int, directory: Path, limit: float, heartbeat: Callable[[], None]
) -> tuple[Reason, float]:
    """Wait for the child, killing it when one evaluation takes too long: why there is no result, and core seconds."""
    progress, deadline = -1, Deadline(limit, any_stopped)
    pipes, wait = [pipe, printed], LOOK
    while True:
        readable = select.select(pipes, [], [], wait)[0]
        wait = min(2 * wait, LOOK)  # it may have closed its end and go on
        if printed in readable and not take_in(printed, directory / OUTPUT):
            pipes.remove(printed)
        if pipe in readable:  # hardly anybody writes: readable means that the child ends
            pipes.remove(pipe)
            wait = REAP
        ended, status, usage = os.wait4(child, os.WNOHANG)
        if ended:
            return _cause(status, directory), usage.ru_utime + usage.ru_stime
        heartbeat()
        grown = _size(directory / TRAJECTORY)
        if grown != progress:
            progress = grown
            deadline.restart()
        if deadline.is_over():
            os.kill(child, signal.SIGKILL)
            _, _, usage = os.wait4(child, 0)
            words = f"one evaluation took longer than {limit:g} s (reference.time_limit)"
            return Reason(Failure.TIME_LIMIT, words), usage.ru_utime + usage.ru_stime


def _heard(pipe: int) -> int:
    """The number of the machine's error that an attempt has told; 0 if it told none, or something else wrote there."""
    said = b""
    with suppress(BlockingIOError):  # a process that it started still holds the pipe
        said = os.read(pipe, 64)
    found = re.fullmatch(rb"errno (\d{1,4})", said)
    return int(found[1]) if found else 0


def _cause(status: int, directory: Path) -> Reason:
    see = _see(directory)
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        name = next((known.name for known in signal.Signals if known == number), f"signal {number}")
        often = {"SIGKILL": ", by the kernel if memory ran out", "SIGSEGV": ", a crash in compiled code"}.get(name, "")
        kind = Failure.KILLED if number == signal.SIGKILL else Failure.CRASHED
        return Reason(kind, f"killed by {name}{often}; {see}")
    words = f"the process ended with exit status {os.waitstatus_to_exitcode(status)} and no result; {see}"
    return Reason(Failure.OTHER, words)


def _see(directory: Path) -> str:
    return f"see {directory.name}/{OUTPUT}"


def _left_an_outcome(directory: Path) -> bool:
    """Whether there is an outcome of ours: a calculation may write, or remove, what it likes."""
    try:
        return read_outcome(directory) is not None
    except (DamagedError, OtherVersionError):
        return False


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
