"""What a search minimises: the one place that knows which crystal is lower than another.

The objective is the energy per atom, at zero pressure and for one composition. Whoever ranks, compares or relaxes
crystals asks here. Labels and predictions stay energies, forces and stresses, and their errors are errors of these.

    objective.values(labels.energy, labels.structures)  # what ranks, eV/atom
    objective.descent(prediction, structures).forces  # what a relaxation follows

Functions take whole structures, not their numbers of atoms: an enthalpy needs the volumes, a distance to a hull the
species. `values`, `descent` and `cell_filter` must always be of the same objective, or a relaxation would not end in
the minima that are ranked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from ase.formula import Formula

from csp_al.structures import Floats, Prediction, Structures

if TYPE_CHECKING:
    from ase import Atoms
    from ase.filters import UnitCellFilter

NAME: Final = "energy"
NAMES: Final = "energies"
UNIT: Final = "eV/atom"


class Descent(NamedTuple):
    """What relaxations go down on, (n,) eV, and its slope: forces (N, 3) eV/Å and stress (n, 3, 3) eV/Å^3."""

    energy: Floats
    forces: Floats
    stress: Floats


def values(energy: Floats, structures: Structures) -> Floats:
    """What ranks these structures and is compared between them, (n,) eV/atom, low is good; energy (n,) in eV."""
    return energy / structures.counts


def sigmas(energy_sigma: Floats, structures: Structures) -> Floats:
    """The ensemble's spread of `values`, (n,) eV/atom; that of the energies (n,) in eV."""
    return energy_sigma / structures.counts


def descent(prediction: Prediction, structures: Structures) -> Descent:  # noqa: ARG001 - a pressure needs volumes
    """What a relaxation by the ensemble minimises, compares along its way and takes for rest where it is flat."""
    return Descent(prediction.energy, prediction.forces, prediction.stress)


def cell_filter(atoms: Atoms) -> UnitCellFilter:
    """The same for the reference's own relaxations: an ASE filter that moves atoms and cell together."""
    from ase.filters import UnitCellFilter

    return UnitCellFilter(atoms)


def comparable(formula: str, other: str) -> bool:
    """Whether `values` of crystals of two formulas may be compared: species in the same ratio, as Si8 and Si46."""
    counts, others = (Formula(each).reduce()[0].count() for each in (formula, other))
    return bool(counts == others)


def show(value: float) -> str:
    """A value for people."""
    return f"{value:.4f} {UNIT}"


def show_difference(difference: float, form: str = "g") -> str:
    """A difference of two values for people, in thousandths of the unit; ``form`` is a format such as ".0f"."""
    return f"{1000 * difference:{form}} m{UNIT}"
