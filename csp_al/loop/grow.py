"""The pool grows: what leads is bred, the ensemble relaxes the offspring, and new crystals among the lowest stay.

A random cell may never come near the ground state; offspring of what is nearly there do. They cost no evaluation of the
reference, and so can follow one another for generations before anything is labelled. Where the ensemble is wrong,
labels of the next cycles tell it, since offspring that lead are picked like all others.

A search pool begins with what leads among the smaller cells beside it, repeated: most crystals have a primitive cell
smaller than the cell that is searched, and small cells are searched much faster.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import numpy as np

from csp_al import objective
from csp_al.campaign import resolve
from csp_al.campaign.models import Grow
from csp_al.direct.starts import starts_of, together
from csp_al.events import Warned
from csp_al.generate.offspring import Child, offspring
from csp_al.generate.pool import Candidate, origins
from csp_al.generate.repeated_cells import repeat
from csp_al.interfaces import Predictor, UnplaceableError
from csp_al.loop.bodies import described, known_by, relaxation_limits
from csp_al.loop.direct import tell_worth
from csp_al.loop.drive import Work
from csp_al.loop.progress import Progress
from csp_al.loop.random_streams import GROW, stream
from csp_al.relax.relaxation import relax_pool
from csp_al.select.identity import UNKNOWN, basins
from csp_al.select.known import corrected
from csp_al.store import layout
from csp_al.structures import Ints, Relaxed, Structures, concatenate, take


def grow_pool(work: Work, folder: Path, cycle: int, progress: Progress, ensemble: Predictor, relaxed: Relaxed) -> None:
    """Smaller cells, repeated, then generation after generation of offspring; the lowest of what is new joins the pool.

    In the folder are the crystals that join, as they were made, where each is from, and where it came to rest.
    """
    section, known = _section(work), known_by(ensemble, progress)
    born: dict[int, tuple[Child, int, Ints]] = {}
    worth: list[dict[str, int]] = []

    def with_children(family: Relaxed, children: dict[int, Child], generation: int, parents: Ints) -> Relaxed:
        starts = Structures.from_atoms([child.atoms for child in children.values()], list(children))
        rested, figures = _rested(work, progress, starts, ensemble)
        rested = described(corrected(rested, known), ensemble)
        worth.append(figures)
        if not np.isfinite(rested.prediction.energy).any():  # then nothing is described either
            return family
        born.update({name: (child, generation, parents) for name, child in children.items()})
        return concatenate([family, rested])

    family = progress.sought(relaxed)
    small = _lowest(_smaller(work, progress, relaxed), section.parents)
    if children := _repeated(work, progress, cycle, small):
        family = with_children(family, children, 0, small.ids)
    for generation in range(1, section.generations + 1):
        work.report(generation - 1, section.generations)
        parents = _lowest(family, section.parents)
        children = _bred(work, progress, cycle, generation, parents)
        if not children:
            break
        family = with_children(family, children, generation, parents.ids)
    joining = take(family, _joining(family, progress.pool, section.parents), family.structures)
    _write(folder, born, joining)
    if work.campaign.direct is not None:
        ends = take(family, np.flatnonzero(np.isin(family.structures.ids, list(born))), family.structures)
        layout.BRED.write(folder, _as_bred(born, ends.structures.ids))
        layout.BRED_ENDS.write(folder, ends)
        tell_worth(work, folder, cycle, "offspring", together(worth))


def _rested(work: Work, progress: Progress, starts: Structures, ensemble: Predictor) -> tuple[Relaxed, dict[str, int]]:
    """Offspring at rest, each from where it was bred or a direct relaxer says, and what such starts were worth."""
    relaxer, everything = progress.relaxer and progress.relaxer(), np.ones(len(starts), dtype=bool)
    section, limits = work.campaign.relax, relaxation_limits(work.campaign)
    chosen = starts_of(relaxer, starts, everything, ensemble, limits)
    ends = relax_pool(chosen.structures, None, ensemble.fresh(), section, limits, proven=chosen.originals)
    return take(ends, np.arange(len(starts)), ends.structures), chosen.worth(ends)


def _section(work: Work) -> Grow:
    section = work.campaign.pools[-1].grow
    assert section is not None  # it is asked for
    return section


def _first_id(work: Work, progress: Progress, cycle: int) -> int:
    """The first id of a cycle, after those of all candidates that earlier ones may have made."""
    section = _section(work)
    each = section.generations * section.offspring + (section.parents if work.campaign.search_pool else 0)
    return progress.generated + cycle * each


def _smaller(work: Work, progress: Progress, relaxed: Relaxed) -> Relaxed:
    """Of the candidates those that are not searched, and of which a whole number makes a cell that is."""
    structures = relaxed.structures
    parts = resolve(work.campaign.pools[-1]).n_atoms % structures.counts == 0
    return take(relaxed, np.flatnonzero(parts & ~np.isin(structures.ids, progress.searched)), structures)


def _repeated(work: Work, progress: Progress, cycle: int, parents: Structures) -> dict[int, Child]:
    """Each of these smaller cells, repeated, by id, from its own stream; none where it cannot be."""
    section, constraints = _section(work), resolve(work.campaign.pools[-1])
    first, children = _first_id(work, progress, cycle), {}
    for row, atoms in enumerate(parents.to_atoms()):
        number = section.generations * section.offspring + row
        with suppress(UnplaceableError):
            whole = repeat(atoms, constraints, stream(work.campaign, cycle, GROW, number))
            children[first + number] = Child(whole, (row,), "repeated")
    return children


def _bred(work: Work, progress: Progress, cycle: int, generation: int, parents: Structures) -> dict[int, Child]:
    """The offspring of a generation by id, each from its own stream; what cannot be bred is told."""
    section, constraints = _section(work), resolve(work.campaign.pools[-1])
    if not len(parents):
        work.tell(Warned(f"cycle {cycle}: no candidate can be trusted yet, so that none is bred"))
        return {}
    first, atoms = _first_id(work, progress, cycle), parents.to_atoms()
    children, failed = {}, ""
    for number in range((generation - 1) * section.offspring, generation * section.offspring):
        try:
            children[first + number] = offspring(atoms, constraints, stream(work.campaign, cycle, GROW, number))
        except UnplaceableError as error:
            failed = str(error)
    if not children:
        work.tell(Warned(f"cycle {cycle}: {failed}; the search goes on without"))
    return children


def _lowest(family: Relaxed, most: int) -> Structures:
    """The lowest of each of the lowest basins."""
    return family.structures.take(_leading(family, basins(family), most))


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


def _as_bred(born: dict[int, tuple[Child, int, Ints]], ids: Ints) -> Structures:
    return Structures.from_atoms([born[name][0].atoms for name in ids.tolist()], ids)


def _write(folder: Path, everyone: dict[int, tuple[Child, int, Ints]], rested: Relaxed) -> None:
    ids = rested.structures.ids
    born = [everyone[name] for name in ids.tolist()]
    table = origins([Candidate(child.atoms, child.operator) for child, _, _ in born], ids)
    table["generation"] = [generation for _, generation, _ in born]
    table["parents"] = [" ".join(str(parents[number]) for number in child.parents) for child, _, parents in born]
    layout.CANDIDATES.write(folder, _as_bred(everyone, ids))
    layout.ORIGINS.write(folder, table)
    layout.RELAXED.write(folder, rested)
