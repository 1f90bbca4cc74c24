"""The table of a cycle: what became of each candidate, and which crystals lead."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from csp_al import objective
from csp_al.interfaces import UNCERTAIN, trusted
from csp_al.select.identity import basins, count_arrivals, distinct
from csp_al.structures import Floats, Ints, Relaxed, Structures, concatenate

COLUMNS = (
    "id", "energy_per_atom", "sigma_per_atom", "score", "max_force", "max_force_sigma", "volume_per_atom", "cluster",
    "basin", "lowest_basin", "reason", "steps", "trusted",
)  # fmt: skip

FIRST_STEP = 2
"""Evaluations of a relaxation that took one step: at its start and at the end of the step."""

NEARLY_ALL = 0.9
"""Share of the candidates from which on their relaxations are said to have stopped at once."""


def rank(relaxed: Relaxed, lower: Relaxed, scores: Floats, clusters: Ints) -> pd.DataFrame:
    """One row for each candidate, sorted by id, with `COLUMNS`.

    Energies, sigmas and scores in eV/atom, forces in eV/Å (norms, the largest over atoms), volumes in Å^3. Basins are
    those of `csp_al.select.identity.basins`: the one that the candidate stands in, and that of the lowest of its ends,
    which is another one for those in ``lower`` (`csp_al.select.ends`). A candidate is trusted unless it ended with
    atoms too close, with a volume out of range, or with numbers that are not finite.
    """
    structures, prediction = relaxed.structures, relaxed.prediction
    basin, of_lower = np.split(basins(concatenate([relaxed, lower])), [len(relaxed)])
    lowest = basin.copy()
    lowest[rows_of(structures, lower.structures.ids)] = of_lower
    table = pd.DataFrame(
        {
            "id": structures.ids,
            "energy_per_atom": objective.values(prediction.energy, structures),
            "sigma_per_atom": objective.sigmas(prediction.energy_sigma, structures),
            "score": scores,
            "max_force": structures.largest(np.linalg.norm(prediction.forces, axis=1)),
            "max_force_sigma": structures.largest(prediction.forces_sigma),
            "volume_per_atom": structures.volumes / structures.counts,
            "cluster": clusters,
            "basin": basin,
            "lowest_basin": lowest,
            "reason": relaxed.reason,
            "steps": relaxed.steps,
            "trusted": trusted(relaxed.reason),
        },
        columns=list(COLUMNS),
    )
    return table.sort_values("id", ignore_index=True)


def lowest_basin(table: pd.DataFrame) -> Ints:
    """Basin of the lowest end of each candidate; tables of older runs have the one that it stands in alone."""
    found: Ints = table["lowest_basin" if "lowest_basin" in table else "basin"].to_numpy()
    return found


def stopped_at_once(table: pd.DataFrame) -> str:
    """In words, where nearly all relaxations of this table ended in their first step for doubt; empty elsewhere."""
    stopped = int(((table["reason"] == UNCERTAIN) & (table["steps"] <= FIRST_STEP)).sum())
    if stopped < NEARLY_ALL * len(table) or not stopped:
        return ""
    return (
        f"{stopped} of {len(table)} relaxations stopped in their first step, because the potentials disagree there: "
        "candidates are ranked as they were generated, not as crystals at rest. What helps: more labels "
        "(select.per_cycle, labels), a larger relax.uncertainty, or another kind of potential"
    )


def representatives(table: pd.DataFrame, structures: Structures, k: int, energy_tolerance: float) -> pd.DataFrame:
    """Rows of the table for the k lowest crystals, lowest first; fewer where there are fewer.

    Of trusted candidates that are the same crystal (by `csp_al.select.identity.distinct`, energies within
    ``energy_tolerance``, eV/atom, or what the ensemble does not know) the lowest stands for all: relaxations that
    stopped where the members disagree end at different heights of one basin, and took two of the k places. Published
    is the lowest candidate of each cluster; but what k-means puts together are alike surroundings, not equal crystals:
    lonsdaleite stood for its cluster, and diamond, in the same cluster and 0.2 meV/atom higher, was never relaxed by
    the reference. ``structures`` are the candidates as they came to rest.
    """
    sound = table[table["trusted"] & np.isfinite(table["energy_per_atom"])].sort_values(["energy_per_atom", "id"])
    candidates = structures.take(rows_of(structures, sound["id"]))
    energies, sigmas = (sound[name].to_numpy() for name in ("energy_per_atom", "sigma_per_atom"))
    groups = distinct(candidates, energies, energy_tolerance, k, sigmas)
    return sound.iloc[[group[0] for group in groups]]


def arrivals(
    counted: ArrayLike, crystals: Sequence[Sequence[int]], table: pd.DataFrame, relaxed: Structures, lower: Structures
) -> list[int]:
    """How many of the ``counted`` candidates came to rest in each of these crystals, in which a group of others stands.

    All are named by their ids. The table is that of `rank`, ``relaxed`` and ``lower`` what it was made of: where all
    candidates stand, and the lowest ends of those that stand elsewhere.
    """
    standing = relaxed.take(rows_of(relaxed, table["id"]))  # in the table's order
    ends = concatenate([standing, lower])
    basin = np.concatenate([table["basin"].to_numpy(), lowest_basin(table)[rows_of(standing, lower.ids)]])
    groups = [rows_of(standing, group).tolist() for group in crystals]
    return count_arrivals(groups, basin, ends, np.isin(ends.ids, counted))


def rows_of(structures: Structures, ids: ArrayLike) -> Ints:
    """Row of each id in a batch whose ids are all different. Raises KeyError for an id that it does not have."""
    ids = np.asarray(ids, dtype=np.int64)
    order = np.argsort(structures.ids, kind="stable")
    places = np.searchsorted(structures.ids, ids, sorter=order).clip(max=len(order) - 1)
    rows: Ints = order[places] if len(order) else np.zeros(0, np.int64)
    missing = ids if not len(order) else ids[structures.ids[rows] != ids]
    if len(missing):
        msg = f"no structure has the id {missing[0]}; the table and the structures are of different cycles"
        raise KeyError(msg)
    return rows
