"""What the results of a campaign are worth: one judgement, the rules behind it, and what helps.

    judgement = judge(figures)
    judgement.word  # "settled", "extend" or "not to be trusted"

*Not to be trusted* is what further labels alone do not mend: forces that are not those of the energies, a ranking of
crystals that are not at rest, potentials that are wrong about crystals by what separates crystals. *Extend* is what
ended too soon, or found its leader by luck. *Settled* is what the stop rule calls so where none of this is the case,
and means settled to within ``stop.tolerance``, or to within the error of the newest labels where that is larger: of
crystals nearer to each other than that, another may be the lowest.
No figure of a campaign tells of a basin that its potentials pass by: silicon's dense crystals were settled so, 0.2
eV/atom above diamond, with errors of a few meV/atom. Another seed tells.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from csp_al import objective
from csp_al.campaign.models import Campaign, Stop
from csp_al.interfaces import Verdict
from csp_al.select.identity import EXCUSED

SETTLED: Final = "settled"
EXTEND: Final = "extend"
NOT_TRUSTED: Final = "not to be trusted"

FAR: Final = 0.1
"""eV/atom, beyond which an error of the potentials leaves nothing of their ranking: nine in ten crystals that were ever
made lie within 0.07 above the ground state. W. Sun et al., Sci. Adv. 2, e1600225 (2016)."""

HOPELESS: Final = 0.5
"""eV/atom, an error of a leader that says that the potentials do not describe these atoms at all."""

MANY_SIGMAS: Final = 3
"""Sigmas beyond which the ensemble did not know that it was wrong."""

ENDED_BY: Final = ("stop.max_cycles", "budget.labels", "budget.hours")
"""Keys that a reason names where a search was ended and did not stop."""


@dataclass(frozen=True)
class Figures:
    """What a judgement is made from; energies in eV/atom.

    - stopped: why the search stopped, in words; settled: as `csp_al.interfaces.Verdict` has it
    - error: of the newest labels in the median, after subtracting the shift common to all; within: the share of them
      within two sigma; both None where nothing had been predicted
    - ids, found, predicted, sigmas, converged: of the crystals that the reference relaxed, lowest found first
    - failed: predicted energies of those that it could not relax, nan where that is not known
    - all_relaxed: whether the ensemble knew no further crystal
    - reached: candidates drawn that came to rest in the leader; bred: whether the pool grew; seed: of the campaign,
      which may not be that of its file
    - reference: what the check of the reference found; relaxations: in words, that nearly all stopped at once, or ""
    - foundation: the model that ranked the candidates where there are no labels at all, by energies whose zero is its
      own; "" elsewhere
    """

    stopped: str
    settled: bool | None
    rules: Stop
    unseen: float
    error: float | None
    within: float | None
    ids: Sequence[int]
    found: Sequence[float]
    predicted: Sequence[float]
    sigmas: Sequence[float]
    converged: Sequence[bool]
    reached: int
    seed: int = 0
    failed: Sequence[float] = ()
    all_relaxed: bool = False
    bred: bool = False
    reference: Sequence[str] = ()
    relaxations: str = ""
    foundation: str = ""


@dataclass(frozen=True)
class Reason:
    """A rule that a campaign fell under, in words, and what helps."""

    what: str
    helps: str


@dataclass(frozen=True)
class Judgement:
    """How far results can be believed: a word, the reasons for it, and the figures in words, a line each.

    Where settled the one reason says how far; what helps, how to be surer.
    """

    word: str
    reasons: Sequence[Reason]
    lines: Sequence[str]

    def __str__(self) -> str:
        return "\n".join([*self.rule, *(f"  {line}" for line in self.lines)])

    @property
    def rule(self) -> list[str]:
        """The word, and below it each reason and what helps, a line each; where settled the reason beside the word."""
        if self.word == SETTLED:
            return [f"{SETTLED} {self.reasons[0].what}", f"  surer: {self.reasons[0].helps}"]
        lines = [self.word]
        for reason in self.reasons:
            lines += [f"  - {reason.what}", *([f"    what helps: {reason.helps}"] if reason.helps else [])]
        return lines


def judge(figures: Figures, run: str = "DIR") -> Judgement:
    """The judgement of finished results; ``run`` is the run directory as commands name it."""
    lines = _lines(figures)
    if reasons := _untrusted(figures, run):
        return Judgement(NOT_TRUSTED, [*reasons, *_ended_early(figures, run)], lines)
    if reasons := _short(figures, run):
        return Judgement(EXTEND, reasons, lines)
    within = objective.show_difference(max(figures.rules.tolerance, figures.error or 0.0))
    rule = f"to within {within}, as far as one campaign can tell: it knows nothing of crystals that it never came near"
    others = f"{figures.seed + 1}-{figures.seed + 3}"
    return Judgement(
        SETTLED, [Reason(rule, f"if other seeds find the same crystal: csp-al run FILE --seeds {others}")], lines
    )


def figures_of(
    campaign: Campaign,
    verdict: Verdict,
    errors: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    summary: Mapping[str, Any],
    doubts: tuple[Sequence[str], str],
) -> Figures:
    """Figures of a campaign that has ended.

    ``errors`` are those of `csp_al.select.walk_forward` of its last cycle; ``rows`` are the ranked crystals, and
    ``summary`` has the ``failed`` and ``merged`` ones, as `csp_al.loop.finish` publishes them; ``doubts`` are what the
    check of the reference found, and `csp_al.select.ranking.stopped_at_once`.
    """
    error, failed = errors.get("energy_apart_mev_per_atom"), summary["failed"]
    merged = sum(len(group) - 1 for group in summary["merged"])
    predicted = [one.get("predicted_energy_per_atom") for one in failed]
    return Figures(
        stopped=verdict.reason.removeprefix("not settled: ").removeprefix("settled: "),
        settled=verdict.settled,
        rules=campaign.stop,
        unseen=verdict.unseen,
        error=None if error is None else error / 1000,
        within=errors.get("energy_within_2_sigma"),
        ids=[row["id"] for row in rows],
        found=[row["energy_per_atom"] for row in rows],
        predicted=[row["predicted_energy_per_atom"] for row in rows],
        sigmas=[np.nan if row["predicted_sigma"] is None else row["predicted_sigma"] for row in rows],
        converged=[row["converged"] for row in rows],
        reached=rows[0]["times_reached"],
        seed=campaign.seed,
        failed=[np.nan if one is None else one for one in predicted],
        all_relaxed=len(rows) + merged + len(failed) < campaign.winners,
        bred=campaign.pools[-1].grow is not None,
        reference=doubts[0],
        relaxations=doubts[1],
        foundation=campaign.foundation.model if campaign.foundation and campaign.unlabelled else "",
    )


def _untrusted(figures: Figures, run: str) -> list[Reason]:
    """What makes a campaign not to be trusted; none where nothing does."""
    reasons = [Reason(finding, _MEND_REFERENCE) for finding in figures.reference]
    if not np.isfinite([*figures.found, *figures.predicted, figures.unseen]).all():
        reasons.append(Reason("there are energies that are no finite numbers", _MEND_POTENTIAL + _anew(run)))
    if figures.relaxations:
        reasons.append(Reason(figures.relaxations, ""))
    if not any(figures.converged):
        reasons.append(
            Reason("none of the final relaxations converged", _set(figures, run, "a larger finish.max_steps"))
        )
    if (missed := _missed(figures, HOPELESS)) and not figures.foundation:
        reasons.append(Reason(missed, _MEND_POTENTIAL + _anew(run)))
    if figures.error is not None and figures.error > FAR and (figures.within or 0.0) < 0.5:
        what = f"the newest labels were off by {_difference(figures.error)}, most of them by more than two sigmas"
        reasons.append(Reason(what, _MEND_POTENTIAL + _anew(run)))
    return reasons


def _short(figures: Figures, run: str) -> list[Reason]:
    """What asks for more of a campaign than it did; nothing where it is settled."""
    if figures.foundation:
        what = f"{figures.foundation} alone ranked the candidates, and no label tells where it is wrong"
        return [Reason(what, "budget.labels above 0, in a campaign file of a new name"), *_left_out(figures, run)]
    return [*_ended_early(figures, run), *_unsure(figures, run), *_left_out(figures, run)]


def _ended_early(figures: Figures, run: str) -> list[Reason]:
    """Why the search itself is not sure of what leads."""
    rules, larger = figures.rules, f"a larger pool.size{_anew(run)}"
    reasons = []
    if ended := [key for key in ENDED_BY if key in figures.stopped]:
        reasons.append(
            Reason(
                f"the search did not stop, it was ended: {figures.stopped}", _set(figures, run, f"a larger {ended[0]}")
            )
        )
    elif not rules.challenge or figures.settled is None:
        what = "the search stopped without a challenge, in which other kinds of candidates are labelled"
        reasons.append(Reason(what, f"stop.challenge: true, the default{_anew(run)}"))
    if figures.unseen > rules.max_unseen:
        what = f"one more candidate finds a new minimum with a chance of {figures.unseen:.0%}"
        reasons.append(Reason(f"{what}; stop.max_unseen allows {rules.max_unseen:.0%}", larger))
    elif figures.reached < 2 and not figures.bred:
        reasons.append(
            Reason(f"the lowest crystal was found by luck: {_candidates(figures.reached)} reached it", larger)
        )
    if not reasons and not figures.settled:
        reasons.append(Reason(f"not settled: {figures.stopped}", _set(figures, run, "a larger stop.patience")))
    return reasons


def _unsure(figures: Figures, run: str) -> list[Reason]:
    """Where the ensemble is wrong by more than what separates the crystals that it ranked."""
    rules, error = figures.rules, figures.error
    allowed = Stop().max_error if rules.max_error is None else rules.max_error
    if error is None or not np.isfinite(error):
        what = "none of the newest labels has both a result and a prediction, so that errors are not known"
        return [Reason(what, _set(figures, run, "a larger stop.patience"))]
    if allowed is not None and error > allowed:
        what = f"the newest labels were off by {_difference(error)}, where {_difference(allowed)} are allowed"
        return [Reason(what, _set(figures, run, f"stop.max_error: {allowed:g}, and a larger stop.patience"))]
    if missed := _missed(figures, FAR):
        return [Reason(missed, f"another seed, or more labels{_anew(run)}")]
    first = int(np.argmin(figures.predicted))
    above = figures.found[first] - figures.found[0]
    more = _set(figures, run, f"finish.crystals: {4 * len(figures.ids)}")
    if above > rules.tolerance:
        what = f"what the ensemble took for the lowest, candidate {figures.ids[first]}, is {_difference(above)} higher"
        return [Reason(f"{what} than candidate {figures.ids[0]}; others may be lower, too", more)]
    span = max(figures.predicted) - figures.predicted[0]
    if not figures.all_relaxed and span + rules.tolerance < error:
        relaxed = f"the crystals relaxed lie within {_difference(span)}"
        relaxed = "only one crystal was relaxed" if len(figures.ids) == 1 else relaxed
        what = f"{relaxed}, and the newest labels were off by"
        return [Reason(f"{what} {_difference(error)}: the next may be lower", more)]
    return []


def _left_out(figures: Figures, run: str) -> list[Reason]:
    """Final relaxations that did not come to their end, of crystals that may be the lowest."""
    reasons = []
    if not figures.converged[0]:
        what = f"the relaxation of the lowest crystal, candidate {figures.ids[0]}, did not converge"
        reasons.append(Reason(what, _set(figures, run, "a larger finish.max_steps")))
    shift = float(np.median(np.subtract(figures.predicted, figures.found)))
    doubt = max(figures.rules.tolerance, figures.error or 0.0)
    low = [energy for energy in figures.failed if not energy - shift > figures.found[0] + doubt]
    if low:
        what = f"{len(low)} of the crystals that the reference could not relax may be lower than those that it could"
        reasons.append(Reason(what, f"csp-al resume {run} --retry failed"))
    return reasons


def _missed(figures: Figures, far: float) -> str:
    """Which leader was found farther than ``far`` (eV/atom) and many sigmas from its prediction, in words; "" if none.

    Leaders are the lowest found and the lowest predicted. A shift common to all is subtracted first, as
    `csp_al.select.stopping` does: it ranks none of them differently.
    """
    apart = np.subtract(figures.predicted, figures.found)
    middle = np.sort(apart)[[(len(apart) - 1) // 2, len(apart) // 2]]
    shift = middle[np.argmin(np.abs(middle))]
    if abs(shift) > EXCUSED * figures.rules.tolerance:
        shift = 0.0
    miss = np.abs(apart - shift)
    missed = miss > np.maximum(far, MANY_SIGMAS * np.nan_to_num(figures.sigmas))
    row = next((row for row in (0, int(np.argmin(figures.predicted))) if missed[row]), None)
    if row is None:
        return ""
    return (
        f"candidate {figures.ids[row]} was predicted at {_predicted(figures, row)} and found at "
        f"{objective.show(figures.found[row])}: {_difference(float(miss[row]))} apart, which the ensemble did not know"
    )


def _lines(figures: Figures) -> list[str]:
    """The figures in words, a line each, as name and text."""
    first, count = int(np.argmin(figures.predicted)), figures.converged.count(False)
    apart = figures.predicted[0] - figures.found[0]
    lines = [f"stopped: {figures.stopped}"]
    if figures.foundation:
        return [*lines, *_lines_unlabelled(figures)]
    if figures.error is not None:
        within = "" if figures.within is None else f"; {figures.within:.0%} within two sigmas of the ensemble"
        lines.append(
            f"newest labels: predictions off by {_difference(figures.error)}, the median without the shift common to "
            f"all{within}"
        )
    lines.append(
        f"lowest crystal: candidate {figures.ids[0]}, predicted {_predicted(figures, 0)}, found at "
        f"{objective.show(figures.found[0])} ({_difference(abs(apart))} {'lower' if apart > 0 else 'higher'}); reached "
        f"by {_candidates(figures.reached)}"
    )
    lines.append(f"chance that one more candidate finds a new minimum: {figures.unseen:.0%}")
    if first:
        lines.append(f"order: candidate {figures.ids[first]} was predicted to be the lowest, and is number {first + 1}")
    if count:
        lines.append(f"final relaxations: {count} of {len(figures.ids)} did not converge")
    return lines


def _lines_unlabelled(figures: Figures) -> list[str]:
    """The same where a foundation ranked, whose energies are compared with those found but for their zeros."""
    order = np.argsort(figures.predicted, kind="stable").tolist()
    shift = float(np.median(np.subtract(figures.found, figures.predicted)))
    apart = np.abs(np.subtract(figures.found, figures.predicted) - shift).max()
    lowest = f"candidate {figures.ids[0]}, found at {objective.show(figures.found[0])}"
    place = f"number {order.index(0) + 1} of {len(order)} by {figures.foundation}"
    off = f"off by up to {_difference(float(apart))} among these, without the shift common to all"
    return [
        f"lowest crystal: {lowest}, {place}; reached by {_candidates(figures.reached)}",
        f"energies of {figures.foundation}: {off}",
        f"chance that one more candidate finds a new minimum: {figures.unseen:.0%}",
    ]


_MEND_REFERENCE: Final = "raise its cutoff or mend it, ask csp-al doctor --reference FILE, and begin anew"
_MEND_POTENTIAL: Final = "more labels in a cycle (select.per_cycle), longer training or another kind of potential"


def _set(figures: Figures, run: str, change: str) -> str:
    return f"{change} in the campaign file, then: csp-al run FILE --seed {figures.seed} --directory {run}"


def _anew(run: str) -> str:
    return f", in a campaign file of a new name that begins with labels: [{run}]"


def _predicted(figures: Figures, row: int) -> str:
    return f"{figures.predicted[row]:.3f} ± {figures.sigmas[row]:.3f} {objective.UNIT}"


def _difference(value: float) -> str:
    return objective.show_difference(value, ".0f" if value >= 0.001 else ".1f")


def _candidates(count: int) -> str:
    return "one candidate" if count == 1 else f"{count or 'no'} candidates"
