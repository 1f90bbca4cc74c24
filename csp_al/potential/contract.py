"""What every kind of potential must keep, whatever is inside; `csp_al.testing` has it for packages."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Final, Never
from unittest.mock import patch

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import BaseCalculator
from ase.calculators.emt import EMT
from scipy.spatial.transform import Rotation

from csp_al.campaign.potentials import PotentialSection
from csp_al.files import DamagedError, OtherVersionError
from csp_al.interfaces import Ensemble, Gives, PotentialKind, Trained
from csp_al.structures import Floats, Labels, Prediction, Status, Structures, concatenate, take

CPU: Final = torch.device("cpu")
TOLERANCE: Final = 1e-4
"""Of numbers in single precision: share of the largest, or eV, eV/Å, eV/Å^3."""

SLOPE_TOLERANCE: Final = 0.01
"""Of derivatives by differences of such energies: share of the largest slope, or eV/Å."""

STEP: Final = 0.003
"""Å, and strain."""

DENIED: Final = {
    "energy": ("energy", "energy_sigma"),
    "stress": ("stress", "stress_sigma"),
    "spread": ("energy_sigma", "forces_sigma", "stress_sigma"),
}
"""Fields of a prediction that are NaN where a potential does not give this."""


def check_kind(kind: PotentialKind, section: PotentialSection, folder: Path, labels: Labels | None = None) -> None:
    """Raise AssertionError where the kind does not keep what `csp_al.interfaces` says of it.

    ``folder`` must be empty. ``labels``, of at least six candidates, are rattled aluminium by ASE's EMT by default.
    """
    labels = _aluminium() if labels is None else labels
    gives, structures = kind.gives(section), labels.structures
    untrained = kind.new(section, [1, 0], CPU)
    assert isinstance(section, kind.section), "the section is not of the class that the kind names"
    assert kind.weights_bytes(section) > 0, "weights take some bytes"
    assert untrained.gives == gives, "the ensemble gives something else than its kind says"
    same = kind.new(section, [1, 0], CPU).predict(structures)
    _same(untrained.fresh().predict(structures), same, "a seed makes two different ensembles")
    trained = _check_training(untrained, labels)
    for ensemble in (untrained, trained):
        _check_shapes(ensemble.predict(structures), structures, gives)
        _check_batches(ensemble, structures)
        _check_symmetries(ensemble, structures, gives)
    if gives.conservative:
        _check_slopes(trained, structures, gives)
    _check_files(kind, section, trained, structures, folder)


def labels_by(calculator: BaseCalculator, crystals: Sequence[Atoms]) -> Labels:
    """Labels of crystals, one candidate each, to train on in tests."""
    for atoms in crystals:
        atoms.calc = calculator
    n = len(crystals)
    results = [(a.get_potential_energy(), a.get_forces(), a.get_stress(voigt=False)) for a in crystals]
    return Labels(
        structures=Structures.from_atoms(crystals),
        energy=np.array([energy for energy, _, _ in results]),
        forces=np.concatenate([forces for _, forces, _ in results]),
        stress=np.array([stress for _, _, stress in results]),
        status=np.full(n, Status.DONE.value),
        reason=np.full(n, ""),
        cost=np.ones(n),
        evaluations=np.ones(n, np.int64),
        cycle=np.zeros(n, np.int64),
    )


def _aluminium() -> Labels:
    rng = np.random.default_rng(0)
    crystals = []
    for number in range(8):
        atoms = bulk("Al", ("fcc", "bcc", "hcp")[number % 3], a=(4.05, 3.24, 2.86)[number % 3]).repeat(
            (1, 1, 1 + number % 2)
        )
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + 0.05 * rng.normal(size=(3, 3))), scale_atoms=True)
        atoms.rattle(0.1, rng=rng)
        crystals.append(atoms)
    return labels_by(EMT(), crystals)


def _check_training(untrained: Ensemble, labels: Labels) -> Ensemble:
    before = untrained.fresh().predict(labels.structures)
    reports: list[tuple[int, int]] = []
    trained = untrained.train(labels, [1, 0], lambda done, everything: reports.append((done, everything)))
    _same(untrained.fresh().predict(labels.structures), before, "training changes the ensemble that it begins with")
    assert reports, "training does not report how far it is"
    assert all(0 <= done <= everything for done, everything in reports), f"it reports {reports[-1]}"
    _check_curve(trained, len(labels))
    again = untrained.train(labels, [1, 0], lambda *_: None)
    _same(
        again.ensemble.predict(labels.structures),
        trained.ensemble.fresh().predict(labels.structures),
        "the same seed and labels end in another ensemble",
    )
    one = labels.take(labels.structures.ids == labels.structures.ids[0])
    with suppress(ValueError):
        untrained.train(one, [1, 0], lambda *_: None)
        raise AssertionError("it trains on labels of one candidate instead of raising ValueError")
    return trained.ensemble


def _check_curve(trained: Trained, labels: int) -> None:
    curve = trained.curve
    assert set(curve.columns) >= {"epoch", "member", "training", "validation"}, f"the curve has {list(curve.columns)}"
    assert curve["epoch"].min() == 1, "epochs are counted from 1"
    assert 0 <= trained.left_out < labels, f"of {labels} labels {trained.left_out} were left out"
    losses = curve.groupby("member")["training"].agg(["first", "min"])
    assert (losses["min"] < losses["first"]).all(), "training lowers no loss"


def _check_shapes(prediction: Prediction, structures: Structures, gives: Gives) -> None:
    n, atoms = len(structures), len(structures.numbers)
    shapes = {
        "energy": (n,), "energy_sigma": (n,), "forces": (atoms, 3), "forces_sigma": (atoms,), "stress": (n, 3, 3),
        "stress_sigma": (n,), "features": (n, gives.features),
    }  # fmt: skip
    denied = {name for quantity, names in DENIED.items() if not getattr(gives, quantity) for name in names}
    for name, shape in shapes.items():
        value = getattr(prediction, name)
        assert value.shape == shape, f"{name} has the shape {value.shape}, not {shape}"
        assert value.dtype == np.float64, f"{name} is {value.dtype}, not float64"
        if name in denied:
            assert np.isnan(value).all(), f"{name} is not given, and yet not NaN"
        else:
            assert np.isfinite(value).all(), f"{name} is not finite"
        if name.endswith("_sigma") and name not in denied:
            assert (value >= 0).all(), f"{name} is negative"
    pushed = np.abs(np.add.reduceat(prediction.forces, structures.ptr[:-1])).max()
    assert pushed <= TOLERANCE * max(1, np.abs(prediction.forces).max()), f"forces push a whole crystal by {pushed:.3g}"


def _check_batches(ensemble: Ensemble, structures: Structures) -> None:
    together = ensemble.predict(structures)
    alone = [ensemble.fresh().predict(structures.take([row])) for row in range(len(structures))]
    _close(concatenate(alone), together, "structures predicted alone differ from a batch")
    backwards = np.arange(len(structures))[::-1]
    _close(
        ensemble.fresh().predict(structures.take(backwards)),
        take(together, backwards, structures),
        "the order of structures in a batch matters",
    )
    nothing = ensemble.predict(structures.take([]))
    _same(concatenate([nothing, together]), together, "an empty batch has no empty prediction")


def _check_symmetries(ensemble: Ensemble, structures: Structures, gives: Gives) -> None:
    rng = np.random.default_rng(0)
    before = ensemble.predict(structures)

    def check(moved: Structures, expected: Prediction, what: str) -> None:
        _close(ensemble.fresh().predict(moved), expected, f"not the same when {what}")

    turn = Rotation.random(random_state=1).as_matrix()
    turned = replace(before, forces=before.forces @ turn.T, stress=turn @ before.stress @ turn.T)
    if gives.equivariant:
        check(structures.moved(structures.positions @ turn.T, structures.cells @ turn.T), turned, "turned")
    jumps = rng.integers(-2, 3, structures.positions.shape)
    jumps = np.einsum("ni,nij->nj", jumps, structures.cells[structures.system])
    check(
        structures.moved(structures.positions + 0.7 + jumps, structures.cells), before, "moved, and by lattice vectors"
    )
    order = np.concatenate(
        [a + rng.permutation(b - a) for a, b in zip(structures.ptr[:-1], structures.ptr[1:], strict=True)]
    )
    permuted = replace(structures, numbers=structures.numbers[order], positions=structures.positions[order])
    expected = replace(before, forces=before.forces[order], forces_sigma=before.forces_sigma[order])
    check(permuted, expected, "atoms are exchanged")
    row = int(np.argmax(structures.counts))
    one = take(before, np.array([row]), structures)
    double = Structures.from_atoms([structures.to_atoms()[row].repeat((1, 2, 1))])
    expected = replace(
        one, energy=2 * one.energy, energy_sigma=2 * one.energy_sigma, forces=np.tile(one.forces, (2, 1)),
        forces_sigma=np.tile(one.forces_sigma, 2),
    )  # fmt: skip
    check(double, expected, "the cell is doubled, but for twice the energy")


def _check_slopes(ensemble: Ensemble, structures: Structures, gives: Gives) -> None:
    """Energies along random displacements and strains, by differences of the fourth order."""
    rng = np.random.default_rng(0)
    said = ensemble.predict(structures)
    work = rng.normal(size=structures.positions.shape)
    strain = rng.normal(size=structures.cells.shape)
    strain = (strain + np.swapaxes(strain, 1, 2)) / 2

    def displaced(step: float) -> Structures:
        return structures.moved(structures.positions + step * work, structures.cells)

    def strained(step: float) -> Structures:
        deformation = np.eye(3) + step * strain
        positions = np.einsum("ni,nij->nj", structures.positions, deformation[structures.system])
        return structures.moved(positions, structures.cells @ deformation)

    _agree(
        _slopes(ensemble, displaced),
        -np.add.reduceat((said.forces * work).sum(axis=1), structures.ptr[:-1]),
        "forces are not the derivative of the energy",
    )
    if gives.stress:
        virial = (said.stress * strain).sum(axis=(1, 2)) * structures.volumes
        _agree(_slopes(ensemble, strained), virial, "the stress is not the derivative of the energy")


def _slopes(ensemble: Ensemble, moved: Any) -> Floats:
    low, lower, high, higher = (ensemble.fresh().predict(moved(step * STEP)).energy for step in (-1, -2, 1, 2))
    slopes: Floats = (8 * (high - low) - (higher - lower)) / (12 * STEP)
    return slopes


def _check_files(
    kind: PotentialKind, section: PotentialSection, ensemble: Ensemble, structures: Structures, folder: Path
) -> None:
    ensemble.save(folder)
    with _no_pickles():
        loaded = kind.load(folder, section, CPU)
    expected = loaded.predict(structures)
    _same(kind.load(folder, section, CPU).predict(structures), expected, "two loaded copies differ")
    ensemble.predict(structures.moved(structures.positions + 0.05, structures.cells))
    _same(ensemble.fresh().predict(structures), expected, "what was loaded is not what fresh() gives")
    assert loaded.gives == ensemble.gives, "what was loaded gives something else"
    for path in [path for path in folder.rglob("*") if path.is_file()]:
        whole = path.read_bytes()
        path.write_bytes(pickle.dumps(["nothing of this"]))
        try:
            kind.load(folder, section, CPU)
        except (DamagedError, OtherVersionError):
            path.write_bytes(whole)
            continue
        raise AssertionError(f"with another {path.name} it raises no DamagedError")


@contextmanager
def _no_pickles() -> Iterator[None]:
    """Whoever reads a pickle may run what is in it."""

    def refuse(*_: object, **__: object) -> Never:
        raise AssertionError("it reads a pickle, which may run anything")

    with patch.multiple(pickle, load=refuse, loads=refuse, Unpickler=refuse):
        yield


def _same(one: Prediction, other: Prediction, otherwise: str) -> None:
    for field in fields(Prediction):
        values = getattr(one, field.name), getattr(other, field.name)
        assert np.array_equal(*values, equal_nan=True), f"{otherwise}: {field.name}"


def _close(one: Prediction, other: Prediction, otherwise: str) -> None:
    for field in fields(Prediction):
        _agree(getattr(one, field.name), getattr(other, field.name), f"{otherwise}: {field.name}", TOLERANCE)


def _agree(one: Floats, other: Floats, otherwise: str, tolerance: float = SLOPE_TOLERANCE) -> None:
    assert one.shape == other.shape, f"{otherwise}: {one.shape} and {other.shape}"
    assert np.array_equal(np.isnan(one), np.isnan(other)), f"{otherwise}: NaN"
    error, scale = (np.nan_to_num(np.abs(each)).max(initial=0) for each in (one - other, other))
    assert error <= tolerance * max(1, scale), f"{otherwise}: by {error:.3g}, where {scale:.3g} is the largest"
