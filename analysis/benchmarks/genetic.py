"""The genetic algorithm of ase-ga, as a search that `peers.py` runs.

Set up as in its tutorial for bulk crystals, with the least distances and the mean volume that the campaign generates
candidates with; where there are several species, atoms change places as well.
"""

from __future__ import annotations

from collections.abc import Generator
from itertools import count, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers

from csp_al.campaign import Campaign, resolve
from csp_al.geometry import distance_matrix
from csp_al.loop.random_streams import RELAXED_CLOSEST

Search = Generator[Atoms, Atoms | None, None]
"""Yields a candidate, and is sent what became of it: at rest, with its energy, or None where that failed."""
POPULATION: Final = 20
"""Random cells to begin with, and crystals that are kept."""
PLACES: Final = 1000
"""Tried for the atoms of a random cell, before another cell is drawn: where there is no room there are never enough."""


def genetic(campaign: Campaign, seed: int) -> Search:
    """Candidates without end; what is fit is asked of those that came back."""
    from ase_ga import set_raw_score
    from ase_ga.data import DataConnection, PrepareDB
    from ase_ga.ofp_comparator import OFPComparator
    from ase_ga.population import Population

    rng = np.random.RandomState(seed)  # of the old kind, which its selection of parents asks for
    start, operators, scaled, bounds = crystal_operators(campaign, rng)
    first = list(islice((atoms for _ in count() if (atoms := start.get_new_candidate(PLACES)) is not None), POPULATION))
    numbers = first[0].numbers
    with TemporaryDirectory() as folder:
        file = str(Path(folder) / "candidates.db")
        PrepareDB(file, simulation_cell=start.slab, stoichiometry=numbers, population_size=POPULATION)
        data = DataConnection(file)

        def tried(candidate: Atoms, description: str) -> Search:
            candidate.info = {"key_value_pairs": {}, "data": {}} | candidate.info
            data.add_unrelaxed_candidate(candidate, description)
            rested = yield candidate
            if rested is not None and bounds.is_within_bounds(rested.cell):
                rested.info = candidate.info
                set_raw_score(rested, -rested.get_potential_energy())
                data.add_relaxed_step(rested)

        for atoms in first:
            yield from tried(atoms, "starting: random")
        alike = OFPComparator(len(numbers), dE=1.0, cos_dist_max=1e-3, rcut=10.0, sigma=0.05, pbc=[True] * 3)
        population = Population(data, POPULATION, alike, rng=rng)
        for step in count():
            if step % 10 == 0:
                for operator in scaled:
                    operator.update_scaling_volume(population.get_current_population(), w_adapt=0.5, n_adapt=4)
            child, description = operators.get_new_individual(population.get_two_candidates())
            if child is not None:
                yield from tried(child, description)
                population.update()


def crystal_operators(campaign: Campaign, rng: np.random.RandomState) -> tuple[Any, Any, list[Any], Any]:
    """What makes random cells, what makes children, the operators that follow the volume, and bounds of cells."""
    from ase_ga.cutandsplicepairing import CutAndSplicePairing
    from ase_ga.offspring_creator import OperationSelector
    from ase_ga.soft_mutation import SoftMutation
    from ase_ga.standardmutations import PermutationMutation, StrainMutation
    from ase_ga.startgenerator import StartGenerator
    from ase_ga.utilities import CellBounds, closest_distances_generator

    within = resolve(campaign.pools[-1])
    numbers, slab = [atomic_numbers[symbol] for symbol in within.species], Atoms(pbc=True)
    nearest = RELAXED_CLOSEST * distance_matrix(within.species, within.min_distance)
    apart = {(a, b): nearest[i, j] for i, a in enumerate(numbers) for j, b in enumerate(numbers)}
    first, later = (
        CellBounds(dict.fromkeys(("phi", "chi", "psi"), angles) | dict.fromkeys("abc", lengths))
        for angles, lengths in (([35, 145], [2, 50]), ([20, 160], [2, 60]))
    )
    volume = within.n_atoms * sum(within.volume_per_atom) / 2
    start = StartGenerator(
        slab, list(within.counts.items()), apart, number_of_variable_cell_vectors=3, box_volume=volume,
        splits={(2,): 1, (1,): 1}, cellbounds=first, rng=rng,
    )  # fmt: skip
    pairing = CutAndSplicePairing(
        slab, within.n_atoms, apart, number_of_variable_cell_vectors=3, p1=1.0, p2=0.0, minfrac=0.15,
        cellbounds=later, rng=rng,
    )  # fmt: skip
    strain = StrainMutation(apart, cellbounds=later, stddev=0.7, rng=rng)
    soft = SoftMutation(closest_distances_generator(numbers, 0.1), bounds=[2.0, 5.0], used_modes_file=None)
    swap = [PermutationMutation(within.n_atoms, blmin=apart, rng=rng)] if len(numbers) > 1 else []
    operators = OperationSelector([4.0, 3.0, 3.0, 3.0][: 3 + len(swap)], [pairing, soft, strain, *swap], rng=rng)
    return start, operators, [pairing, strain], later
