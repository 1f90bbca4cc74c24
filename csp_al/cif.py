"""Crystals as CIF files for a paper: the conventional cell with its symmetry, and items that say what it is.

    write_cif(Path("01-NaCl-225.cif"), atoms, "nacl-01", {"_csp_al_energy_per_atom_eV": -3.412})

Beside what the core dictionary of the IUCr names, items are those of this package, ``_csp_al_...``, and of the
dictionary of the Theoretical Crystallography Open Database, ``_tcod_...``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from ase.formula import Formula

if TYPE_CHECKING:
    from ase import Atoms

os.environ.setdefault("SPGLIB_WARNING", "OFF")  # it tells on standard error of each try that failed, also on the way

SYMPREC: Final = 0.1
"""Å, within which spglib takes the atoms of a crystal to be related by symmetry: it is relaxed to fmax, not further.
With 0.02 a diamond that came to rest at 0.05 eV/Å was called I4_1/amd."""

STRICT: Final = 0.01
"""Å, the tolerance at which others read a CIF file; what `SYMPREC` has made symmetric has its space group there too."""


class SpaceGroup(NamedTuple):
    """Of the International Tables."""

    symbol: str
    number: int


def space_group(atoms: Atoms) -> SpaceGroup:
    """The space group of atoms made symmetric within `SYMPREC`: that of their `conventional` cell."""
    return strict_group(conventional(atoms))


def conventional(atoms: Atoms) -> Atoms:
    """The conventional cell, with atoms moved by up to `SYMPREC` to where its symmetry puts them."""
    import spglib
    from ase import Atoms

    cell = (atoms.cell.array, atoms.get_scaled_positions(), atoms.numbers)
    found = spglib.standardize_cell(cell, to_primitive=False, no_idealize=False, symprec=SYMPREC)
    if found is None:
        return atoms
    lattice, positions, numbers = found
    return Atoms(numbers, scaled_positions=positions, cell=lattice, pbc=True)


def write_cif(path: Path, atoms: Atoms, name: str, items: Mapping[str, object], *, symmetric: bool = True) -> None:
    """Write `cif_text`."""
    path.write_text(cif_text(atoms, name, items, symmetric=symmetric), encoding="utf-8")


def cif_text(atoms: Atoms, name: str, items: Mapping[str, object], *, symmetric: bool = True) -> str:
    """Atoms as one data block of this name with further items: symmetric in the conventional cell, or as given.

    The symmetry that is written is that of the cell that is written, so that whoever reads it finds the same.
    """
    from pymatgen.io.ase import AseAtomsAdaptor
    from pymatgen.io.cif import CifWriter

    shown = conventional(atoms) if symmetric else atoms
    bare = type(shown)(shown.numbers, positions=shown.positions, cell=shown.cell, pbc=True)
    writer = CifWriter(AseAtomsAdaptor.get_structure(bare), symprec=STRICT if symmetric else None)
    block = next(iter(writer.cif_file.data.values()))
    block.header = re.sub(r"[^\w.+-]", "_", name, flags=re.ASCII)[:74]  # longer ones are refused by readers
    hill = Formula.from_list(list(bare.symbols)).convert("hill").count()
    block.data |= {"_chemical_formula_sum": " ".join(f"{symbol}{count}" for symbol, count in hill.items())}
    block.data |= {**tolerances(atoms), **items} if symmetric else items
    return f"# written by csp_al\n{block}\n"


def strict_group(atoms: Atoms) -> SpaceGroup:
    """The space group of atoms as they are, within `STRICT`."""
    import spglib

    found = spglib.get_symmetry_dataset((atoms.cell.array, atoms.get_scaled_positions(), atoms.numbers), STRICT)
    return SpaceGroup(found.international, int(found.number)) if found else SpaceGroup("P1", 1)


def tolerances(atoms: Atoms) -> dict[str, object]:
    """Items that tell how near the atoms, as computed, are to the symmetry that is written."""
    return {
        "_csp_al_symmetry_tolerance_angstrom": SYMPREC,
        "_csp_al_strict_tolerance_angstrom": STRICT,
        "_csp_al_strict_space_group_number": strict_group(atoms).number,
    }


def formula(atoms: Atoms) -> str:
    """The atoms of a cell in the order of the IUPAC, which chemists use: Na4Cl4, Si2C2, Ti2O4."""
    from pymatgen.core import Element

    counts = atoms.symbols.formula.count()
    ordered = sorted(counts, key=lambda symbol: Element(symbol).iupac_ordering)
    return "".join(f"{symbol}{counts[symbol] if counts[symbol] > 1 else ''}" for symbol in ordered)
