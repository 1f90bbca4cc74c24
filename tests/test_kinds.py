"""What a package adds is found, keeps its contract and runs; whoever only looks at a run directory runs none of it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, get_args

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from jsonschema import Draft202012Validator
from pydantic import TypeAdapter, ValidationError
from typer.testing import CliRunner

from csp_al import kinds
from csp_al.campaign import Campaign, CampaignError, Pool, campaign_schema, campaign_template, read_campaign
from csp_al.campaign.open_section import Kept, OfKind
from csp_al.campaign.references import ReferenceSection
from csp_al.campaign.section import Section
from csp_al.campaign.sources import SourceSection
from csp_al.cli import app
from csp_al.cli.trust import refuse_code
from csp_al.engine.tasks import label_task
from csp_al.files import read_sealed, write_sealed
from csp_al.generate import generate_pool
from csp_al.generate.pool import is_symmetric
from csp_al.generate.sources import allot
from csp_al.importing import beside, find_named, here_too
from csp_al.interfaces import ReferenceKind, SourceKind
from csp_al.kinds import (
    OURS,
    POTENTIALS,
    REFERENCES,
    SOURCES,
    STRATEGIES,
    BrokenKindError,
    UnknownKindError,
    find,
    is_ours,
    names,
)
from csp_al.reference.references import reference_kind
from csp_al.report.doctor import examine
from csp_al.store.links import UntrustedError
from csp_al.store.opening import open_to_drive
from csp_al.store.run_directory import read_campaign_of
from csp_al.testing import check_reference, check_source

PACKAGE = Path(__file__).parent / "example_package"
MARK = "CSP_AL_EXAMPLE_IMPORTED"

SOURCE = "[{kind: strained, share: 0.25, strain: 0.2}]"
CAMPAIGN = f"""\
name: springs
seed: 3
pool:
  formula: Al4
  size: 16
  volume_per_atom: [14, 22]
  sources: {SOURCE}
reference: {{kind: springs, depth: 0.3, max_force: 10, max_fail_fraction: 0.9}}
potential: {{members: 2, features: 16, interactions: 2, cutoff: 5.0, steps: 30, batch_size: 8}}
relax: {{max_steps: 20}}
select: {{per_cycle: 6, clusters: 6}}
stop: {{top_k: 2, max_cycles: 1}}
finish: {{max_steps: 10}}
"""


def installed(folder: Path, entries: str, name: str = "csp_al_example") -> Path:
    """A folder for sys.path in which a package says that it is installed, as pip would leave it."""
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(entries)
    return folder


def entry_points_of(package: Path) -> str:
    """The entry points of a pyproject.toml as they stand in an installed package."""
    import tomllib

    groups = tomllib.loads((package / "pyproject.toml").read_text())["project"]["entry-points"]
    return "\n".join(
        f"[{group}]\n" + "\n".join(f"{name} = {value}" for name, value in points.items())
        for group, points in groups.items()
    )


@pytest.fixture(scope="module")
def places(tmp_path_factory) -> list[str]:
    """What must be on the path for the example package to be installed."""
    return [str(installed(tmp_path_factory.mktemp("site"), entry_points_of(PACKAGE))), str(PACKAGE)]


@pytest.fixture
def example(places, monkeypatch) -> None:
    """The example package, installed for this process and for those that it starts."""
    monkeypatch.setattr(sys, "path", [*places, *sys.path])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([*places, os.environ.get("PYTHONPATH", "")]))


def csp_al(places: list[str], *words: str, mark: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, with the example installed."""
    path = os.pathsep.join([*places, os.environ.get("PYTHONPATH", "")])
    env = os.environ | {"PYTHONPATH": path} | ({MARK: str(mark)} if mark else {})
    command = [sys.executable, "-P", "-m", "csp_al", *words]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def finished(places, tmp_path_factory) -> Path:
    """The run directory of a campaign with the example's reference and source. To be read, never written."""
    folder = tmp_path_factory.mktemp("springs")
    (folder / "springs.yaml").write_text(CAMPAIGN)
    run = folder / "run"
    words = ("run", str(folder / "springs.yaml"), "--directory", str(run), "--slots", "1", "--device", "cpu")
    ended = csp_al(places, *words)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return run


def problem_of(folder: Path, text: str) -> str:
    path = folder / "campaign.yaml"
    path.write_text(text)
    with pytest.raises(CampaignError) as caught:
        read_campaign(path)
    (problem,) = caught.value.problems
    return str(problem).splitlines()[0].removeprefix(f"{path}:")


# --- found


def test_kinds_of_a_package_are_found_by_name_and_by_import_path(example):
    for group, name, path in ((REFERENCES, "springs", "springs"), (SOURCES, "strained", "strained")):
        assert name in names(group)
        assert not is_ours(group, name)
        assert find(group, name) is find(group, f"csp_al_example.{path}.KIND")
    assert isinstance(find(REFERENCES, "springs"), ReferenceKind)
    assert isinstance(find(SOURCES, "strained"), SourceKind)


def test_potential_of_a_package_has_the_keys_of_its_kind_and_is_code_of_its_author(example, tmp_path):
    text = re.sub("potential: .*", "potential: {kind: fitted_emt}", CAMPAIGN).replace("sources:", "seeds: [] #")
    (tmp_path / "al4.yaml").write_text(re.sub("reference: .*", "reference: {kind: gpaw}", text))
    campaign = read_campaign(tmp_path / "al4.yaml")
    assert campaign.potential.lengths == 0.02
    with pytest.raises(UntrustedError, match=r"potential\.kind: fitted_emt"):
        refuse_code(campaign, tmp_path)


def test_kind_beside_the_place_where_one_starts_is_found_and_the_path_stays_as_it_was(tmp_path, monkeypatch):
    shutil.copyfile(PACKAGE / "csp_al_example" / "springs.py", tmp_path / "my_springs.py")
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    campaign = Campaign.model_validate(
        {"name": "a", "pool": {"formula": "Al4"}, "reference": {"kind": "my_springs.KIND", "depth": 0.2}}
    )
    assert campaign.reference.depth == 0.2
    assert sys.path == before


def test_kind_beside_the_campaign_file_is_found_from_anywhere_and_first(tmp_path, monkeypatch):
    text = (PACKAGE / "csp_al_example" / "springs.py").read_text()
    campaign, elsewhere = tmp_path / "campaign", tmp_path / "elsewhere"
    for folder in (campaign, elsewhere):
        folder.mkdir()
        (folder / "near_springs.py").write_text(f"{text}\nPLACE = {folder.name!r}\n")
    monkeypatch.syspath_prepend(elsewhere)
    monkeypatch.chdir(elsewhere)
    before = list(sys.path)
    file = campaign / "al4.yaml"
    file.write_text("name: a\npool: {formula: Al4}\nreference: {kind: near_springs.KIND, depth: 0.2}\n")
    assert read_campaign(file).reference.depth == 0.2
    assert sys.modules["near_springs"].PLACE == "campaign"
    assert sys.path == before
    said = CliRunner().invoke(app, ["validate", str(file)]).output
    taken, other = campaign / "near_springs.py", elsewhere / "near_springs.py"
    assert f"3:19: reference.kind: module near_springs is taken from {taken}, not from {other}" in said


def test_source_beside_the_campaign_file_is_the_same_in_every_process(tmp_path, monkeypatch):
    text = (PACKAGE / "csp_al_example" / "strained.py").read_text()
    for place, note in (("campaign", "beside"), ("elsewhere", "another")):
        (tmp_path / place).mkdir()
        (tmp_path / place / "near_source.py").write_text(text.replace("strained rows", note))
    monkeypatch.syspath_prepend(tmp_path / "elsewhere")
    sources = [{"kind": "near_source.KIND", "share": 1}]
    with beside(tmp_path / "campaign"), here_too():
        pool = Pool(formula="Al4", size=21, volume_per_atom=(14, 22), sources=sources)
        for workers in (1, 2):
            _, table = generate_pool(pool, 1, workers, folder=tmp_path / "campaign")
            assert set(table["note"]) == {"beside"}, workers


def test_calculator_beside_the_campaign_file_is_found_by_workers_and_by_resume(tmp_path, monkeypatch):
    campaign, elsewhere = tmp_path / "campaign", tmp_path / "elsewhere"
    campaign.mkdir()
    elsewhere.mkdir()
    (campaign / "beside_emt.py").write_text("def make():\n    from beside_helper import Helper\n    return Helper()\n")
    (campaign / "beside_helper.py").write_text("from ase.calculators.emt import EMT as Helper\n")
    (campaign / "al4.yaml").write_text(
        "name: al4\npool: {formula: Al4, size: 6, volume_per_atom: [14, 20], min_distance: {Al-Al: 2.4}}\n"
        "reference: {kind: ase, calculator: beside_emt.make}\n"
        "potential: {members: 2, features: 8, interactions: 1, cutoff: 4.0, steps: 5}\n"
        "select: {per_cycle: 4}\nstop: {top_k: 1, max_cycles: 1}\nfinish: {max_steps: 2}\n"
    )
    monkeypatch.chdir(elsewhere)
    options = ["--slots", "1", "--device", "cpu"]
    ran = CliRunner().invoke(app, ["run", "../campaign/al4.yaml", "--directory", "run", *options])
    assert ran.exit_code == 0, ran.output
    shutil.rmtree("run/winners")
    shutil.rmtree("run/tasks")
    shutil.move("run", tmp_path / "moved")
    again = CliRunner().invoke(app, ["resume", str(tmp_path / "moved"), "--trust", *options])
    assert again.exit_code == 0, again.output


def test_modules_of_one_name_beside_two_campaigns_are_two(tmp_path):
    for number in (1, 2):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "twofold.py").write_text(f"VALUE = {number}\n")
        with beside(folder):
            assert find_named("twofold.VALUE") == number


def test_folder_without_a_module_in_it_hides_no_package(tmp_path):
    (tmp_path / "wave").mkdir()
    with beside(tmp_path):
        assert callable(find_named("wave.open"))


@pytest.mark.parametrize("group", [POTENTIALS, REFERENCES, SOURCES])
def test_each_of_our_kinds_is_found_and_has_a_section_of_its_name(group):
    for name in OURS[group]:
        section = find(group, name).section
        assert name in section.model_fields["kind"].annotation.__args__


def test_campaign_tells_every_kind_that_it_asks_for():
    """Trust goes by `Campaign.kinds`: a section of some kind that it did not tell would run its author's code."""
    told = {"reference": REFERENCES, "potential": POTENTIALS, "pool.sources": SOURCES, "search_pool.sources": SOURCES}
    assert dict(open_sections(Campaign)) == told
    source = {"share": 0.1, "kind": "random"}
    pool = {"formula": "Al4", "sources": [source]}
    campaign = Campaign.model_validate(
        {"name": "a", "pool": pool, "search_pool": pool, "reference": {"kind": "gpaw"}, "potential": {"kind": "painn"}}
    )
    expected = [(REFERENCES, "gpaw"), (POTENTIALS, "painn"), (SOURCES, "random"), (SOURCES, "random")]
    assert campaign.kinds == [*expected, (STRATEGIES, "paper")]


def open_sections(section: type[Section], where: str = "") -> Iterator[tuple[str, str]]:
    """Keys of a section, and of those below it, whose values are sections of some kind, and their groups."""
    for key, field in section.model_fields.items():
        parts = list(parts_of(Annotated[field.annotation, *field.metadata, None]))
        marks = [part for part in parts if isinstance(part, OfKind)]
        if marks:
            yield f"{where}{key}", marks[0].group
        for part in parts:
            if isinstance(part, type) and issubclass(part, Section):
                yield from open_sections(part, f"{where}{key}.")


def parts_of(annotation: object) -> Iterator[object]:
    yield annotation
    for part in (*get_args(annotation), *getattr(annotation, "__metadata__", ())):
        yield from parts_of(part)


def test_unknown_kind_is_told_with_what_was_meant_and_where(tmp_path, example):
    with pytest.raises(UnknownKindError, match="unknown kind 'spring', did you mean springs"):
        find(REFERENCES, "spring")
    said = problem_of(tmp_path, CAMPAIGN.replace("kind: springs", "kind: sprngs"))
    assert said.startswith("8:19: reference.kind: unknown word sprngs, did you mean springs?")
    said = problem_of(tmp_path, CAMPAIGN.replace("kind: springs", "kind: xyzzy"))
    assert said.endswith("reference.kind: unknown word xyzzy; allowed: gpaw, espresso, vasp, ase, springs")
    said = problem_of(tmp_path, CAMPAIGN.replace("kind: strained", "kind: straned"))
    assert said.startswith("7:20: pool.sources[0].kind: unknown word straned, did you mean strained?")


def test_record_of_another_group_and_what_only_looks_like_a_record_are_no_kinds(tmp_path, monkeypatch):
    (tmp_path / "looks.py").write_text(
        "from csp_al.reference.gpaw import KIND as GPAW\nclass Like:\n    section = GPAW.section\nLIKE = Like()\n"
    )
    monkeypatch.chdir(tmp_path)
    for path, what in (("looks.LIKE", "Like"), ("csp_al.generate.random_cells.KIND", "SourceKind")):
        with pytest.raises(BrokenKindError, match=rf"{path}: of type {what}, not csp_al\.interfaces\.ReferenceKind"):
            find(REFERENCES, path)


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ("reference: {kind: gpaw, calculator: a.b}", "reference.calculator: unknown key here; it is one of kind ase"),
        ("reference: {kind: gpaw, ecutwfc: 30}", "reference.ecutwfc: unknown key; here it is cutoff, in eV"),
        ("reference: {kind: gpaw, cutof: 30}", "reference.cutof: unknown key, did you mean cutoff?"),
    ],
)
def test_key_of_another_kind_is_told_as_such(tmp_path, section, said):
    assert problem_of(tmp_path, f"name: a\npool: {{formula: Al4}}\n{section}\n").endswith(said)


def test_wrong_keys_of_a_packages_section_are_told_as_those_of_ours(tmp_path, example):
    said = problem_of(tmp_path, CAMPAIGN.replace("depth: 0.3", "deth: 0.3"))
    assert said == "8:28: reference.deth: unknown key, did you mean depth?"
    said = problem_of(tmp_path, CAMPAIGN.replace("depth: 0.3", "depth: -1"))
    assert said == "8:35: reference.depth: it must be above 0, not -1 (eV, of the well of a pair)"
    said = problem_of(tmp_path, CAMPAIGN.replace("strain: 0.2", "strain: much"))
    assert said.startswith('7:51: pool.sources[0].strain: a number is expected, not "much" (largest component')


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import not_installed_anywhere", "cannot be imported (ModuleNotFoundError: No module named 'not_installed"),
        ("KIND = 3", "of type int, not csp_al.interfaces.ReferenceKind"),
        ("", "cannot be imported (AttributeError"),
    ],
)
def test_package_that_is_broken_is_told_in_one_line_with_its_own_error(tmp_path, monkeypatch, code, said):
    installed(tmp_path, "[csp_al.references]\nfrail = frail_package:KIND\n", "frail")
    (tmp_path / "frail_package.py").write_text(code)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.delitem(sys.modules, "frail_package", raising=False)
    told = problem_of(
        tmp_path, CAMPAIGN.replace("springs,", "frail,").replace("[{kind: strained, share: 0.25, strain: 0.2}]", "[]")
    )
    assert told.startswith("8:19: reference.kind: frail")
    assert said in told
    with pytest.raises(ValueError, match="frail"):
        campaign_template("a", "Al4", "frail")
    ok, remedy = {what: (ok, remedy) for ok, what, remedy in examine()}[
        "csp_al.references: frail, of the package frail, does not work"
    ]
    assert not ok
    assert said in remedy
    references = campaign_schema()["properties"]["reference"]["oneOf"]
    (broken,) = [one for one in references if one.get("properties", {}).get("kind") == {"const": "frail"}]
    assert said in broken["description"]


def test_name_of_ours_stays_ours_and_two_packages_of_one_name_are_refused(tmp_path, monkeypatch):
    installed(tmp_path, "[csp_al.references]\ngpaw = one:KIND\nsame = one:KIND\n", "one")
    installed(tmp_path, "[csp_al.references]\nsame = other:KIND\n", "other")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    assert reference_kind(find(REFERENCES, "gpaw").section()).section.__name__ == "GpawReference"
    with pytest.raises(
        BrokenKindError, match=r"the package (one|other) .* and the package .* have a kind of this name"
    ):
        find(REFERENCES, "same")
    lines = {what: (ok, remedy) for ok, what, remedy in examine()}
    ok, remedy = lines["csp_al.references: gpaw, of the package one, is not used: the name is ours"]
    assert ok is None
    assert "kind: one.KIND" in remedy


def test_schema_and_template_know_the_kinds_of_packages(example, tmp_path):
    validator = Draft202012Validator(campaign_schema())
    reference = {"name": "a", "pool": {"formula": "Al4"}, "reference": {"kind": "springs", "depth": 0.3}}
    assert validator.is_valid(reference)
    assert not validator.is_valid(reference | {"reference": {"kind": "springs", "deth": 0.3}})
    assert validator.is_valid(reference | {"reference": {"kind": "my.module.KIND", "any": 1}})
    source = {"kind": "strained", "share": 0.5, "strain": 0.2}
    assert validator.is_valid(reference | {"pool": {"formula": "Al4", "sources": [source]}})
    assert not validator.is_valid(reference | {"pool": {"formula": "Al4", "sources": [source | {"share": 2}]}})
    for potential, valid in (
        ({"members": 3}, True),
        ({"kind": "painn", "members": 3}, True),
        ({"kind": "painn", "lengths": 0.1}, False),
        ({"kind": "fitted_emt", "lengths": 0.1}, True),
        ({"kind": "fitted_emt", "cutoff": 5.0}, False),
        ({"kind": "nosuch"}, False),
    ):
        assert validator.is_valid(reference | {"potential": potential}) is valid, potential
    text = campaign_template("a", "Al4", "springs")
    assert "one of: gpaw, espresso, vasp, ase, springs" in text
    (tmp_path / "a.yaml").write_text(text)
    assert read_campaign(tmp_path / "a.yaml").reference.distance == 2.8
    written = CliRunner().invoke(app, ["init", str(tmp_path / "b.yaml"), "--formula", "Al4", "--reference", "spring"])
    assert written.exit_code == 2
    assert "allowed: gpaw, espresso, vasp, ase, springs" in written.output


def test_section_without_a_kind_takes_the_default_where_there_is_one():
    adapter = TypeAdapter(Annotated[ReferenceSection, OfKind(REFERENCES, default="gpaw")])
    validator = Draft202012Validator(adapter.json_schema())
    for given, kind in (({"cutoff": 300}, "gpaw"), ({"kind": "espresso"}, "espresso")):
        assert adapter.validate_python(given).kind == kind
        assert validator.is_valid(given)
    assert not validator.is_valid({"ecutwfc": 30})
    with pytest.raises(ValidationError, match="ecutwfc"):
        adapter.validate_python({"ecutwfc": 30})


# --- contracts


def test_reference_of_the_example_keeps_its_contract(example, tmp_path):
    check_reference({"kind": "springs", "depth": 0.3}, bulk("Al"), tmp_path)


def test_reference_of_ours_keeps_its_contract(tmp_path):
    check_reference({"kind": "ase", "calculator": "ase.calculators.emt.EMT"}, bulk("Al"), tmp_path)


@pytest.mark.long
def test_gpaw_keeps_its_contract(tmp_path):
    coarse = {"cutoff": 300, "kspacing": 3, "parameters": {"convergence": {"density": 1e-6}}}
    check_reference({"kind": "gpaw", **coarse}, bulk("Si"), tmp_path)


def test_reference_whose_forces_are_not_derivatives_breaks_the_contract(tmp_path, monkeypatch):
    (tmp_path / "wrong_sign.py").write_text(
        "from ase.calculators.emt import EMT\n"
        "class Wrong(EMT):\n"
        "    def calculate(self, *args, **kwargs):\n"
        "        super().calculate(*args, **kwargs)\n"
        "        self.results['stress'] = -self.results['stress']\n"
    )
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AssertionError, match="stress along a random strain"):
        check_reference({"kind": "ase", "calculator": "wrong_sign.Wrong"}, bulk("Al", a=3.7), tmp_path)


@pytest.mark.parametrize("kind", ["strained", "random", "symmetric", "repeated"])
def test_sources_keep_their_contract(example, kind):
    check_source({"kind": kind, "share": 0.5}, {"formula": "Al4", "volume_per_atom": (14, 22)})


def test_given_cell_keeps_the_contract_of_a_source():
    check_source({"kind": "given_cell", "share": 0.5, "lengths": [4, 4, 4.5]}, {"formula": "Al4"})


def test_source_that_draws_from_elsewhere_breaks_the_contract(monkeypatch):
    elsewhere = np.random.default_rng(1)
    add_source(monkeypatch, lambda section, constraints, rng: crystal(constraints, elsewhere))
    with pytest.raises(AssertionError, match="the same random stream must give the same candidate"):
        check_source({"kind": "test.SOURCE", "share": 0.5}, {"formula": "Al4", "volume_per_atom": (14, 22)})


# --- the pool


def crystal(constraints, rng) -> Atoms:
    edge = (rng.uniform(*constraints.volume_per_atom) * 4) ** (1 / 3)
    return bulk("Al", a=edge, cubic=True)


def add_source(monkeypatch, make) -> None:
    """A source named test.SOURCE, for this process."""
    record = SourceKind(SourceSection, make)
    monkeypatch.setattr(kinds, "find_named", lambda path: {"test.SOURCE": record}[path])


def pool(**keys) -> Pool:
    return Pool.model_validate({"formula": "Al4", "size": 24, "volume_per_atom": (14, 22)} | keys)


def test_shares_of_sources_are_spread_over_the_pool_and_leave_the_rest_as_it_would_be(monkeypatch):
    add_source(monkeypatch, lambda section, constraints, rng: crystal(constraints, rng))
    mixed, table = generate_pool(pool(sources=[{"kind": "test.SOURCE", "share": 0.25}]), seed=1)
    assert table["origin"].value_counts()["test.SOURCE"] == 6
    where = np.flatnonzero(table["origin"] == "test.SOURCE")
    assert (np.diff(where) == 4).all()
    assert (table["origin"] == "symmetric").sum() == 9  # half of those that no source makes
    fewer, _ = generate_pool(pool(size=10, sources=[{"kind": "test.SOURCE", "share": 0.25}]), seed=1)
    np.testing.assert_array_equal(fewer.positions, mixed.take(np.arange(10)).positions)
    whole, its = generate_pool(pool(symmetric_fraction=0), seed=1)
    part, table = generate_pool(pool(symmetric_fraction=0, sources=[{"kind": "test.SOURCE", "share": 0.25}]), seed=1)
    same = np.flatnonzero(table["origin"] == "random")
    np.testing.assert_array_equal(part.take(same).positions, whole.take(same).positions)
    assert set(its["origin"]) == {"random"}


@pytest.mark.parametrize("shares", [(), (0.3,), (0.5, 0.5), (0.1, 0.2, 0.7), (0.05, 0.6)])
def test_every_share_is_kept_at_every_size(shares):
    turns = allot(shares, 500)
    for size in (1, 7, 100, 500):
        for number, share in enumerate(shares):
            assert abs(turns[:size].count(number) - share * size) < 1.5
    if sum(shares) == 1:
        assert None not in turns
    assert allot((), 40) == [None] * 40
    assert [is_symmetric(index, 0.5) for index in range(4)] == [False, True, False, True]


def test_shares_above_all_are_refused_at_their_place(tmp_path, example):
    two = "[{kind: strained, share: 0.7}, {kind: strained, share: 0.6}]"
    said = problem_of(tmp_path, CAMPAIGN.replace(SOURCE, two))
    assert said == "7:67: pool.sources[1].share: the shares add up to 1.3, above 1; lower them"


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda atoms: atoms[:3], "composition Al3, this pool takes Al4 only"),
        (lambda atoms: atoms.positions.fill(0.0) or atoms, "Al-Al 0.00 Å apart, allowed from"),
        (lambda atoms: atoms.positions.fill(np.nan) or atoms, "positions or cell not finite"),
        (lambda atoms: atoms.set_pbc((True, True, False)) or atoms, "not periodic in three directions"),
        (lambda atoms: atoms.set_cell(np.zeros((3, 3))) or atoms, "no periodic cell"),
        (lambda atoms: 1 / 0, "ZeroDivisionError: division by zero"),
    ],
)
def test_what_a_source_makes_is_checked_and_refused_with_its_name_and_index(monkeypatch, spoil, said):
    add_source(monkeypatch, lambda section, constraints, rng: spoil(crystal(constraints, rng)))
    with pytest.raises(ValueError, match=f"^candidate 0: source test.SOURCE: {said}"):
        generate_pool(pool(sources=[{"kind": "test.SOURCE", "share": 1.0}]), seed=1)


# --- a campaign, and trust


def test_campaign_with_a_packages_reference_and_source_runs_to_its_end(finished):
    results = json.loads((finished / "winners" / "results.json").read_text())
    assert results
    assert "strained" in (finished / "pool" / "table.csv").read_text()


def test_looking_at_a_run_imports_nothing_of_its_packages(finished, places, tmp_path):
    mark = tmp_path / "imported"
    for verb in (("status",), ("results",), ("export", "--format", "cif", "--to", str(tmp_path / "cif"))):
        looked = csp_al(places, verb[0], str(finished), *verb[1:], mark=mark)
        assert looked.returncode == 0, looked.stderr
        assert not mark.exists(), verb
    refused = csp_al(places, "resume", str(finished), mark=mark)
    assert refused.returncode == 2
    assert "reference.kind: springs" in refused.stderr
    assert "--trust" in refused.stderr
    assert not mark.exists()


def test_run_that_is_trusted_goes_on(finished, places, tmp_path):
    run, mark = tmp_path / "run", tmp_path / "imported"
    shutil.copytree(finished, run)
    shutil.rmtree(run / "winners")
    ended = csp_al(places, "resume", str(run), "--trust", "--slots", "1", "--device", "cpu", mark=mark)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert mark.exists()
    assert (run / "winners" / "results.json").read_bytes() == (finished / "winners" / "results.json").read_bytes()


def test_section_that_is_kept_is_the_same_json_and_knows_no_more(finished, example):
    kept, real = read_campaign_of(finished), read_campaign_of(finished, trust=True)
    assert isinstance(kept.reference, Kept)
    assert isinstance(kept.pool.sources[0], Kept)
    assert not isinstance(real.reference, Kept)
    assert kept.model_dump(mode="json") == real.model_dump(mode="json")
    assert label_task(bulk("Al"), kept.reference) == label_task(bulk("Al"), real.reference)


def test_trusted_run_whose_package_is_gone_says_so(finished):
    shown = CliRunner().invoke(app, ["resume", str(finished), "--trust"])
    assert shown.exit_code == 2
    assert "unknown word strained" in shown.output


def test_source_that_is_not_ours_needs_trust_even_beside_a_reference_of_ours(finished):
    campaign = read_campaign_of(finished)
    ours = campaign.model_copy(update={"reference": find(REFERENCES, "gpaw").section()})
    with pytest.raises(UntrustedError, match=r"pool\.sources\.kind: strained"):
        refuse_code(ours, finished)


def test_key_that_a_package_adds_later_changes_nothing_of_a_run(finished, example, tmp_path):
    run, told = tmp_path / "run", []
    shutil.copytree(finished, run)
    settings = read_sealed(run / "resolved.json", "settings")
    del settings["campaign"]["reference"]["distance"]
    write_sealed(run / "resolved.json", "settings", settings)
    source = finished.parent / "springs.yaml"
    campaign = open_to_drive(run, read_campaign(source), source, {}, mend=False, tell=told.append)
    assert told == []
    assert campaign.reference.distance == 2.8
    assert "distance" not in label_task(bulk("Al"), campaign.reference).inputs["reference"]
