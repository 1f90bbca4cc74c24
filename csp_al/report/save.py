"""One structure as a file of its own, whose name says the format.

save(structure_at(run, 17, "last"), Path("17.cif"))
"""

from __future__ import annotations

import warnings
from pathlib import Path
from tempfile import TemporaryDirectory

from csp_al.cif import write_cif
from csp_al.report.export_formats import Exported

USUAL = "e.g. 17.cif, POSCAR or 17.vasp, 17.extxyz, 17.xsf, 17.res"


def save(one: Exported, path: Path) -> str:
    """Write the structure in the format of the file's name, any that ASE writes; returns what of it is written.

    As in exports a CIF file of a crystal at rest has the conventional cell with its space group, and a POSCAR its atoms
    sorted by species. Raises ValueError for a name that no format fits, for a folder that is not there, and for a file
    that is.
    """
    kind = _format_of(path)
    if not path.parent.is_dir():
        raise ValueError(f"{path}: there is no folder {path.parent}; make it first")
    if path.exists():
        raise ValueError(f"{path} exists; choose another name, or remove it first")
    with TemporaryDirectory(prefix=".", dir=path.parent) as aside:
        new = Path(aside) / path.name
        if kind == "cif":
            write_cif(new, one.atoms, one.block, one.items, symmetric=bool(one.items))
        else:
            _write(one, new, kind)
        new.rename(path)
    return "the conventional cell with its symmetry" if kind == "cif" and one.items else "the cell as computed"


def _format_of(path: Path) -> str:
    """ASE's name for the format that the name of a file says. Raises ValueError."""
    from ase.io.formats import UnknownFileTypeError, filetype, ioformats

    try:
        kind = str(filetype(path.name, read=False))
    except UnknownFileTypeError:
        kind = ""
    if kind not in ioformats or not ioformats[kind].can_write:
        raise ValueError(f"{path}: no format to write is known by this name; {USUAL}")
    return kind


def _write(one: Exported, path: Path, kind: str) -> None:
    from ase.io import write

    keywords = {"direct": True, "sort": True} if kind == "vasp" else {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            write(path, one.atoms, format=kind, **keywords)
    except Exception as error:  # each of ASE's writers fails in its own way, some for want of keywords
        raise ValueError(f"{path.name}: ASE cannot write this as {kind} by itself ({error}); {USUAL}") from error
