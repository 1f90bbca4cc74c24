"""What the benchmarks share: pools of silicon, labels by Tersoff's potential, an ensemble trained on them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from ase.calculators.calculator import Calculator

from csp_al.campaign import read_campaign
from csp_al.campaign.models import Pool
from csp_al.generate import generate_pool
from csp_al.potential.ensemble import Ensemble, new_ensemble
from csp_al.potential.kind import NetworkPotential
from csp_al.potential.training import train
from csp_al.reference.classical import tersoff
from csp_al.relax.limits import Limits
from csp_al.structures import Labels, Structures

CAMPAIGN = Path(__file__).parents[2] / "campaigns" / "si8-tersoff.yaml"

LIMITS = Limits({(14, 14): 1.5}, (8.0, 60.0))
"""Within which relaxations stay; as a campaign of silicon has it."""


def pool(atoms: int, size: int, seed: int = 1) -> Structures:
    """Random and symmetric cells of silicon, as a campaign generates them."""
    section = Pool(formula=f"Si{atoms}", size=size, min_distance={"Si-Si": 1.9}, volume_per_atom=(15, 26))
    return generate_pool(section, seed)[0]


def calculator() -> Calculator:
    """Tersoff's silicon, from the campaign that is shipped."""
    return tersoff(**read_campaign(CAMPAIGN).reference.parameters)


def labels(structures: Structures) -> Labels:
    """Energies, forces and stress by Tersoff's potential."""
    energy, forces, stress = [], [], []
    for atoms in structures.to_atoms():
        atoms.calc = calculator()
        energy.append(atoms.get_potential_energy())
        forces.append(atoms.get_forces())
        stress.append(atoms.get_stress(voigt=False))
    n = len(structures)
    return Labels(
        structures=structures,
        energy=np.array(energy),
        forces=np.concatenate(forces),
        stress=np.array(stress),
        status=np.full(n, "done"),
        reason=np.full(n, ""),
        cost=np.zeros(n),
        evaluations=np.ones(n, np.int64),
        cycle=np.zeros(n, np.int64),
    )


def trained(section: NetworkPotential, size: int = 300, device: str = "cpu") -> Ensemble:
    """An ensemble that has learned Tersoff's silicon from cells of 16 atoms, for better or worse."""
    return train(new_ensemble(section, [1], torch.device(device)), labels(pool(16, size, seed=2)), [1, 0]).ensemble
