"""GPAW in plane waves: density functional theory in the same process.

J. Enkovaara et al., J. Phys.: Condens. Matter 22, 253202 (2010), doi:10.1088/0953-8984/22/25/253202;
J. J. Mortensen et al., J. Chem. Phys. 160, 092503 (2024), doi:10.1063/5.0182685.

The k-points follow from the geometry that a calculator is made for and stay as they are while a relaxation changes
the cell; the plane waves are chosen anew for every cell, at the same cutoff.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from csp_al.campaign.models import GpawReference

if TYPE_CHECKING:
    from ase import Atoms
    from ase.calculators.calculator import BaseCalculator

INSTALL: Final = 'pip install "csp_al[gpaw]"'

GENTLE: Final[dict[str, Any]] = {
    "mixer": {"name": "pulay", "beta": 0.02, "nmaxold": 8, "weight": 100.0},
    "maxiter": 1000,
    "eigensolver": {"name": "davidson", "niter": 3},
    "symmetry": {"point_group": False},  # almost symmetric cells: the group may break between two steps
}
"""How to iterate to the same answer more carefully; cutoff, smearing and k-points are not touched."""


@dataclass(frozen=True)
class Gpaw:
    """Plane-wave GPAW as a `csp_al.interfaces.Reference`."""

    section: GpawReference
    species: tuple[str, ...] = ()
    name: str = "gpaw"
    remedies: Sequence[str] = ("slower density mixing, more SCF steps, no point-group symmetry",)

    def calculator(self, atoms: Atoms, directory: Path, attempt: int) -> BaseCalculator:
        """GPAW for these atoms, its log in the directory; attempt 1 iterates gently.

        Keywords of the section's ``parameters`` override ours; those of the remedy override them in turn.
        """
        from gpaw import GPAW

        keywords: dict[str, Any] = {
            "mode": {"name": "pw", "ecut": self.section.cutoff},
            "xc": self.section.xc,
            "kpts": {"size": monkhorst_pack(atoms, self.section.kspacing), "gamma": True},
            "occupations": {"name": "fermi-dirac", "width": self.section.smearing},
            "txt": str(directory / "gpaw.txt"),
        }
        return GPAW(**keywords | self.section.parameters | (GENTLE if attempt > 0 else {}))

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


def monkhorst_pack(atoms: Atoms, kspacing: float) -> list[int]:
    """Divisions (3,) of a Gamma-centred mesh: ceil(|b| / kspacing) along each reciprocal vector b, 2 pi included.

    The spacing is in 1/Å. H. J. Monkhorst, J. D. Pack, Phys. Rev. B 13, 5188 (1976).
    """
    lengths = 2 * np.pi * np.linalg.norm(atoms.cell.reciprocal(), axis=1)
    # 1e-9: a length that is a multiple of the spacing stays one when rounded
    return [max(1, int(np.ceil(length / kspacing - 1e-9))) for length in lengths]
