"""The pool grows: what leads is bred, the ensemble relaxes the offspring, and new crystals among the lowest stay.

A random cell may never come near the ground state; offspring of what is nearly there do. They cost no evaluation of the
reference, and so can follow one another for generations before anything is labelled. Where the ensemble is wrong,
labels of the next cycles tell it, since offspring that lead are picked like all others.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from csp_al import objective
from csp_al.campaign import resolve
from csp_al.events import Warned
from csp_al.generate.offspring import Child, offspring
from csp_al.generate.pool import Candidate, origins
from csp_al.interfaces import Predictor, UnplaceableError
from csp_al.loop.bodies import at_rest, described, known_by
from csp_al.loop.drive import Work
from csp_al.loop.progress import Progress
from csp_al.loop.random_streams import GROW, stream
from csp_al.select.identity import UNKNOWN, basins
from csp_al.select.known import corrected
from csp_al.store import layout
from csp_al.structures import Ints, Relaxed, Structures, concatenate, take


def grow_pool(work: Work, folder: Path, cycle: int, progress: Progress, ensemble: Predictor, relaxed: Relaxed) -> None:
    """Generation after generation of offspring of the lowest basins; those that are the lowest of new ones stay.

    In the folder are the offspring that join the pool as they were bred, where each is from, and where it came to rest.
    """
    section = work.campaign.pools[-1].grow
    assert section is not None  # it is asked for
    family, known = progress.sought(relaxed), known_by(ensemble, progress)
    born: dict[int, tuple[Child, int, Ints]] = {}
    for generation in range(section.generations):
        work.report(generation, section.generations)
        parents = family.structures.take(_leading(family, basins(family), section.parents))
        children = _bred(work, progress, cycle, generation, parents)
        if not children:
            break
        born |= {name: (child, generation + 1, parents.ids) for name, child in children.items()}
        starts = Structures.from_atoms([child.atoms for child in children.values()], list(children))
        rested = described(corrected(at_rest(work, starts, ensemble), known), ensemble)
        if not np.isfinite(rested.prediction.energy).any():  # then nothing is described either
            break
        family = concatenate([family, rested])
    joining = take(family, _joining(family, progress.pool, section.parents), family.structures)
    _write(folder, [born[name] for name in joining.structures.ids.tolist()], joining)


def _bred(work: Work, progress: Progress, cycle: int, generation: int, parents: Structures) -> dict[int, Child]:
    """The offspring of a generation by id, each from its own stream; what cannot be bred is told."""
    pool = work.campaign.pools[-1]
    assert pool.grow is not None  # it is asked for
    if not len(parents):
        work.tell(Warned(f"cycle {cycle}: no candidate can be trusted yet, so that none is bred"))
        return {}
    constraints, atoms = resolve(pool), parents.to_atoms()
    first = progress.generated + cycle * pool.grow.generations * pool.grow.offspring
    children, failed = {}, ""
    for number in range(generation * pool.grow.offspring, (generation + 1) * pool.grow.offspring):
        try:
            children[first + number] = offspring(atoms, constraints, stream(work.campaign, cycle, GROW, number))
        except UnplaceableError as error:
            failed = str(error)
    if not children:
        work.tell(Warned(f"cycle {cycle}: {failed}; the search goes on without"))
    return children


def _leading(family: Relaxed, basin: Ints, most: int) -> Ints:
    """Rows of the lowest of each of the lowest basins, in the order of the basins."""
    energies = objective.values(family.prediction.energy, family.structures)
    order = np.lexsort((family.structures.ids, energies, basin))
    order = order[basin[order] != UNKNOWN]
    _, firsts = np.unique(basin[order], return_index=True)
    lowest: Ints = order[firsts][:most]
    return lowest


def _joining(family: Relaxed, pool: Structures, most: int) -> Ints:
    """Rows, in the order of the ids, of the lowest of each of the lowest basins that no candidate of the pool is in.

    Basins depend a little on all that is compared: they are asked again without what is left out.
    """
    known, rows = np.isin(family.structures.ids, pool.ids), np.arange(len(family))
    joining = ~known & np.isin(rows, _leading(family, basins(family), most))
    while True:
        compared = np.flatnonzero(known | joining)
        basin = np.full(len(family), UNKNOWN)
        basin[compared] = basins(take(family, compared, family.structures))
        new = joining & ~np.isin(basin, basin[known]) & np.isin(rows, _leading(family, basin, len(family)))
        if (new == joining).all():
            return np.flatnonzero(new)
        joining = new


def _write(folder: Path, born: list[tuple[Child, int, Ints]], rested: Relaxed) -> None:
    ids = rested.structures.ids
    table = origins([Candidate(child.atoms, child.operator) for child, _, _ in born], ids)
    table["generation"] = [generation for _, generation, _ in born]
    table["parents"] = [" ".join(str(parents[number]) for number in child.parents) for child, _, parents in born]
    layout.CANDIDATES.write(folder, Structures.from_atoms([child.atoms for child, _, _ in born], ids))
    layout.ORIGINS.write(folder, table)
    layout.RELAXED.write(folder, rested)
