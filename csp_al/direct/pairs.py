"""Pairs of unrelaxed and relaxed crystals, as files and as arrays, with what is wrong with a file in words.

    pairs = read_pairs(Path("pairs.extxyz"))

A file is one extxyz. A frame is the unrelaxed structure, with a column ``relaxed_positions`` (Å, unwrapped: an atom
that crosses a face of the cell goes on outside) and, where the cell moves, ``relaxed_cell`` (nine numbers, rows, Å) in
its header. Atoms that must not move have ``move_mask`` 0, as ASE writes those of FixAtoms. All directions count as
periodic: the vacuum of a slab must be wider than the cutoff of a network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Self

import numpy as np
from ase import Atoms
from ase.constraints import FixAtoms
from numpy.typing import ArrayLike
from scipy.linalg import polar

from csp_al.structure_files import extxyz_frames, read_text
from csp_al.structures import Bools, Floats, Structures, concatenate

POSITIONS, CELL = "relaxed_positions", "relaxed_cell"
FAR: Final = 3.0
"""Å that an atom may move besides what the cell does to it; farther, and an unwrapped image or a mistake is likely."""
STRETCHED: Final = 2.0
"""Factor by which a length of the crystal may change."""
HELD: Final = 0.05
"""Å by which atoms that must not move may be off."""
NAMED: Final = 5
"""Frames that are named in a message; of others the number is told."""


class PairsError(ValueError):
    """What is wrong with pairs, in one line; of a file it names frames."""


@dataclass(frozen=True)
class Pairs:
    """Unrelaxed and relaxed structures, atom by atom; ``free`` (N,) says which atoms may move.

    The relaxed ones are turned as the unrelaxed ones are: the cell of the one becomes that of the other by a symmetric
    strain. Where no atom of a structure is held, both have the same mean fractional coordinates, so that nothing is
    left of a drift. ``moves_cell`` says whether the cells of all relaxed structures are of their own.
    """

    start: Structures
    end: Structures
    free: Bools
    moves_cell: bool

    def __len__(self) -> int:
        return len(self.start)

    def take(self, rows: ArrayLike) -> Self:
        """The pairs in these rows, in their order."""
        rows = np.flatnonzero(rows) if np.asarray(rows).dtype == bool else np.asarray(rows, dtype=np.int64)
        atoms = self.start.atoms_of(rows)
        return replace(self, start=self.start.take(rows), end=self.end.take(rows), free=self.free[atoms])


def fractional(structures: Structures) -> Floats:
    """Fractional coordinates (N, 3), unwrapped."""
    inverse = np.linalg.inv(structures.cells)[structures.system]
    return np.einsum("ni,nij->nj", structures.positions, inverse)


def cartesian(fractions: Floats, cells: Floats, system: np.ndarray) -> Floats:
    """Positions (N, 3) Å of fractional coordinates in the cells (n, 3, 3) of their structures."""
    return np.einsum("ni,nij->nj", fractions, cells[system])


def without_drift(moves: Floats, structures: Structures, free: Bools) -> Floats:
    """Moves (N, 3) less their mean over each structure in which no atom is held."""
    counts, system = structures.counts, structures.system
    mean = np.stack([np.bincount(system, moves[:, k], len(counts)) for k in range(3)], axis=1) / counts[:, None]
    held = np.bincount(system, ~free, len(counts)) > 0
    return moves - np.where(held[:, None], 0, mean)[system]


def _aligned(start: Structures, end: Structures, free: Bools) -> Structures:
    deformation = np.linalg.solve(start.cells, end.cells)
    stretch = np.array([polar(each, side="left")[1] for each in deformation]).reshape(-1, 3, 3)
    cells = start.cells @ stretch
    before = fractional(start)
    moves = without_drift(fractional(end) - before, start, free)
    return start.moved(cartesian(before + moves, cells, start.system), cells)


def read_pairs(path: Path) -> Pairs:
    """All pairs of a file. Raises PairsError, which names the frames that are none and says why."""
    try:
        frames = list(extxyz_frames(read_text(path)))
    except ValueError as error:
        raise PairsError(f"{path}: {error}") from error
    pairs, wrong = [], {}
    for number, frame in enumerate(frames):
        try:
            pairs.append(_read(frame))
        except ValueError as error:
            wrong[number] = str(error)
    if not wrong and len({each.moves_cell for each in pairs}) > 1:
        alike = [number for number, each in enumerate(pairs) if not each.moves_cell]
        wrong = dict.fromkeys(alike, f"no {CELL} in its header, which other frames have")
    if wrong:
        raise PairsError(f"{path}: {_in_words(wrong)}")
    if not pairs:
        raise PairsError(f"{path}: no pairs in it")
    return joined(pairs)


def joined(pairs: Sequence[Pairs]) -> Pairs:
    """One batch of several, at least one, of one sort; ids count from 0."""
    start, end = (concatenate([getattr(each, name) for each in pairs]) for name in ("start", "end"))
    ids = np.arange(len(start))
    free = np.concatenate([each.free for each in pairs])
    return Pairs(replace(start, ids=ids), replace(end, ids=ids), free, pairs[0].moves_cell)


def _in_words(wrong: dict[int, str]) -> str:
    first, *others = wrong
    more = f"; {len(others)} more frames: {', '.join(map(str, others[:NAMED]))}" if others else ""
    return f"frame {first}: {wrong[first]}{more}{', ...' if len(others) > NAMED else ''} (frames are counted from 0)"


def _read(frame: Atoms | str) -> Pairs:
    """The pair of a frame. Raises ValueError."""
    if isinstance(frame, str):
        raise PairsError(frame)
    ended = frame.arrays.get(POSITIONS)
    if ended is None:
        raise PairsError(f"no column {POSITIONS}")
    if ended.shape != (len(frame), 3) or ended.dtype.kind not in "fi":
        raise PairsError(f"{POSITIONS} must have three numbers for each atom")
    cell = np.asarray(frame.info.get(CELL, frame.cell.array))
    if cell.size != 9 or cell.dtype.kind not in "fi":
        raise PairsError(f"{CELL} must have nine numbers, the cell vectors one after the other")
    end = Atoms(frame.numbers, positions=ended, cell=cell.reshape(3, 3).astype(float), pbc=True)
    return pair_of(frame, end, moves_cell=CELL in frame.info)


def pair_of(start: Atoms, end: Atoms, *, moves_cell: bool) -> Pairs:
    """The pair of two structures of the same atoms in the same order. Raises PairsError where they are none.

    Atoms that the start holds by a constraint must not move.
    """
    if not np.array_equal(start.numbers, end.numbers):
        raise PairsError(f"other atoms at the end: {start.symbols} and {end.symbols}")
    for atoms in (start, end):
        refuse_no_crystal(atoms)
    _refuse_other_cell(start.cell.array, end.cell.array)
    free = free_atoms(start)
    if moves_cell and not free.all():
        raise PairsError(f"atoms that must not move (move_mask), and a {CELL}: give the one or the other")
    if not free.any():
        raise PairsError("no atom may move (move_mask)")
    before, after = (Structures.from_atoms([each]) for each in (start, end))
    pairs = Pairs(before, _aligned(before, after, free), free, moves_cell)
    _refuse_far(pairs)
    return pairs


def refuse_no_crystal(atoms: Atoms) -> None:
    """Raise PairsError for a cell without volume, and for numbers that are not finite."""
    if not (np.isfinite(atoms.positions).all() and np.isfinite(atoms.cell.array).all()):
        raise PairsError("numbers that are not finite")
    if atoms.cell.rank < 3:
        raise PairsError("a cell without volume; a slab needs a cell too, with vacuum in it")


def _refuse_other_cell(start: Floats, end: Floats) -> None:
    deformation = np.linalg.solve(start, end)
    if np.linalg.det(deformation) < 0:
        raise PairsError(f"{CELL} is a mirror image of the cell (a flipped cell)")
    stretches = np.linalg.svd(deformation, compute_uv=False)
    if (worst := max(stretches[0], 1 / stretches[-1])) > STRETCHED:
        raise PairsError(f"{CELL} stretches or compresses the crystal by a factor of {worst:.3g}, above {STRETCHED:g}")


def _refuse_far(pairs: Pairs) -> None:
    moves = internal_moves(pairs.start, pairs.end)
    lengths: Floats = np.linalg.norm(moves, axis=1)
    held = np.flatnonzero(~pairs.free & (lengths > HELD))
    if held.size:
        raise PairsError(f"atom {held[0]} must not move (move_mask), but moves {lengths[held[0]]:.2g} Å")
    worst = int(lengths.argmax())
    if lengths[worst] <= FAR:
        return
    cell = pairs.end.cells[0]
    image = np.linalg.norm(moves[worst] - np.round(moves[worst] @ np.linalg.inv(cell)) @ cell)
    hint = f"; to its nearest image it is {image:.2g} Å: {POSITIONS} must be unwrapped" if image < FAR else ""
    raise PairsError(f"atom {worst} moves {lengths[worst]:.3g} Å, more than {FAR:g}{hint}")


def internal_moves(start: Structures, end: Structures) -> Floats:
    """How far atoms (N, 3) Å move besides what their cell does to them: fractions, in the cell at the end."""
    return cartesian(fractional(end) - fractional(start), end.cells, end.system)


def free_atoms(atoms: Atoms) -> Bools:
    """Which atoms may move (N,), by constraints of the kind FixAtoms. Raises PairsError for other constraints."""
    free = np.ones(len(atoms), dtype=bool)
    for constraint in atoms.constraints:
        if not isinstance(constraint, FixAtoms):
            name = type(constraint).__name__
            raise PairsError(f"a constraint {name}; atoms are held in all directions or in none (move_mask)")
        free[constraint.index] = False
    return free


def write_pairs(path: Path, pairs: Pairs, info: Sequence[dict[str, object]] | None = None) -> None:
    """Write a file that `read_pairs` reads, with further keys for the header of each frame."""
    from ase.io import write

    write(path, pair_frames(pairs, info), format="extxyz")


def pair_frames(pairs: Pairs, info: Sequence[dict[str, object]] | None = None) -> list[Atoms]:
    """The frames of a file of pairs."""
    frames = pairs.start.to_atoms()
    ptr = pairs.start.ptr
    for row, atoms in enumerate(frames):
        rows = slice(ptr[row], ptr[row + 1])
        free = pairs.free[rows]
        atoms.info |= {} if info is None else info[row]
        atoms.arrays[POSITIONS] = pairs.end.positions[rows]
        if pairs.moves_cell:
            atoms.info[CELL] = pairs.end.cells[row].ravel()
        if not free.all():
            atoms.set_constraint(FixAtoms(mask=~free))
    return frames
