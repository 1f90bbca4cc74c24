"""The single points in a vasprun.xml of VASP.

ASE's and pymatgen's readers give every ionic step as if its electrons had converged, and steps of a machine-learnt
force field as if they were calculations; both want the file whole, or lose what they need of it. Here the file is
read as it comes, so that the whole steps of one that is cut off are there, and what fills it, eigenvalues and densities
of states, is never kept.

    frames = frames_in(Path("vasprun.xml.gz"))

Format: https://www.vasp.at/wiki/index.php/Vasprun.xml, VASP 5.4 to 6.5.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from xml.etree.ElementTree import Element

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers
from ase.units import GPa

from csp_al.reference.frames import Frame, lacking, numbers
from csp_al.structure_files import BROKEN, open_plain
from csp_al.structures import Floats

NELM: Final = 60
"""Electronic steps at most, if the file does not say."""
TRAINING: Final = frozenset({"train", "select"})
"""Values of ML_MODE with which some steps are calculated; with the others none is."""
CUT_SHORT: Final[Mapping[str, str]] = {"r": "Zr", "X": "Xe"}
"""Elements that VASP writes with a letter too few."""
BULKY: Final = frozenset({"eigenvalues", "projected", "dos", "kpoints", "dielectricfunction", "array_of_projections"})
KBAR: Final = 0.1 * GPa

UNCONVERGED: Final = "not converged (as many electronic steps as NELM)"
LEARNT: Final = "of a machine-learnt force field"
CUT_OFF: Final = "cut off before the end of the step"
UNREADABLE: Final = "with numbers that cannot be read"
TRACE_ONLY: Final = "with no more of the stress than its trace (ISIF 1)"


@dataclass
class _Said:
    """What the file has said so far of all its steps, and of the one that it is in."""

    symbols: list[str] = field(default_factory=list)
    settings: dict[str, str] = field(default_factory=dict)
    structure: tuple[Floats | None, Floats | None] = (None, None)
    electronic_steps: int = 0
    is_in_step: bool = False


def frames_in(path: Path) -> list[Frame]:
    """All ionic steps, in their order. Raises ValueError where not even the atoms are told."""
    said, frames = _Said(), []
    try:
        with open_plain(path) as file:
            for event, element in ET.iterparse(file, events=("start", "end")):  # noqa: S314 - entities are bounded by expat
                if event == "start":
                    if element.tag == "calculation":
                        said.is_in_step, said.electronic_steps = True, 0
                elif element.tag == "calculation":
                    frames.append(_step(element, said))
                    said.is_in_step = False
                    element.clear()
                else:
                    _hear(element, said)
    except (ET.ParseError, *BROKEN) as error:
        if not said.symbols:
            raise ValueError(f"as vasprun.xml: {_ending(error)}") from error
        if said.is_in_step:
            frames.append(Frame(None, wrong=CUT_OFF))
    if not said.symbols:
        raise ValueError("as vasprun.xml: no atoms in it")
    return frames


def _ending(error: Exception) -> str:
    place = f" in line {error.position[0]}" if isinstance(error, ET.ParseError) else ""
    return f"it is cut off or damaged{place}, before its first atoms"


def _hear(element: Element, said: _Said) -> None:
    if element.tag == "scstep":
        said.electronic_steps += said.is_in_step
        element.clear()
    elif element.tag in BULKY:
        element.clear()
    elif element.tag in ("incar", "parameters"):
        said.settings |= {
            item.get("name", "").strip().upper(): (item.text or "").strip() for item in element.iter("i") if item.text
        }
    elif element.tag == "atominfo":
        rows = element.findall("array[@name='atoms']/set/rc")
        said.symbols = [_symbol(row[0].text or "") for row in rows if len(row)]
    elif element.tag == "structure":
        basis = numbers(_rows(element, "crystal/varray[@name='basis']/v"))
        said.structure = (basis, numbers(_rows(element, "varray[@name='positions']/v")))


def _symbol(word: str) -> str:
    name = word.strip()
    name = CUT_SHORT.get(name, name)
    if name not in atomic_numbers:
        raise ValueError(f"as vasprun.xml: no element is called {name!r}")
    return name


def _step(element: Element, said: _Said) -> Frame:
    """One ionic step. Its e_fr_energy is the free energy whose derivatives the forces are, and holds PSTRESS."""
    atoms = _atoms(said)
    if atoms is None:
        return Frame(None, wrong="without a structure that can be read")
    energy = numbers(_rows(element, "energy/i[@name='e_fr_energy']"), 1)
    forces = numbers(_rows(element, "varray[@name='forces']/v"))
    stress = numbers(_rows(element, "varray[@name='stress']/v"))
    pressure = _number(said.settings.get("PSTRESS", "0"))
    read = Frame(
        atoms,
        energy=float(energy[0, 0]) - pressure * KBAR * atoms.cell.volume
        if energy is not None and len(energy)
        else None,
        forces=forces if forces is not None and len(forces) else None,
        stress=-KBAR * stress if stress is not None and stress.shape == (3, 3) else None,
    )
    spoilt = energy is None or forces is None or stress is None
    wrong = _why_not_calculated(said) or (spoilt and UNREADABLE) or lacking(read)
    if not wrong and read.forces is not None and read.forces.shape != (len(atoms), 3):
        wrong = f"with {len(read.forces)} forces for {len(atoms)} atoms"
    if not wrong and said.settings.get("ISIF") == "1":
        wrong = TRACE_ONLY
    return Frame(read.atoms, read.energy, read.forces, read.stress, wrong)


def _atoms(said: _Said) -> Atoms | None:
    cell, scaled = said.structure
    if cell is None or scaled is None or cell.shape != (3, 3) or scaled.shape != (len(said.symbols), 3):
        return None
    if not (np.isfinite(cell).all() and np.isfinite(scaled).all()):
        return None
    return Atoms(said.symbols, cell=cell, scaled_positions=scaled, pbc=True)


def _why_not_calculated(said: _Said) -> str:
    """Why a step's values are not those of converged electrons; empty if they are.

    A force field that learns on the way leaves steps that it made itself, without electrons or with a single look at
    them.
    """
    is_learning = any(said.settings.get(key, "F").strip(".").upper()[:1] == "T" for key in ("ML_LMLFF", "ML_FF"))
    mode = said.settings.get("ML_MODE", "train").strip().lower()
    is_run = mode not in TRAINING or said.settings.get("ML_ISTART") == "2"
    if is_learning and (is_run or said.electronic_steps < 2):
        return LEARNT
    if not said.electronic_steps:
        return "without electronic steps"
    return UNCONVERGED if said.electronic_steps >= _number(said.settings.get("NELM", str(NELM))) else ""


def _rows(element: Element, path: str) -> list[str]:
    return [found.text or "" for found in element.findall(path)]


def _number(word: str) -> float:
    try:
        return float(word)
    except ValueError:
        return 0.0
