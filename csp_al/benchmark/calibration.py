"""Whether the spread of the ensemble says how wrong it is: on labels that it predicted before it had seen them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from csp_al.structures import Status


def calibration(labels: Sequence[pd.DataFrame]) -> list[dict[str, Any]]:
    """A row for each cycle with the predicted energies of all runs together; tables are `Run.labels`.

    Keys: cycle, labels, mae_mev_per_atom, within_1_sigma and within_2_sigma (0.68 and 0.95 if errors were Gaussian
    and the spread right), rms_z (of error over sigma, 1 if right; large for a few that were far off), median_z (of
    its absolute value, 0.67 if right), rank_correlation (Spearman's, of absolute error and sigma).
    """
    table = pd.concat(labels, ignore_index=True)
    table = table[table["status"] == Status.DONE].dropna(
        subset=["predicted_energy_per_atom", "predicted_sigma_per_atom"]
    )
    error = (table["predicted_energy_per_atom"] - table["energy_per_atom"]).abs()
    sigma = table["predicted_sigma_per_atom"]
    parts = pd.DataFrame({"cycle": table["cycle"], "error": error, "sigma": sigma, "z": error / sigma})
    return [_figures(int(str(cycle)), rows) for cycle, rows in parts.groupby("cycle")]


def _figures(cycle: int, rows: pd.DataFrame) -> dict[str, Any]:
    return {
        "cycle": cycle,
        "labels": len(rows),
        "mae_mev_per_atom": 1000 * float(rows["error"].mean()),
        "within_1_sigma": float((rows["z"] <= 1).mean()),
        "within_2_sigma": float((rows["z"] <= 2).mean()),
        "rms_z": float(np.sqrt((rows["z"] ** 2).mean())),
        "median_z": float(rows["z"].median()),
        "rank_correlation": float(rows["error"].corr(rows["sigma"], method="spearman")) if len(rows) > 2 else None,
    }
