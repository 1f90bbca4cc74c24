"""What ranks is computed in one place: another objective there is another everywhere."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from ase.build import bulk

from csp_al import objective, open_run
from csp_al.benchmark.target import Target, lowest
from csp_al.benchmark.trial import known_minima
from csp_al.campaign.models import Budget, Stop
from csp_al.interfaces import CONVERGED
from csp_al.loop.finish import Winner, _ranked
from csp_al.loop.imported import rows_to_check
from csp_al.loop.tasks import labels_of
from csp_al.results import Result, Values
from csp_al.select import Judged, Rules, Spent, basins, rank, representatives, score, verdict
from csp_al.select.stopping import changes, top_of
from csp_al.structures import Prediction, Relaxed, Status, Structures, take

KEPT_RUN = Path(__file__).parent / "data" / "run-format-2"
CRYSTALS = [bulk("Si", "diamond", 5.43, cubic=True), bulk("Si", "sc", 2.53), bulk("Si", "fcc", 3.88)]
ENERGIES = np.array([-4.6, -4.3, -4.0])  # eV/atom, lowest first; the densest comes last
IDS = np.array([5, 3, 4])
STOP = Stop(top_k=3, tolerance=0.01)


def energy_and_volume(energy, structures):
    return (energy + structures.volumes) / structures.counts


@pytest.fixture
def relaxed():
    structures = Structures.from_atoms(CRYSTALS, IDS)
    n, total = len(structures), len(structures.numbers)
    prediction = Prediction(
        energy=ENERGIES * structures.counts,
        energy_sigma=np.full(n, 0.01),
        forces=np.full((total, 3), 0.1),
        forces_sigma=np.zeros(total),
        stress=np.zeros((n, 3, 3)),
        stress_sigma=np.zeros(n),
        features=np.eye(n),
    )
    return Relaxed(structures, prediction, np.full(n, CONVERGED), np.ones(n, np.int64))


@pytest.fixture
def results(relaxed):
    """What the reference would have said of the relaxed crystals."""
    return [
        Result(
            Values(energy, np.zeros((len(atoms), 3)), np.zeros((3, 3)), atoms.positions, atoms.cell.array, 0.0, 1,
                   converged=True, steps=0),
            id="", kind="relax", status=Status.DONE, reason=None, cost=1.0, evaluations=1, attempts=[], host="",
            started="", finished="",
        )
        for atoms, energy in zip(CRYSTALS, relaxed.prediction.energy.tolist(), strict=True)
    ]  # fmt: skip


def nothing_of(relaxed: Relaxed) -> Relaxed:
    return take(relaxed, np.zeros(0, np.int64), relaxed.structures)


@pytest.fixture(params=["energy per atom", "another"])
def values(request, monkeypatch, relaxed):
    """Value of each crystal, for the objective as it is and for one that reverses the order of the crystals."""
    if request.param == "another":
        monkeypatch.setattr(objective, "values", energy_and_volume)
        expected = ENERGIES + relaxed.structures.volumes / relaxed.structures.counts
        assert (np.diff(expected) < 0).all()
        return expected
    return ENERGIES


def test_score_ranking_leaders_and_stop_rule_follow_the_objective(relaxed, values):
    scores = score(relaxed, 0.5)
    assert scores == pytest.approx(values - 0.5 * 0.1 * np.sqrt(3))
    table = rank(relaxed, nothing_of(relaxed), scores, np.arange(3))
    by_id = np.argsort(IDS)
    assert table["energy_per_atom"].to_numpy() == pytest.approx(values[by_id])
    assert basins(relaxed).tolist() == np.argsort(np.argsort(values)).tolist()
    leaders = representatives(table, relaxed.structures, 3, STOP.tolerance)
    assert leaders["id"].tolist() == IDS[np.argsort(values)].tolist()
    top = top_of(relaxed, leaders["id"])
    said = verdict(top, Judged(top, 1), table, Spent(3, 10, 0.0), Rules(STOP, Budget(), 10))
    assert said.stop
    assert said.top == leaders["id"].tolist()
    assert said.energies == pytest.approx(np.sort(values))


def test_a_volume_that_changes_is_a_change_where_the_objective_sees_it(relaxed, values):
    larger = relaxed.structures.cells * np.array([1.0, 1.0, 1.01])[:, None, None]
    strained = replace(relaxed, structures=relaxed.structures.moved(relaxed.structures.positions, larger))
    before, now = (top_of(each, IDS[np.argsort(values)]) for each in (relaxed, strained))
    assert bool(changes(now, before, STOP)) == (values is not ENERGIES)


def test_results_of_the_reference_follow_the_objective(relaxed, values, results):
    rested = [result.done for result in results]
    winners = [Winner(atoms, values) for atoms, values in zip(CRYSTALS, rested, strict=True)]
    done = dict(zip(IDS.tolist(), winners, strict=True))
    table = rank(relaxed, nothing_of(relaxed), np.zeros(3), np.arange(3))
    drive = SimpleNamespace(campaign=SimpleNamespace(stop=STOP), run=KEPT_RUN)
    progress = SimpleNamespace(table=table, relaxed=relaxed, lower=None, generated=int(IDS.max()) + 1, cycle=1)
    rows, groups = _ranked(drive, progress, done, np.zeros(0, np.int64))
    order = np.argsort(values)
    assert [row["id"] for row in rows] == IDS[order].tolist()
    assert [group[0] for group in groups] == IDS[order].tolist()
    assert [row["energy_per_atom"] for row in rows] == pytest.approx(values[order])
    assert [row["predicted_energy_per_atom"] for row in rows] == pytest.approx(values[order])
    assert [row["energy_above_best"] for row in rows] == pytest.approx(values[order] - values.min())


def test_targets_and_minima_of_a_benchmark_follow_the_objective(relaxed, values, results):
    labels = labels_of(relaxed.structures, results, cycle=0)
    target = lowest(SimpleNamespace(stop=STOP), [labels])
    assert target.energy == pytest.approx(values.min())
    assert target.hits(labels).tolist() == (values == values.min()).tolist()
    far = Target(float(values.max()), 0.01, "all of them")
    assert known_minima(labels, far).structures.ids.tolist() == IDS[np.argsort(values)].tolist()


@pytest.mark.usefixtures("values")
def test_tables_of_a_run_follow_the_objective():
    run = open_run(KEPT_RUN)
    labels = run.all_labels
    expected = objective.values(labels.energy, labels.structures)
    assert len(expected) > 0
    np.testing.assert_array_equal(run.labels["energy_per_atom"], expected)


def test_the_lowest_imported_label_is_checked(relaxed, values, results):
    labels = labels_of(relaxed.structures, results, cycle=0)
    table = pd.DataFrame({"known": False, "source": ["file"] * 3})
    assert rows_to_check(labels, table).tolist() == np.argsort(values)[:2].tolist()


@pytest.mark.parametrize(
    ("formula", "other", "expected"),
    [("Si8", "Si46", True), ("Al4O6", "O3Al2", True), ("Al4O6", "AlO2", False), ("Si", "Ge", False)],
)
def test_crystals_are_comparable_where_their_composition_is_the_same(formula, other, expected):
    assert objective.comparable(formula, other) is expected
