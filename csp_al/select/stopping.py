"""When the search is over: the leading crystals and their energies stay the same, or there is nothing left to spend.

The published rule compares the lowest energies of the top-k clusters by their number, before and after a cycle, and
sees only energies that fall. Here crystals are compared with crystals, and energies may move neither way: by no more
than the tolerance, or than the spread of the ensemble. A shift common to all leaders is subtracted first, since it
ranks none of them differently. Without these two, campaigns went on for cycles after the ground state
led, because potentials that are trained anew shift all energies by some 20 meV/atom.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from csp_al import objective
from csp_al.campaign.models import Budget, Stop
from csp_al.interfaces import CONVERGED, Verdict
from csp_al.select.identity import EXCUSED, UNKNOWN, pairs_of_same, widen_tolerance
from csp_al.select.ranking import lowest_basin, rows_of
from csp_al.structures import Floats, Ints, Relaxed, Structures

SURPRISE: Final = 2
"""Times ``stop.max_error``: a label that is lower than predicted by more is a surprise, and the search goes on.

Si4 (CHGNet, LEIGNN; searches by rules that were tried): the last challenges of twelve that settled at the ground state
held labels of 5 to 77 meV/atom below their predictions, in two of them above 60; of 14 that settled elsewhere, 75 to
305 in five, none of which had a median error above 30.
"""


@dataclass(frozen=True)
class Top:
    """The leading crystals of a cycle, lowest first; their energies (k,) and the ensemble's spread, eV/atom."""

    structures: Structures
    energies: Floats
    sigmas: Floats


def top_of(relaxed: Relaxed, ids: ArrayLike) -> Top:
    """Candidates of these ids as they came to rest."""
    rows = rows_of(relaxed.structures, ids)
    structures, prediction = relaxed.structures.take(rows), relaxed.prediction
    energies = objective.values(prediction.energy[rows], structures)
    return Top(structures, energies, objective.sigmas(prediction.energy_sigma[rows], structures))


@dataclass(frozen=True)
class Judged:
    """What a cycle was judged by: its leading crystals, and how many cycles in a row had left them unchanged."""

    top: Top
    stable_cycles: int


@dataclass(frozen=True)
class Spent:
    """What the campaign has cost so far: finished cycles, labels that came in, hours of wall time of the cycles.

    ``out``: labels that were asked for and have not come in.
    """

    cycles: int
    labels: int
    hours: float
    out: int = 0


@dataclass(frozen=True)
class Rules:
    """What ends a campaign: sections of its file, and how many labels its next cycle would request."""

    stop: Stop
    budget: Budget
    per_cycle: int


@dataclass(frozen=True)
class Missed:
    """By how much predictions of the newest labels were off, eV/atom; None where nothing is known.

    ``median`` after subtracting the shift common to all, ``below`` by how much one was lower than predicted, at most.
    """

    median: float | None = None
    below: float | None = None


def verdict(
    top: Top, before: Judged | None, table: pd.DataFrame, spent: Spent, rules: Rules, missed: Missed = Missed()
) -> Verdict:
    """Whether the campaign goes on after this cycle, and why, in words.

    It stops when the top k were unchanged (`changes`) for ``stop.patience`` cycles in a row, the last of which learned
    from a challenge (`is_challenged`) whose labels had been predicted well enough, none of them by far too high; after
    ``stop.max_cycles`` cycles, when the next ``per_cycle`` labels do not fit into the budget, or when its hours are
    over. As long as labels are out, it waits for them instead, and asks for none. Only what stops for the first reason
    can be settled. ``before`` is the previous cycle, None in the first;
    ``table`` is that of `csp_al.select.ranking.rank`; ``missed`` is of the newest labels.
    """
    changed = changes(top, None if before is None else before.top, rules.stop)
    stable = 0 if changed or before is None else before.stable_cycles + 1
    unseen = unseen_share(table)
    asked = changed or _not_yet(stable, missed, rules.stop)
    why = "" if asked else _why_nothing_changes(stable, len(top.energies), missed.median, unseen, rules.stop)
    spent_in_words = _what_is_spent(spent, rules)
    settled = not asked and unseen <= rules.stop.max_unseen
    over = why or (f"not settled: {spent_in_words}" if spent_in_words else "")
    stop = bool(over) and not spent.out
    if over and spent.out:
        asked = [f"would stop ({over}), but {_plural(spent.out, 'label')} still out"]
    return Verdict(
        stop=stop,
        reason=over if stop else f"continues: {'; '.join(asked)}",
        stable_cycles=stable,
        top=top.structures.ids.tolist(),
        energies=top.energies.tolist(),
        unseen=unseen,
        settled=settled if stop else None,
        waits=bool(over) and not stop,
    )


def is_challenged(rules: Stop, said: Verdict | None) -> bool:
    """Whether a cycle of this verdict chooses `csp_al.select.challenge.challengers`: its leaders were unchanged."""
    return rules.challenge and said is not None and said.stable_cycles > 0


def changes(top: Top, before: Top | None, rules: Stop) -> list[str]:
    """What changed among the lowest ``rules.top_k`` crystals since the previous cycle, in words; empty if nothing.

    Unchanged are the same crystals, by structure, whose energies, after subtracting the shift common to all
    (`_apply_common_shift`), changed by ``rules.tolerance`` at most, or by the joint spread of the two predictions where
    that is larger, but neither by more than `EXCUSED` tolerances. A crystal that enters or leaves a full list with an
    energy within the tolerance of the last one is no change, nor is one that enters or leaves at the last place, behind
    others, with an energy as near to the last one as the spread allows: which of two nearly equal crystals is the k-th
    is decided by less than is known.
    """
    if not len(top.energies):
        return ["no candidate can be trusted yet"]
    if before is None or not len(before.energies):
        return ["there is no previous ranking to compare with"]
    pairs = pairs_of_same(top.structures, before.structures, top.energies, before.energies)
    here, there = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    before = _apply_common_shift(before, top.energies[here] - before.energies[there], rules)
    moves = np.abs(top.energies[here] - before.energies[there])
    entered = _count_changes(*_drop(top, here), before, rules)
    left = _count_changes(*_drop(before, there), top, rules)
    words = []
    if entered:
        words.append(f"{entered} new among the lowest {_plural(len(top.energies), 'crystal')}")
    if left:
        words.append(f"{left} lost from the lowest {len(before.energies)} of the previous cycle")
    moved = moves > widen_tolerance(rules.tolerance, top.sigmas[here], before.sigmas[there])
    if moved.any():
        largest = objective.show_difference(moves[moved].max(), ".0f")
        words.append(f"{moved.sum()} of their {objective.NAMES} changed by up to {largest}")
    return words


def unseen_share(table: pd.DataFrame) -> float:
    """Good-Turing estimate of the chance that one more candidate would end in a basin not seen yet: f1/n.

    Of n trusted and converged candidates, f1 reached a basin that none of the others did; 1 where n is 0. Basins are
    those of their lowest ends: where else they stand depends on the others, and is no independent draw.
    I. J. Good, Biometrika 40, 237 (1953).
    """
    basin = lowest_basin(table)
    arrived = basin[(table["trusted"] & (table["reason"] == CONVERGED)).to_numpy() & (basin != UNKNOWN)]
    if not len(arrived):
        return 1.0
    return float((np.unique(arrived, return_counts=True)[1] == 1).sum() / len(arrived))


def _apply_common_shift(before: Top, moves: Floats, rules: Stop) -> Top:
    """The earlier list, its energies moved by the shift common to all: the median of their moves (m,).

    Of the two in the middle the smaller, not their mean, which would excuse half of what one crystal alone moves by.
    A single crystal moves by itself, and what is more than `EXCUSED` tolerances is a change.
    """
    middle = np.sort(moves)[[(len(moves) - 1) // 2, len(moves) // 2]] if len(moves) > 1 else np.zeros(1)
    shift = middle[np.argmin(np.abs(middle))]
    if abs(shift) > EXCUSED * rules.tolerance:
        return before
    return replace(before, energies=before.energies + shift)


def _drop(top: Top, rows: Ints) -> tuple[Top, Ints]:
    """The crystals in other rows, and these rows."""
    left = np.delete(np.arange(len(top.energies)), rows)
    return Top(top.structures.take(left), top.energies[left], top.sigmas[left]), left


def _count_changes(crystals: Top, places: Ints, other: Top, rules: Stop) -> int:
    """How many of these crystals, which the other list lacks, would have to be in it if no energy moved.

    ``places`` are theirs in their own list, from 0.
    """
    if len(other.energies) < rules.top_k:
        return len(crystals.energies)
    spread = widen_tolerance(rules.tolerance, crystals.sigmas, other.sigmas[-1:])
    last = (places > 0) & (places == rules.top_k - 1)
    return int((other.energies[-1] - crystals.energies > np.where(last, spread, rules.tolerance)).sum())


def _not_yet(stable: int, missed: Missed, rules: Stop) -> list[str]:
    """What is still asked for where the leaders did not change, in words."""
    if stable < rules.patience:
        more = ", the next after a challenge of other kinds of candidates" if rules.challenge else ""
        return [f"unchanged for {_plural(stable, 'cycle')}; stop.patience asks for {rules.patience} in a row{more}"]
    if rules.challenge and stable == 1:
        return ["unchanged for 1 cycle; a challenge of other kinds of candidates comes first"]
    if rules.max_error is None:
        return []
    most = objective.show_difference(rules.max_error)
    if missed.median is not None and missed.median > rules.max_error:
        off = objective.show_difference(missed.median, ".0f")
        return [f"unchanged, but the newest labels were off by {off}; stop.max_error allows {most}"]
    if missed.below is not None and missed.below > SURPRISE * rules.max_error:
        low = objective.show_difference(missed.below, ".0f")
        allowed = f"stop.max_error, {most}, allows {SURPRISE} times itself"
        return [f"unchanged, but one of the newest labels was {low} lower than predicted; {allowed}"]
    return []


def _why_nothing_changes(stable: int, crystals: int, error: float | None, unseen: float, rules: Stop) -> str:
    sure = "settled"
    if unseen > rules.max_unseen:
        sure = f"not settled (chance of unseen minima {100 * unseen:.0f}%; enlarge the pool)"
    asked = ", after a challenge of other kinds of candidates" if rules.challenge else ""
    off = "" if error is None else f"; the newest labels were off by {objective.show_difference(error, '.0f')}"
    return (
        f"{sure}: the lowest {_plural(crystals, 'crystal')} stayed the same for {_plural(stable, 'cycle')}{asked}; "
        f"their {objective.NAMES}, after subtracting the shift common to all, changed by no more than "
        f"{objective.show_difference(rules.tolerance)} or the spread of the ensemble{off}"
    )


def _what_is_spent(spent: Spent, rules: Rules) -> str:
    """Why there is nothing left to spend; empty where there is."""
    stop, budget = rules.stop, rules.budget
    if budget.labels == 0:
        return "no labels were allowed (budget.labels: 0), the foundation alone ranked the candidates"
    if spent.cycles >= stop.max_cycles:
        return f"{_plural(spent.cycles, 'cycle')} done, the most that stop.max_cycles allows"
    if (labels := spent.labels + spent.out) + rules.per_cycle > budget.labels:
        return f"{labels} labels requested; {rules.per_cycle} more would exceed budget.labels, {budget.labels}"
    if budget.hours is not None and spent.hours >= budget.hours:
        return f"{spent.hours:.2g} h used; budget.hours allows {budget.hours:g} h"
    return ""


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
