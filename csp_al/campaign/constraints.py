"""What every candidate must keep: the pool section of a campaign file with its defaults worked out.

constraints = resolve(pool)
constraints.min_distance  # {"Al-Al": 1.694, "Al-O": 1.309, "O-O": 0.924}
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations, combinations_with_replacement
from math import cbrt, ceil, sqrt

from csp_al.campaign.atomic_sizes import least_distance, volume_range
from csp_al.campaign.errors import Finding, KeyPath
from csp_al.campaign.models import Pool, species_counts
from csp_al.geometry import pair_name

LENGTHS = (0.5, 2.5)
"""Default lengths of cell vectors, in edges of cubes of the least and the largest cell volume."""
CLOSE_PACKED = 1 / sqrt(2)
"""Points at least d apart take up at least this times d^3 each: densest packing of spheres (T. C. Hales, 2005)."""


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
    """Constraints of a pool section, with defaults from `atomic_sizes` where it says nothing."""
    counts = species_counts(pool.formula)
    distances = min_distances(pool)
    volumes = pool.volume_per_atom or volume_range(counts)
    return Constraints(
        counts=counts,
        min_distance=distances,
        volume_per_atom=volumes,
        lengths=pool.lengths or _lengths(sum(counts.values()), volumes, distances),
        angles=pool.angles,
        max_attempts=pool.max_attempts,
    )


def min_distances(pool: Pool) -> dict[str, float]:
    """Least distance of each pair of species (Å) by its `pair_name`: as given, or by `least_distance`."""
    given = {pair_name(*pair.split("-")): distance for pair, distance in pool.min_distance.items()}
    pairs = combinations_with_replacement(species_counts(pool.formula), 2)
    defaults = {pair_name(a, b): least_distance(a, b) for a, b in pairs}
    return defaults | given


def distance_key(pool: Pool, pair: str) -> KeyPath | None:
    """The key of a pair's least distance, whichever way round the file names it; None where it is the default."""
    given = next((name for name in pool.min_distance if pair_name(*name.split("-")) == pair), None)
    return ("pool", "min_distance", given) if given else None


def conflicts(pool: Pool) -> list[Finding]:
    """What no cell can meet, each in words with its remedy, at the key that a person would change.

    Empty if nothing is known to be impossible, which is no promise that candidates can be made.
    """
    constraints = resolve(pool)
    return [*_too_dense(pool, constraints), *_too_short(pool, constraints), *_no_such_angles(constraints)]


def _lengths(n_atoms: int, volumes: tuple[float, float], distances: dict[str, float]) -> tuple[float, float]:
    shortest = _shortest_edge(distances)[0]
    return (
        max(LENGTHS[0] * cbrt(n_atoms * volumes[0]), shortest),
        max(LENGTHS[1] * cbrt(n_atoms * volumes[1]), shortest),
    )


def _shortest_edge(distances: dict[str, float]) -> tuple[float, str]:
    # an atom and its image in the next cell are a pair of like species
    return max((distance, pair) for pair, distance in distances.items() if len(set(pair.split("-"))) == 1)


def _too_dense(pool: Pool, constraints: Constraints) -> Iterator[Finding]:
    """Spheres of the least distance among some species must fit into the largest cell."""
    most = constraints.volume_per_atom[1]
    for pair, chosen in _packings(constraints).items():
        distance = constraints.min_distance[pair]
        count = sum(constraints.counts[symbol] for symbol in chosen)
        least = CLOSE_PACKED * distance**3 * count / constraints.n_atoms
        if least > most:
            key = distance_key(pool, pair) or ("pool", "volume_per_atom")  # defaults never contradict themselves
            message = (
                f"atoms {distance:.3g} Å apart ({pair}) take at least {least:.3g} Å^3/atom, {_volume_name(pool)} "
                f"allows at most {most:.3g} (counting {count} atoms of {', '.join(chosen)}); "
                f"allow smaller distances or larger volumes"
            )
            yield Finding(key, message)


def _packings(constraints: Constraints) -> dict[str, tuple[str, ...]]:
    """Pairs, and the largest set of species known to have no smaller least distance among them.

    Every species, every two, and all together: the sets in between grow as 2^n, and seldom say more.
    """
    species = constraints.species
    packings = {}
    for size in sorted({1, 2, len(species)}):
        for chosen in combinations(species, size):
            names = [pair_name(a, b) for a, b in combinations_with_replacement(chosen, 2)]
            packings[min(names, key=constraints.min_distance.__getitem__)] = chosen
    return packings


def _too_short(pool: Pool, constraints: Constraints) -> Iterator[Finding]:
    """Vectors must be long enough for an atom's own images and for the volume."""
    longest = constraints.lengths[1]
    distance, pair = _shortest_edge(constraints.min_distance)
    volume = constraints.volume_per_atom[0] * constraints.n_atoms
    reasons = []
    if longest < distance:
        reasons.append(f"leave an atom no {distance:.3g} Å from its image ({pair})")
    if longest**3 < volume:
        reasons.append(f"span at most {longest**3:.4g} Å^3, {_volume_name(pool)} asks for at least {volume:.4g} in all")
    if reasons:
        needed = ceil(100 * max(distance, cbrt(volume))) / 100
        message = f"vectors of at most {longest:g} Å {' and '.join(reasons)}; the most must be {needed:g} Å or more"
        yield Finding(("pool", "lengths"), message)


def _no_such_angles(constraints: Constraints) -> Iterator[Finding]:
    """The three angles between three vectors add up to less than 360 degrees."""
    least, most = constraints.angles
    if least >= 120 or most >= 180:
        message = f"[{least:g}, {most:g}]: the least must be below 120 and the most below 180 degrees"
        yield Finding(("pool", "angles"), message)


def _volume_name(pool: Pool) -> str:
    return "volume_per_atom" if pool.volume_per_atom else "the default volume_per_atom"
