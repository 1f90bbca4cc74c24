"""GPAW in plane waves: density functional theory in the same process.

J. Enkovaara et al., J. Phys.: Condens. Matter 22, 253202 (2010), doi:10.1088/0953-8984/22/25/253202;
J. J. Mortensen et al., J. Chem. Phys. 160, 092503 (2024), doi:10.1063/5.0182685.

The k-points follow from the geometry that a calculator is made for and stay as they are while a relaxation changes
the cell; the plane waves are chosen anew for every cell, at the same cutoff.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from csp_al.campaign.machine import Machine
from csp_al.campaign.models import GpawReference
from csp_al.reference.kpoints import monkhorst_pack

if TYPE_CHECKING:
    from ase import Atoms
    from ase.calculators.calculator import BaseCalculator

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
        from gpaw import GPAW

        keywords: dict[str, Any] = {
            "mode": {"name": "pw", "ecut": self.section.cutoff},
            "xc": self.section.xc,
            "kpts": {"size": self.kpoints(atoms), "gamma": True},
            "occupations": {"name": "fermi-dirac", "width": self.section.smearing},
            "txt": str(directory / "gpaw.txt"),
        }
        return GPAW(**keywords | self.section.parameters)

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
        if "setups" in self.section.parameters:
            return []  # the user names the datasets
        return self._missing_datasets()

    def doubts(self) -> list[tuple[str, str]]:
        """None."""
        return []

    def pinned(self) -> GpawReference:
        """The section as it is: GPAW's version and its datasets' are among the packages'."""
        return self.section

    def versions(self) -> dict[str, str]:
        """None beside the packages'."""
        return {}

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
