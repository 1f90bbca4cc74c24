"""The tables of a run: which columns each has, and of what type, also where there is nothing yet."""

from __future__ import annotations

from typing import Final

import pandas as pd

from csp_al.direct.starts import COUNTED
from csp_al.store.records import BRED, Columns
from csp_al.store.run_directory import STAGES

POOL: Final[Columns] = {
    "id": "int64", "origin": "str", "asked_group": "Int64", "space_group": "str", "space_group_number": "Int64",
    "n_atoms": "int64", "volume_per_atom": "float64", "searched": "bool", "note": "str",
    **BRED,
}  # fmt: skip
LABELS: Final[Columns] = {
    "cycle": "int64", "id": "int64", "task": "str", "status": "str", "reason": "str", "energy_per_atom": "float64",
    "max_force": "float64", "max_stress_gpa": "float64", "cost_s": "float64", "evaluations": "int64",
    "predicted_energy_per_atom": "float64", "predicted_sigma_per_atom": "float64", "source": "str",
    "forces_mae_ev_per_angstrom": "float64", "stress_mae_gpa": "float64",
}  # fmt: skip
LIFE: Final[Columns] = {
    "cycle": "int64", "place": "Int64", "energy_per_atom": "float64", "sigma_per_atom": "float64",
    "max_force": "float64", "volume_per_atom": "float64", "basin": "int64", "lowest_in_basin": "Int64",
    "times_reached": "int64", "reason": "str", "steps": "int64", "trusted": "bool", "leads": "bool", "picked": "bool",
}  # fmt: skip
OUTCOMES: Final[Columns] = {"cycle": "int64", "id": "int64", "status": "str", "evaluations": "int64"}
PREDICTION_ERRORS: Final = (
    "energy_mae_mev_per_atom", "energy_rmse_mev_per_atom", "energy_apart_mev_per_atom",
    "energy_within_1_sigma", "energy_within_2_sigma", "energy_spread_factor",
    "forces_mae_ev_per_angstrom", "forces_rmse_ev_per_angstrom",
    "forces_within_1_sigma", "forces_within_2_sigma", "forces_spread_factor",
    "stress_mae_gpa", "stress_rmse_gpa", "stress_within_1_sigma", "stress_within_2_sigma", "stress_spread_factor",
)  # fmt: skip
"""Errors of `csp_al.select.walk_forward` that the table of cycles shows."""
CYCLES: Final[Columns] = {
    "cycle": "int64", "labels_done": "int64", "labels_failed": "int64", "labels_from_elsewhere": "int64",
    "reference_evaluations": "int64",
    "best_predicted_energy_per_atom": "float64", "best_labelled_energy_per_atom": "float64",
    **dict.fromkeys(PREDICTION_ERRORS, "float64"),
    "stable_cycles": "Int64", "stop": "boolean", "settled": "boolean", "reason": "str", "unseen": "float64",
    **{f"seconds_{stage}": "float64" for stage in STAGES},
}  # fmt: skip
EFFORT: Final[Columns] = {
    name: kind for name, kind in CYCLES.items() if name.startswith(("cycle", "labels_", "reference_", "seconds_"))
}
DIRECT: Final[Columns] = {
    "cycle": "int64", "pairs": "int64", "displacement": "float64", "before": "float64", "helps": "bool",
    **dict.fromkeys(COUNTED, "int64"),
}  # fmt: skip
RANKING: Final[Columns] = {
    "id": "int64", "energy_per_atom": "float64", "sigma_per_atom": "float64", "score": "float64",
    "max_force": "float64", "max_force_sigma": "float64", "volume_per_atom": "float64", "cluster": "int64",
    "basin": "int64", "times_reached": "int64", "reason": "str", "steps": "int64", "trusted": "bool",
}  # fmt: skip
RESULTS: Final[Columns] = {
    "rank": "int64", "id": "int64", "formula": "str", "n_atoms": "int64", "energy_per_atom": "float64",
    "energy_above_best": "float64", "predicted_energy_per_atom": "float64", "predicted_sigma": "float64",
    "volume_per_atom": "float64", "fmax": "float64", "converged": "bool", "times_reached": "int64", "cycle": "int64",
    "cif": "str", "space_group_symbol": "str", "space_group_number": "int64",
}  # fmt: skip
LEADERS: Final[Columns] = {
    "run": "str", "seed": "int64", "strategy": "str", "judgement": "str", "crystal": "int64", "id": "int64",
    "energy_per_atom": "float64", "space_group_symbol": "str", "times_reached": "int64",
    "reference_evaluations": "int64",
}  # fmt: skip
RUNS: Final[Columns] = {
    "run": "str", "name": "str", "seed": "int64", "formula": "str", "state": "str", "judgement": "str", "stop": "str",
    "cycles": "int64", "labels_done": "int64", "labels_failed": "int64", "labels_from_elsewhere": "int64",
    "reference_evaluations": "int64", "crystals": "int64", "best_energy_per_atom": "float64", "best_by": "str",
    "wall_s": "float64", "reference_core_s": "float64",
}  # fmt: skip
CRYSTALS: Final[Columns] = {
    "crystal": "int64", "run": "str", "seed": "int64", "rank": "int64", "id": "int64", "energy_per_atom": "float64",
    "energy_above_best": "float64", "space_group_symbol": "str", "space_group_number": "int64",
    "volume_per_atom": "float64", "times_reached": "int64", "converged": "bool",
}  # fmt: skip
LEARNING_CURVES: Final[Columns] = {
    "cycle": "int64", "epoch": "int64", "member": "int64", "training": "float64", "validation": "float64",
}  # fmt: skip
POOL_MAP: Final[Columns] = {
    "cycle": "int64", "id": "int64", "x": "float64", "y": "float64", "x_share": "float64", "y_share": "float64",
    "energy_per_atom": "float64", "sigma_per_atom": "float64", "volume_per_atom": "float64", "reason": "str",
    "labelled": "bool", "picked": "bool", "leading": "bool",
}  # fmt: skip


def typed(table: pd.DataFrame | None, columns: Columns) -> pd.DataFrame:
    """The table with these columns in this order, missing ones filled; without a table, an empty one."""
    content = pd.DataFrame() if table is None else table
    result = {}
    for name, kind in columns.items():
        values = content[name] if name in content else pd.Series(index=content.index, dtype="object")
        # empty texts come back from CSV as missing
        result[name] = values.fillna("").astype("str") if kind == "str" else values.astype(kind)  # type: ignore[call-overload]
    return pd.DataFrame(result)
