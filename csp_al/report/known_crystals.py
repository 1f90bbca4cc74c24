"""Which known crystal is a result, or nearest to it? Known ones are from files that the user gives.

    known, left_out = read_known(Path("structures.cif"))
    nearest(atoms, known)  # Nearest(name="rutile", distance=0.03, same=True, ...)

Names are the mineral's in a CIF, or the block's; ``name`` in an extxyz; else, and where names are given twice, that of
the file is told.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from csp_al import objective
from csp_al.select.identity import distance, same_structure
from csp_al.structure_files import plain_name, read_structures

if TYPE_CHECKING:
    from ase import Atoms

IN_FOLDERS: Final = ("*.cif", "*.extxyz", "*.xyz", "*.vasp", "POSCAR*", "CONTCAR*", "*.res")
"""What of a folder is read; other files are passed over."""
FLAT: Final = 1e-3
"""Volume of a cell by that of a box with its lengths, from which on it is none."""


@dataclass(frozen=True)
class Known:
    """A crystal with its name."""

    name: str
    atoms: Atoms


@dataclass(frozen=True)
class Nearest:
    """The known crystal that is nearest to a result.

    ``distance`` is the root mean square distance of the atoms with both made equal in volume, Å; ``same``, whether
    results that differ by no more are one (`csp_al.select.identity`); ``volume`` that of the result by the known one's,
    both per atom.
    """

    name: str
    distance: float
    same: bool
    volume: float

    def as_json(self) -> dict[str, Any]:
        """With its unit in the key."""
        said = asdict(self)
        return {"name": said["name"], "same": said["same"], "rms_A": said["distance"], "volume_ratio": said["volume"]}


def read_known(path: Path) -> tuple[list[Known], list[str]]:
    """The crystals of a file or a folder, and what of it is none, a line each.

    Raises ValueError where nothing can be used.
    """
    found: list[tuple[str, str, Atoms]] = []  # its own name, its place, the crystal
    wrong: list[str] = []
    for file in _files(path):
        try:
            frames = read_structures(file)
        except ValueError as error:
            wrong.append(f"{file}: {error}")
            continue
        for number, frame in enumerate(frames, start=1):
            place = Path(plain_name(file)).stem + (f", {number}" if len(frames) > 1 else "")
            if isinstance(frame, str) or (why := _no_crystal(frame)):
                wrong.append(f"{file}, structure {number}: {frame if isinstance(frame, str) else why}")
            else:
                found.append((str(frame.info.get("name", "")), place, frame))
    if not found:
        raise ValueError(wrong[0] if wrong else f"{path}: no structures in it")
    times = Counter(name for name, _, _ in found)
    told = [place if not name else name if times[name] == 1 else f"{name} ({place})" for name, place, _ in found]
    return [Known(name, atoms) for name, (_, _, atoms) in zip(told, found, strict=True)], wrong


def comparable(known: Sequence[Known], formula: str) -> list[Known]:
    """Those of the same composition."""
    return [one for one in known if objective.comparable(one.atoms.get_chemical_formula(), formula)]


def nearest(atoms: Atoms, known: Sequence[Known]) -> Nearest | None:
    """The nearest known crystal of the same composition; None where none can be laid upon it, see `distance`.

    Of several at one distance, as cells of one lattice at several volumes, that with the nearest volume.
    """
    found = []
    volume = atoms.get_volume() / len(atoms)
    for one in comparable(known, atoms.get_chemical_formula()):
        if (apart := distance(atoms, one.atoms)) is not None:
            ratio = float(volume * len(one.atoms) / one.atoms.get_volume())
            found.append(Nearest(one.name, apart, same_structure(atoms, one.atoms), ratio))
    return min(found, key=lambda each: (not each.same, round(each.distance, 3), abs(np.log(each.volume))), default=None)


def _files(path: Path) -> Iterator[Path]:
    if not path.is_dir():
        yield path
        return
    there = sorted({file for pattern in IN_FOLDERS for file in path.glob(pattern) if file.is_file()})
    if not there:
        raise ValueError(f"{path}: no structures in this folder (files named {', '.join(IN_FOLDERS)})")
    yield from there


def _no_crystal(atoms: Atoms) -> str:
    """Why a structure is no crystal; empty where it is one."""
    volume, box = abs(np.linalg.det(atoms.cell.array)), float(np.prod(atoms.cell.lengths()))
    if not atoms.pbc.all() or volume <= FLAT * box:
        return "no periodic crystal; a cell of three vectors is needed, and pbc in all directions"
    return "" if len(atoms) else "no atoms"
