"""Does it make sense? What no type can say, and no program need be run for.

Each check yields findings at the key that a person would change: one given in the file, rather than a default.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import sqrt
from pathlib import Path

from ase.data import atomic_numbers, covalent_radii

from csp_al.campaign.errors import Finding, KeyPath, shown
from csp_al.campaign.models import (
    AseReference,
    Budget,
    Pool,
    Potential,
    Section,
    Select,
    Stop,
    species_counts,
    species_pairs,
)

CLOSE_PACKED = 1 / sqrt(2)  # volume of one sphere of diameter 1 in the densest packing (T. C. Hales, 2005)
DEFAULT_CONTACT = 0.7  # default minimum distance, as a share of the sum of covalent radii


def check(sections: dict[str, Section], folder: Path) -> Iterator[Finding]:
    """What is wrong with the sections that are sound in themselves; file names are relative to the folder."""
    names = ("pool", "reference", "potential", "select", "stop", "budget")
    pool, reference, potential, select, stop, budget = (sections.get(name) for name in names)
    if isinstance(pool, Pool):
        yield from _packing(pool)
        yield from _cell(pool)
        yield from _seeds(pool, folder)
    if isinstance(reference, AseReference):
        yield from _import_path(reference)
    if isinstance(pool, Pool) and isinstance(potential, Potential):
        yield from _sight(pool, potential)
    if isinstance(pool, Pool) and isinstance(select, Select):
        yield from _picks(pool, select)
    if isinstance(select, Select) and isinstance(stop, Stop):
        yield from _top(select, stop)
    if isinstance(select, Select) and isinstance(budget, Budget):
        yield from _budget(select, budget)


def min_distances(pool: Pool) -> dict[str, float]:
    """Least distance of each pair of species, Å: as given, or a share of the sum of covalent radii."""
    given = pool.min_distance
    distances = {}
    for pair in species_pairs(pool.formula):
        first, second = pair.split("-")
        contact = DEFAULT_CONTACT * sum(covalent_radii[atomic_numbers[symbol]] for symbol in (first, second))
        distances[pair] = given.get(pair, given.get(f"{second}-{first}", contact))
    return distances


def _packing(pool: Pool) -> Iterator[Finding]:
    """Spheres of one species' minimum distance, or of the least distance of all, must fit into the largest cell."""
    if pool.volume_per_atom is None:
        return
    counts, distances, most = species_counts(pool.formula), min_distances(pool), pool.volume_per_atom[1]
    n_atoms = sum(counts.values())
    spheres = [(f"{symbol}-{symbol}", counts[symbol] / n_atoms) for symbol in counts]
    spheres.append((min(distances, key=lambda pair: distances[pair]), 1.0))
    for pair, share in dict(spheres).items():
        least = share * distances[pair] ** 3 * CLOSE_PACKED
        if least > most:
            message = (
                f"atoms {distances[pair]:.3g} Å apart ({pair}) take at least {least:.3g} Å^3/atom, "
                f"volume_per_atom allows at most {most:.3g}; allow smaller distances or larger volumes"
            )
            yield Finding(_distance_key(pool, pair, "volume_per_atom"), message)


def _cell(pool: Pool) -> Iterator[Finding]:
    """Angles that three vectors can have; vectors long enough for the volume and for an atom's own images."""
    least_angle, most_angle = pool.angles
    if least_angle >= 120 or most_angle >= 180:
        message = f"[{least_angle:g}, {most_angle:g}]: the least must be below 120 and the most below 180 degrees"
        yield Finding(("pool", "angles"), message)
    if pool.lengths is None:
        return
    longest = pool.lengths[1]
    for pair, distance in min_distances(pool).items():
        if len(set(pair.split("-"))) == 1 and longest < distance:
            message = f"vectors of at most {longest:g} Å leave an atom no {distance:.3g} Å from its image ({pair})"
            yield Finding(("pool", "lengths"), message)
    if pool.volume_per_atom:
        volume = sum(species_counts(pool.formula).values()) * pool.volume_per_atom[0]
        if longest**3 < volume:
            message = (
                f"vectors of at most {longest:g} Å span at most {longest**3:.4g} Å^3, volume_per_atom asks for at "
                f"least {volume:.4g}; the most must be {volume ** (1 / 3):.3g} Å or more"
            )
            yield Finding(("pool", "lengths"), message)


def _seeds(pool: Pool, folder: Path) -> Iterator[Finding]:
    for row, name in enumerate(pool.seeds):
        if not _is_file(folder / name):
            message = f"there is no file {folder / name}; the path is relative to the campaign file"
            yield Finding(("pool", "seeds", row), message)


def _import_path(reference: AseReference) -> Iterator[Finding]:
    """Whether it leads anywhere is for the reference to say."""
    names = reference.calculator.split(".")
    if len(names) < 2 or not all(name.isidentifier() for name in names):
        message = f"{shown(reference.calculator)!r} is no import path; write module.name, e.g. ase.calculators.emt.EMT"
        yield Finding(("reference", "calculator"), message)


def _sight(pool: Pool, potential: Potential) -> Iterator[Finding]:
    """An atom that sees no neighbour feels no force."""
    pair, distance = max(min_distances(pool).items(), key=lambda item: item[1])
    if potential.cutoff <= distance:
        key = (
            ("potential", "cutoff")
            if "cutoff" in potential.model_fields_set
            else _distance_key(pool, pair, "min_distance")
        )
        message = f"a cutoff of {potential.cutoff:g} Å is within the least distance of {pair}, {distance:.3g} Å"
        yield Finding(key, f"{message}; choose about two or three times as much")


def _picks(pool: Pool, select: Select) -> Iterator[Finding]:
    if select.per_cycle > pool.size and not pool.seeds:
        message = f"{select.per_cycle} labels a cycle (select.per_cycle) from {pool.size} candidates (pool.size)"
        key = _given(select, "select", "per_cycle") or ("pool", "size")
        yield Finding(key, f"{message}; ask for at most {pool.size}, or make more candidates")


def _top(select: Select, stop: Stop) -> Iterator[Finding]:
    if stop.top_k > select.clusters:
        message = f"the lowest {stop.top_k} (stop.top_k) of {select.clusters} clusters (select.clusters)"
        key = _given(stop, "stop", "top_k") or ("select", "clusters")
        yield Finding(key, f"{message}; ask for at most {select.clusters}, or make more clusters")


def _budget(select: Select, budget: Budget) -> Iterator[Finding]:
    if budget.labels < select.per_cycle:
        message = f"{budget.labels} labels in all (budget.labels), {select.per_cycle} in one cycle (select.per_cycle)"
        key = _given(budget, "budget", "labels") or ("select", "per_cycle")
        yield Finding(key, f"{message}; allow at least {select.per_cycle}, or ask for fewer in each cycle")


def _given(section: Section, name: str, field: str) -> KeyPath | None:
    return (name, field) if field in section.model_fields_set else None


def _distance_key(pool: Pool, pair: str, otherwise: str) -> KeyPath:
    """The key of a pair's distance if the file gives it, whichever way round, else another one of the pool."""
    both = (pair, "-".join(reversed(pair.split("-"))))
    given = next((name for name in both if name in pool.min_distance), None)
    return ("pool", "min_distance", given) if given else ("pool", otherwise)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that is too long, or that no file can have
        return False
