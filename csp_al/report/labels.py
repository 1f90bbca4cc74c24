"""Tables of labels: what came of them, what was predicted, and what each cycle took.

``folders`` are those of published stages, by cycle, whose files are whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from ase.units import GPa

from csp_al import objective
from csp_al.files import DamagedError
from csp_al.report.columns import EFFORT, LABELS, OUTCOMES, typed
from csp_al.select.walk_forward import UPPER
from csp_al.store import layout
from csp_al.store.layout import Outcomes
from csp_al.store.run_directory import STAGES
from csp_al.structures import Floats, Labels, Prediction, Status, concatenate


def label_table(folders: Mapping[int, Path], predicted: Mapping[int, Path]) -> pd.DataFrame:
    """Every label, columns `LABELS`; ``predicted`` are the stages that chose them, by the cycle that labelled them."""
    parts = [_labels_of(folder, predicted.get(cycle)) for cycle, folder in folders.items()]
    return typed(pd.concat(parts, ignore_index=True) if parts else None, LABELS)


def outcome_table(outcomes: Mapping[int, Outcomes]) -> pd.DataFrame:
    """What is counted of the labels of each cycle, columns `OUTCOMES`."""
    if not outcomes:
        return typed(None, OUTCOMES)
    every = concatenate(outcomes.values())
    table = {"cycle": np.repeat(list(outcomes), list(map(len, outcomes.values()))), "id": every.structures.ids}
    return typed(pd.DataFrame(table | {"status": every.status, "evaluations": every.evaluations}), OUTCOMES)


def effort_table(
    cycles: list[int], labels: pd.DataFrame, checks: int, seconds: Mapping[tuple[int | None, str], float]
) -> pd.DataFrame:
    """What each of the cycles took, columns `EFFORT`; ``labels`` has at least the columns `OUTCOMES`.

    ``checks`` are the evaluations before the first label; ``seconds`` of stages are by cycle and name.
    """
    done, own = labels["status"] == Status.DONE, labels["id"] >= 0
    counts = {"labels_done": done & own, "labels_failed": ~done & own, "labels_from_elsewhere": done & ~own}
    counted = pd.DataFrame(counts | {"reference_evaluations": labels["evaluations"]})
    table = counted.groupby(labels["cycle"]).sum().reindex(cycles, fill_value=0).cumsum()
    table["reference_evaluations"] += checks
    for stage in STAGES:
        table[f"seconds_{stage}"] = [seconds.get((cycle, stage), np.nan) for cycle in cycles]
    return typed(table.rename_axis("cycle").reset_index(), EFFORT)


def count_opened(labels: pd.DataFrame) -> int:
    """Labels of first cells that were opened, since they were rejected as they were before; columns `OUTCOMES`."""
    return int(labels[labels["id"] >= 0].duplicated(["cycle", "id"]).sum())


def lowest_labelled(labels: pd.DataFrame, cycles: list[int]) -> pd.Series[float]:
    """The lowest energy (eV/atom) that the campaign's own labels had up to and including each cycle, by cycle."""
    own = labels[(labels["status"] == Status.DONE) & (labels["id"] >= 0)]
    lowest = own.groupby("cycle")["energy_per_atom"].min().reindex(cycles)
    return lowest.cummin().ffill()


def _labels_of(folder: Path, predicted: Path | None) -> pd.DataFrame:
    labels = layout.LABELS.read(folder)
    listed = layout.LABEL_TASKS.read(folder, rows=len(labels))
    table = {
        "cycle": labels.cycle,
        "id": labels.structures.ids,
        "task": listed["task"].to_numpy(),
        "status": labels.status,
        "reason": labels.reason,
        "energy_per_atom": objective.values(labels.energy, labels.structures),
        "max_force": labels.structures.largest(np.linalg.norm(labels.forces, axis=1)),
        "max_stress_gpa": np.abs(labels.stress).max(axis=(1, 2)) / GPa,
        "cost_s": labels.cost,
        "evaluations": labels.evaluations,
        "source": listed["source"].to_numpy() if "source" in listed else "",
    }
    if predicted is not None:
        guess, path = _predicted(folder, predicted, len(labels))
        table["predicted_energy_per_atom"] = objective.values(guess.energy, labels.structures)
        table["predicted_sigma_per_atom"] = objective.sigmas(guess.energy_sigma, labels.structures)
        table |= _errors_of(guess, labels, path)
    return pd.DataFrame(table)


def _predicted(folder: Path, chosen: Path, rows: int) -> tuple[Prediction, Path]:
    """What was predicted for the labels in a folder, and the file it is in: labels may come in later than others."""
    if layout.CAME_IN.is_in(folder):
        return layout.CAME_IN.read(folder, rows=rows).predicted, folder / layout.CAME_IN.name
    return layout.PREDICTED.read(chosen, rows=rows), chosen / layout.PREDICTED.name


def _errors_of(guess: Prediction, labels: Labels, path: Path) -> dict[str, Floats]:
    """Mean absolute errors of the components of forces and stress of each label, which a file predicted."""
    structures = labels.structures
    if guess.forces.shape != labels.forces.shape:
        raise DamagedError(path, f"forces on {len(guess.forces)} atoms, where there must be {len(labels.forces)}")
    of_atoms = np.abs(guess.forces - labels.forces).mean(axis=1)
    of_stress = np.abs(guess.stress - labels.stress)[:, UPPER[0], UPPER[1]]
    return {
        "forces_mae_ev_per_angstrom": np.bincount(structures.system, of_atoms, len(structures)) / structures.counts,
        "stress_mae_gpa": of_stress.mean(axis=1) / GPa,
    }
