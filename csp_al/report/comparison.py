"""Runs side by side: what each took and found, which crystals are the same, and which settings differ.

both = csp_al.open_runs("runs/si8", "runs/si8-painn").comparison
both.crystals.pivot(index="crystal", columns="run", values="energy_per_atom")
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Final

import numpy as np
import pandas as pd
from ase import Atoms

from csp_al import objective
from csp_al.report.columns import CRYSTALS, RUNS, typed
from csp_al.report.export import SOURCES
from csp_al.report.finals import core_seconds
from csp_al.report.status import status
from csp_al.report.tables import Run
from csp_al.select.identity import pairs_of_same
from csp_al.store.changes import as_json
from csp_al.store.method import IRRELEVANT, method_of
from csp_al.structures import Structures

ABSENT: Final = "-"
"""In place of a setting that a run does not have."""


@dataclass(frozen=True)
class Comparison:
    """Runs of one composition side by side.

    - runs: a row for each, columns `RUNS`: energies in eV/atom, wall time of all stages, core time of the reference's
      labels and final relaxations
    - crystals: every ranked crystal of every run, columns `CRYSTALS`; ``crystal`` has one number for what is the same
      in several runs, 1 the lowest
    - settings: keys that differ, a row for each and a column for each run; also versions of programs
    - other_references: those of them by which the reference methods differ. Where there are some, energies of several
      runs are not comparable, crystals are matched by structure alone, and numbered by their energies above the best
    """

    runs: pd.DataFrame
    crystals: pd.DataFrame
    settings: pd.DataFrame
    other_references: list[str]


def compare(runs: Sequence[Run]) -> Comparison:
    """Compare at least two runs. Raises ValueError for fewer, for one given twice, and for other compositions."""
    _refuse(runs)
    settings = differing_settings(runs)
    others = [key for key in settings.index if key.startswith("reference.") and key.split(".")[1] not in IRRELEVANT]
    return Comparison(
        runs=typed(pd.DataFrame([_row(run) for run in runs]), RUNS),
        crystals=matched_crystals(runs, comparable=not others),
        settings=settings,
        other_references=others,
    )


def differing_settings(runs: Sequence[Run]) -> pd.DataFrame:
    """Values of every key that is not the same in all runs, but for their names; an object for each run and key."""
    flat = [dict(_flat(_settings(run))) for run in runs]
    keys = dict.fromkeys(key for one in flat for key in one)
    rows = {key: [one.get(key, ABSENT) for one in flat] for key in keys}
    differing = {key: row for key, row in rows.items() if len({json.dumps(value) for value in row}) > 1}
    names = [str(run.path) for run in runs]
    return pd.DataFrame.from_dict(differing, orient="index", columns=names, dtype=object).rename_axis("key")


def matched_crystals(runs: Sequence[Run], *, comparable: bool = True) -> pd.DataFrame:
    """The ranked crystals of all runs, columns `CRYSTALS`, lowest first, with one number for the same crystal.

    Energies of the same crystal differ by at most ``stop.tolerance`` of the first run, where they are ``comparable``;
    else the nearest above the best of its run is taken, of those that the matcher calls the same.
    """
    level = "energy_per_atom" if comparable else "energy_above_best"
    window = runs[0].campaign.stop.tolerance if comparable else np.inf
    known: list[Atoms] = []
    levels: list[float] = []
    parts = []
    for run in runs:
        found = {one.atoms.info["id"]: one.atoms for one in SOURCES["winners"](run)}
        table = run.results.assign(run=str(run.path), seed=run.campaign.seed)
        crystals = [found[identity] for identity in table["id"]]
        pairs = pairs_of_same(
            Structures.from_atoms(known),
            Structures.from_atoms(crystals),
            np.array(levels),
            table[level].to_numpy(),
            window,
        )
        numbers = {row: number for number, row in pairs}
        for row in sorted(set(range(len(table))) - set(numbers)):
            numbers[row] = len(known)
            known.append(crystals[row])
            levels.append(float(table[level].iloc[row]))
        parts.append(table.assign(crystal=[numbers[row] for row in range(len(table))]))
    table = pd.concat(parts, ignore_index=True)
    order = table.groupby("crystal")[level].min().sort_values(kind="stable").index
    table["crystal"] = table["crystal"].map({number: place for place, number in enumerate(order, start=1)})
    return typed(table.sort_values(["crystal", level], kind="stable").reset_index(drop=True), CRYSTALS)


def _refuse(runs: Sequence[Run]) -> None:
    if len(runs) < 2:
        raise ValueError("one run cannot be compared with itself; give two run directories or more")
    for one, other in combinations(runs, 2):
        if one.path.resolve() == other.path.resolve():
            raise ValueError(f"{other.path} is the same run as {one.path}; give each of them once")
    first = _formula(runs[0])
    for run in runs[1:]:
        if not objective.comparable(first, _formula(run)):
            raise ValueError(
                f"{runs[0].path} searches {first}, {run.path} searches {_formula(run)}: crystals of different "
                f"compositions have no common {objective.NAMES}; compare runs of one composition"
            )


def _formula(run: Run) -> str:
    return run.campaign.pools[-1].formula


def _row(run: Run) -> dict[str, Any]:
    """What a run took and found, in one row."""
    now, labels = status(run.path), run.all_labels
    return {
        "run": str(run.path),
        "name": run.campaign.name,
        "seed": run.campaign.seed,
        "formula": _formula(run),
        "state": now.state,
        "judgement": now.judgement.word if now.judgement else "",
        "stop": now.stop.reason or "",
        "cycles": len(run.published("rank")),
        "labels_done": now.labels.done,
        "labels_failed": now.labels.failed,
        "labels_from_elsewhere": now.labels.from_elsewhere,
        "reference_evaluations": now.reference_evaluations,
        "crystals": len(run.result_rows),
        "best_energy_per_atom": now.best.energy_per_atom if now.best else None,
        "best_by": now.best.by if now.best else "",
        "wall_s": now.elapsed_s,
        "reference_core_s": core_seconds(run) + (0.0 if labels is None else float(labels.cost.sum())),
    }


def _settings(run: Run) -> dict[str, Any]:
    """The campaign of a run without its name, and the versions that its results may depend on."""
    campaign = run.campaign
    method = method_of(run.path, campaign)
    said = {key: value for key, value in as_json(campaign).items() if key != "name"}
    return said | {"version": {"csp_al": method.version, **method.programs}}


def _flat(section: Mapping[str, Any], where: str = "") -> Iterator[tuple[str, Any]]:
    """Keys with points, and their values."""
    for key, value in section.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{where}{key}.")
        else:
            yield f"{where}{key}", value
