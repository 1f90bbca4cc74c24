"""Forces and stress of the reference, compared with differences of its energies before labels are spent on them."""

import subprocess
import sys
import tempfile
from types import SimpleNamespace

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from typer.testing import CliRunner

from csp_al.cli import app
from csp_al.interfaces import Failure, Reason, Status
from csp_al.loop.reference_check import NOT_CHECKED, _compare_slopes
from csp_al.reference.ase_calculator import AseReference
from csp_al.reference.derivatives import Slope, slopes, trial
from csp_al.reference.kpoints import monkhorst_pack
from csp_al.results import Result, Values
from csp_al.structures import Structures

CALCULATORS = """
from ase.calculators.emt import EMT


class Odd(EMT):
    def __init__(self, force=1.0, stress=1.0, all=1.0, fails=False):
        super().__init__()
        self.factors, self.all, self.fails = (float(force), stress), all, fails

    def calculate(self, *arguments, **keywords):
        if self.fails:
            raise RuntimeError("no such method")
        super().calculate(*arguments, **keywords)
        self.results = {key: self.all * value for key, value in self.results.items()}
        self.results["forces"] *= self.factors[0]
        self.results["stress"] *= self.factors[1]
"""
CAMPAIGN = """\
name: al4
pool: {{formula: Al4, size: 12, volume_per_atom: [11, 15]}}
reference: {{kind: ase, calculator: odd_slopes.Odd, parameters: {{{parameters}}}}}
potential: {{members: 2, features: 16, interactions: 1, cutoff: 4.5, steps: 20}}
select: {{per_cycle: 6, clusters: 6}}
stop: {{top_k: 1, max_cycles: 1}}
finish: {{max_steps: 2}}
budget: {{labels: 6}}
"""


def result(atoms, force=1.0, stress=1.0):
    atoms = atoms.copy()
    atoms.calc = EMT()
    forces, tensor = force * atoms.get_forces(), stress * atoms.get_stress(voigt=False)
    still = {"fmax": 0.0, "evaluations": 1, "converged": True, "steps": 0}
    return Values(atoms.get_potential_energy(), forces, tensor, atoms.positions, atoms.cell.array, **still)


@pytest.fixture
def atoms():
    crystal = bulk("Al", cubic=True, a=3.6)  # compressed, as random cells are
    crystal.rattle(0.1, seed=3)
    return crystal


def found(atoms, **factors):
    tried = trial(atoms, lambda _: None, 1)
    return slopes(tried, [result(moved, **factors) for moved in tried.structures])


def test_slopes_of_a_sound_calculator_are_equal(atoms):
    force, stress = found(atoms)
    assert force.close
    assert stress.close
    assert force.said == pytest.approx(force.found, abs=1e-3)
    assert stress.said == pytest.approx(stress.found, abs=0.2)
    assert abs(stress.said) > 2  # else it would be called equal whatever it is


@pytest.mark.parametrize(
    ("factors", "wrong"),
    [
        ({"force": -1}, [True, False]),
        ({"force": 0.0389}, [True, False]),
        ({"stress": -1}, [False, True]),
        ({"stress": 0.0}, [False, True]),
        ({"stress": 160.2}, [False, True]),
        ({"stress": 1.2}, [False, False]),
    ],
)
def test_wrong_signs_and_units_are_told_from_a_low_cutoff(atoms, factors, wrong):
    assert [slope.wrong for slope in found(atoms, **factors)] == wrong


def test_differences_that_are_told_but_not_refused():
    pulay = Slope("stress", -10.0, -14.0, "GPa", (2.0, 15.0))
    assert not pulay.wrong
    assert not pulay.close
    assert str(pulay) == (
        "stress: the reference gives -10 GPa, differences of its energies give -14 GPa; not equal: is the cutoff high "
        "enough?"
    )
    assert Slope("stress", 0.3, -0.4, "GPa", (2.0, 15.0)).close
    assert not Slope("stress", 3.0, -4.0, "GPa", (2.0, 15.0)).wrong  # too small to be sure of


def test_a_changed_sign_is_called_so():
    small, large = (Slope("stress", size, -1.05 * size, "GPa", (2.0, 15.0)) for size in (5.0, 50.0))
    assert str(small).endswith("not equal: its sign is changed")
    assert str(large).endswith("WRONG: its sign is changed")
    for size, found in ((50.0, -20.0), (1.5, -1.0), (3.0, -1.5)):  # a pressure about zero, not a sign
        assert not Slope("stress", size, found, "GPa", (2.0, 15.0)).reversed


def test_displaced_atoms_move_little_and_keep_their_fractions_under_strain(atoms):
    still, forth, back, wide, narrow = trial(atoms, lambda _: None, 1).structures
    np.testing.assert_allclose(forth.positions + back.positions, 2 * still.positions)
    assert np.linalg.norm(forth.positions - still.positions, axis=1).max() == pytest.approx(0.01)
    for strained in (wide, narrow):
        np.testing.assert_allclose(strained.get_scaled_positions(), still.get_scaled_positions(), atol=1e-12)
    assert wide.get_volume() > still.get_volume() > narrow.get_volume()


def test_strain_leaves_the_mesh_of_k_points_as_it_is(atoms):
    spacings = np.linspace(0.2, 0.9, 40)
    sizes = set()
    for spacing in spacings:
        tried = trial(atoms, lambda one, spacing=spacing: monkhorst_pack(one, spacing), 1)
        assert {tuple(monkhorst_pack(one, spacing)) for one in tried.structures[3:]} <= {
            tuple(monkhorst_pack(atoms, spacing))
        }
        sizes.add(round(float(np.abs(tried.strain).max()), 4))
    assert {0.01, 0.005} <= sizes


def csp_al(folder, *words):
    (folder / "odd_slopes.py").write_text(CALCULATORS)
    command = [sys.executable, "-c", "from csp_al.cli import app; app()", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_campaign_ends_before_its_labels_where_the_stress_has_the_wrong_sign(tmp_path):
    (tmp_path / "al4.yaml").write_text(CAMPAIGN.format(parameters="stress: -1"))
    ran = csp_al(tmp_path, "run", "al4.yaml", "--slots", "1")
    assert ran.returncode == 1
    assert "forces or stress of the reference are not the derivatives of its energy:" in ran.stdout
    assert "stress along a random strain:" in ran.stdout
    assert not (tmp_path / "runs" / "al4" / "cycle-00" / "label").exists()
    told = csp_al(tmp_path, "doctor", "--reference", "al4.yaml")
    assert told.returncode == 1
    assert "WRONG" in told.stdout


def test_check_costs_four_evaluations_and_is_told_by_doctor(tmp_path):
    (tmp_path / "al4.yaml").write_text(CAMPAIGN.format(parameters=""))
    ran = csp_al(tmp_path, "run", "al4.yaml", "--slots", "1")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    from csp_al.report.tables import open_run

    run = open_run(tmp_path / "runs" / "al4")
    assert run.summary["evaluations"]["check"] == 4
    assert run.summary["evaluations"]["labels"] == 6
    assert run.reference_evaluations == run.summary["evaluations"]["all"]
    told = csp_al(tmp_path, "doctor", "--reference", "al4.yaml")
    assert told.returncode == 0
    assert told.stdout.count("; equal") == 2


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ("stress: 0.7", "not equal: is the cutoff high enough?"),
        ("force: nan", "al4.yaml:3:36: reference.calculator: no verdict: not every single point has a result"),
    ],
)
def test_doctor_ends_with_status_1_where_slopes_differ_or_are_not_there(tmp_path, monkeypatch, parameters, said):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # what it keeps to be looked at
    (tmp_path / "odd_slopes.py").write_text(CALCULATORS)
    file = tmp_path / "al4.yaml"
    file.write_text(CAMPAIGN.format(parameters=parameters))
    told = CliRunner().invoke(app, ["doctor", "--reference", str(file)])
    assert told.exit_code == 1
    assert said in told.output


def test_reference_of_zeros_is_refused(tmp_path):
    (tmp_path / "al4.yaml").write_text(CAMPAIGN.format(parameters="all: 0.0"))
    ran = csp_al(tmp_path, "run", "al4.yaml", "--slots", "1")
    assert ran.returncode == 1
    assert "the energy of the reference is the same wherever the atoms are" in ran.stdout
    told = csp_al(tmp_path, "doctor", "--reference", "al4.yaml")
    assert (told.returncode, "the energy of the reference is the same" in told.stdout) == (1, True)


def test_campaign_ends_before_its_labels_where_the_check_fails_for_one_reason(tmp_path):
    (tmp_path / "al4.yaml").write_text(CAMPAIGN.format(parameters="fails: true"))
    ran = csp_al(tmp_path, "run", "al4.yaml", "--slots", "1")
    assert ran.returncode == 1
    assert "the first 3 calculations failed alike" in ran.stdout
    assert "3 x RuntimeError: no such method" in ran.stdout
    assert not (tmp_path / "runs" / "al4" / "cycle-00").exists()


def test_check_that_compared_nothing_says_so(tmp_path, atoms):
    """As where the first candidates fail each for a reason of its own."""
    words, told = iter(["not converged", "too few bands", "no such symmetry"]), []

    def calculate(folder, tasks):
        failed = {"status": Status.FAILED, "reason": Reason(Failure.OTHER, next(words)), "values": None}
        about = {"id": "0", "kind": "label", "host": "here", "started": "", "finished": "", "attempts": []}
        return ["0"], [Result(**failed, **about, cost=1.0, evaluations=1)]

    reference = AseReference(kind="ase", calculator="ase.calculators.emt.EMT")
    campaign = SimpleNamespace(reference=reference, relax=SimpleNamespace(cell="free"), seed=1)
    drive = SimpleNamespace(campaign=campaign, calculate=calculate, tell=told.append)
    _compare_slopes(drive, tmp_path, SimpleNamespace(structures=Structures.from_atoms([atoms] * 3)))
    assert [event.text for event in told] == [NOT_CHECKED]


def test_what_the_check_found_is_kept_for_status_and_results(tmp_path):
    (tmp_path / "al4.yaml").write_text(CAMPAIGN.format(parameters="stress: 1.3"))
    ran = csp_al(tmp_path, "run", "al4.yaml", "--slots", "1")
    assert ran.returncode == 0, ran.stdout
    for verb in ("status", "results"):
        told = csp_al(tmp_path, verb, "runs/al4")
        assert "not equal: is the cutoff high enough?" in told.stdout, told.stdout
