"""The zero of energy: one number for all atoms, and what each species deviates from it.

Total energies of codes differ by keV between species, and no network should have to learn that. The numbers are fitted
to the labels when training begins, and stay.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from csp_al.structures import Floats, Labels, Structures

State = dict[str, Tensor]


def zero_of(state: State, numbers: Tensor, system: Tensor, counts: Tensor) -> Tensor:
    """The zero of energy of each structure for each member, (m, n) eV, in double precision.

    Atomic numbers (N,), row of each atom's structure (N,), atoms of each structure (n,).
    """
    shift = state["energy_shift"][:, None] * counts
    return shift + torch.zeros_like(shift).index_add(1, system, state["species_shift"][:, numbers])


def without_zero(energy: Floats, structures: Structures, state: State) -> Floats:
    """Energies (n,) eV relative to the zero, which is the same for all members."""
    tensors = (torch.from_numpy(each) for each in (structures.numbers, structures.system, structures.counts))
    on_cpu = {name: state[name][:1].cpu() for name in ("energy_shift", "species_shift")}
    relative: Floats = energy - zero_of(on_cpu, *tensors)[0].numpy()
    return relative


def fit_zero(labels: Labels, weights: Floats, species: int) -> tuple[float, Floats]:
    """The median energy per atom, eV, and the deviation from it of each atomic number, (species,) eV per atom.

    Deviations are least squares, weighted (n,), of the energies per atom over the compositions, and of the smallest
    norm where these do not tell species apart; then all are moved together so that the median label lies at the zero.
    With one composition all are zero, and so are those of species without labels.
    """
    structures = labels.structures
    per_atom = labels.energy / structures.counts
    shift, deviations = float(np.median(per_atom)), np.zeros(species)
    present, which = np.unique(structures.numbers, return_inverse=True)
    shares = np.zeros((len(labels), len(present)))
    np.add.at(shares, (structures.system, which.ravel()), 1)
    shares /= structures.counts[:, None]
    if (shares == shares[0]).all():
        return shift, deviations
    means = np.average(np.column_stack([shares, per_atom]), axis=0, weights=weights)
    roots = np.sqrt(weights)
    slopes = np.linalg.lstsq(roots[:, None] * (shares - means[:-1]), roots * (per_atom - means[-1]), rcond=1e-6)[0]
    deviations[present] = slopes + np.median(per_atom - shift - shares @ slopes)
    return shift, deviations
