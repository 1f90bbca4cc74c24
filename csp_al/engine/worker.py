"""The worker: takes task ids from standard input, one a line, and says each on standard output when it is through.

    python -m csp_al.engine.worker runs/si8/tasks '{"cores_per_label": 4}'

An id with " again" after it is that of a task whose worker has just died. Where the disk is full or a file damaged it
says so, as JSON, and ends; the task has no result then.

A task that is finished, or that another living worker has, is passed over. Every attempt runs in a process forked
from this one, which has imported already what the attempt needs. At the end of its input, as when its driver was
killed, the worker finishes and publishes the task at hand and ends; on SIGTERM it ends at once with exit status 143,
and the task at hand can be taken up by another.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Final, NoReturn, TextIO

from csp_al import claim
from csp_al.campaign.machine import Machine
from csp_al.disk_space import free_bytes, is_machine_failure
from csp_al.engine.attempt import OUTPUT, directory_of, interrupted, read_outcome, run_attempt, write_failure
from csp_al.engine.calculation import OUTCOME, reference_section
from csp_al.engine.local import AGAIN, JOB_BEGAN
from csp_al.engine.pipes import high_number
from csp_al.engine.tasks import is_done, of_other_atoms, publish_result, read_task
from csp_al.files import DamagedError, OtherVersionError, forget_temporaries
from csp_al.importing import beside
from csp_al.interfaces import Failure, Reason, Status, Task
from csp_al.printing import replace_unknown_letters
from csp_al.reference.children import end_started_by
from csp_al.reference.ladder import AnyRemedy, ladder, next_remedy, recognised
from csp_al.reference.references import reference_kind
from csp_al.results import Attempt, Outcome, Result

LEAST_FREE: Final = 10_000_000
"""Bytes; a calculation that failed with less than that free may have failed for that."""

SETTLES: Final = 2.0
"""s within which a scheduler that ends a job ends all of its processes, in whatever order."""

MOST_INTERRUPTIONS: Final = 20
"""Attempts of one task that may be cut off in their first evaluation before it counts as the cause."""


def run_task(root: Path, name: str, machine: Machine, *, after_death: bool = False) -> None:
    """Give the task of this id its result, unless it has one or a living process has the task.

    ``after_death``: the last worker of the task died and took the attempt with it, while its driver lived. The
    attempt counts as killed then.
    """
    folder = root / name
    if is_done(root, name):
        return
    mine = claim.take(folder)
    if mine is None:
        return
    try:
        end_started_by(claim.marks_of_the_dead(folder))
        forget_temporaries(folder)
        if not is_done(root, name):
            task = read_task(root, name)
            if after_death:
                _blame_the_last_attempt(task, folder)
            _climb(task, folder, mine, machine)
        if is_done(root, name):  # else the claims are another's
            claim.clear(folder)
    finally:
        claim.release(mine)


def _climb(task: Task, folder: Path, mine: Path, machine: Machine) -> None:
    """Attempt after attempt, each with one more remedy of the ladder, until there is a result to publish.

    Nothing is published, nor begun, where this process slept meanwhile, and another has the task, or its folder moved.
    """
    started = _now()
    section = reference_section(task)
    reference_kind(section).prepare(section)
    rungs = ladder(section)
    while (verdict := _verdict(attempts := _attempts(task, folder, rungs), rungs)) is None:
        directory = directory_of(folder, len(attempts) + 1)
        with _doubting_failures(directory) if JOB_BEGAN in os.environ else nullcontext():
            run_attempt(task, directory, _remedies(attempts, rungs) or (), machine, partial(claim.touch, mine))
        if claim.is_lost(mine):
            return
    status, reason = verdict
    if status is Status.FAILED and _for_lack_of_room(folder, reason):
        _forget_those_without_room(folder, attempts)
        raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)} ({reason})", str(folder))
    result = Result(
        values=attempts[-1].values,
        id=folder.name,
        kind=task.kind,
        status=status,
        reason=reason,
        cost=sum(attempt.cost for attempt in attempts),
        evaluations=sum(attempt.evaluations for attempt in attempts),
        attempts=[_told(number, attempt) for number, attempt in enumerate(attempts, start=1)],
        host=socket.gethostname(),
        started=started,
        finished=_now(),
    )
    publish_result(folder, result)


@contextmanager
def _doubting_failures(directory: Path) -> Iterator[None]:
    """Let an attempt that fails here count as cut off where its job ends: its programs may be ended before we are."""
    try:
        yield
        if _has_failed(directory):
            time.sleep(SETTLES)
    except SystemExit:
        if _has_failed(directory):
            (directory / OUTCOME).unlink()
        raise


def _has_failed(directory: Path) -> bool:
    outcome = read_outcome(directory)
    return outcome is not None and outcome.status is Status.FAILED


def _forget_those_without_room(folder: Path, attempts: list[Outcome]) -> None:
    """Remove the last attempt, and those before it that found no room either: they tell nothing of the task.

    Where one has evaluations that a relaxation can go on from, it stays, and those before it, as if cut off.
    """
    kept = False
    for number in range(len(attempts), 0, -1):
        directory = directory_of(folder, number)
        kept = kept or attempts[number - 1].evaluations > 1
        if kept:
            (directory / OUTCOME).unlink()
        else:
            shutil.rmtree(directory)
        if number > 1 and not _found_no_room(attempts[number - 2].reason):
            return


def _for_lack_of_room(folder: Path, reason: Reason | None) -> bool:
    """Whether a failure says more of the disk than of the task."""
    return _found_no_room(reason) or free_bytes(folder) < LEAST_FREE


def _found_no_room(reason: Reason | None) -> bool:
    return reason is not None and reason.kind is Failure.DISK_FULL


def _blame_the_last_attempt(task: Task, folder: Path) -> None:
    """Let the attempt that died with its worker count as killed."""
    rungs = ladder(reference_section(task))
    attempts = _attempts(task, folder, rungs)
    if attempts and attempts[-1].status is Status.INTERRUPTED:
        directory = directory_of(folder, len(attempts))
        words = (
            f"killed by SIGKILL when its worker died, by the kernel if memory ran out; see {directory.name}/{OUTPUT}"
        )
        write_failure(directory, Reason(Failure.KILLED, words), _remedies(attempts[:-1], rungs) or [])


def _attempts(task: Task, folder: Path, rungs: Sequence[AnyRemedy]) -> list[Outcome]:
    """Outcomes of all attempts so far, in their order; one that was cut off counts as interrupted.

    One with values of other atoms has failed.
    """
    outcomes: list[Outcome] = []
    while (directory := directory_of(folder, len(outcomes) + 1)).exists():
        outcome = read_outcome(directory) or interrupted(directory, _remedies(outcomes, rungs) or [])
        if outcome.values is not None and (wrong := of_other_atoms(task, outcome.values)):
            reason = Reason(Failure.UNREADABLE_OUTPUT, wrong)
            outcome = replace(outcome, status=Status.FAILED, reason=reason, values=None)
        outcomes.append(outcome)
    return outcomes


def _remedies(attempts: list[Outcome], rungs: Sequence[AnyRemedy]) -> list[AnyRemedy] | None:
    """The remedies of the next attempt: those of the last failed one, and one for its reason. None if none is left."""
    failed = [attempt for attempt in attempts if attempt.status is Status.FAILED]
    if not failed:
        return []
    # only those of the ladder: what stands in a file of the run directory is not believed to be a remedy
    tried = [remedy for told in failed[-1].remedies if (remedy := recognised(rungs, told))]
    reason = failed[-1].reason
    assert reason is not None  # it failed
    another = next_remedy(rungs, tried, reason)
    return None if another is None else [*tried, another]


def _verdict(attempts: list[Outcome], rungs: Sequence[AnyRemedy]) -> tuple[Status, Reason | None] | None:
    """Status and reason of the task after these attempts; None while another attempt is due."""
    if not attempts:
        return None
    last = attempts[-1]
    over = last.status is Status.FAILED and _remedies(attempts, rungs) is None
    if over or last.status in {Status.DONE, Status.REJECTED}:
        return last.status, last.reason
    in_vain = [attempt for attempt in attempts if _was_cut_off(attempt) and attempt.evaluations <= 1]
    if len(in_vain) >= MOST_INTERRUPTIONS:
        return Status.FAILED, Reason(Failure.CUT_OFF, f"{len(in_vain)} attempts were cut off with their workers")
    return None


def _was_cut_off(attempt: Outcome) -> bool:
    """Whether an attempt did not end; one that failed and is tried again did, see `csp_al.engine.retry`."""
    interrupted_by = attempt.reason.kind if attempt.reason and attempt.status is Status.INTERRUPTED else None
    return interrupted_by is Failure.CUT_OFF


def _told(number: int, outcome: Outcome) -> Attempt:
    """An attempt as a result tells it; ``remedy`` is the one that was new."""
    remedy = outcome.remedies[-1]["say"] if outcome.remedies else ""
    seconds, cost, evaluations = outcome.seconds, outcome.cost, outcome.evaluations
    return Attempt(number, remedy, outcome.status, outcome.reason, seconds, cost, evaluations)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _on_sigterm(signum: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough: what follows cleans up
    raise SystemExit(128 + signal.SIGTERM)


def serve(root: Path, run: Callable[[Path, str, bool], None]) -> None:
    """Run every task whose id comes in, until the input ends, or until it cannot go on, which it says as JSON.

    ``run(root, id, after_death)`` runs one; ``after_death`` as of `run_task`.
    """
    signal.signal(signal.SIGTERM, _on_sigterm)
    replace_unknown_letters()  # calculators print Å into their logs
    orders, channel = _take_channels()
    say = partial(_say, channel)
    root = root.absolute()  # a module may go elsewhere when it is imported
    while line := orders.readline():
        name = line.strip().removesuffix(AGAIN)
        try:
            run(root, name, line.strip() != name)
        except OSError as trouble:
            if not is_machine_failure(trouble):
                raise
            say(json.dumps({"errno": trouble.errno, "words": trouble.strerror, "file": trouble.filename}))
            raise SystemExit(1) from trouble
        except DamagedError as damage:
            say(json.dumps({"damaged": str(damage.path), "words": damage.what}))
            raise SystemExit(1) from damage
        except OtherVersionError as other:
            say(json.dumps({"refused": str(other)}))
            raise SystemExit(1) from other
        say(name)


def _take_channels() -> tuple[TextIO, int]:
    """The pipes from and to the driver, kept apart from standard input and output; the latter is the log from now on.

    A user's module may read and print when it is imported, and neither is meant for the driver.
    """
    orders, channel = (high_number(os.dup(stream.fileno())) for stream in (sys.stdin, sys.stdout))
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, sys.stdin.fileno())
    os.close(nothing)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return os.fdopen(orders, encoding="ascii"), channel


def _say(channel: int, line: str) -> None:
    with suppress(BrokenPipeError):  # the driver is gone; the end of the input is next
        os.write(channel, f"{line}\n".encode())


if __name__ == "__main__":
    given = Machine.model_validate_json(sys.argv[2])
    with beside(Path(given.modules or "")):
        serve(Path(sys.argv[1]), lambda root, name, died: run_task(root, name, given, after_death=died))
