"""What a crystal is, for people who know crystals: space group at two tolerances, prototype, density, coordination.

    described = describe(atoms)
    described.prototype.name, described.coordination  # "Rutile (C4)", {"O": [3], "Ti": [6]}

Coordination is counted by pymatgen's CrystalNN (H. Pan et al., Inorg. Chem. 60, 1590 (2021),
doi:10.1021/acs.inorgchem.0c02996): faces of Voronoi cells, weighted by solid angle, distance and electronegativity. A
list by covalent radii would count the contacts between cations, which in NaCl and CsCl are as near as their radii say.
Where nothing is bonded, as in argon, it counts none.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from csp_al.cif import STRICT, SpaceGroup, conventional, strict_group
from csp_al.report.prototypes import Prototype, label_of, prototype_of

if TYPE_CHECKING:
    from ase import Atoms
    from pymatgen.core import Structure

GRAMS_PER_CM3: Final = 1.66053906660
"""Of a unit of atomic mass in an Å^3."""


@dataclass(frozen=True)
class Description:
    """Of a crystal. ``label`` is AFLOW's, None where spglib finds no symmetry; the density is in g/cm^3.

    ``coordination`` has the numbers of neighbours of the inequivalent sites of each element, None where the Voronoi
    cells cannot be made.
    """

    space_group: SpaceGroup
    strict_space_group: SpaceGroup
    prototype: Prototype
    label: str | None
    density: float
    coordination: dict[str, list[int]] | None

    @property
    def kind(self) -> str:
        """The prototype in words; where there is none, the label."""
        if self.prototype.isopointal:
            return f"isopointal to {self.prototype.isopointal}"
        return self.prototype.name or self.label or "-"

    @property
    def neighbours(self) -> str:
        """The coordination in words, as ``Ti 6, O 3``; ``O 2/3`` where the sites of an element differ."""
        if self.coordination is None:
            return "-"
        return ", ".join(f"{symbol} {'/'.join(map(str, counts))}" for symbol, counts in self.coordination.items())

    def as_json(self) -> dict[str, Any]:
        """With units in the keys; ``kind`` and ``neighbours`` are words for a table."""
        return {
            "strict_space_group": self.strict_space_group._asdict(),
            "prototype": self.prototype.name,
            "isopointal": self.prototype.isopointal,
            "label": self.label,
            "density_g_cm3": round(self.density, 5),
            "coordination": self.coordination,
            "kind": self.kind,
            "neighbours": self.neighbours,
        }


def describe(atoms: Atoms) -> Description:
    """All of it, in a few tenths of a second. Symmetry is that of the conventional cell (`csp_al.cif.SYMPREC`)."""
    from pymatgen.io.ase import AseAtomsAdaptor

    shown = conventional(atoms)
    group = strict_group(shown)
    structure = AseAtomsAdaptor.get_structure(shown)
    return Description(
        space_group=group,
        strict_space_group=strict_group(atoms),
        prototype=prototype_of(structure, group.number),
        label=label_of(structure),
        density=density(atoms),
        coordination=_coordination(structure),
    )


def density(atoms: Atoms) -> float:
    """Mass by volume, g/cm^3."""
    return float(GRAMS_PER_CM3 * atoms.get_masses().sum() / atoms.get_volume())


def _coordination(structure: Structure) -> dict[str, list[int]] | None:
    from pymatgen.analysis.local_env import CrystalNN
    from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

    found: dict[str, set[int]] = {}
    near = CrystalNN()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of sites without oxidation states
            orbits = SpacegroupAnalyzer(structure, symprec=STRICT).get_symmetrized_structure().equivalent_indices
            for first, *_ in orbits:
                found.setdefault(structure[first].specie.symbol, set()).add(int(near.get_cn(structure, first)))
    except (ValueError, RuntimeError):  # no Voronoi cells
        return None
    return {symbol: sorted(counts) for symbol, counts in found.items()}
