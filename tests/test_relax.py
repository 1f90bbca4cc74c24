"""Relaxations end where ASE's optimisers end, and each candidate ends alone, with its reason."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT
from ase.filters import FrechetCellFilter, UnitCellFilter
from ase.neighborlist import neighbor_list
from ase.optimize import LBFGS
from emt_aluminium import emt_labels, in_double
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.io.ase import AseAtomsAdaptor
from scipy.optimize import LbfgsInvHessProduct

from csp_al import objective, open_run
from csp_al.campaign.models import Relax
from csp_al.hdf5 import load, save
from csp_al.interfaces import (
    CONVERGED,
    NOT_FINITE,
    OUT_OF_STEPS,
    STALLED,
    TOO_CLOSE,
    UNCERTAIN,
    VOLUME,
    Ensemble,
    Gives,
    trusted,
)
from csp_al.loop.bodies import _proven, known_by, relaxation_limits
from csp_al.loop.progress import Progress
from csp_al.loop.random_streams import first_cells
from csp_al.potential.ensemble import load_ensemble, new_ensemble
from csp_al.potential.polished import Polished
from csp_al.potential.schnet import SchnetPotential
from csp_al.potential.training import train
from csp_al.reference.classical import lennard_jones
from csp_al.reference.evaluate import relax as relax_by_reference
from csp_al.relax import lbfgs, limits, relaxation
from csp_al.relax.limits import Limits, broken_limit
from csp_al.relax.relaxation import ENERGY_NOISE, relax, relax_pool
from csp_al.select.ends import one_end_each
from csp_al.select.known import corrected
from csp_al.select.ranking import rows_of
from csp_al.store import layout
from csp_al.store.run_directory import cycle_folder
from csp_al.structures import Floats, Picks, Prediction, Relaxed, Structures, concatenate

Change = Callable[[Structures, Prediction], Prediction]
WIDE = Limits({(a, b): 0.8 for a in (10, 13, 29, 79) for b in (10, 13, 29, 79)}, (2.0, 100.0))
TIGHT = Relax(fmax=0.005, max_steps=500)
LJ = {"epsilon": 1.0, "sigma": 2.0, "cutoff": 5.0}


@dataclass
class Stub:
    """An ensemble that agrees with itself: an ASE calculator, and what a test makes of its answers."""

    calculator: Calculator
    change: Change = lambda _, prediction: prediction
    asked: list[tuple[Structures, Prediction]] = field(default_factory=list)
    gives: Gives = field(default_factory=Gives)

    def predict(self, structures: Structures) -> Prediction:
        energy, forces, stress = [], [np.zeros((0, 3))], []
        for atoms in structures.to_atoms():
            self.calculator.calculate(atoms, ["energy", "forces", "stress"], all_changes)
            results = self.calculator.results
            energy.append(results["energy"])
            forces.append(results["forces"])
            xx, yy, zz, yz, xz, xy = results["stress"]
            stress.append([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])
        n = len(structures)
        prediction = Prediction(
            energy=np.array(energy),
            energy_sigma=np.zeros(n),
            forces=np.concatenate(forces),
            forces_sigma=np.zeros(len(structures.numbers)),
            stress=np.array(stress).reshape(n, 3, 3),
            stress_sigma=np.zeros(n),
            features=structures.volumes[:, None].copy(),
        )
        prediction = self.change(structures, prediction)
        self.asked.append((structures, prediction))
        return prediction


def lj_stub(change: Change = lambda _, prediction: prediction) -> Stub:
    return Stub(lennard_jones(**LJ), change)


class OfEnsemble(Calculator):
    """An ensemble's mean as an ASE calculator."""

    implemented_properties = ("energy", "forces", "stress")

    def __init__(self, ensemble: Ensemble) -> None:
        super().__init__()
        self.ensemble = ensemble

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes) -> None:
        super().calculate(atoms, properties, system_changes)
        prediction = self.ensemble.predict(Structures.from_atoms([atoms]))
        stress = prediction.stress[0]
        self.results = {
            "energy": prediction.energy[0],
            "forces": prediction.forces,
            "stress": stress[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]],
        }


def but(section: Relax, **values: Any) -> Relax:
    return section.model_copy(update=values)


def disturbed(atoms: Atoms, seed: int, rattle: float = 0.1, strain: float = 0.05) -> Atoms:
    rng = np.random.default_rng(seed)
    atoms = atoms.copy()
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + strain * rng.normal(size=(3, 3))), scale_atoms=True)
    atoms.rattle(rattle, rng=rng)
    return atoms


def lj_crystals() -> Structures:
    """Crystals of one to eight atoms, all near close packing at 2.2 Å."""
    fcc, hcp = bulk("Ne", "fcc", a=3.1), bulk("Ne", "hcp", a=2.2)
    cells = [fcc, hcp, bulk("Ne", "fcc", a=3.1, cubic=True), fcc.repeat((1, 1, 3)), hcp.repeat((1, 2, 2))]
    return Structures.from_atoms([disturbed(atoms, seed) for seed, atoms in enumerate(cells)], ids=[7, 3, 11, 2, 5])


def relaxed_by_ase(atoms: Atoms, calculator: Calculator, fmax: float = 0.005) -> Atoms:
    atoms = atoms.copy()
    atoms.calc = calculator
    optimiser = LBFGS(FrechetCellFilter(atoms), logfile=None)
    assert optimiser.run(fmax=fmax, steps=500)
    return atoms


def assert_same_minima(relaxed: Relaxed, starts: Structures, calculator: Calculator) -> None:
    matcher = StructureMatcher(ltol=0.02, stol=0.03, angle_tol=1, primitive_cell=False, scale=False)
    for row, (start, end) in enumerate(zip(starts.to_atoms(), relaxed.structures.to_atoms(), strict=True)):
        expected = relaxed_by_ase(start, calculator)
        per_atom = expected.get_potential_energy() / len(start)
        assert relaxed.prediction.energy[row] / len(start) == pytest.approx(per_atom, abs=1e-3)
        assert end.cell.volume == pytest.approx(expected.cell.volume, rel=0.01)
        assert matcher.fit(*(AseAtomsAdaptor.get_structure(each) for each in (end, expected)))


def assert_same_results(one: Relaxed, other: Relaxed, tolerance: float = 1e-7) -> None:
    np.testing.assert_array_equal(one.structures.ids, other.structures.ids)
    np.testing.assert_array_equal(one.reason, other.reason)
    np.testing.assert_array_equal(one.steps, other.steps)
    np.testing.assert_allclose(one.structures.positions, other.structures.positions, atol=tolerance)
    np.testing.assert_allclose(one.structures.cells, other.structures.cells, atol=tolerance)
    np.testing.assert_allclose(one.prediction.energy, other.prediction.energy, atol=tolerance)


def only(identity: int, **values: Any) -> Change:
    """Overwrite what is predicted for one candidate."""

    def change(structures: Structures, prediction: Prediction) -> Prediction:
        rows = structures.ids == identity
        changed = {}
        for name, value in values.items():
            array = getattr(prediction, name).copy()
            array[rows[structures.system] if name.startswith("forces") else rows] = value
            changed[name] = array
        return replace(prediction, **changed)

    return change


# --- minima


def test_emt_metals_and_alloys_reach_the_minima_of_ase():
    l1_0 = Atoms("CuAu", scaled_positions=[[0, 0, 0], [0.5, 0.5, 0.5]], cell=[2.8, 2.8, 3.7], pbc=True)
    ordered = bulk("Au", "fcc", a=3.8, cubic=True)
    ordered.numbers[1:] = 29
    cells = [bulk("Al"), bulk("Al", cubic=True), bulk("Al", "hcp", a=2.85), l1_0, ordered, bulk("Cu").repeat(2)]
    starts = Structures.from_atoms([disturbed(atoms, seed) for seed, atoms in enumerate(cells)])
    relaxed = relax(starts, Stub(EMT()), TIGHT, WIDE)
    assert (relaxed.reason == CONVERGED).all()
    assert_same_minima(relaxed, starts, EMT())


def test_lennard_jones_crystals_reach_the_minima_of_ase():
    starts = lj_crystals()
    relaxed = relax(starts, lj_stub(), TIGHT, WIDE)
    assert (relaxed.reason == CONVERGED).all()
    assert_same_minima(relaxed, starts, lennard_jones(**LJ))


@pytest.fixture(scope="module")
def trained():
    section = SchnetPotential(
        members=2, features=16, interactions=2, cutoff=5.0, radial=12, steps=100, learning_rate=5e-3
    )
    return in_double(train(new_ensemble(section, [1], torch.device("cpu")), emt_labels(60), [1, 0]).ensemble)


def test_a_trained_ensemble_reaches_the_minima_of_ase(trained):
    cells = [bulk("Al"), bulk("Al", cubic=True), bulk("Al", "hcp", a=2.85), bulk("Al").repeat((1, 1, 2))]
    starts = Structures.from_atoms([disturbed(atoms, seed) for seed, atoms in enumerate(cells)])
    relaxed = relax(starts, trained, but(TIGHT, uncertainty_floor=50.0), WIDE)
    assert (relaxed.reason == CONVERGED).all()
    assert_same_minima(relaxed, starts, OfEnsemble(trained))


def test_what_is_returned_is_what_the_ensemble_says_of_the_kept_frames(trained):
    starts = Structures.from_atoms([disturbed(bulk("Al", cubic=True), seed) for seed in range(4)])
    section = but(TIGHT, max_steps=6)
    for ensemble in (trained, Stub(EMT())):
        relaxed = relax(starts, ensemble, section, WIDE)
        again = ensemble.predict(relaxed.structures)
        for name in Prediction.__dataclass_fields__:
            np.testing.assert_allclose(getattr(relaxed.prediction, name), getattr(again, name), atol=1e-9)


def test_the_gradient_is_the_derivative_along_every_coordinate_of_a_deformed_crystal():
    starts, stub = lj_crystals(), lj_stub()
    active = relaxation._enter(np.arange(5), starts, stub, TIGHT, WIDE, 10)
    for _ in range(4):
        active = relaxation._step(active, stub, TIGHT, WIDE)
    assert np.abs(active.deformation - np.eye(3)).max() > 0.02
    h = 1e-5
    for coordinate in range(active.gradient.shape[1]):
        step = np.zeros_like(active.gradient)
        step[:, coordinate] = h
        up, down = (stub.predict(relaxation._displace(active, sign * step)[0]).energy for sign in (1, -1))
        np.testing.assert_allclose(active.gradient[:, coordinate], (up - down) / (2 * h), atol=2e-5)


PRESSURE = 0.5  # eV/Å^3


def enthalpy(prediction: Prediction, structures: Structures) -> objective.Descent:
    """Another objective: as `objective.descent` would have it under a pressure."""
    energy = prediction.energy + PRESSURE * structures.volumes
    return objective.Descent(energy, prediction.forces, prediction.stress + PRESSURE * np.eye(3))


@pytest.mark.parametrize("minimised", [objective.descent, enthalpy])
def test_forces_and_stress_are_the_slope_of_what_is_minimised(minimised):
    structures, stub, h = lj_crystals(), lj_stub(), 1e-5

    def energy(positions: Floats, cells: Floats) -> Floats:
        moved = structures.moved(positions, cells)
        return minimised(stub.predict(moved), moved).energy

    slope = minimised(stub.predict(structures), structures)
    for atom in range(len(structures.numbers)):
        for axis in range(3):
            step = np.zeros_like(structures.positions)
            step[atom, axis] = h
            up, down = (energy(structures.positions + sign * step, structures.cells) for sign in (1, -1))
            row = structures.system[atom]
            assert -slope.forces[atom, axis] == pytest.approx((up - down)[row] / (2 * h), abs=2e-5)
    for i in range(3):
        for j in range(3):
            strain = np.zeros((3, 3))
            strain[i, j] = h
            up, down = (
                energy(structures.positions @ deformed, structures.cells @ deformed)
                for deformed in (np.eye(3) + strain, np.eye(3) - strain)
            )
            np.testing.assert_allclose(slope.stress[:, i, j] * structures.volumes, (up - down) / (2 * h), atol=2e-5)


def test_relaxations_by_the_ensemble_and_by_the_reference_end_where_the_objective_is_lowest(monkeypatch, tmp_path):
    starts = Structures.from_atoms([disturbed(bulk("Ne", "fcc", a=3.2, cubic=True), 5)])
    free = relax(starts, lj_stub(), TIGHT, WIDE)
    monkeypatch.setattr(objective, "descent", enthalpy)
    monkeypatch.setattr(objective, "cell_filter", lambda atoms: UnitCellFilter(atoms, scalar_pressure=PRESSURE))
    pressed = relax(starts, lj_stub(), TIGHT, WIDE)
    assert (pressed.reason == CONVERGED).all()
    assert pressed.structures.volumes[0] < 0.98 * free.structures.volumes[0]
    np.testing.assert_allclose(pressed.prediction.stress[0], -PRESSURE * np.eye(3), atol=0.002)
    by_hand = lj_stub().predict(pressed.structures)
    np.testing.assert_allclose(pressed.prediction.energy, by_hand.energy)  # what is reported stays an energy
    reference = SimpleNamespace(calculator=lambda *_: lennard_jones(**LJ), kpoints=lambda _: None)
    result = relax_by_reference(reference, starts.to_atoms()[0], tmp_path, fmax=0.005, max_steps=300)
    assert result.converged
    assert np.linalg.det(result.cell) == pytest.approx(pressed.structures.volumes[0], rel=1e-3)
    assert result.energy == pytest.approx(pressed.prediction.energy[0], abs=1e-2)


# --- a pool


def test_results_are_in_the_order_of_the_candidates():
    starts = lj_crystals()
    rested = relax(starts, lj_stub(), TIGHT, WIDE).structures
    mixed = concatenate([starts.take([4, 0]), rested.take([2]), starts.take([3, 1])])
    relaxed = relax(mixed, lj_stub(), TIGHT, WIDE)
    assert len(set(relaxed.steps)) > 2  # they do not finish together
    np.testing.assert_array_equal(relaxed.structures.ids, mixed.ids)
    np.testing.assert_array_equal(relaxed.structures.counts, mixed.counts)


@pytest.mark.parametrize("batch_atoms", [1, 5, 9, 14])
def test_results_do_not_depend_on_the_size_of_the_batch(batch_atoms):
    starts = lj_crystals()
    reports: list[tuple[int, int]] = []
    batched = relax(
        starts,
        lj_stub(),
        but(TIGHT, batch_atoms=batch_atoms),
        WIDE,
        lambda done, everything: reports.append((done, everything)),
    )
    assert_same_results(batched, relax(starts, lj_stub(), TIGHT, WIDE))
    assert reports[-1] == (5, 5)
    assert reports == sorted(reports)


def test_no_batch_holds_more_atoms_than_allowed_unless_one_candidate_does():
    stub = lj_stub()
    relax(lj_crystals(), stub, but(TIGHT, batch_atoms=5), WIDE)
    assert max(len(s.numbers) for s, _ in stub.asked if len(s) > 1) <= 5
    assert {len(s.numbers) for s, _ in stub.asked if len(s) == 1} >= {8}


def test_an_empty_pool_gives_an_empty_result(trained):
    for ensemble in (lj_stub(), trained):
        relaxed = relax(Structures.from_atoms([]), ensemble, Relax(), WIDE)
        assert len(relaxed) == len(relaxed.structures) == len(relaxed.prediction.features) == 0


def test_one_atom_cells_relax():
    starts = Structures.from_atoms([disturbed(bulk("Ne", "fcc", a=3.3), seed, rattle=0) for seed in range(3)])
    relaxed = relax(starts, lj_stub(), TIGHT, WIDE)
    assert (relaxed.reason == CONVERGED).all()
    assert_same_minima(relaxed, starts, lennard_jones(**LJ))


def test_energies_never_rise_and_the_kept_frame_is_the_lowest_trustworthy_one():
    crystals = [disturbed(bulk("Ne", "fcc", a=3.2, cubic=True), seed, rattle=0.4, strain=0.15) for seed in range(6)]
    starts = Structures.from_atoms(crystals)

    def spread_when_dense(structures: Structures, prediction: Prediction) -> Prediction:
        dense = structures.volumes / structures.counts < 7.9
        return replace(
            prediction, forces_sigma=np.where(dense & (structures.ids % 2 == 0), 9.0, 0.0)[structures.system]
        )

    stub = lj_stub(spread_when_dense)
    section = Relax(fmax=0.01, max_steps=60)
    relaxed = relax(starts, stub, section, WIDE)
    assert {CONVERGED, UNCERTAIN} <= set(relaxed.reason)
    assert (broken_limit(relaxed.structures, WIDE) == "").all()
    noise = ENERGY_NOISE * starts.counts
    assert (relaxed.prediction.energy <= lj_stub().predict(starts).energy + noise).all()
    for row, identity in enumerate(starts.ids):
        seen = []
        for structures, prediction in stub.asked:
            own = structures.ids == identity
            if not prediction.forces_sigma[own[structures.system]].any():
                seen += prediction.energy[own].tolist()
        assert relaxed.prediction.energy[row] <= min(seen) + 2 * noise[row]


# --- forces that are no gradient of the energy


def without_gradient(change: Change = lambda _, prediction: prediction) -> Stub:
    """Energies that say nothing of the forces, as those of another head."""
    rng = np.random.default_rng(0)

    def wild(structures: Structures, prediction: Prediction) -> Prediction:
        return change(structures, replace(prediction, energy=rng.normal(size=len(structures))))

    return replace(lj_stub(wild), gives=Gives(conservative=False))


def test_forces_lead_to_the_minima_of_ase_whatever_the_energies_say():
    starts = lj_crystals().take([0, 1, 2])
    relaxed = relax(starts, without_gradient(), but(TIGHT, energy_patience=1), WIDE)
    assert (relaxed.reason == CONVERGED).all()
    assert_same_minima(replace(relaxed, prediction=lj_stub().predict(relaxed.structures)), starts, lennard_jones(**LJ))


def test_what_one_ensemble_led_near_rest_another_ends_and_ranks():
    starts = lj_crystals().take([0, 2])
    guide, end = without_gradient(), lj_stub()
    reports: list[tuple[int, int]] = []
    relaxed = relax(starts, Polished(guide, end), TIGHT, WIDE, lambda done, all_: reports.append((done, all_)))
    led = relax(starts, without_gradient(), TIGHT, WIDE)
    assert (relaxed.reason == CONVERGED).all()
    np.testing.assert_array_equal(relaxed.steps, led.steps + 1)  # the end finds them at rest
    np.testing.assert_array_equal(relaxed.prediction.energy, end.predict(relaxed.structures).energy)
    assert reports == sorted(reports)
    assert reports[-1] == (4, 4)


def test_what_a_guide_led_out_of_range_begins_where_it_began():
    blown = without_gradient(lambda _, prediction: replace(prediction, stress=prediction.stress * 0 - np.eye(3)))
    starts = lj_crystals()
    assert (relax(starts, blown, TIGHT, WIDE).reason == VOLUME).all()
    ends, alone = (relax(starts, ensemble, TIGHT, WIDE) for ensemble in (Polished(blown, lj_stub()), lj_stub()))
    np.testing.assert_array_equal(ends.structures.positions, alone.structures.positions)
    assert (ends.steps > alone.steps).all()


def test_forces_that_lead_in_circles_end_with_the_steps_and_where_they_are_then():
    axis = np.array([0.3, 0.0, 0.0])
    stub = without_gradient(
        lambda structures, prediction: replace(
            prediction,
            forces=np.cross(axis, structures.positions - structures.positions.mean(axis=0)),
            stress=0 * prediction.stress,
        )
    )
    relaxed = relax(lj_crystals().take([2]), stub, but(TIGHT, max_steps=25), WIDE)
    assert relaxed.reason == [OUT_OF_STEPS]
    assert len(stub.asked) == 25
    np.testing.assert_array_equal(relaxed.structures.positions, stub.asked[-1][0].positions)


def test_without_a_gradient_too_the_last_frame_that_the_ensemble_agreed_on_is_kept():
    def spread_when_dense(structures: Structures, prediction: Prediction) -> Prediction:
        dense = structures.volumes / structures.counts < 7.9
        return replace(prediction, forces_sigma=np.where(dense, 999.0, 0.0)[structures.system])

    cells = [disturbed(bulk("Ne", "fcc", a=3.6, cubic=True), seed, strain=0) for seed in range(3)]
    stub = without_gradient(spread_when_dense)
    relaxed = relax(Structures.from_atoms(cells), stub, Relax(fmax=0.01), WIDE)
    assert (relaxed.reason == UNCERTAIN).all()
    for identity, kept in enumerate(relaxed.structures.volumes):
        volumes = np.concatenate([structures.volumes[structures.ids == identity] for structures, _ in stub.asked])
        assert volumes[-1] / 4 < 7.9 <= kept / 4
        assert kept == volumes[-2] < volumes[0]


# --- the pool, cycle after cycle


def cell(lattice: str, volume: float, symbol: str = "Ne") -> Atoms:
    """One atom in a cell of this volume, Å^3; simple cubic stays so by symmetry, and is higher than fcc."""
    return bulk(symbol, lattice, a=(volume * {"sc": 1, "fcc": 4}[lattice]) ** (1 / 3))


def test_a_candidate_is_relaxed_from_its_first_cell_and_from_where_it_stood():
    identities, high, low = [4, 5, 6, 7], cell("sc", 10), cell("fcc", 8.5)
    pool = Structures.from_atoms([low, high, high, cell("fcc", 8.5, "Al")], identities)
    stood = Structures.from_atoms([high, low, low, cell("sc", 10, "Al")], identities)
    reason = np.array([CONVERGED, UNCERTAIN, TOO_CLOSE, CONVERGED])
    before = Relaxed(stood, lj_stub().predict(stood), reason, np.ones(4, np.int64))

    def aluminium_breaks_when_dense(structures: Structures, prediction: Prediction) -> Prediction:
        breaks = (structures.numbers == 13) & (structures.volumes < 8)
        return replace(prediction, energy=np.where(breaks, np.nan, prediction.energy))

    stub = lj_stub(aluminium_breaks_when_dense)
    ends = relax_pool(pool, before, stub, TIGHT, WIDE)
    assert len(stub.asked[0][0]) == 7
    assert all(len(set(structures.ids)) == len(structures) for structures, _ in stub.asked)  # neighbours go by id
    fcc, sc = relax(pool.take([0, 1]), lj_stub(), TIGHT, WIDE).prediction.energy
    assert fcc < sc - 0.5
    # from the first cells, of which one cannot be trusted; from where they stood but for one that cannot
    assert ends.structures.ids.tolist() == [*identities, 4, 5, 7]
    assert ends.reason.tolist() == [CONVERGED] * 3 + [NOT_FINITE] + [CONVERGED] * 3
    np.testing.assert_allclose(ends.prediction.energy[[0, 1, 2, 4, 5, 6]], [fcc, sc, sc, sc, fcc, sc], atol=1e-3)
    lowest, _ = standing(ends)
    assert lowest.structures.ids.tolist() == identities
    assert lowest.reason.tolist() == [CONVERGED] * 4
    # from the first cell; from where it stood; that was not to be trusted; the way from the first cell is not
    np.testing.assert_allclose(lowest.prediction.energy, [fcc, fcc, sc, sc], atol=1e-3)


def standing(ends: Relaxed) -> tuple[Relaxed, Relaxed]:
    """Where candidates stand, all of which may lead; features tell nothing apart."""
    features = np.zeros((len(ends), 1))
    described = replace(ends, prediction=replace(ends.prediction, features=features))
    return one_end_each(described, np.ones(len(ends), dtype=bool))


def test_a_candidate_that_no_way_leads_to_rest_keeps_the_way_from_its_first_cell():
    pool = Structures.from_atoms([cell("fcc", 8.5)])
    before = relax(Structures.from_atoms([cell("fcc", 9.5)]), lj_stub(), but(TIGHT, max_steps=1), WIDE)
    breaking = lj_stub(
        lambda structures, said: replace(said, energy=np.where(structures.volumes < 8, np.nan, said.energy))
    )
    ends, _ = standing(relax_pool(pool, before, breaking, TIGHT, WIDE))
    assert_same_results(ends, relax(pool, breaking, TIGHT, WIDE))
    assert ends.reason.tolist() == [NOT_FINITE]


def of_cycle(folder: Path, cycle: int) -> tuple[Ensemble, Relax, Limits]:
    """What a finished run relaxed its candidates with."""
    campaign = open_run(folder).campaign
    trained = load_ensemble(cycle_folder(folder, cycle) / "train", campaign.potential, torch.device("cpu"))
    return trained, campaign.relax, relaxation_limits(campaign)


def assert_same_cells(one: Structures, other: Structures) -> None:
    assert one.ids.tolist() == other.ids.tolist()
    np.testing.assert_array_equal(one.positions, other.positions)
    np.testing.assert_array_equal(one.cells, other.cells)


def moved_by(structures: Structures, others: Structures) -> np.ndarray:
    """How far atoms are from where they are in the other cells, Å, at most, for each structure."""
    wide = structures.largest(np.linalg.norm(structures.positions - others.positions, axis=1))
    return np.maximum(wide, np.abs(structures.cells - others.cells).max(axis=(1, 2)))


def test_first_cells_are_shaken_in_every_other_cycle_each_time_anew(finished_run):
    pool = load(finished_run / "pool" / "structures.h5", Structures)
    campaign = open_run(finished_run).campaign
    cells = [first_cells(campaign, pool, cycle) for cycle in range(4)]
    for unshaken in (cells[0], cells[2]):
        assert_same_cells(unshaken, pool)
    for pair in ((cells[1], pool), (cells[3], pool), (cells[1], cells[3])):
        assert 0.05 < np.median(moved_by(*pair)) < 1.0
    limits = relaxation_limits(campaign)
    sound = broken_limit(pool, limits) == ""
    assert (broken_limit(cells[1], limits)[sound] == "").all()
    assert sound.sum() > 20
    alone = first_cells(campaign, pool.take([5]), 1)
    assert_same_cells(alone, cells[1].take([5]))  # whoever else is relaxed


def test_each_cycle_of_a_run_relaxes_from_first_cells_where_candidates_stood_and_the_lowest_labels(finished_run):
    folder = layout.stage_folder(finished_run, "relax", 1)
    run, trained_with = open_run(finished_run), of_cycle(finished_run, 1)
    pool = load(finished_run / "pool" / "structures.h5", Structures)
    progress = Progress(pool, pool.ids, len(pool))
    drawn, asked = (layout.LABELS.read(layout.stage_folder(finished_run, "label", cycle)) for cycle in (0, 1))
    picked = layout.PICKS.read(layout.stage_folder(finished_run, "select", 0)).origin
    for labels, origin in ((drawn, pool.take(rows_of(pool, drawn.structures.ids))), (asked, picked)):
        progress.origins.append(origin)
        progress.learn(labels)
    known = known_by(trained_with[0], progress)
    first, proven = run.relaxed(0), _proven(run.campaign, progress)
    anew, further, from_labels = (
        corrected(relax(each, *trained_with), known)
        for each in (first_cells(run.campaign, pool, 1), first.structures, proven)
    )
    sound = np.all([trusted(each.reason) for each in (first, anew, further)], axis=0)
    energies = np.full((3, len(pool)), np.inf)
    energies[:2] = anew.prediction.energy, further.prediction.energy
    np.minimum.at(energies[2], rows_of(pool, proven.ids), from_labels.prediction.energy)
    assert (np.abs(energies.min(axis=0) - energies)[:, sound] > 1e-3).any(axis=1).all()
    found, lower = run.relaxed(1).prediction.energy.copy(), layout.LOWER_ENDS.read(folder)
    found[rows_of(pool, lower.structures.ids)] = lower.prediction.energy
    np.testing.assert_allclose(found[sound], energies.min(axis=0)[sound], atol=1e-4)


def test_one_label_in_five_is_of_a_candidate_where_it_comes_to_rest_from_its_first_cell(finished_run):
    run = open_run(finished_run)
    pool = load(finished_run / "pool" / "structures.h5", Structures)
    moves = []
    for cycle in (0, 1):
        picks = load(cycle_folder(finished_run, cycle) / "select" / "picks.h5", Picks)
        *chosen, explorer = picks.origin.ids.tolist()
        assert len(chosen) == 7
        assert len({*chosen, explorer}) == 8
        start = first_cells(run.campaign, pool.take(pool.ids == explorer), cycle)
        end = relax(start, *of_cycle(finished_run, cycle)).structures
        assert moved_by(picks.origin.take([7]), end) < 1e-3
        moves.append(moved_by(start, end).max())
        leaders = run.relaxed(cycle).structures
        assert_same_cells(picks.origin.take(range(7)), leaders.take([leaders.ids.tolist().index(i) for i in chosen]))
    # where an ensemble disagrees with itself on the first cell, which depends on the machine's last bits, it stays
    assert max(moves) > 0.1


# --- why each stops


def assert_the_others_end_as_without_it(
    starts: Structures, sick: int, stub: Callable[[], Stub], reason: str
) -> Relaxed:
    """Relax all and all but one; return how the one ended."""
    section = but(TIGHT, max_steps=200)
    everything = relax(starts, stub(), section, WIDE)
    alone = starts.ids == sick
    assert everything.reason[alone] == [reason]
    others = Relaxed(
        everything.structures.take(~alone),
        replace(everything.prediction, energy=everything.prediction.energy[~alone]),
        everything.reason[~alone],
        everything.steps[~alone],
    )
    assert_same_results(others, relax(starts.take(~alone), lj_stub(), section, WIDE))
    row = np.flatnonzero(alone)
    return Relaxed(
        everything.structures.take(row),
        replace(everything.prediction, energy=everything.prediction.energy[row]),
        everything.reason[row],
        everything.steps[row],
    )


def with_candidate(atoms: Atoms) -> Structures:
    """Healthy candidates and, in their midst, one with the id 99."""
    crystals = lj_crystals()
    return concatenate([crystals.take([0, 1]), Structures.from_atoms([atoms], ids=[99]), crystals.take([2, 3, 4])])


def test_a_candidate_at_rest_needs_one_evaluation():
    rested = relax(lj_crystals(), lj_stub(), TIGHT, WIDE).structures
    again = relax(rested, lj_stub(), but(TIGHT, fmax=0.01), WIDE)
    assert (again.reason == CONVERGED).all()
    assert (again.steps == 1).all()
    np.testing.assert_array_equal(again.structures.positions, rested.positions)


@pytest.mark.parametrize("sigma", [0.26, np.inf])
def test_uncertain_from_the_start_stays_where_it_is(sigma):
    rested = relax(lj_crystals(), lj_stub(), TIGHT, WIDE).structures
    atoms = rested.to_atoms()[2]
    reason = UNCERTAIN if np.isfinite(sigma) else NOT_FINITE
    one = assert_the_others_end_as_without_it(
        with_candidate(atoms), 99, lambda: lj_stub(only(99, forces_sigma=sigma)), reason
    )
    assert one.steps == [1]
    np.testing.assert_array_equal(one.structures.positions, atoms.positions)


def test_a_spread_below_the_floor_or_below_the_share_of_the_force_stops_nothing():
    starts = lj_crystals()
    expected = relax(starts, lj_stub(), TIGHT, WIDE)
    assert_same_results(relax(starts, lj_stub(only(3, forces_sigma=0.24)), TIGHT, WIDE), expected)
    trusting = but(TIGHT, uncertainty=1e6, uncertainty_floor=1e-9)

    def a_share(structures: Structures, prediction: Prediction) -> Prediction:
        return replace(prediction, forces_sigma=1e3 * np.linalg.norm(prediction.forces, axis=1))

    assert_same_results(relax(starts, lj_stub(a_share), trusting, WIDE), expected)


def becoming(least_volume: float, **values: Any) -> Change:
    """Overwrite what is predicted for candidate 99 once its volume per atom is below this."""

    def change(structures: Structures, prediction: Prediction) -> Prediction:
        if not (there := (structures.ids == 99) & (structures.volumes / structures.counts < least_volume)).any():
            return prediction
        assert there.sum() == 1
        return only(99, **values)(structures, prediction)

    return change


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"forces_sigma": 300.0}, UNCERTAIN),
        ({"energy": np.nan}, NOT_FINITE),
        ({"forces": np.nan}, NOT_FINITE),
        ({"stress": np.inf}, NOT_FINITE),
        ({"forces_sigma": np.nan}, NOT_FINITE),
    ],
)
def test_what_goes_wrong_on_the_way_keeps_the_last_good_frame(values, reason):
    loose = disturbed(bulk("Ne", "fcc", a=3.9, cubic=True), 5)
    one = assert_the_others_end_as_without_it(
        with_candidate(loose), 99, lambda: lj_stub(becoming(9.0, **values)), reason
    )
    volume = one.structures.volumes[0] / 4
    assert 9.0 <= volume < loose.cell.volume / 4 - 1.0
    assert one.steps[0] > 2
    assert one.prediction.energy[0] < lj_stub().predict(Structures.from_atoms([loose])).energy[0]


@pytest.mark.parametrize("values", [{"energy": np.nan}, {"forces": np.nan}, {"stress": -np.inf}])
def test_not_finite_from_the_start_stays_where_it_is(values):
    atoms = disturbed(bulk("Ne", "fcc", a=3.2, cubic=True), 5)
    one = assert_the_others_end_as_without_it(
        with_candidate(atoms), 99, lambda: lj_stub(only(99, **values)), NOT_FINITE
    )
    assert one.steps == [1]
    np.testing.assert_array_equal(one.structures.positions, atoms.positions)


def test_forces_that_lie_end_where_the_energy_no_longer_falls():
    def lying(structures: Structures, prediction: Prediction) -> Prediction:
        sign = np.where(structures.ids == 99, -1.0, 1.0)
        return replace(
            prediction,
            forces=prediction.forces * sign[structures.system][:, None],
            stress=prediction.stress * sign[:, None, None],
        )

    atoms = disturbed(bulk("Ne", "fcc", a=3.2, cubic=True), 5)
    one = assert_the_others_end_as_without_it(with_candidate(atoms), 99, lambda: lj_stub(lying), STALLED)
    np.testing.assert_array_equal(one.structures.positions, atoms.positions)
    assert 2 < one.steps[0] < 20


def test_an_energy_that_stays_the_same_ends_after_its_patience():
    atoms = disturbed(bulk("Ne", "fcc", a=3.2, cubic=True), 5)
    starts = Structures.from_atoms([atoms], ids=[99])
    still = only(99, energy=-20.0, stress=0.0, forces=[0.1, 0.0, 0.0])
    section = Relax(energy_patience=7)
    relaxed = relax(starts, lj_stub(still), section, WIDE)
    assert relaxed.reason == [STALLED]
    assert relaxed.steps == [1 + 7]


def test_energies_with_noise_end_and_never_above_the_start():
    starts = lj_crystals()
    rng = np.random.default_rng(1)

    def noisy(structures: Structures, prediction: Prediction) -> Prediction:
        return replace(prediction, energy=prediction.energy + 0.05 * rng.normal(size=len(structures)))

    stub = lj_stub(noisy)
    relaxed = relax(starts, stub, Relax(fmax=1e-6, max_steps=300), WIDE)
    assert (relaxed.reason == STALLED).all()
    assert (relaxed.steps < 300).all()
    assert (relaxed.prediction.energy <= stub.asked[0][1].energy + ENERGY_NOISE * starts.counts).all()


@pytest.mark.parametrize("most", [1, 2, 5])
def test_no_candidate_is_evaluated_more_often_than_allowed(most):
    stub = lj_stub()
    starts = lj_crystals()
    relaxed = relax(starts, stub, but(TIGHT, max_steps=most), WIDE)
    assert (relaxed.reason == OUT_OF_STEPS).all()
    assert (relaxed.steps == most).all()
    evaluations = np.concatenate([structures.ids for structures, _ in stub.asked])
    assert all((evaluations == identity).sum() == most for identity in starts.ids)


def test_the_longest_step_is_limited_and_the_limit_is_reached():
    starts = Structures.from_atoms([disturbed(bulk("Ne", "fcc", a=3.3, cubic=True), 5, rattle=0.3)])
    stub = lj_stub()
    relax(starts, stub, TIGHT, WIDE)
    first, second = (structures for structures, _ in stub.asked[:2])
    u = second.positions @ np.linalg.inv(second.cells[0]) @ first.cells[0]
    deformation = np.linalg.solve(first.cells[0], second.cells[0])
    moves = [*np.linalg.norm(u - first.positions, axis=1), *np.linalg.norm(deformation - np.eye(3), axis=1) * 2]
    assert max(moves) == pytest.approx(relaxation.LONGEST_STEP)


def attracting(structures: Structures, prediction: Prediction) -> Prediction:
    """Candidate 99, of two atoms, is drawn together as if by a spring; its cell feels nothing."""
    changed = prediction
    for row in np.flatnonzero(structures.ids == 99):
        a = structures.ptr[row]
        apart = structures.positions[a + 1] - structures.positions[a]
        changed = only(99, energy=0.5 * apart @ apart, stress=0.0)(structures, changed)
        changed.forces[...] = prediction.forces
        changed.forces[a : a + 2] = [apart, -apart]
    return changed


def in_a_box(distance: float) -> Atoms:
    return Atoms("Ne2", positions=[[0, 0, 0], [distance, 0.1, 0]], cell=[5, 5, 5], pbc=True)


def test_atoms_that_come_too_close_on_the_way_stop_before_that():
    one = assert_the_others_end_as_without_it(with_candidate(in_a_box(2.0)), 99, lambda: lj_stub(attracting), TOO_CLOSE)
    distance = min(neighbor_list("d", one.structures.to_atoms()[0], 3.0))
    assert 0.8 <= distance < 1.1
    assert one.steps[0] > 3


def test_atoms_too_close_at_the_start_stay_where_they_are():
    one = assert_the_others_end_as_without_it(with_candidate(in_a_box(0.7)), 99, lj_stub, TOO_CLOSE)
    assert one.steps == [1]
    np.testing.assert_array_equal(one.structures.positions, in_a_box(0.7).positions)


@pytest.mark.parametrize(("pressure", "edge"), [(1.0, 2.0), (-1.0, 100.0)])
def test_cells_that_collapse_or_fly_apart_stop_at_the_limit(pressure, edge):
    def pressed(structures: Structures, prediction: Prediction) -> Prediction:
        changed = only(99, stress=pressure * np.eye(3), forces=0.0)(structures, prediction)
        rows = structures.ids == 99
        return replace(changed, energy=np.where(rows, pressure * structures.volumes, changed.energy))

    atoms = bulk("Ne", "fcc", a=3.2, cubic=True)
    one = assert_the_others_end_as_without_it(with_candidate(atoms), 99, lambda: lj_stub(pressed), VOLUME)
    volume = one.structures.volumes[0] / 4
    assert 2.0 <= volume <= 100.0
    assert abs(np.log(volume / edge)) < np.log(1.5)  # nearer to the limit than one more step


def test_what_is_out_of_range_from_the_start_is_never_evaluated(trained):
    needle = Atoms("Al2", cell=[1e-4, 1e-4, 4e9], pbc=True, scaled_positions=[[0, 0, 0], [0.5, 0.5, 0.5]])
    overlapping = Atoms("Al2", cell=[4, 4, 4], pbc=True, positions=[[0, 0, 0], [0, 0, 0]])
    flat = Atoms("Al", cell=[[3, 0, 0], [6, 0, 0], [0, 0, 3]], pbc=True)
    sound = disturbed(bulk("Al"), 1)
    structures = Structures.from_atoms([needle, sound, overlapping, flat])
    relaxed = relax(structures, trained, TIGHT, WIDE)
    assert relaxed.reason.tolist() == [VOLUME, CONVERGED, TOO_CLOSE, VOLUME]
    assert np.isnan(relaxed.prediction.energy[[0, 2, 3]]).all()
    alone = relax(structures.take([1]), trained, TIGHT, WIDE)
    np.testing.assert_allclose(relaxed.prediction.energy[1], alone.prediction.energy[0], atol=1e-6)


def test_a_member_that_breaks_stops_its_candidates_alone(trained):
    broken = replace(trained, state={name: value.clone() for name, value in trained.state.items()})
    broken.state["energy_scale"][1] = torch.nan
    relaxed = relax(Structures.from_atoms([disturbed(bulk("Al"), 1)]), broken, TIGHT, WIDE)
    assert relaxed.reason.tolist() == [NOT_FINITE]


def test_a_reason_of_any_length_is_kept_whole(monkeypatch, tmp_path):
    long = "a reason in so many words that no array of short ones would hold it to its end"
    monkeypatch.setattr(limits, "VOLUME", f"volume: {long}")
    monkeypatch.setattr(relaxation.why, "OUT_OF_STEPS", f"steps: {long}")
    starts = with_candidate(Atoms("Ne", cell=[0.7, 4, 5], pbc=True))
    for most in (1, 2):
        relaxed = relax(starts, lj_stub(), but(TIGHT, max_steps=most), WIDE)
        expected = [f"volume: {long}" if identity == 99 else f"steps: {long}" for identity in starts.ids]
        assert relaxed.reason.tolist() == expected
    save(tmp_path / "relaxed.h5", relaxed)
    assert load(tmp_path / "relaxed.h5", Relaxed).reason.tolist() == expected


def test_a_cell_thin_as_a_needle_is_out_of_range_although_its_volume_is_not():
    needle = Atoms("Ne", cell=[0.7, 4, 5], pbc=True)
    one = assert_the_others_end_as_without_it(with_candidate(needle), 99, lj_stub, VOLUME)
    assert one.steps == [1]


# --- limits


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), size=st.integers(1, 3))
def test_broken_limits_are_those_that_ase_finds(seed, size):
    rng = np.random.default_rng(seed)
    cell = np.diag(rng.uniform(1.0, 4.0, 3)) + 0.5 * rng.normal(size=(3, 3))
    numbers = rng.choice([10, 13], size)
    atoms = Atoms(numbers, cell=cell, pbc=True, scaled_positions=rng.random((size, 3)))
    limits = Limits({(10, 10): 1.0, (13, 13): 1.5, (10, 13): 1.2, (13, 10): 1.2}, (2.0, 20.0))
    heights = atoms.cell.volume / np.linalg.norm(np.cross(cell[[1, 2, 0]], cell[[2, 0, 1]]), axis=1)
    if not 2.0 <= atoms.cell.volume / size <= 20.0 or heights.min() < 0.8:
        expected = VOLUME
    else:
        i, j, distances = neighbor_list("ijd", atoms, 1.5)
        least = [limits.distances[numbers[a], numbers[b]] for a, b in zip(i, j, strict=True)]
        expected = TOO_CLOSE if (distances < least).any() else ""
    assert broken_limit(Structures.from_atoms([atoms]), limits) == [expected]


# --- L-BFGS


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    rounds=st.integers(0, 14),
    problems=st.integers(1, 4),
    size=st.integers(1, 6),
)
def test_directions_are_those_of_scipy_for_each_problem_alone(seed, rounds, problems, size):
    rng = np.random.default_rng(seed)
    memory, pairs = lbfgs.empty(problems, size), [[] for _ in range(problems)]
    for _ in range(rounds):
        step, change = rng.normal(size=(2, problems, size))
        change += 2 * step
        memory = lbfgs.remember(memory, step, change)
        forgotten = rng.random(problems) < 0.1
        memory = lbfgs.forget(memory, forgotten)
        for problem in range(problems):
            pairs[problem].append((step[problem], change[problem]))
            if forgotten[problem]:
                pairs[problem].clear()
    gradient = rng.normal(size=(problems, size))
    ours = lbfgs.direction(memory, gradient)
    for problem in range(problems):
        # one without positive curvature takes a place and is no step
        kept = [(s, y) for s, y in pairs[problem][-lbfgs.LENGTH :] if s @ y > 1e-10]
        steps = np.array([s for s, _ in kept]).reshape(-1, size)
        changes = np.array([y for _, y in kept]).reshape(-1, size)
        # scipy begins with a curvature of 1; lengths in units in which that of the newest step is 1
        newest = [y @ y / (s @ y) for s, y in kept[-1:]]
        root = np.sqrt(max(newest[0], lbfgs.SOFTEST) if newest else lbfgs.STIFFNESS)
        inverse = LbfgsInvHessProduct(steps * root, changes / root)
        expected = -inverse.matvec(gradient[problem] / root) / root
        np.testing.assert_allclose(ours[problem], expected, rtol=1e-6, atol=1e-9 * np.abs(expected).max())


def test_the_memory_solves_a_quadratic_problem_in_as_many_steps_as_it_has_dimensions():
    rng = np.random.default_rng(3)
    root = rng.normal(size=(2, 5, 5))
    hessian = np.swapaxes(root, 1, 2) @ root + np.eye(5)
    x, memory = rng.normal(size=(2, 5)), lbfgs.empty(2, 5)
    gradient = np.einsum("bij,bj->bi", hessian, x)
    for _ in range(5):
        direction = lbfgs.direction(memory, gradient)
        curvature = np.einsum("bi,bij,bj->b", direction, hessian, direction)
        length = -(gradient * direction).sum(axis=1) / curvature
        step = length[:, None] * direction
        x = x + step
        new = np.einsum("bij,bj->bi", hessian, x)
        memory, gradient = lbfgs.remember(memory, step, new - gradient), new
    assert np.abs(x).max() < 1e-8
