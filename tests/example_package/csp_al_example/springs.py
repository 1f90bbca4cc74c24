"""A reference in one file: ASE's Morse potential, whose depth and reach the campaign file says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from csp_al.campaign.machine import Machine
from csp_al.campaign.references import ReferenceSection
from csp_al.campaign.section import Positive
from csp_al.interfaces import Reference, ReferenceKind

if TYPE_CHECKING:
    from ase import Atoms
    from ase.calculators.calculator import BaseCalculator


class SpringsReference(ReferenceSection):
    """A Morse potential between all atoms."""

    depth: Positive = Field(0.5, description="eV, of the well of a pair")
    distance: Positive = Field(2.8, description="Å, at the bottom of the well")


@dataclass(frozen=True)
class Springs:
    """The potential as a `csp_al.interfaces.Reference`."""

    section: SpringsReference
    name: str = "springs"

    def calculator(self, atoms: Atoms, directory: Path) -> BaseCalculator:
        """A fresh calculator; it writes nothing."""
        from ase.calculators.morse import MorsePotential

        return MorsePotential(epsilon=self.section.depth, r0=self.section.distance, rho0=4.0, rcut1=1.6, rcut2=2.0)

    def kpoints(self, atoms: Atoms) -> list[int] | None:
        """None: a pair potential has no mesh."""
        return None

    def check(self) -> list[tuple[str, str]]:
        """Nothing can be missing."""
        return []

    def warnings(self) -> list[tuple[str, str]]:
        """A well that is deeper than any bond."""
        return [("depth", "deeper than any bond")] if self.section.depth > 10 else []

    def pinned(self) -> SpringsReference:
        """The section as it is: a result depends on nothing else."""
        return self.section

    def versions(self) -> dict[str, str]:
        """ASE has the potential."""
        return {"ase": version("ase")}


def build(section: SpringsReference, species: Sequence[str], machine: Machine, base: Path) -> Reference:
    """The reference that a section describes; the potential is the same for all species and machines."""
    return Springs(section)


KIND = ReferenceKind(section=SpringsReference, build=build, bytes_per_task=4_000)
