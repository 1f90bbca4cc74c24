"""The trained ensemble of a run as an ASE calculator.

atoms.calc = csp_al.open_run("runs/si8").calculator()
atoms.get_potential_energy()  # and atoms.calc.results["energy_sigma"]
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final

from ase.calculators.calculator import Calculator, all_changes
from ase.stress import full_3x3_to_voigt_6_stress

from csp_al.structures import Structures

if TYPE_CHECKING:
    from ase import Atoms

    from csp_al.interfaces import Ensemble

SPREAD: Final = ("energy_sigma", "forces_sigma", "stress_sigma")
"""Further results: the spread over the members of the energy (eV), of each atom's force (N,) in eV/Å, and of the
stress (eV/Å^3), the root of the sum over components, as `csp_al.structures.Prediction` has them."""


class EnsembleCalculator(Calculator):
    """Energy, forces and stress of crystals of these elements by the mean of an ensemble, and `SPREAD` in ``results``.

    The energies are those by which the reference labels, as far as the ensemble learnt them; a ranking corrects them
    by the labels of the same crystals, which this does not.
    """

    implemented_properties: ClassVar[list[str]] = ["energy", "free_energy", "forces", "stress"]

    def __init__(self, ensemble: Ensemble, elements: Collection[str], run: str) -> None:
        super().__init__()
        self.ensemble = ensemble
        self.elements = frozenset(elements)
        self.run = run

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Ask the ensemble. Raises ValueError for what it was not trained on."""
        super().calculate(atoms, properties, system_changes)
        self._refuse(self.atoms)
        prediction = self.ensemble.predict(Structures.from_atoms([self.atoms]))
        energy = float(prediction.energy[0])
        self.results: dict[str, Any] = {
            "energy": energy,
            "free_energy": energy,
            "forces": prediction.forces,
            "stress": full_3x3_to_voigt_6_stress(prediction.stress[0]),
            "energy_sigma": float(prediction.energy_sigma[0]),
            "forces_sigma": prediction.forces_sigma,
            "stress_sigma": float(prediction.stress_sigma[0]),
        }

    def _refuse(self, atoms: Atoms) -> None:
        if unknown := sorted(set(atoms.symbols) - self.elements):
            known = ", ".join(sorted(self.elements))
            raise ValueError(f"{self.run}: the ensemble was trained on {known}, and does not know {', '.join(unknown)}")
        if not atoms.pbc.all():
            raise ValueError(f"{self.run}: the ensemble was trained on crystals; set pbc to True in all directions")
