"""What a foundation says of labels: what an ensemble adds to, and how the two rank them.

It is asked once, where labels are published, so that a continued campaign learns from the very same numbers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np

from csp_al.events import Noted, Warned
from csp_al.foundation.baseline import Baselined, Below, held_out_loss
from csp_al.foundation.client import FoundationError
from csp_al.foundation.universal import Universal
from csp_al.interfaces import Ensemble, Trained
from csp_al.loop.drive import Work
from csp_al.loop.progress import Progress
from csp_al.select.walk_forward import compared, ranks_worse, together
from csp_al.store import layout
from csp_al.structures import Labels, Prediction, Relaxed, concatenate

WITHOUT: Final = "the ensemble learns without it"


def refuse_silence(relaxed: Relaxed, foundation: Universal) -> None:
    """Raise `FoundationError` where a foundation gives no candidate an energy."""
    if not np.isfinite(relaxed.prediction.energy).any():
        why = f" ({foundation.reason})" if foundation.reason else ""
        msg = f"the foundation gives no candidate a finite energy{why}; mend its parameters, or choose another model"
        raise FoundationError(msg)


def ask_foundation(work: Work, folder: Path, labels: Labels, predicted: Prediction | None = None) -> None:
    """What the foundation, where there is one, says of labels, and how it ranks them beside what was ``predicted``."""
    if work.foundation is not None:
        below = work.foundation.fresh().predict(labels.structures)
        layout.BELOW.write(folder, below)
        figures = compared(below, predicted, labels)
        layout.FOUNDATION.write(folder, figures)
        before = [layout.FOUNDATION.read(stage) for stage in layout.folders_of(work.run, "label").values()]
        words = ranks_worse(together([*before, figures]))
        if words and not ranks_worse(together(before)):  # once is enough
            work.tell(Warned(words))


def train_on_foundation(
    work: Work, cycle: int, start: Ensemble, seed: list[int], progress: Progress, alone: Trained
) -> tuple[Trained, dict[str, Any]]:
    """An ensemble that adds to the foundation, or the one ``alone`` where that predicts labels held out better.

    And what is published of it: whether it adds, and the losses of both, None where the foundation cannot help.
    """
    labels, loss = progress.all_labels.usable, held_out_loss(alone.curve)
    said = {layout.ON_FOUNDATION: False, "loss_on_foundation": None, "loss_alone": loss}
    founded = on_foundation(work, start, known_below(progress))
    if not founded.can_help(labels):
        work.tell(Warned(f"cycle {cycle}: the foundation says too little of the labels: {WITHOUT}"))
        return alone, said
    trained = founded.train(labels, seed, work.report)
    on = held_out_loss(trained.curve)
    said |= {layout.ON_FOUNDATION: on < loss, "loss_on_foundation": on}
    times = f"of {len(labels)} labels those held out have {on / loss:.2g} times the loss without"
    if not said[layout.ON_FOUNDATION]:
        work.tell(Warned(f"cycle {cycle}: what is learnt on the foundation is no better ({times}): {WITHOUT}"))
        return alone, said
    if cycle == 0:
        work.tell(Noted(f"The ensemble learns what the reference adds to the foundation: {times}"))
    return trained, said


def known_below(progress: Progress) -> Below | None:
    """What it says of the labels so far; None where there is no foundation."""
    return Below(progress.all_labels.structures, concatenate(progress.below)) if progress.below else None


def on_foundation(work: Work, ensemble: Ensemble, known: Below | None) -> Baselined:
    """An ensemble of what the reference adds to the foundation, as one of the whole."""
    assert work.foundation is not None  # it is asked for
    return Baselined(ensemble, work.foundation.fresh(), known)
