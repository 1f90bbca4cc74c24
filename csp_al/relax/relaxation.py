"""Relaxation of many crystals side by side, atoms and cell together, on an ensemble's mean energy.

Every candidate is an optimisation of its own: its steps are limited and shrink when the energy rises, a memory that
misleads it is emptied, and when it leaves the range of sensible crystals it is stopped alone, with its reason.
Finished candidates leave the batch and waiting ones enter, so that no batch waits for its slowest member.

Forces that are no gradient of the energy are followed alone: every step within the limits is taken, and what ends a
relaxation is rest, or one of the other reasons. L-BFGS then needs 29 evaluations where FIRE needs 73, and judging its
steps by the work of the forces along them gains nothing (`analysis/benchmarks/README.md`).

Unless it is fixed, the cell moves through its deformation gradient F from the start, cell = cell_0 F and positions =
u F, with u and F as coordinates, as in ASE's UnitCellFilter. Where the minima lie does not depend on that choice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

import csp_al.interfaces as why
from csp_al import objective
from csp_al.campaign.models import Relax
from csp_al.interfaces import Predictor
from csp_al.relax import lbfgs
from csp_al.relax.limits import Limits, broken_limit
from csp_al.structures import (
    Floats,
    Ints,
    Prediction,
    Relaxed,
    Strings,
    Structures,
    choose,
    concatenate,
    is_finite,
    scatter,
    take,
)

LONGEST_STEP = 0.2
"""Å, of any atom in one step."""

SHORTEST_STEP = 1e-5
"""Å; where the energy rises even along so short a step, it no longer falls."""

CELL_SCALE = 1.0
"""Å; a change of the deformation gradient by x counts as a step of x sqrt(n) CELL_SCALE of an atom."""

ENERGY_NOISE = 1e-6
"""eV/atom; smaller differences are not resolved by energies in single precision."""

REFILL = 0.25
"""Share of the batch that must be free before waiting candidates enter: few calls, each of some size."""


def relax(
    structures: Structures,
    ensemble: Predictor,
    section: Relax,
    limits: Limits,
    report: Callable[[int, int], None] = lambda *_: None,
) -> Relaxed:
    """Bring every candidate to rest; the results are in the order of the candidates.

    The frame kept is the last one at which the ensemble agreed and no limit was broken; where there is none, the frame
    that the candidate started from. Energies never rise along a relaxation, unless forces are no gradient of them.
    Where the ensemble has a ``guide``, another ensemble, that one's relaxations come first, and their steps count too;
    what it leads out of the range of sensible crystals begins where it began.
    """
    if guide := getattr(ensemble, "guide", None):
        led = relax(structures, guide, section, limits, lambda done, each: report(done, 2 * each))
        starts = choose(why.trusted(led.reason), led.structures, structures, structures)
        ends = _relax(starts, ensemble, section, limits, lambda done, each: report(each + done, 2 * each))
        return replace(ends, steps=led.steps + ends.steps)
    return _relax(structures, ensemble, section, limits, report)


def _relax(
    structures: Structures, ensemble: Predictor, section: Relax, limits: Limits, report: Callable[[int, int], None]
) -> Relaxed:
    width = int(structures.counts.max(initial=1))
    waiting = np.arange(len(structures))
    active: _Active | None = None
    finished: list[tuple[Ints, Relaxed]] = []
    while len(waiting) or active is not None:
        entering = _count_entering(active, structures.counts[waiting], section.batch_atoms)
        if entering:
            rows, waiting = waiting[:entering], waiting[entering:]
            entered = _enter(rows, structures.take(rows), ensemble, section, limits, width)
            active = entered if active is None else concatenate([active, entered])
        elif active is not None:
            active = _step(active, ensemble, section, limits)
        active = _retire(active, finished)
        report(sum(len(rows) for rows, _ in finished), len(structures))
    if not finished:
        return Relaxed(structures, ensemble.predict(structures), np.zeros(0, np.str_), np.zeros(0, np.int64))
    order = np.argsort(np.concatenate([rows for rows, _ in finished]))
    joined = concatenate([relaxed for _, relaxed in finished])
    return take(joined, order, joined.structures)


def relax_pool(
    pool: Structures,
    before: Relaxed | None,
    ensemble: Predictor,
    section: Relax,
    limits: Limits,
    report: Callable[[int, int], None] = lambda *_: None,
    proven: Structures | None = None,
) -> Relaxed:
    """Relax every candidate from its cell in the ``pool`` and, if its end ``before`` can be trusted, from there too.

    What labels have ``proven`` to be low is a further start. What an early ensemble spoiled, a later one mends from the
    first cell; what an early one found, a later one that disagrees with itself on the way there goes on from; a crystal
    that proved lower than predicted is kept, also where its candidate had fallen off to another. All ends are returned,
    several of most candidates; ``csp_al.select.ends`` chooses.
    """
    starts = pool
    if before is not None:
        starts = concatenate([starts, before.structures.take(why.trusted(before.reason))])
    if proven is not None:
        starts = concatenate([starts, proven])
    # an ensemble remembers neighbours by id, and these are several crystals of one candidate
    relaxed = relax(replace(starts, ids=np.arange(len(starts))), ensemble, section, limits, report)
    return replace(relaxed, structures=replace(relaxed.structures, ids=starts.ids))


@dataclass(frozen=True)
class _Active:
    """The candidates under way: their rows in the pool, where they stand, and what their optimiser knows.

    Shapes: start (b, 3, 3) Å, deformation (b, 3, 3), gradient (b, d) eV/Å, reach (b,) Å, idle (b,) steps without a
    lower energy, lowest (b,) eV at the last such step.
    """

    rows: Ints
    current: Structures
    prediction: Prediction
    start: Floats
    deformation: Floats
    gradient: Floats
    memory: lbfgs.Memory
    reach: Floats
    idle: Ints
    lowest: Floats
    steps: Ints
    reason: Strings

    def __len__(self) -> int:
        return len(self.rows)


def _count_entering(active: _Active | None, counts: Ints, capacity: int) -> int:
    """How many waiting candidates may enter now: none while the batch is nearly full, at least one if it is empty."""
    occupied = 0 if active is None else len(active.current.numbers)
    if not len(counts) or occupied > (1 - REFILL) * capacity:
        return 0
    fitting = int(np.searchsorted(np.cumsum(counts), capacity - occupied, side="right"))
    return max(fitting, 1 if active is None else 0)


def _enter(
    rows: Ints, structures: Structures, ensemble: Predictor, section: Relax, limits: Limits, width: int
) -> _Active:
    outside = broken_limit(structures, limits)
    prediction = _predict_within(structures, outside == "", ensemble)
    deformation = np.broadcast_to(np.eye(3), structures.cells.shape).copy()
    n = len(rows)
    reason = _first_reason(
        outside,
        _not_finite(prediction, structures, ensemble),
        _disagreement(structures, prediction, section),
        _at_rest(structures, prediction, section),
        np.full(n, why.OUT_OF_STEPS if section.max_steps == 1 else ""),
    )
    return _Active(
        rows=rows,
        current=structures,
        prediction=prediction,
        start=structures.cells,
        deformation=deformation,
        gradient=_gradient(structures, prediction, deformation, width, section),
        memory=lbfgs.empty(n, 3 * width + 9),
        reach=np.full(n, LONGEST_STEP),
        idle=np.zeros(n, np.int64),
        lowest=objective.descent(prediction, structures).energy,
        steps=np.ones(n, np.int64),
        reason=reason,
    )


def _predict_within(structures: Structures, within: NDArray[np.bool_], ensemble: Predictor) -> Prediction:
    """Predictions for the structures in this mask (n,), NaN for the others, which the ensemble is not asked about.

    The neighbour list of a collapsed cell may not fit into any memory.
    """
    return scatter(ensemble.predict(structures.take(within)), within, structures)


def _retire(active: _Active | None, finished: list[tuple[Ints, Relaxed]]) -> _Active | None:
    """Move what has a reason to stop to the finished ones."""
    if active is None or not (active.reason != "").any():
        return active
    done, going = np.flatnonzero(active.reason != ""), np.flatnonzero(active.reason == "")
    ended = take(active, done, active.current)
    finished.append((ended.rows, Relaxed(ended.current, ended.prediction, ended.reason, ended.steps)))
    return take(active, going, active.current) if len(going) else None


def _step(active: _Active, ensemble: Predictor, section: Relax, limits: Limits) -> _Active:
    """One evaluation of every active candidate: a step is taken where the energy falls, and else shortened.

    Where forces are not the energy's, it is taken in any case.
    """
    step = _limit(lbfgs.direction(active.memory, active.gradient), active.reach)
    trial, deformation = _displace(active, step)
    reason = broken_limit(trial, limits)
    trial = choose(reason == "", trial, active.current, trial)
    prediction = ensemble.predict(trial)
    reason = _first_reason(reason, _not_finite(prediction, trial, ensemble), _disagreement(trial, prediction, section))

    noise = ENERGY_NOISE * trial.counts
    energy = objective.descent(prediction, trial).energy
    anyway = not ensemble.gives.conservative
    taken = (reason == "") & (anyway | (energy <= active.lowest + noise))
    current = choose(taken, trial, active.current, trial)
    prediction = choose(taken, prediction, active.prediction, trial)
    deformation = np.where(taken[:, None, None], deformation, active.deformation)
    width = (active.gradient.shape[1] - 9) // 3
    gradient = _gradient(current, prediction, deformation, width, section)
    memory = lbfgs.remember(active.memory, step * taken[:, None], gradient - active.gradient)
    length = _longest(step)
    reach = np.where(taken, np.minimum(1.5 * active.reach, LONGEST_STEP), 0.3 * length)
    falls = taken & (anyway | (energy < active.lowest - noise))
    idle = np.where(falls, 0, active.idle + 1)
    steps = active.steps + 1
    return replace(
        active,
        current=current,
        prediction=prediction,
        deformation=deformation,
        gradient=gradient,
        memory=lbfgs.forget(memory, ~taken),
        reach=reach,
        idle=idle,
        lowest=np.where(falls, energy, active.lowest),
        steps=steps,
        reason=_first_reason(
            reason,
            _at_rest(current, prediction, section),
            np.where((reach < SHORTEST_STEP) | (idle >= section.energy_patience), why.STALLED, ""),
            np.where(steps >= section.max_steps, why.OUT_OF_STEPS, ""),
        ),
    )


def _gradient(
    structures: Structures, prediction: Prediction, deformation: Floats, width: int, section: Relax
) -> Floats:
    """Derivative of what is minimised by (u, scaled F), padded to (b, 3 width + 9), eV/Å; 0 by an F that is fixed."""
    descent = objective.descent(prediction, structures)
    slope = -np.einsum("ni,nji->nj", descent.forces, deformation[structures.system])
    virial = descent.stress * structures.volumes[:, None, None] * (section.cell == "free")
    cell = np.linalg.solve(np.swapaxes(deformation, 1, 2), virial) / _cell_scale(structures)[:, None, None]
    padded = np.zeros((len(structures), width, 3))
    padded[structures.system, _places(structures)] = slope
    gradient = np.concatenate([padded.reshape(len(structures), -1), cell.reshape(-1, 9)], axis=1)
    return np.nan_to_num(gradient, nan=0.0, posinf=0.0, neginf=0.0)


def _displace(active: _Active, step: Floats) -> tuple[Structures, Floats]:
    """Where a step (b, d) leads: the structures there and their deformation."""
    structures = active.current
    deformation = active.deformation + step[:, -9:].reshape(-1, 3, 3) / _cell_scale(structures)[:, None, None]
    moves = step[:, :-9].reshape(len(structures), -1, 3)[structures.system, _places(structures)]
    inverse = np.linalg.inv(active.deformation)
    u = np.einsum("ni,nij->nj", structures.positions, inverse[structures.system]) + moves
    positions = np.einsum("ni,nij->nj", u, deformation[structures.system])
    return structures.moved(positions, active.start @ deformation), deformation


def _cell_scale(structures: Structures) -> Floats:
    scale: Floats = CELL_SCALE * np.sqrt(structures.counts)
    return scale


def _places(structures: Structures) -> Ints:
    """Place of each atom within its structure, (N,)."""
    return np.arange(len(structures.numbers)) - np.repeat(structures.ptr[:-1], structures.counts)


def _longest(step: Floats) -> Floats:
    """Longest displacement in each step, of an atom or of a row of the scaled deformation, (b,), Å."""
    longest: Floats = np.linalg.norm(step.reshape(len(step), -1, 3), axis=2).max(axis=1)
    return longest


def _limit(step: Floats, reach: Floats) -> Floats:
    return step * np.minimum(1.0, reach / np.maximum(_longest(step), 1e-12))[:, None]


def _at_rest(structures: Structures, prediction: Prediction, section: Relax) -> Strings:
    """Converged: forces, and the virial per atom, as ASE's cell filters ask for it."""
    descent = objective.descent(prediction, structures)
    force = structures.largest(np.linalg.norm(descent.forces, axis=1))
    virial = np.linalg.norm(descent.stress, axis=2).max(axis=1) * structures.volumes / structures.counts
    at_rest = (virial < section.fmax) | (section.cell == "fixed")
    return np.where((force < section.fmax) & at_rest, why.CONVERGED, "")


def _disagreement(structures: Structures, prediction: Prediction, section: Relax) -> Strings:
    """Uncertain: the largest spread of a force is many times the largest force, and not small in itself."""
    force = structures.largest(np.linalg.norm(prediction.forces, axis=1))
    sigma = structures.largest(prediction.forces_sigma)
    return np.where(sigma > np.maximum(section.uncertainty * force, section.uncertainty_floor), why.UNCERTAIN, "")


def _not_finite(prediction: Prediction, structures: Structures, ensemble: Predictor) -> Strings:
    known = prediction if ensemble.gives.stress else replace(prediction, stress=np.zeros_like(prediction.stress))
    finite = is_finite(known, structures)
    if ensemble.gives.spread:
        finite &= np.isfinite(structures.largest(prediction.forces_sigma))
    return np.where(finite, "", why.NOT_FINITE)


def _first_reason(*reasons: Strings) -> Strings:
    """The first reason given for each candidate, of any length."""
    first = reasons[0]
    for later in reasons[1:]:
        first = np.where(first == "", later, first)
    return first
