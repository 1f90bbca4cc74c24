"""When the search is over: the leading crystals and their energies stay the same, or there is nothing left to spend.

The published rule compares the lowest energies of the top-k clusters by their number, before and after a cycle, and
sees only energies that fall. Here crystals are compared with crystals, and energies may move neither way: by no more
than the tolerance, or than the ensemble says that it does not know them. What all leaders move by together is no
change, since it ranks none of them differently. Without these two, campaigns went on for cycles after the ground state
led, because potentials that are trained anew shift all energies by some 20 meV/atom.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from csp_al.campaign.models import Budget, Stop
from csp_al.interfaces import CONVERGED, Verdict
from csp_al.select.identity import EXCUSED, UNKNOWN, indistinguishable, pairs_of_same
from csp_al.select.ranking import rows_of
from csp_al.structures import Floats, Ints, Relaxed, Structures


@dataclass(frozen=True)
class Top:
    """The leading crystals of a cycle, lowest first; their energies (k,) and the ensemble's spread, eV/atom."""

    structures: Structures
    energies: Floats
    sigmas: Floats


def top_of(relaxed: Relaxed, ids: ArrayLike) -> Top:
    """Candidates of these ids as they came to rest."""
    rows = rows_of(relaxed.structures, ids)
    counts = relaxed.structures.counts[rows]
    energies, sigmas = relaxed.prediction.energy[rows] / counts, relaxed.prediction.energy_sigma[rows] / counts
    return Top(relaxed.structures.take(rows), energies, sigmas)


@dataclass(frozen=True)
class Spent:
    """What the cycles have cost so far: labels asked for, and hours of wall time."""

    labels: int
    hours: float


def verdict(
    cycle: int,
    top: Top,
    before: Verdict | None,
    top_before: Top | None,
    table: pd.DataFrame,
    spent: Spent,
    rules: Stop,
    budget: Budget,
    per_cycle: int,
) -> Verdict:
    """Whether the campaign goes on after this cycle (counted from 0), and why, in words.

    It stops when the top k were unchanged (`changes`) for ``rules.patience`` cycles in a row, after
    ``rules.max_cycles`` cycles, when the next ``per_cycle`` labels do not fit into the budget, or when its hours are
    over. ``before`` and ``top_before`` are those of the previous cycle, None in the first; ``table`` is that of
    `csp_al.select.ranking.rank`.
    """
    changed = changes(top, top_before, rules)
    stable = 0 if changed or before is None else before.stable_cycles + 1
    reason = _reason_to_stop(cycle, stable, len(top.energies), spent, rules, budget, per_cycle)
    return Verdict(
        stop=bool(reason),
        reason=reason or _reason_to_go_on(changed, stable, rules),
        stable_cycles=stable,
        top=top.structures.ids.tolist(),
        energies=top.energies.tolist(),
        unseen=unseen_share(table),
    )


def changes(top: Top, before: Top | None, rules: Stop) -> list[str]:
    """What changed among the lowest ``rules.top_k`` crystals since the cycle before, in words; empty if nothing.

    Unchanged are the same crystals, by structure, with energies that moved by ``rules.tolerance`` at most, up or down,
    from what all moved by together (`_moved_along`), or by the joint spread of the two predictions where that is
    larger, but neither by more than `EXCUSED` tolerances. A crystal that enters or leaves a full list with an energy
    within the tolerance of the last one is no change, nor is one that enters or leaves at the last place, behind
    others, with an energy as near to the last one as the spread allows: which of two nearly equal crystals is the k-th
    is decided by less than is known.
    """
    if not len(top.energies):
        return ["no candidate can be trusted yet"]
    if before is None or not len(before.energies):
        return ["there is no earlier ranking to compare with"]
    pairs = pairs_of_same(top.structures, before.structures, top.energies, before.energies)
    here, there = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    before = _moved_along(before, top.energies[here] - before.energies[there], rules)
    moves = np.abs(top.energies[here] - before.energies[there])
    entered = _not_at_the_end(*_without(top, here), before, rules)
    left = _not_at_the_end(*_without(before, there), top, rules)
    words = []
    if entered:
        words.append(f"{entered} of the lowest {len(top.energies)} crystals {_be(entered)} new")
    if left:
        words.append(f"{left} of the earlier lowest {len(before.energies)} {_be(left)} gone")
    moved = moves > indistinguishable(top.sigmas[here], before.sigmas[there], rules.tolerance)
    if moved.any():
        words.append(f"{moved.sum()} of their energies moved by up to {1000 * moves[moved].max():.0f} meV/atom")
    return words


def unseen_share(table: pd.DataFrame) -> float:
    """Good-Turing estimate of the chance that one more candidate would end in a basin not seen yet: f1/n.

    Of n trusted and converged candidates, f1 reached a basin that none of the others did; 1 where n is 0.
    I. J. Good, Biometrika 40, 237 (1953).
    """
    arrived = table[table["trusted"] & (table["reason"] == CONVERGED) & (table["basin"] != UNKNOWN)]
    if arrived.empty:
        return 1.0
    return float((arrived["basin"].value_counts() == 1).sum() / len(arrived))


def _moved_along(before: Top, moves: Floats, rules: Stop) -> Top:
    """The earlier list, its energies moved by what all moved by together, the median of the moves (m,).

    Of the two in the middle the smaller, not their mean, which would excuse half of what one crystal alone moves by.
    A single crystal moves by itself, and what is more than `EXCUSED` tolerances is a change.
    """
    middle = np.sort(moves)[[(len(moves) - 1) // 2, len(moves) // 2]] if len(moves) > 1 else np.zeros(1)
    together = middle[np.argmin(np.abs(middle))]
    if abs(together) > EXCUSED * rules.tolerance:
        return before
    return replace(before, energies=before.energies + together)


def _without(top: Top, rows: Ints) -> tuple[Top, Ints]:
    """The crystals in other rows, and these rows."""
    left = np.delete(np.arange(len(top.energies)), rows)
    return Top(top.structures.take(left), top.energies[left], top.sigmas[left]), left


def _not_at_the_end(crystals: Top, places: Ints, other: Top, rules: Stop) -> int:
    """How many of these crystals, which the other list lacks, would have to be in it if no energy moved.

    ``places`` are theirs in their own list, from 0.
    """
    if len(other.energies) < rules.top_k:
        return len(crystals.energies)
    spread = indistinguishable(crystals.sigmas, other.sigmas[-1:], rules.tolerance)
    last = (places > 0) & (places == rules.top_k - 1)
    return int((other.energies[-1] - crystals.energies > np.where(last, spread, rules.tolerance)).sum())


def _reason_to_stop(
    cycle: int, stable: int, crystals: int, spent: Spent, rules: Stop, budget: Budget, per_cycle: int
) -> str:
    if stable >= rules.patience:
        return (
            f"the lowest {crystals} {_plural(crystals, 'crystal')} did not change in {stable} "
            f"{_plural(stable, 'cycle')}, nor did energies, but for what all moved by, by more than "
            f"{1000 * rules.tolerance:g} meV/atom or the spread of the ensemble"
        )
    if cycle + 1 >= rules.max_cycles:
        return f"all cycles done that stop.max_cycles allows, {rules.max_cycles}"
    if spent.labels + per_cycle > budget.labels:
        return f"{spent.labels} labels asked for; the next {per_cycle} would exceed budget.labels, {budget.labels}"
    if budget.hours is not None and spent.hours >= budget.hours:
        return f"{spent.hours:.2g} h used, as many as budget.hours allows ({budget.hours:g} h)"
    return ""


def _reason_to_go_on(changed: list[str], stable: int, rules: Stop) -> str:
    if changed:
        return "goes on: " + "; ".join(changed)
    return f"goes on: unchanged in {stable} of the {rules.patience} cycles in a row that are asked for"


def _plural(count: int, noun: str) -> str:
    return noun if count == 1 else f"{noun}s"


def _be(count: int) -> str:
    return "is" if count == 1 else "are"
