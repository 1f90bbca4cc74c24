"""Are forces and stress the derivatives of the energy? Five single points tell, once for a set-up.

A calculator whose stress has the other sign, or whose forces are in other units, trains potentials that lead nowhere,
and nothing else says so: the energies are right. Plane waves at a low cutoff differ a little (Pulay stress), which is
told and not refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from ase.units import GPa

from csp_al.structures import Floats

if TYPE_CHECKING:
    from ase import Atoms

STEP: Final = 0.01  # Å, the farthest that an atom is moved
STRAIN: Final = 0.01  # the largest component
WRONG: Final = 0.5
"""Share of the larger of both slopes by which they differ when something is wrong: a sign, a factor of two."""

CLOSE: Final = 0.1
"""Likewise, up to which they are called equal."""

LEAST_FORCE: Final = 0.05  # eV/Å; differences below are never worth a word
LEAST_STRESS: Final = 2.0  # GPa; likewise


@dataclass(frozen=True)
class Slope:
    """One derivative of the energy, as the reference says it and as differences of its energies do."""

    what: str
    said: float
    found: float
    unit: str
    least: float

    @property
    def wrong(self) -> bool:
        """Whether no cutoff and no noise explains the difference."""
        return self._apart > WRONG * max(abs(self.said), abs(self.found)) and self._apart > self.least

    @property
    def close(self) -> bool:
        """Whether both are the same but for noise."""
        return self._apart <= max(CLOSE * max(abs(self.said), abs(self.found)), self.least)

    @property
    def _apart(self) -> float:
        return abs(self.said - self.found)

    def __str__(self) -> str:
        verdict = "WRONG" if self.wrong else "equal" if self.close else "not equal: is the cutoff high enough?"
        return f"{self.what}: {self.said:.4g} {self.unit} said, {self.found:.4g} by differences of energies, {verdict}"


def displaced(atoms: Atoms, seed: int) -> list[Atoms]:
    """The atoms; moved both ways along a random direction; strained both ways by a random symmetric strain."""
    moves, strain = _directions(atoms, seed)
    structures = [atoms.copy()]
    for sign in (1, -1):
        moved = atoms.copy()
        moved.positions += sign * moves
        structures.append(moved)
    for sign in (1, -1):
        strained = atoms.copy()
        strained.set_cell(atoms.cell.array @ (np.eye(3) + sign * strain), scale_atoms=True)
        structures.append(strained)
    return structures


def slopes(atoms: Atoms, results: Sequence[Mapping[str, Any]], seed: int) -> list[Slope]:
    """Force and stress from the results of `displaced` structures, in their order."""
    moves, strain = _directions(atoms, seed)
    still, forth, back, wide, narrow = results
    length = float(np.linalg.norm(moves))
    force = float((np.array(still["forces"]) * moves).sum()) / length
    force_found = -(forth["energy"] - back["energy"]) / (2 * length)
    size = float(np.linalg.norm(strain))
    stress = float((np.array(still["stress"]) * strain).sum()) / size / GPa
    stress_found = (wide["energy"] - narrow["energy"]) / (2 * size) / atoms.get_volume() / GPa
    return [
        Slope("force along a random direction", force, force_found, "eV/Å", LEAST_FORCE),
        Slope("stress along a random strain", stress, stress_found, "GPa", LEAST_STRESS),
    ]


def _directions(atoms: Atoms, seed: int) -> tuple[Floats, Floats]:
    """How the atoms are moved (N, 3), Å, and how the cell is strained (3, 3), symmetric.

    The strain keeps a sign, so that a pressure, which most random cells have, shows.
    """
    rng = np.random.default_rng([seed, len(atoms)])
    moves = rng.normal(size=(len(atoms), 3))
    strain = np.eye(3) + 0.5 * rng.normal(size=(3, 3))
    strain = (strain + strain.T) / 2
    return STEP * moves / np.linalg.norm(moves, axis=1).max(), STRAIN * strain / np.abs(strain).max()
