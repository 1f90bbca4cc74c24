"""The lowest crystals of outside compositions that CHGNet knows, from full relaxations of a pool by it.

    pip install chgnet
    python analysis/benchmarks/outside.py LiGaSi Nb2P2Se2

Candidates are those of the campaigns in `campaigns/outside/`, of a seed that no campaign has, relaxed side by side by
the reference itself; the lowest are relaxed again as a campaign relaxes its winners. A row of
`campaigns/outside/lowest.csv` for each: energy in eV/atom, space group, how many of so many candidates came within 5
meV/atom of it.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from csv import DictWriter
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import spglib
from ase.io import write
from ase.stress import full_3x3_to_voigt_6_stress

from csp_al.campaign import Campaign
from csp_al.campaign.read import read_campaign
from csp_al.cif import SYMPREC
from csp_al.generate.pool import generate_pool
from csp_al.interfaces import Gives, trusted
from csp_al.loop.bodies import relaxation_limits
from csp_al.reference.ase_calculator import AseCalculator, AseReference
from csp_al.reference.evaluate import relax as relax_by_reference
from csp_al.relax.relaxation import relax
from csp_al.structures import Prediction, Relaxed, Structures

if TYPE_CHECKING:
    from ase import Atoms
    from ase.calculators.calculator import BaseCalculator

CAMPAIGNS = Path(__file__).parents[2] / "campaigns" / "outside"
SEED = 1000
BATCH = 50
"""Crystals in one call of the network."""
AGAIN = 3
"""Lowest candidates that are relaxed again, one by one."""
NEAR = 0.005
"""eV/atom"""


class Network:
    """CHGNet as an ensemble of one, which has no doubts."""

    gives = Gives()

    def predict(self, structures: Structures) -> Prediction:
        """Energies, forces and stresses of the batch."""
        from ase.units import GPa

        n, atoms = len(structures), len(structures.numbers)
        graphs = [network().graph_converter(one) for one in structures.to_pymatgen()]
        found = network().predict_graph(graphs, task="efs", batch_size=BATCH) if n else []
        found = [found] if isinstance(found, dict) else found
        return Prediction(
            energy=np.array([one["e"] for one in found], dtype=float).reshape(n) * structures.counts,
            energy_sigma=np.zeros(n),
            forces=np.concatenate([np.zeros((0, 3)), *[one["f"] for one in found]]).astype(float),
            forces_sigma=np.zeros(atoms),
            stress=np.array([one["s"] for one in found], dtype=float).reshape(n, 3, 3) * GPa,
            stress_sigma=np.zeros(n),
            features=np.zeros((n, 0)),
        )


class Shared(AseCalculator):
    """The reference of the campaigns, whose network is read once."""

    def calculator(self, atoms: Atoms, directory: Path) -> BaseCalculator:  # noqa: ARG002
        """A calculator with the network that is there."""
        from chgnet.model.dynamics import CHGNetCalculator

        return CHGNetCalculator(network(), use_device="cpu")


@cache
def network() -> Any:
    from chgnet.model import CHGNet

    return CHGNet.load(use_device="cpu", verbose=False)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("formulas", nargs="+", help="such as LiGaSi")
    parser.add_argument("--directory", type=Path, default=Path("benchmarks"), help="for all relaxed candidates")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    arguments.directory.mkdir(parents=True, exist_ok=True)
    for formula in arguments.formulas:
        campaign = read_campaign(CAMPAIGNS / f"{formula}.yaml")
        add_row(row(campaign, arguments.directory))


def row(campaign: Campaign, directory: Path) -> dict[str, Any]:
    """What is known of a composition; all that was relaxed is left in the directory."""
    pool, _ = generate_pool(campaign.pool, SEED)
    relaxed = relax(pool, Network(), campaign.relax, relaxation_limits(campaign))  # type: ignore[arg-type]
    energies = np.where(trusted(relaxed.reason), relaxed.prediction.energy / relaxed.structures.counts, np.nan)
    keep(relaxed, directory / f"{campaign.pool.formula}.extxyz")
    lowest = min(
        (relaxed_again(atoms, campaign) for atoms in relaxed.structures.take(np.argsort(energies)[:AGAIN]).to_atoms()),
        key=lambda found: found[0],
    )
    symmetry = spglib.get_symmetry_dataset(
        (lowest[1].cell.array, lowest[1].get_scaled_positions(), lowest[1].numbers), SYMPREC
    )
    return {
        "formula": campaign.pool.formula,
        "energy_per_atom": f"{lowest[0]:.4f}",
        "space_group": symmetry.international if symmetry else "P1",
        "near": int((energies <= lowest[0] + NEAR).sum()),
        "candidates": len(pool),
        "evaluations": int(relaxed.steps.sum()),
    }


def relaxed_again(atoms: Atoms, campaign: Campaign) -> tuple[float, Atoms]:
    """Energy (eV/atom) and atoms, as of a winner."""
    assert isinstance(campaign.reference, AseReference)
    finish = campaign.finish
    with tempfile.TemporaryDirectory() as folder:
        rested = relax_by_reference(
            Shared(campaign.reference), atoms, Path(folder), fmax=finish.fmax, max_steps=finish.max_steps
        )
    return rested.energy / len(atoms), rested.atoms(atoms.numbers)


def keep(relaxed: Relaxed, path: Path) -> None:
    from ase.calculators.singlepoint import SinglePointCalculator

    crystals = relaxed.structures.to_atoms()
    for number, atoms in enumerate(crystals):
        one = relaxed.prediction
        rows = slice(relaxed.structures.ptr[number], relaxed.structures.ptr[number + 1])
        stress = full_3x3_to_voigt_6_stress(one.stress[number])
        atoms.calc = SinglePointCalculator(atoms, energy=one.energy[number], forces=one.forces[rows], stress=stress)
        atoms.info |= {"reason": str(relaxed.reason[number]), "steps": int(relaxed.steps[number])}
    write(path, crystals)


def add_row(found: dict[str, Any]) -> None:
    path = CAMPAIGNS / "lowest.csv"
    is_new = not path.exists()
    with path.open("a", encoding="utf-8", newline="") as file:
        writer = DictWriter(file, list(found), lineterminator="\n")
        if is_new:
            writer.writeheader()
        writer.writerow(found)
    print(found, flush=True)


if __name__ == "__main__":
    main()
