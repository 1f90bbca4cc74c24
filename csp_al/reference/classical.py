"""Classical potentials with keywords that fit into a campaign file.

reference:
  kind: ase
  calculator: csp_al.reference.classical.lennard_jones
  parameters: {epsilon: 1.0, sigma: 2.0, cutoff: 5.0}
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from itertools import combinations_with_replacement
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from ase.calculators.calculator import all_changes
from ase.calculators.tersoff import Tersoff, TersoffParameters
from ase.data import chemical_symbols
from ase.units import Bohr, Hartree
from matscipy.calculators.pair_potential import LennardJonesLinear, PairPotential
from matscipy.calculators.pair_potential.calculator import CutoffInteraction
from scipy.special import erfc

from csp_al.structures import Floats

if TYPE_CHECKING:
    from ase import Atoms
    from matscipy.calculators.manybody import Manybody

T = TypeVar("T")
REPULSION = ("A", "rho", "C")
TERSOFF_PARAMETERS = tuple(field.name for field in fields(TersoffParameters))


def tersoff(**triples: Mapping[str, float]) -> SmoothTersoff:
    """ASE's Tersoff potential from parameters in the file, one mapping for each triple of species.

    Keys are triples such as Si-Si-Si, values map the 14 names of ASE's TersoffParameters (LAMMPS's units "metal":
    eV, Å). Raises ValueError for a key that is no triple and for parameters that are missing or unknown.
    J. Tersoff, Phys. Rev. B 38, 9902 (1988), in the form of LAMMPS.
    """
    return SmoothTersoff({_species(triple): _tersoff_parameters(triple, values) for triple, values in triples.items()})


def many_body(parameters: str) -> Manybody:
    """A Tersoff, Brenner, Stillinger-Weber or Kumagai potential with one of matscipy's published sets of parameters.

    They are called by their name there, e.g. Tersoff_PRB_39_5566_Si_C or Stillinger_Weber_PRB_31_5262_Si, which says
    where they are from. Raises ValueError for a name that there is not.
    """
    from matscipy.calculators.manybody import Manybody, explicit_forms

    forms = {
        explicit_forms.TersoffBrenner: explicit_forms.tersoff_brenner,
        explicit_forms.StillingerWeber: explicit_forms.stillinger_weber,
        explicit_forms.Kumagai: explicit_forms.kumagai,
    }
    sets = {
        name: (form, value)
        for form, module in forms.items()
        for name, value in vars(module).items()
        if isinstance(value, dict) and "__ref__" in value
    }
    if parameters not in sets:
        raise ValueError(f"no set of parameters is called {parameters!r}{_allowed(parameters, sets)}")
    form, values = sets[parameters]
    return Manybody(**form(values))


def lennard_jones(
    epsilon: float | Mapping[str, float], sigma: float | Mapping[str, float], cutoff: float
) -> ForceShiftedPairs:
    """12-6 Lennard-Jones, force-shifted: V(r) - V(rc) - (r - rc) V'(rc) for r < rc.

    Epsilon in eV, sigma and cutoff in Å: numbers for every pair of atoms, whatever their species, or a number for
    each pair such as {Ar-Ar: 1.0, Ar-Ne: 1.5, Ne-Ne: 0.5}. S. Toxvaerd, J. C. Dyre, J. Chem. Phys. 134, 081102
    (2011), doi:10.1063/1.3558787.
    """

    def interaction(pair: str) -> LennardJonesLinear:
        return LennardJonesLinear(_of_pair(epsilon, pair), _of_pair(sigma, pair), float(cutoff))

    return ForceShiftedPairs(interaction)


def ionic(
    charges: Mapping[str, float], repulsion: Mapping[str, Mapping[str, float]], cutoff: float, damping: float = 0.2
) -> ForceShiftedPairs:
    """Point charges with short-range repulsion: q q'/r + A exp(-r/rho) - C/r^6, a Born-Mayer or Buckingham potential.

    Charges in e for each species; repulsion {A (eV), rho (Å), C (eV Å^6)} for each pair that has one. The sum over
    charges is Wolf's, damped (1/Å) and force-shifted at the cutoff (Å), a pair potential that needs no Ewald sum:
    C. J. Fennell, J. D. Gezelter, J. Chem. Phys. 124, 234104 (2006), doi:10.1063/1.2206581, eq. 18, without the
    constant energy of each charge. Raises ValueError for a pair or a key that means nothing.
    """
    pairs = ["-".join(pair) for pair in combinations_with_replacement(charges, 2)]
    both_ways = {*pairs, *("-".join(reversed(pair.split("-"))) for pair in pairs)}
    for pair, values in repulsion.items():
        if pair not in both_ways:
            raise ValueError(f"repulsion: {pair!r} is no pair of charges{_allowed(pair, pairs)}")
        for name in values:
            if name not in REPULSION:
                raise ValueError(f"repulsion of {pair}: nothing is called {name!r}{_allowed(name, REPULSION)}")

    def interaction(pair: str) -> Ionic:
        one, other = pair.split("-")
        if not {one, other} <= charges.keys():
            raise ValueError(f"no charge is given for {one if one not in charges else other}")
        return Ionic(charges[one] * charges[other], _either_way(repulsion, pair) or {}, float(cutoff), float(damping))

    return ForceShiftedPairs(interaction)


class SmoothTersoff(Tersoff):
    """ASE's Tersoff potential with the forces of a bond that has no further neighbours."""

    def _calc_bij_d(self, zeta: float, beta: float, n: float) -> float:
        # b = (1 + (beta zeta)^n)^(-1/2n), and for n < 1 its derivative grows as zeta^(n-1) without bound. Forces need
        # its product with the gradient of zeta, which vanishes where zeta does: zeta is a sum of terms that are never
        # negative, so 0 is its minimum. With no third atom in reach both are 0 all around. Where a third atom enters
        # at a distance x within the cutoff, zeta grows as x^2 and b - 1 as x^2n, so that the force begins as
        # x^(2n-1): at 0 too, for n > 1/2. Where beta is 0, b is 1 for any zeta.
        return 0.0 if beta * zeta == 0 else super()._calc_bij_d(zeta, beta, n)


class ForceShiftedPairs(PairPotential):
    """Matscipy's pair potential with an interaction for each pair of species that it meets, such as "Ar-Ne"."""

    def __init__(self, interaction: Callable[[str], CutoffInteraction]) -> None:
        self.interaction = interaction
        super().__init__({})

    def calculate(
        self, atoms: Atoms, properties: Sequence[str] = ("energy",), system_changes: Sequence[str] = all_changes
    ) -> None:
        """Energy, forces and stress."""
        pairs = combinations_with_replacement(sorted(set(atoms.numbers.tolist())), 2)
        self.f = {pair: self.interaction("-".join(chemical_symbols[number] for number in pair)) for pair in pairs}
        self.reset()
        super().calculate(atoms, properties, system_changes)


class Ionic(CutoffInteraction):
    """The pair potential of `ionic`."""

    def __init__(self, charges: float, repulsion: Mapping[str, float], cutoff: float, damping: float) -> None:
        super().__init__(cutoff)
        self.coulomb = charges * Hartree * Bohr
        self.damping = damping
        self.a, self.rho, self.c = (float(repulsion.get(key, other)) for key, other in (("A", 0), ("rho", 1), ("C", 0)))
        self.energy, self.slope = self._energy(cutoff), self._slope(cutoff)

    def __call__(self, r: Floats, *_: Any) -> Floats:
        """Energy (eV) at these distances (Å)."""
        return self._energy(r) - self.energy - (r - self.cutoff) * self.slope

    def first_derivative(self, r: Floats, *_: Any) -> Floats:
        """Its derivative (eV/Å)."""
        return self._slope(r) - self.slope

    def second_derivative(self, r: Floats, *_: Any) -> Floats:
        """Matscipy asks for it, and takes no part of it for energy, forces or stress."""
        raise NotImplementedError

    def _energy(self, r: Any) -> Any:
        return self.coulomb * erfc(self.damping * r) / r + self.a * np.exp(-r / self.rho) - self.c / r**6

    def _slope(self, r: Any) -> Any:
        gauss = 2 * self.damping / np.sqrt(np.pi) * np.exp(-((self.damping * r) ** 2))
        coulomb = -self.coulomb * (erfc(self.damping * r) / r + gauss) / r
        return coulomb - self.a / self.rho * np.exp(-r / self.rho) + 6 * self.c / r**7


def _of_pair(values: float | Mapping[str, float], pair: str) -> float:
    if not isinstance(values, Mapping):
        return float(values)
    found = _either_way(values, pair)
    if found is None:
        raise ValueError(f"nothing is said of the pair {pair}; there are: {', '.join(values)}")
    return float(found)


def _either_way(values: Mapping[str, T], pair: str) -> T | None:
    """What is said of a pair of species, whichever of them is named first; None where nothing is."""
    one, other = pair.split("-")
    return values.get(pair, values.get(f"{other}-{one}"))


def _allowed(name: str, allowed: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, allowed, n=1)
    return f"; did you mean {close[0]}?" if close else f"; allowed: {', '.join(allowed)}"


def _species(triple: str) -> tuple[str, str, str]:
    names = triple.split("-")
    if len(names) != 3:
        msg = f"{triple!r} is no triple of species; write e.g. Si-Si-Si"
        raise ValueError(msg)
    return names[0], names[1], names[2]


def _tersoff_parameters(triple: str, values: Mapping[str, float]) -> TersoffParameters:
    for name in values:
        if name not in TERSOFF_PARAMETERS:
            allowed = _allowed(name, TERSOFF_PARAMETERS)
            raise ValueError(f"{triple}: no Tersoff parameter is called {name!r}{allowed}")
    missing = [name for name in TERSOFF_PARAMETERS if name not in values]
    if missing:
        msg = f"{triple}: Tersoff parameters missing: {', '.join(missing)}"
        raise ValueError(msg)
    return TersoffParameters(**{name: float(value) for name, value in values.items()})
