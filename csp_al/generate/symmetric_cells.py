"""Candidates with a random space group: PyXtal's groups, Wyckoff positions and lattices, our placement.

PyXtal's own driver (`random_crystal`) spends up to 400 tries of milliseconds on a group that has no room; here the
orbits are arrays, tries are cheap, and every draw comes from the candidate's own stream.
"""

from __future__ import annotations

import warnings
from collections.abc import Container
from typing import TYPE_CHECKING, Final, Literal

import numpy as np
from ase import Atoms
from ase.geometry import cell_to_cellpar, minkowski_reduce

from csp_al.campaign.constraints import Constraints
from csp_al.campaign.sources import SourceSection
from csp_al.generate.placement import OverlapError, place
from csp_al.geometry import distance_matrix, too_close
from csp_al.interfaces import SourceKind, UnplaceableError
from csp_al.structures import Floats

if TYPE_CHECKING:
    from csp_al.generate.space_groups import Setting, Site

TRIES = 20
"""Attempts at one space group before another one is drawn."""
EDGE = 1e-6
"""Å and degrees by which a bound may be missed: symmetry puts angles at exactly 60, 90 and 120 degrees."""


def symmetric_cell(constraints: Constraints, rng: np.random.Generator, groups: Container[int] = range(1, 231)) -> Atoms:
    """A candidate of a random space group, of these ``groups``; its number is in ``info["asked_group"]``.

    Groups are drawn evenly from those that can hold the formula, in the conventional or the primitive cell; the cell
    is Minkowski-reduced, which the symmetry survives. Raises `UnplaceableError` after ``max_attempts`` attempts.
    """
    from csp_al.generate.space_groups import compatible_settings  # PyXtal takes a second

    settings = [one for one in compatible_settings(tuple(constraints.counts.values())) if one.number in groups]
    order = rng.permutation(len(settings))
    for attempt in range(min(constraints.max_attempts, TRIES * len(settings))):
        setting = settings[order[attempt // TRIES]]
        atoms = _attempt(setting, constraints, rng)
        if atoms is not None:
            atoms.info["asked_group"] = setting.number
            return atoms
    msg = (
        f"no space group held {constraints.n_atoms} atoms at their least distances in {constraints.max_attempts} "
        f"attempts ({len(settings)} settings can hold the formula); lower min_distance or raise volume_per_atom"
    )
    raise UnplaceableError(msg)


def _attempt(setting: Setting, constraints: Constraints, rng: np.random.Generator) -> Atoms | None:
    cell = _lattice(setting, rng.uniform(*constraints.volume_per_atom) * constraints.n_atoms, rng)
    sites = _choose_sites(setting.sites, list(constraints.counts.values()), rng)
    if cell is None or sites is None:
        return None
    species = constraints.species
    distances = distance_matrix(species, constraints.min_distance)
    try:
        kinds, fractional = place(cell, [(kind, site.maps) for kind, site in sites], distances, rng)
    except OverlapError:
        return None
    atoms = Atoms([species[kind] for kind in kinds], scaled_positions=fractional, cell=cell, pbc=True)
    atoms.set_cell(minkowski_reduce(cell)[0])
    atoms.wrap()
    within = _within_bounds(atoms, constraints) and not too_close(atoms, constraints.min_distance)
    return atoms if within else None


def _lattice(setting: Setting, volume: float, rng: np.random.Generator) -> Floats | None:
    """Cell vectors in rows (3, 3) Å of this volume (Å^3); None if PyXtal finds none of that crystal system."""
    from pyxtal.lattice import Lattice
    from pyxtal.msg import VolumeError

    conventional = volume / abs(np.linalg.det(setting.primitive))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            lattice = Lattice(setting.lattice, conventional, random_state=rng)
        except (VolumeError, ValueError):
            return None
    return setting.primitive @ np.asarray(lattice.matrix, dtype=float)


def _choose_sites(
    sites: tuple[Site, ...], counts: list[int], rng: np.random.Generator
) -> list[tuple[int, Site]] | None:
    """Wyckoff positions that hold these counts, species by species; None if the draw ends where nothing fits.

    As in PyXtal, every other draw is among the largest positions that fit, so that general positions get their share.
    """
    chosen: list[tuple[int, Site]] = []
    for kind, count in enumerate(counts):
        left = count
        while left:
            taken = {id(site) for _, site in chosen if site.fixed}
            fitting = [site for site in sites if site.multiplicity <= left and id(site) not in taken]
            if not fitting:
                return None
            if rng.random() < 0.5:
                largest = max(site.multiplicity for site in fitting)
                fitting = [site for site in fitting if site.multiplicity == largest]
            site = fitting[rng.integers(len(fitting))]
            chosen.append((kind, site))
            left -= site.multiplicity
    return chosen


def _within_bounds(atoms: Atoms, constraints: Constraints) -> bool:
    parameters = cell_to_cellpar(atoms.cell)
    return all(
        bool((values >= least - EDGE).all() and (values <= most + EDGE).all())
        for values, (least, most) in (
            (parameters[:3], constraints.lengths),
            (parameters[3:], constraints.angles),
        )
    )


class SymmetricSource(SourceSection):
    """Cells with a random space group (PyXtal)."""

    kind: Literal["symmetric"]


KIND: Final = SourceKind(SymmetricSource, lambda _, constraints, rng: symmetric_cell(constraints, rng))
