"""What candidates ended as: relaxed by the reference, merged into one crystal, failed, or passed by.

end_of(open_run("runs/si8"), 17)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from ase.calculators.singlepoint import SinglePointCalculator
from ase.stress import full_3x3_to_voigt_6_stress

from csp_al.engine.tasks import is_id, read_result
from csp_al.files import DamagedError, read_json
from csp_al.report.export import SOURCES
from csp_al.report.export_formats import Exported
from csp_al.results import Result, Values
from csp_al.select.ranking import arrivals, rows_of
from csp_al.store import layout
from csp_al.store.method import method_of, result_items
from csp_al.store.records import ANYTHING
from csp_al.store.stages import file_of
from csp_al.structures import Status, Structures

if TYPE_CHECKING:
    from ase import Atoms

    from csp_al.report.tables import Run


@dataclass(frozen=True)
class End:
    """What a candidate came to once the leading crystals were relaxed by the reference.

    - status, reason: how its own relaxation ended, a `csp_al.structures.Status`, and why it failed; None: it had none
    - energy_per_atom (eV), fmax (eV/Å), converged, steps, evaluations, cost_s (core seconds): of that, None where it
      gave none, or where the folder of its task is gone
    - from_label: it began where the candidate was labelled, and not where it stands; None where that is not known
    - result: rank of the ranked crystal that it is; crystal: the candidate that stands for that one
    - reached: ranks of the crystals that the ensemble relaxed it to, as ``times_reached`` of the results counts
    """

    status: str | None = None
    reason: str | None = None
    energy_per_atom: float | None = None
    fmax: float | None = None
    converged: bool | None = None
    steps: int | None = None
    evaluations: int | None = None
    cost_s: float | None = None
    from_label: bool | None = None
    result: int | None = None
    crystal: int | None = None
    reached: tuple[int, ...] = ()


def end_of(run: Run, identity: int) -> End | None:
    """What a candidate came to; None before the winners of its run are relaxed."""
    summary = run.summary
    if summary is None:
        return None
    rows, groups = run.result_rows, _groups(run)
    rank, crystal = next(((rank, group[0]) for rank, group in groups.items() if identity in group), (None, None))
    failed = {one["id"]: one["reason"] for one in summary["failed"]}
    task = _task(run, identity)
    status = Status.DONE if crystal is not None else Status.FAILED if identity in failed else None
    result = task[1] if task else None
    labelled = _from_labels(run, rows)
    return End(
        status=result.status if result and status else status,
        reason=failed.get(identity),
        **_figures(result, [row for row in rows if row["id"] == identity]),
        from_label=None if labelled is None or status is None else identity in labelled,
        result=rank,
        crystal=crystal,
        reached=_reached(run, identity, rows, groups, labelled or set()),
    )


def by_reference(run: Run, identity: int) -> Exported | None:
    """A candidate as the reference relaxed it, with energy, forces and stress; None where it did not."""
    ranked = next((one for one in SOURCES["winners"](run) if one.atoms.info["id"] == identity), None)
    if ranked is not None:
        return ranked
    task = _task(run, identity)
    if task is None or task[1] is None or (values := task[1].done) is None:
        return None
    atoms, campaign = _rested(task[0], values), run.campaign
    energy, name = values.energy / len(atoms), f"{identity:05d}-reference"
    atoms.info |= {"id": identity, "energy_per_atom": energy, "name": name}
    row = {"id": identity, "energy_per_atom": energy, "fmax": values.fmax, "converged": values.converged}
    row["energy_above_best"] = energy - min(row["energy_per_atom"] for row in run.result_rows)
    return Exported(atoms, f"{campaign.name}_{name}", result_items(row, method_of(run.path, campaign)))


def _rested(begun: Atoms, values: Values) -> Atoms:
    atoms = values.atoms(begun.numbers)
    stress = full_3x3_to_voigt_6_stress(values.stress)
    atoms.calc = SinglePointCalculator(atoms, energy=values.energy, forces=values.forces, stress=stress)
    return atoms


def _groups(run: Run) -> dict[int, list[int]]:
    """By rank, the candidates that came to be each of the ranked crystals, the one that stands for it first."""
    merged = {group[0]: group for group in (run.summary or {}).get("merged", []) if group}
    return {row["rank"]: merged.get(row["id"], [row["id"]]) for row in run.result_rows}


def core_seconds(run: Run) -> float:
    """Core time of the final relaxations, s, as far as the folders of their tasks are there."""
    results = (read_result(run.path / "tasks", name) for name in _tasks(run))
    return sum(result.cost for result in results if result is not None)


def _tasks(run: Run) -> list[str]:
    """Ids of the tasks of the final relaxations, in their order; none before the end."""
    folder = run.folder("winners", None)
    if folder is None:
        return []
    path = file_of(folder, layout.TASKS)
    names = read_json(path, ANYTHING)
    if not isinstance(names, list) or not all(map(is_id, names)):
        raise DamagedError(path, "not the tasks of the final relaxations")
    return names


def _task(run: Run, identity: int) -> tuple[Atoms, Result | None] | None:
    """What the reference began to relax, and what came of it; None for other candidates, and in older runs."""
    begun = run.begun
    if begun is None or identity not in begun.ids:
        return None
    names = _tasks(run)
    if len(names) < len(begun):  # tries of symmetry come after them
        raise DamagedError(run.path / "winners" / layout.TASKS, f"{len(names)} tasks of {len(begun)} relaxations")
    (row,) = rows_of(begun, [identity])
    return begun.take([row]).to_atoms()[0], read_result(run.path / "tasks", names[row])


def _figures(result: Result | None, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What a final relaxation gave and took; of a ranked crystal its row of the results, be it made symmetric after."""
    told: dict[str, Any] = {key: row[key] for row in rows for key in ("energy_per_atom", "fmax", "converged")}
    if result is None:
        return told
    found: dict[str, Any] = {"evaluations": result.evaluations, "cost_s": result.cost}
    if (values := result.done) is not None:
        found |= {"energy_per_atom": values.energy / len(values.forces), "fmax": values.fmax}
        found |= {"converged": values.converged, "steps": values.steps}
    return found | told


def _from_labels(run: Run, rows: Sequence[dict[str, Any]]) -> set[int] | None:
    """Candidates that the reference began to relax elsewhere than where they stand; None where nobody knows."""
    begun, relaxed = run.begun, run.relaxed(rows[0]["cycle"]) if rows else None
    if begun is None or relaxed is None:
        return None
    standing = _taken(relaxed.structures, begun.ids.tolist(), run)
    alike = (np.array_equal(one.cell, other.cell) for one, other in zip(begun.to_atoms(), standing, strict=True))
    return {identity for identity, same in zip(begun.ids.tolist(), alike, strict=True) if not same}


def _taken(structures: Structures, ids: Sequence[int], run: Run) -> list[Atoms]:
    if missing := set(ids) - set(structures.ids.tolist()):
        raise DamagedError(run.path / "winners" / layout.BEGUN.name, f"candidate {min(missing)}, which was not relaxed")
    return structures.take(rows_of(structures, ids)).to_atoms()


def _reached(
    run: Run, identity: int, rows: Sequence[dict[str, Any]], groups: dict[int, list[int]], labelled: set[int]
) -> tuple[int, ...]:
    """Ranks of the crystals that the ensemble relaxed a candidate to."""
    if not rows:
        return ()
    cycle = rows[0]["cycle"]
    ranked, at_rest, relaxed = run.folder("rank", cycle), run.folder("relax", cycle), run.relaxed(cycle)
    if ranked is None or at_rest is None or relaxed is None:
        raise DamagedError(run.path / "winners" / layout.RESULTS.name, f"cycle {cycle}, which has no ranking")
    lower = layout.LOWER_ENDS.read(at_rest).structures if layout.LOWER_ENDS.is_in(at_rest) else None
    standing = [[one for one in group if one not in labelled] for group in groups.values()]
    none = relaxed.structures.take([])
    counts = arrivals([identity], standing, layout.RANKING.read(ranked), relaxed.structures, lower or none)
    return tuple(rank for rank, count in zip(groups, counts, strict=True) if count)
