"""ASE calculators around GPAW: a stress without the error of a finite cutoff, and processes of its own."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.subprocesscalculator import MPICommand, NamedPackedCalculator, PythonSubProcessCalculator
from ase.units import Hartree

from csp_al.interfaces import Failure, ReferenceFailedError
from csp_al.reference.children import die_with_parent, one_thread_each

if TYPE_CHECKING:
    from ase import Atoms
    from ase.calculators.calculator import BaseCalculator

ERRORS: Final = "gpaw-errors.txt"  # what its processes say on standard error


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
        self.log = directory / ERRORS
        super().__init__(NamedPackedCalculator("gpaw", keywords), Started(command, self.log))

    def calculate(self, atoms: Atoms, properties: list[str], system_changes: list[str]) -> None:  # noqa: ARG002
        """Energy, forces and stress, whatever was asked for. Raises ReferenceFailedError if GPAW dies."""
        if self.protocol is None:
            self.__enter__()
        try:
            super().calculate(atoms, ["energy", "forces", "stress"], system_changes)
        except (EOFError, BrokenPipeError) as error:
            if said := _last_error(self.log):
                raise ReferenceFailedError(said) from error
            raise ReferenceFailedError("killed: GPAW's processes ended", Failure.CRASHED) from error

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

    def __init__(self, command: list[str], errors: Path) -> None:
        super().__init__([*command, "-m", "ase.calculators.subprocesscalculator", "standard"])
        self.errors = errors

    def execute(self) -> subprocess.Popen[bytes]:
        """Start it, with pipes to its first process."""
        pipe = subprocess.PIPE
        with self.errors.open("ab") as errors:
            return subprocess.Popen(
                self.argv,
                stdin=pipe,
                stdout=pipe,
                stderr=errors,
                env=one_thread_each(),
                preexec_fn=die_with_parent,  # noqa: PLW1509
            )
