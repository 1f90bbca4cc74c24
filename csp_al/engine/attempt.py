"""One attempt at a task: a process of its own, watched, limited in time, and gone at the end.

The attempt works in ``attempt-N/`` of the task's directory, where ``output.log`` takes what it prints. It always ends
with ``outcome.json`` there, written by the attempt itself or, when it died, by the process that watched it.
"""

from __future__ import annotations

import faulthandler
import gc
import os
import resource
import select
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final, NoReturn

from pydantic import TypeAdapter

from csp_al.campaign.machine import Machine
from csp_al.campaign.references import AnyReference
from csp_al.disk_space import is_machine_failure, says_full
from csp_al.engine.tasks import RELAX, atoms_of
from csp_al.files import forget_temporaries, read_sealed, write_sealed
from csp_al.interfaces import Failure, Reason, ReferenceFailedError, Status, Task
from csp_al.reasons import kind_of
from csp_al.reference.children import die_with_parent
from csp_al.reference.evaluate import TRAJECTORY, frames, relax, single_point
from csp_al.reference.ladder import AnyRemedy, as_told, in_force
from csp_al.reference.references import build_reference
from csp_al.reference.sanity import too_close, why_insane
from csp_al.results import Outcome, Values, as_json, outcome_of

LOOK: Final = 0.2  # s between two looks at a running attempt
REAP: Final = 0.005  # s between two looks at one that has closed its end of the pipe
OUTCOME: Final = "outcome.json"
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
    of the attempt is left when this returns, nor its ``scratch`` folder. Raises OSError where the machine was at fault,
    such as a full disk, and no outcome could be written.
    """
    directory.mkdir()
    started = time.monotonic()
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # until the child is known
    ours, theirs = os.pipe()
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        os.close(ours)
        _be_the_attempt(task, directory, remedies, machine, parent, theirs)
    os.close(theirs)
    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        limit = in_force(reference_section(task), remedies).time_limit
        reason, cost = _watch(child, ours, directory, limit, heartbeat)
        trouble = _heard(ours)
    finally:
        os.close(ours)
        _kill(child)
        shutil.rmtree(directory / SCRATCH, ignore_errors=True)
    if trouble:
        if _begun(directory) <= 1:  # nothing to go on from
            shutil.rmtree(directory, ignore_errors=True)
        raise OSError(int(trouble), os.strerror(int(trouble)), str(directory))
    if read_outcome(directory) is None:
        seconds = time.monotonic() - started
        cost = max(cost, seconds * machine.cores_per_label)  # of programs killed with it, the system tells no time
        told = [as_told(remedy) for remedy in remedies]
        write_outcome(directory, Outcome(Status.FAILED, reason, told, seconds, cost, _begun(directory), None))


def read_outcome(directory: Path) -> Outcome | None:
    """How an attempt ended, or None if it was interrupted (or runs). Raises DamagedError."""
    path = directory / OUTCOME
    try:
        return outcome_of(read_sealed(path, "outcome"), path)
    except FileNotFoundError:
        return None


def write_outcome(directory: Path, outcome: Outcome) -> None:
    """Say how an attempt ended."""
    write_sealed(directory / OUTCOME, "outcome", as_json(outcome))


def interrupted(directory: Path, remedies: Sequence[AnyRemedy]) -> Outcome:
    """The outcome of an attempt whose process and watcher died; what it left half done is removed."""
    shutil.rmtree(directory / SCRATCH, ignore_errors=True)
    forget_temporaries(directory)
    reason = Reason(Failure.CUT_OFF, "its worker was stopped")
    told = [as_told(remedy) for remedy in remedies]
    return Outcome(Status.INTERRUPTED, reason, told, 0.0, 0.0, _begun(directory), None)


def reference_section(task: Task) -> AnyReference:
    """The reference section of a task."""
    section: AnyReference = TypeAdapter(AnyReference).validate_python(task.inputs["reference"])
    return section


def _watch(child: int, pipe: int, directory: Path, limit: float, heartbeat: Callable[[], None]) -> tuple[Reason, float]:
    """Wait for the child, killing it when one evaluation takes too long: why there is no result, and core seconds."""
    progress, deadline = -1, 0.0
    pipes, wait = [pipe], LOOK
    while True:
        if select.select(pipes, [], [], wait)[0]:  # hardly anybody writes: readable means that the child ends
            pipes, wait = [], REAP
        ended, status, usage = os.wait4(child, os.WNOHANG)
        if ended:
            return _cause(status, directory), usage.ru_utime + usage.ru_stime
        heartbeat()
        grown = _size(directory / TRAJECTORY)
        if grown != progress:
            progress, deadline = grown, time.monotonic() + limit
        if time.monotonic() > deadline:
            _kill_session(child)
            os.kill(child, signal.SIGKILL)  # it may not have made its session yet
            _, _, usage = os.wait4(child, 0)
            words = f"one evaluation took longer than {limit:g} s (reference.time_limit)"
            return Reason(Failure.TIME_LIMIT, words), usage.ru_utime + usage.ru_stime


def _heard(pipe: int) -> str:
    """What an attempt that has ended said; nothing if a process that it started still holds the pipe."""
    os.set_blocking(pipe, False)
    with suppress(BlockingIOError):
        return os.read(pipe, 16).decode()
    return ""


def _cause(status: int, directory: Path) -> Reason:
    see = f"see {directory.name}/output.log"
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        name = next((known.name for known in signal.Signals if known == number), f"signal {number}")
        often = {"SIGKILL": ", by the kernel if memory ran out", "SIGSEGV": ", a crash in compiled code"}.get(name, "")
        kind = Failure.KILLED if number == signal.SIGKILL else Failure.CRASHED
        return Reason(kind, f"killed by {name}{often}; {see}")
    words = f"the process ended with exit status {os.waitstatus_to_exitcode(status)} and no result; {see}"
    return Reason(Failure.OTHER, words)


def _kill(child: int) -> None:
    """End the child's whole session, and the child if it has not yet made its session; reap it."""
    _kill_session(child)
    with suppress(ChildProcessError, ProcessLookupError):  # reaped
        if os.waitpid(child, os.WNOHANG)[0] == 0:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def _kill_session(child: int) -> None:
    """End everything that the child has started: its process group, and the groups that a launcher made in it."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(child, signal.SIGKILL)
    for process in Path("/proc").glob("[0-9]*"):  # there is none but on Linux
        with suppress(OSError):  # it ends while it is looked at
            if os.getsid(int(process.name)) == child:
                os.kill(int(process.name), signal.SIGKILL)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _begun(directory: Path) -> int:
    """Evaluations that an attempt without a result has begun: those written down and the one that did not end."""
    return sum(1 for _ in frames(directory)) + 1


def _be_the_attempt(
    task: Task, directory: Path, remedies: Sequence[AnyRemedy], machine: Machine, parent: int, pipe: int
) -> NoReturn:
    """What the child does; it never returns into the watcher's code. The pipe takes an error of the machine."""
    status = 1
    gc.freeze()  # what was there before the fork is not looked at, and so not copied, by the collection at the end
    try:
        _stand_alone(directory, parent)
        write_outcome(directory, _compute(task, directory, remedies, machine))
        status = 0
    except BaseException as error:  # noqa: BLE001 - a process of its own: nothing else can tell what happened
        if isinstance(error, OSError) and is_machine_failure(error):
            os.write(pipe, str(error.errno).encode())
        traceback.print_exc()
    finally:
        gc.collect()  # calculators write the rest of their logs when they are collected
        with suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _stand_alone(directory: Path, parent: int) -> None:
    """A session and log of its own, default signals, and death when the watcher dies."""
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    die_with_parent()
    if os.getppid() != parent:  # it died before the line above
        os._exit(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    log = os.open(directory / "output.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for source, target in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    os.close(nothing)
    os.close(log)
    faulthandler.enable()


def _compute(task: Task, directory: Path, remedies: Sequence[AnyRemedy], machine: Machine) -> Outcome:
    started = time.monotonic()
    values: Values | None = None
    reason: Reason | None
    try:
        status, reason, values = _judged(task, directory, remedies, machine)
        evaluations = values.evaluations if values else 0
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a user's calculator may raise anything
        traceback.print_exc()
        status, reason = Status.FAILED, _reason_of(error)
        evaluations = _begun(directory)
    gc.collect()  # a program that a calculator keeps running ends with it, and only then is its time told
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    cost = time.process_time() + children.ru_utime + children.ru_stime
    told = [as_told(remedy) for remedy in remedies]
    return Outcome(status, reason, told, time.monotonic() - started, cost, evaluations, values)


def _reason_of(error: BaseException) -> Reason:
    """What an exception says; whoever wraps it, the words of the operating system tell that a disk was full."""
    if isinstance(error, ReferenceFailedError):
        reason = error.reason
    else:
        reason = Reason(kind_of(error), f"{type(error).__name__}: {error}")
    return replace(reason, kind=Failure.DISK_FULL) if says_full(reason.words) else reason


def _judged(
    task: Task, directory: Path, remedies: Sequence[AnyRemedy], machine: Machine
) -> tuple[Status, Reason | None, Values | None]:
    """Status, reason and values of the calculation. A geometry that is not sane is not worth calculating."""
    atoms = atoms_of(task.inputs["structure"])
    if reason := too_close(atoms):
        return Status.REJECTED, reason, None
    section = in_force(reference_section(task), remedies)
    reference = build_reference(section, machine=machine)
    if task.kind == RELAX:
        values = relax(reference, atoms, directory, fmax=task.inputs["fmax"], max_steps=task.inputs["max_steps"])
    else:
        values = single_point(reference, atoms, directory)
    atoms.set_cell(values.cell)
    atoms.set_positions(values.positions)
    reason = why_insane(atoms, values.energy, values.forces, values.stress, section.max_force, section.max_stress)
    return Status.REJECTED if reason else Status.DONE, reason, values
