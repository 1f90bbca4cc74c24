"""The stage in which a foundation relaxes the pool, and what it chooses to be labelled first."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from csp_al import objective
from csp_al.events import Warned
from csp_al.interfaces import NOT_FINITE
from csp_al.loop.below import refuse_silence
from csp_al.loop.bodies import EXPLORED, described, relaxation_limits
from csp_al.loop.drive import Work
from csp_al.loop.progress import Progress
from csp_al.loop.random_streams import FOUNDATION, stream
from csp_al.relax.relaxation import relax
from csp_al.select.cluster import k_means
from csp_al.select.pick import pick
from csp_al.select.ranking import rank, rows_of
from csp_al.store import layout
from csp_al.structures import Structures, take


def relax_on_foundation(work: Work, folder: Path, progress: Progress) -> None:
    """Every candidate at rest on the foundation, and its table: scores are energies, clusters those of surroundings."""
    assert work.foundation is not None  # it is asked for
    foundation = work.foundation.fresh()
    relaxed = relax(progress.pool, foundation, work.campaign.relax, relaxation_limits(work.campaign), work.report)
    refuse_silence(relaxed, foundation)
    if lost := int((relaxed.reason == NOT_FINITE).sum()):
        work.tell(Warned(f"{lost} of {len(relaxed)} candidates have no energy on the foundation ({foundation.reason})"))
    relaxed = described(relaxed, foundation)
    groups = work.campaign.select.groups(work.campaign.select.at_first)
    clusters = k_means(relaxed.prediction.features, stream(work.campaign, 0, FOUNDATION), groups)
    energies = objective.values(relaxed.prediction.energy, relaxed.structures)
    none = take(relaxed, np.zeros(0, np.int64), relaxed.structures)
    layout.RELAXED.write(folder, relaxed)
    layout.RANKING.write(folder, rank(relaxed, none, energies, clusters))


def leading_on_foundation(progress: Progress, pool: Structures, most: int) -> Structures:
    """Of the first ``most`` labels those that the foundation chooses, where they came to rest on it."""
    if progress.founded is None:
        return pool.take([])
    table, structures = progress.table[progress.table["id"].isin(pool.ids)], progress.founded.structures
    chosen = pick(table, structures, pool.take([]), most - most // EXPLORED)
    return structures.take(rows_of(structures, chosen))
