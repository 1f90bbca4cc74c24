"""Nothing damaged is believed: it is named, refused, and with --repair done again from what is whole."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import CAMPAIGN
from typer.testing import CliRunner

from csp_al.benchmark.trial import relaxed_in_the_end
from csp_al.campaign import Campaign, read_campaign
from csp_al.campaign.machine import Machine
from csp_al.cli import app
from csp_al.engine.engines import start_engine
from csp_al.engine.tasks import read_result
from csp_al.events import Event
from csp_al.files import DamagedError, OtherVersionError, open_plain, read_sealed, sha256, write_sealed
from csp_al.loop.drive import Drive
from csp_al.loop.search import search
from csp_al.report.status import status
from csp_al.report.status_in_words import describe
from csp_al.report.tables import open_run
from csp_al.results import as_json
from csp_al.store.changes import ChangedError
from csp_al.store.lock import locked
from csp_al.store.opening import open_to_drive
from csp_al.store.repair import repair
from csp_al.store.run_directory import NoRunError, published_stages
from csp_al.store.stages import manifest, seconds_of, verify

LOST = (DamagedError, NoRunError)
BEFORE_THE_VERDICT = ("pool", "check", *(f"cycle-00/{stage}" for stage in ("label", "train", "relax", "rank")))


@pytest.fixture
def run(finished_run, tmp_path) -> Path:
    """A copy of the finished run, with its campaign file at its side, to be written to."""
    shutil.copytree(finished_run, tmp_path / "runs" / "al4")
    (tmp_path / "al4.yaml").write_text(CAMPAIGN)
    return tmp_path / "runs" / "al4"


def go_on(run: Path, *, mend: bool = False, change: Callable[[str], str] = lambda text: text) -> list[str]:
    """Open the run directory and search on in it, as the driver does; what it tells."""
    source = run.parents[1] / "al4.yaml"
    source.write_text(change(source.read_text()))
    campaign, told = read_campaign(source), []

    def tell(event: Event) -> None:
        told.extend(str(getattr(event, key)) for key in ("text", "stage") if hasattr(event, key))

    with locked(run):
        campaign = open_to_drive(run, campaign, source, {}, mend=mend, tell=told.append)
        engine = start_engine(run / "tasks", Machine(slots=1))
        try:
            search(Drive(campaign, run, source.parent, torch.device("cpu"), tell, engine, mend))
        finally:
            engine.close()
    return told


def values(run: Path) -> dict[str, object]:
    """All that a user reads of a run, but for times."""
    opened = open_run(run)
    labels, relaxed = opened.all_labels, opened.relaxed()
    assert labels is not None
    assert relaxed is not None
    tables = [opened.pool, opened.labels, opened.cycles, opened.results, opened.ranking(), opened.learning_curves]
    return {
        "tables": [table.drop(columns=[c for c in table if c.startswith("seconds")]).to_csv() for table in tables],
        "labels": [labels.energy.tobytes(), labels.forces.tobytes(), labels.stress.tobytes()],
        "relaxed": relaxed.structures.positions.tobytes(),
        "picks": opened.picks(0).tolist(),
        "verdict": opened.verdict(),
        "walk forward": opened.walk_forward(),
        "winners": [atoms.positions.tobytes() for atoms in opened.winners],
        "campaign": opened.campaign,
    }


def contents(run: Path) -> dict[str, object]:
    """Checksums of all published files."""
    return {str(folder.relative_to(run)): manifest(folder)["files"] for _, _, folder in published_stages(run)}


def kept(run: Path) -> list[Path]:
    """Every file that holds what a campaign has found or settled."""
    stages = [path for _, _, folder in published_stages(run) for path in folder.rglob("*") if path.is_file()]
    return sorted([*stages, run / "resolved.json", run / "provenance.json"])


@contextmanager
def damaged(path: Path, how: str, rng: np.random.Generator) -> Iterator[None]:
    """A file with a flipped bit, cut short, overwritten, or gone, for as long as it is looked at."""
    whole = path.read_bytes()
    place = int(rng.integers(len(whole)))
    match how:
        case "flipped":
            path.write_bytes(whole[:place] + bytes([whole[place] ^ (1 << int(rng.integers(8)))]) + whole[place + 1 :])
        case "truncated":
            path.write_bytes(whole[:place])
        case "overwritten":
            path.write_bytes(whole[:place] + rng.bytes(min(4096, len(whole) - place)))
        case "missing":
            path.unlink()
    try:
        yield
    finally:
        path.write_bytes(whole)


def damage_and_look(run: Path, count: int, seed: int) -> int:
    """Damage files at random, one after the other: each must be refused, or mean what it meant. How many refused."""
    rng, files, expected = np.random.default_rng(seed), kept(run), values(run)
    campaign = read_campaign(run.parents[1] / "al4.yaml")
    refused = 0
    for _ in range(count):
        path = files[rng.integers(len(files))]
        how = str(rng.choice(["flipped", "truncated", "overwritten", "missing"]))
        with damaged(path, how, rng):
            said = refusal(run, campaign)
            refused += bool(said)
            assert path.parent.name in said if said else values(run) == expected, (path, how, said)
    return refused


def refusal(run: Path, campaign: Campaign) -> str:
    """Why a driver would not go on with the run directory; empty if it would."""
    try:
        open_to_drive(run, campaign, run.parents[1] / "al4.yaml", {}, mend=False, tell=str)
    except LOST as error:
        return str(error)
    return ""


def test_damaged_file_is_named_and_never_believed(run):
    assert damage_and_look(run, 40, seed=1) >= 35


@pytest.mark.long
def test_a_thousand_damaged_files_are_never_believed(run):
    assert damage_and_look(run, 1000, seed=2) >= 950


def test_damaged_tables_are_not_shown(run):
    path = run / "cycle-01" / "rank" / "ranking.csv"
    path.write_text(path.read_text().replace("1", "2", 1))
    with pytest.raises(DamagedError, match=r"ranking\.csv: its checksum differs"):
        open_run(run).ranking(1)


def test_log_full_of_garbage_breaks_nothing(run):
    (run / "log.jsonl").write_bytes(b'\xff\x00{]\n[1]\n{"time": 1}\n"word"\n{"event": "started", "time": "late"}\n')
    assert "finished" in describe(status(run))


@pytest.mark.parametrize(
    "lost",
    ["pool/structures.h5", "cycle-00/label/labels.h5", "cycle-01/train/weights.pt", "cycle-01/rank/ranking.csv",
     "cycle-02/verdict/verdict.json", "winners/results.json", "cycle-01/relax/manifest.json", "provenance.json"],
)  # fmt: skip
def test_repair_does_again_what_is_damaged_and_keeps_the_rest(run, lost):
    before, results = contents(run), {path: path.stat().st_mtime_ns for path in run.glob("tasks/*/result.json")}
    with (run / lost).open("r+b") as file:
        file.write(b"damage")
    with pytest.raises(DamagedError, match=f"{Path(lost).name}.*--repair"):
        go_on(run)
    told = go_on(run, mend=True)
    assert any(word.startswith(f"Repair: {lost}") for word in told)
    assert contents(run) == before
    assert {path: path.stat().st_mtime_ns for path in run.glob("tasks/*/result.json")} == results
    assert (run / "damaged" / "001" / lost).read_bytes().startswith(b"damage")
    go_on(run)  # and nothing is damaged any more


@pytest.mark.parametrize("lost", ["cycle-00/label/labels.h5", "pool/manifest.json", "winners/table.csv"])
def test_repair_does_a_stage_again_that_lacks_a_file(run, lost):
    before = contents(run)
    (run / lost).unlink()
    with pytest.raises(DamagedError, match=f"{lost}: the file is missing"):
        go_on(run)
    go_on(run, mend=True)
    assert contents(run) == before


def test_verdict_done_again_counts_the_time_of_what_came_before_it_only(run):
    before = sum(seconds_of(run / name) for name in BEFORE_THE_VERDICT)
    after = open_run(run).seconds
    assert before < after
    hours = (before + after) / 2 / 3600
    go_on(run, change=lambda text: f"{text}budget: {{hours: {hours}}}\n")
    (run / "cycle-00" / "verdict" / "verdict.json").write_text("{}")
    told = go_on(run, mend=True)
    assert "train" not in told
    assert open_run(run).verdict(0).stop is False
    go_on(run)


def test_verdict_that_comes_out_as_a_stop_in_a_repair_sets_aside_what_followed_it(run):
    (run / "cycle-00" / "verdict" / "verdict.json").write_text("{}")
    go_on(run, mend=True, change=lambda text: f"{text}budget: {{hours: 1e-6}}\n")
    assert open_run(run).verdict().stop
    assert " h used; budget.hours allows" in open_run(run).summary["stop"]
    assert not (run / "cycle-01" / "train").exists()
    assert (run / "damaged" / "002" / "cycle-01" / "train").is_dir()
    go_on(run)


def test_lost_stage_is_missed_and_done_again(run):
    before = contents(run)
    shutil.rmtree(run / "cycle-01" / "relax")
    with pytest.raises(DamagedError, match="cycle-01/relax: the stage is missing"):
        go_on(run)
    go_on(run, mend=True)
    assert contents(run) == before


def test_lost_settings_are_written_again_from_the_same_campaign_file_only(run):
    settings = read_sealed(run / "resolved.json", "settings")
    (run / "resolved.json").write_text("{}")
    with pytest.raises(ChangedError, match="is not the campaign file that it began with"):
        go_on(run, mend=True, change=lambda text: text.replace("seed: 3", "seed: 4"))
    go_on(run, mend=True, change=lambda text: text.replace("seed: 4", "seed: 3"))
    assert read_sealed(run / "resolved.json", "settings") == settings


def test_run_directory_is_mended_without_its_campaign_file(run, monkeypatch):
    copy = (run / "campaign.yaml").read_text()
    (run.parents[1] / "al4.yaml").unlink()
    (run / "provenance.json").write_text("{}")
    monkeypatch.chdir(run.parents[1])
    words = ["resume", "runs/al4", "--trust", "--slots", "1", "--device", "cpu"]
    refused = CliRunner().invoke(app, words)
    assert refused.exit_code == 2
    assert "provenance.json: not readable. Continue with --repair" in refused.output
    mended = CliRunner().invoke(app, [*words, "--repair"])
    assert mended.exit_code == 0, mended.output
    assert (run / "campaign.yaml").read_text() == copy
    assert CliRunner().invoke(app, words).exit_code == 0


def test_stage_of_another_history_is_refused_and_with_repair_all_that_follows_is_done_again(run):
    """As where a stage was made again on another machine, and came out otherwise."""
    before = contents(run)
    folder = run / "cycle-01" / "rank"
    table = pd.read_csv(folder / "ranking.csv", float_precision="round_trip")
    table.assign(score=table["score"] + 1e-9).to_csv(folder / "ranking.csv", index=False)
    content = manifest(folder)
    content["files"] = {"ranking.csv": sha256(folder / "ranking.csv")}
    write_sealed(folder / "manifest.json", "manifest", content)
    verify(folder)
    with pytest.raises(DamagedError, match="cycle-01/verdict: this stage was not made from cycle-01/rank as it is now"):
        go_on(run)
    told = go_on(run, mend=True)
    assert "cycle-01/verdict: this stage was not made" in " ".join(told)
    assert [stage for stage in told if stage in ("verdict", "winners", "train", "rank")].count("train") == 1
    assert contents(run)["cycle-00/train"] == before["cycle-00/train"]
    go_on(run)


def test_damaged_result_is_published_again_from_its_attempt_without_a_new_calculation(run):
    name = open_run(run).labels.query("cycle == 0 and status == 'done'")["task"].iloc[0]
    path, values = run / "tasks" / name / "result.json", ("energy", "forces", "stress", "attempts", "cost")
    before = read_result(run / "tasks", name)
    path.write_text(path.read_text().replace('"energy": ', '"energy": 1', 1))
    with pytest.raises(DamagedError, match=r"result\.json: its checksum differs"):
        read_result(run / "tasks", name)
    shutil.rmtree(run / "cycle-00" / "label")  # so that the result is asked for
    shutil.rmtree(run / "check")
    go_on(run, mend=True)
    before, again = as_json(before), as_json(read_result(run / "tasks", name))
    assert {key: again[key] for key in values} == {key: before[key] for key in values}


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        ({"forces": [[0.0, 0.0, 0.0]]}, "positions of shape (4, 3) beside forces on 1 atoms"),
        ({"forces": [[0.0] * 3], "positions": [[0.0] * 3]}, "forces on 1 atoms, where the task has 4"),
        ({"stress": [0.0] * 6}, "stress of shape (6,)"),
        ({"stress": "none"}, "values.stress: not numbers"),
        ({"energy": None}, "values.energy"),
        ({"status": "finished"}, "status: Input should be 'done', 'failed', 'rejected' or 'interrupted'"),
        ({"attempts": None}, "attempts"),
    ],
)
def test_result_of_another_form_is_damage_that_names_the_file_and_the_key(run, change, wrong):
    name = open_run(run).labels.query("status == 'done'")["task"].iloc[0]
    path = run / "tasks" / name / "result.json"
    write_sealed(path, "result", read_sealed(path, "result") | change)
    with pytest.raises(DamagedError, match=f"{re.escape(str(path))}.*{re.escape(wrong)}.*--repair"):
        read_result(run / "tasks", name)
    assert any(wrong in said for said in repair(run))
    assert read_result(run / "tasks", name) is None


def test_result_of_another_task_is_refused(run):
    one, other = list(run.glob("tasks/*/result.json"))[:2]
    shutil.copyfile(one, other)
    with pytest.raises(DamagedError, match="the result of another task"):
        read_result(run / "tasks", other.parent.name)


def test_link_pipe_and_folder_are_no_files(tmp_path):
    (tmp_path / "file").write_text("{}")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("link", "pipe", "folder"):
        with pytest.raises(DamagedError, match=name):
            open_plain(tmp_path / name)


# --- a changed campaign file


@pytest.mark.parametrize(
    ("key", "before", "after"),
    [
        ("pool.size", "size: 24", "size: 25"),
        ("seed", "seed: 3", "seed: 4"),
        ("reference.max_force", "max_force: 10", "max_force: 20"),
        ("potential.features", "features: 16", "features: 32"),
        ("select.per_cycle", "per_cycle: 8", "per_cycle: 9"),
        ("stop.top_k", "top_k: 2", "top_k: 3"),
        ("stop.max_cycles", "max_cycles: 3", "max_cycles: 2"),
    ],
)
def test_change_that_invalidates_earlier_results_is_shown_and_refused(run, key, before, after):
    was = contents(run)
    with pytest.raises(ChangedError, match=rf"(?s){key}: .*labels: \["):
        go_on(run, change=lambda text: text.replace(before, after))
    assert contents(run) == was


@pytest.mark.parametrize(
    ("key", "before", "after"),
    [
        ("reference.time_limit", "max_force: 10", "max_force: 10, time_limit: 99"),
        ("budget.labels", "finish:", "budget: {labels: 5000}\nfinish:"),
        ("stop.patience", "stop: {", "stop: {patience: 3, "),
        ("finish.fmax", "finish: {", "finish: {fmax: 0.04, "),
    ],
)
def test_harmless_change_is_shown_and_keeps_every_label(run, key, before, after):
    labels = {name: files for name, files in contents(run).items() if "label" in name or "train" in name}
    told = go_on(run, change=lambda text: text.replace(before, after))
    assert any(words.startswith(f"Changed: {key}: ") for words in told)
    assert "train" not in told
    assert {name: contents(run)[name] for name in labels} == labels
    assert go_on(run) == []


def test_campaign_with_more_cycles_ends_as_one_that_had_them_from_the_start(run, tmp_path):
    longer = lambda text: text.replace("max_cycles: 3", "max_cycles: 4")  # noqa: E731
    told = go_on(run, change=longer)
    assert told.count("train") == 1
    assert (run / "superseded" / "001" / "winners").is_dir()
    fresh = tmp_path / "fresh" / "runs" / "al4"
    fresh.mkdir(parents=True)
    (tmp_path / "fresh" / "al4.yaml").write_text(longer(CAMPAIGN))
    go_on(fresh)
    varying = {"labels.csv", "labels.h5", "tasks.json"}  # they hold costs
    plain = [
        {name: {file: sum_ for file, sum_ in files.items() if file not in varying} for name, files in found.items()}
        for found in (contents(run), contents(fresh))
    ]
    assert plain[0] == plain[1]


def test_more_crystals_can_be_relaxed_when_a_search_is_over(run, tmp_path):
    def candidates() -> set[int]:
        summary = open_run(run).summary
        assert summary is not None
        merged = {candidate for group in summary["merged"] for candidate in group}
        return {*open_run(run).results["id"], *merged, *(failed["id"] for failed in summary["failed"])}

    before = candidates()
    told = go_on(run, change=lambda text: text.replace("finish: {", "finish: {crystals: 5, "))
    assert told[-1] == "winners"
    assert "label" not in told
    assert before < candidates()
    assert len(candidates()) == 5
    final = relaxed_in_the_end(open_run(run), tmp_path, lambda folder: start_engine(folder, Machine(slots=1)))
    assert set(final.structures.ids) == candidates()
    assert not list(tmp_path.glob("tasks/*/result.json"))  # all are there


# --- formats


def test_manifest_of_another_format_is_refused_by_name(run):
    folder = run / "pool"
    write_sealed(folder / "manifest.json", "manifest", manifest(folder) | {"format": 999})
    with pytest.raises(OtherVersionError, match=r"format 999, this version of csp_al reads \d"):
        verify(folder)


def test_run_of_an_older_format_is_left_as_it_is_even_by_a_repair(run):
    """Its results are whole: who has the version that wrote them can go on."""
    settings = json.loads((run / "resolved.json").read_text())
    (run / "resolved.json").write_text(json.dumps({"format": 1, "campaign": settings["campaign"]}))
    before = contents(run)
    for mend in (False, True):
        with pytest.raises(OtherVersionError, match=r"resolved\.json: format 1, .* go on with the version"):
            go_on(run, mend=mend)
    assert contents(run) == before
    assert not (run / "damaged").exists()


def test_every_file_of_a_stage_is_under_a_checksum(run):
    for _, _, folder in published_stages(run):
        listed = json.loads((folder / "manifest.json").read_text())["files"]
        there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
        assert there == {*listed, "manifest.json"}
