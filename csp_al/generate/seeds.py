"""Structures from files as candidates."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ase import Atoms
from ase.formula import Formula
from ase.io import read

from csp_al import objective
from csp_al.campaign.constraints import Constraints
from csp_al.generate.sources import why_unsound


def read_seeds(files: Iterable[str], constraints: Constraints, folder: Path) -> list[Atoms]:
    """All frames of all files, in their order, in any format that ASE reads; ``info["seed"]`` says where from.

    File names are relative to the folder, and are told as they were given. A seed has the composition of the pool in
    any number of formula units, three cell vectors, and keeps the least distances; the other bounds do not apply.
    Raises ValueError with file, frame and what is wrong.
    """
    return [atoms for file in files for atoms in _read(file, constraints, folder)]


def _read(file: str, constraints: Constraints, folder: Path) -> list[Atoms]:
    try:
        frames = read(folder / file, index=":")
    except Exception as error:  # each of ASE's readers fails in its own way
        msg = f"pool.seeds: {file} cannot be read ({type(error).__name__}: {error}); mend it or leave it out"
        raise ValueError(msg) from error
    if not frames:
        msg = f"pool.seeds: {file} holds no structure; leave it out"
        raise ValueError(msg)
    return [_checked(atoms, f"{file}, frame {frame}", constraints) for frame, atoms in enumerate(frames)]


def _checked(atoms: Atoms, source: str, constraints: Constraints) -> Atoms:
    wrong = _what_is_wrong(atoms, constraints)
    if wrong:
        msg = f"pool.seeds: {source}: {wrong}"
        raise ValueError(msg)
    seed = Atoms(atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=True)
    seed.info["seed"] = source
    return seed


def _what_is_wrong(atoms: Atoms, constraints: Constraints) -> str:
    wanted = Formula.from_dict(constraints.counts).reduce()[0]
    found = atoms.symbols.formula
    if len(atoms) == 0 or not objective.comparable(str(found), str(wanted)):
        return f"composition {found or 'empty'}, this pool takes multiples of {wanted} only"
    return why_unsound(atoms, constraints)
