"""How well the potentials foresaw the labels that were just asked for, before they learn from them.

These errors are the honest ones: no member of the ensemble saw these labels. Most were chosen by the search, one in
five is of a random candidate.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from ase.units import GPa
from numpy.typing import NDArray
from scipy import stats

from csp_al import objective
from csp_al.structures import Floats, Labels, Prediction, Status, take

Figures = dict[str, int | float | None]
UPPER = np.triu_indices(3)
"""The six components of a symmetric stress."""
COVERED = 0.68
"""Share of errors within one sigma, if they are Gaussian and the spread of many members is right."""
FEWEST_PAIRS = 50
"""Of labels, for a foundation and an ensemble to be compared."""
WORSE = 0.1
"""Share of the pairs by which a foundation is behind the ensemble where it is said to be."""
COMPONENTS = {"energy": 1, "forces": 3, "stress": 6}
"""Of the errors of each quantity, whose norms are compared with sigmas."""


def walk_forward(predicted: Prediction, labels: Labels) -> Figures:
    """Errors of a prediction for the very structures of the labels, row by row.

    Keys: "labels" (how many are done), "compared" (for how many of these the predicted energy is finite),
    "energy_apart_mev_per_atom" (the median error once the median shift is subtracted: what may rank two crystals
    wrongly), "energy_below_mev_per_atom" (how far a label was below its prediction, at most; 0 where none was), and for
    each quantity "<quantity>_mae_<unit>", "<quantity>_rmse_<unit>", "<quantity>_within_1_sigma",
    "<quantity>_within_2_sigma" and "<quantity>_spread_factor", by which sigmas must be multiplied to cover 0.68:
    energy_..._mev_per_atom, forces_..._ev_per_angstrom (by components) and stress_..._gpa (by its six components). The
    shares compare the energy of a structure, the norm of the error of an atom's force and that of the error of a stress
    with their sigmas; `right_spread` says what a spread that is right would have. What is not finite on either side is
    left out; a figure of nothing is None.
    """
    done = np.flatnonzero(labels.status == Status.DONE)
    truth = labels.take(done)
    guess = take(predicted, done, labels.structures)
    energy = guess.energy - truth.energy
    forces = guess.forces - truth.forces
    stress = guess.stress - truth.stress
    return {
        "labels": len(done),
        "compared": int(np.isfinite(energy).sum()),
        **_errors("energy", "mev_per_atom", 1000 * energy / truth.structures.counts),
        "energy_apart_mev_per_atom": apart(1000 * energy / truth.structures.counts),
        "energy_below_mev_per_atom": _below(1000 * energy / truth.structures.counts),
        **_shares("energy", np.abs(energy), guess.energy_sigma),
        **_errors("forces", "ev_per_angstrom", forces),
        **_shares("forces", np.linalg.norm(forces, axis=1), guess.forces_sigma),
        **_errors("stress", "gpa", stress[:, UPPER[0], UPPER[1]] / GPa),
        **_shares("stress", np.linalg.norm(stress, axis=(1, 2)), guess.stress_sigma),
    }


def compared(below: Prediction, predicted: Prediction | None, labels: Labels) -> Figures:
    """How well a foundation ranks labels, and how well an ensemble that had ``predicted`` them did.

    Keys: "apart_mev_per_atom" as "energy_apart_mev_per_atom" of `walk_forward`; "pairs" (of labels that are done, with
    energies by all), "right" (how many of these the foundation has in the right order) and "right_by_ensemble", all
    three None where the ensemble had predicted nothing.
    """
    energies = [labels.energy, below.energy, *([] if predicted is None else [predicted.energy])]
    known = np.flatnonzero(np.isfinite(energies).all(axis=0) & (labels.status == Status.DONE))
    structures = labels.structures.take(known)
    truth, foundation, *ensemble = (objective.values(energy[known], structures) for energy in energies)
    pairs = len(truth) * (len(truth) - 1) // 2
    return {
        "apart_mev_per_atom": apart(1000 * (foundation - truth)),
        "pairs": pairs if ensemble else None,
        "right": _right(foundation, truth) if ensemble else None,
        "right_by_ensemble": _right(ensemble[0], truth) if ensemble else None,
    }


def together(figures: Iterable[Figures]) -> Figures:
    """Pairs of `compared` that an ensemble had predicted, over several cycles."""
    told = [each for each in figures if each["right_by_ensemble"] is not None]
    return {key: sum(int(each[key] or 0) for each in told) for key in ("pairs", "right", "right_by_ensemble")}


def ranks_worse(figures: Figures) -> str:
    """In words, where a foundation has far fewer pairs in the right order than the ensemble; empty elsewhere."""
    pairs, right, by_ensemble = (int(figures[key] or 0) for key in ("pairs", "right", "right_by_ensemble"))
    if pairs < FEWEST_PAIRS or by_ensemble - right < WORSE * pairs:
        return ""
    return (
        f"the foundation has {right} of {pairs} pairs of labels in the right order, the ensemble {by_ensemble}: "
        "a campaign without it may need fewer labels"
    )


def _right(energies: Floats, truth: Floats) -> int:
    """Pairs that are in the same order by both."""
    one, other = np.triu_indices(len(truth), 1)
    return int(((energies[one] - energies[other]) * (truth[one] - truth[other]) > 0).sum())


def right_spread(quantity: str, members: int) -> tuple[float, float, float]:
    """Shares of errors within one and two sigma, and the factor that covers `COVERED`, of a spread that is right.

    The truth is like one more of so many members then, all of them Gaussian. A spread of few members is itself
    uncertain, and so is their mean: of n members the square of the norm of an error over that of sigma is
    (1 + 1/n) F(d, d(n-1)) for d components. Three have 0.52 and 0.78 for energies.
    """
    components, wider = COMPONENTS[quantity], 1 + 1 / members
    ratio = stats.f(components, components * (members - 1))
    one, two = (float(ratio.cdf(times**2 / wider)) for times in (1, 2))
    return one, two, float(np.sqrt(wider * ratio.ppf(COVERED)))


def _errors(quantity: str, unit: str, errors: Floats) -> Figures:
    finite = errors[np.isfinite(errors)]
    return {
        f"{quantity}_mae_{unit}": _mean(np.abs(finite)),
        f"{quantity}_rmse_{unit}": float(np.sqrt(np.mean(finite**2))) if finite.size else None,
    }


def _shares(quantity: str, errors: Floats, sigmas: Floats) -> Figures:
    finite = np.isfinite(errors) & np.isfinite(sigmas)
    errors, sigmas = errors[finite], sigmas[finite]
    shares: Figures = {f"{quantity}_within_{times}_sigma": _mean(errors <= times * sigmas) for times in (1, 2)}
    with np.errstate(divide="ignore", invalid="ignore"):
        factor = float(np.quantile(errors / sigmas, COVERED)) if errors.size else np.nan
    return shares | {f"{quantity}_spread_factor": factor if np.isfinite(factor) else None}


def apart(errors: Floats) -> float | None:
    """The median error (n,) once the median shift is subtracted, in their unit; None where none is finite."""
    finite = errors[np.isfinite(errors)]
    return float(np.median(np.abs(finite - np.median(finite)))) if finite.size else None


def _below(errors: Floats) -> float | None:
    """How far a label is below its prediction, at most, for errors (n,) of predictions."""
    finite = errors[np.isfinite(errors)]
    return float(finite.max(initial=0.0)) if finite.size else None


def _mean(values: Floats | NDArray[np.bool_]) -> float | None:
    return float(np.mean(values)) if values.size else None
