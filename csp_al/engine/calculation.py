"""What the process of an attempt does: it computes, writes its outcome and ends, whatever the calculation has done."""

from __future__ import annotations

import faulthandler
import gc
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final, NoReturn

from pydantic import TypeAdapter

from csp_al.campaign.machine import Machine
from csp_al.campaign.references import AnyReference
from csp_al.disk_space import is_machine_failure, says_full
from csp_al.engine.tasks import RELAX, atoms_of
from csp_al.files import write_sealed
from csp_al.interfaces import Failure, Reason, ReferenceFailedError, Status, Task
from csp_al.reasons import kind_of
from csp_al.reference.children import die_with_parent
from csp_al.reference.evaluate import frames, relax, single_point
from csp_al.reference.ladder import AnyRemedy, as_told, in_force
from csp_al.reference.references import build_reference
from csp_al.reference.sanity import too_close, why_insane
from csp_al.results import Outcome, Values, as_json

OUTCOME: Final = "outcome.json"


def reference_section(task: Task) -> AnyReference:
    """The reference section of a task."""
    section: AnyReference = TypeAdapter(AnyReference).validate_python(task.inputs["reference"])
    return section


def begun(directory: Path) -> int:
    """Evaluations that an attempt without a result has begun: those written down and the one that did not end."""
    return sum(1 for _ in frames(directory)) + 1


def write_outcome(directory: Path, outcome: Outcome) -> None:
    """Say how the attempt in this directory ended."""
    directory.mkdir(parents=True, exist_ok=True)  # a calculation may have removed its own folder
    write_sealed(directory / OUTCOME, "outcome", as_json(outcome))


def be_the_attempt(
    task: Task,
    directory: Path,
    remedies: Sequence[AnyRemedy],
    machine: Machine,
    parent: int,
    pipe: int,
    output: int,
) -> NoReturn:
    """What the child does; it never returns into the watcher's code. The pipe takes an error of the machine."""
    status, myself = 1, os.getpid()
    gc.freeze()  # what was there before the fork is not looked at, and so not copied, by the collection at the end
    try:
        _stand_alone(parent, output)
        outcome = _compute(task, directory, remedies, machine)
        if os.getpid() == myself:  # the calculation may have forked, and both come here
            write_outcome(directory, outcome)
        status = 0
    except BaseException as error:  # noqa: BLE001 - a process of its own: nothing else can tell what happened
        if isinstance(error, OSError) and is_machine_failure(error):
            with suppress(OSError):
                os.write(pipe, f"errno {error.errno}".encode())
        _print_traceback()
    finally:
        _leave(status)


def _leave(status: int) -> NoReturn:
    """End the process, whatever the calculation has done to its output."""
    try:
        gc.collect()  # calculators write the rest of their logs when they are collected
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)


def _print_traceback() -> None:
    with suppress(Exception):  # standard error may be closed, or the words of the error be none
        traceback.print_exc()


def _stand_alone(parent: int, output: int) -> None:
    """A process group and output of its own, default signals, and death when the watcher dies.

    It stays in the session of its worker, by which whoever outlives the worker finds what it has started.
    """
    os.setpgid(0, 0)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    die_with_parent()
    if os.getppid() != parent:  # it died before the line above
        os._exit(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (output, 1), (output, 2)):
        os.dup2(source, target)
    os.close(nothing)
    os.close(output)
    faulthandler.enable()


def _compute(task: Task, directory: Path, remedies: Sequence[AnyRemedy], machine: Machine) -> Outcome:
    started = time.monotonic()
    values: Values | None = None
    reason: Reason | None
    try:
        status, reason, values = _judged(task, directory, remedies, machine)
        evaluations = values.evaluations if values else 0
    except BaseException as error:  # noqa: BLE001 - a user's calculator may raise anything
        _print_traceback()
        status, reason = Status.FAILED, _reason_of(error)
        evaluations = begun(directory)
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
        reason = Reason(kind_of(error), ": ".join(filter(None, (type(error).__name__, str(error)))))
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
        how = {key: task.inputs[key] for key in ("fmax", "max_steps", "cell") if key in task.inputs}
        values = relax(reference, atoms, directory, **how)
    else:
        values = single_point(reference, atoms, directory)
    atoms.set_cell(values.cell)
    atoms.set_positions(values.positions)
    reason = why_insane(atoms, values.energy, values.forces, values.stress, section.max_force, section.max_stress)
    return Status.REJECTED if reason else Status.DONE, reason, values
