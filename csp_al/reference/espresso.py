"""Quantum ESPRESSO's pw.x as the reference, through ASE's calculator.

P. Giannozzi et al., J. Phys.: Condens. Matter 29, 465901 (2017), doi:10.1088/1361-648X/aa8f79. Works with 6.7 and 7.x.

The k-points follow from the geometry that a calculator is made for and stay as they are while a relaxation changes
the cell; the plane waves are chosen anew for every cell, at the same cutoff. The energy is pw.x's total energy, which
with smearing is the free energy whose derivatives the forces are.
"""

from __future__ import annotations

import math
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ase.calculators.espresso import Espresso as AseEspresso
from ase.calculators.espresso import EspressoProfile, EspressoTemplate
from ase.units import Ry

from csp_al.campaign.machine import Machine
from csp_al.campaign.namelists import elements_in
from csp_al.campaign.references import EspressoReference
from csp_al.interfaces import ReferenceFailedError
from csp_al.reference import pseudopotentials
from csp_al.reference.children import die_with_parent, one_thread_each
from csp_al.reference.kpoints import monkhorst_pack
from csp_al.reference.pseudopotentials import Pseudopotential, PseudopotentialError
from csp_al.reference.pw_output import results_in, version_in, why_no_result

if TYPE_CHECKING:
    from ase import Atoms

PROGRAM: Final = "pw.x"
SCRATCH: Final = "scratch"  # below the attempt's folder
PATIENCE: Final = 30.0  # s in which pw.x has said its version
SAME_RYDBERG: Final = 1e-6

DEFAULTS: Final[Mapping[str, Mapping[str, Any]]] = {
    "control": {"disk_io": "none"},
    "system": {"occupations": "smearing", "smearing": "gaussian"},
    "electrons": {"conv_thr": 1e-8, "mixing_beta": 0.5, "electron_maxstep": 100},
}
"""Our choice where pw.x's own does not suit thousands of random cells; the user's namelists override it.

Cold smearing (Marzari and Vanderbilt) would suit metals better, but with it an insulator can have several Fermi
energies: the SCF of a random Na4Cl4 hopped for 650 steps, until it was stopped, and took 8 with a Gaussian (pw.x 6.7).
"""


@dataclass(frozen=True)
class Espresso:
    """pw.x as a `csp_al.interfaces.Reference`; ``base`` is the folder that pseudo_dir is seen from."""

    section: EspressoReference
    species: Sequence[str] = ()
    machine: Machine = field(default_factory=Machine)
    base: Path = Path()
    name: str = "espresso"

    def calculator(self, atoms: Atoms, directory: Path) -> AseEspresso:
        """pw.x for these atoms. Raises ReferenceFailedError for a pseudopotential that is not the campaign's."""
        found = pseudopotentials.find(self.folder, dict.fromkeys(atoms.symbols), self.section.pseudopotentials)
        for element, pseudo in found.items():
            if message := self._changed(element, pseudo.path):
                raise ReferenceFailedError(message)
        calculator = AseEspresso(
            profile=EspressoProfile(shlex.join(self.machine.command(PROGRAM)), self.folder.resolve()),
            directory=directory,
            pseudopotentials={element: self._name(pseudo) for element, pseudo in found.items()},
            # a mesh even for Gamma alone: what pw.x 6.7 does there in half the time may end in another state
            kpts=tuple(self.kpoints(atoms)),
            input_data=self._input(atoms, found),
            additional_cards=list(self.section.cards),
        )
        calculator.template = PwTemplate()
        return calculator

    def kpoints(self, atoms: Atoms) -> list[int]:
        """Divisions of the mesh of k-points for this cell."""
        return monkhorst_pack(atoms, self.section.kspacing)

    def check(self) -> list[tuple[str, str]]:
        """What is wrong with pseudopotentials and program; runs pw.x for a moment."""
        return [*self._wrong_pseudopotentials(), *self._wrong_elements(), *self._wrong_program()]

    def warnings(self) -> list[tuple[str, str]]:
        """A cutoff below what the pseudopotentials suggest; spin that nothing starts."""
        return [*self._low_cutoff(), *self._no_moments()]

    def _low_cutoff(self) -> list[tuple[str, str]]:
        suggested, _ = pseudopotentials.suggested_cutoffs(self.found)
        given = self.section.ecutwfc
        if given is None or suggested is None or given > suggested - SAME_RYDBERG:
            return []
        hardest = max(self.found.values(), key=lambda pseudo: pseudo.ecutwfc or 0)
        return [("ecutwfc", f"{given:g} Ry is below the {suggested:g} Ry that {hardest.path.name} suggests")]

    def _no_moments(self) -> list[tuple[str, str]]:
        system = self.section.namelists.get("system", {})
        if system.get("nspin", 1) != 2 or any(key.startswith("starting_magnetization") for key in system):
            return []
        return [("namelists", "nspin is 2 without a starting_magnetization: such a calculation stays without moments")]

    def pinned(self) -> EspressoReference:
        """The section with files, checksums and cutoffs written out: all that a result depends on."""
        suggested, density = pseudopotentials.suggested_cutoffs(self.found)
        waves = self.section.ecutwfc or suggested
        assert waves is not None  # `check` asks for it
        factor = max(pseudo.density_factor for pseudo in self.found.values())
        return self.section.model_copy(
            update={
                "pseudopotentials": {element: self._name(pseudo) for element, pseudo in self.found.items()},
                "checksums": {element: pseudopotentials.checksum(p.path) for element, p in self.found.items()},
                "ecutwfc": waves,
                "ecutrho": self.section.ecutrho or max(factor * waves, density or 0),
            }
        )

    def versions(self) -> dict[str, str]:
        """What runs, for the record."""
        return {PROGRAM: _version(tuple(self.machine.command(PROGRAM)))}

    @cached_property
    def folder(self) -> Path:
        """Where the pseudopotentials are."""
        if self.section.pseudo_dir is not None:
            return self.base / Path(self.section.pseudo_dir).expanduser()
        return Path(self.machine.pseudo_dir or os.environ.get("ESPRESSO_PSEUDO") or ".").expanduser()

    @cached_property
    def found(self) -> dict[str, Pseudopotential]:
        """The pseudopotential of each species. Raises PseudopotentialError."""
        return pseudopotentials.find(self.folder, self.species, self.section.pseudopotentials)

    def _name(self, pseudo: Pseudopotential) -> str:
        """Of its file, seen from the folder."""
        return os.path.relpath(pseudo.path, self.folder)

    def _changed(self, element: str, path: Path) -> str:
        expected = self.section.checksums.get(element)
        if expected is None or expected == pseudopotentials.checksum(path):
            return ""
        return f"{path.name} of {element} is not the file that checksums tell of (SHA-256 {expected[:12]}...)"

    def _wrong_pseudopotentials(self) -> list[tuple[str, str]]:
        if not (self.section.pseudo_dir or self.machine.pseudo_dir or os.environ.get("ESPRESSO_PSEUDO")):
            return [("pseudo_dir", "missing; name the folder of your pseudopotentials here, or set ESPRESSO_PSEUDO")]
        try:
            found = self.found
        except PseudopotentialError as error:
            return [("pseudopotentials" if self.folder.is_dir() else "pseudo_dir", str(error))]
        wrong = [("checksums", message) for element, p in found.items() if (message := self._changed(element, p.path))]
        kinds = {pseudo.functional for pseudo in found.values()}
        if len(kinds) > 1 and "input_dft" not in self.section.namelists.get("system", {}):
            made = ", ".join(f"{pseudo.path.name}: {pseudo.functional}" for pseudo in found.values())
            remedy = "take them from one family, or name the functional in namelists.system.input_dft"
            wrong.append(("pseudopotentials", f"made for different functionals ({made}); {remedy}"))
        if self.section.ecutwfc is None and pseudopotentials.suggested_cutoffs(found)[0] is None:
            silent = ", ".join(pseudo.path.name for pseudo in found.values() if pseudo.ecutwfc is None)
            wrong.append(("ecutwfc", f"missing, and {silent} suggests none; give one in Ry"))
        return wrong

    def _wrong_elements(self) -> list[tuple[str, str]]:
        wrong = {key: sorted(s - set(self.species)) for key, s in elements_in(self.section.namelists).items()}
        known = ", ".join(self.species)
        return [
            ("namelists", f"{key}: {', '.join(others)} is none of {known}") for key, others in wrong.items() if others
        ]

    def _wrong_program(self) -> list[tuple[str, str]]:
        try:
            self.versions()
        except ReferenceFailedError as error:
            return [("kind", str(error))]
        return []

    def _input(self, atoms: Atoms, found: Mapping[str, Pseudopotential]) -> dict[str, dict[str, Any]]:
        pinned = Espresso(self.section, tuple(found), self.machine, self.base).pinned()
        given = self.section.namelists
        data = {name: {**settings, **given.get(name, {})} for name, settings in DEFAULTS.items()}
        data["control"] |= {"calculation": "scf", "outdir": SCRATCH, "prefix": "pw", "tprnfor": True, "tstress": True}
        data["system"] |= {"ecutwfc": pinned.ecutwfc, "ecutrho": pinned.ecutrho}
        if data["system"]["occupations"] == "smearing":
            data["system"]["degauss"] = self.section.smearing / Ry
        else:
            data["system"].pop("smearing")
        if self.section.bands is not None:
            data["system"]["nbnd"] = self._bands(atoms, found, self.section.bands)
        return data

    def _bands(self, atoms: Atoms, found: Mapping[str, Pseudopotential], per_pair: float) -> int:
        """Bands by pairs of electrons, and never fewer than pw.x takes for a metal."""
        system = self.section.namelists.get("system", {})
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
            with output.open("wb") as out, errors.open("wb") as err:
                status = subprocess.run(
                    profile.get_command(self.inputname),
                    cwd=directory, stdin=subprocess.DEVNULL, stdout=out, stderr=err, check=False,
                    env=one_thread_each(), preexec_fn=die_with_parent,
                ).returncode  # fmt: skip
        except OSError as error:
            raise ReferenceFailedError(f"cannot run: {profile.command} ({error.strerror})") from error
        finally:
            shutil.rmtree(directory / SCRATCH, ignore_errors=True)
        said, cried = (path.read_text(encoding="utf-8", errors="replace") for path in (output, errors))
        if reason := why_no_result(said, cried, status):
            raise ReferenceFailedError(reason)

    def read_results(self, directory: Path) -> dict[str, Any]:
        """Energy, forces and stress. Raises ReferenceFailedError for an output that cannot be read."""
        output = (directory / self.outputname).read_text(encoding="utf-8", errors="replace")
        try:
            return results_in(output, self.atoms)
        except ValueError as error:
            raise ReferenceFailedError(f"output cannot be read: {error}") from error


def _numbered(key: str, numbers: Mapping[str, int]) -> str:
    def number(found: re.Match[str]) -> str:
        return str(numbers.get(found[0], found[0]))

    name, bracket, inside = key.partition("(")
    return f"{name}{bracket}{re.sub(r'[A-Z][a-z]?', number, inside)}"


@cache
def _version(command: tuple[str, ...]) -> str:
    """What pw.x says when it is started without input. Raises ReferenceFailedError if it does not start."""
    line = " ".join(command)
    with tempfile.TemporaryDirectory() as folder:  # it leaves files
        try:
            ran = subprocess.run(
                command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
                timeout=PATIENCE, check=False, env=one_thread_each(), preexec_fn=die_with_parent,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise ReferenceFailedError(f"{line} said nothing in {PATIENCE:g} s; is it pw.x?") from error
        except OSError as error:
            remedy = f"put {PROGRAM} on PATH (on clusters: module load), or into the machine file's programs"
            raise ReferenceFailedError(f"{line} cannot be run ({error.strerror}); {remedy}") from error
    version = version_in(ran.stdout)
    if version is None:
        last = next((said for said in reversed((ran.stderr or ran.stdout).splitlines()) if said.strip()), "nothing")
        raise ReferenceFailedError(f"{line} does not say that it is pw.x, but: {last.strip()[:200]}")
    return version
