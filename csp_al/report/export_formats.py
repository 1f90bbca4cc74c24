"""The formats of an export: how structures become files for other programs.

    writers_for()["xrd"](found, Path("winners-xrd"))

Each writer makes one file, or one folder, of the name that it is given; `ENDINGS` says which.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from csp_al.cif import formula, write_cif
from csp_al.report.pictures import draw, draw_pattern
from csp_al.report.powder import ALONE, RADIATION, lines_of, pattern_of, wavelength_of

if TYPE_CHECKING:
    from ase import Atoms
    from pymatgen.core import Structure

AS_COMPUTED: Final = "as-computed"
OPTIMADE: Final = "1.2.0"
"""Version of the specification (https://github.com/Materials-Consortia/OPTIMADE) whose structures are written."""
ENDINGS: Final = {
    "cif": "-cif", "poscar": "-poscar", "extxyz": ".extxyz", "ase-db": ".db", "pymatgen": "-pymatgen.json",
    "optimade": "-optimade.json", "xrd": "-xrd", "png": ".png", "pdf": ".pdf",
}  # fmt: skip
"""Of the names of files and folders, behind what they hold."""
OF_CRYSTALS: Final = ("xrd", "png", "pdf")
"""What makes sense only of crystals at rest."""


@dataclass(frozen=True)
class Exported:
    """A structure to write. ``info`` of the atoms has its name; with items it is a crystal at rest.

    The block is that of a CIF file, which has these items.
    """

    atoms: Atoms
    block: str
    items: Mapping[str, object] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Of its own file, where it has one."""
        return str(self.atoms.info["name"])


Writer = Callable[[list[Exported], Path], None]


def _cif(found: list[Exported], folder: Path) -> None:
    """Crystals at rest in the conventional cell, and as computed; what was generated or shaken as it is."""
    folder.mkdir()
    for one in found:
        write_cif(folder / f"{one.name}.cif", one.atoms, one.block, one.items, symmetric=bool(one.items))
        if one.items:
            (folder / AS_COMPUTED).mkdir(exist_ok=True)
            path, block = folder / AS_COMPUTED / f"{one.name}-{AS_COMPUTED}.cif", f"{one.block}-{AS_COMPUTED}"
            write_cif(path, one.atoms, block, one.items, symmetric=False)


def _poscar(found: list[Exported], folder: Path) -> None:
    from ase.io import write

    folder.mkdir()
    for one in found:
        write(folder / f"POSCAR-{one.name}", one.atoms, format="vasp", direct=True, sort=True)


def _extxyz(found: list[Exported], path: Path) -> None:
    from ase.io import write

    write(path, [one.atoms for one in found], format="extxyz")


def _ase_db(found: list[Exported], path: Path) -> None:
    """An ASE database without its lock file, which a killed writer would leave behind; the id is called candidate."""
    from ase.db import connect

    database = connect(path, type="db", use_lock_file=False)
    with database:
        for one in found:
            info = {key: value for key, value in one.atoms.info.items() if key not in ("id", "name")}
            database.write(one.atoms, candidate=one.atoms.info["id"], **info)


def _pymatgen(found: list[Exported], path: Path) -> None:
    """A list of pymatgen structures, which `monty.serialization.loadfn` reads; what is known is in ``properties``."""
    told = []
    for one in found:
        structure = _structure(one.atoms)
        structure.properties = _known_of(one)
        if one.atoms.calc is not None:
            structure.add_site_property("forces", one.atoms.get_forces().tolist())
        told.append(structure.as_dict())
    path.write_text(json.dumps(told), encoding="utf-8")


def _optimade(found: list[Exported], path: Path) -> None:
    """A response of OPTIMADE's endpoint for structures; what that does not define is named ``_cspal_...``."""
    from pymatgen.io.optimade import OptimadeStructureAdapter

    entries = []
    for one in found:
        attributes = OptimadeStructureAdapter.get_optimade_structure(_structure(one.atoms))["attributes"]
        attributes |= {"chemical_formula_descriptive": formula(one.atoms)}  # pymatgen's has blanks
        attributes |= {f"_cspal_{key}": value for key, value in _known_of(one).items()}
        entries.append({"id": one.block, "type": "structures", "attributes": attributes})
    meta = {
        "api_version": OPTIMADE,
        "query": {"representation": "/structures"},
        "more_data_available": False,
        "data_returned": len(entries),
    }
    path.write_text(json.dumps({"meta": meta, "data": entries}, indent=1), encoding="utf-8")


def _structure(atoms: Atoms) -> Structure:
    from pymatgen.core import Structure

    return Structure(atoms.cell.array, atoms.get_chemical_symbols(), atoms.get_scaled_positions(wrap=False))


def _known_of(one: Exported) -> dict[str, Any]:
    """What ``info`` says, and the energy (eV) and stress (eV/Å^3) of the reference."""
    known = {key: _plain(value) for key, value in one.atoms.info.items()}
    if one.atoms.calc is not None:
        known |= {"energy": float(one.atoms.get_potential_energy()), "stress": one.atoms.get_stress().tolist()}
    return known


def _plain(value: Any) -> Any:
    """A number of numpy as one of Python; null where there is none, as JSON has it."""
    plain = value.item() if hasattr(value, "item") else value
    return None if isinstance(plain, float) and not isfinite(plain) else plain


def _xrd(found: list[Exported], folder: Path, wavelength: float) -> None:
    """The powder pattern of each crystal for this wavelength, Å: two columns, and a picture."""
    folder.mkdir()
    for one in found:
        lines = lines_of(one.atoms, wavelength, *ALONE)
        pattern = pattern_of(lines)
        head = (
            f"# {one.block}: powder pattern computed for {wavelength:g} Å\n# 2theta (degrees), intensity (highest: 100)"
        )
        rows = [f"{angle:.2f} {height:.4f}" for angle, height in zip(pattern.angles, pattern.intensities, strict=True)]
        (folder / f"{one.name}.xy").write_text("\n".join([head, *rows, ""]), encoding="utf-8")
        draw_pattern(pattern, lines, one.name, folder / f"{one.name}.png")


def _picture(found: list[Exported], path: Path) -> None:
    draw([one.atoms for one in found], path)


def writers_for(wavelength: str | None = None) -> dict[str, Writer]:
    """By format; powder patterns are for this wavelength, or `RADIATION`. Raises ValueError for one that is none."""
    return {
        "cif": _cif,
        "poscar": _poscar,
        "extxyz": _extxyz,
        "ase-db": _ase_db,
        "pymatgen": _pymatgen,
        "optimade": _optimade,
        "xrd": partial(_xrd, wavelength=wavelength_of(wavelength or RADIATION)),
        "png": _picture,
        "pdf": _picture,
    }
