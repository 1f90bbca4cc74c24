"""What calculations by the reference method came to: records in code, JSON objects in files.

    outcome = outcome_of(read_sealed(path, "outcome"), path)
    write_sealed(path, "outcome", as_json(outcome))

What a file says is checked once, where it is read: types, shapes, and that numbers are finite. Units are eV and Å.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import numpy as np
from numpy.typing import ArrayLike
from pydantic import FiniteFloat, NonNegativeInt, PlainValidator, TypeAdapter

from csp_al.files import validated
from csp_al.interfaces import Failure, Reason
from csp_al.structures import Floats, Status

if TYPE_CHECKING:
    from ase import Atoms


def _floats(value: ArrayLike) -> Floats:
    array = np.array(value)
    if array.dtype.kind not in "fi":
        raise ValueError("not numbers")
    if not np.isfinite(array).all():
        raise ValueError("not finite")
    return array.astype(float)


Numbers = Annotated[Floats, PlainValidator(_floats)]


@dataclass(frozen=True)
class Frame:
    """One evaluation of a geometry: forces and positions (N, 3), stress and cell (3, 3), fmax the largest force."""

    energy: FiniteFloat
    forces: Numbers
    stress: Numbers
    positions: Numbers
    cell: Numbers
    fmax: FiniteFloat

    def __post_init__(self) -> None:
        atoms = len(self.forces)
        for name, rows in (("forces", atoms), ("positions", atoms), ("stress", 3), ("cell", 3)):
            if (shape := getattr(self, name).shape) != (rows, 3):
                raise ValueError(f"{name} of shape {shape} beside forces on {atoms} atoms")


@dataclass(frozen=True)
class Values(Frame):
    """What a single point or a relaxation gave, and where the atoms lie now.

    ``steps`` are those of the whole relaxation, ``evaluations`` those that were made for these values.
    """

    evaluations: NonNegativeInt
    converged: bool
    steps: NonNegativeInt

    def atoms(self, numbers: ArrayLike) -> Atoms:
        """The periodic ASE atoms where they lie now; atomic numbers (N,)."""
        from ase import Atoms

        return Atoms(numbers, positions=self.positions, cell=self.cell, pbc=True)


@dataclass(frozen=True)
class Outcome:
    """How one attempt ended, as its ``outcome.json`` says; seconds of wall time, cost in core seconds.

    ``remedies`` are those in force, as `csp_al.reference.ladder.as_told` has them. There are values wherever the
    status is DONE, and a reason wherever it is not.
    """

    status: Status
    reason: Reason | None
    remedies: list[dict[str, Any]]
    seconds: FiniteFloat
    cost: FiniteFloat
    evaluations: NonNegativeInt
    values: Values | None

    def __post_init__(self) -> None:
        _refuse_contradiction(self.status, self.reason, self.values)


@dataclass(frozen=True)
class Attempt:
    """An attempt as the result of its task tells it; they count from 1, ``remedy`` says what was new."""

    attempt: int
    remedy: str
    status: Status
    reason: Reason | None
    seconds: FiniteFloat
    cost: FiniteFloat
    evaluations: NonNegativeInt


@dataclass(frozen=True)
class Result:
    """What a task came to, as its ``result.json`` says; cost (core seconds) and evaluations are those of all attempts.

    Status is DONE, FAILED or REJECTED. There are values wherever the reference gave some.
    """

    values: Values | None
    id: str
    kind: str
    status: Status
    reason: Reason | None
    cost: FiniteFloat
    evaluations: NonNegativeInt
    attempts: list[Attempt]
    host: str
    started: str
    finished: str

    def __post_init__(self) -> None:
        _refuse_contradiction(self.status, self.reason, self.values)

    @property
    def done(self) -> Values | None:
        """The values, where they are to be believed."""
        return self.values if self.status is Status.DONE else None


FRAME: Final = TypeAdapter(Frame)
OUTCOME: Final = TypeAdapter(Outcome)
RESULT: Final = TypeAdapter(Result)


def frame_of(content: Mapping[str, Any]) -> Frame:
    """The evaluation that a line of a trajectory holds. Raises ValueError."""
    return FRAME.validate_python(content)


def outcome_of(content: Mapping[str, Any], path: Path) -> Outcome:
    """The outcome that this file holds. Raises DamagedError."""
    return validated(OUTCOME, _with_reason(content), path)


def result_of(content: Mapping[str, Any], path: Path) -> Result:
    """The result that this file holds, its values beside its other keys. Raises DamagedError."""
    attempts = content.get("attempts")
    if isinstance(attempts, list):
        attempts = [_with_reason(attempt) for attempt in attempts]
    values = content if "energy" in content else None
    return validated(RESULT, _with_reason(content) | {"attempts": attempts, "values": values}, path)


def as_json(record: Any) -> Any:
    """A record as its file holds it: a reason as its words and its kind, the values of a result beside its keys."""
    if isinstance(record, np.ndarray):
        return record.tolist()
    if isinstance(record, list):
        return [as_json(one) for one in record]
    if not is_dataclass(record):
        return record
    content: dict[str, Any] = {}
    for field in fields(record):
        value = getattr(record, field.name)
        if field.name == "reason":
            content |= {"reason": str(value or ""), "reason_kind": value and value.kind}
        elif isinstance(record, Result) and field.name == "values":
            content |= as_json(value) if value else {}
        else:
            content[field.name] = as_json(value)
    return content


def _refuse_contradiction(status: Status, reason: Reason | None, values: Values | None) -> None:
    done = status is Status.DONE
    if (done and values is None) or (reason is None) != done:
        raise ValueError(
            f"{status}, {'and' if values else 'without'} values, {'and' if reason else 'without'} a reason"
        )


def _with_reason(content: Any) -> Any:
    if not isinstance(content, Mapping):
        return content
    if content.get("status") == Status.DONE:
        return {**content, "reason": None}
    words = content.get("reason")
    kind = content["reason_kind"] if "reason_kind" in content else _kind_of(str(words))
    return {**content, "reason": {"kind": kind, "words": words}}


WORDS: Final = (
    (Failure.DISK_FULL, "^disk full|No space left on device|quota exceeded"),
    (Failure.SCF_NOT_CONVERGED, "^SCF not converged"),
    (Failure.DIAGONALISATION, "^diagonalisation"),
    (Failure.WRONG_CHARGE, "^charge is wrong"),
    (Failure.FERMI_ENERGY, "^Fermi energy"),
    (Failure.SYMMETRY, "^symmetry"),
    (Failure.OUT_OF_MEMORY, "^out of memory"),
    (Failure.KILLED, "^killed by SIGKILL"),
    (Failure.CRASHED, "^killed"),
    (Failure.MPI, "^MPI"),
    (Failure.SCRATCH, "^scratch"),
    (Failure.NO_OUTPUT, "^no output"),
    (Failure.INCOMPLETE_OUTPUT, "^output ends early"),
    (Failure.TIME_LIMIT, "^one evaluation took longer"),
)
"""What remedies went by before a reason had a kind."""


def _kind_of(words: str) -> Failure:
    """The kind of a reason of which a file has the words alone: one of format 2, of versions without kinds."""
    return next((kind for kind, pattern in WORDS if re.search(pattern, words)), Failure.OTHER)
