"""The single points in an OUTCAR of VASP; `csp_al.reference.vasprun` says why they are read here.

    frames = frames_in(read_text(Path("OUTCAR")))

Format: https://www.vasp.at/wiki/index.php/OUTCAR, VASP 5.4 to 6.5.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers

from csp_al.reference.frames import Frame, lacking
from csp_al.reference.vasprun import CUT_OFF, KBAR, LEARNT, NELM, TRACE_ONLY, UNCONVERGED, UNREADABLE
from csp_al.structures import Floats

NUMBER: Final = re.compile(r"-?\d+\.\d+(?:[Ee][-+]?\d+)?|\*+|[Nn]a[Nn]")  # Fortran may print them without a blank
SPECIES: Final = (
    re.compile(r"^\s*VRHFIN\s*=\s*([A-Z][a-z]?)\s*:", re.MULTILINE),
    re.compile(r"^\s*TITEL\s*=\s*\S+\s+([A-Z][a-z]?)(?![a-z])", re.MULTILINE),
)
COUNTS: Final = re.compile(r"^\s*ions per type\s*=\s*([\d ]+)", re.MULTILINE)
SETTING: Final = re.compile(r"^\s*(NELM|ISIF)\s*=\s*(\d+)", re.MULTILINE)
ITERATION: Final = re.compile(r"^.*-\s*Iteration\s+\d+\(\s*(\d+)\s*\)", re.MULTILINE)
LATTICE: Final = re.compile(r"^\s*direct lattice vectors.*\n((?:.*\n){3})", re.MULTILINE)
STRESS: Final = re.compile(r"^\s*in kB\s+(.*)", re.MULTILINE)
TABLE: Final = re.compile(r"^\s*POSITION\s+TOTAL-FORCE.*\n.*\n", re.MULTILINE)
END_OF_STEP: Final = re.compile(r"^\s*free  energy\s+(ML )?TOTEN\s*=\s*(\S+)", re.MULTILINE)
"""Once in an ionic step, unlike the "free energy    TOTEN" of each electronic one."""
REACHED: Final = "aborting loop because EDIFF is reached"
NOT_REACHED: Final = re.compile(r"EDIFF was not reached|\(unconverged\)")
TENSOR: Final = ((0, 3, 5), (3, 1, 4), (5, 4, 2))
"""Where xx, yy, zz, xy, yz, zx of a line stand."""


def frames_in(output: str) -> list[Frame]:
    """All ionic steps, in their order. Raises ValueError where not even the atoms are told."""
    first = ITERATION.search(output)
    header = output[: first.start()] if first else output
    symbols, settings = _symbols(header), dict(SETTING.findall(header))
    parts = END_OF_STEP.split(output)  # what was said, by what, energy; what was said, by what, energy; the rest
    frames: list[Frame] = []
    cell: Floats | None = None
    for said, by, energy in zip(parts[:-1:3], parts[1::3], parts[2::3], strict=True):
        cell = _rows(lattices[-1].split("\n")[:3], 3) if (lattices := LATTICE.findall(said)) else cell
        frames.append(_step(said, float("nan") if "*" in energy else float(energy), cell, symbols, settings))
        if by:
            frames[-1] = Frame(frames[-1].atoms, wrong=LEARNT)
    if ITERATION.search(parts[-1]):
        frames.append(Frame(None, wrong=CUT_OFF))
    return frames


def _symbols(header: str) -> list[str]:
    counts = COUNTS.search(header)
    for pattern in SPECIES:
        kinds = pattern.findall(header)
        if counts and len(kinds) == len(counts[1].split()) and all(kind in atomic_numbers for kind in kinds):
            return [kind for kind, count in zip(kinds, counts[1].split(), strict=True) for _ in range(int(count))]
    raise ValueError("as OUTCAR: its beginning, which tells the species and their numbers, is not there")


def _step(said: str, energy: float, cell: Floats | None, symbols: list[str], settings: Mapping[str, str]) -> Frame:
    """One ionic step. Its TOTEN is the free energy whose derivatives the forces are."""
    table = TABLE.search(said)
    both = _rows(said[table.end() :].split("\n", len(symbols))[: len(symbols)], 6) if table else None
    stress = _rows([row], 6) if (row := next(reversed(STRESS.findall(said)), "")) else None
    if cell is None or both is None or both.shape != (len(symbols), 6):
        return Frame(None, wrong="without forces" if table is None else UNREADABLE)
    frame = Frame(
        Atoms(symbols, positions=both[:, :3], cell=cell, pbc=True),
        energy,
        both[:, 3:],
        None if stress is None else -KBAR * stress[0, TENSOR],
    )
    unreadable = not all(np.isfinite(value).all() for value in (energy, cell, both, 0 if stress is None else stress))
    trace_only = TRACE_ONLY if settings.get("ISIF") == "1" else ""
    wrong = _why_not_converged(said, int(settings.get("NELM", NELM))) or (unreadable and UNREADABLE) or lacking(frame)
    return Frame(frame.atoms, frame.energy, frame.forces, frame.stress, wrong or trace_only)


def _why_not_converged(said: str, at_most: int) -> str:
    if NOT_REACHED.search(said):
        return UNCONVERGED
    iterations = ITERATION.findall(said)
    return UNCONVERGED if REACHED not in said and iterations and int(iterations[-1]) >= at_most else ""


def _rows(lines: list[str], columns: int) -> Floats:
    """The first numbers of each line, (rows, columns); NaN where one lacks or is none."""
    found = [NUMBER.findall(line)[:columns] for line in lines]
    missing = ["nan"] * columns
    return np.array([["nan" if "*" in word else word for word in (*row, *missing)][:columns] for row in found], float)
