"""What a campaign knows so far; each stage is done from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from csp_al import objective
from csp_al.asked import Asked, nothing_asked
from csp_al.interfaces import Ensemble, Verdict, trusted
from csp_al.loop.tasks import labels_of
from csp_al.select.stopping import Judged, Top
from csp_al.structures import (
    Ints,
    Labels,
    Prediction,
    Relaxed,
    Status,
    Structures,
    choose,
    concatenate,
    take,
)

if TYPE_CHECKING:
    from csp_al.direct.relaxer import Relaxer


@dataclass
class Progress:
    """What a campaign knows so far; ``top`` are the leading crystals of the last cycle judged.

    ``out`` are the labels that were asked for and have not come in; ``labels`` and ``origins`` are of what came in.
    ``searched`` are the ids of the candidates that may lead: all, or those of the search pool. The first ``generated``
    ids are those of candidates that were drawn, the others of offspring. Of the labels, ``asked`` is how many the
    campaign asked for itself, ``failed`` how many of these came to nothing, ``given`` how many are from elsewhere.
    ``lower`` are the lowest ends of candidates that are ``relaxed`` to others. ``ensemble`` loads the last one that was
    trained: of those before it none is needed. Likewise ``relaxer``, where there is a direct one that helps; ``bred``
    are all of the last offspring, and where they came to rest.

    Where there is a foundation, ``below`` is what it says of the labels, ``founded`` are the candidates at rest on it,
    and ``on_foundation`` says whether the last ensemble adds to it, or the first is to try.
    """

    pool: Structures
    searched: Ints
    generated: int
    out: Asked = field(default_factory=nothing_asked)
    labels: list[Labels] = field(default_factory=list)
    below: list[Prediction] = field(default_factory=list)
    founded: Relaxed | None = None
    on_foundation: bool = False
    origins: list[Structures] = field(default_factory=list)
    asked: int = 0
    failed: int = 0
    given: int = 0
    ensemble: Callable[[], Ensemble] | None = None
    relaxer: Callable[[], Relaxer] | None = None
    bred: tuple[Structures, Relaxed] | None = None
    relaxed: Relaxed | None = None
    lower: Relaxed | None = None
    table: pd.DataFrame = field(default_factory=pd.DataFrame)
    top: Top | None = None
    verdict: Verdict | None = None

    def take_in(self, offspring: Structures) -> None:
        """Let offspring join the pool."""
        self.pool = concatenate([self.pool, offspring])
        self.searched = np.concatenate([self.searched, offspring.ids])

    @property
    def ends(self) -> Relaxed | None:
        """Where candidates stood last, and the lowest ends of those that stood elsewhere; None before any stood."""
        if self.relaxed is None:
            return self.founded
        if self.lower is None:
            return self.relaxed
        return concatenate([self.relaxed, self.lower])

    @property
    def starts(self) -> Structures:
        """Where relaxations of the candidates begin anew: as generated, or at rest on what the ensemble adds to."""
        if self.founded is None or not self.on_foundation:
            return self.pool
        drawn, bred = np.split(np.arange(len(self.pool)), [len(self.founded)])
        first = self.pool.take(drawn)
        rested = choose(trusted(self.founded.reason), self.founded.structures, first, first)
        return concatenate([rested, self.pool.take(bred)])

    def sought(self, relaxed: Relaxed) -> Relaxed:
        """Of these candidates those that may lead."""
        return take(relaxed, np.flatnonzero(np.isin(relaxed.structures.ids, self.searched)), relaxed.structures)

    @property
    def judged(self) -> Judged | None:
        """The last cycle as it was judged; None in the first."""
        return None if self.top is None or self.verdict is None else Judged(self.top, self.verdict.stable_cycles)

    def learn(self, labels: Labels) -> None:
        """Take in the labels of a cycle."""
        own = labels.structures.ids >= 0
        self.labels.append(labels)
        self.asked += int(own.sum())
        self.failed += int((own & (labels.status != Status.DONE)).sum())
        self.given += int((~own).sum())

    @property
    def cycle(self) -> int:
        """The last cycle that has learned something; cycles that were set aside have folders too."""
        return max(0, len(self.labels) - 1)

    @property
    def all_labels(self) -> Labels:
        """Every label so far, failed ones and those from elsewhere included."""
        return concatenate([labels_of(self.pool.take([]), [], 0), *self.labels])

    @property
    def own_labels(self) -> tuple[Labels, Structures]:
        """Every usable label that the campaign asked for itself, and what each crystal was before it was perturbed."""
        asked = self.labels[len(self.labels) - len(self.origins) :]  # those from elsewhere are the first
        if not asked:
            return self.all_labels.take([]), self.pool.take([])
        before = [self.pool.take([])]
        for batch, origin in zip(asked, self.origins, strict=True):
            before += [origin, batch.structures.take(np.arange(len(origin), len(batch)))]  # cells that were opened
        labels = concatenate(asked)
        usable = np.flatnonzero(labels.status == Status.DONE)
        return labels.take(usable), concatenate(before).take(usable)

    @property
    def lowest_label(self) -> float | None:
        """The lowest energy of `own_labels`, eV/atom; None before there is one."""
        labels, _ = self.own_labels
        return float(objective.values(labels.energy, labels.structures).min()) if len(labels) else None

    @property
    def labelled(self) -> Structures:
        """Every candidate that was labelled so far, or is out for it, as it stood before it was perturbed."""
        return concatenate([self.pool.take([]), *self.origins, self.out.origin])
