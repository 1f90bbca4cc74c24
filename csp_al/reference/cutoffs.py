"""Is a plane-wave cutoff meant in another unit? Codes take eV, rydbergs or hartrees, and none of them asks."""

from __future__ import annotations

from typing import Final

from ase.units import Hartree, Ry

LOW_EV: Final = 100.0
"""eV. VASP's softest PAW dataset, of sodium, asks for 102; at 100 GPAW fails in silicon without a word that helps."""
HIGH_RY: Final = 300.0
"""Ry. 200 is much for norm-conserving pseudopotentials, and 300 eV are little."""


def meant_in_ev(value: float) -> str:
    """What is wrong with a cutoff in eV that is far too low; empty if nothing is."""
    if value > LOW_EV:
        return ""
    meant = f"{value:g} Ry are {value * Ry:.0f} eV, {value:g} Ha {value * Hartree:.0f} eV"
    return f"{value:g} eV is too low for plane waves; {meant}"


def meant_in_rydberg(value: float) -> str:
    """What is wrong with a cutoff in Ry that is far too high; empty if nothing is."""
    if value < HIGH_RY:
        return ""
    meant = f"{value:g} eV are {value / Ry:.3g} Ry"
    return f"{value:g} Ry are {value * Ry:.0f} eV, more than any calculation takes; {meant}"
