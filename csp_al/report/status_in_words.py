"""How far a campaign is, in lines for people."""

from __future__ import annotations

from typing import Any, Final

from csp_al import objective
from csp_al.direct.starts import in_words, said_of
from csp_al.report.pilots import Pilots
from csp_al.report.plan import duration
from csp_al.report.status import Best, RunStatus
from csp_al.select.walk_forward import COMPONENTS, right_spread

SMALL: Final = 1.5
"""Times what a right spread would be, from which on it is said to be too small."""
MANY: Final = 1000
"""Members, where it is not known how many there are."""


def describe(status: RunStatus) -> str:
    """The status in plain lines, for people."""
    labels, best, top = status.labels, status.best, status.top_k
    where = f", cycle {status.cycle}" if status.cycle is not None else ""
    lines = [
        f"{status.name}: {status.state}{where}{', ' + status.stage if status.stage else ''}",
        f"labels      {labels.done} done, {labels.failed} failed, {labels.pending} pending"
        + (f"; {labels.opened} of cells that were enlarged" if labels.opened else "")
        + (f"; {labels.from_elsewhere} from elsewhere" if labels.from_elsewhere else ""),
        f"evaluations {status.reference_evaluations} by the reference method",
    ]
    lines += [f"reference   {finding}" for finding in status.check]
    if status.pilots:
        lines += _pilots(status.pilots)
    if status.potentials:
        lines += _potentials(status.potentials)
    if best:
        lines.append(f"lowest      {_lowest(best, status.lowest_label)}")
    if top:
        lines.append(
            f"top {len(top.ids):<8}unchanged in {top.stable_cycles} of {top.patience} cycles; "
            f"chance that one more candidate finds a new minimum: {100 * top.unseen:.0f}%"
        )
    if status.relaxations:
        lines.append(f"relaxations {status.relaxations}")
    if status.walk_forward:
        lines += _prediction_errors(status.walk_forward, status.members or MANY)
    if status.foundation:
        lines.append(_foundation(status.foundation))
    if status.direct:
        lines.append(f"direct      {_direct(status.direct)}")
    lines += _ending(status)
    eta = f"; at most {duration(status.eta_s)} left" if status.eta_s is not None else ""
    lines.append(f"time        {duration(status.elapsed_s)}{eta}")
    return "\n".join(lines)


def _ending(status: RunStatus) -> list[str]:
    """Why the search stopped or goes on, and what its results are worth."""
    stop, lines = status.stop.reason, []
    if stop:
        said = f"stopped     {stop.removeprefix('settled: ')}" if status.judgement else f"verdict     {stop}"
        lines.append(said)
    elif status.top_k:
        lines.append(f"verdict     {status.top_k.verdict}")
    if status.judgement:
        word, *reasons = status.judgement.rule
        lines += [f"judgement   {word}", *(f"          {reason}" for reason in reasons)]
    return lines


def _lowest(best: Best, label: float | None) -> str:
    """What was found, or else what is predicted and what was labelled, in words."""
    if best.by == "reference":
        return f"{objective.show(best.energy_per_atom)} by the reference, candidate {best.id}"
    spread = f" ± {best.sigma:.4f}" if best.sigma is not None else ""
    labelled = f"; lowest label {objective.show(label)}" if label is not None else ""
    return f"{best.energy_per_atom:.4f}{spread} {objective.UNIT} predicted, candidate {best.id}{labelled}"


def _pilots(pilots: Pilots) -> list[str]:
    """What runs, what waits for what, and what that costs."""
    spent, to_come = f"{pilots.core_hours:.3g} core hours", pilots.core_hours_to_come
    now = (
        f"{pilots.running} running, {pilots.queued} queued; {pilots.busy} of {pilots.slots} slots busy, "
        f"{pilots.waiting} calculations wait for one"
    )
    there = now if pilots.running or pilots.queued or pilots.waiting else "none now"
    line = f"pilots      {there}; {spent}" + (f", at most {to_come:.3g} to come for labels" if to_come else "")
    return [line, *([f"            no further one for now: {pilots.refused}"] if pilots.refused else [])]


def _potentials(job: Pilots) -> list[str]:
    """Whether the job that trains and relaxes waits, and what it costs."""
    at = "a stage" if job.busy else "nothing to do"
    now = f"running, {at}" if job.running else "queued; the driver waits for it" if job.queued else "none now"
    line = f"potentials  job {now}; {job.core_hours:.3g} core hours"
    return [line, *([f"            no further one for now: {job.refused}"] if job.refused else [])]


def _foundation(figures: dict[str, Any]) -> str:
    """How the foundation does on the labels, beside the ensemble."""
    apart, pairs = figures["apart_mev_per_atom"], figures["pairs"]
    off = "off by an unknown amount" if apart is None else f"off by {apart:.0f} meV/atom"
    order = f"; {figures['right']} of {pairs} pairs in the right order, the ensemble {figures['right_by_ensemble']}"
    return f"foundation  latest labels: {off} (median without the shift common to all){order if pairs else ''}"


def _direct(row: dict[str, Any]) -> str:
    """What a direct relaxer does."""
    if row["proposed"]:
        return f"cycle {row['cycle']}: {in_words(row)}"
    return f"cycle {row['cycle']}: {said_of(row)}"


def _prediction_errors(figures: dict[str, Any], members: int) -> list[str]:
    """Errors of the predictions of the latest labels, and how many of them the spread covers, a line each."""
    if not figures["compared"]:
        return ["predicted   nothing to compare: none of the latest labels has both a result and a prediction"]
    apart = figures.get("energy_apart_mev_per_atom")
    median = f" (median {apart:.0f} without the shift common to all)" if apart is not None else ""
    energy, forces, stress = (
        "-" if (error := figures[name]) is None else f"{error:{digits}}"
        for name, digits in (
            ("energy_mae_mev_per_atom", ".0f"), ("forces_mae_ev_per_angstrom", ".2g"), ("stress_mae_gpa", ".2g"),
        )
    )  # fmt: skip
    line = (
        f"predicted   latest labels, before training on them: energy off by {energy} meV/atom{median}, "
        f"forces by {forces} eV/Å, stress by {stress} GPa"
    )
    return [line, *(f"{'' if row else 'spread':<12}{line}" for row, line in enumerate(_calibration(figures, members)))]


def _calibration(figures: dict[str, Any], members: int) -> list[str]:
    """How many errors the spread of the ensemble covers, and where it is too small; nothing where that is unknown."""
    told, small = [], {}
    for quantity in COMPONENTS:
        one, two = (figures[f"{quantity}_within_{times}_sigma"] for times in (1, 2))
        right_one, right_two, right = right_spread(quantity, members)
        if one is not None:
            told.append(f"{quantity} {one:.0%} and {two:.0%} ({right_one:.0%} and {right_two:.0%})")
        factor = figures.get(f"{quantity}_spread_factor")
        if factor is not None and factor > SMALL * right:
            small[quantity] = factor / right
    if not told:
        return []
    of = f" of {members} potentials" if members < MANY else ""
    lines = [f"errors within one and two sigma (in brackets: if the spread{of} is right): {', '.join(told)}"]
    if small:
        words = ", ".join(f"{quantity} {_factor(factor)}" for quantity, factor in small.items())
        lines.append(f"too small; it would have to be larger by a factor of: {words}")
    if "forces" in small:
        lines.append(
            f"so relaxations go on up to {_factor(small['forces'])} times the uncertainty that relax.uncertainty sets; "
            "scores do not depend on it"
        )
    return lines


def _factor(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}"
