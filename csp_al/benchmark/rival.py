"""The rival that needs no labels: a foundation relaxes the pool, and the reference the lowest crystals, one by one.

Optimiser, tolerance and cells are those of a campaign's final relaxations, as for random search.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from csp_al import objective
from csp_al.benchmark.control import Engines, relax_again, repair, searched_pool
from csp_al.campaign import Campaign
from csp_al.files import make_directory
from csp_al.interfaces import Predictor, trusted
from csp_al.loop.bodies import relaxation_limits
from csp_al.relax.relaxation import relax
from csp_al.select.identity import distinct
from csp_al.store import layout
from csp_al.store.stages import is_published, stage, verify
from csp_al.structures import Labels, Relaxed, Structures

CRYSTALS: Final = 20
"""The lowest of a pool, which the reference relaxes at most."""


def foundation_first(
    campaign: Campaign,
    base: Path,
    root: Path,
    foundation: Predictor,
    engine: Engines,
    report: Callable[[int, int], None],
    *,
    mend: bool = False,
) -> Labels:
    """The `CRYSTALS` lowest crystals of the campaign's pool by the foundation, relaxed by the reference in that order.

    What is below ``root`` is not done again. Raises DamagedError; to ``mend`` is to do again what is damaged.
    """
    folder = root / "foundation"
    make_directory(root)
    if mend:
        repair(folder)
    if not is_published(folder):
        stage(folder, lambda aside: _relax(campaign, base, foundation, aside, report), None)
    verify(folder)
    lowest = _lowest(layout.RELAXED.read(folder), campaign.stop.tolerance)
    return relax_again(lowest, campaign, root, root, engine, report)


def _relax(
    campaign: Campaign, base: Path, foundation: Predictor, folder: Path, report: Callable[[int, int], None]
) -> None:
    pool = searched_pool(campaign, base)
    layout.RELAXED.write(folder, relax(pool, foundation, campaign.relax, relaxation_limits(campaign), report))


def _lowest(relaxed: Relaxed, tolerance: float) -> Structures:
    """The lowest different crystals that came to rest within the limits, lowest first."""
    structures = relaxed.structures.take(trusted(relaxed.reason))
    energies = objective.values(relaxed.prediction.energy[trusted(relaxed.reason)], structures)
    groups = distinct(structures, energies, tolerance, CRYSTALS)
    return structures.take([group[0] for group in groups])
