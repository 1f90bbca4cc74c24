"""A calculator that takes its time, for benchmarks of slots on a machine that has fewer cores than slots.

reference:
  kind: ase
  calculator: sleeping.Sleeping
  parameters: {calculator: ase.calculators.emt.EMT}
"""

from __future__ import annotations

import hashlib
import math
import os
import time
from typing import Any, Final

from ase.calculators.calculator import Calculator, all_changes

from csp_al.importing import find_named

MEAN: Final = "SLEEPING_MEAN"
"""Variable of the environment: s that a first calculation sleeps on average, spread as much; default: 0."""


class Sleeping(Calculator):
    """Another calculator, whose first calculation sleeps, for a time that follows from the structure alone."""

    implemented_properties = ("energy", "free_energy", "forces", "stress")

    def __init__(self, calculator: str, parameters: dict[str, Any] | None = None) -> None:
        super().__init__()
        self.of = find_named(calculator)(**(parameters or {}))
        self.mean = float(os.environ.get(MEAN, "0"))

    def calculate(self, atoms: Any = None, properties: Any = ("energy",), system_changes: Any = all_changes) -> None:
        """Ask the other one, and sleep if it is the first time."""
        super().calculate(atoms, properties, system_changes)
        copy = atoms.copy()
        copy.calc = self.of
        energy, forces, stress = copy.get_potential_energy(), copy.get_forces(), copy.get_stress()
        self.results = {"energy": energy, "free_energy": energy, "forces": forces, "stress": stress}
        digest = hashlib.sha256(atoms.positions.tobytes()).digest()
        time.sleep(-self.mean * math.log(1 - int.from_bytes(digest[:4], "big") / 2**32))
        self.mean = 0.0
