"""Limited-memory BFGS for many independent problems side by side (Nocedal, Math. Comp. 35, 773 (1980)).

Arrays are padded to the largest problem: b problems, d coordinates, m remembered steps. An empty place in the memory
is zero and has no effect, so that problems of any age share one array.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from csp_al.structures import Floats

LENGTH = 10
STIFFNESS = 20.0
"""eV/Å^2, the guess for the curvature before any step was remembered."""

SOFTEST = 1.0
"""eV/Å^2; a curvature seen along a step is believed down to here."""


@dataclass(frozen=True)
class Memory:
    """Steps and the changes of gradient along them, (b, m, d), the newest first."""

    steps: Floats
    changes: Floats


def empty(problems: int, size: int) -> Memory:
    """A memory that proposes steepest descent."""
    return Memory(np.zeros((problems, LENGTH, size)), np.zeros((problems, LENGTH, size)))


def remember(memory: Memory, step: Floats, change: Floats) -> Memory:
    """Add a step (b, d) and its change of gradient; a pair without positive curvature is left empty."""
    curved = (step * change).sum(axis=1) > 1e-10
    step, change = step * curved[:, None], change * curved[:, None]
    return Memory(
        np.concatenate([step[:, None], memory.steps[:, :-1]], axis=1),
        np.concatenate([change[:, None], memory.changes[:, :-1]], axis=1),
    )


def forget(memory: Memory, rows: NDArray[np.bool_]) -> Memory:
    """Empty the memory of the problems in this mask (b,)."""
    kept = ~rows[:, None, None]
    return Memory(memory.steps * kept, memory.changes * kept)


def direction(memory: Memory, gradient: Floats) -> Floats:
    """The quasi-Newton step (b, d) against this gradient: the two-loop recursion.

    Where nothing is remembered, the curvature is that of the newest step: J. Nocedal, S. J. Wright, Numerical
    Optimization (2006), eq. 7.20. A fixed one is too soft for stiff crystals, whose memory would be emptied after
    nearly every step: 32 and 20 evaluations of a Lennard-Jones and an EMT crystal on average, instead of 42 and 27.
    """
    curvature = (memory.steps * memory.changes).sum(axis=2)
    inverse = np.divide(1.0, curvature, out=np.zeros_like(curvature), where=curvature > 0)
    rest = gradient.copy()
    alphas = np.zeros_like(curvature)
    for age in range(LENGTH):
        alphas[:, age] = inverse[:, age] * (memory.steps[:, age] * rest).sum(axis=1)
        rest -= alphas[:, age, None] * memory.changes[:, age]
    rest /= _stiffness(memory, inverse)[:, None]
    for age in reversed(range(LENGTH)):
        beta = inverse[:, age] * (memory.changes[:, age] * rest).sum(axis=1)
        rest += (alphas[:, age] - beta)[:, None] * memory.steps[:, age]
    return -rest


def _stiffness(memory: Memory, inverse: Floats) -> Floats:
    """Curvature along the newest step, (b,); ``inverse`` (b, m) is 0 where a place is empty."""
    along = (memory.changes**2).sum(axis=2) * inverse
    newest = np.argmax(inverse > 0, axis=1)
    found = along[np.arange(len(along)), newest]
    return np.where(found > 0, np.maximum(found, SOFTEST), STIFFNESS)
