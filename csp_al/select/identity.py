"""Are two crystals the same? With pymatgen's StructureMatcher for the few that count, by numbers alone for a pool.

Tolerances of the matcher, and why they are tighter than pymatgen's (ltol 0.2, stol 0.3): stol is the largest
displacement allowed in units of (volume per atom)^(1/3), so that 0.3 is 0.8 Å in silicon, a third of a bond. Two
relaxations of one crystal to 0.05 eV/Å end within about 0.05 Å of each other (0.02 of that unit); BC8 and R8 silicon
differ by 0.18. 0.1, or 0.27 Å in silicon, lies between, at the distance (0.25 Å) within which pymatgen takes atoms
for copies of each other when it looks for the primitive cell. Volumes are scaled to be equal before positions are
compared, so that a pressure left over is not taken for a displacement, and compared on their own first.

Where one crystal is compared with a larger cell of another, sites may differ by half of those 0.25 Å only, else simple
cubic would be arsenic, and a perovskite the same with tilted octahedra.

A matcher can still not tell what differs by less than that, so wherever energies are known they must agree as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from ase import Atoms

from csp_al import objective
from csp_al.interfaces import trusted
from csp_al.select.cluster import standardise
from csp_al.structures import Bools, Floats, Ints, Relaxed, Structures

if TYPE_CHECKING:
    from pymatgen.analysis.structure_matcher import StructureMatcher
    from pymatgen.core import Structure

LENGTHS, SITES, ANGLES = 0.1, 0.1, 5.0
"""Of the matcher: share of a length, share of (volume per atom)^(1/3), degrees."""

LARGER_CELL_SITES = 0.125
"""Å, how far atoms may be from the sites of a smaller cell that is repeated."""

VOLUMES = 0.1
"""Largest relative difference of the volumes per atom: 10 meV/atom are 4% at 100 GPa of bulk modulus, 13% at 10 GPa."""

BASIN_ENERGY = 0.005
"""eV/atom, largest difference of two relaxations into one basin, for the whole pool."""

BASIN_VOLUME = 0.03
"""Likewise, the relative difference of the volumes."""

BASIN_FEATURES = 0.05
"""Likewise, the root mean square difference of the standardised features.

Measured on Si8 relaxed by an ensemble of five SchNets: of pairs that the matcher calls the same 98% are nearer than
0.02; the nearest pair of different crystals within 10 meV/atom is 0.19 apart.
"""

LEAST_SPREAD = 0.1
"""Least scale of a feature, as a share of the root mean square of all: else a pool that came to rest in one basin
would be torn apart by its own noise. Different crystals spread wider than that."""

EXCUSED = 10
"""Tolerances that two predicted energies of one crystal may differ by at most, however large the ensemble's spread;
and the largest shift common to all leading crystals that is subtracted."""

MERGED = 3
"""Tolerances, at most, within which two candidates of one cycle are one crystal: a distortion that the matcher does not
see may lower a crystal by more, and would be hidden by it."""

UNKNOWN = -1
"""Basin of a candidate that is not to be trusted."""


def same_structure(a: Atoms, b: Atoms) -> bool:
    """Whether two crystals are the same but for rotation, translation, choice of cell, order of atoms and noise.

    Mirror images are the same. Volumes per atom may differ by `VOLUMES`. Ask for equal energies as well where they
    are known.
    """
    return _match(_reduce(a), _reduce(b))


def distance(a: Atoms, b: Atoms) -> float | None:
    """Root mean square distance, Å, of the atoms of two crystals laid upon each other with equal volumes.

    None where that cannot be done within the tolerances of pymatgen's matcher, which are wider than those by which
    crystals are the same: up to 0.3 (volume per atom)^(1/3) between two atoms.
    """
    from pymatgen.analysis.structure_matcher import StructureMatcher

    one, other = _reduce(a), _reduce(b)
    found = StructureMatcher(primitive_cell=False, attempt_supercell=True).get_rms_dist(one, other)
    return (
        None if found is None else float(found[0] * np.cbrt(np.sqrt(one.volume / len(one) * other.volume / len(other))))
    )


def widen_tolerance(tolerance: float, sigmas: Floats, others: Floats | float, most: int = EXCUSED) -> Floats:
    """How far two predicted energies may be apart and count as the same, eV/atom, for their sigmas.

    The tolerance, or the joint spread of the predictions where that is larger, but never more than ``most``
    tolerances. A spread that is not finite excuses nothing.
    """
    spread = np.nan_to_num(np.hypot(sigmas, others), nan=0.0, posinf=0.0)
    window: Floats = np.clip(spread, tolerance, most * tolerance)
    return window


def distinct(
    structures: Structures, energies_per_atom: Floats, energy_tolerance: float, most: int, sigmas: Floats | None = None
) -> list[list[int]]:
    """Rows of the lowest ``most`` different crystals, lowest first, each with the rows of its duplicates after it.

    Two rows are duplicates if the matcher says so and their energies (eV/atom) differ by ``energy_tolerance`` at most
    from that of the lowest of their group, or, where ``sigmas`` tell the spread of predictions, by what
    `widen_tolerance` allows up to `MERGED` tolerances. Rows whose energy is not finite are left out. Only what can
    still matter is compared: nothing above the last group's energy plus the tolerance.
    """
    sigmas = np.zeros(len(structures)) if sigmas is None else sigmas
    atoms = structures.to_atoms()
    reduced = cache(lambda row: _reduce(atoms[row]))
    groups: list[list[int]] = []
    for row in np.argsort(energies_per_atom, kind="stable").tolist():
        if not np.isfinite(energies_per_atom[row]):
            break
        last = energies_per_atom[groups[-1][0]] if groups else -np.inf
        if len(groups) >= most and energies_per_atom[row] - last > energy_tolerance:
            break
        firsts = [group[0] for group in groups]
        same = widen_tolerance(energy_tolerance, sigmas[firsts], sigmas[row], MERGED)
        above = energies_per_atom[row] - energies_per_atom[firsts]
        near = [group for group, is_near in zip(groups, above <= same, strict=True) if is_near]
        home = next((group for group in near if _match(reduced(group[0]), reduced(row))), None)
        if home is not None:
            home.append(row)
        elif len(groups) < most:
            groups.append([row])
    return groups


def pairs_of_same(
    a: Structures, b: Structures, energies_a: Floats, energies_b: Floats, window: float = np.inf
) -> list[tuple[int, int]]:
    """Rows of a and of b that are the same crystal, one to one; of several that fit, the one nearest in energy.

    Energies may differ by ``window``, in their own unit.
    """
    reduced_a, reduced_b = ([_reduce(atoms) for atoms in batch.to_atoms()] for batch in (a, b))
    pairs: list[tuple[int, int]] = []
    free = set(range(len(b)))
    for i, one in enumerate(reduced_a):
        apart = np.abs(energies_b - energies_a[i])
        nearest = [row for row in np.argsort(apart, kind="stable").tolist() if row in free and apart[row] <= window]
        partner = next((row for row in nearest if _match(one, reduced_b[row])), None)
        if partner is not None:
            pairs.append((i, partner))
            free.remove(partner)
    return pairs


def basins(relaxed: Relaxed) -> Ints:
    """Basin that each candidate came to rest in, (n,), numbered upwards in energy; `UNKNOWN` for untrusted ones.

    By energy, volume and features only, which is cheap enough for a whole pool: an estimate to count with, not proof
    of identity. Going up in energy, each candidate joins the nearest basin (in features) whose lowest member is
    within `BASIN_ENERGY`, `BASIN_VOLUME` and `BASIN_FEATURES`, or else opens a new one.
    """
    structures, prediction = relaxed.structures, relaxed.prediction
    energies, volumes = objective.values(prediction.energy, structures), structures.volumes / structures.counts
    usable = trusted(relaxed.reason) & np.isfinite(energies)
    usable &= np.isfinite(prediction.features).all(axis=1)
    rows = np.flatnonzero(usable)
    rows = rows[np.argsort(energies[rows], kind="stable")]
    found = np.full(len(relaxed), UNKNOWN, dtype=np.int64)
    if len(rows):
        features = prediction.features[rows]
        features = standardise(features, LEAST_SPREAD * float(np.sqrt(np.mean(features**2))))
        found[rows] = _group(energies[rows], volumes[rows], features)
    return found


def times_reached(basin: Ints, lowest: Ints, drawn: Bools | None = None) -> Ints:
    """How many candidates came to rest in the basin of each one, (n,); 0 where that is `UNKNOWN`.

    ``lowest`` (n,) are the basins of their lowest ends, where these are others. Where ``drawn`` (n,) says which ones
    are independent draws, and not bred, only those count.
    """
    drawn = np.ones(len(basin), dtype=bool) if drawn is None else drawn
    arrived = np.concatenate([basin[drawn], lowest[drawn & (lowest != basin)]])
    counts = np.bincount(arrived[arrived != UNKNOWN], minlength=max(1, int(basin.max(initial=0)) + 1))
    return np.where(basin == UNKNOWN, 0, counts[basin])


def count_arrivals(
    groups: Sequence[Sequence[int]], basin: Ints, structures: Structures, drawn: Bools | None = None
) -> list[int]:
    """How many candidates came to rest in each of these crystals, whose rows in the batch a group holds.

    Where ``drawn`` (n,) says which ones are independent draws, and not bred, only those count. A candidate may be there
    with several ends, under its id.

    Those in the basins of its rows. Where crystals of several groups share a basin, as the stackings of close packing
    may, each end there counts for the crystal that the matcher calls the same, or for none, so that no end counts
    twice, nor a candidate twice for one crystal.
    """
    drawn = np.ones(len(basin), dtype=bool) if drawn is None else drawn
    owners: dict[int, list[int]] = {}
    for number, group in enumerate(groups):
        for home in dict.fromkeys(basin[list(group)].tolist()):
            owners.setdefault(home, []).append(number)
    arrived: list[set[int]] = [set() for _ in groups]
    for home, rivals in owners.items():
        rows = np.flatnonzero(basin == home) if home != UNKNOWN else np.zeros(0, np.int64)
        if len(rivals) == 1:
            arrived[rivals[0]] |= set(structures.ids[rows[drawn[rows]]].tolist())
            continue
        crystals = dict(zip(rows.tolist(), map(_reduce, structures.take(rows).to_atoms()), strict=True))
        founders = [(number, crystals[row]) for number in rivals for row in groups[number] if row in crystals]
        for row in rows[drawn[rows]].tolist():
            crystal = crystals[row]
            same = next((number for number, founder in founders if _match(founder, crystal)), None)
            if same is not None:
                arrived[same].add(int(structures.ids[row]))
    return [len(candidates) for candidates in arrived]


def _group(energies: Floats, volumes: Floats, features: Floats) -> Ints:
    """Basin of each row (n,), for energies that ascend."""
    basin = np.zeros(len(energies), dtype=np.int64)
    founders = np.zeros(0, dtype=np.int64)
    first = np.searchsorted(energies, energies - BASIN_ENERGY)  # the first row near enough in energy
    for row in range(len(energies)):
        near = np.flatnonzero((founders >= first[row]) & (np.abs(volumes[founders] / volumes[row] - 1) <= BASIN_VOLUME))
        distances = np.sqrt(np.mean((features[founders[near]] - features[row]) ** 2, axis=1))
        if distances.min(initial=np.inf) <= BASIN_FEATURES:
            basin[row] = near[np.argmin(distances)]
        else:
            basin[row] = len(founders)
            founders = np.append(founders, row)
    return basin


def _match(a: Structure, b: Structure) -> bool:
    ratio = (a.volume / len(a)) / (b.volume / len(b))
    if max(ratio, 1 / ratio) > 1 + VOLUMES:
        return False
    sites = SITES if len(a) == len(b) else min(SITES, LARGER_CELL_SITES / np.cbrt(a.volume / len(a)))
    return bool(_matcher(sites).fit(a, b, skip_structure_reduction=True))


def _matcher(sites: float) -> StructureMatcher:
    """It tries larger cells, for where `_reduce` overlooked that one of the two is a larger cell of the other."""
    from pymatgen.analysis.structure_matcher import StructureMatcher

    return StructureMatcher(ltol=LENGTHS, stol=sites, angle_tol=ANGLES, scale=True, attempt_supercell=True)


def _reduce(atoms: Atoms) -> Structure:
    """The primitive cell with short vectors, once for each structure and not once for each comparison.

    Short vectors first: in long, skewed ones pymatgen overlooks the primitive cell of every other crystal whose atoms
    are 0.01 Å off (three cells of rutile or four of diamond in one), in short ones of none in 300; where they are 0.02
    Å off, of one in twenty. LLL instead of the matcher's own Niggli reduction: the same matches in all pairs of 45
    relaxed Si8, five times faster, and without the tolerance on which Niggli's can fail to end.
    """
    from pymatgen.io.ase import AseAtomsAdaptor

    reduced = AseAtomsAdaptor.get_structure(atoms).get_reduced_structure(reduction_algo="LLL")
    while len(smaller := reduced.get_primitive_structure(reduce=False)) < len(reduced):
        reduced = smaller.get_reduced_structure(reduction_algo="LLL")
    return reduced
