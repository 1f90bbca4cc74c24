"""What a benchmark looks for: a crystal, an energy, or the lowest that anybody found."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from csp_al import objective
from csp_al.benchmark.control import Engines, relax_again
from csp_al.campaign import Campaign
from csp_al.select.identity import same_structure
from csp_al.structure_files import read_structures
from csp_al.structures import Labels, Status, Structures

if TYPE_CHECKING:
    from ase import Atoms


@dataclass(frozen=True)
class Target:
    """The crystal that is looked for: its energy and a tolerance in eV/atom, its atoms where they are asked for too."""

    energy: float
    tolerance: float
    words: str
    crystal: Atoms | None = None

    def hits(self, labels: Labels) -> NDArray[np.bool_]:
        """Which relaxed structures are the target, (n,): as low, or lower; and the same crystal where there is one."""
        low = objective.values(labels.energy, labels.structures) <= self.energy + self.tolerance
        if self.crystal is not None:
            atoms = labels.structures.to_atoms()
            rows = np.flatnonzero(low)
            low[rows] = [same_structure(atoms[row], self.crystal) for row in rows]
        return low


def target_of_file(path: Path, campaign: Campaign, root: Path, engine: Engines) -> Target:
    """The first structure of a file that ASE reads, relaxed by the reference. Raises ValueError if it is no target."""
    atoms = _read(path)
    _refuse_another_composition(atoms, campaign, path)
    labels = relax_again(Structures.from_atoms([atoms]), campaign, root, root, engine, lambda *_: None)
    if labels.status[0] != Status.DONE:
        raise ValueError(f"{path}: the reference could not relax it: {labels.reason[0]}")
    energy = float(objective.values(labels.energy, labels.structures)[0])
    return Target(energy, campaign.stop.tolerance, f"the crystal of {path.name}", labels.structures.to_atoms()[0])


def lowest(campaign: Campaign, found: list[Labels]) -> Target:
    """The lowest energy of all that was relaxed by the reference. Raises ValueError if nothing was."""
    energies = np.concatenate([objective.values(labels.energy, labels.structures) for labels in found])
    if not np.isfinite(energies).any():
        raise ValueError("nothing could be relaxed by the reference, neither for a campaign nor for the control")
    return Target(float(np.nanmin(energies)), campaign.stop.tolerance, f"the lowest {objective.NAME} that was found")


def _read(path: Path) -> Atoms:
    if path.is_dir():
        raise ValueError(f"{path}: a folder; name the file of a crystal")
    try:
        first = next(iter(read_structures(path)), "no structure in it")
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if isinstance(first, str):
        raise ValueError(f"{path}: {first}")  # noqa: TRY004 - a text says why there are no atoms
    return first


def _refuse_another_composition(atoms: Atoms, campaign: Campaign, path: Path) -> None:
    theirs, ours = atoms.get_chemical_formula(), campaign.pool.formula
    if not objective.comparable(theirs, ours) or not atoms.pbc.all():
        raise ValueError(f"{path}: {theirs} is no periodic crystal of {ours}")
