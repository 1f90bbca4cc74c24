"""Winners that are nearly symmetric: made so where the reference finds that no higher, and told with it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from ase.build import bulk
from small_run import TINY

from csp_al.campaign import read_campaign
from csp_al.campaign.machine import Machine
from csp_al.cif import space_group, strict_group
from csp_al.engine.engines import start_engine
from csp_al.engine.tasks import read_result
from csp_al.events import Noted
from csp_al.loop import symmetry
from csp_al.loop.drive import Drive
from csp_al.loop.symmetry import Winner, more_symmetric
from csp_al.reference.ase_calculator import AseCalculator
from csp_al.reference.evaluate import single_point

FCC = bulk("Al", "fcc", a=3.99, cubic=True)


def rough(distance):
    """Close packed aluminium, one of its four atoms so far (Å) from its place."""
    atoms = FCC.copy()
    atoms.positions[0] += distance * np.array([0.8, 0.6, 0.0])
    return atoms


@pytest.fixture
def drive(tmp_path):
    told = []
    file = tmp_path / "al4.yaml"
    file.write_text(TINY.replace("Al2", "Al4").replace("max_steps: 5", "max_steps: 30"))
    run = tmp_path / "run"
    (run / "tasks").mkdir(parents=True)
    (run / "winners.partial").mkdir()
    engine = start_engine(run / "tasks", Machine(slots=1))
    yield Drive(read_campaign(file), run, tmp_path, torch.device("cpu"), told.append, engine)
    engine.close()


def strained(atoms):
    """The same, five hundredths too long: not at rest, be it symmetric."""
    atoms.set_cell(1.05 * atoms.cell.array, scale_atoms=True)
    return atoms


def made_symmetric(drive, atoms, lower=0.0, *, converged=True):
    """What becomes of a winner whose energy is so much (eV) below that of its atoms."""
    values = single_point(AseCalculator(drive.campaign.reference), atoms, drive.base)
    winner = Winner(atoms, replace(values, energy=values.energy - lower, converged=converged))
    found, spent = more_symmetric(drive, drive.run / "winners.partial", [], {7: winner})
    return winner, found[7], spent


def test_winner_that_is_symmetric_but_for_tenths_of_an_angstrom_is_told_with_its_symmetry(drive):
    winner, found, spent = made_symmetric(drive, rough(0.12))
    assert space_group(winner.atoms).number < 225  # within 0.1 Å
    assert strict_group(found.atoms).number == 225
    assert found.rested.energy < winner.rested.energy
    assert 1 <= spent <= 10
    (text,) = [event.text for event in drive.tell.__self__ if isinstance(event, Noted)]
    assert text == "Candidate 7 is no higher where it is symmetric: Fm-3m, not Amm2"


def test_winner_that_symmetry_would_raise_stays_as_it_is_and_each_try_counts_once(drive):
    winner, found, spent = made_symmetric(drive, rough(0.08), lower=1.0)  # the same within 0.2 and within 0.3 Å
    assert found is winner
    (task,) = (drive.run / "tasks").glob("*/result.json")
    assert spent == read_result(drive.run / "tasks", task.parent.name).evaluations > 0


def test_try_that_does_not_come_to_rest_is_not_taken(drive, monkeypatch):
    monkeypatch.setattr(symmetry, "STEPS", 0)
    winner, found, spent = made_symmetric(drive, strained(rough(0.12)), converged=True)
    assert (found, spent) == (winner, 1)


@pytest.mark.parametrize("distance", [0.0, 0.03, 0.25])
def test_winner_that_has_its_symmetry_or_is_far_from_any_costs_nothing(drive, distance):
    winner, found, spent = made_symmetric(drive, rough(distance))
    assert (found, spent) == (winner, 0)


def test_cell_that_is_fixed_stays_as_it_is(drive):
    relax = drive.campaign.relax.model_copy(update={"cell": "fixed"})
    drive = replace(drive, campaign=drive.campaign.model_copy(update={"relax": relax}))
    winner, found, spent = made_symmetric(drive, rough(0.12))
    assert (found, spent) == (winner, 0)
