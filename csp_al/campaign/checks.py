"""Does it make sense? What no type can say, and no program need be run for.

Each check yields findings at the key that a person would change: one given in the file, rather than a default.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ase.data import atomic_numbers, chemical_symbols

from csp_al import objective
from csp_al.campaign.constraints import conflicts, distance_key, min_distances
from csp_al.campaign.direct import Direct
from csp_al.campaign.errors import Finding, KeyPath, shown
from csp_al.campaign.foundation import Foundation
from csp_al.campaign.models import Budget, LabelFile, Pool, Relax, Select, Stop, species_counts
from csp_al.campaign.open_section import Kept
from csp_al.campaign.potentials import PotentialSection, potential_kind
from csp_al.campaign.references import ReferenceSection
from csp_al.campaign.section import Section
from csp_al.campaign.size import too_far, too_heavy, too_long, too_many_atoms
from csp_al.campaign.sources import SourceSection
from csp_al.interfaces import Gives

DESCRIPTOR = "dscribe"
"""Library of `csp_al.select.descriptor`."""

LEAST_LABELS = 2
"""What an ensemble can be trained on at all."""


def check(values: dict[str, Any], folder: Path) -> Iterator[Finding]:
    """What is wrong with the values that are sound in themselves, by key; file names are relative to the folder."""
    names = ("pool", "reference", "potential", "relax", "select", "stop", "foundation")
    pool, reference, potential, relaxing, select, stop, foundation = (values.get(name) for name in names)
    yield from _labels(values.get("labels", ()), folder)
    if isinstance(pool, Pool):
        yield from _pool(pool, folder)
    if isinstance(larger := values.get("search_pool"), Pool):
        yield from map(_of_search_pool, _pool(larger, folder))
        if isinstance(pool, Pool):
            yield from _beside(pool, larger)
    if isinstance(potential, PotentialSection):
        yield from _potential(potential, pool, larger, relaxing)
    if isinstance(reference, ReferenceSection):
        yield from (replace(found, key=("reference", *found.key)) for found in reference.senseless())
    yield from _foundation(foundation, potential)
    yield from _fixed_cell(relaxing, {"pool": pool, "search_pool": larger})
    yield from _direct(values.get("direct"), [pool, larger], values.get("budget"))
    if isinstance(pool, Pool) and isinstance(select, Select):
        yield from _picks(pool, select)
    if isinstance(select, Select) and not values.get("labels"):
        yield from _first_labels(select)
    if isinstance(stop, Stop):
        yield from too_long(stop)
    yield from _budget(select, values.get("budget"), foundation, values.get("labels"))


def _pool(pool: Pool, folder: Path) -> Iterator[Finding]:
    yield from conflicts(pool)
    yield from too_many_atoms(pool)
    if not (pool.size or pool.seeds):
        yield Finding(("pool", "size"), "no candidates; it must be above 0 where there are no seeds")
    yield from _seeds(pool, folder)
    for row, source in enumerate(pool.sources):
        if isinstance(source, SourceSection):
            wrong = source.senseless(species_counts(pool.formula))
            yield from (replace(found, key=("pool", "sources", row, *found.key)) for found in wrong)


def _fixed_cell(relaxing: Any, pools: dict[str, Any]) -> Iterator[Finding]:
    """Offspring have cells of their own."""
    if not isinstance(relaxing, Relax) or relaxing.cell == "free":
        return
    for name, pool in pools.items():
        if isinstance(pool, Pool) and pool.grow is not None:
            message = "offspring change the cell, which relax.cell: fixed keeps; leave one of the two out"
            yield Finding((name, "grow"), message)


def _of_search_pool(found: Finding) -> Finding:
    """What was found in a pool, at its place in the search pool."""
    return replace(found, key=("search_pool", *found.key[1:])) if found.key[:1] == ("pool",) else found


def _beside(pool: Pool, larger: Pool) -> Iterator[Finding]:
    """Candidates are compared between the pools, and offspring are those of what is searched."""
    if pool.grow is not None:
        yield Finding(("pool", "grow"), "beside a search pool only that one grows; move it there, or leave it out")
    if not objective.comparable(pool.formula, larger.formula):
        message = f"{larger.formula} is of another composition than pool.formula, {pool.formula}; take a multiple of it"
        yield Finding(("search_pool", "formula"), message)


def _seeds(pool: Pool, folder: Path) -> Iterator[Finding]:
    for row, name in enumerate(pool.seeds):
        if not _is_file(folder / name):
            message = f"there is no file {folder / name}; the path is relative to the campaign file"
            yield Finding(("pool", "seeds", row), message)


def _labels(files: tuple[LabelFile, ...], folder: Path) -> Iterator[Finding]:
    names = [file.path for file in files]
    for row, name in enumerate(names):
        if name in names[:row]:
            yield Finding(("labels", row), f"{shown(name)} is there already; remove one of them")
        elif not _exists(folder / name):
            message = f"there is no file or folder {folder / name}; the path is relative to the campaign file"
            yield Finding(("labels", row), message)


def _potential(potential: PotentialSection, pool: Any, larger: Any, relaxing: Any) -> Iterator[Finding]:
    if isinstance(potential, Kept):  # nothing is known of it
        return
    gives = potential_kind(potential).gives(potential)
    yield from lacking(gives, moves_cell=not isinstance(relaxing, Relax) or relaxing.cell == "free")
    yield from too_heavy(potential)
    if isinstance(pool, Pool):
        yield from too_far(pool, potential)
        yield from _heavy_elements(pool, gives.heaviest)
        yield from _sight(pool, potential)
    if isinstance(larger, Pool):
        yield from map(_of_search_pool, _sight(larger, potential))
    if isinstance(pool, Pool) and isinstance(larger, Pool):
        yield from _one_size(pool, larger, potential)
    if isinstance(relaxing, Relax) and not gives.conservative:
        yield from _patience(relaxing)


def _patience(relaxing: Relax) -> Iterator[Finding]:
    """Along forces that are no gradient, energies end no relaxation."""
    if key := _given(relaxing, "relax", "energy_patience"):
        message = "forces of this potential are no gradient of its energy, so that no energy ends a relaxation"
        yield Finding(key, f"{message}; leave it out, or choose another potential")


def _heavy_elements(pool: Pool, heaviest: int) -> Iterator[Finding]:
    heavy = [symbol for symbol in species_counts(pool.formula) if atomic_numbers[symbol] > heaviest]
    if heavy:
        message = (
            f"the potential takes elements up to {chemical_symbols[heaviest]} ({heaviest}), not {', '.join(heavy)}"
        )
        yield Finding(("pool", "formula"), f"{message}; choose another kind of potential")


def _sight(pool: Pool, potential: PotentialSection) -> Iterator[Finding]:
    """An atom that sees no neighbour feels no force."""
    cutoff = getattr(potential, "cutoff", None)
    pair, distance = max(min_distances(pool).items(), key=lambda item: item[1])
    if cutoff is not None and cutoff <= distance:
        key = _given(potential, "potential", "cutoff") or distance_key(pool, pair) or ("pool", "min_distance")
        message = f"a cutoff of {cutoff:g} Å is within the least distance of {pair}, {distance:.3g} Å"
        yield Finding(key, f"{message}; choose about two or three times as much")


def _one_size(pool: Pool, larger: Pool, potential: PotentialSection) -> Iterator[Finding]:
    """A mean over all atoms of a cell says little of one of another size, unless somebody knows better."""
    unasked = getattr(potential, "global_node", False) and "global_node" not in potential.model_fields_set
    if unasked and species_counts(pool.formula) != species_counts(larger.formula):
        message = f"its global node learns means over {pool.formula} and would be asked about those of {larger.formula}"
        yield Finding(("potential", "kind"), f"{message}; set global_node: false, or true if you mean it")


def lacking(gives: Gives, *, moves_cell: bool = True) -> Iterator[Finding]:
    """What a campaign needs of its potential and does not get."""
    needs = [
        (gives.energy, "energy, by which candidates are relaxed and ranked"),
        (gives.stress or not moves_cell, "stress, without which no cell can be relaxed (relax.cell: fixed keeps it)"),
        (gives.spread, "spread, without which no relaxation would stop where the potential knows too little"),
    ]
    for given, what in needs:
        if not given:
            yield Finding(("potential", "kind"), f"it gives no {what}; choose another kind")
    if not gives.features:
        yield from _no_descriptor(("potential", "kind"))


def _no_descriptor(key: KeyPath) -> Iterator[Finding]:
    """Where what the key names gives no features."""
    if find_spec(DESCRIPTOR) is None:
        message = f"it gives no features that tell crystals apart, and {DESCRIPTOR}, which then does, is not installed"
        yield Finding(key, f"{message}; pip install 'csp_al[descriptor]'")


def _first_labels(select: Select) -> Iterator[Finding]:
    """Those of the first cycle are all that the first ensemble learns from."""
    if select.per_cycle < LEAST_LABELS:
        message = f"{select.per_cycle} label in the first cycle; an ensemble needs at least {LEAST_LABELS}"
        yield Finding(("select", "per_cycle"), f"{message}, to train on and to validate with; five or ten are usual")


def _picks(pool: Pool, select: Select) -> Iterator[Finding]:
    if 0 < pool.size < select.per_cycle and not pool.seeds:
        message = f"{select.per_cycle} labels a cycle (select.per_cycle) from {pool.size} candidates (pool.size)"
        key = _given(select, "select", "per_cycle") or ("pool", "size")
        yield Finding(key, f"{message}; ask for at most {pool.size}, or make more candidates")
    elif 0 < pool.size < select.at_first and not pool.seeds:
        message = f"{select.at_first} labels at first (select.per_cycle and in_flight) from {pool.size} candidates"
        yield Finding(
            ("select", "in_flight"), f"{message} (pool.size); let fewer be in flight, or make more candidates"
        )


def _budget(select: Any, budget: Any, foundation: Any, imported: Any) -> Iterator[Finding]:
    if not (isinstance(select, Select) and isinstance(budget, Budget)):
        return
    if budget.labels == 0 and foundation is None:
        message = "no labels at all, and nothing that ranks without; name a foundation, e.g. {model: chgnet}, or allow"
        yield Finding(("budget", "labels"), f"{message} at least {select.per_cycle}")
    elif budget.labels == 0 and imported:
        yield Finding(("budget", "labels"), "no labels at all beside imported ones; allow some, or leave labels out")
    elif 0 < budget.labels < select.per_cycle:
        message = f"{budget.labels} labels in all (budget.labels), {select.per_cycle} in one cycle (select.per_cycle)"
        key = _given(budget, "budget", "labels") or ("select", "per_cycle")
        yield Finding(key, f"{message}; allow at least {select.per_cycle}, or ask for fewer in each cycle")
    elif 0 < budget.labels < select.at_first:
        message = f"{budget.labels} labels in all (budget.labels), {select.at_first} at first (select.per_cycle and"
        yield Finding(("select", "in_flight"), f"{message} in_flight); allow more, or let fewer be in flight")


def _foundation(foundation: Any, potential: Any) -> Iterator[Finding]:
    if not isinstance(foundation, Foundation):
        return
    yield from (replace(found, key=("foundation", *found.key)) for found in foundation.senseless())
    yield from _no_descriptor(("foundation", "model"))
    if foundation.baseline and getattr(potential, "warm_start", False):
        message = "weights that learned what is added to a foundation do not go on without it, and the other way round"
        yield Finding(("potential", "warm_start"), f"{message}; leave it out, or set foundation.baseline: false")


def _direct(direct: Any, pools: list[Any], budget: Any) -> Iterator[Finding]:
    """A relaxer that would never be trained, or never asked."""
    pools = [pool for pool in pools if isinstance(pool, Pool)]
    if not isinstance(direct, Direct) or any(pool.grow is not None for pool in pools):
        return
    if isinstance(budget, Budget) and budget.labels == 0:
        message = "without labels there is one cycle, and a pool that does not grow is relaxed once"
        yield Finding(("direct",), f"{message}; leave it out, or let the pool grow (pool.grow)", at_key=True)
    candidates = sum(pool.size for pool in pools)
    if direct.pairs > candidates and not any(pool.seeds for pool in pools):
        message = f"it would wait for {direct.pairs} relaxations of {candidates} candidates that do not grow in number"
        key = _given(direct, "direct", "pairs") or ("direct", "kind")
        yield Finding(key, f"{message}; ask for fewer (direct.pairs), or let the pool grow (pool.grow)")


def _given(section: Section, name: str, field: str) -> KeyPath | None:
    return (name, field) if field in section.model_fields_set else None


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that is too long, or that no file can have
        return False


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):
        return False
