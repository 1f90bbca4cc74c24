"""Single points and relaxations by the reference method, with every evaluation written down.

A relaxation keeps its evaluations in ``trajectory.jsonl`` of its attempt's folder, one line each. When it is cut off,
the next attempt plays the lines of the attempts before it back to the optimiser instead of computing them again, so
that it goes on with the same history and ends where an undisturbed one would have ended.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes
from ase.optimize import BFGS
from ase.stress import full_3x3_to_voigt_6_stress, voigt_6_to_full_3x3_stress

from csp_al import objective
from csp_al.files import seal, unseal
from csp_al.interfaces import Failure, Reference, ReferenceFailedError
from csp_al.printing import say
from csp_al.reasons import kind_of
from csp_al.reference.sanity import not_finite
from csp_al.results import Frame, Values, as_json, frame_of
from csp_al.structures import Floats

if TYPE_CHECKING:
    from ase import Atoms
    from ase.calculators.calculator import BaseCalculator

    from csp_al.campaign.models import Cell

TRAJECTORY: Final = "trajectory.jsonl"
OPTIMISER: Final = "BFGS, UnitCellFilter"
"""Of `relax`, in words: what was kept of another is not taken for its work."""

SAME = 1e-8  # Å, geometries that differ less are one
MOVED = 1e-6  # Å, by how much atoms and cell may change when they are written and read by a calculator


class Evaluation(NamedTuple):
    """One call of the reference method: energy eV, forces (N, 3) eV/Å, stress (3, 3) eV/Å^3."""

    energy: float
    forces: Floats
    stress: Floats


def single_point(reference: Reference, atoms: Atoms, directory: Path) -> Values:
    """Energy, forces and stress of these atoms. Raises ReferenceFailedError with the reason in one line."""
    evaluation = _evaluate(_make(reference, atoms, directory), atoms)
    return Values(**vars(_frame(atoms, evaluation)), evaluations=1, converged=True, steps=0)


def relax(
    reference: Reference, atoms: Atoms, directory: Path, *, fmax: float, max_steps: int, cell: Cell = "free"
) -> Values:
    """Atoms and cell brought to rest by ASE's BFGS on a UnitCellFilter, or atoms alone; fmax in eV/Å.

    Evaluations are those of this attempt alone, steps those of the whole relaxation. Out of steps is a result, not a
    failure. Where the cell that came out asks for another mesh of k-points than the one it began with, a last
    single point gives energy, forces and stress of that mesh; ``converged`` tells of the mesh before. Raises
    ReferenceFailedError with the reason in one line.
    """
    moving = atoms.copy()
    recorder = Recorder(_make(reference, atoms, directory), directory)
    moving.calc = recorder
    moved = objective.cell_filter(moving) if cell == "free" else moving
    optimizer = BFGS(moved, logfile=str(directory / "optimizer.log"))
    try:
        converged = bool(optimizer.run(fmax=fmax, steps=max_steps))
    except ReferenceFailedError:
        raise
    except Exception as error:  # a singular cell, a step to infinity; or a trajectory that cannot be written
        raise ReferenceFailedError(f"optimiser: {_one_line(error)}", kind_of(error)) from error
    if reference.kpoints(moving) != reference.kpoints(atoms):
        recorder.inner = _make(reference, moving, directory)
        recorder.calculate(moving)
    frame = _frame(moving, recorder.last)
    return Values(**vars(frame), evaluations=recorder.evaluations, converged=converged, steps=int(optimizer.nsteps))


class Recorder(Calculator):
    """A calculator that writes every evaluation of another to the trajectory, and answers from earlier attempts."""

    implemented_properties: Final = ["energy", "free_energy", "forces", "stress"]

    def __init__(self, calculator: BaseCalculator, directory: Path) -> None:
        super().__init__()
        self.inner = calculator
        self.path = directory / TRAJECTORY
        self.past = earlier_frames(directory)
        self.evaluations = 0
        self.last = Evaluation(np.nan, np.zeros((0, 3)), np.zeros((3, 3)))

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        """Energy, forces and stress, whatever was asked for."""
        super().calculate(atoms, properties, system_changes)
        self.last = self._remembered() or self._fresh()
        self.results = {
            "energy": self.last.energy,
            "free_energy": self.last.energy,
            "forces": self.last.forces,
            "stress": full_3x3_to_voigt_6_stress(self.last.stress),
        }

    def _remembered(self) -> Evaluation | None:
        """The next evaluation of the past that was of this geometry, if there is one."""
        for place, frame in enumerate(self.past):
            same = np.allclose(frame.positions, self.atoms.positions, rtol=0, atol=SAME)
            if same and np.allclose(frame.cell, self.atoms.cell.array, rtol=0, atol=SAME):
                self.past = self.past[place + 1 :]
                return Evaluation(frame.energy, frame.forces, frame.stress)
        return None

    def _fresh(self) -> Evaluation:
        evaluation = _evaluate(self.inner, self.atoms)
        self.evaluations += 1
        with self.path.open("a", encoding="utf-8") as file:
            file.write(seal(as_json(_frame(self.atoms, evaluation))) + "\n")
        return evaluation


def earlier_frames(directory: Path) -> list[Frame]:
    """Evaluations of the attempts before this one, oldest first."""
    here = _number(directory)
    earlier = sorted((path for path in directory.parent.glob("attempt-*") if _number(path) < here), key=_number)
    return [frame for path in earlier for frame in frames(path)]


def frames(directory: Path) -> Iterator[Frame]:
    """Evaluations of one attempt, as far as they are whole: a kill may have cut off the last one."""
    path = directory / TRAJECTORY
    if not path.exists():
        return
    with path.open("rb") as file:
        for line in file:
            try:
                yield frame_of(unseal(line))
            except ValueError as error:
                say(f"{path}: an evaluation is left out, and what follows it: {error}")
                return


def _number(directory: Path) -> int:
    digits = re.fullmatch(r"attempt-(\d+)", directory.name)
    return int(digits[1]) if digits else 0


def _make(reference: Reference, atoms: Atoms, directory: Path) -> BaseCalculator:
    try:
        return reference.calculator(atoms, directory)
    except ReferenceFailedError:
        raise
    except Exception as error:
        raise ReferenceFailedError(_one_line(error), kind_of(error)) from error


def _evaluate(calculator: BaseCalculator, atoms: Atoms) -> Evaluation:
    """Call the calculator on a copy of the atoms, which it may not move.

    The energy is the one whose derivatives the forces are (ASE's free energy) where the calculator tells it apart.
    """
    asked, atoms = atoms, atoms.copy()
    atoms.calc = calculator
    try:
        energy = _force_consistent_energy(atoms)
        evaluation = Evaluation(energy, _forces(atoms), _stress(atoms))
        _refuse_other_atoms(asked, atoms)
    except ReferenceFailedError:
        raise
    except PropertyNotImplementedError as error:
        msg = f"{_one_line(error)}; a reference must give energy, forces and stress"
        raise ReferenceFailedError(msg) from error
    except MemoryError as error:
        raise ReferenceFailedError(f"out of memory: {_one_line(error)}", Failure.OUT_OF_MEMORY) from error
    except Exception as error:
        raise ReferenceFailedError(_one_line(error), kind_of(error)) from error
    if reason := not_finite(*evaluation):
        raise ReferenceFailedError(reason.words, reason.kind)
    return evaluation


def _refuse_other_atoms(asked: Atoms, found: Atoms) -> None:
    """Raise ReferenceFailedError where a calculator has moved atoms or cell, but for whole vectors of the lattice."""
    if np.array_equal(found.numbers, asked.numbers) and np.allclose(found.cell, asked.cell, rtol=0, atol=MOVED):
        shifts = found.positions - asked.positions
        wholes = np.round(np.linalg.solve(asked.cell.T, shifts.T).T) @ asked.cell.array
        if np.allclose(shifts, wholes, rtol=0, atol=MOVED):
            return
    msg = "the calculator has changed the atoms that it was given; switch its own relaxation off"
    raise ReferenceFailedError(msg)


def _force_consistent_energy(atoms: Atoms) -> float:
    try:
        energy = atoms.get_potential_energy(force_consistent=True)
    except PropertyNotImplementedError:
        energy = atoms.get_potential_energy()
    values = _numbers("energy", energy)
    if values.size != 1:
        raise ReferenceFailedError(f"energy of shape {values.shape}; one number is expected", Failure.UNREADABLE_OUTPUT)
    return float(values.item())


def _forces(atoms: Atoms) -> Floats:
    forces = _numbers("forces", atoms.get_forces())
    if forces.shape != (wanted := (len(atoms), 3)):
        msg = f"forces of shape {forces.shape} for {len(atoms)} atoms; {wanted} is expected"
        raise ReferenceFailedError(msg, Failure.UNREADABLE_OUTPUT)
    return forces


def _stress(atoms: Atoms) -> Floats:
    """The stress, (3, 3), of six numbers in Voigt's order, nine, or three rows of three; symmetric, as in ASE."""
    stress = _numbers("stress", atoms.calc.get_stress(atoms))
    if stress.shape == (9,):
        stress = stress.reshape(3, 3)
    if stress.shape == (3, 3):
        stress = full_3x3_to_voigt_6_stress(stress)
    if stress.shape != (6,):
        msg = f"stress of shape {stress.shape}; six numbers in Voigt's order, or three rows of three, are expected"
        raise ReferenceFailedError(msg, Failure.UNREADABLE_OUTPUT)
    full: Floats = voigt_6_to_full_3x3_stress(stress)
    return full


def _numbers(what: str, value: Any) -> Floats:
    try:
        return np.array(value, dtype=float)
    except (TypeError, ValueError) as error:
        msg = f"{what}: numbers are expected, not {type(value).__name__} ({_one_line(error)})"
        raise ReferenceFailedError(msg, Failure.UNREADABLE_OUTPUT) from error


def _frame(atoms: Atoms, evaluation: Evaluation) -> Frame:
    return Frame(
        energy=float(evaluation.energy),
        forces=evaluation.forces.astype(float),
        stress=evaluation.stress.astype(float),
        positions=atoms.positions.copy(),
        cell=atoms.cell.array.copy(),
        fmax=float(np.linalg.norm(evaluation.forces, axis=1).max()),
    )


def _one_line(error: BaseException) -> str:
    """Type and message of an exception, in one line of reasonable length."""
    message = " ".join(str(error).split())
    return f"{type(error).__name__}: {message}"[:500] if message else type(error).__name__
