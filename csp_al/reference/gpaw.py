"""GPAW in plane waves: density functional theory in the same process, or by MPI in several of their own.

J. Enkovaara et al., J. Phys.: Condens. Matter 22, 253202 (2010), doi:10.1088/0953-8984/22/25/253202;
J. J. Mortensen et al., J. Chem. Phys. 160, 092503 (2024), doi:10.1063/5.0182685.

The k-points follow from the geometry that a calculator is made for and stay as they are while a relaxation changes
the cell; the plane waves are chosen anew for every cell, at the same cutoff, and the stress is corrected for that.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.subprocesscalculator import MPICommand, NamedPackedCalculator, PythonSubProcessCalculator
from ase.units import Hartree

from csp_al.campaign.machine import Machine
from csp_al.campaign.references import GpawReference
from csp_al.interfaces import ReferenceFailedError
from csp_al.reference.children import die_with_parent, one_thread_each
from csp_al.reference.kpoints import monkhorst_pack

if TYPE_CHECKING:
    from ase import Atoms
    from ase.calculators.calculator import BaseCalculator

PATIENCE: Final = 60.0  # s in which GPAW has started
INSTALL: Final = 'pip install "csp_al[gpaw]"'


@dataclass(frozen=True)
class Gpaw:
    """Plane-wave GPAW as a `csp_al.interfaces.Reference`."""

    section: GpawReference
    species: tuple[str, ...] = ()
    machine: Machine = field(default_factory=Machine)
    name: str = "gpaw"

    def calculator(self, atoms: Atoms, directory: Path) -> BaseCalculator:
        """GPAW for these atoms, its log in the directory; keywords of the section's ``parameters`` override ours."""
        keywords: dict[str, Any] = {
            "mode": {"name": "pw", "ecut": self.section.cutoff},
            "xc": self.section.xc,
            "kpts": {"size": self.kpoints(atoms), "gamma": True},
            "occupations": {"name": "fermi-dirac", "width": self.section.smearing},
            "txt": str(directory / "gpaw.txt"),
        }
        keywords |= self.section.parameters
        if self.machine.cores_per_label > 1:
            return PulayCorrected(Parallel(self._command(), keywords, directory), self._pulay(atoms))
        from gpaw import GPAW

        return PulayCorrected(GPAW(**keywords), self._pulay(atoms))

    def _pulay(self, atoms: Atoms) -> float:
        """How the energy (eV) changes with the logarithm of the volume, since a larger cell has more plane waves.

        0 where the user's keywords choose other waves, datasets or functionals than the section.
        """
        if {"mode", "setups", "xc"} & set(self.section.parameters):
            return 0.0
        symbols = atoms.symbols.formula.count()
        return sum(
            count * pulay_energy(symbol, self.section.xc, self.section.cutoff) for symbol, count in symbols.items()
        )

    def kpoints(self, atoms: Atoms) -> list[int]:
        """Divisions of the mesh of k-points for this cell."""
        return monkhorst_pack(atoms, self.section.kspacing)

    def check(self) -> list[tuple[str, str]]:
        """Which of GPAW, its datasets, and the datasets of the species are missing, with what installs them."""
        if find_spec("gpaw") is None:
            return [("kind", f"GPAW is not installed; {INSTALL}")]
        from gpaw import setup_paths

        if not setup_paths:
            return [("kind", f"GPAW has no PAW datasets; {INSTALL}, or set GPAW_SETUP_PATH to where they are")]
        wrong = self._wrong_launch() if self.machine.cores_per_label > 1 else []
        if "setups" in self.section.parameters:
            return wrong  # the user names the datasets
        return wrong + self._missing_datasets()

    def warnings(self) -> list[tuple[str, str]]:
        """None."""
        return []

    def pinned(self) -> GpawReference:
        """The section as it is: GPAW's version and its datasets' are among the packages'."""
        return self.section

    def versions(self) -> dict[str, str]:
        """None beside the packages'."""
        return {}

    def _command(self) -> list[str]:
        """What starts Python with GPAW on the cores of a label."""
        return [*self.machine.command(sys.executable), "-P", "-m", "gpaw", "python"]

    def _wrong_launch(self) -> list[tuple[str, str]]:
        """Whether as many processes as a label has cores find one another."""
        command = [*self._command(), "-c", "from gpaw.mpi import world; print(world.size)"]
        try:
            ran = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
                timeout=PATIENCE, check=False, env=one_thread_each(),
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as error:
            return [("kind", f"{command[0]} does not start GPAW ({error}); mend launcher in the machine file")]
        cores = self.machine.cores_per_label
        if str(cores) in ran.stdout.split():
            return []
        lines = [line.strip() for line in f"{ran.stdout}\n{ran.stderr}".splitlines() if re.search("[a-z0-9]", line)]
        said = next((line for line in lines if re.match(r"\w*Error: ", line)), lines[-1] if lines else "nothing")
        remedy = "give cores_per_label: 1, or install a GPAW that was built with MPI"
        return [("kind", f"GPAW does not run on {cores} cores ({command[0]}: {said[:150]}); {remedy}")]

    def _missing_datasets(self) -> list[tuple[str, str]]:
        from gpaw.setup_data import search_for_file
        from gpaw.xc import XC

        try:
            dataset = XC(self.section.xc).get_setup_name()
        except (NameError, ValueError, KeyError) as error:
            return [("xc", f"GPAW knows no functional {self.section.xc!r} ({error}); write e.g. PBE")]
        missing = []
        for symbol in self.species:
            try:
                search_for_file(f"{symbol}.{dataset}")
            except (FileNotFoundError, RuntimeError):
                message = (
                    f"GPAW has no PAW dataset {symbol}.{dataset}; pip install --upgrade gpaw-data, "
                    f"or name one in reference.parameters.setups"
                )
                missing.append(("kind", message))
        return missing


@cache
def pulay_energy(symbol: str, xc: str, cutoff: float) -> float:
    """-2/3 E_cut dE/dE_cut (eV) of an atom, from the kinetic energy of its pseudo partial waves beyond the cutoff (eV).

    GPAW's own estimate, which its present plane-wave mode no longer applies. For oxygen at 340 eV it is -10.6 eV, which
    in corundum is 117 of the 145 GPa by which the stress there is not the derivative of the energy.
    """
    from gpaw.setup import create_setup
    from gpaw.utilities.ekin import dekindecut, ekin
    from gpaw.xc import XC

    wave_vectors, energies, _ = ekin(create_setup(symbol, XC(xc)))
    return float(-dekindecut(wave_vectors, energies, cutoff / Hartree)) * 2 / 3 * cutoff


class PulayCorrected(Calculator):
    """A calculator whose stress follows the energy at a constant cutoff: p = E_Pulay / V is added to its diagonal."""

    implemented_properties: Final = ["energy", "free_energy", "forces", "stress"]

    def __init__(self, inner: BaseCalculator, pulay: float) -> None:
        super().__init__()
        self.inner, self.pulay = inner, pulay

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        """Energy, forces and stress, whatever was asked for."""
        super().calculate(atoms, properties, system_changes)
        asked = self.atoms.copy()
        asked.calc = self.inner
        stress = asked.get_stress()
        stress[:3] += self.pulay / asked.get_volume()
        free_energy = asked.get_potential_energy(force_consistent=True)
        self.results = {
            "energy": asked.get_potential_energy(),
            "free_energy": free_energy,
            "forces": asked.get_forces(),
            "stress": stress,
        }


class Parallel(PythonSubProcessCalculator):
    """GPAW in processes of its own, started when it is first asked and ended with the calculator."""

    def __init__(self, command: list[str], keywords: dict[str, Any], directory: Path) -> None:
        super().__init__(NamedPackedCalculator("gpaw", keywords), Started(command))
        self.log = directory / "output.log"

    def calculate(self, atoms: Atoms, properties: list[str], system_changes: list[str]) -> None:  # noqa: ARG002
        """Energy, forces and stress, whatever was asked for. Raises ReferenceFailedError if GPAW dies."""
        if self.protocol is None:
            self.__enter__()
        try:
            super().calculate(atoms, ["energy", "forces", "stress"], system_changes)
        except (EOFError, BrokenPipeError) as error:
            raise ReferenceFailedError(_last_error(self.log) or "killed: GPAW's processes ended") from error

    def __del__(self) -> None:
        if self.protocol is not None:
            with suppress(OSError):
                self.__exit__()


def _last_error(log: Path) -> str:
    """The last line of a log that names an exception; empty if none does."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
    return next((line.strip() for line in reversed(lines) if re.match(r"[\w.]*Error: ", line)), "")


class Started(MPICommand):
    """The launcher, in an environment in which processes share the machine, dying with us."""

    def __init__(self, command: list[str]) -> None:
        super().__init__([*command, "-m", "ase.calculators.subprocesscalculator", "standard"])

    def execute(self) -> subprocess.Popen[bytes]:
        """Start it, with pipes to its first process."""
        pipe = subprocess.PIPE
        return subprocess.Popen(
            self.argv,
            stdin=pipe,
            stdout=pipe,
            env=one_thread_each(),
            preexec_fn=die_with_parent,  # noqa: PLW1509
        )
