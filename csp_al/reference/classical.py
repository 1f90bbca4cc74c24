"""Classical potentials with keywords that fit into a campaign file.

reference:
  kind: ase
  calculator: csp_al.reference.classical.lennard_jones
  parameters: {epsilon: 1.0, sigma: 2.0, cutoff: 5.0}
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import fields
from itertools import combinations_with_replacement
from typing import TYPE_CHECKING

from ase.calculators.calculator import all_changes
from ase.calculators.tersoff import Tersoff, TersoffParameters
from matscipy.calculators.pair_potential import LennardJonesLinear, PairPotential

if TYPE_CHECKING:
    from ase import Atoms

TERSOFF_PARAMETERS = tuple(field.name for field in fields(TersoffParameters))


def tersoff(**triples: Mapping[str, float]) -> SmoothTersoff:
    """ASE's Tersoff potential from parameters in the file, one mapping for each triple of species.

    Keys are triples such as Si-Si-Si, values map the 14 names of ASE's TersoffParameters (LAMMPS's units "metal":
    eV, Å). Raises ValueError for a key that is no triple and for parameters that are missing or unknown.
    J. Tersoff, Phys. Rev. B 38, 9902 (1988), in the form of LAMMPS.
    """
    return SmoothTersoff({_species(triple): _tersoff_parameters(triple, values) for triple, values in triples.items()})


def lennard_jones(epsilon: float, sigma: float, cutoff: float) -> ForceShiftedLennardJones:
    """12-6 Lennard-Jones between all atoms, force-shifted: V(r) - V(rc) - (r - rc) V'(rc) for r < rc.

    Epsilon in eV, sigma and cutoff in Å; the species do not matter. S. Toxvaerd, J. C. Dyre, J. Chem. Phys. 134,
    081102 (2011), doi:10.1063/1.3558787.
    """
    return ForceShiftedLennardJones(float(epsilon), float(sigma), float(cutoff))


class SmoothTersoff(Tersoff):
    """ASE's Tersoff potential with the forces of a bond that has no further neighbours."""

    def _calc_bij_d(self, zeta: float, beta: float, n: float) -> float:
        # b = (1 + (beta zeta)^n)^(-1/2n), and for n < 1 its derivative grows as zeta^(n-1) without bound. Forces need
        # its product with the gradient of zeta, which vanishes where zeta does: zeta is a sum of terms that are never
        # negative, so 0 is its minimum. With no third atom in reach both are 0 all around. Where a third atom enters
        # at a distance x within the cutoff, zeta grows as x^2 and b - 1 as x^2n, so that the force begins as
        # x^(2n-1): at 0 too, for n > 1/2. Where beta is 0, b is 1 for any zeta.
        return 0.0 if beta * zeta == 0 else super()._calc_bij_d(zeta, beta, n)


class ForceShiftedLennardJones(PairPotential):
    """Matscipy's pair potential, the same for every pair of species that it meets."""

    def __init__(self, epsilon: float, sigma: float, cutoff: float) -> None:
        self.interaction = LennardJonesLinear(epsilon, sigma, cutoff)
        super().__init__({})

    def calculate(
        self, atoms: Atoms, properties: Sequence[str] = ("energy",), system_changes: Sequence[str] = all_changes
    ) -> None:
        """Energy, forces and stress."""
        pairs = combinations_with_replacement(sorted(set(atoms.numbers.tolist())), 2)
        self.f = dict.fromkeys(pairs, self.interaction)
        self.reset()
        super().calculate(atoms, properties, system_changes)


def _species(triple: str) -> tuple[str, str, str]:
    names = triple.split("-")
    if len(names) != 3:
        msg = f"{triple!r} is no triple of species; write e.g. Si-Si-Si"
        raise ValueError(msg)
    return names[0], names[1], names[2]


def _tersoff_parameters(triple: str, values: Mapping[str, float]) -> TersoffParameters:
    for name in values:
        if name not in TERSOFF_PARAMETERS:
            close = difflib.get_close_matches(name, TERSOFF_PARAMETERS, n=1)
            hint = f"; did you mean {close[0]}?" if close else f"; allowed: {', '.join(TERSOFF_PARAMETERS)}"
            raise ValueError(f"{triple}: no Tersoff parameter is called {name!r}{hint}")
    missing = [name for name in TERSOFF_PARAMETERS if name not in values]
    if missing:
        msg = f"{triple}: Tersoff parameters missing: {', '.join(missing)}"
        raise ValueError(msg)
    return TersoffParameters(**{name: float(value) for name, value in values.items()})
