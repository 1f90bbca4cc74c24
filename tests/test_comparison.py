"""Runs side by side: `csp-al compare` and `Runs.comparison`."""

import io
import json
import shutil
from itertools import combinations
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

import csp_al
from csp_al.cli import app
from csp_al.cli.comparison import _fitting
from csp_al.files import read_sealed, write_sealed
from csp_al.report.columns import CRYSTALS, RUNS
from csp_al.select.identity import same_structure
from csp_al.store.run_directory import SETTINGS

SMALLER = Path(__file__).parent / "data" / "run-format-6"
"""A run of Al2 by the same reference, two of whose crystals are among those of Al4."""


def compare(*words: object):
    return CliRunner().invoke(app, ["compare", *map(str, words)])


def with_settings(run: Path, **sections: dict) -> Path:
    """The run with other keys in its own copy of the campaign file."""
    settings = read_sealed(run / SETTINGS, "settings")
    for section, keys in sections.items():
        settings["campaign"][section] = settings["campaign"][section] | keys
    write_sealed(run / SETTINGS, "settings", settings)
    return run


@pytest.fixture
def other(finished_run, tmp_path) -> Path:
    shutil.copytree(finished_run, tmp_path / "other")
    return tmp_path / "other"


def test_equal_crystals_of_runs_with_other_cells_have_one_number(finished_run):
    found = csp_al.open_runs(finished_run, SMALLER).comparison
    crystals = found.crystals
    atoms = {(str(run.path), one.info["id"]): one for run in csp_al.open_runs(finished_run, SMALLER).runs
             for one in run.winners}  # fmt: skip
    assert len(crystals) == len(atoms)
    assert list(crystals) == list(CRYSTALS)
    shared = 0
    for one, two in combinations(crystals.itertuples(), 2):
        alike = same_structure(atoms[one.run, one.id], atoms[two.run, two.id])
        if one.crystal == two.crystal:
            assert one.run != two.run
            assert alike
            assert abs(one.energy_per_atom - two.energy_per_atom) <= 0.01
            shared += 1
    assert shared > 0
    lowest = crystals.groupby("crystal")["energy_per_atom"].min()
    assert lowest.is_monotonic_increasing
    assert lowest.index.tolist() == list(range(1, len(lowest) + 1))
    assert found.other_references == []  # limits and the like are no part of the method


def test_table_of_runs_says_what_each_took(finished_run):
    found = csp_al.open_runs(finished_run, SMALLER).comparison.runs
    assert list(found) == list(RUNS)
    for row, run in zip(found.to_dict("records"), csp_al.open_runs(finished_run, SMALLER).runs, strict=True):
        assert row["run"] == str(run.path)
        assert row["reference_evaluations"] == run.reference_evaluations == run.summary["evaluations"]["all"]
        assert row["best_energy_per_atom"] == run.result_rows[0]["energy_per_atom"]
        assert (row["judgement"], row["stop"]) == (run.judgement.word, run.verdict().reason)
        assert row["wall_s"] == pytest.approx(run.seconds)
        tasks = json.loads((run.path / "winners" / "tasks.json").read_text())
        final = [json.loads((run.path / "tasks" / name / "result.json").read_text())["cost"] for name in tasks]
        assert row["reference_core_s"] == pytest.approx(run.labels["cost_s"].sum() + sum(final))


def test_settings_that_differ_are_told_key_by_key(finished_run, other):
    with_settings(other, select={"per_cycle": 5}, pool={"volume_per_atom": None, "min_distance": {"Al-Al": 2.0}})
    settings = csp_al.open_runs(finished_run, other).comparison.settings
    assert settings.T.to_dict("list") == {
        "select.per_cycle": [8, 5], "pool.volume_per_atom": [[12.0, 24.0], None], "pool.min_distance.Al-Al": ["-", 2.0],
    }  # fmt: skip
    assert settings.columns.tolist() == [str(finished_run), str(other)]
    printed = compare(finished_run, other).output
    assert [line.split() for line in printed.splitlines() if "select.per_cycle" in line] == [
        ["select.per_cycle", "8", "5"]
    ]


def test_a_run_and_its_copy_differ_in_nothing(finished_run, other):
    found = csp_al.open_runs(finished_run, other).comparison
    assert found.settings.empty
    assert found.crystals["crystal"].value_counts().eq(2).all()
    assert "No setting differs." in compare(finished_run, other).output


def test_energies_of_other_references_are_said_to_be_not_comparable(finished_run, other):
    with_settings(other, reference={"parameters": {"asap_cutoff": True}})
    found = csp_al.open_runs(finished_run, other).comparison
    assert found.other_references == ["reference.parameters.asap_cutoff"]
    assert found.crystals["crystal"].value_counts().eq(2).all()  # by structure alone
    ended = compare(finished_run, other)
    assert ended.exit_code == 0
    assert "Energies of these runs are NOT comparable" in ended.output
    assert "reference.parameters.asap_cutoff" in ended.output
    row = csp_al.open_run(finished_run).result_rows[1]
    above = f"{1000 * row['energy_above_best']:.1f}"
    assert any(line.split()[-2:] == [above, above] for line in ended.output.splitlines())


def test_runs_of_other_compositions_are_refused(finished_run, other):
    with_settings(other, pool={"formula": "Cu2Al2"})
    ended = compare(finished_run, other)
    assert ended.exit_code == 2
    assert ended.stderr == (
        f"{finished_run} searches Al4, {other} searches Cu2Al2: crystals of different compositions have no common "
        "energies; compare runs of one composition\n"
    )


def test_what_cannot_be_compared_is_told_in_a_line(finished_run, tmp_path, monkeypatch):
    monkeypatch.chdir(finished_run.parent)
    for words, said in (
        ([finished_run], "one run cannot be compared with itself; give two run directories or more"),
        ([finished_run, finished_run.name], f"{finished_run.name} is the same run as {finished_run}; give each of"),
        ([finished_run, tmp_path], f"{tmp_path}: no run directory"),
    ):
        ended = compare(*words)
        assert (ended.exit_code, len(ended.stderr.splitlines())) == (2, 1)
        assert said in ended.stderr


def test_run_without_results_stands_beside_one_that_has_them(finished_run, other):
    shutil.rmtree(other / "winners")
    found = csp_al.open_runs(other, finished_run).comparison
    assert found.runs["crystals"].tolist() == [0, len(csp_al.open_run(finished_run).result_rows)]
    assert set(found.crystals["run"]) == {str(finished_run)}
    printed = compare(other, finished_run).output
    assert f"{found.runs['best_energy_per_atom'][0]:.3f}" in printed.split("lowest predicted, not ended")[1]
    shutil.rmtree(other)
    shutil.copytree(finished_run, other)
    shutil.rmtree(other / "winners")
    again = other.with_name("again")
    shutil.copytree(other, again)
    assert "No run has results yet." in compare(other, again).output


def test_json_has_the_tables_and_null_for_what_is_missing(finished_run, other):
    shutil.rmtree(other / "winners")
    with_settings(other, stop={"patience": 5})
    told = json.loads(compare(finished_run, other, "--json").output, parse_constant=pytest.fail)
    assert set(told) == {"runs", "crystals", "settings", "other_references"}
    assert told["settings"] == {"stop.patience": {str(finished_run): 2, str(other): 5}}
    assert told["runs"][1]["judgement"] == ""
    assert len(told["crystals"]) == len(csp_al.open_run(finished_run).result_rows)


def test_as_many_runs_stand_beside_each_other_as_there_is_room_for(tmp_path, monkeypatch):
    runs = [tmp_path / f"{number}" for number in range(12)]
    for run in runs:
        shutil.copytree(SMALLER, run)
    drawn = io.StringIO()
    monkeypatch.setattr("csp_al.cli.comparison.console_of_numbers", lambda: Console(file=drawn, width=80))
    assert compare(*runs).exit_code == 0
    lines = drawn.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert "…" not in drawn.getvalue()
    assert all(any(f"run {number}" in line for line in lines) for number in range(1, 13))
    energy = f"{csp_al.open_run(SMALLER).result_rows[0]['energy_per_atom']:.4f}"
    assert drawn.getvalue().count(energy) == 2 * 12  # as the lowest energy, and as the first crystal


def test_columns_are_grouped_by_what_there_is_room_for():
    assert list(_fitting([5, 5, 5, 5, 5], 17)) == [[0, 1, 2], [3, 4]]
    assert list(_fitting([90, 3, 3], 10)) == [[0], [1, 2]]
    assert list(_fitting([5], -3)) == [[0]]
