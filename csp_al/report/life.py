"""The life of one candidate: where it is from, how it stood in each cycle, its labels, and what it ended as.

life = csp_al.open_run("runs/si8").life(17)
life.cycles  # a row for each cycle
structure, when = structure_at(run, 17, "cycle-03")  # structure.atoms: as it stood then
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from csp_al.report.columns import LIFE, typed
from csp_al.report.export_formats import Exported
from csp_al.report.finals import End, by_reference, end_of
from csp_al.store.method import method_of, prediction_items
from csp_al.structures import Ints

if TYPE_CHECKING:
    from csp_al.report.tables import Run

FIRST, LAST, REFERENCE = "first", "last", "reference"
CYCLE: Final = re.compile(r"cycle-(\d{1,9})")
RANGES: Final = 6
"""Ranges of ids that are named, where there is none of an id."""


@dataclass(frozen=True)
class Life:
    """What became of a candidate.

    - origin: its row of `Run.pool`; offspring: ids of the candidates that were bred from it
    - cycles: a row for each cycle that ranked it, columns `LIFE`: those of `Run.ranking`, ``place`` among the trusted
      candidates (1: the lowest), ``lowest_in_basin`` the candidate that is lowest where it stands, ``leads``: it is
      among the leaders, ``picked``: the cycle chose it to be labelled next
    - labels: its rows of `Run.labels`
    - end: what it came to by the reference; None before the winners are relaxed
    """

    id: int
    origin: dict[str, Any]
    offspring: list[int]
    cycles: pd.DataFrame
    labels: pd.DataFrame
    end: End | None


def life_of(run: Run, identity: int) -> Life:
    """What became of a candidate. Raises ValueError for an id that the run does not have."""
    pool = _pool(run, identity)
    row = pool.loc[pool["id"] == identity].astype(object).iloc[0]
    return Life(
        id=identity,
        origin={str(key): None if pd.isna(value) else value for key, value in row.items()},
        offspring=[child for child, of in zip(pool["id"], pool["parents"], strict=True) if str(identity) in of.split()],
        cycles=typed(pd.DataFrame(list(_standings(run, identity))), LIFE),
        labels=run.labels_of(identity),
        end=end_of(run, identity),
    )


def structure_at(run: Run, identity: int, at: str | None = None) -> tuple[Exported, str]:
    """A candidate at a point of its life, with what is known of it there; and which that is, in words.

    It is ``first`` (as generated or bred), ``cycle-03`` and the like, ``last`` (of the cycles that have a ranking),
    or ``reference`` (at the end of its final relaxation); by default the last of these that there is. Raises ValueError
    for what is not there.
    """
    pool, cycles = _pool(run, identity), list(run.published("rank"))
    if at in (None, REFERENCE):
        relaxed = by_reference(run, identity)
        if relaxed is not None:
            return relaxed, "as the reference relaxed it"
        if at == REFERENCE:
            raise ValueError(f"{run.path}: the reference has not relaxed candidate {identity}; --at {LAST} is there")
    if at == FIRST or (at is None and not cycles):
        (atoms,) = run.structures(identity)
        atoms.info |= {"name": f"{identity:05d}", "origin": pool.set_index("id").loc[identity, "origin"]}
        return Exported(atoms, f"{run.campaign.name}_candidate_{identity:05d}"), "as it began"
    cycle = _cycle_of(run, at or LAST, cycles)
    return _predicted(run, identity, cycle), f"as it stood in cycle {cycle}"


def _pool(run: Run, identity: int) -> pd.DataFrame:
    """The table of all candidates. Raises ValueError where there is none of this id."""
    pool = run.pool
    ids = pool["id"].to_numpy()
    if identity not in ids.tolist():
        there = f"there are {_ranges(np.sort(ids))}" if len(ids) else "there are none yet"
        raise ValueError(f"{run.path}: no candidate has the id {identity}; {there}")
    return pool


def _ranges(ids: Ints) -> str:
    """Ids in words, in ascending order: 0 to 23, 31, 40 to 42."""
    runs = np.split(ids, np.flatnonzero(np.diff(ids) > 1) + 1)
    words = [f"{one[0]} to {one[-1]}" if len(one) > 1 else f"{one[0]}" for one in runs]
    return ", ".join(words if len(words) <= RANGES else [*words[: RANGES - 1], "...", words[-1]])


def _standings(run: Run, identity: int) -> Iterator[dict[str, Any]]:
    """A row for each cycle that ranked the candidate."""
    judged, selected = run.published("verdict"), run.published("select")
    for cycle, table in run.rankings():
        if identity not in table["id"].to_numpy():
            continue  # it was not bred yet
        place = int(table.index[table["id"] == identity][0])
        row: dict[Any, Any] = table.loc[place].to_dict()
        verdict = run.verdict(cycle) if cycle in judged else None
        yield row | {
            "cycle": cycle,
            "place": place + 1 if row["trusted"] else None,
            "lowest_in_basin": table.loc[table["basin"] == row["basin"], "id"].iloc[0] if row["trusted"] else None,
            "leads": verdict is not None and identity in verdict.top,
            "picked": cycle in selected and identity in run.picks(cycle),
        }


def _cycle_of(run: Run, at: str, cycles: list[int]) -> int:
    """The cycle that is meant. Raises ValueError for one that is not there."""
    found = CYCLE.fullmatch(at)
    cycle = (cycles or [-1])[-1] if at == LAST else int(found[1]) if found else -1
    if cycle not in cycles:
        there = f"cycle-{cycles[0]:02d} to cycle-{cycles[-1]:02d}, {LAST}" if cycles else "no cycle has a ranking yet"
        raise ValueError(f"{run.path}: --at {at}: there are {FIRST}, {there}, and {REFERENCE} of what that relaxed")
    return cycle


def _predicted(run: Run, identity: int, cycle: int) -> Exported:
    """A candidate as it stood in a cycle, with what was predicted of it."""
    table = run.ranking(cycle).set_index("id")
    if identity not in table.index:
        raise ValueError(f"{run.path}: candidate {identity} was bred later than in cycle {cycle}")
    (atoms,) = run.structures(identity, cycle)
    method, name = method_of(run.path, run.campaign), f"{identity:05d}-cycle-{cycle:02d}"
    (row,) = table.loc[[identity]].to_dict("records")
    atoms.info |= {
        "name": name,
        "predicted_energy_per_atom": float(row["energy_per_atom"]),
        "predicted_sigma": float(row["sigma_per_atom"]),
        "reason": str(row["reason"]),
    }
    return Exported(atoms, f"{method.run}_{name}", prediction_items(atoms.info, method))
