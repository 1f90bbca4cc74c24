"""The stage that asks the reference, and so needs an engine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from csp_al.asked import asked_for, parted, with_opened
from csp_al.loop.below import ask_foundation
from csp_al.loop.drive import Drive
from csp_al.loop.opening import label_and_open
from csp_al.loop.out import may_be_out
from csp_al.loop.progress import Progress
from csp_al.loop.tasks import labels_of, refuse_many_failures
from csp_al.select.walk_forward import walk_forward
from csp_al.store import layout
from csp_al.structures import Picks, concatenate


def compute_labels(drive: Drive, folder: Path, cycle: int, progress: Progress, picks: Picks) -> None:
    """What the reference method says of the picks, and how well it had been predicted.

    Of a random draw, when nothing is known of the chemistry, cells that are too tight are opened. Where labels may be
    out, those that have come in, and what is out still.
    """
    campaign, predicted = drive.campaign, None
    if cycle > 0:
        predicted = layout.PREDICTED.read(layout.stage_folder(drive.run, "select", cycle - 1))
    asked = concatenate([progress.out, asked_for(picks, predicted)])
    drawn = np.isnan(asked.predicted.energy) & (cycle == 0 or campaign.select.in_flight > 0)
    budget, out = campaign.budget.labels - progress.asked, may_be_out(campaign, cycle, len(picks.structures))
    structures, names, all_results = label_and_open(drive, folder, asked.structures, drawn, budget, out)
    came, left = parted(with_opened(asked, structures), all_results)
    results = [result for result in all_results if result is not None]
    last = dict(zip(came.structures.ids.tolist(), results, strict=True))
    refuse_many_failures(list(last.values()), campaign.reference.max_fail_fraction)
    labels = labels_of(came.structures, results, cycle)
    layout.LABELS.write(folder, labels)
    tasks = [name for name, result in zip(names, all_results, strict=True) if result is not None]
    columns = {"candidate": labels.structures.ids, "task": tasks, "status": labels.status, "reason": labels.reason}
    layout.LABEL_TASKS.write(folder, pd.DataFrame(columns | {"cost_s": labels.cost}))
    if campaign.select.in_flight:
        layout.CAME_IN.write(folder, came)
        layout.OUT.write(folder, left)
        layout.OUT_TASKS.write(folder, [name for name in names if name not in set(tasks)])
    if cycle > 0:
        layout.WALK_FORWARD.write(folder, walk_forward(came.predicted, labels))
    ask_foundation(drive, folder, labels, came.predicted if cycle > 0 else None)
