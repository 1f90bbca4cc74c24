"""Which energies of relaxed crystals can be told apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

STIFFNESS: Final = 1.0
"""eV/Å^2, of the softest motion that counts: a phonon of 3 THz of atoms as heavy as silicon."""


def resolution(fmax: float, tolerance: float) -> float:
    """By how much energies of relaxed crystals must differ to be told apart, eV/atom.

    A crystal whose largest force is F lies F^2/2k above its minimum at most, per atom and for the stiffness k of its
    softest motion (`STIFFNESS`): 1.25 meV/atom at 0.05 eV/Å. No difference above ``tolerance`` is called none.
    """
    return min(tolerance, fmax**2 / (2 * STIFFNESS))


def ranks(rows: Sequence[Mapping[str, Any]], fmax: float, tolerance: float) -> list[int]:
    """Ranks of result rows, from 1: equal where an energy is above the first of its rank by less than `resolution`.

    ``fmax`` is that of the final relaxations; of one that did not converge, the force that was left counts.
    """
    found: list[int] = []
    for place, row in enumerate(rows):
        first = rows[found[-1] - 1] if found else row
        told = resolution(max(fmax, row["fmax"], first["fmax"]), tolerance)
        equal = bool(found) and row["energy_per_atom"] - first["energy_per_atom"] < told
        found.append(found[-1] if equal else place + 1)
    return found
