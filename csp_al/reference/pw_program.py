"""pw.x as a program: its input written, run, and asked for its version."""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ase.calculators.espresso import EspressoProfile, EspressoTemplate
from ase.units import Ry

from csp_al.interfaces import Failure, ReferenceFailedError
from csp_al.reference.namelists import elements_in
from csp_al.reference.programs import SCRATCH, ask, is_another, run
from csp_al.reference.pw_output import results_in, version_in, why_no_result

if TYPE_CHECKING:
    from ase import Atoms

    from csp_al.reference.espresso import EspressoReference
    from csp_al.reference.pseudopotentials import Pseudopotential

PROGRAM: Final = "pw.x"

DEFAULTS: Final[Mapping[str, Mapping[str, Any]]] = {
    "control": {"disk_io": "none"},
    "system": {"occupations": "smearing", "smearing": "gaussian"},
    "electrons": {"conv_thr": 1e-8, "mixing_beta": 0.5, "electron_maxstep": 100},
}
"""Our choice where pw.x's own does not suit thousands of random cells; the user's namelists override it.

Cold smearing (Marzari and Vanderbilt) would suit metals better, but with it an insulator can have several Fermi
energies: the SCF of a random Na4Cl4 hopped for 650 steps, until it was stopped, and took 8 with a Gaussian (pw.x 6.7).
"""


def input_of(
    section: EspressoReference, atoms: Atoms, found: Mapping[str, Pseudopotential]
) -> dict[str, dict[str, Any]]:
    """The namelists of a single point; the section has its cutoffs written out."""
    given = section.namelists
    data = {name: {**settings, **given.get(name, {})} for name, settings in DEFAULTS.items()}
    data["control"] |= {"calculation": "scf", "outdir": SCRATCH, "prefix": "pw", "tprnfor": True, "tstress": True}
    data["system"] |= {"ecutwfc": section.ecutwfc, "ecutrho": section.ecutrho}
    if data["system"]["occupations"] == "smearing":
        data["system"]["degauss"] = section.smearing / Ry
    else:
        data["system"].pop("smearing")
    if section.bands is not None:
        data["system"]["nbnd"] = _bands(section, atoms, found, section.bands)
    return data


def _bands(section: EspressoReference, atoms: Atoms, found: Mapping[str, Pseudopotential], per_pair: float) -> int:
    """Bands by pairs of electrons, and never fewer than pw.x takes for a metal."""
    system = section.namelists.get("system", {})
    electrons = sum(found[symbol].valence for symbol in atoms.symbols) - float(system.get("tot_charge", 0))
    spinors = 2 if system.get("noncolin", False) else 1  # a band holds one electron then
    pairs = spinors * electrons / 2
    return max(math.ceil(per_pair * pairs), math.ceil(pairs) + 4 * spinors)


class PwTemplate(EspressoTemplate):
    """ASE's writer for pw.x, with species by name, a process that dies with us, and reasons for failures."""

    atoms = 0
    """Of the input that was written last."""

    def write_input(
        self, profile: EspressoProfile, directory: Path, atoms: Atoms, parameters: dict[str, Any], properties: Any
    ) -> None:
        """Write the input; ``key(Fe)`` becomes ``key(i)`` with Fe's number in ATOMIC_SPECIES, or goes where none is."""
        self.atoms = len(atoms)
        numbers = {symbol: number for number, symbol in enumerate(dict.fromkeys(atoms.symbols), start=1)}
        data = parameters["input_data"]
        absent = {key for key, symbols in elements_in(data).items() if symbols - set(numbers)}
        system = {_numbered(key, numbers): value for key, value in data["system"].items() if key not in absent}
        # ASE writes starting_magnetization itself, from the moments of the atoms
        moments = {number: system.pop(f"starting_magnetization({number})", 0.0) for number in numbers.values()}
        spins = atoms.copy()
        spins.set_initial_magnetic_moments([moments[numbers[symbol]] for symbol in atoms.symbols])
        changed = parameters | {"input_data": data | {"system": system}}
        super().write_input(profile, directory, spins, changed, properties)

    def execute(self, directory: Path, profile: EspressoProfile) -> None:
        """Run pw.x. Raises ReferenceFailedError with the reason when it says that it failed."""
        output, errors = directory / self.outputname, directory / self.errorname
        try:
            status = run(profile.get_command(self.inputname), directory, self.outputname, self.errorname)
        finally:
            shutil.rmtree(directory / SCRATCH, ignore_errors=True)
        said, cried = (path.read_text(encoding="utf-8", errors="replace") for path in (output, errors))
        if reason := why_no_result(said, cried, status):
            raise ReferenceFailedError(reason.words, reason.kind)

    def read_results(self, directory: Path) -> dict[str, Any]:
        """Energy, forces and stress. Raises ReferenceFailedError for an output that cannot be read."""
        output = (directory / self.outputname).read_text(encoding="utf-8", errors="replace")
        try:
            return results_in(output, self.atoms)
        except ValueError as error:
            raise ReferenceFailedError(f"output cannot be read: {error}", Failure.UNREADABLE_OUTPUT) from error


def _numbered(key: str, numbers: Mapping[str, int]) -> str:
    def number(found: re.Match[str]) -> str:
        return str(numbers.get(found[0], found[0]))

    name, bracket, inside = key.partition("(")
    return f"{name}{bracket}{re.sub(r'[A-Z][a-z]?', number, inside)}"


@cache
def version_of(command: tuple[str, ...]) -> str:
    """What pw.x says when it is started without input. Raises ReferenceFailedError if it does not start."""
    said = ask(command, PROGRAM)
    version = version_in(said)
    if version is None:
        raise is_another(command, PROGRAM, said)
    return version
