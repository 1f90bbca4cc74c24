"""Structures as people bring them, relaxed by a direct relaxer, with all that was known of them but energies."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
from ase import Atoms
from ase.io import write

from csp_al.direct.pairs import PairsError, free_atoms, refuse_no_crystal
from csp_al.direct.relaxer import Predicted
from csp_al.structure_files import read_structures
from csp_al.structures import Bools, Structures


@dataclass(frozen=True)
class Frames:
    """The atoms of a file, also as arrays, and which of them may move (N,)."""

    atoms: list[Atoms]
    structures: Structures
    free: Bools


def read_to_relax(path: Path) -> Frames:
    """All frames of a file. Raises ValueError, which names the first that is none."""
    try:
        read = read_structures(path)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    frames, masks = [], []
    for number, frame in enumerate(read):
        try:
            masks.append(_free(frame))
        except PairsError as error:
            raise PairsError(f"{path}: frame {number}: {error} (frames are counted from 0)") from error
        frames.append(cast("Atoms", frame))
    if not frames:
        raise PairsError(f"{path}: no structures in it")
    return Frames(frames, Structures.from_atoms(frames), np.concatenate(masks))


def _free(frame: Atoms | str) -> Bools:
    if isinstance(frame, str):
        raise PairsError(frame)
    refuse_no_crystal(frame)
    return free_atoms(frame)


def predicted_atoms(frames: Frames, predicted: Predicted) -> list[Atoms]:
    """The atoms where they come to rest, with ``uncertainty`` (Å) and ``trusted`` in their info."""
    moved = []
    for row, atoms in enumerate(frames.atoms):
        ended = atoms.copy()  # leaves energies behind
        ended.set_constraint()
        ended.set_cell(predicted.structures.cells[row])
        ended.positions = predicted.structures.positions[predicted.structures.atoms_of([row])]
        ended.set_constraint(atoms.constraints)
        ended.info |= {"uncertainty": float(predicted.uncertainty[row]), "trusted": bool(predicted.trusted[row])}
        moved.append(ended)
    return moved


def write_frames(path: Path, frames: list[Atoms]) -> None:
    """Write a file in the format that its name says. Raises ValueError where there is none of this name."""
    from ase.io.formats import UnknownFileTypeError

    if not path.parent.is_dir():
        raise ValueError(f"{path}: there is no folder {path.parent}; make it first")
    try:
        write(path, frames)
    except UnknownFileTypeError as error:
        raise ValueError(f"{path}: no format has such names; extxyz has the uncertainty, too") from error
