"""A direct relaxer in a campaign: what it learns from, and what its starts were worth.

It learns from the campaign's own relaxations: candidates and offspring as they were made, and where the ensemble
brought them to rest. Cells that are related to these may begin where it says: offspring, and first cells of candidates
that came to rest before. Random cells that did not never do; nor does anything where the relaxer is hardly better than
doing nothing on what it has not seen, as on ends of random cells.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from csp_al.direct.pairs import Pairs, PairsError, joined, pair_of
from csp_al.direct.section import DEFAULTS
from csp_al.direct.starts import in_words, said_of
from csp_al.direct.training import train
from csp_al.events import Noted
from csp_al.interfaces import CONVERGED
from csp_al.loop.drive import Work
from csp_al.loop.progress import Progress
from csp_al.loop.random_streams import DIRECT, stream
from csp_al.store import layout
from csp_al.structures import Relaxed, Structures

HELPS: Final = 0.65
"""Of how far from rest relaxations held out began, the share that a relaxer which is asked may leave."""


def learn_to_relax(work: Work, folder: Path, cycle: int, progress: Progress, relaxed: Relaxed) -> None:
    """A relaxer, trained on where candidates and the last offspring came to rest, if there are enough of them."""
    section = work.campaign.direct
    assert section is not None  # it is asked for
    moves_cell = work.campaign.relax.cell == "free"
    both = [(progress.pool, relaxed), *([progress.bred] if progress.bred else [])]
    pairs = [pair for starts, ends in both for pair in _pairs(starts, ends, moves_cell=moves_cell)]
    if len(pairs) < section.pairs:
        layout.LEARNT.write(folder, {"pairs": len(pairs), "displacement": None, "before": None, "helps": False})
        return
    seed = int(stream(work.campaign, cycle, DIRECT).integers(2**31))
    settings = {"members": section.members, "steps": section.steps, "seed": seed}

    def report(member: int, epoch: int, epochs: int, _: float) -> None:
        work.report(member * epochs + epoch, section.members * epochs)

    whole = DEFAULTS[section.kind].model_copy(update=settings)
    learnt = train(joined(pairs), whole, folder / layout.RELAXER, work.device, report).learnt
    assert learnt is not None  # it was trained
    off, before = learnt["displacement"], learnt["displacement_of_doing_nothing"]
    figures = {"pairs": len(pairs), "displacement": off, "before": before, "helps": off <= HELPS * before}
    layout.LEARNT.write(folder, figures)
    if not figures["helps"]:
        work.tell(Noted(f"cycle {cycle}, direct relaxer: {said_of(figures)}"))


def tell_worth(work: Work, folder: Path, cycle: int, which: str, figures: Mapping[str, int]) -> None:
    """Publish what the starts of a stage were worth, and tell it where there were any."""
    layout.STARTS.write(folder, figures)
    if figures["proposed"]:
        work.tell(Noted(f"cycle {cycle}, {which}: by the direct relaxer {in_words(figures)}"))


def _pairs(starts: Structures, ends: Relaxed, *, moves_cell: bool) -> Iterator[Pairs]:
    """Structures and where they came to rest, without those of which atoms or cell moved too far."""
    rest = ends.reason == CONVERGED
    for start, end in zip(starts.take(rest).to_atoms(), ends.structures.take(rest).to_atoms(), strict=True):
        try:
            yield pair_of(start, end, moves_cell=moves_cell)
        except PairsError:
            continue
