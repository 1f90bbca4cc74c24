"""Whatever is in a run directory: every verb that looks at it answers, or says what is wrong."""

from __future__ import annotations

import io
import json
import resource
import shutil
import sys
import zipfile
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hostile import PRECIOUS, forge, spoil
from typer.testing import CliRunner

from csp_al import claim, files
from csp_al.cli import app
from csp_al.cli.trust import how_to_continue, refuse_code
from csp_al.engine.tasks import read_task
from csp_al.files import DamagedError, read_json, read_sealed, sha256, write_sealed
from csp_al.potential.ensemble import load_ensemble, new_ensemble
from csp_al.potential.schnet import SchnetPotential
from csp_al.store.links import UntrustedError
from csp_al.store.records import CHECK, RESULTS, SUMMARY, WALK_FORWARD
from csp_al.store.run_directory import read_campaign_of
from csp_al.structure_files import read_structures

KEPT = Path(__file__).parent / "data" / "run-format-4"
EXPORTS = "cif,poscar,extxyz,ase-db"
MOST = 1_000_000_000
"""Bytes of memory that a look may take."""

IMPATIENT = {"STALE": 0.2, "WATCH": 0.1}
"""Seconds after which whoever watches gives up a driver on another host, where a lock that is none tells of one."""


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """Where verbs run: beside the run directory, whose own copy of the campaign would make a folder if it were run."""
    monkeypatch.chdir(tmp_path)
    renewed(tmp_path)
    return tmp_path


@pytest.fixture
def bounded():
    """The address space of this process has room for so much more."""
    if sys.platform != "linux":
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MOST, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def renewed(folder: Path) -> Path:
    run = folder / "run"
    (folder / PRECIOUS).write_text("mine\n")
    shutil.rmtree(run, ignore_errors=True)
    shutil.copytree(KEPT, run)
    settings = read_sealed(run / "resolved.json", "settings")
    settings["campaign"]["reference"] |= {"calculator": "os.mkdir", "parameters": {"path": str(folder / "executed")}}
    write_sealed(run / "resolved.json", "settings", settings)
    return run


def csp_al(*words: str):
    return CliRunner().invoke(app, list(words))


def look(place: Path, verbs: list[list[str]], done: list[str]) -> None:
    """Call the verbs, and see that each ends well."""
    for verb in verbs:
        outside = {path.name for path in place.iterdir()} - {"export"}
        with patch.multiple(claim, **IMPATIENT) if verb[0] == "watch" else nullcontext():
            ended = csp_al(*verb)
        told = f"{done}\n{verb}: {ended.exit_code}, {ended.exception!r}\n{ended.output[-2000:]}"
        assert ended.exit_code in (0, 2) or (verb[0] == "resume" and ended.exit_code == 3), told
        assert ended.exception is None or isinstance(ended.exception, SystemExit), told
        assert ended.exit_code == 0 or ended.output.strip(), told
        assert not {letter for letter in ended.output if not letter.isprintable()} - {"\n", "\t"}, told
        assert {path.name for path in place.iterdir()} - {"export"} == outside, told
        if verb[-1] == "--json" and ended.exit_code == 0:
            json.loads(ended.stdout, parse_constant=pytest.fail)


def verbs_on(run: str) -> list[list[str]]:
    exports = [["export", run, "--format", EXPORTS, "--what", what] for what in ("winners", "labels", "pool")]
    return [
        ["status", run], ["status", run, "--json"], ["results", run], ["results", run, "--csv"],
        ["results", run, "--json"], *exports, ["show", run, "3"], ["show", run, "5", "--json"], ["watch", run],
        ["compare", str(KEPT), run], ["stop", run], ["plan", "plain.yaml", "--directory", run], ["resume", run],
    ]  # fmt: skip


def survive(place: Path, numbers: range, seed: int) -> None:
    shutil.copy(KEPT / "campaign.yaml", place / "plain.yaml")
    for number in numbers:
        run = renewed(place)
        done = list(spoil(run, np.random.default_rng([seed, number])))
        pages = [] if number % 5 else [["report", "run"]]  # each is half a second's work
        look(place, pages + verbs_on("run"), [f"number {number}", *done])
        assert (place / PRECIOUS).read_text() == "mine\n"
        shutil.rmtree(place / "export", ignore_errors=True)


def test_thirty_hostile_runs_end_in_an_answer_or_a_refusal(place, bounded):
    survive(place, range(30), 1)


@pytest.mark.long
def test_hundred_and_fifty_hostile_runs_end_in_an_answer_or_a_refusal(place, bounded):
    survive(place, range(350, 500), 2)


@pytest.mark.nightly
def test_two_thousand_hostile_runs_end_in_an_answer_or_a_refusal(place, bounded):
    survive(place, range(2000), 3)


# --- what one file can do


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({}, "kind: Field required"),
        ({"kind": "label", "inputs": 10**18}, "inputs: Input should be a valid dictionary"),
        ({"kind": "label", "inputs": {"structure": {}, "reference": 3}}, r"inputs.structure.numbers: Field required"),
    ],
)
def test_task_that_asks_for_nothing_is_damaged(tmp_path, content, words):
    (tmp_path / "odd").mkdir()
    write_sealed(tmp_path / "odd" / "task.json", "task", content)
    with pytest.raises(DamagedError, match=words):
        read_task(tmp_path, "odd")


def test_columns_that_are_announced_and_not_there_take_no_memory(place, bounded):
    path = place / "run" / "winners" / "winners.extxyz"
    path.write_text(path.read_text().replace("pos:R:3", "pos:R:3000000000"))
    forge(place / "run")
    refused = csp_al("export", "run", "--format", "extxyz")
    assert refused.exit_code == 2
    assert "winners.extxyz: lines 1 to 4: no frame of extxyz" in refused.output
    (place / "labels.xyz").write_bytes(path.read_bytes())
    assert all("no frame" in str(frame) for frame in read_structures(place / "labels.xyz"))


@pytest.mark.parametrize("formula", ["(" * 5000, "", "Al0", 5, None])
def test_settings_that_no_upgrade_understands_are_damaged(place, formula):
    settings = json.loads((KEPT / "resolved.json").read_text())
    settings["campaign"]["pool"] |= {"formula": formula, "volume_per_atom": None}
    del settings[files.SEAL]
    (place / "run" / "resolved.json").write_text(files.seal(settings))
    refused = csp_al("status", "run")
    assert (refused.exit_code, "resolved.json: not readable" in refused.output) == (2, True)


def test_row_of_a_result_without_a_key_is_named(place):
    path = place / "run" / "winners" / "results.json"
    rows = json.loads(path.read_text())
    del rows[1]["space_group"]["number"]
    path.write_text(json.dumps(rows))
    forge(place / "run")
    for verb in (["status", "run"], ["results", "run", "--csv"], ["export", "run", "--format", "cif"]):
        refused = csp_al(*verb)
        assert refused.exit_code == 2
        assert "results.json: 1.space_group.number: Field required" in refused.output


def test_file_of_holes_is_refused_before_it_is_read(tmp_path):
    with (tmp_path / "holes").open("wb") as file:
        file.truncate(10**12)
    with pytest.raises(DamagedError, match="hardly any were written"):
        sha256(tmp_path / "holes")


def test_file_that_is_full_is_read_though_its_file_system_counts_no_blocks(tmp_path, monkeypatch):
    (tmp_path / "full").write_bytes(b"0123456789" * 1000)
    mode = (tmp_path / "full").stat().st_mode
    monkeypatch.setattr(files, "HOLLOW", (1000, 100))
    monkeypatch.setattr(files.os, "fstat", lambda _: SimpleNamespace(st_mode=mode, st_size=10_000, st_blocks=0))
    with files.open_plain(tmp_path / "full") as file:
        assert file.read() == b"0123456789" * 1000


def test_packed_weights_and_pickles_that_ask_for_room_are_refused_unread(tmp_path, bounded):
    section = SchnetPotential(members=2, features=8, interactions=1, cutoff=4.0)
    new_ensemble(section, [1], torch.device("cpu")).save(tmp_path)
    weights = tmp_path / "weights.pt"
    with (
        zipfile.ZipFile(io.BytesIO(weights.read_bytes())) as whole,
        zipfile.ZipFile(weights, "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in whole.namelist():
            packed.writestr(name, whole.read(name) + b"\0" * (30_000_000 if name.endswith("/data/0") else 0))
    assert weights.stat().st_size < 1_000_000
    for _ in range(2):
        with pytest.raises(DamagedError, match="no weights, or packed ones"):
            load_ensemble(tmp_path, section, torch.device("cpu"))
        torch.save({"a": Room()}, weights)


class Room:
    """A pickle that takes 100 GB when it is read."""

    def __reduce__(self):
        return bytearray, (10**11,)


def test_table_of_a_million_columns_is_refused_at_once(place):
    path = place / "run" / "pool" / "table.csv"
    path.write_text("".join(f"{line}{',x' * 1_000_000}\n" for line in path.read_text().splitlines()[:2]))
    forge(place / "run")
    refused = csp_al("export", "run", "--format", "cif", "--what", "pool")
    assert refused.exit_code == 2
    assert "table.csv: no names of columns in its first line" in refused.output


def test_living_driver_of_an_odd_name_is_asked_to_stop_in_plain_letters(place):
    claim = {"host": "\x1b[2Jnode\x07", "pid": 1, "start": "x", "token": "\x1b"}
    (place / "run" / "LOCK").write_text(json.dumps(claim))
    asked = csp_al("stop", "run")
    assert asked.exit_code == 0
    assert "on \ufffd[2Jnode\ufffd to stop" in asked.output


# --- what a run directory names outside of it


def test_resume_opens_nothing_outside_that_the_directory_names_unless_trusted(place):
    (place / "secret.cif").write_text("mine")
    settings = read_sealed(place / "run" / "resolved.json", "settings")
    settings["campaign"]["reference"] = {"kind": "espresso"}
    settings["campaign"]["pool"]["seeds"] = [str(place / "secret.cif")]
    settings["campaign"]["labels"] = ["../old"]
    write_sealed(place / "run" / "resolved.json", "settings", settings)
    campaign, run = read_campaign_of(place / "run"), place / "run"
    with pytest.raises(UntrustedError, match=r"labels: \.\./old, which this command would open"):
        refuse_code(campaign, run)
    (run / "elsewhere").mkdir()
    refuse_code(campaign, run)  # the pool is there already
    shutil.rmtree(run / "pool")
    refused = csp_al("resume", "run")
    assert refused.exit_code == 2
    assert f"pool.seeds: {place / 'secret.cif'}, which this command would open" in refused.output
    assert how_to_continue(campaign, run).endswith(" --trust")
    inside = campaign.pool.model_copy(update={"seeds": (str(run / "seed.cif"),)})
    refuse_code(campaign.model_copy(update={"pool": inside}), run)


def test_resume_asks_before_it_reads_pseudopotentials_of_a_folder_that_the_directory_names(place):
    settings = read_sealed(place / "run" / "resolved.json", "settings")
    settings["campaign"]["reference"] = {"kind": "espresso", "pseudo_dir": "~/private"}
    write_sealed(place / "run" / "resolved.json", "settings", settings)
    with pytest.raises(UntrustedError, match=r"reference\.pseudo_dir: .*/private, which this command would open"):
        refuse_code(read_campaign_of(place / "run"), place / "run")


def test_records_leave_nothing_out_that_is_written():
    for name, record in (("walk_forward", WALK_FORWARD), ("results", RESULTS), ("summary", SUMMARY), ("check", CHECK)):
        (path,) = [*KEPT.glob(f"cycle-01/*/{name}.json"), *KEPT.glob(f"*/{name}.json")]
        assert json.loads(json.dumps(read_json(path, record))) == json.loads(path.read_text())
