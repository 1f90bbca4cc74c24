"""A run directory from a stranger can be looked at, and continued, without running the stranger's code."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from ase.build import bulk
from conftest import CAMPAIGN
from pydantic import ValidationError
from typer.testing import CliRunner

from csp_al.campaign.machine import Machine
from csp_al.cli import app
from csp_al.cli.trust import refuse_code
from csp_al.engine import worker
from csp_al.engine.engines import start_engine
from csp_al.engine.tasks import create_task, label_task, read_result
from csp_al.engine.wait import run_tasks
from csp_al.files import DamagedError, OtherVersionError, read_sealed, sha256, write_sealed
from csp_al.hdf5 import load, save
from csp_al.potential.ensemble import load_ensemble, new_ensemble
from csp_al.potential.schnet import SchnetPotential
from csp_al.reference.ase_calculator import AseReference
from csp_al.reference.espresso import EspressoReference
from csp_al.report.figures import learning_curves, parity, pool_map
from csp_al.report.tables import open_run
from csp_al.store.links import UntrustedError, refuse_links
from csp_al.store.run_directory import read_campaign_of
from csp_al.store.stages import manifest, verify
from csp_al.structures import Labels, Structures

POTENTIAL = SchnetPotential(members=2, features=8, interactions=1, cutoff=4.0)
CPU = torch.device("cpu")
EMT = AseReference(kind="ase", calculator="ase.calculators.emt.EMT")


class Touch:
    """A pickle that makes a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.fixture
def stranger(finished_run, tmp_path) -> Path:
    """A run directory whose manifests its author can write anew."""
    shutil.copytree(finished_run, tmp_path / "stranger")
    return tmp_path / "stranger"


def forge(folder: Path) -> None:
    """Write the checksums anew, as an author of a hostile stage would."""
    content = manifest(folder)
    content["files"] = {name: sha256(folder / name) for name in content["files"]}
    write_sealed(folder / "manifest.json", "manifest", content)


def csp_al(*words: str):
    return CliRunner().invoke(app, list(words))


# --- code


def test_pickle_in_place_of_weights_is_refused_and_not_run(tmp_path):
    ensemble = new_ensemble(POTENTIAL, [1], CPU)
    ensemble.save(tmp_path)
    for evil in (pickle.dumps(Touch(tmp_path / "owned")), _torch_pickle(tmp_path)):
        (tmp_path / "weights.pt").write_bytes(evil)
        with pytest.raises(DamagedError, match=r"weights\.pt: no weights"):
            load_ensemble(tmp_path, POTENTIAL, CPU)
        assert not (tmp_path / "owned").exists()


def _torch_pickle(folder: Path) -> bytes:
    content = io.BytesIO()
    torch.save({"a": Touch(folder / "owned")}, content)
    return content.getvalue()


def test_weights_of_other_shapes_or_of_another_potential_are_refused(tmp_path):
    ensemble = new_ensemble(POTENTIAL, [1], CPU)
    ensemble.save(tmp_path)
    with pytest.raises(DamagedError, match="another potential"):
        load_ensemble(tmp_path, POTENTIAL.model_copy(update={"features": 16}), CPU)
    torch.save({name: tensor[:1] for name, tensor in ensemble.state.items()}, tmp_path / "weights.pt")
    with pytest.raises(DamagedError, match="not those of schnet"):
        load_ensemble(tmp_path, POTENTIAL, CPU)


def test_own_copy_of_a_calculator_runs_only_when_trusted(stranger, tmp_path):
    settings = read_sealed(stranger / "resolved.json", "settings")
    settings["campaign"]["reference"]["calculator"] = "os.mkdir"
    settings["campaign"]["reference"]["parameters"] = {"path": str(tmp_path / "owned")}
    write_sealed(stranger / "resolved.json", "settings", settings)
    for verb in ("status", "results"):
        assert csp_al(verb, str(stranger)).exit_code == 0
    csp_al("export", str(stranger), "--format", "cif", "--to", str(tmp_path / "cif"))
    refused = csp_al("resume", str(stranger))
    assert refused.exit_code == 2
    assert "reference.calculator: os.mkdir" in refused.output
    assert "--trust" in refused.output
    assert not (tmp_path / "owned").exists()


def test_remedies_that_stand_in_a_run_directory_only_are_not_applied(tmp_path):
    root, owned = tmp_path / "tasks", tmp_path / "owned"
    name = create_task(root, label_task(bulk("Al"), EMT))
    evil = {"when": "killed", "say": "once more", "set": {"calculator": "os.mkdir", "parameters": {"path": str(owned)}}}
    (root / name / "attempt-1").mkdir()
    outcome = {"status": "failed", "reason": "killed by SIGKILL", "remedies": [evil], "seconds": 0.0,
               "cost": 0.0, "evaluations": 1, "values": None}  # fmt: skip
    write_sealed(root / name / "attempt-1" / "outcome.json", "outcome", outcome)
    worker.run_task(root, name, Machine())
    assert read_result(root, name).status == "done"
    assert not owned.exists()


def test_modules_of_the_current_folder_do_not_pass_for_those_of_a_worker(stranger, tmp_path, monkeypatch):
    (stranger / "socket.py").write_text(f"import os; os.mkdir({str(tmp_path / 'owned')!r})")
    monkeypatch.chdir(stranger)
    root = tmp_path / "tasks"
    name = create_task(root, label_task(bulk("Al"), EMT))
    engine = start_engine(root, Machine(slots=1))
    try:
        run_tasks(engine, root, [name], lambda *_: None, lambda: False)
    finally:
        engine.close()
    assert read_result(root, name).status == "done"
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("text", ["low', outdir='/tmp/x", 'low", outdir="/tmp/x', "low\noutdir='/tmp/x'", "low !"])
def test_text_cannot_end_its_quotes_in_the_input_of_pw(text):
    with pytest.raises(ValidationError, match="without quotes"):
        EspressoReference(kind="espresso", namelists={"control": {"disk_io": text}})


def test_gpaw_keywords_that_write_files_need_trust(stranger):
    campaign = read_campaign_of(stranger)
    for parameters, refused in (({"convergence": {"density": 1e-3}}, False), ({"txt": "/etc/passwd"}, True)):
        section = {"kind": "gpaw", "parameters": parameters}
        changed = type(campaign).model_validate(campaign.model_dump() | {"reference": section})
        if not refused:
            refuse_code(changed, stranger)
            continue
        with pytest.raises(UntrustedError, match=r"reference\.parameters\.txt"):
            refuse_code(changed, stranger)


# --- places


@pytest.mark.parametrize("name", ["../../secret", "/etc/passwd", "a/../../b", ""])
def test_names_that_lead_out_of_a_stage_are_refused(stranger, name):
    folder = stranger / "pool"
    write_sealed(folder / "manifest.json", "manifest", manifest(folder) | {"files": {name: "0" * 64}})
    with pytest.raises(DamagedError, match="leads out of the folder"):
        verify(folder)
    assert csp_al("status", str(stranger)).exit_code == 2


@pytest.mark.parametrize("place", ["pool/table.csv", "resolved.json", "tasks/x", "cycle-00/train.partial"])
def test_links_out_of_the_run_directory_are_followed_only_when_trusted(stranger, tmp_path, place):
    outside = tmp_path / "outside"
    (outside / "scratch").mkdir(parents=True)
    (outside / "scratch" / "mine").write_text("precious")
    path = stranger / place
    path.unlink(missing_ok=True)
    path.symlink_to(outside)
    (tmp_path / "al4.yaml").write_text(CAMPAIGN)
    refused = csp_al("run", str(tmp_path / "al4.yaml"), "--directory", str(stranger), "--slots", "1")
    assert refused.exit_code == 2
    assert f"{path} is a symbolic link out of the run directory" in refused.output
    assert (outside / "scratch" / "mine").read_text() == "precious"


def test_links_within_the_run_directory_and_to_it_are_fine(stranger, tmp_path):
    (stranger / "best").symlink_to("winners")
    (tmp_path / "link").symlink_to(stranger)
    refuse_links(stranger)
    refuse_links(tmp_path / "link")


def test_lock_that_is_a_trap_is_not_written_through(stranger, tmp_path):
    (tmp_path / "precious").write_text("mine")
    (stranger / "LOCK").symlink_to(tmp_path / "precious")
    assert csp_al("status", str(stranger)).exit_code == 0
    (tmp_path / "al4.yaml").write_text(CAMPAIGN)
    assert csp_al("run", str(tmp_path / "al4.yaml"), "--directory", str(stranger), "--slots", "1").exit_code == 2
    assert (tmp_path / "precious").read_text() == "mine"


def test_links_that_lead_in_a_circle_and_pipes_are_refused(stranger):
    (stranger / "a").symlink_to("b")
    (stranger / "b").symlink_to("a")
    with pytest.raises(UntrustedError, match="a symbolic link"):
        refuse_links(stranger)
    (stranger / "a").unlink()
    (stranger / "b").unlink()
    (stranger / "tasks" / "worker-0.log").unlink(missing_ok=True)
    os.mkfifo(stranger / "tasks" / "worker-0.log")
    with pytest.raises(UntrustedError, match="neither a file nor a folder"):
        refuse_links(stranger)


def test_file_that_was_not_published_with_its_stage_is_not_read(stranger):
    folder = stranger / "winners"
    content = manifest(folder)
    del content["files"]["results.json"]
    write_sealed(folder / "manifest.json", "manifest", content)
    refused = csp_al("results", str(stranger))
    assert refused.exit_code == 2
    assert "results.json: it was not published with its stage" in refused.output


def test_linked_file_is_not_read_even_if_its_content_fits(stranger, tmp_path):
    path = stranger / "winners" / "results.json"
    shutil.copyfile(path, tmp_path / "copy.json")
    path.unlink()
    path.symlink_to(tmp_path / "copy.json")
    refused = csp_al("results", str(stranger))
    assert refused.exit_code == 2
    assert "a symbolic link, where a file was written" in refused.output


# --- content


def test_arrays_that_lead_elsewhere_or_stand_for_more_than_the_file_are_refused(tmp_path):
    path, secret = tmp_path / "structures.h5", tmp_path / "secret.h5"
    structures = Structures(np.arange(2), np.array([0, 1, 2]), np.ones(2, int), np.zeros((2, 3)), np.zeros((2, 3, 3)))
    save(secret, structures)
    tricks = {
        "link": lambda file: file.__setitem__("ids", h5py.ExternalLink(str(secret), "/ids")),
        "does not hold its own values": lambda file: file.create_dataset(
            "ids", (10**12,), dtype="i8", chunks=(1024,), compression="gzip"
        ),
        "holds float64": lambda file: file.create_dataset("ids", data=np.zeros(2)),
        "ptr does not say": lambda file: file.create_dataset("ids", data=np.arange(3)),
    }
    for words, trick in tricks.items():
        save(path, structures)
        with h5py.File(path, "a") as file:
            del file["ids"]
            trick(file)
        with pytest.raises(DamagedError, match=words):
            load(path, Structures)


def test_arrays_that_do_not_fit_together_are_refused(tmp_path):
    path = tmp_path / "structures.h5"
    whole = Structures(np.arange(2), np.array([0, 1, 3]), np.ones(3, int), np.zeros((3, 3)), np.zeros((2, 3, 3)))
    for name, value in (
        ("positions", np.zeros((2, 3))),
        ("cells", np.zeros((2, 3, 2))),
        ("ptr", np.array([0, 5, 3])),
        ("ptr", np.array([0, 0, 3])),
    ):
        save(path, Structures(**{**vars(whole), name: value}))
        with pytest.raises(DamagedError, match=r"positions|cells|ptr|without atoms"):
            load(path, Structures)


@pytest.mark.long
def test_a_thousand_files_with_forged_checksums_end_in_values_or_in_a_refusal(stranger, tmp_path):
    """No hang, no crash of a library, no error of another kind, whatever the bytes are."""
    rng, train = np.random.default_rng(1), stranger / "cycle-00" / "train"
    section = read_campaign_of(stranger).potential
    readers = [
        (stranger / "pool" / "structures.h5", lambda path: load(path, Structures)),
        (stranger / "cycle-00" / "label" / "labels.h5", lambda path: load(path, Labels)),
        (train / "weights.pt", lambda path: load_ensemble(path.parent, section, CPU)),
    ]
    refused = 0
    for number in range(1000):
        path, read = readers[number % 3]
        whole = path.read_bytes()
        path.write_bytes(corrupted(whole, rng))
        try:
            read(path)
        except (DamagedError, OtherVersionError):
            refused += 1
        path.write_bytes(whole)
    assert refused > 300


def corrupted(whole: bytes, rng: np.random.Generator) -> bytes:
    """Some stretches of bytes made random, or as large as they can be; cut short now and then."""
    content = bytearray(whole)
    for place in rng.integers(len(whole) - 8, size=rng.integers(1, 8)):
        length = int(rng.choice([1, 8]))
        content[place : place + length] = rng.bytes(length) if rng.random() < 0.6 else b"\xff" * length
    return bytes(content[: rng.integers(1, len(whole))] if rng.random() < 0.05 else content)


def test_names_of_a_stranger_are_printed_as_plain_text(stranger):
    folder = stranger / "winners"
    rows = json.loads((folder / "results.json").read_text())
    rows[0]["space_group"]["symbol"] = "[red]P1[/red]\x1b[2J"
    (folder / "results.json").write_text(json.dumps(rows))
    forge(folder)
    shown = csp_al("results", str(stranger))
    assert shown.exit_code == 0
    assert "[red]P1[/red]" in shown.output
    assert "\x1b" not in shown.output


def test_html_in_the_texts_of_a_run_stays_text_in_its_figures(stranger):
    opened, evil = open_run(stranger), "<script>alert(1)</script>"
    tables = [opened.labels, opened.pool_map(), opened.learning_curves]
    labels, points, curves = (table.assign(**dict.fromkeys(table.select_dtypes("object"), evil)) for table in tables)
    assert evil in set(labels["reason"])
    for figure in (parity(labels), pool_map(points), learning_curves(curves)):
        assert evil not in figure.to_html(include_plotlyjs=False)


@pytest.mark.parametrize("name", ["log.jsonl", "LOCK", "resolved.json", "winners/results.json", "pool/table.csv"])
def test_pipe_in_place_of_a_file_keeps_nobody_waiting(stranger, name):
    (stranger / name).unlink(missing_ok=True)
    os.mkfifo(stranger / name)
    assert csp_al("status", str(stranger)).exit_code in (0, 2)


def test_deeply_nested_settings_are_refused(stranger):
    (stranger / "resolved.json").write_text("[" * 100_000 + "]" * 100_000)
    refused = csp_al("status", str(stranger))
    assert refused.exit_code == 2
    assert "resolved.json: not readable" in refused.output
