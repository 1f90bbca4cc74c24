"""Candidates from the sources that a campaign file names, and whether they are any."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase import Atoms

from csp_al.campaign.constraints import Constraints
from csp_al.campaign.sources import SourceSection
from csp_al.geometry import too_close
from csp_al.interfaces import SourceKind, UnplaceableError
from csp_al.kinds import SOURCES, find


def candidate_of(source: SourceSection, constraints: Constraints, rng: np.random.Generator) -> Atoms:
    """A candidate of this source, checked. Raises UnplaceableError; ValueError for what is none; both in one line."""
    kind: SourceKind = find(SOURCES, source.kind)
    try:
        atoms = kind.make(source, constraints, rng)
        wrong = _wrong_composition(atoms, constraints) or why_unsound(atoms, constraints)
    except UnplaceableError as error:
        raise UnplaceableError(f"source {source.kind}: {error}") from error
    except Exception as error:
        raise ValueError(f"source {source.kind}: {type(error).__name__}: {error}") from error
    if wrong:
        raise ValueError(f"source {source.kind}: {wrong}")
    return atoms


def allot(shares: Sequence[float], count: int) -> list[int | None]:
    """Which of the sources each of so many candidates is from, every share spread evenly; None: from none of them."""
    parts = [*shares, max(0.0, 1 - sum(shares))]
    made = [0] * len(parts)
    turns: list[int | None] = []
    for number in range(1, count + 1):
        behind = [part * number - done for part, done in zip(parts, made, strict=True)]
        turn = behind.index(max(behind))
        made[turn] += 1
        turns.append(turn if turn < len(shares) else None)
    return turns


def why_unsound(atoms: Atoms, constraints: Constraints) -> str:
    """Why atoms are no candidate, in words: not finite, without a cell, too close; empty if nothing is wrong."""
    if not (np.isfinite(atoms.positions).all() and np.isfinite(atoms.cell.array).all()):
        return "positions or cell not finite"
    if atoms.cell.volume < 1e-3:
        return f"no periodic cell (volume {atoms.cell.volume:.3g} Å^3); give three cell vectors"
    return too_close(atoms, constraints.min_distance)


def _wrong_composition(atoms: Atoms, constraints: Constraints) -> str:
    if atoms.symbols.formula.count() != constraints.counts:
        wanted = "".join(f"{symbol}{count}" for symbol, count in constraints.counts.items())
        return f"composition {atoms.symbols.formula or 'empty'}, this pool takes {wanted} only"
    return "" if atoms.pbc.all() else "not periodic in three directions"
