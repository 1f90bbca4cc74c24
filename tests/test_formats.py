"""A run directory written once opens in every later version, whatever keys, stages and defaults have come since.

One of each format is kept: tests/data/run-format-N, of the campaign file inside.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic.fields import FieldInfo
from typer.testing import CliRunner

from csp_al import formats
from csp_al.benchmark.control import random_search
from csp_al.campaign import Campaign, Section, read_campaign
from csp_al.campaign.machine import Machine
from csp_al.campaign.models import Budget, Finish, Pool, Relax, Select, Stop
from csp_al.cli import app
from csp_al.engine.engines import start_engine
from csp_al.engine.tasks import label_task, task_id
from csp_al.files import SEAL, DamagedError, OtherVersionError, read_sealed, write_sealed
from csp_al.hdf5 import load
from csp_al.interfaces import Engine
from csp_al.potential.ensemble import load_ensemble
from csp_al.potential.schnet import SchnetPotential
from csp_al.potential.training import steps_for
from csp_al.reference.ase_calculator import AseReference
from csp_al.reference.espresso import EspressoReference
from csp_al.reference.gpaw import GpawReference
from csp_al.report.tables import open_run
from csp_al.store import layout, run_directory
from csp_al.store.changes import ChangedError
from csp_al.store.opening import open_to_drive
from csp_al.store.repair import refuse_damage
from csp_al.store.run_directory import read_campaign_of
from csp_al.store.stages import manifest
from csp_al.structures import Labels

DATA = Path(__file__).parent / "data"
FORMATS = ("run-format-2", "run-format-3", "run-format-4", "run-format-5", "run-format-6")
SECTIONS = (Pool, SchnetPotential, Relax, Select, Stop, Finish, Budget, AseReference, Campaign)
REFERENCES = (
    {"kind": "gpaw"},
    {"kind": "espresso", "pseudopotentials": {"Al": "Al.upf"}},
    {"kind": "ase", "calculator": "ase.calculators.emt.EMT"},
)


@pytest.fixture(params=FORMATS)
def run(request, tmp_path) -> Path:
    """A copy of the kept run directory of each format, with its campaign file at its side."""
    shutil.copytree(DATA / request.param, tmp_path / "al2")
    shutil.copyfile(DATA / request.param / "campaign.yaml", tmp_path / "al2.yaml")
    return tmp_path / "al2"


@pytest.fixture
def define() -> Iterator[Callable[..., None]]:
    """Gives a section a key with a default, new or other than it was, as a later version would."""
    before: list[tuple[type[Section], dict[str, FieldInfo]]] = []

    def rebuild() -> None:
        for section in (Pool, SchnetPotential, Relax, Select, Stop, Finish, Budget, AseReference):
            section.model_rebuild(force=True)
        for section in (GpawReference, EspressoReference, Campaign):
            section.model_rebuild(force=True)

    def define(section: type[Section], key: str, default: object, annotation: object = int) -> None:
        before.append((section, dict(section.model_fields)))
        section.model_fields[key] = FieldInfo(annotation=annotation, default=default)
        rebuild()

    yield define
    for section, keys in reversed(before):
        section.model_fields.clear()
        section.model_fields.update(keys)
    rebuild()


def csp_al(*words: str):
    return CliRunner().invoke(app, list(words))


def go_on(run: Path, change: Callable[[str], str] = lambda text: text) -> tuple[Campaign, list[str]]:
    """Open the run directory with its campaign file, as the driver does; the campaign to go on with, what is told."""
    source, told = run.with_name("al2.yaml"), []
    source.write_text(change(source.read_text()))
    return open_to_drive(run, read_campaign(source), source, {}, mend=False, tell=told.append), told


def label_ids(run: Path, campaign: Campaign) -> list[str]:
    """Ids of the tasks that would be asked for the labels of all cycles."""
    labels = [load(run / f"cycle-{cycle:02d}" / "label" / "labels.h5", Labels) for cycle in (0, 1)]
    return [task_id(label_task(atoms, campaign.reference)) for part in labels for atoms in part.structures.to_atoms()]


def written_ids(run: Path) -> list[str]:
    return [name for cycle in (0, 1) for name in json.loads((run / f"cycle-0{cycle}/label/tasks.json").read_text())]


def load_weights(run: Path, campaign: Campaign) -> None:
    load_ensemble(run / "cycle-01" / "train", campaign.potential, torch.device("cpu"))


def assert_stands(run: Path) -> None:
    """The run is whole, and goes on with the campaign, the tasks and the weights that it has."""
    settings = read_sealed(run / "resolved.json", "settings")
    refuse_damage(run)
    campaign, told = go_on(run)
    assert not any(words.startswith("Changed") for words in told)
    assert label_ids(run, campaign) == written_ids(run)
    assert all((run / "tasks" / name / "result.json").is_file() for name in written_ids(run))
    load_weights(run, campaign)
    run_directory.prepare(run, campaign, None, {})
    assert read_sealed(run / "resolved.json", "settings") == settings


# --- what is kept


@pytest.mark.parametrize(
    ("name", "energies", "groups"),
    [
        ("run-format-2", [0.0019456615027437785], ["Im-3m"]),
        ("run-format-3", [-0.004306209283313045, 0.0022923204671188024], ["I4/mmm", "Im-3m"]),
        ("run-format-4", [-0.004306209283313045, 0.0022923204671188024], ["I4/mmm", "Im-3m"]),
        ("run-format-5", [-0.004306209283313045, 0.0022923204671188024], ["I4/mmm", "Im-3m"]),
        ("run-format-6", [-0.004306209283313045, 0.0022923204671188024], ["I4/mmm", "Im-3m"]),
    ],
)
def test_run_directory_of_every_format_is_read_as_it_was_written(name, energies, groups, tmp_path):
    run = tmp_path / "al2"
    shutil.copytree(DATA / name, run)
    opened = open_run(run)
    assert opened.results["energy_per_atom"].tolist() == energies
    assert opened.results["space_group_symbol"].tolist() == groups
    assert opened.labels.groupby("cycle").size().tolist() == [4, 4]
    assert (opened.labels["status"] == "done").all()
    assert len(opened.pool) == len(opened.ranking(0)) == len(opened.ranking(1)) == 12
    assert opened.reference_evaluations == opened.summary["evaluations"]["all"]
    assert np.isfinite(opened.all_labels.forces).all()
    assert opened.walk_forward(1)["compared"] == 4
    assert len(opened.learning_curves) > 0
    state = json.loads(csp_al("status", str(run), "--json").output)
    assert (state["state"], state["cycle"], state["labels"]["done"]) == ("finished", 1, 8)
    assert csp_al("export", str(run), "--format", "cif,extxyz", "--to", str(tmp_path / "out")).exit_code == 0


def test_run_directory_of_every_format_goes_on_with_its_own_short_file(run):
    file = run.with_name("al2.yaml")
    file.write_text(file.read_text().replace("max_cycles: 2", "max_cycles: 3"))
    ended = csp_al("run", str(file), "--directory", str(run), "--slots", "1", "--device", "cpu")
    assert ended.exit_code == 0, ended.output
    assert "cycle 2, labels 12, failed 0" in ended.output
    assert "cycle 1: training" not in ended.output


def test_run_directory_of_every_format_stands(run):
    assert_stands(run)


@pytest.mark.parametrize("section", SECTIONS)
def test_key_that_came_later_changes_nothing_of_a_run(run, section, define):
    define(section, "later", 7)
    campaign = read_campaign_of(run)
    sections = [campaign, *(value for _, value in campaign)]
    assert [value.later for value in sections if isinstance(value, section)] == [7]
    assert_stands(run)


@pytest.mark.parametrize("content", REFERENCES, ids=lambda content: content["kind"])
def test_key_of_a_reference_that_came_later_changes_no_task(content, define):
    kinds = {"gpaw": GpawReference, "espresso": EspressoReference, "ase": AseReference}
    kind = kinds[content["kind"]]
    before = kind.recall(kind.model_validate(content).model_dump(mode="json")).written()
    define(kind, "later", 7)
    recalled = kind.recall(before)
    assert recalled.written() == before
    assert recalled.model_copy(update={"max_force": 5.0}).written() == before | {"max_force": 5.0}
    assert recalled.model_copy(update={"later": 8}).written() == before | {"later": 8}
    assert kind.model_validate(content).written() == before | {"later": 7}


def test_stage_that_came_later_is_not_missed_in_a_run(run, monkeypatch):
    monkeypatch.setattr(run_directory, "STAGES", (*run_directory.STAGES, "grow"))
    assert_stands(run)


@pytest.mark.parametrize("lost", ["pool", "cycle-00/relax", "cycle-00/select", "cycle-01/rank"])
def test_stage_that_another_one_needs_is_missed(run, lost):
    shutil.rmtree(run / lost)
    with pytest.raises(DamagedError, match=f"{lost}: the stage is missing"):
        refuse_damage(run)


def test_stage_names_those_that_it_needs():
    kept = DATA / "run-format-3"
    assert manifest(kept / "cycle-01" / "label")["needs"] == ["cycle-00/select"]
    assert manifest(DATA / "run-format-2" / "cycle-01" / "label")["needs"] is None


def test_need_that_leads_out_of_the_run_directory_is_damage(run):
    folder = run / "cycle-01" / "label"
    content = manifest(folder)
    for needs in (["../elsewhere"], ["/etc"], [1], "pool"):
        write_sealed(folder / "manifest.json", "manifest", content | {"needs": needs})
        with pytest.raises(DamagedError, match=r"label/manifest\.json"):
            manifest(folder)


@pytest.mark.parametrize(
    ("content", "place", "text"),
    [
        (layout.VERDICT, "cycle-00/verdict", "{"),
        (layout.VERDICT, "cycle-00/verdict", "{}"),
        (layout.RANKING, "cycle-00/rank", ""),
        (layout.CHECK, "check", "\xff"),
        (layout.CHECK, "check", None),
    ],
)
def test_file_of_a_stage_that_is_not_what_was_written_is_damage(run, content, place, text):
    path = run / place / content.name
    path.unlink()
    if text is not None:
        path.write_bytes(text.encode("latin-1"))
    with pytest.raises(DamagedError, match=re.escape(str(path))):
        content.read(run / place)


# --- defaults


def test_run_keeps_the_defaults_that_it_began_with_and_says_so(run, define):
    define(Relax, "max_steps", 555)
    campaign, told = go_on(run)
    assert campaign.relax.max_steps == 300
    assert "Kept: relax.max_steps stays 300, as this run began (the default is 555 now)" in told
    last = json.loads((run / "log.jsonl").read_text().splitlines()[-1])
    assert last["event"] == "defaults kept"
    assert [f"Kept: {words}" for words in last["kept"]] == told
    assert_stands(run)


def test_defaults_that_were_others_when_the_run_began_are_kept(tmp_path):
    run = tmp_path / "al2"
    shutil.copytree(DATA / "run-format-2", run)
    shutil.copyfile(run / "campaign.yaml", tmp_path / "al2.yaml")
    campaign, told = go_on(run)
    assert (campaign.potential.learning_rate, campaign.select.force_weight) == (2e-3, 0.5)
    assert "Kept: potential.learning_rate stays 0.002, as this run began (the default is 0.005 now)" in told


@pytest.mark.parametrize("run", FORMATS[:3], indirect=True)  # the next one began with steps_per_label
def test_run_trains_all_steps_however_few_its_labels_are_if_it_began_so(run):
    campaign, told = go_on(run)
    section = campaign.potential
    assert section.steps == section.steps_per_label == 30
    assert "Kept: potential.steps_per_label stays 30.0, as this run began (the default is 10.0 now)" in told
    assert steps_for(1, section) == steps_for(100, section) == 30


@pytest.mark.parametrize("written", ["", "volume_per_atom: null, "])  # the latter as `csp-al init` writes it
def test_volumes_from_covalent_radii_are_kept_by_a_run_that_began_with_them(written, tmp_path):
    run = tmp_path / "al2"
    shutil.copytree(DATA / "run-format-4", run)
    settings = json.loads((run / "resolved.json").read_text())
    del settings[SEAL]
    settings["campaign"]["pool"]["volume_per_atom"] = None
    write_sealed(run / "resolved.json", "settings", settings)  # of the format that it says, 2
    for file in (run / "campaign.yaml", run.with_name("al2.yaml")):
        file.write_text(
            (DATA / "run-format-4" / "campaign.yaml").read_text().replace("volume_per_atom: [13, 23], ", written)
        )
    campaign, told = go_on(run)
    assert campaign.pool.volume_per_atom == (8.905, 33.393)  # 1.2 and 4.5 spheres of 1.21 Å
    assert any("pool.volume_per_atom stays" in words for words in told), told
    assert not any(words.startswith("Changed") for words in told)


def test_run_whose_settings_are_lost_keeps_the_training_that_its_weights_tell(run):
    before = read_campaign_of(run).potential
    (run / "resolved.json").write_text("{")
    source, told = run.with_name("al2.yaml"), []
    campaign = open_to_drive(run, read_campaign(source), source, {}, mend=True, tell=told.append)
    assert campaign.potential == read_campaign_of(run).potential == before
    load_weights(run, campaign)


def test_key_that_the_file_gives_is_taken_from_it_though_it_is_the_default(run, define):
    define(Relax, "max_steps", 555)
    with pytest.raises(ChangedError, match=r"relax\.max_steps: 300 then, 555 now"):
        go_on(run, change=lambda text: text.replace("relax: {", "relax: {max_steps: 555, "))


def test_null_in_place_of_a_value_is_a_change(run):
    with pytest.raises(ChangedError, match=r"pool\.volume_per_atom: \[13\.0, 23\.0\] then, None now"):
        go_on(run, change=lambda text: text.replace("[13, 23]", "null"))


def test_key_that_is_taken_out_of_the_file_goes_back_to_its_default(run):
    with pytest.raises(ChangedError, match=r"potential\.steps: 30 then, 3000 now"):
        go_on(run, change=lambda text: text.replace(", steps: 30", ""))


@pytest.mark.parametrize("copy", [None, "pool: [", "- a list"])
def test_without_its_own_copy_of_the_file_a_run_keeps_all_that_the_file_does_not_give(run, copy):
    own = run / "campaign.yaml"
    own.unlink()
    if copy is not None:
        own.write_text(copy)
    campaign, told = go_on(run, change=lambda text: text.replace(", steps: 30", ""))
    assert campaign.potential.steps == 30
    assert "Kept: potential.steps stays 30, as this run began (the default is 3000 now)" in told


def test_harmless_default_that_changes_is_kept_too(run, define):
    define(Finish, "max_steps", 9)
    define(Budget, "labels", 4)
    campaign, told = go_on(run)
    assert campaign.budget.labels == 1500
    assert "Kept: budget.labels stays 1500, as this run began (the default is 4 now)" in told
    assert (run / "winners").is_dir()


def test_run_that_is_refused_stays_as_it_is(run, define):
    def files() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}

    before = files()
    define(Relax, "max_steps", 555)
    with pytest.raises(ChangedError, match=r"pool\.size: 12 then, 13 now"):
        go_on(run, change=lambda text: text.replace("size: 12", "size: 13"))
    assert files() == before
    file = run.with_name("al2.yaml")
    file.write_text((run / "campaign.yaml").read_text().replace("max_cycles: 2", "max_cycles: 3"))
    ended = csp_al("run", str(file), "--directory", str(run), "--slots", "1", "--device", "nonsense")
    assert (ended.exit_code, "no device is called 'nonsense'" in ended.output) == (2, True)
    assert files() == before


def test_what_may_be_code_is_not_kept_from_a_run_directory(run):
    settings = read_sealed(run / "resolved.json", "settings")
    settings["campaign"]["reference"]["parameters"] = {"command": "touch owned"}
    write_sealed(run / "resolved.json", "settings", settings)
    with pytest.raises(ChangedError, match=r"reference\.parameters\.command: 'touch owned' then, None now"):
        go_on(run)


@pytest.mark.parametrize(
    ("section", "change"),
    [
        ("potential", {"kind": "stranger.KIND"}),
        ("search_pool", {"formula": "Al2", "sources": [{"kind": "stranger.SOURCE", "share": 1}]}),
        ("select", {"strategy": "stranger.scores"}),
    ],
)
def test_kind_that_only_a_run_directory_names_is_no_default_that_it_keeps(run, tmp_path, monkeypatch, section, change):
    (tmp_path / "stranger.py").write_text(f"open({str(tmp_path / 'owned')!r}, 'w')")
    monkeypatch.chdir(tmp_path)
    settings = read_sealed(run / "resolved.json", "settings")
    settings["campaign"][section] = (settings["campaign"].get(section) or {}) | change
    write_sealed(run / "resolved.json", "settings", settings)
    own = run / "campaign.yaml"
    own.write_text(without_potential(own.read_text()))
    with pytest.raises(ChangedError, match=rf"{section}.*'stranger\..* then, .* now"):
        go_on(run, change=without_potential)
    assert not (tmp_path / "owned").exists()


def test_of_a_kind_that_is_not_ours_numbers_are_kept_and_no_texts(run, tmp_path, monkeypatch):
    (tmp_path / "theirs.py").write_text(
        "from csp_al.campaign.references import ReferenceSection\n"
        "from csp_al.interfaces import ReferenceKind\n"
        "class Theirs(ReferenceSection):\n"
        "    kind: str\n"
        "    width: float = 0.1\n"
        "    function: str = 'theirs.harmless'\n"
        "KIND = ReferenceKind(Theirs, build=None)\n"
    )
    monkeypatch.chdir(tmp_path)
    settings = read_sealed(run / "resolved.json", "settings")
    section = {"kind": "theirs.KIND", "time_limit": 60, "width": 0.2, "function": "theirs.harmless"}
    settings["campaign"]["reference"] = section
    write_sealed(run / "resolved.json", "settings", settings)

    def change(text: str) -> str:
        return text.replace("kind: ase, calculator: ase.calculators.emt.EMT", "kind: theirs.KIND")

    campaign, _ = go_on(run, change=change)
    assert campaign.reference.width == 0.2
    section["function"] = "os.mkdir"
    write_sealed(run / "resolved.json", "settings", settings)
    with pytest.raises(ChangedError, match=r"reference\.function: 'os\.mkdir' then, 'theirs\.harmless' now"):
        go_on(run)


def without_potential(text: str) -> str:
    return "".join(line for line in text.splitlines(keepends=True) if not line.startswith("potential:"))


# --- the table of formats


def test_older_content_is_upgraded_step_by_step(tmp_path, monkeypatch):
    path = tmp_path / "result.json"
    write_sealed(path, "result", {"format": 2, "energy": 1.0})
    monkeypatch.setitem(formats.VERSIONS, "result", 4)
    monkeypatch.setitem(formats.UPGRADES, ("result", 3), lambda content: {"words": f"{content['energies']} eV"})
    with pytest.raises(OtherVersionError, match="format 2, this version of csp_al reads 3 to 4"):
        read_sealed(path, "result")
    monkeypatch.setitem(formats.UPGRADES, ("result", 2), lambda content: {"energies": [content["energy"]]})
    assert read_sealed(path, "result") == {"words": "[1.0] eV"}


@pytest.mark.parametrize("version", [999, 1, 0, -3, "2", None, [2]])
def test_format_that_is_not_known_is_refused_in_one_line(tmp_path, version):
    path = tmp_path / "manifest.json"
    write_sealed(path, "manifest", {"format": version})
    with pytest.raises(OtherVersionError, match=r"manifest\.json: format .*, this version .* reads 2 to 3") as refused:
        read_sealed(path, "manifest")
    assert "\n" not in str(refused.value)


# --- controls of a benchmark


def control(campaign: Campaign, root: Path, engine: Callable[[Path], Engine]) -> Labels:
    return random_search(campaign, Path(), root, engine, lambda *_: None, size=2)


def compute(folder: Path) -> Engine:
    return start_engine(folder, Machine(slots=1))


def nothing(_: Path) -> Engine:
    raise AssertionError("nothing is to be computed")


def test_control_is_found_by_a_version_with_more_keys_and_not_with_another_value_of_one(tmp_path, define):
    file = DATA / "run-format-3" / "campaign.yaml"
    before = control(read_campaign(file), tmp_path, compute)
    define(AseReference, "later", 7)
    campaign = read_campaign(file)
    np.testing.assert_array_equal(control(campaign, tmp_path, nothing).energy, before.energy)
    other = campaign.model_copy(update={"reference": campaign.reference.model_copy(update={"later": 8})})
    with pytest.raises(AssertionError, match="nothing is to be computed"):
        control(other, tmp_path, nothing)


def test_control_that_does_not_say_what_it_is_of_is_found_by_its_digest(tmp_path):
    campaign = read_campaign(DATA / "run-format-3" / "campaign.yaml")
    before = control(campaign, tmp_path, compute)
    (about,) = tmp_path.glob("*/control.json")
    about.unlink()
    np.testing.assert_array_equal(control(campaign, tmp_path, nothing).energy, before.energy)
    assert about.is_file()
