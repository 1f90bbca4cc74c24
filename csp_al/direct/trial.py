"""What a start is worth to the reference method: how many of its evaluations the way to rest takes from there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np
from ase.constraints import FixAtoms
from ase.optimize import BFGS

from csp_al import objective
from csp_al.direct.pairs import Pairs
from csp_al.interfaces import Reference, ReferenceFailedError
from csp_al.reference.evaluate import Recorder, frames
from csp_al.structures import Bools, Floats, Structures

BELOW: Final = np.arange(0.01, 0.4005, 0.001)
"""eV/Å, over which the share of structures with smaller forces is averaged (AFbT)."""
AS_LOW: Final = 1e-3
"""eV/atom within which two ends are as low."""


@dataclass(frozen=True)
class Ways:
    """From n starts to rest; NaN where the reference failed.

    Evaluations (n,), the largest force on a free atom at the start (n,) eV/Å, energies at the end (n,) eV, and whether
    fmax was reached (n,).
    """

    evaluations: Floats
    force: Floats
    energy: Floats
    converged: Bools


def ways_to_rest(
    reference: Reference,
    pairs: Pairs,
    guess: Structures,
    fmax: float,
    max_steps: int,
    report: Callable[[int, int], None] = lambda *_: None,
) -> Ways:
    """Relax each of these structures by the optimiser of a campaign's final relaxations; held atoms stay."""
    found = []
    frees = np.split(pairs.free, pairs.start.ptr[1:-1])
    for done, (atoms, free) in enumerate(zip(guess.to_atoms(), frees, strict=True), start=1):
        atoms.set_constraint(FixAtoms(mask=~free))
        try:
            found.append(_way(reference, atoms, free, fmax, max_steps, moves_cell=pairs.moves_cell))
        except ReferenceFailedError:
            found.append((np.nan, np.nan, np.nan, False))
        report(done, len(guess))
    evaluations, force, energy, converged = (np.array(each) for each in zip(*found, strict=True))
    return Ways(evaluations, force, energy, converged)


def _way(
    reference: Reference, atoms: Any, free: Bools, fmax: float, max_steps: int, *, moves_cell: bool
) -> tuple[float, float, float, bool]:
    with TemporaryDirectory(prefix="csp-al-relaxer-") as name:
        folder = Path(name)
        recorder = Recorder(reference.calculator(atoms, folder), folder)
        atoms.calc = recorder
        try:
            optimiser = BFGS(objective.cell_filter(atoms) if moves_cell else atoms, logfile=None)
            converged = bool(optimiser.run(fmax=fmax, steps=max_steps))
        except ReferenceFailedError:
            raise
        except Exception as error:  # a singular cell, a step to infinity
            raise ReferenceFailedError(f"optimiser: {error}") from error
        first = next(frames(folder))
        force = float(np.linalg.norm(first.forces[free], axis=1).max())
        return recorder.evaluations, force, recorder.last.energy, converged


def compared(nothing: Ways, predicted: Ways, sizes: Floats) -> dict[str, float | int]:
    """Figures of predicted starts beside the original ones, of the structures that came to rest from both."""
    both = nothing.converged & predicted.converged
    before, after = nothing.evaluations[both], predicted.evaluations[both]
    forces = predicted.force[~np.isnan(predicted.force)]
    low = predicted.energy[both] < nothing.energy[both] + AS_LOW * sizes[both]
    return {
        "compared": int(both.sum()),
        "steps_from_original": float(before.mean()) if both.any() else float("nan"),
        "steps": float(after.mean()) if both.any() else float("nan"),
        "more_steps": float((after > before).mean()) if both.any() else float("nan"),
        "as_low": float(low.mean()) if both.any() else float("nan"),
        "afbt": float((forces[:, None] < BELOW).mean()) if len(forces) else float("nan"),
    }
