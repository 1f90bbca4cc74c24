"""A potential: ASE's effective medium theory, whose members see lengths a little differently and learn their scale.

It gives no features, so that a descriptor tells crystals apart.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from ase.calculators.emt import EMT
from pydantic import Field

from csp_al.campaign.potentials import PotentialSection
from csp_al.campaign.section import Count, Positive
from csp_al.files import DamagedError, open_plain, seal, unseal, write_atomically
from csp_al.interfaces import Gives, PotentialKind, Trained
from csp_al.structures import Floats, Labels, Prediction, Structures

FILE = "emt.json"


class EmtPotential(PotentialSection):
    """Effective medium theory with fitted scales."""

    kind: str = "fitted_emt"
    members: Count = Field(3, description="potentials in the ensemble, at least 2")
    lengths: Positive = Field(0.02, description="standard deviation of the factors on lengths")


@dataclass(frozen=True)
class EmtEnsemble:
    """Member m says scale[m] E(lengths[m] x) + shift[m] N, (members,) each, eV per atom."""

    lengths: Floats
    scale: Floats
    shift: Floats
    gives = Gives()

    def predict(self, structures: Structures) -> Prediction:
        energy, forces, stress = self._bare(structures)
        energy = self.scale[:, None] * energy + self.shift[:, None] * structures.counts
        forces, stress = self.scale[:, None, None] * forces, self.scale[:, None, None, None] * stress

        return Prediction(
            energy=energy.mean(axis=0),
            energy_sigma=energy.std(axis=0, ddof=1),
            forces=forces.mean(axis=0),
            forces_sigma=np.sqrt(forces.var(axis=0, ddof=1).sum(axis=-1)),
            stress=stress.mean(axis=0),
            stress_sigma=np.sqrt(stress.var(axis=0, ddof=1).sum(axis=(-1, -2))),
            features=np.zeros((len(structures), 0)),
        )

    def fresh(self) -> EmtEnsemble:
        return self

    def train(self, labels: Labels, seed: list[int], report: Any = lambda *_: None) -> Trained:
        candidates = len(np.unique(labels.structures.ids))
        if candidates < 2:
            raise ValueError(f"labels of {candidates} candidates; at least 2 are needed")
        counts = labels.structures.counts
        bare, truth = self._bare(labels.structures)[0] / counts, labels.energy / counts
        scale, shift = np.transpose([np.polyfit(energies, truth, 1) for energies in bare])
        report(1, 1)
        trained = replace(self, scale=scale, shift=shift)
        losses = [
            ((each.scale[:, None] * bare + each.shift[:, None] - truth) ** 2).mean(axis=1) for each in (self, trained)
        ]
        curve = [
            pd.DataFrame({"epoch": epoch, "member": range(len(bare)), "training": loss, "validation": loss})
            for epoch, loss in enumerate(losses, start=1)
        ]
        return Trained(trained, pd.concat(curve, ignore_index=True), left_out=0)

    def save(self, folder: Path) -> None:
        numbers = {name: getattr(self, name).tolist() for name in ("lengths", "scale", "shift")}
        write_atomically(folder / FILE, seal(numbers))

    def _bare(self, structures: Structures) -> tuple[Floats, Floats, Floats]:
        """Energies (m, n), forces (m, N, 3), stress (m, n, 3, 3) of all members without scale and shift."""
        energies, forces, stresses = [], [], []
        for length in self.lengths:
            crystals = structures.moved(length * structures.positions, length * structures.cells).to_atoms()
            for atoms in crystals:
                atoms.calc = EMT()
            energies.append([atoms.get_potential_energy() for atoms in crystals])
            forces.append(np.concatenate([np.zeros((0, 3)), *(length * atoms.get_forces() for atoms in crystals)]))
            stresses.append([length**3 * atoms.get_stress(voigt=False) for atoms in crystals])
        return np.array(energies), np.array(forces), np.array(stresses).reshape(len(energies), -1, 3, 3)


def new(section: EmtPotential, seed: list[int], _: Any) -> EmtEnsemble:
    lengths = np.random.default_rng(seed).normal(1, section.lengths, section.members)
    return EmtEnsemble(lengths, np.ones(section.members), np.zeros(section.members))


def load(folder: Path, section: EmtPotential, _: Any) -> EmtEnsemble:
    with open_plain(folder / FILE) as file:
        text = file.read()
    try:
        content = unseal(text)
        numbers = [np.array(content[name], dtype=float) for name in ("lengths", "scale", "shift")]
    except (ValueError, KeyError) as error:
        raise DamagedError(folder / FILE, str(error)) from error
    if any(len(each) != section.members for each in numbers):
        raise DamagedError(folder / FILE, "another number of members")
    return EmtEnsemble(*numbers)


KIND = PotentialKind(
    section=EmtPotential,
    gives=lambda _: Gives(),
    new=new,
    load=load,
    weights_bytes=lambda section: 100 * section.members,
)
