"""What every candidate must keep: the pool section of a campaign file with its defaults worked out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations, combinations_with_replacement
from math import cbrt, pi, sqrt

from ase.data import atomic_numbers, covalent_radii

from csp_al.campaign.models import Pool, species_counts
from csp_al.geometry import pair_name

CLOSEST = 0.7
"""Default least distance of a pair, in sums of covalent radii."""
LOOSENESS = (1.2, 4.5)
"""Default volume of an atom, in spheres of the mean covalent radius.

Measured: fcc Cu 1.2, CsCl 1.6, MgO 2.0, fcc Al 2.2, NaCl 2.2, corundum 3.0, zincblende GaAs 3.1, diamond Si 3.5,
wurtzite ZnO 3.4. Some d metals are denser (W 0.9), open frameworks looser (quartz 5.7): they need volume_per_atom.
"""
LENGTHS = (0.5, 2.5)
"""Default lengths of cell vectors, in edges of cubes of the least and the largest cell volume."""
KEPLER = 1 / sqrt(2)
"""Points at least d apart take up at least this times d^3 each (densest packing of spheres)."""


@dataclass(frozen=True)
class Constraints:
    """Bounds on a candidate; Å, Å^3, degrees. ``min_distance`` has every pair, named as `pair_name` does."""

    counts: dict[str, int]
    min_distance: dict[str, float]
    volume_per_atom: tuple[float, float]
    lengths: tuple[float, float]
    angles: tuple[float, float]
    max_attempts: int

    @property
    def n_atoms(self) -> int:
        """Atoms in the cell."""
        return sum(self.counts.values())

    @property
    def species(self) -> list[str]:
        """Symbols, in the order of the formula."""
        return list(self.counts)


def resolve(pool: Pool) -> Constraints:
    """Constraints of a pool section, with defaults from covalent radii where it says nothing.

    A pair that is named in both orders keeps the larger distance.
    """
    counts = species_counts(pool.formula)
    distances = _distances(pool, list(counts))
    volumes = pool.volume_per_atom or _volumes(counts)
    return Constraints(
        counts=counts,
        min_distance=distances,
        volume_per_atom=volumes,
        lengths=pool.lengths or _lengths(sum(counts.values()), volumes, distances),
        angles=pool.angles,
        max_attempts=pool.max_attempts,
    )


def conflicts(constraints: Constraints) -> list[str]:
    """Constraints that no cell can meet, each in words with its remedy; empty if none is known to be impossible."""
    return [*_too_many_spheres(constraints), *_cell_too_small(constraints)]


def _distances(pool: Pool, species: list[str]) -> dict[str, float]:
    pairs = list(combinations_with_replacement(species, 2))
    named: dict[str, float] = {}
    for pair, distance in pool.min_distance.items():
        name = pair_name(*pair.split("-"))
        named[name] = max(distance, named.get(name, 0.0))
    return {
        pair_name(a, b): named.get(pair_name(a, b), round(CLOSEST * (_radius(a) + _radius(b)), 3)) for a, b in pairs
    }


def _volumes(counts: dict[str, int]) -> tuple[float, float]:
    mean_radius = sum(_radius(symbol) * count for symbol, count in counts.items()) / sum(counts.values())
    sphere = 4 / 3 * pi * mean_radius**3
    return round(LOOSENESS[0] * sphere, 3), round(LOOSENESS[1] * sphere, 3)


def _lengths(n_atoms: int, volumes: tuple[float, float], distances: dict[str, float]) -> tuple[float, float]:
    return (
        max(LENGTHS[0] * cbrt(n_atoms * volumes[0]), _shortest_edge(distances)[0]),
        max(LENGTHS[1] * cbrt(n_atoms * volumes[1]), _shortest_edge(distances)[0]),
    )


def _shortest_edge(distances: dict[str, float]) -> tuple[float, str]:
    # an atom and its image in the next cell are a pair of like species
    return max((distance, pair) for pair, distance in distances.items() if len(set(pair.split("-"))) == 1)


def _too_many_spheres(constraints: Constraints) -> Iterator[str]:
    most = constraints.volume_per_atom[1] * constraints.n_atoms
    for size in range(1, len(constraints.species) + 1):
        for chosen in combinations(constraints.species, size):
            names = [pair_name(a, b) for a, b in combinations_with_replacement(chosen, 2)]
            pair = min(names, key=constraints.min_distance.__getitem__)
            distance = constraints.min_distance[pair]
            count = sum(constraints.counts[symbol] for symbol in chosen)
            needed = KEPLER * count * distance**3
            if needed > most:
                yield (
                    f"min_distance {pair} {distance:g} Å: {count} atoms of {', '.join(chosen)} so far apart fill "
                    f"{needed:.1f} Å^3 at least, the cell has {most:.1f} Å^3 at most; "
                    f"lower min_distance or raise volume_per_atom"
                )


def _cell_too_small(constraints: Constraints) -> Iterator[str]:
    least, most = constraints.lengths
    distance, pair = _shortest_edge(constraints.min_distance)
    if most < distance:
        yield f"lengths up to {most:g} Å: below min_distance {pair} {distance:g} Å of an atom and its image; raise them"
    volume = constraints.volume_per_atom[0] * constraints.n_atoms
    if most**3 < volume:
        yield (
            f"lengths up to {most:g} Å hold {most**3:.1f} Å^3 at most, volume_per_atom asks for {volume:.1f} Å^3 "
            f"at least; raise lengths (now from {least:g} Å) or lower volume_per_atom"
        )


def _radius(symbol: str) -> float:
    return float(covalent_radii[atomic_numbers[symbol]])
