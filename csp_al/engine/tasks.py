"""A task is a directory: what is asked for, who works on it, what was tried, what came out.

    tasks/<id>/task.json  claim  attempt-1/  attempt-2/  result.json

The id is a hash of everything that the result depends on, so that the same question is never asked twice, and
``result.json`` appears by one rename, so that it is whole or not there.

    task = create_task(root, label_task(atoms, campaign.reference))
    read_result(root, task)
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from pydantic import TypeAdapter
from typing_extensions import TypedDict

from csp_al import claim
from csp_al.campaign.references import AnyReference
from csp_al.files import (
    DamagedError,
    OtherVersionError,
    digest,
    forget_temporaries,
    make_directory,
    read_sealed,
    validated,
    write_sealed,
)
from csp_al.interfaces import Task
from csp_al.reference.children import end_started_by
from csp_al.reference.references import places
from csp_al.results import Result, Values, as_json, result_of

if TYPE_CHECKING:
    from ase import Atoms

    from csp_al.campaign.models import Cell

LABEL: Final = "label"
RELAX: Final = "relax"


class _Structure(TypedDict):
    numbers: list[int]
    positions: list[list[float]]
    cell: list[list[float]]


class _Inputs(TypedDict):
    structure: _Structure
    reference: dict[str, Any]


class _Content(TypedDict):
    """What the file of a task holds at least."""

    kind: str
    inputs: _Inputs


_TASK: Final = TypeAdapter(_Content)
SAME: Final = 1e-6  # Å, positions and cells that differ less are those asked for
LIMITS: Final = ("time_limit", "max_force", "max_stress", "max_fail_fraction", "remedies")
"""Keys of the reference section that say when to give up; they change no result and are no part of the id."""


def label_task(atoms: Atoms, reference: AnyReference) -> Task:
    """A single point of these atoms. No task tells where things are: each machine has its own places."""
    aside = places(reference)
    section = {key: value for key, value in reference.written().items() if key not in aside}
    return Task(LABEL, {"structure": _structure(atoms), "reference": section})


def relax_task(atoms: Atoms, reference: AnyReference, fmax: float, max_steps: int, cell: Cell = "free") -> Task:
    """A relaxation of these atoms and, unless it is fixed, of their cell; fmax in eV/Å."""
    how = {"fmax": float(fmax), "max_steps": int(max_steps)} | ({"cell": cell} if cell == "fixed" else {})
    return Task(RELAX, label_task(atoms, reference).inputs | how)


def atoms_of(structure: dict[str, Any]) -> Atoms:
    """The periodic ASE atoms of a task's ``structure``."""
    from ase import Atoms

    return Atoms(structure["numbers"], positions=structure["positions"], cell=structure["cell"], pbc=True)


def task_id(task: Task) -> str:
    """First 20 hex digits of the SHA-256 of kind and inputs in canonical JSON, limits left out."""
    reference = {key: value for key, value in task.inputs["reference"].items() if key not in LIMITS}
    return digest({"kind": task.kind, "inputs": task.inputs | {"reference": reference}})[:20]


def is_id(name: object) -> bool:
    """Whether this may be the name of a task's folder."""
    return isinstance(name, str) and re.fullmatch("[0-9a-f]{20}", name) is not None


def create_task(root: Path, task: Task) -> str:
    """Write the task's directory below the root, unless it is there, and return its id.

    A task that is there but asks with other limits takes the new ones; a finished one stays as it is.
    """
    name = task_id(task)
    path = root / name / "task.json"
    content = {"kind": task.kind, "inputs": task.inputs}
    if is_done(root, name) or _holds(path, content):
        return name
    make_directory(path.parent)
    write_sealed(path, "task", content)
    return name


def read_task(root: Path, name: str) -> Task:
    """The task of this id. Raises FileNotFoundError if there is none, DamagedError for a file of another content."""
    path = root / name / "task.json"
    content = read_sealed(path, "task")
    validated(_TASK, content, path)
    task = Task(content["kind"], content["inputs"])
    if task_id(task) != name:
        raise DamagedError(path, "it asks for something else than its name says")
    return task


def require_task(root: Path, name: str) -> None:
    """Raise ValueError if there is no task of this id."""
    if not is_id(name) or not (root / name / "task.json").exists():
        raise ValueError(f"{root}: there is no task {name}; make it with create_task, which returns its id")


def result_path(root: Path, name: str) -> Path:
    """Where the result of the task of this id is, once it has one."""
    return root / name / "result.json"


def is_done(root: Path, name: str) -> bool:
    """Whether the task of this id has a result, good or bad."""
    return result_path(root, name).exists()


def read_result(root: Path, name: str) -> Result | None:
    """The result of the task of this id, or None.

    Raises DamagedError for a file that is not what was written, or the result of another task or of other atoms.
    """
    path = result_path(root, name)
    try:
        result = result_of(read_sealed(path, "result"), path)
    except FileNotFoundError:
        return None
    if result.id != name:
        raise DamagedError(path, f"the result of another task, {result.id}")
    if result.values is not None and (wrong := _wrong_atoms(root, name, result.values)):
        raise DamagedError(path, wrong)
    return result


def of_other_atoms(task: Task, values: Values) -> str:
    """In which way values are those of other atoms than the task has; empty if they are not.

    The single point of a label is of the very positions and cell that were asked for.
    """
    structure = task.inputs["structure"]
    asked, found = len(structure["numbers"]), len(values.forces)
    if found != asked:
        return f"forces on {found} atoms, where the task has {asked}"
    if task.kind == LABEL and not all(
        np.allclose(getattr(values, name), structure[name], rtol=0, atol=SAME) for name in ("positions", "cell")
    ):
        return "values of other positions or another cell than the task has"
    return ""


def publish_result(folder: Path, result: Result) -> None:
    """Make this the result of the task in the folder, by one rename."""
    write_sealed(folder / "result.json", "result", as_json(result))


def tidy(root: Path) -> None:
    """End what killed workers have left running, and remove what they left in the folders of finished tasks."""
    claimed = {path.parent for path in root.glob("*/claim*")}
    end_started_by({mark for folder in claimed for mark in claim.marks_of_the_dead(folder)})
    for result in root.glob("*/result.json"):
        claim.clear(result.parent)
        for folder in (result.parent, *result.parent.glob("attempt-*/")):
            forget_temporaries(folder)


def _wrong_atoms(root: Path, name: str, values: Values) -> str:
    """As `of_other_atoms`; a task whose file is lost is for `read_task` to say."""
    try:
        return of_other_atoms(read_task(root, name), values)
    except (FileNotFoundError, DamagedError, OtherVersionError):
        return ""


def _holds(path: Path, content: dict[str, Any]) -> bool:
    try:
        return read_sealed(path, "task") == content
    except (FileNotFoundError, DamagedError):
        return False


def _structure(atoms: Atoms) -> dict[str, Any]:
    return {
        "numbers": atoms.numbers.tolist(),
        "positions": atoms.positions.tolist(),
        "cell": atoms.cell.array.tolist(),
    }
