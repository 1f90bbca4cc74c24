"""Calculations that failed, tried again: those that lacked something of the machine, and those that a user names.

    if is_due(result, retry):
        forget_failure(root, result.id)

What was tried stays in the task's folder, and its cost counts; but the ladder of remedies begins anew, and a relaxation
goes on from the evaluations that it has.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Final

from csp_al.engine.attempt import directory_of, interrupted, read_outcome
from csp_al.engine.calculation import write_outcome
from csp_al.engine.tasks import result_path
from csp_al.reasons import OF_THE_MACHINE, Failure
from csp_al.results import Outcome, Result
from csp_al.structures import Status

EVERY: Final = "failed"
"""Said instead of the ids of all calculations that failed."""


def is_due(result: Result, retry: Collection[str] = ()) -> bool:
    """Whether to try again: what failed for want of something of the machine, and what is named, by id or `EVERY`."""
    if result.status is Status.DONE or result.reason is None:
        return False
    return result.reason.kind in OF_THE_MACHINE or EVERY in retry or result.id in retry


def forget_failure(root: Path, name: str) -> None:
    """Make the task of this id unfinished, its attempts as if they had been cut off. Nobody may be at work on it."""
    number = 1
    while (directory := directory_of(root / name, number)).exists():
        write_outcome(directory, _cut_off(read_outcome(directory) or interrupted(directory, ())))
        number += 1
    result_path(root, name).unlink(missing_ok=True)


def _cut_off(outcome: Outcome) -> Outcome:
    reason = outcome.reason
    if reason is not None and reason.kind is Failure.CUT_OFF:  # too many of these would be a failure again
        reason = replace(reason, kind=Failure.KILLED)
    return replace(outcome, status=Status.INTERRUPTED, reason=reason, values=None)
