"""Is this label sane? What a potential must not be trained on, whatever the reference method says of it."""

from __future__ import annotations

from itertools import combinations_with_replacement
from typing import TYPE_CHECKING

import numpy as np
from ase.data import atomic_numbers, covalent_radii
from numpy.typing import ArrayLike

from csp_al import geometry
from csp_al.interfaces import Failure, Reason

if TYPE_CHECKING:
    from ase import Atoms

CLOSEST = 0.4
"""Least distance of two atoms, in sums of their covalent radii: below, frozen cores overlap and no method holds."""


def not_finite(energy: float, forces: ArrayLike, stress: ArrayLike) -> Reason | None:
    """Which of energy, forces and stress holds a NaN or an infinity; None if none."""
    values = {"energy": energy, "forces": forces, "stress": stress}
    bad = [name for name, value in values.items() if not np.isfinite(np.asarray(value, dtype=float)).all()]
    return Reason(Failure.NOT_FINITE, f"not finite: {', '.join(bad)}") if bad else None


def too_close(atoms: Atoms) -> Reason | None:
    """The pair of species that is nearest in proportion to what `CLOSEST` allows; None if none is nearer."""
    radii = {symbol: covalent_radii[atomic_numbers[symbol]] for symbol in set(atoms.symbols)}
    pairs = combinations_with_replacement(radii, 2)
    found = geometry.too_close(atoms, {geometry.pair_name(a, b): CLOSEST * (radii[a] + radii[b]) for a, b in pairs})
    return Reason(Failure.TOO_CLOSE, f"atoms too close: {found}") if found else None


def too_strong(forces: ArrayLike, max_force: float) -> Reason | None:
    """The largest force (eV/Å) if it exceeds the cap; None if not."""
    largest = float(np.linalg.norm(np.asarray(forces, dtype=float), axis=1).max())
    words = f"force of {largest:.4g} eV/Å, allowed up to {max_force:g} (reference.max_force)"
    return Reason(Failure.TOO_STRONG_FORCES, words) if largest > max_force else None


def too_stressed(stress: ArrayLike, max_stress: float) -> Reason | None:
    """The largest component of the stress (eV/Å^3) if it exceeds the cap; None if not."""
    largest = float(np.abs(np.asarray(stress, dtype=float)).max())
    if largest <= max_stress:
        return None
    words = f"stress of {largest:.4g} eV/Å^3, allowed up to {max_stress:g} (reference.max_stress)"
    return Reason(Failure.TOO_STRONG_STRESS, words)


def why_insane(
    atoms: Atoms, energy: float, forces: ArrayLike, stress: ArrayLike, max_force: float, max_stress: float
) -> Reason | None:
    """Why a label is not to be believed; None if it is sane. Forces (N, 3) eV/Å, stress (3, 3) eV/Å^3."""
    return (
        not_finite(energy, forces, stress)
        or too_close(atoms)
        or too_strong(forces, max_force)
        or too_stressed(stress, max_stress)
    )
