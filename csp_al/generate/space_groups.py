"""The 230 space groups as arrays: Wyckoff positions, from PyXtal's tables, in conventional and primitive cells."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from pyxtal.symmetry import Group

from csp_al.structures import Floats

_HALF, _THIRD = 1 / 2, 1 / 3
PRIMITIVE: dict[str, list[list[float]]] = {
    "P": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    "A": [[1, 0, 0], [0, _HALF, -_HALF], [0, _HALF, _HALF]],
    "C": [[_HALF, -_HALF, 0], [_HALF, _HALF, 0], [0, 0, 1]],
    "I": [[-_HALF, _HALF, _HALF], [_HALF, -_HALF, _HALF], [_HALF, _HALF, -_HALF]],
    "F": [[0, _HALF, _HALF], [_HALF, 0, _HALF], [_HALF, _HALF, 0]],
    "R": [[2 * _THIRD, _THIRD, _THIRD], [-_THIRD, _THIRD, _THIRD], [-_THIRD, -2 * _THIRD, _THIRD]],
}
"""Primitive vectors in rows, in units of the conventional ones (ITA, standard settings, R in hexagonal axes)."""


@dataclass(frozen=True, eq=False)
class Site:
    """A Wyckoff position: maps (m, 3, 4) from a point of the unit cube to its m atoms; fixed if nothing can move."""

    maps: Floats
    fixed: bool

    @property
    def multiplicity(self) -> int:
        """Atoms in the cell."""
        return len(self.maps)


@dataclass(frozen=True, eq=False)
class Setting:
    """A space group in its conventional cell or, if it is centred, in a primitive one.

    ``primitive`` (3, 3) holds this cell's vectors in rows, in units of the conventional ones; ``lattice`` is PyXtal's
    name of the crystal system; sites come with the largest multiplicity first.
    """

    number: int
    lattice: str
    primitive: Floats
    sites: tuple[Site, ...]


def compatible_settings(counts: tuple[int, ...]) -> list[Setting]:
    """Settings whose Wyckoff positions can hold exactly these numbers of atoms of each species in the cell."""
    return [_setting(number, reduced) for number, reduced in _compatible(counts)]


@cache
def _compatible(counts: tuple[int, ...]) -> list[tuple[int, bool]]:
    found = []
    for number in range(1, 231):
        group = _group(number)
        centring = int(group.cellsize())
        for reduced in (False, True) if centring > 1 else (False,):
            needed = np.array(counts) * (centring if reduced else 1)
            if group.check_compatible(needed)[0]:
                found.append((number, reduced))
    return found


@cache
def _group(number: int) -> Any:
    return Group(number)


@cache
def _setting(number: int, reduced: bool) -> Setting:  # noqa: FBT001
    group = _group(number)
    primitive = np.array(PRIMITIVE[group.symbol[0] if reduced else "P"], dtype=float)
    return Setting(number, str(group.lattice_type), primitive, tuple(_site(position, primitive) for position in group))


def _site(position: Any, primitive: Floats) -> Site:
    maps = np.array([operation.affine_matrix[:3] for operation in position.ops], dtype=float)
    return Site(_distinct(np.linalg.inv(primitive).T @ maps), fixed=int(position.get_dof()) == 0)


def _distinct(maps: Floats) -> Floats:
    """The maps that do not take a general point to the same place modulo 1 as one before them."""
    images = maps @ np.array([0.1234567, 0.2718281, 0.5772156, 1.0])
    difference = images[:, None] - images
    same = (np.abs(difference - np.round(difference)) < 1e-6).all(axis=-1)
    return maps[same.argmax(axis=1) == np.arange(len(maps))]
