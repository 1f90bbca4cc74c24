"""Are forces and stress the derivatives of the energy? Five single points tell, once for a set-up.

A calculator whose stress has the other sign, or whose forces are in other units, trains potentials that lead nowhere,
and nothing else says so: the energies are right. So does a plane-wave cutoff that is far too low: the number of waves
grows with the cell, and what that does to the energy (Pulay) the stress leaves out, by 200 GPa for PseudoDojo's sodium
at 40 Ry where 88 are suggested. A few GPa of it are told and not refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from ase.units import GPa

from csp_al.results import Values
from csp_al.structures import Floats

if TYPE_CHECKING:
    from ase import Atoms

STEP: Final = 0.01  # Å, the farthest that an atom is moved
STRAINS: Final = (0.01, 0.005, 0.002)
"""The largest component; the first that leaves the k-points as they are, since other k-points are another energy."""

WRONG: Final = 0.5
"""Share of the larger of both slopes by which they differ when something is wrong: a sign, a unit, the cutoff."""

CLOSE: Final = 0.1
"""Likewise, up to which they are called equal."""

INDIFFERENT: Final = 1e-9
"""eV, what energies of different structures differ by at least."""

BLIND: Final = (
    "the energy of the reference is the same wherever the atoms are: nothing is computed, or the code relaxes what it "
    "is given. Switch its own relaxation off, or mend its settings"
)

FORCE: Final = (0.05, 0.3)
"""eV/Å; smaller differences are never worth a word, or never refused."""

STRESS: Final = (2.0, 15.0)
"""GPa; likewise."""


@dataclass(frozen=True)
class Slope:
    """One derivative of the energy, as the reference says it and as differences of its energies do."""

    what: str
    said: float
    found: float
    unit: str
    least: tuple[float, float]

    @property
    def wrong(self) -> bool:
        """Whether labels like this would lead a potential astray."""
        return self._apart > max(WRONG * max(abs(self.said), abs(self.found)), self.least[1])

    @property
    def close(self) -> bool:
        """Whether both are the same but for noise."""
        return self._apart <= max(CLOSE * max(abs(self.said), abs(self.found)), self.least[0])

    @property
    def reversed(self) -> bool:
        """Whether one is the other with its sign changed."""
        together = abs(self.said + self.found)
        return not self.close and together <= CLOSE * max(abs(self.said), abs(self.found))

    @property
    def _apart(self) -> float:
        return abs(self.said - self.found)

    def __str__(self) -> str:
        verdict = "WRONG" if self.wrong else "equal" if self.close else "not equal"
        if self.reversed:
            verdict += ": its sign is changed"
        elif not self.wrong and not self.close:
            verdict += ": is the cutoff high enough?"
        return (
            f"{self.what}: the reference gives {self.said:.4g} {self.unit}, differences of its energies give "
            f"{self.found:.4g} {self.unit}; {verdict}"
        )


def findings(slopes: Iterable[Mapping[str, Any]]) -> list[str]:
    """Of slopes as a run directory keeps them: those that are not equal, a line each."""
    return [str(slope) for slope in (Slope(**kept) for kept in slopes) if not slope.close]


@dataclass(frozen=True)
class Trial:
    """Structures whose energies tell: at rest, moved both ways, strained both ways (none where k-points would change).

    Moves are (N, 3), Å; the strain is (3, 3), symmetric.
    """

    structures: list[Atoms]
    moves: Floats
    strain: Floats

    @property
    def tells_stress(self) -> bool:
        """Whether there are strained structures."""
        return bool(self.strain.any())


def trial(atoms: Atoms, kpoints: Callable[[Atoms], list[int] | None], seed: int) -> Trial:
    """These atoms, moved along a random direction and strained by a random symmetric strain.

    The strain keeps a sign, so that a pressure, which most random cells have, shows.
    """
    rng = np.random.default_rng([seed, len(atoms)])
    moves = rng.normal(size=(len(atoms), 3))
    moves *= STEP / np.linalg.norm(moves, axis=1).max()
    shape = np.eye(3) + 0.5 * rng.normal(size=(3, 3))
    shape = (shape + shape.T) / 2
    shape /= np.abs(shape).max()
    moved = [_displaced(atoms, sign * moves, np.zeros((3, 3))) for sign in (1, -1)]
    for size in STRAINS:
        strained = [_displaced(atoms, np.zeros_like(moves), sign * size * shape) for sign in (1, -1)]
        if all(kpoints(one) == kpoints(atoms) for one in strained):
            return Trial([atoms.copy(), *moved, *strained], moves, size * shape)
    return Trial([atoms.copy(), *moved], moves, np.zeros((3, 3)))


def slopes(tried: Trial, values: Sequence[Values]) -> list[Slope]:
    """Force, and stress where there are strained structures, from the values of each in their order."""
    still, forth, back, *strained = values
    length = float(np.linalg.norm(tried.moves))
    force = float((still.forces * tried.moves).sum()) / length
    found = [Slope("force along a random direction", force, (back.energy - forth.energy) / (2 * length), "eV/Å", FORCE)]
    if strained:
        wide, narrow = strained
        size = float(np.linalg.norm(tried.strain))
        stress = float((still.stress * tried.strain).sum()) / size / GPa
        slope = (wide.energy - narrow.energy) / (2 * size) / tried.structures[0].get_volume() / GPa
        found.append(Slope("stress along a random strain", stress, slope, "GPa", STRESS))
    return found


def indifferent(values: Sequence[Values]) -> bool:
    """Whether no move and no strain changes the energy at all: then nothing is computed, or all is relaxed first."""
    energies = [one.energy for one in values]
    return max(energies) - min(energies) < INDIFFERENT


def _displaced(atoms: Atoms, moves: Floats, strain: Floats) -> Atoms:
    displaced = atoms.copy()
    displaced.positions += moves
    displaced.set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=True)
    return displaced
