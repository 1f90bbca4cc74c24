"""What an output of a calculation holds: its single points one after the other, each a label or none, and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from csp_al.structures import Floats

if TYPE_CHECKING:
    from ase import Atoms


@dataclass(frozen=True)
class Frame:
    """One single point: energy eV, forces (N, 3) eV/Å, stress (3, 3) eV/Å^3 as ASE signs it; None where none is.

    ``wrong`` says why it is no label, in words that follow a count, such as "SCF not converged"; empty if it is one.
    ``keys`` are those that its values stood under, where they are not the usual ones.
    """

    atoms: Atoms | None
    energy: float | None = None
    forces: Floats | None = None
    stress: Floats | None = None
    wrong: str = ""
    keys: str = ""


def lacking(frame: Frame) -> str:
    """Which of energy, forces and stress a frame lacks, as a reason; empty if none."""
    values = {"energy": frame.energy, "forces": frame.forces, "stress": frame.stress}
    missing = [name for name, value in values.items() if value is None]
    return f"without {', '.join(missing)}" if missing else ""


def numbers(rows: list[str], columns: int = 3) -> Floats | None:
    """The first numbers of each line, (rows, columns); None where a number lacks or is none, as Fortran's ****."""
    try:
        return np.array([[float(word) for word in row.split()[:columns]] for row in rows]).reshape(len(rows), columns)
    except ValueError:
        return None


def number(word: str) -> float:
    """A number as Fortran prints it; NaN for what is none, as ****."""
    try:
        return float(word.replace("D", "E").replace("d", "e"))
    except ValueError:
        return float("nan")
