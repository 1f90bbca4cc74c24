"""Labels by ASE's EMT potential of aluminium, for tests that need a potential that learned something."""

from dataclasses import replace

import numpy as np
from ase.build import bulk, make_supercell
from ase.calculators.emt import EMT

from csp_al.potential.ensemble import Ensemble
from csp_al.structures import Labels, Structures


def emt_labels(size: int, seed: int = 0, ids: list[int] | None = None) -> Labels:
    """Labels of rattled and strained aluminium crystals by ASE's EMT."""
    rng = np.random.default_rng(seed)
    crystals = []
    for _ in range(size):
        atoms = bulk("Al", ("fcc", "bcc", "hcp")[rng.integers(3)], a=4.0 * rng.uniform(0.75, 1.05))
        atoms = make_supercell(atoms, np.diag([1, 1, 1 + rng.integers(2)]))
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + 0.05 * rng.normal(size=(3, 3))), scale_atoms=True)
        volume = rng.uniform(13, 21) * len(atoms)
        atoms.set_cell(atoms.cell * (volume / atoms.cell.volume) ** (1 / 3), scale_atoms=True)
        atoms.rattle(0.15, rng=rng)
        atoms.calc = EMT()
        crystals.append(atoms)
    return Labels(
        structures=Structures.from_atoms(crystals, ids=ids),
        energy=np.array([atoms.get_potential_energy() for atoms in crystals]),
        forces=np.concatenate([atoms.get_forces() for atoms in crystals]),
        stress=np.array([atoms.get_stress(voigt=False) for atoms in crystals]),
        status=np.full(size, "done"),
        reason=np.full(size, ""),
        cost=np.ones(size),
        evaluations=np.ones(size, np.int64),
        cycle=np.zeros(size, np.int64),
    )


def in_double(ensemble: Ensemble) -> Ensemble:
    state = {name: value.double() if value.is_floating_point() else value for name, value in ensemble.state.items()}
    return replace(ensemble, state=state)
