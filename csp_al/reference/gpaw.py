"""GPAW in plane waves: density functional theory in the same process, or by MPI in several of their own.

J. Enkovaara et al., J. Phys.: Condens. Matter 22, 253202 (2010), doi:10.1088/0953-8984/22/25/253202;
J. J. Mortensen et al., J. Chem. Phys. 160, 092503 (2024), doi:10.1063/5.0182685.

The k-points follow from the geometry that a calculator is made for and stay as they are while a relaxation changes
the cell; the plane waves are chosen anew for every cell, at the same cutoff, and the stress is corrected for that.
"""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

from pydantic import Field

from csp_al.campaign.errors import Finding
from csp_al.campaign.machine import Machine
from csp_al.campaign.references import ReferenceSection
from csp_al.campaign.section import Positive
from csp_al.interfaces import Cure, Failure, ReferenceKind
from csp_al.reference.children import one_thread_each
from csp_al.reference.cutoffs import meant_in_ev
from csp_al.reference.kpoints import monkhorst_pack
from csp_al.reference.ladder import AGAIN

if TYPE_CHECKING:
    from ase import Atoms
    from ase.calculators.calculator import BaseCalculator

PATIENCE: Final = 60.0  # s in which GPAW has started
INSTALL: Final = 'pip install "csp_al[gpaw]"'

SECONDS: Final = (10.0, 68.0)
"""Core seconds of a single point, seen on one core at 250 to 400 eV and a k-spacing of 0.35 to 0.5 1/Å: Si2 10,
Si8 14 to 23, Si16 19, Al4O6 68."""
CUTOFF, KSPACING, ATOMS = 325.0, 0.42, 16
"""Middle of those settings, and the largest of those cells."""

PLAIN: Final = {
    "basis", "charge", "convergence", "eigensolver", "hund", "magmoms", "maxiter", "mixer", "mode", "nbands",
    "occupations", "poissonsolver", "random", "setups", "soc", "spinpol", "symmetry", "xc",
}  # fmt: skip
"""Keywords of GPAW that neither write a file nor read one."""

LADDER: Final = (
    AGAIN,
    Cure(
        frozenset(Failure) - {Failure.TIME_LIMIT}, "slower density mixing, more SCF steps, no point-group symmetry",
        {"parameters": {
            "mixer": {"name": "pulay", "beta": 0.02, "nmaxold": 8, "weight": 100.0},
            "maxiter": 1000,
            "eigensolver": {"name": "davidson", "niter": 3},
            "symmetry": {"point_group": False},  # almost symmetric cells: the group may break between two steps
        }},
    ),
)  # fmt: skip


class GpawReference(ReferenceSection):
    """GPAW, plane waves, in its own process."""

    curable: ClassVar[tuple[str, ...]] = ("parameters", "time_limit")

    kind: Literal["gpaw"] = "gpaw"
    cutoff: Positive = Field(400, description="eV, plane-wave cutoff")
    kspacing: Positive = Field(0.3, description="1/Å (2 pi included), largest distance between k-points")
    xc: str = Field("PBE", description="exchange and correlation")
    smearing: Positive = Field(0.1, description="eV, Fermi-Dirac width")
    parameters: dict[str, Any] = Field(default_factory=dict, description="further keywords of gpaw.GPAW")

    def senseless(self) -> Iterator[Finding]:
        """A cutoff that is meant in another unit."""
        if message := meant_in_ev(self.cutoff):
            yield Finding(("cutoff",), message)


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
        from csp_al.reference.gpaw_calculators import Parallel, PulayCorrected

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
        from csp_al.reference.gpaw_calculators import pulay_energy

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
        wrong = self._wrong_parameters()
        wrong += self._wrong_launch() if self.machine.cores_per_label > 1 else []
        if "setups" in self.section.parameters:
            return wrong  # the user names the datasets
        return wrong + self._missing_datasets()

    def _wrong_parameters(self) -> list[tuple[str, str]]:
        """Whether GPAW takes the keywords; of their values it looks at few before there are atoms."""
        from gpaw import GPAW

        try:
            GPAW(**{"mode": "pw", **self.section.parameters, "txt": None})
        except Exception as error:  # noqa: BLE001 - each part of GPAW fails in its own way
            return [("parameters", f"GPAW does not take them ({type(error).__name__}: {error})")]
        return []

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


def _prepare(_: GpawReference) -> None:
    with suppress(ImportError):
        for module in ("gpaw.new.ase_interface", "gpaw.new.pw.builder"):
            importlib.import_module(module)


def _foreign_code(section: GpawReference) -> str:
    settings = [section.parameters, *(remedy.set.get("parameters", {}) for remedy in section.remedies)]
    keys = sorted({key for parameters in settings for key in parameters} - PLAIN)
    return f"reference.parameters.{keys[0]}" if keys else ""


def _core_seconds(section: GpawReference, n_atoms: int) -> tuple[tuple[float, float], str]:
    size = max(1.0, n_atoms / ATOMS)
    finer = (section.cutoff / CUTOFF) ** 1.5 * (KSPACING / section.kspacing) ** 3
    least, most = (one * finer * size**2 for one in SECONDS)
    basis = (
        f"roughly {least:.0f} to {most:.0f} core seconds per single point, scaled from {SECONDS[0]:.0f} "
        f"(Si2) to {SECONDS[1]:.0f} (Al4O6) at 250 to 400 eV and 0.35 to 0.5 1/Å; measured after the first cycle"
    )
    return (least, most), basis


KIND: Final = ReferenceKind(
    section=GpawReference,
    build=lambda section, species, machine, base: Gpaw(section, tuple(species), machine),  # noqa: ARG005
    prepare=_prepare,
    foreign_code=_foreign_code,
    ladder=LADDER,
    bytes_per_task=20_000,
    core_seconds=_core_seconds,
    functional=lambda reference: reference.section.xc,
)
