"""How near atoms may come, and how much room they take, by what is known of their elements.

    least_distance("Ar", "Ar")  # 2.632 Å
    volume_range({"Si": 1, "O": 2})  # (3.242, 16.211) Å^3 per atom, where quartz has 12.6

Covalent radii (Cordero et al., Dalton Trans. (2008), 2832) fit most of the periodic table. They fail for noble gases,
which have no bonds; for molecules, which keep away from one another by far more than their bonds are long; and for
crystals of d and f metals, whose atoms are nearer to one another than in the complexes that the radii are from.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import pi
from typing import Final

from ase.data import atomic_numbers, covalent_radii
from ase.data.vdw import vdw_radii

CLOSEST: Final = 0.7
"""Least distance of a pair, in sums of radii."""

INERT: Final = frozenset({"He", "Ne", "Ar"})
"""No crystal has a bond of theirs, so that their radius is van der Waals's (Bondi (1964)) beside whatever atom."""

NOBLE: Final = INERT | {"Kr", "Xe", "Rn"}
"""The heavier ones bind to fluorine, oxygen and others, but not to one another."""

FLUORINE: Final = 0.71
"""Å, radius of F beside N, O and F, half of the bond of F2. The covalent radius, 0.57, is that of bonds to others."""

ACTINIDE: Final = 0.8
"""Radius of an actinide in covalent radii, since Np, Pu and uranyl have bonds of 0.68 sums."""

METAL: Final = 0.9
"""Likewise of d metals and lanthanides, for volumes alone."""

LOOSENESS: Final = (1.1, 4.5)
"""Volume of an atom in spheres of the mean radius. Measured: W 1.2, U 1.3, CsCl 1.6, fcc Cu 1.7, MgO 2.0, fcc Al 2.2,
corundum 3.0, diamond 3.1, Si 3.5, PbI2 3.5, calcite 4.0."""

ROOM: Final = {
    "H": 10, "He": 32, "C": 8.8, "N": 22.7, "O": 17.4, "F": 16.1, "Ne": 22.2, "P": 28, "S": 25.8, "Cl": 28.9,
    "Ar": 37.5, "Se": 30, "Br": 32.6, "Kr": 46.8, "I": 42.7, "Xe": 59.6, "Rn": 71,
}  # fmt: skip
"""Å^3 of an atom between molecules: in the crystal of its element at ambient pressure (He: at 30 bar; C: graphite;
P: white; Rn: extrapolated), and in methane for H, whose own crystal is blown up by zero-point motion to 18.6."""

MARGIN: Final = 1.2
"""By which the most volume is above that."""

SPREAD: Final = 5.0
"""Most volume over least, at most."""


def least_distance(one: str, other: str) -> float:
    """Default least distance of two species, Å."""
    return round(CLOSEST * (_radius(one, other) + _radius(other, one)), 3)


def volume_range(counts: Mapping[str, int]) -> tuple[float, float]:
    """Default least and most volume of an atom, Å^3, for so many atoms of each species."""
    radii = {symbol: _bond_radius(symbol) * (METAL if _is_d_metal(symbol) else 1) for symbol in counts}
    sphere = _sphere(_mean(radii, counts))
    room = _mean({symbol: ROOM.get(symbol, _sphere(radii[symbol])) for symbol in counts}, counts)
    most = max(LOOSENESS[1] * sphere, MARGIN * room)
    return round(max(LOOSENESS[0] * sphere, most / SPREAD), 3), round(most, 3)


def _radius(symbol: str, other: str) -> float:
    """Of a species beside another, Å."""
    if symbol == "F" and other in {"N", "O", "F"}:
        return FLUORINE
    if symbol in NOBLE and (symbol in INERT or other in NOBLE):
        return float(vdw_radii[atomic_numbers[symbol]])
    return _bond_radius(symbol)


def _bond_radius(symbol: str) -> float:
    number = atomic_numbers[symbol]
    return float(covalent_radii[number]) * (ACTINIDE if 89 <= number <= 103 else 1)


def _is_d_metal(symbol: str) -> bool:
    """Or a lanthanide."""
    number = atomic_numbers[symbol]
    return 21 <= number <= 30 or 39 <= number <= 48 or 57 <= number <= 80


def _sphere(radius: float) -> float:
    return 4 / 3 * pi * radius**3


def _mean(values: Mapping[str, float], counts: Mapping[str, int]) -> float:
    return sum(values[symbol] * count for symbol, count in counts.items()) / sum(counts.values())
