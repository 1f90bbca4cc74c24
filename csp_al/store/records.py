"""What the JSON files and the tables of a stage hold: their keys and columns, and of what type.

    read_json(folder / "results.json", RESULTS)

A run directory may be a stranger's: all is checked once, where it is read. Further keys are left out.
"""

from __future__ import annotations

from typing import (
    Annotated,
    Any,
    Final,
    NotRequired,  # that of typing is too old for pydantic in Python 3.11
    TypeVar,
)

from pydantic import Field, TypeAdapter
from typing_extensions import TypedDict

from csp_al.interfaces import Verdict

T = TypeVar("T")
Whole = Annotated[int, Field(strict=True, ge=-(2**63), lt=2**63)]
"""An integer that a table can hold."""
Truth = Annotated[bool, Field(strict=True)]
Rows = Annotated[list[T], Field(fail_fast=True)]  # a million wrong ones would be a million errors
FileName = Annotated[str, Field(pattern=r"^\w[\w.+-]*$", max_length=200)]
"""A name that leads nowhere else, and that no terminal acts upon."""


class SpaceGroup(TypedDict):
    """Of the International Tables."""

    symbol: str
    number: Whole


class ResultRow(TypedDict):
    """A ranked crystal, relaxed by the reference; energies in eV/atom, volume in Å^3/atom, fmax in eV/Å."""

    rank: Whole
    id: Whole
    formula: str
    n_atoms: Whole
    energy_per_atom: float
    energy_above_best: float
    predicted_energy_per_atom: float
    predicted_sigma: float | None
    space_group: SpaceGroup
    volume_per_atom: float
    fmax: float
    converged: Truth
    times_reached: Whole
    cycle: Whole
    cif: FileName


class Failed(TypedDict):
    """A candidate whose final relaxation failed, and why; its predicted energy (eV/atom) is not in older runs."""

    id: Whole
    reason: str
    predicted_energy_per_atom: NotRequired[float | None]


class Evaluations(TypedDict):
    """Calls of the reference by purpose."""

    check: Whole
    labels: Whole
    final_relaxations: Whole
    all: Whole


class LabelCounts(TypedDict):
    """Labels that the campaign asked for itself, and those that it began with."""

    asked_for: Whole
    from_elsewhere: Whole


class Reason(TypedDict):
    """Of a judgement."""

    what: str
    helps: str


class Judgement(TypedDict):
    """A `csp_al.select.judgement.Judgement`, by the rules of the version that finished the campaign."""

    word: str
    reasons: Rows[Reason]
    lines: Rows[str]


class Summary(TypedDict):
    """Why the search stopped, whether sure, what it took and failed, and which candidates came to be the same crystal.

    Whether it was sure (`csp_al.interfaces.Verdict`), and what the results are worth, are not in older runs.
    """

    stop: str | None
    settled: NotRequired[bool | None]
    evaluations: Evaluations
    labels: LabelCounts
    failed: Rows[Failed]
    merged: Rows[Rows[Whole]]
    judgement: NotRequired[Judgement]


class SlopeRow(TypedDict):
    """A `csp_al.reference.derivatives.Slope`."""

    what: str
    said: float
    found: float
    unit: str
    least: tuple[float, float]


class Check(TypedDict):
    """What the check of the reference took and found."""

    evaluations: Whole
    slopes: Rows[SlopeRow]


class WalkForward(TypedDict):
    """Figures of `csp_al.select.walk_forward`; None where there is nothing to compare. Older runs lack some."""

    labels: Whole
    compared: Whole
    energy_mae_mev_per_atom: float | None
    energy_rmse_mev_per_atom: float | None
    energy_apart_mev_per_atom: NotRequired[float | None]
    energy_below_mev_per_atom: NotRequired[float | None]
    energy_within_1_sigma: float | None
    energy_within_2_sigma: float | None
    energy_spread_factor: NotRequired[float | None]
    forces_mae_ev_per_angstrom: float | None
    forces_rmse_ev_per_angstrom: float | None
    forces_within_1_sigma: float | None
    forces_within_2_sigma: float | None
    forces_spread_factor: NotRequired[float | None]
    stress_mae_gpa: float | None
    stress_rmse_gpa: float | None
    stress_within_1_sigma: float | None
    stress_within_2_sigma: float | None
    stress_spread_factor: NotRequired[float | None]


class Compared(TypedDict):
    """Of `csp_al.select.walk_forward.compared`; None where the ensemble had predicted nothing."""

    apart_mev_per_atom: float | None
    pairs: Whole | None
    right: Whole | None
    right_by_ensemble: Whole | None


class Learnt(TypedDict):
    """Pairs that a direct relaxer could learn from, and whether it is asked.

    Atoms of those held out are ``displacement`` Å from rest by it, and were ``before``; None where there were too few.
    """

    pairs: Whole
    displacement: float | None
    before: float | None
    helps: Truth


class Starts(TypedDict):
    """Of `csp_al.direct.starts.Starts.worth`."""

    proposed: Whole
    accepted: Whole
    compared: Whole
    steps: Whole
    steps_from_original: Whole
    other_ends: Whole
    lower_ends: Whole
    higher_ends: Whole


RESULTS: Final = TypeAdapter(Rows[ResultRow])
SUMMARY: Final = TypeAdapter(Summary)
CHECK: Final = TypeAdapter(Check)
WALK_FORWARD: Final = TypeAdapter(WalkForward)
FOUNDATION: Final = TypeAdapter(Compared)
LEARNT: Final = TypeAdapter(Learnt)
STARTS: Final = TypeAdapter(Starts)
VERDICT: Final = TypeAdapter(Verdict)
NAMES: Final = TypeAdapter(list[str])
ANYTHING: Final[TypeAdapter[Any]] = TypeAdapter(Any)

Columns = dict[str, str]
"""Names of columns, and their types."""

ORIGINS: Final[Columns] = {
    "id": "int64", "origin": "str", "asked_group": "Int64", "space_group": "str", "space_group_number": "Int64",
    "n_atoms": "int64", "volume_per_atom": "float64", "note": "str",
}  # fmt: skip
BRED: Final[Columns] = {"generation": "Int64", "parents": "str"}
"""Further columns of what joined later: in which generation of its cycle (0: smaller cells), of which candidates."""
LABEL_TASKS: Final[Columns] = {
    "candidate": "int64", "task": "str", "status": "str", "reason": "str", "cost_s": "float64",
}  # fmt: skip
SOURCES: Final[Columns] = {
    "id": "int64", "source": "str", "place": "str", "known": "bool", "status": "str", "reason": "str",
}  # fmt: skip
LEARNING_CURVE: Final[Columns] = {"epoch": "int64", "member": "int64", "training": "float64", "validation": "float64"}
RANKING: Final[Columns] = {
    "id": "int64", "energy_per_atom": "float64", "sigma_per_atom": "float64", "score": "float64",
    "max_force": "float64", "max_force_sigma": "float64", "volume_per_atom": "float64", "cluster": "int64",
    "basin": "int64", "reason": "str", "steps": "int64", "trusted": "bool",
}  # fmt: skip
