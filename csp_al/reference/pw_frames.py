"""The single points in an output of pw.x: of our own, and of those that a campaign begins with.

ASE's reader is not to be trusted with them. It takes the first energy of a hybrid functional, which is the one before
exchange; it wants bands and k-points in a form that DFT+U, high energies and restarts do not have, ends with an error
where a file is cut off, and takes a calculation that did not converge for one that did. Here only what a label needs is
looked for, line by line, and each single point that is none says why.

    frames = frames_in(output)

Outputs of Quantum ESPRESSO 6.7 to 7.4: scf, relax, vc-relax, md, nscf, bands, several runs one after the other.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers
from ase.units import Bohr, Ry

from csp_al.geometry import first_alike
from csp_al.reference.frames import Frame, lacking, number
from csp_al.structures import Floats

RUN: Final = re.compile(r"\s*Program PWSCF\b")
HEADER: Final = re.compile(r"\s*bravais-lattice index\s*=")
ATOMS: Final = re.compile(r"\s*number of atoms/cell\s*=\s*(\d+)")
ALAT: Final = re.compile(r"\s*lattice parameter \(alat\)\s*=\s*(\S+)\s+a\.u\.")
CELLDM: Final = re.compile(r"\s*celldm\(1\)=\s*(\S+)")
AXIS: Final = re.compile(r"\s*a\(([123])\) = \((.*)\)")
SPECIES: Final = re.compile(r"\s*atomic species\s+valence\s+mass\s+pseudopotential")
ONE_SPECIES: Final = re.compile(r"\s*(\S+)\s+\S+\s+\S+\s+([A-Za-z]{1,2})\s*\(\s*[\d.]+\)")
SITES: Final = re.compile(r"\s*site n\.\s+atom\s+positions \((alat|cryst)")
SITE: Final = re.compile(r"\s*\d+\s+(\S+)\s+tau\(\s*\S+\s*\) = \((.*)\)")
CELL: Final = re.compile(r"\s*CELL_PARAMETERS\s*[({]?\s*(alat|bohr|angstrom)\s*(?:=\s*(\S+?)\s*)?[)}]?\s*$")
POSITIONS: Final = re.compile(r"\s*ATOMIC_POSITIONS\s*[({]?\s*(alat|bohr|angstrom|crystal)\s*[)}]?\s*$")
BEGIN: Final = re.compile(r"\s*(Self-consistent|Band Structure) Calculation")
ENERGY: Final = re.compile(r"!+\s+total energy\s*=\s*(\S+)\s+Ry")
THRESHOLD: Final = re.compile(r"\s*scf convergence threshold\s*=\s*(\S+)")
ACCURACY: Final = re.compile(r"\s*estimated scf accuracy\s*<\s*(\S+)\s+Ry")
NOT_CONVERGED: Final = re.compile(r"\s*(?:EXX )?convergence NOT achieved")
FORCES: Final = re.compile(r"\s*Forces acting on atoms")
FORCE: Final = re.compile(r"\s*atom\s+(\d+)\s+type\s+\d+\s+force =(.*)")
FORCES_END: Final = re.compile(r"\s*Total force\s*=")
STRESS: Final = re.compile(r"\s*total\s+stress\s+\(Ry/bohr\*\*3\)")
FINAL_SCF: Final = re.compile(r"\s*(?:A final|Final) scf calculation at the relaxed structure")
EXTERNAL: Final = re.compile(r"\s*External forces")
DONE: Final = re.compile(r"\s*JOB DONE")
OUT_OF_TIME: Final = re.compile(r"\s*Maximum CPU time exceeded")
NUMBER: Final = re.compile(r"-?\d+\.\d+(?:[EeDd][-+]?\d+)?|\*+|[Nn]a[Nn]|[-+]?[Ii]nf\w*")

NOT_SCF: Final = "of an nscf or bands calculation"
CUT_OFF: Final = "cut off before the end of the single point"
UNREADABLE: Final = "with numbers that cannot be read"
UNCONVERGED: Final = "SCF not converged"
OLD_BASIS: Final = "in the basis of another cell, done again by the final scf"
SLACK: Final = 1.1  # of the threshold: it is printed with two digits


@dataclass
class _Point:
    """What has been said of one single point."""

    atoms: Atoms | None
    is_final: bool
    energy: float | None = None
    forces: list[Floats | None] = field(default_factory=list)
    stress: Floats | None = None
    loose: bool = False
    wrong: str = ""


def frames_in(output: str) -> list[Frame]:
    """All single points that an output has begun, in its order; none if pw.x got no further than its header."""
    reader = _Reader(output.split("\n"))
    reader.read()
    return _without_old_basis(reader.frames, reader.finals)


def _without_old_basis(frames: list[Frame], finals: list[int]) -> list[Frame]:
    """A vc-relax keeps the plane waves of its first cell; its final scf, with those of the last, is what counts."""
    frames = list(frames)
    for row in finals:
        last, final = frames[max(row - 1, 0)], frames[row]
        if row and not (last.wrong or final.wrong) and last.atoms and first_alike([last.atoms, final.atoms]) == [0, 0]:
            frames[row - 1] = replace(last, wrong=OLD_BASIS)
    return frames


class _Reader:
    """Goes through the lines once; what a line means depends on what stood before it."""

    def __init__(self, lines: list[str]) -> None:
        self.lines = lines
        self.at = 0
        self.frames: list[Frame] = []
        self.finals: list[int] = []
        self.point: _Point | None = None
        self.is_final = False
        self.begin_run()

    def begin_run(self) -> None:
        self.count = 0
        self.alat = np.nan  # Å
        self.elements: dict[str, str] = {}
        self.symbols: list[str] = []
        self.cell: Floats | None = None
        self.positions: Floats | None = None
        self.threshold = np.inf  # Ry
        self.has_external_forces = False

    def read(self) -> None:
        while self.at < len(self.lines):
            line = self.lines[self.at]
            self.at += 1
            if SAYS_SOMETHING.match(line):
                word = next(word for word in WHAT_TO_DO if word.match(line))
                WHAT_TO_DO[word](self, line)
        self.end_point(CUT_OFF)

    def take(self, pattern: re.Pattern[str], count: int) -> list[re.Match[str]]:
        """The next lines that fit, as many as asked for, or as there are before one that does not."""
        found: list[re.Match[str]] = []
        while len(found) < count and self.at < len(self.lines) and (match := pattern.match(self.lines[self.at])):
            found.append(match)
            self.at += 1
        return found

    def run(self, _: str) -> None:
        self.end_point(CUT_OFF)
        self.is_final = False
        self.begin_run()

    def header(self, _: str) -> None:
        self.end_point("")
        self.cell, self.positions = np.full((3, 3), np.nan), None

    def atoms_in_cell(self, line: str) -> None:
        self.count = int(ATOMS.match(line)[1])  # type: ignore[index]

    def lattice_parameter(self, line: str) -> None:
        self.alat = number((ALAT.match(line) or CELLDM.match(line))[1]) * Bohr  # type: ignore[index]

    def axis(self, line: str) -> None:
        row, values = AXIS.match(line).groups()  # type: ignore[union-attr]
        if self.cell is not None:
            self.cell[int(row) - 1] = _three(values) * self.alat

    def species(self, _: str) -> None:
        for label, element in (match.groups() for match in self.take(ONE_SPECIES, 1000)):
            self.elements[label] = element.capitalize()

    def sites(self, line: str) -> None:
        if SITES.match(line)[1] == "cryst":  # type: ignore[index]
            return
        found = self.take(SITE, self.count)
        self.symbols = [self.symbol(match[1]) for match in found]
        self.positions = np.array([_three(match[2]) for match in found]).reshape(-1, 3) * self.alat

    def symbol(self, label: str) -> str:
        """The element of a species such as Fe1 or Fe_up: of its pseudopotential, where that is told."""
        told = self.elements.get(label, "")
        names = (told, label[:2].capitalize(), label[:1].upper())
        return next((name for name in names if name in atomic_numbers), "X")

    def new_cell(self, line: str) -> None:
        self.end_point("")
        unit, alat = CELL.match(line).groups()  # type: ignore[union-attr]
        if alat:
            self.alat = number(alat) * Bohr
        rows = self.lines[self.at : self.at + 3]
        self.at += 3
        self.cell = np.array([_three(row) for row in rows]).reshape(-1, 3) * self.unit(unit)

    def new_positions(self, line: str) -> None:
        self.end_point("")
        unit = POSITIONS.match(line)[1]  # type: ignore[index]
        rows = [row.split(None, 1) for row in self.lines[self.at : self.at + self.count]]
        self.at += self.count
        self.symbols = [self.symbol(row[0]) for row in rows if len(row) == 2]
        values = np.array([_three(row[1]) for row in rows if len(row) == 2]).reshape(-1, 3)
        if unit == "crystal":
            self.positions = values @ self.cell if self.cell is not None and self.cell.shape == (3, 3) else None
        else:
            self.positions = values * self.unit(unit)

    def unit(self, name: str) -> float:
        return {"alat": self.alat, "bohr": Bohr, "angstrom": 1.0}[name]

    def final_scf(self, _: str) -> None:
        self.is_final = True

    def external(self, _: str) -> None:
        self.has_external_forces = True

    def begin(self, line: str) -> None:
        if self.point is None:  # a hybrid functional comes back here
            self.point = _Point(self.atoms(), self.is_final)
            self.is_final = False
        if "Band" in line:
            self.point.wrong = NOT_SCF

    def energy(self, line: str) -> None:
        if self.point:
            self.point.energy = number(ENERGY.match(line)[1]) * Ry  # type: ignore[index]
            self.point.wrong = "" if self.point.wrong == UNCONVERGED else self.point.wrong

    def convergence_threshold(self, line: str) -> None:
        self.threshold = number(THRESHOLD.match(line)[1])  # type: ignore[index]

    def accuracy(self, line: str) -> None:
        """With scf_must_converge off, pw.x says that it has converged wherever it was when its steps ran out."""
        if self.point and not self.point.forces:
            reached = number(ACCURACY.match(line)[1])  # type: ignore[index]
            self.point.loose = reached > SLACK * self.threshold

    def not_converged(self, _: str) -> None:
        if self.point:
            self.point.wrong = UNCONVERGED

    def forces(self, _: str) -> None:
        """The total ones come first, those that they consist of (verbosity high) behind them."""
        if self.point is None or self.point.forces:
            return
        while len(self.point.forces) < self.count and self.at < len(self.lines):
            line = self.lines[self.at]
            found = FORCE.match(line)
            if FORCES_END.match(line) or (found and int(found[1]) != len(self.point.forces) + 1):
                break
            self.at += 1
            if found:
                self.point.forces.append(_three(found[2]))

    def stress(self, _: str) -> None:
        rows = [_three(row) for row in self.lines[self.at : self.at + 3]]
        if (
            self.point
            and len(rows) == 3
            and all(len(NUMBER.findall(r)) >= 6 for r in self.lines[self.at : self.at + 3])
        ):
            self.point.stress = -np.array(rows, dtype=float) * Ry / Bohr**3

    def done(self, _: str) -> None:
        self.end_point("")

    def out_of_time(self, _: str) -> None:
        self.end_point(CUT_OFF)

    def atoms(self) -> Atoms | None:
        """The structure as it is now; None where it is not whole."""
        whole = self.count and self.positions is not None and self.positions.shape == (self.count, 3)
        if not whole or self.cell is None or self.cell.shape != (3, 3) or "X" in self.symbols:
            return None
        if not (np.isfinite(self.cell).all() and np.isfinite(self.positions).all()):  # type: ignore[arg-type]
            return None
        return Atoms(self.symbols, positions=self.positions, cell=self.cell, pbc=True)

    def end_point(self, if_partial: str) -> None:
        """The single point has ended, with this reason if it lacks something."""
        point, self.point = self.point, None
        if point is None:
            return
        forces = np.array(point.forces, dtype=float) * Ry / Bohr if len(point.forces) == self.count else None
        frame = Frame(point.atoms, point.energy, forces, point.stress)
        missing = lacking(frame)
        wrong = point.wrong or (missing and (if_partial or missing)) or (point.loose and UNCONVERGED) or ""
        if point.atoms is None:
            wrong = wrong or "without a structure that can be read"
        elif not wrong and not all(
            np.isfinite(np.asarray(value)).all() for value in (point.energy, forces, point.stress)
        ):
            wrong = UNREADABLE
        elif not wrong and self.has_external_forces:
            wrong = "with external forces, which belong to no energy"
        if point.is_final:
            self.finals.append(len(self.frames))
        self.frames.append(replace(frame, wrong=wrong))


WHAT_TO_DO: Final[Mapping[re.Pattern[str], Callable[[_Reader, str], None]]] = {
    RUN: _Reader.run, HEADER: _Reader.header, ATOMS: _Reader.atoms_in_cell, ALAT: _Reader.lattice_parameter,
    CELLDM: _Reader.lattice_parameter, AXIS: _Reader.axis, SPECIES: _Reader.species, SITES: _Reader.sites,
    CELL: _Reader.new_cell, POSITIONS: _Reader.new_positions, FINAL_SCF: _Reader.final_scf, BEGIN: _Reader.begin,
    THRESHOLD: _Reader.convergence_threshold, ENERGY: _Reader.energy, ACCURACY: _Reader.accuracy,
    NOT_CONVERGED: _Reader.not_converged, FORCES: _Reader.forces, STRESS: _Reader.stress,
    EXTERNAL: _Reader.external, OUT_OF_TIME: _Reader.out_of_time, DONE: _Reader.done,
}  # fmt: skip
"""What a line says, by how it begins."""
SAYS_SOMETHING: Final = re.compile("|".join(word.pattern for word in WHAT_TO_DO))


def _three(text: str) -> Floats:
    """The first three numbers of a text, which Fortran may have printed without a blank; NaN where one lacks."""
    found = [number(word) for word in NUMBER.findall(text)[:3]]
    return np.array([*found, np.nan, np.nan, np.nan][:3])
