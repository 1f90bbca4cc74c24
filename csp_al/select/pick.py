"""Which candidates are labelled next: the best-scored ones, spread over the clusters, none twice in one geometry."""

from __future__ import annotations

import numpy as np
import pandas as pd

from csp_al.select.identity import UNKNOWN
from csp_al.select.ranking import rows_of
from csp_al.structures import Floats, Ints, Structures

SAME_GEOMETRY = 0.1
"""Å; a structure that moved by less than labels are perturbed by teaches nothing new."""


def pick(table: pd.DataFrame, structures: Structures, history: Structures, per_cycle: int) -> Ints:
    """Ids of at most ``per_cycle`` candidates, in the order in which they were picked.

    Ascending score, one candidate of each cluster; when every cluster has given one, the second-best of each, and so
    on. A basin gives one candidate, and none while a label of it stands where it is: the others that came to rest in
    it come after everything new. Without that the lowest basins, which many candidates reach, are labelled in each
    cycle, and a minimum that is predicted too high never is. Candidates that are not trusted come last, since the
    frame kept of them still teaches something; a score that is not finite is never picked, and neither is a candidate
    that was labelled before in the same geometry (`same_geometry`). Fewer than ``per_cycle`` ids, or none, mean that
    nothing else is left.

    The table is that of `rank`, ``structures`` are the candidates as they came to rest, ``history`` the earlier picks
    before they were perturbed, under the ids of their candidates (an id may be there several times).
    """
    rows = rows_of(structures, table["id"].to_numpy())
    known = np.array([_is_labelled(structures, history, int(row)) for row in rows], dtype=bool)
    basins = table["basin"].where(table["basin"] != UNKNOWN)
    labelled = basins.isin(basins[known].dropna())
    open_to_all = table[np.isfinite(table["score"]) & ~known]
    by_score = open_to_all.sort_values(["trusted", "score", "id"], ascending=[False, True, True])
    reached = basins[by_score.index]
    by_score["seen"] = labelled[by_score.index] | (reached.notna() & reached.duplicated())
    by_score["turn"] = by_score.groupby(["trusted", "seen", "cluster"]).cumcount()
    in_turn = by_score.sort_values(
        ["trusted", "seen", "turn", "score", "id"], ascending=[False, True, True, True, True]
    )
    picks: Ints = in_turn["id"].to_numpy(dtype=np.int64)[:per_cycle]
    return picks


def same_geometry(cell: Floats, positions: Floats, other_cell: Floats, other_positions: Floats) -> bool:
    """Whether the same atoms stand at the same places, but for `SAME_GEOMETRY`.

    Cells (3, 3) and positions (N, 3) in Å, atoms in the same order. A rotation of the whole crystal, a common
    translation and atoms moved by lattice vectors make no difference; another choice of lattice vectors does.
    """
    if np.abs(_stretch(cell, other_cell) - other_cell).max() > SAME_GEOMETRY:
        return False
    shifts = positions @ np.linalg.inv(cell) - other_positions @ np.linalg.inv(other_cell)
    # relative to the first atom, displacements are small where the geometries are alike, so that rounding finds the
    # nearest images; their mean is then the translation that makes their squares least
    relative = shifts - shifts[0]
    displacements = (relative - np.round(relative)) @ other_cell
    displacements -= displacements.mean(axis=0)
    return bool(np.linalg.norm(displacements, axis=1).max() <= SAME_GEOMETRY)


def _stretch(cell: Floats, other: Floats) -> Floats:
    """The first cell without its rotation against the other: other S, where cell = other S R, R orthogonal."""
    u, stretches, _ = np.linalg.svd(np.linalg.solve(other, cell))
    unrotated: Floats = other @ (u * stretches) @ u.T
    return unrotated


def _is_labelled(structures: Structures, history: Structures, row: int) -> bool:
    atoms = slice(structures.ptr[row], structures.ptr[row + 1])
    return any(
        same_geometry(
            structures.cells[row],
            structures.positions[atoms],
            history.cells[earlier],
            history.positions[history.ptr[earlier] : history.ptr[earlier + 1]],
        )
        for earlier in np.flatnonzero(history.ids == structures.ids[row])
    )
