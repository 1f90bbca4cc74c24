"""Labels from elsewhere as the labels of the first cycle, once some of them have been computed again.

Labels of other settings poison a training set: the potential learns the difference as if it were physics. The settings
of a run directory are known and compared; those of a file are not, so of each such source the label of lowest energy
per atom and the one in the middle are computed again before any is trusted.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from ase.units import GPa

from csp_al import objective
from csp_al.campaign.errors import Finding
from csp_al.events import LabelsImported
from csp_al.loop.below import ask_foundation
from csp_al.loop.drive import Drive
from csp_al.loop.label_set import read_labels
from csp_al.loop.out import label_tasks
from csp_al.results import Result, Values
from csp_al.store import layout
from csp_al.structures import Ints, Labels, Status

ENERGY: Final = 0.005
"""eV/atom that a label from elsewhere may differ from the reference's own."""

FORCE: Final = 0.1
"""eV/Å, likewise for each component of a force."""

STRESS: Final = 1.0
"""GPa, likewise for each component of the stress: less than settings change it, far less than another sign does."""


class UntrustedLabelsError(Exception):
    """Labels from elsewhere are not what the reference method says; the message has both values and what to do."""


def import_labels(drive: Drive) -> Labels | None:
    """The labels from elsewhere, copied into the run directory; None if the campaign names none. Raises `Misfit`."""
    if not drive.campaign.labels:
        return None
    return layout.LABELS.read(drive.stage(_folder(drive), lambda folder: _copy_labels(drive, folder)))


def verify_imported(drive: Drive, given: Labels) -> Labels:
    """The labels from elsewhere as those of the first cycle. Raises `UntrustedLabelsError`.

    A label that was computed again keeps the values it came with, and has the cost and the evaluations of that.
    """
    place = layout.stage_folder(drive.run, "label", 0)
    return layout.LABELS.read(drive.stage(place, lambda folder: _compute_some_again(drive, folder, given)))


def _copy_labels(drive: Drive, folder: Path) -> None:
    remarks: list[Finding] = []  # told before, when the file was checked
    labels, table = read_labels(drive.campaign, drive.base, remarks.append)
    layout.LABELS.write(folder, labels)
    layout.SOURCES.write(folder, table)
    said = tuple(map(str, remarks))
    drive.announce("labels from elsewhere", LabelsImported(len(labels.usable), len(labels) - len(labels.usable), said))


def _compute_some_again(drive: Drive, folder: Path, given: Labels) -> None:
    table = layout.SOURCES.read(_folder(drive))
    rows = rows_to_check(given, table)
    tasks = label_tasks(drive.campaign, given.structures.take(rows))
    names, results = drive.calculate(folder, tasks)
    _refuse_others(given.take(rows), table["place"].to_numpy()[rows].tolist(), results)
    values = [result.done for result in results if result.done]
    labels = replace(given, cost=given.cost.copy(), evaluations=given.evaluations.copy())
    labels.cost[rows] = [result.cost for result in results]
    labels.evaluations[rows] = [result.evaluations for result in results]
    layout.LABELS.write(folder, labels)
    ask_foundation(drive, folder, labels)
    listed = table[["id", "status", "reason", "place"]].rename(columns={"id": "candidate", "place": "source"})
    task = dict(zip(rows.tolist(), names, strict=True))
    listed.insert(1, "task", [task.get(row, "") for row in range(len(listed))])
    layout.LABEL_TASKS.write(folder, listed.assign(cost_s=labels.cost))
    checked = [
        {"place": table["place"][row], "task": name, **_apart(given.take([row]), here)}
        for row, name, here in zip(rows.tolist(), names, values, strict=True)
    ]
    layout.CHECKS.write(folder, checked)


def rows_to_check(labels: Labels, table: pd.DataFrame) -> Ints:
    """Of each source whose settings are not known: the label of lowest energy per atom, and the one in the middle."""
    values = objective.values(labels.energy, labels.structures)
    chosen: list[int] = []
    for source in table.loc[~table["known"], "source"].unique():
        rows = np.flatnonzero((table["source"] == source).to_numpy() & (labels.status == Status.DONE))
        ascending = rows[np.argsort(values[rows], kind="stable")]
        chosen += dict.fromkeys([*ascending[:1].tolist(), *ascending[len(ascending) // 2 :][:1].tolist()])
    return np.array(chosen, dtype=np.int64)


def _folder(drive: Drive) -> Path:
    return layout.stage_folder(drive.run, "elsewhere")


def _refuse_others(labels: Labels, places: list[str], results: list[Result]) -> None:
    lines = [
        f"  {place}: {wrong}"
        for row, (place, result) in enumerate(zip(places, results, strict=True))
        if (wrong := _what_is_wrong(labels.take([row]), result))
    ]
    if lines:
        found = "\n".join(lines)
        msg = (
            f"labels from elsewhere are not those of this reference, by what it says of the same structures:\n{found}\n"
            "Leave the source out, or give the reference section the settings that it was computed with, and start the "
            "campaign under a new name."
        )
        raise UntrustedLabelsError(msg)


def _what_is_wrong(label: Labels, result: Result) -> str:
    """What differs by more than it may, there and here; empty if nothing."""
    here = result.done
    if here is None:
        return f"it cannot be computed again ({result.reason})"
    apart, count = _apart(label, here), len(label.forces)
    words = []
    if apart["energy_mev_per_atom"] > 1000 * ENERGY:
        words.append(
            f"{float(label.energy[0]) / count:.4f} eV/atom there, {here.energy / count:.4f} here "
            f"({apart['energy_mev_per_atom']:.1f} meV/atom apart, allowed {1000 * ENERGY:g})"
        )
    if apart["force_ev_per_angstrom"] > FORCE:
        worst = np.unravel_index(np.argmax(np.abs(label.forces - here.forces)), label.forces.shape)
        words.append(
            f"force along {'xyz'[worst[1]]} on atom {worst[0]} {label.forces[worst]:.3f} eV/Å there, "
            f"{here.forces[worst]:.3f} here (allowed {FORCE:g} apart)"
        )
    if apart["stress_gpa"] > STRESS:
        i, j = np.unravel_index(np.argmax(np.abs(label.stress[0] - here.stress)), (3, 3))
        words.append(
            f"stress {'xyz'[i]}{'xyz'[j]} {label.stress[0, i, j] / GPa:.2f} GPa there, "
            f"{here.stress[i, j] / GPa:.2f} here (allowed {STRESS:g} apart; positive under tension)"
        )
    return "; ".join(words)


def _apart(label: Labels, here: Values) -> dict[str, float]:
    """How far a label and what the reference says of it are apart."""
    return {
        "energy_mev_per_atom": 1000 * abs(float(label.energy[0]) - here.energy) / len(label.forces),
        "force_ev_per_angstrom": float(np.abs(label.forces - here.forces).max()),
        "stress_gpa": float(np.abs(label.stress[0] - here.stress).max() / GPa),
    }
