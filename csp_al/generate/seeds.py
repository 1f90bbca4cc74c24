"""Structures from files as candidates."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ase import Atoms
from ase.formula import Formula

from csp_al import objective
from csp_al.campaign.constraints import Constraints
from csp_al.generate.sources import why_unsound
from csp_al.geometry import first_alike
from csp_al.structure_files import read_structures


def read_seeds(files: Iterable[str], constraints: Constraints, folder: Path) -> list[Atoms]:
    """All frames of all files, in their order, as of `find_seeds`. Raises ValueError with all that is wrong."""
    seeds, wrong = find_seeds(files, constraints, folder)
    if wrong:
        raise ValueError("\n".join(f"pool.seeds: {message}" for _, message in wrong))
    return seeds


def find_seeds(
    files: Iterable[str], constraints: Constraints, folder: Path
) -> tuple[list[Atoms], list[tuple[int, str]]]:
    """All frames of all files, in any format that ASE reads, and what is wrong with them, each with its file's row.

    File names are relative to the folder, and are told as they were given; ``info["seed"]`` says where a seed is from.
    A seed has the composition of the pool in any number of formula units, is periodic in three directions with whole
    atoms on all sites, keeps the least distances, and is no other seed in the same cell; the other bounds do not apply.
    """
    seeds: list[Atoms] = []
    wrong: list[tuple[int, str]] = []
    rows: list[int] = []
    for row, file in enumerate(files):
        try:
            frames = read_structures(folder / file)
        except ValueError as error:
            wrong.append((row, f"{file} cannot be read ({error}); mend it or leave it out"))
            continue
        if not frames:
            wrong.append((row, f"{file} holds no structure; leave it out"))
        for frame, atoms in enumerate(frames):
            source = f"{file}, frame {frame}"
            reason = atoms if isinstance(atoms, str) else _what_is_wrong(atoms, constraints)
            if isinstance(atoms, str) or reason:
                wrong.append((row, f"{source}: {reason}"))
                continue
            seed = Atoms(atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=True)
            seed.info["seed"] = source
            seeds.append(seed)
            rows.append(row)
    for index, first in enumerate(first_alike([_turned(seed) for seed in seeds])):
        if first != index:
            message = f"{seeds[index].info['seed']}: the same structure as {seeds[first].info['seed']}; leave one out"
            wrong.append((rows[index], message))
    return seeds, wrong


def _turned(atoms: Atoms) -> Atoms:
    """The same crystal with its cell vectors turned as all others: the first along x, the second in the x-y plane."""
    cell, _ = atoms.cell.standard_form()
    return Atoms(atoms.numbers, scaled_positions=atoms.get_scaled_positions(wrap=False), cell=cell, pbc=True)


def _what_is_wrong(atoms: Atoms, constraints: Constraints) -> str:
    wanted = Formula.from_dict(constraints.counts).reduce()[0]
    found = atoms.symbols.formula
    if len(atoms) == 0 or not objective.comparable(str(found), str(wanted)):
        return f"composition {found or 'empty'}, this pool takes multiples of {wanted} only"
    if wrong := why_unsound(atoms, constraints):
        return wrong
    if not atoms.pbc.all():
        which = " ".join("T" if each else "F" for each in atoms.pbc)
        return f"not periodic in three directions (pbc {which}), so no bulk crystal; leave it out, or mend its pbc"
    return ""
