"""Offspring: candidates bred from crystals at rest, as evolutionary searches do.

    atoms, parents, operator = offspring(crystals, constraints, rng)

Heredity, strain and swaps as of Oganov and Glass, J. Chem. Phys. 124, 244704 (2006). The operators are our own: those
of ase-ga look for a cell up to 10,000 times for each of 1000 attempts, and keep parents and energies in the info of
atoms.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final, NamedTuple

import numpy as np
from ase import Atoms
from ase.geometry import minkowski_reduce

from csp_al.campaign.constraints import Constraints
from csp_al.generate.sources import why_unsound
from csp_al.geometry import symmetrised
from csp_al.interfaces import UnplaceableError
from csp_al.structures import Ints

ATTEMPTS: Final = 20
"""At one child, each with an operator and parents of its own."""
STRAIN: Final = 0.15
"""Standard deviation of the components of a strain."""
SHAKE: Final = 0.4
"""Å, standard deviation of a displacement in each direction."""
SWAPPED: Final = 0.5
"""Of the atoms of the rarer of two species, the largest share that changes places."""
SLICE: Final = (0.25, 0.75)
"""Share of the mother in a child, least and most, by height along the axis that is cut."""
SYMPRECS: Final = (0.05, 0.3)
"""Å, least and most tolerance within which a crystal is made as symmetric as it nearly is."""


class Child(NamedTuple):
    """A new candidate, the numbers of its parents in the order that they were given, and how it was made."""

    atoms: Atoms
    parents: tuple[int, ...]
    operator: str


def offspring(parents: Sequence[Atoms], constraints: Constraints, rng: np.random.Generator) -> Child:
    """A child of some of these crystals, which all have the pool's composition; what it is follows from the stream.

    It keeps the least distances, and its volume is one that candidates are generated with, or between those of the
    parents; its atoms stand in the order of the formula. Raises `UnplaceableError` after `ATTEMPTS`, with what was
    wrong last.
    """
    volumes = [*constraints.volume_per_atom, *(atoms.cell.volume / len(atoms) for atoms in parents)]
    allowed = replace(constraints, volume_per_atom=(min(volumes), max(volumes)))
    fitting = [operator for operator in OPERATORS if operator.fits(len(parents), constraints)]
    shares = np.array([operator.share for operator in fitting])
    for _ in range(ATTEMPTS):
        operator = fitting[rng.choice(len(fitting), p=shares / shares.sum())]
        chosen = rng.choice(len(parents), size=operator.parents, replace=False).tolist()
        atoms = operator.make([parents[number] for number in chosen], rng)
        wrong = "an operator had nothing to change" if atoms is None else _why_not(atoms, allowed)
        if atoms is not None and not wrong:
            return Child(ordered(atoms, constraints), tuple(chosen), operator.name)
    raise UnplaceableError(f"no offspring in {ATTEMPTS} attempts: {wrong}")


def cut_and_splice(parents: Sequence[Atoms], rng: np.random.Generator) -> Atoms:
    """A slice of the mother and the rest of the father, in a cell between theirs, of the composition of both.

    Both are seen in cells with short vectors, in any order of these and from any origin. Where a species has too many
    atoms then, some are left out at random, where too few, others of its atoms from either parent are added.
    """
    mother, father = (_seen_anew(parent, rng) for parent in parents)
    axis, height = int(rng.integers(3)), rng.uniform(*SLICE)
    share = rng.random()
    cell = share * mother.cell.array + (1 - share) * father.cell.array
    volume = share * mother.cell.volume + (1 - share) * father.cell.volume
    cell *= np.cbrt(volume / abs(np.linalg.det(cell)))
    places = np.concatenate([mother.get_scaled_positions(), father.get_scaled_positions()])
    numbers = np.concatenate([mother.numbers, father.numbers])
    of_mother = np.arange(len(numbers)) < len(mother)
    wanted = (places[:, axis] < height) == of_mother
    order = rng.permutation(len(numbers))
    order = order[np.argsort(~wanted[order], kind="stable")]  # the wanted ones first
    kept = [row for species in np.unique(mother.numbers) for row in _first(order, numbers, species, mother)]
    return Atoms(numbers[kept], scaled_positions=places[kept], cell=cell, pbc=True)


def strain(parents: Sequence[Atoms], rng: np.random.Generator) -> Atoms:
    """The cell strained at random, its volume kept, the atoms taken along."""
    atoms = parents[0].copy()
    noise = rng.normal(0, STRAIN, (3, 3))
    cell = atoms.cell.array @ (np.eye(3) + (noise + noise.T) / 2)
    cell *= np.cbrt(atoms.cell.volume / max(abs(np.linalg.det(cell)), 1e-9))
    atoms.set_cell(cell, scale_atoms=True)
    return atoms


def shake(parents: Sequence[Atoms], rng: np.random.Generator) -> Atoms:
    """Every atom displaced at random."""
    atoms = parents[0].copy()
    atoms.positions += rng.normal(0, SHAKE, atoms.positions.shape)
    return atoms


def swap(parents: Sequence[Atoms], rng: np.random.Generator) -> Atoms:
    """Some atoms of two species in each other's places."""
    atoms = parents[0].copy()
    one, other = (np.flatnonzero(atoms.numbers == z) for z in rng.choice(np.unique(atoms.numbers), 2, replace=False))
    most = max(1, int(SWAPPED * min(len(one), len(other))))
    count = int(rng.integers(1, most + 1))
    here, there = rng.choice(one, count, replace=False), rng.choice(other, count, replace=False)
    atoms.positions[[*here, *there]] = atoms.positions[[*there, *here]]
    return atoms


def symmetrise(parents: Sequence[Atoms], rng: np.random.Generator) -> Atoms | None:
    """The crystal with the symmetry that it nearly has; None where it has that already, or none."""
    atoms = symmetrised(parents[0], float(rng.uniform(*SYMPRECS)))
    if atoms is None:
        return None
    moved = np.abs(atoms.positions - parents[0].positions).max(), np.abs(atoms.cell - parents[0].cell).max()
    return atoms if max(moved) > 1e-3 else None


class Operator(NamedTuple):
    """A way to make a child: its name, its share of the offspring, how many parents it takes, and what it does."""

    name: str
    share: float
    parents: int
    make: Callable[[Sequence[Atoms], np.random.Generator], Atoms | None]

    def fits(self, parents: int, constraints: Constraints) -> bool:
        """Whether there are parents enough, and atoms that it can move against each other."""
        least_atoms = 1 if self.make is strain else 2
        species = 2 if self.make is swap else 1
        return parents >= self.parents and constraints.n_atoms >= least_atoms and len(constraints.counts) >= species


OPERATORS: Final = (
    Operator("heredity", 0.45, 2, cut_and_splice),
    Operator("strain", 0.2, 1, strain),
    Operator("shake", 0.15, 1, shake),
    Operator("swap", 0.15, 1, swap),
    Operator("symmetry", 0.05, 1, symmetrise),
)
"""Shares of those that do not fit go to the others."""


def _seen_anew(atoms: Atoms, rng: np.random.Generator) -> Atoms:
    """The same crystal in a cell with short vectors, their order and the origin drawn at random."""
    short = minkowski_reduce(atoms.cell.array)[0][rng.permutation(3)]
    if np.linalg.det(short) < 0:
        short = -short
    seen = Atoms(atoms.numbers, positions=atoms.positions, cell=short, pbc=True)
    cell, _ = seen.cell.standard_form()
    return Atoms(
        seen.numbers, scaled_positions=(seen.get_scaled_positions() + rng.random(3)) % 1.0, cell=cell, pbc=True
    )


def _first(order: Ints, numbers: Ints, species: int, parent: Atoms) -> list[int]:
    """Of the rows in this order, those of a species, as many as a parent has."""
    rows = [int(row) for row in order if numbers[row] == species]
    return rows[: int((parent.numbers == species).sum())]


def _why_not(atoms: Atoms, constraints: Constraints) -> str:
    """Why atoms are no candidate of this pool, in words; empty where they are."""
    least, most = constraints.volume_per_atom
    if not np.isfinite(atoms.cell.array).all() or not least <= atoms.cell.volume / len(atoms) <= most:
        return f"a volume beyond {least:g} to {most:g} Å^3/atom; widen volume_per_atom"
    return why_unsound(atoms, constraints)


def ordered(atoms: Atoms, constraints: Constraints) -> Atoms:
    """The atoms in the order of the formula, in a cell with short vectors."""
    rank = {symbol: place for place, symbol in enumerate(constraints.species)}
    atoms = atoms[np.argsort([rank[symbol] for symbol in atoms.symbols], kind="stable")]
    ordered = Atoms(atoms.symbols, positions=atoms.positions, cell=minkowski_reduce(atoms.cell.array)[0], pbc=True)
    ordered.wrap()
    return ordered
