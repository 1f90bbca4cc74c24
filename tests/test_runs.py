"""Several seeds one after the other, and their run directories as long tables; the ensemble as a calculator."""

import shutil

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.fd import calculate_numerical_forces
from typer.testing import CliRunner

import csp_al
from csp_al.cli import app
from csp_al.cli.seeds import seeds_of
from csp_al.files import read_sealed, write_sealed
from csp_al.report.columns import CYCLES, LABELS, LEADERS, RESULTS
from csp_al.store.lock import InUseError
from csp_al.store.run_directory import SETTINGS, NoRunError

FILE = """\
name: al4
pool: {formula: Al4, size: 12, volume_per_atom: [12, 24]}
reference: {kind: ase, calculator: ase.calculators.emt.EMT}
"""


@pytest.fixture(scope="module")
def folder(finished_run, tmp_path_factory):
    """One run under three names, the last of which has another potential and no results."""
    folder = tmp_path_factory.mktemp("runs")
    for seed in (2, 10, 9):
        shutil.copytree(finished_run, folder / f"al4-seed-{seed}")
    shutil.rmtree(folder / "al4-seed-9" / "winners")
    settings = read_sealed(folder / "al4-seed-9" / SETTINGS, "settings")
    settings["campaign"]["potential"] = {"kind": "stranger.KIND"}
    write_sealed(folder / "al4-seed-9" / SETTINGS, "settings", settings)
    (folder / "al4-seed-3").mkdir()  # no run
    return folder


def test_runs_are_long_tables_in_the_order_of_their_numbers(folder):
    runs = csp_al.open_runs(f"{folder}/al4-seed-*")
    assert [run.path.name for run in runs.runs] == ["al4-seed-2", "al4-seed-9", "al4-seed-10"]
    one = csp_al.open_run(folder / "al4-seed-2")
    for table, part, columns in (
        (runs.cycles, one.cycles, CYCLES), (runs.labels, one.labels, LABELS), (runs.results, one.results, RESULTS),
    ):  # fmt: skip
        assert list(table) == ["run", "seed", *columns]
        assert len(table) == (2 if columns is RESULTS else 3) * len(part)
        assert table["run"].iloc[-1] == f"{folder}/al4-seed-10"
    assert runs.results["seed"].eq(3).all()  # that of its campaign


def test_leaders_tell_which_seeds_found_the_same(folder):
    leaders = csp_al.open_runs(f"{folder}/al4-seed-*").leaders
    assert list(leaders) == list(LEADERS)
    assert leaders["crystal"].tolist() == [1, 1]  # one has not ended
    assert leaders["strategy"].tolist() == ["paper", "paper"]


def test_pattern_that_no_run_fits_is_told(tmp_path):
    with pytest.raises(NoRunError, match="no run directory fits this pattern"):
        csp_al.open_runs(tmp_path / "*")


def test_ensemble_as_a_calculator_says_what_the_ranking_says_and_how_sure_it_is(folder):
    run = csp_al.open_run(folder / "al4-seed-2")
    row = run.ranking().iloc[3]
    (atoms,) = run.structures([int(row["id"])], cycle=-1)
    atoms.calc = run.calculator()
    assert np.linalg.norm(atoms.get_forces(), axis=1).max() == pytest.approx(row["max_force"], abs=1e-4)
    assert atoms.calc.results["energy_sigma"] / 4 == pytest.approx(row["sigma_per_atom"], rel=1e-3)
    assert atoms.calc.results["forces_sigma"].shape == (4,)
    assert atoms.get_stress(voigt=False).shape == (3, 3)
    atoms.rattle(0.2, seed=1)
    assert atoms.get_forces() == pytest.approx(calculate_numerical_forces(atoms, eps=0.01), abs=0.01)
    for other in (bulk("Al", cubic=True), bulk("Al")):  # of other sizes, one after the other
        other.calc = atoms.calc
        assert np.isfinite(other.get_potential_energy())


def test_ensemble_refuses_elements_that_it_does_not_know_and_molecules(folder):
    calculator = csp_al.open_run(folder / "al4-seed-2").calculator(cycle=0)
    for atoms, said in ((bulk("Cu"), "trained on Al, and does not know Cu"), (Atoms("Al"), "set pbc to True")):
        atoms.calc = calculator
        with pytest.raises(ValueError, match=said):
            atoms.get_potential_energy()


def test_potential_of_a_stranger_is_no_calculator_without_trust(folder):
    with pytest.raises(ValueError, match=r"stranger\.KIND is code of its author"):
        csp_al.open_run(folder / "al4-seed-9").calculator()


@pytest.mark.parametrize(("text", "seeds"), [("3", [3]), ("1-3", [1, 2, 3]), ("5,1-2, 1", [5, 1, 2])])
def test_seeds_as_they_are_written(text, seeds):
    assert seeds_of(text) == seeds


@pytest.mark.parametrize("text", ["", "x", "3-1", "1-9999999", "-2", "1;2", "1-2-3"])
def test_seeds_that_are_none_are_told(text):
    with pytest.raises(ValueError, match=r"--seeds .*: write e.g. 1-10 or 1,4,7"):
        seeds_of(text)


@pytest.mark.parametrize(
    ("ends", "status", "begun"),
    [([0, 0, 0], 0, 3), ([0, 1, 0], 1, 3), ([0, InUseError("another has it"), 1], 3, 3), ([0, 75, 0], 75, 2),
     ([143], 143, 1)],
)  # fmt: skip
def test_seeds_run_one_after_the_other_and_the_status_says_whether_all_ended_well(
    tmp_path, monkeypatch, ends, status, begun
):
    seen = []

    def drive(campaign, start):
        seen.append((campaign.seed, start.directory.name))
        if isinstance(end := ends[len(seen) - 1], Exception):
            raise end
        return end

    monkeypatch.setattr("csp_al.cli.seeds.drive", drive)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "al4.yaml").write_text(FILE)
    ended = CliRunner().invoke(app, ["run", "al4.yaml", "--seeds", "3,7-8"])
    assert ended.exit_code == status, ended.output
    assert seen == [(3, "al4-seed-3"), (7, "al4-seed-7"), (8, "al4-seed-8")][:begun]
    wrong = {seed for seed, end in zip("378", ends, strict=False) if end not in (0, 75, 143)}
    assert not wrong or f"Without a result: seed {', '.join(sorted(wrong))}" in ended.stderr


def test_one_seed_or_several(tmp_path):
    (tmp_path / "al4.yaml").write_text(FILE)
    for options, said in (
        (["--seed", "1", "--seeds", "1-2"], "--seed and --seeds: give one of them"),
        (["--seeds", "2-1"], "--seeds 2-1: write e.g. 1-10"),
        (["-v", "-q"], "--verbose and --quiet: give one of them"),
    ):
        ended = CliRunner().invoke(app, ["run", str(tmp_path / "al4.yaml"), *options])
        assert (ended.exit_code, said in ended.stderr) == (2, True)
