"""The life of a candidate: `csp-al show`, `Run.life`, and its structure at any point of it."""

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase.calculators.emt import EMT
from ase.units import GPa
from hostile import forge
from rich.console import Console
from typer.testing import CliRunner

from csp_al import open_run
from csp_al.cli import app
from csp_al.engine.tasks import publish_result, read_result
from csp_al.interfaces import Failure, Reason
from csp_al.report.columns import LABELS, LIFE
from csp_al.report.life import structure_at
from csp_al.select.identity import same_structure
from csp_al.store import layout
from csp_al.structures import Status

OLDER = Path(__file__).parent / "data" / "run-format-2"


@pytest.fixture(scope="module")
def run(finished_run):
    return open_run(finished_run)


@pytest.fixture(scope="module")
def lives(run):
    return {identity: run.life(identity) for identity in run.pool["id"]}


@pytest.fixture
def copy(tmp_path, finished_run):
    shutil.copytree(finished_run, tmp_path / "copy")
    return tmp_path / "copy"


@pytest.fixture
def ends(copy):
    """The run, made one whose second result is the same crystal as the first, and whose third one failed; all three."""
    folder, run = copy / "winners", open_run(copy)
    first, second, third, *others = run.result_rows
    failed = {"id": third["id"], "reason": "SCF not converged", "predicted_energy_per_atom": 0.0}
    kept = [atoms for atoms in run.winners if atoms.info["id"] not in (second["id"], third["id"])]
    layout.SUMMARY.write(folder, run.summary | {"merged": [[first["id"], second["id"]]], "failed": [failed]})
    layout.RESULTS.write(folder, [first, *others])
    layout.CRYSTALS.write(folder, kept)
    forge(copy)
    task = json.loads((folder / layout.TASKS).read_text())[run.begun.ids.tolist().index(third["id"])]
    reason = Reason(Failure.SCF_NOT_CONVERGED, "SCF not converged")
    result = replace(read_result(copy / "tasks", task), status=Status.FAILED, reason=reason, values=None)
    publish_result(copy / "tasks" / task, result)
    return copy, (first, second, third)


def show(*words: object):
    return CliRunner().invoke(app, ["show", *map(str, words)])


# --- what is known


def test_every_cycle_stands_in_a_life_as_in_its_ranking(run, lives):
    for cycle in (0, 1, 2):
        ranking, verdict = run.ranking(cycle), run.verdict(cycle)
        for place, row in enumerate(ranking.itertuples(), start=1):
            told = lives[row.id].cycles.set_index("cycle").loc[cycle]
            for name in ("energy_per_atom", "sigma_per_atom", "reason", "basin", "steps"):
                np.testing.assert_equal(told[name], getattr(row, name))
            assert told["leads"] == (row.id in verdict.top)
            assert told["picked"] == (cycle < 2 and row.id in run.picks(cycle))
            if row.trusted:
                assert told["place"] == place
                assert told["lowest_in_basin"] == ranking.loc[ranking["basin"] == row.basin, "id"].iloc[0]
    assert any(life.cycles["leads"].any() for life in lives.values())
    assert all(list(life.cycles) == list(LIFE) for life in lives.values())


def test_labels_of_all_lives_are_all_labels_with_their_errors(run, lives):
    assert sum(len(life.labels) for life in lives.values()) == len(run.labels)
    assert any(len(life.labels) > 2 for life in lives.values())  # a cell that was opened
    for cycle in (1, 2):
        labels = layout.LABELS.read(run.folder("label", cycle))
        guess = layout.PREDICTED.read(run.folder("select", cycle - 1))
        for row, identity in enumerate(labels.structures.ids.tolist()):
            told = lives[identity].labels.set_index("cycle").loc[cycle]
            forces = np.split(guess.forces - labels.forces, labels.structures.ptr[1:-1])[row]
            stress = (guess.stress - labels.stress)[row][np.triu_indices(3)]
            assert told["forces_mae_ev_per_angstrom"] == pytest.approx(np.abs(forces).mean())
            assert told["stress_mae_gpa"] == pytest.approx(np.abs(stress).mean() / GPa)
    assert list(lives[0].labels) == list(LABELS)


def test_crystals_are_reached_in_lives_as_often_as_results_say(run, lives):
    for row in run.result_rows:
        assert sum(row["rank"] in life.end.reached for life in lives.values()) == row["times_reached"]
    assert any(not life.end.reached for life in lives.values())


def test_life_of_a_winner_ends_with_what_the_reference_found(run, lives, finished_run):
    task = json.loads((finished_run / "winners" / layout.TASKS).read_text())[0]
    for row in run.result_rows:
        end = lives[row["id"]].end
        assert (end.status, end.result, end.crystal, end.reason) == ("done", row["rank"], row["id"], None)
        assert (end.energy_per_atom, end.fmax, end.converged) == (row["energy_per_atom"], row["fmax"], row["converged"])
    first = lives[int(run.begun.ids[0])].end
    result = read_result(finished_run / "tasks", task)
    assert (first.evaluations, first.cost_s, first.steps) == (result.evaluations, result.cost, result.values.steps)


def test_merged_candidate_tells_of_itself_and_of_the_crystal_that_it_is(ends):
    copy, (first, second, _) = ends
    end = open_run(copy).life(second["id"]).end
    assert (end.status, end.result, end.crystal) == ("done", 1, first["id"])
    assert end.energy_per_atom == pytest.approx(second["energy_per_atom"])
    said = show(copy, second["id"]).output
    assert f"the same crystal as candidate {first['id']}, result 1 ({Path(first['cif']).stem})" in said


def test_candidate_that_the_reference_could_not_relax_tells_why(ends, tmp_path):
    copy, (_, _, third) = ends
    end = open_run(copy).life(third["id"]).end
    assert (end.status, end.result, end.reason, end.energy_per_atom) == ("failed", None, "SCF not converged", None)
    assert "the reference could not relax it (failed): SCF not converged" in show(copy, third["id"]).output
    refused = show(copy, third["id"], "--out", tmp_path / "x.cif", "--at", "reference")
    assert f"the reference has not relaxed candidate {third['id']}; --at last is there" in refused.stderr
    shutil.rmtree(copy / "tasks")
    assert replace(open_run(copy).life(third["id"]).end, evaluations=None, cost_s=None) == replace(
        end, evaluations=None, cost_s=None
    )


def test_life_in_a_run_without_results_says_so(copy):
    shutil.rmtree(copy / "winners")
    assert open_run(copy).life(3).end is None
    assert f"the search has not ended; where it stands: csp-al status {copy}" in show(copy, 3).output
    for folder in copy.glob("cycle-*"):
        shutil.rmtree(folder)
    life = open_run(copy).life(3)
    assert life.cycles.empty
    assert life.labels.empty
    said = show(copy, 3, "--out", copy / "3.extxyz")
    assert "candidate 3 as it began" in said.output
    assert (
        "--at last: there are first, no cycle has a ranking yet" in show(copy, 3, "--out", "x", "--at", "last").stderr
    )


def test_candidate_that_was_bred_later_has_no_place_before(copy):
    folder = copy / "cycle-00" / "rank"
    table = layout.RANKING.read(folder)
    layout.RANKING.write(folder, table[table["id"] != 3])
    forge(copy)
    assert open_run(copy).life(3).cycles["cycle"].tolist() == [1, 2]
    with pytest.raises(ValueError, match="candidate 3 was bred later than in cycle 0"):
        structure_at(open_run(copy), 3, "cycle-00")


def test_run_of_an_older_version_tells_what_it_kept():
    life, row = open_run(OLDER).life(9), open_run(OLDER).result_rows[0]
    assert (life.end.result, life.end.energy_per_atom, life.end.evaluations) == (1, row["energy_per_atom"], None)
    assert life.end.from_label is None
    assert show(OLDER, 9).exit_code == 0


# --- structures


def test_structures_are_those_of_the_run(run, finished_run, tmp_path):
    row = run.result_rows[1]
    identity = row["id"]
    (winner,) = [atoms for atoms in run.winners if atoms.info["id"] == identity]
    for at, expected, words in (
        ("first", run.structures(identity)[0], "as it began"),
        ("cycle-01", run.structures(identity, 1)[0], "as it stood in cycle 1"),
        ("cycle-1", run.structures(identity, 1)[0], "in cycle 1"),
        ("last", run.structures(identity, -1)[0], "in cycle 2"),
        ("reference", winner, "as the reference relaxed it"),
    ):
        for name in ("POSCAR", "a.extxyz", "a.cif", "a.res"):
            path = tmp_path / at / name
            path.parent.mkdir(exist_ok=True)
            path.unlink(missing_ok=True)
            said = show(finished_run, identity, "--at", at, "--out", path).output
            assert words in said
            again = ase.io.read(path)
            assert same_structure(again, expected)
            if name in ("POSCAR", "a.extxyz"):
                np.testing.assert_allclose(again.cell.array, expected.cell.array, atol=1e-7)
                np.testing.assert_allclose(again.positions, expected.positions, atol=1e-7)
    relaxed = ase.io.read(tmp_path / "reference" / "a.extxyz")
    energy = relaxed.get_potential_energy()
    relaxed.calc = EMT()
    assert energy == pytest.approx(relaxed.get_potential_energy(), abs=1e-5)
    info = ase.io.read(tmp_path / "cycle-01" / "a.extxyz").info
    ranked = run.ranking(1).set_index("id").loc[identity]
    assert (info["predicted_energy_per_atom"], info["cycle"]) == (pytest.approx(ranked["energy_per_atom"]), 1)


def test_structure_without_a_time_is_the_last_there_is(run, finished_run, tmp_path):
    winner, other = run.result_rows[0]["id"], next(i for i in run.pool["id"] if i not in run.begun.ids)
    assert "as the reference relaxed it" in show(finished_run, winner, "--out", tmp_path / "a.cif").output
    assert "in cycle 2; the conventional cell" in show(finished_run, other, "--out", tmp_path / "b.cif").output
    assert json.loads(show(finished_run, other, "--out", tmp_path / "c.cif", "--json").output) == [
        str(tmp_path / "c.cif")
    ]


def test_merged_candidate_has_a_structure_of_its_own_by_the_reference(ends, run):
    copy, (first, second, _) = ends
    (expected,) = [atoms for atoms in run.winners if atoms.info["id"] == second["id"]]
    structure, when = structure_at(open_run(copy), second["id"], "reference")
    assert when == "as the reference relaxed it"
    np.testing.assert_allclose(structure.atoms.positions, expected.positions, atol=1e-8)
    assert structure.atoms.get_potential_energy() == pytest.approx(expected.get_potential_energy())
    above = second["energy_per_atom"] - first["energy_per_atom"]
    assert float(structure.items["_csp_al_energy_above_lowest_eV"]) == pytest.approx(above, abs=1e-6)


# --- what is refused


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((99,), "no candidate has the id 99; there are 0 to 23"),
        ((10**30,), "there are 0 to 23"),
        ((3, "--at", "last"), "--at last says which structure is written; say where with --out, e.g. --out 3.cif"),
        ((3, "--out", "x.foo"), "x.foo: no format to write is known by this name; e.g. 17.cif"),
        ((3, "--out", "noname"), "noname: no format to write"),
        ((3, "--out", "there.cif"), "there.cif exists; choose another name"),
        ((3, "--out", "nowhere/x.cif"), "there is no folder nowhere; make it first"),
        ((3, "--out", "x.pwi"), "x.pwi: ASE cannot write this as espresso-in by itself"),
        ((3, "--out", "x.cif", "--at", "cycle-7"), "--at cycle-7: there are first, cycle-00 to cycle-02, last"),
        ((3, "--out", "x.cif", "--at", "dawn"), "--at dawn: there are first, cycle-00"),
        ((99, "--out", "x.cif"), "no candidate has the id 99"),
    ],
)
def test_what_cannot_be_shown_is_told_in_a_line(finished_run, tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    Path("there.cif").write_text("mine")
    ended = show(finished_run, *words)
    assert ended.exit_code == 2
    assert said in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["there.cif"]
    assert Path("there.cif").read_text() == "mine"


def test_ids_that_are_there_are_named_in_ranges(copy):
    folder = copy / "pool"
    pool = layout.CANDIDATES.read(folder)
    renamed = pool.ids.copy()
    renamed[-2:] = (31, 40)
    layout.CANDIDATES.write(folder, replace(pool, ids=renamed))
    layout.ORIGINS.write(folder, layout.ORIGINS.read(folder).assign(id=renamed))
    forge(copy)
    assert "there are 0 to 21, 31, 40" in show(copy, 25).stderr


# --- what is printed


def test_texts_of_a_stranger_are_printed_as_plain_text(copy):
    folder = copy / "cycle-00" / "rank"
    layout.RANKING.write(folder, layout.RANKING.read(folder).assign(reason="[red]no[/red]\x1b[2J"))
    folder = copy / "pool"
    layout.ORIGINS.write(folder, layout.ORIGINS.read(folder).assign(note="\x1b[2J", parents="x y", generation=1))
    forge(copy)
    said = show(copy, 3)
    assert said.exit_code == 0
    assert "[red]no[/red]" in said.output
    assert "\x1b" not in said.output


def test_tables_of_a_life_fit_into_eighty_columns(finished_run, lives, monkeypatch):
    drawn = io.StringIO()
    monkeypatch.setattr("csp_al.cli.life.console_of_numbers", lambda: Console(file=drawn, width=80))
    for identity in {life.end.result or life.cycles["reason"].iloc[0]: life.id for life in lives.values()}.values():
        assert show(finished_run, identity).exit_code == 0
    assert "…" not in drawn.getvalue()
    assert max(map(len, drawn.getvalue().splitlines())) <= 80


def test_printed_life_and_json_say_the_same(finished_run, run, lives):
    identity = run.result_rows[0]["id"]
    said, told = show(finished_run, identity).output, json.loads(show(finished_run, identity, "--json").output)
    life = lives[identity]
    assert told["cycles"][2]["energy_per_atom"] == pytest.approx(life.cycles["energy_per_atom"][2])
    assert (told["end"]["result"], told["origin"]["origin"]) == (1, life.origin["origin"])
    assert len(told["labels"]) == len(life.labels)
    for words in (
        f"{life.origin['space_group']} ({life.origin['space_group_number']})",
        f"relaxed by the reference: {life.end.energy_per_atom:.4f} eV/atom, converged",
        "first, cycle-00 to cycle-02, last, reference",
    ):
        assert words in said
    (rejected, *_) = [life.id for life in lives.values() if "rejected" in set(life.labels["status"])]
    assert "rejected: force of" in show(finished_run, rejected).output
