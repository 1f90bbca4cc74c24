"""Which crystals the reference relaxes in the end."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from ase.build import bulk

from csp_al.campaign.models import Stop
from csp_al.interfaces import CONVERGED, Failure, Reason
from csp_al.loop import contenders, finish
from csp_al.loop.progress import Progress
from csp_al.results import Result, Values
from csp_al.select import rank
from csp_al.structures import Labels, Prediction, Relaxed, Status, Structures, take

IDS = [7, 4, 9]
CRYSTALS = [
    bulk("Si", "diamond", 5.43, cubic=True),
    bulk("Si", "sc", 2.53).repeat(2),
    bulk("Si", "fcc", 3.88, cubic=True).repeat((2, 1, 1)),
]
PREDICTED = np.array([-5.2, -5.1, -5.0])
LABELLED = bulk("Si", "bcc", 3.1, cubic=True).repeat((2, 2, 1))


@pytest.fixture
def progress():
    """Of a search whose candidates stand in three crystals."""
    structures, n = Structures.from_atoms(CRYSTALS, IDS), len(IDS)
    prediction = Prediction(
        energy=PREDICTED * structures.counts, energy_sigma=np.zeros(n), forces=np.zeros((8 * n, 3)),
        forces_sigma=np.zeros(8 * n), stress=np.zeros((n, 3, 3)), stress_sigma=np.zeros(n), features=np.eye(n),
    )  # fmt: skip
    relaxed = Relaxed(structures, prediction, np.full(n, CONVERGED), np.ones(n, np.int64))
    progress = Progress(structures, structures.ids, 10, relaxed=relaxed)
    progress.table = rank(relaxed, take(relaxed, np.zeros(0, np.int64), structures), np.zeros(n), np.arange(n))
    progress.top = SimpleNamespace(structures=structures)
    return progress


def labelled(progress: Progress, candidate: int, energy_per_atom: float) -> None:
    structures = Structures.from_atoms([LABELLED], [candidate])
    progress.origins.append(structures)
    progress.learn(
        Labels(
            structures, 8 * np.array([energy_per_atom]), np.zeros((8, 3)), np.zeros((1, 3, 3)), np.array([Status.DONE]),
            np.array([""]), np.ones(1), np.ones(1, np.int64), np.zeros(1, np.int64),
        )
    )  # fmt: skip


def values_of(atoms, energy_per_atom: float) -> Values:
    no_forces, no_stress, cell = np.zeros((8, 3)), np.zeros((3, 3)), atoms.cell.array
    return Values(8 * energy_per_atom, no_forces, no_stress, atoms.positions, cell, 0.0, 10, converged=True, steps=1)


def relaxed_by(progress: Progress, monkeypatch, winners: int, broken: tuple[int, ...] = (), errors=(0, 0, 0)):
    """What is relaxed in the end, by a reference that finds what was predicted but for ``errors``, eV/atom.

    The label comes to rest 10 meV/atom lower.
    """
    monkeypatch.setattr(contenders, "final_relaxations", lambda run, campaign, structures: structures.to_atoms())

    def calculate(folder, asked):
        return [f"{atoms.cell.volume:.6f}" for atoms in asked], [result(atoms) for atoms in asked]

    def result(atoms):
        volumes = [crystal.cell.volume for crystal in CRYSTALS]
        near = np.flatnonzero(np.isclose(volumes, atoms.cell.volume))
        energy = (PREDICTED + errors)[near[0]] if len(near) else progress.lowest_label - 0.01
        values, status, reason = values_of(atoms, energy), Status.DONE, None
        if len(near) and IDS[near[0]] in broken:
            values, status, reason = None, Status.FAILED, Reason(Failure.CRASHED, "it crashed")
        return Result(values, "", "relax", status, reason, 1.0, 10, [], "", "", "")

    told: list[str] = []
    drive = SimpleNamespace(
        run=Path(), campaign=SimpleNamespace(winners=winners, stop=Stop()), calculate=calculate, tell=told.append
    )
    return contenders.relaxed_by_reference(drive, Path(), progress), told


def test_the_lowest_predicted_crystals_are_relaxed(progress, monkeypatch):
    labelled(progress, 9, -5.15)
    final, told = relaxed_by(progress, monkeypatch, 2)
    assert final.structures.ids.tolist() == [7, 4]
    assert (final.evaluations, final.labelled.tolist(), told) == (20, [], [])


@pytest.mark.parametrize(("errors", "expected"), [((0, -0.2, 0), [7, 4, 9]), ((-0.2, -0.2, 0), [7, 4])])
def test_what_may_be_the_lowest_by_the_errors_of_others_is_relaxed(progress, monkeypatch, errors, expected):
    labelled(progress, 9, -4.0)
    final, told = relaxed_by(progress, monkeypatch, 2, errors=errors)
    assert final.structures.ids.tolist() == expected
    assert [event.text for event in told] == [
        "1 more may be the lowest, by the errors of the predictions so far: relaxed too"
    ] * (len(expected) - 2)


def test_one_relaxation_says_nothing_of_others(progress, monkeypatch):
    labelled(progress, 9, -4.0)
    assert relaxed_by(progress, monkeypatch, 1, errors=(0.5, 0, 0))[0].structures.ids.tolist() == [7]


def test_a_label_below_all_that_was_relaxed_is_relaxed_as_well(progress, monkeypatch):
    labelled(progress, 9, -5.3)
    final, told = relaxed_by(progress, monkeypatch, 2)
    assert final.structures.ids.tolist() == [7, 4, 9]
    np.testing.assert_allclose(final.structures.cells[2], LABELLED.cell.array)
    assert (final.evaluations, final.labelled.tolist()) == (30, [9])
    assert "candidate 9" in told[0].text


def test_a_label_of_a_winner_takes_its_place_and_the_next_crystal_follows(progress, monkeypatch):
    labelled(progress, 7, -5.3)
    final, _ = relaxed_by(progress, monkeypatch, 2)
    assert final.structures.ids.tolist() == [4, 9, 7]
    np.testing.assert_allclose(final.structures.cells[2], LABELLED.cell.array)
    assert final.evaluations == 40  # what was relaxed before counts


def test_labels_of_what_may_not_lead_and_where_nothing_was_relaxed_are_no_reason(progress, monkeypatch):
    progress.searched = np.array([7, 4])
    labelled(progress, 9, -5.3)
    assert relaxed_by(progress, monkeypatch, 2)[0].structures.ids.tolist() == [7, 4]
    labelled(progress, 4, -5.3)
    assert relaxed_by(progress, monkeypatch, 2, broken=(7, 4))[0].structures.ids.tolist() == [7, 4]


def test_another_takes_the_place_of_one_that_failed_beside_a_label(progress, monkeypatch):
    labelled(progress, 7, -5.3)
    final, _ = relaxed_by(progress, monkeypatch, 1, broken=(4,))
    assert final.structures.ids.tolist() == [4, 9, 7]


def test_nobody_reached_a_crystal_that_is_known_from_its_label_alone(progress):
    drive = SimpleNamespace(campaign=SimpleNamespace(stop=Stop()))
    winners = {
        7: finish.Winner(CRYSTALS[0], values_of(CRYSTALS[0], -5.2)),
        9: finish.Winner(LABELLED, values_of(LABELLED, -5.3)),
    }
    rows, groups = finish._ranked(drive, progress, winners, np.array([9]))
    assert [(row["id"], row["times_reached"]) for row in rows] == [(9, 0), (7, 1)]
    assert groups == [[9], [7]]
