"""Structures perturbed before they are labelled, so that the potentials see what lies off the minima."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from ase import Atoms

from csp_al.geometry import too_close
from csp_al.structures import Structures

REDRAWS = 6
"""Tries with an amplitude halved each time; after the last the structure stays as it is."""


def perturb(
    structures: Structures,
    amplitude: float,
    stream: Callable[[int], np.random.Generator],
    min_distance: Mapping[str, float],
    *,
    strained: bool = True,
) -> Structures:
    """Uniform noise in [-a, a] (Å) on every coordinate, and a strain of the cell that moves its atoms as much.

    No strain where cells are not ``strained``.

    ``stream(id)`` gives the generator of each structure, so that none depends on the others. Where two atoms would
    come closer than ``min_distance`` (Å, by pair, as in a campaign file), the noise is drawn again at half the
    amplitude, `REDRAWS` times at most.

    The noise is that of Hessmann et al., npj Comput. Mater. (2025), arXiv:2408.04073, with a of `decay_amplitude`.
    The strain is ours: without it every label would have nearly the stress of a relaxed cell, from which no potential
    learns what holds the cell together.
    """
    if amplitude == 0 or not len(structures):
        return structures
    perturbed = [
        _perturb(atoms, amplitude, stream(int(identity)), min_distance, strained=strained)
        for identity, atoms in zip(structures.ids, structures.to_atoms(), strict=True)
    ]
    return Structures.from_atoms(perturbed, structures.ids)


def decay_amplitude(amplitude: float, decay: float, cycle: int) -> float:
    """The amplitude (Å) in a cycle, counted from 0: amplitude x decay^cycle."""
    return amplitude * decay**cycle


def _perturb(
    atoms: Atoms, amplitude: float, rng: np.random.Generator, min_distance: Mapping[str, float], *, strained: bool
) -> Atoms:
    for halvings in range(REDRAWS):
        trial = _strain_and_rattle(atoms, amplitude / 2**halvings, rng, strained=strained)
        if not too_close(trial, min_distance):
            return trial
    return atoms


def _strain_and_rattle(atoms: Atoms, amplitude: float, rng: np.random.Generator, *, strained: bool) -> Atoms:
    """Symmetric strain up to a / (mean length of the cell's vectors) in each component, then noise on the atoms."""
    strain = rng.uniform(-1, 1, (3, 3)) * amplitude / atoms.cell.lengths().mean()
    upper = np.triu(strain)
    symmetric = upper + np.triu(strain, 1).T
    moved = atoms.copy()
    if strained:
        moved.set_cell(atoms.cell.array @ (np.eye(3) + symmetric), scale_atoms=True)
    moved.positions += rng.uniform(-amplitude, amplitude, atoms.positions.shape)
    return moved
