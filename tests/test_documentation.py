"""What the documentation shows is true: it is built without a warning, its snippets are read, run or parsed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path
from pydoc import locate

import pytest
import typer
from documented import DOCS, ROOT, blocks, cluster_file, commands, spans
from ruamel.yaml import YAML
from small_run import TINY
from test_kinds import PACKAGE, entry_points_of, installed

import csp_al
from csp_al import kinds
from csp_al.campaign import Campaign, read_campaign
from csp_al.campaign.machine import read_machine
from csp_al.campaign.open_section import marker_of
from csp_al.cli import app
from csp_al.importing import find_named
from csp_al.report.plan import describe_plan, plan
from csp_al.report.runs import Runs
from csp_al.report.tables import Run

NEEDED = {
    "name": "shown",
    "pool": {"formula": "Al8"},
    "reference": {"kind": "ase", "calculator": "ase.calculators.emt.EMT"},
}
"""What a campaign needs beside the sections that a page shows."""
SHIPPED = {path.stem: path for path in sorted((ROOT / "campaigns").rglob("*.yaml"))}
FOLDERS = ("analysis/", "campaigns/", "csp_al/", "docs/", "tests/", ".ci/")
STAND_FOR = {"ID": "17", "N": "3"}
"""Words in commands that stand for numbers."""
FIRST = "docs/tutorials/first-search.md"


@pytest.fixture
def example(tmp_path, monkeypatch) -> None:
    """The example package, as if it were installed."""
    monkeypatch.setattr(
        sys, "path", [str(installed(tmp_path / "site", entry_points_of(PACKAGE))), str(PACKAGE), *sys.path]
    )


# --- blocks of code


@pytest.mark.parametrize("block", blocks("yaml"), ids=str)
def test_yaml_can_be_read(block, example, tmp_path):
    content = YAML(typ="safe").load(block.text)
    path = tmp_path / "shown.yaml"
    path.write_text(block.text)
    if not set(content) <= set(Campaign.model_fields):
        assert _holds(read_machine(str(path)).written(), content)
    elif "name" in content:
        campaign = read_campaign(path)
        if campaign.name in SHIPPED:
            assert campaign == read_campaign(SHIPPED[campaign.name])
    else:
        Campaign.model_validate(NEEDED | content)


def _holds(written: dict[str, object], said: dict[str, object]) -> bool:
    """Whether all that is said is written, but for programs: a name and a list of one name are the same."""
    return all(
        _holds(written[key], value) if isinstance(value, dict) else written[key] == value
        for key, value in said.items()
        if key != "programs"
    )


@pytest.mark.parametrize("page", sorted({block.page for block in blocks("python")}))
def test_python_runs(page, finished_run, tmp_path, monkeypatch, capsys):
    for name in ("al4", "si8-seed-1", "si8-seed-2"):
        shutil.copytree(finished_run, tmp_path / "runs" / name)
    (tmp_path / "al2.yaml").write_text(TINY)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "shown"}
    for block in blocks("python"):
        if block.page == page:
            exec(compile(block.text, str(block), "exec"), names)
    if page == FIRST:
        assert "energy_per_atom" in capsys.readouterr().out


@pytest.mark.parametrize("block", blocks("bash", "console"), ids=str)
def test_commands_can_be_given(block):
    for words in commands(block):
        for words_of_ours in _ours(words):
            _parse(words_of_ours)
        if words[:2] == ["python", "-m"]:
            assert find_named(f"{words[2]}.__name__") == words[2]
        assert [word for word in words if word.startswith(FOLDERS) and not (ROOT / word).exists()] == []


def test_ini_text_and_toml_are_not_commands_in_disguise():
    assert [str(block) for block in blocks("text", "ini") if re.search(r"^\s*csp-al ", block.text, re.MULTILINE)] == []


def _ours(words: list[str]) -> list[list[str]]:
    """The words of each call of csp-al in a command, also of one that another command is given."""
    if Path(words[0]).name == "csp-al":
        return [words[1 : words.index(">")] if ">" in words else words[1:]]
    return [inner for word in words if word.startswith("csp-al ") for inner in _ours(word.split())]


def _parse(words: list[str]) -> None:
    """Let typer read the words as it would, and run nothing. Raises its UsageError."""
    command, context = _verb(words)
    rest = words[len(context.command_path.split()) - 1 :]
    command.make_context(words[0], [STAND_FOR.get(word, word) for word in rest])


def _verb(words: list[str]):
    """The command of a verb, and the context of it."""
    command = typer.main.get_command(app)
    context = typer.Context(command, info_name="csp-al")
    for word in words:
        if not hasattr(command, "get_command") or word.startswith("-"):
            break
        command = command.get_command(context, word)
        assert command is not None, f"csp-al {' '.join(words)}: there is no verb {word}"
        context = typer.Context(command, info_name=word, parent=context)
    return command, context


# --- names in the text


def test_verbs_and_options_in_the_text_exist():
    seen = 0
    for page, code in spans():
        if code.split()[0] != "csp-al" or len(code.split()) == 1:
            continue
        words = code.split()[1:]
        command, context = _verb([word for word in words if word != "FILE"] if words[0] == "FILE" else words)
        known = {name for one in command.get_params(context) for name in (*one.opts, *one.secondary_opts)}
        assert [word for word in words if word.startswith("-") and word not in known] == [], f"{page}: {code}"
        seen += 1
    assert seen > 40


def test_files_in_the_text_exist():
    named = [(page, code) for page, code in spans() if code.startswith(FOLDERS) and "NAME" not in code]
    tests = [(page, f"tests/{code}") for page, code in spans() if re.fullmatch(r"test_\w+\.py", code)]
    assert len(named) > 20
    assert len(tests) > 20
    assert [(page, name) for page, name in named + tests if not (ROOT / name.split()[0]).exists()] == []


def test_keys_in_the_text_exist():
    found = [(page, key) for page, code in spans() if (key := re.match(r"(\w+)\.(\w+)(?!\S*/)\b(?!\.\w+\.)", code))]
    keys = [(page, key[1], key[2]) for page, key in found if key[1] in Campaign.model_fields]
    assert len(keys) > 15
    assert [(page, section, key) for page, section, key in keys if key not in _keys(section)] == []


@cache
def _keys(section: str) -> set[str]:
    """The keys of a section of the campaign file, whatever its kind."""
    field = Campaign.model_fields[section]
    if mark := marker_of(field):
        sections = [kinds.find(mark.group, kind).section for kind in kinds.names(mark.group)]
    else:
        sections = [Campaign.model_fields["pool" if section == "search_pool" else section].annotation]
    return {key for one in sections for key in one.model_fields}


def test_python_names_in_the_text_exist():
    names = {code for _, code in spans() if re.fullmatch(r"csp_al(\.\w+)+", code)} - set(kinds.OURS)
    assert len(names) > 2
    assert sorted(name for name in names if locate(name) is None) == []
    of_runs = {code for _, code in spans() if re.fullmatch(r"Runs?\.\w+", code)}
    assert of_runs
    assert [name for name in of_runs if not hasattr(*_of_class(name, {"Run": Run, "Runs": Runs}))] == []


def _of_class(name: str, classes: dict[str, type]) -> tuple[type, str]:
    owner, _, attribute = name.partition(".")
    return classes[owner], attribute


def test_extras_are_those_of_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    texts = [*(block.text for block in blocks("bash")), *(code for _, code in spans())]
    lists = [found for text in texts for found in re.findall(r"(?:csp_al|'\.)\[([\w,]+)\]", text)]
    named = {name for found in lists for name in found.split(",")}
    assert named
    assert named <= set(project["optional-dependencies"])
    install = (DOCS / "how-to/install.md").read_text()
    assert [name for name in project["optional-dependencies"] if f"| `{name}` |" not in install] == []


# --- what is promised as a whole


def test_every_verb_is_explained():
    text = (DOCS / "reference/commands.md").read_text()
    verbs = {command.name or command.callback.__name__ for command in app.registered_commands}
    assert [verb for verb in sorted(verbs) if f"csp-al {verb}" not in text] == []


def test_every_name_of_the_package_and_every_notebook_is_explained():
    python = (DOCS / "reference/python.md").read_text()
    assert [name for name in csp_al.__all__ if f"csp_al.{name}" not in python] == []
    notebooks = (DOCS / "how-to/notebooks.md").read_text()
    assert [
        path.name for path in (ROOT / "analysis").glob("*.py") if f"| `analysis/{path.name}` |" not in notebooks
    ] == []


@pytest.mark.parametrize("name", sorted(path.name for path in (ROOT / "campaigns").glob("*.yaml")))
def test_every_shipped_campaign_is_in_the_table(name):
    assert f"`campaigns/{name}`" in (DOCS / "reference/campaigns.md").read_text()


def test_every_shipped_campaign_can_be_read_and_planned(tmp_path):
    shutil.copytree(ROOT / "campaigns", tmp_path / "campaigns")
    for run in ("si16", "al4o6"):  # what the two transfers begin with
        (tmp_path / "runs" / run).mkdir(parents=True)
    names = []
    for path in sorted((tmp_path / "campaigns").rglob("*.yaml")):
        campaign = read_campaign(path)
        names.append(campaign.name)
        assert describe_plan(plan(campaign, None)).startswith(f"{path.stem}: ")
    assert len(names) == len(set(names)) == 44


def test_the_cluster_that_is_shown_computes_four_labels_at_once(tmp_path):
    (tmp_path / "mycluster.yaml").write_text(cluster_file())
    assert read_machine(str(tmp_path / "mycluster.yaml")).labels_at_once == 4


@pytest.mark.long
def test_the_site_is_built_without_a_warning_and_loads_nothing_from_elsewhere(tmp_path):
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", str(DOCS), str(tmp_path)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    pages = {path: path.read_text(encoding="utf-8") for path in tmp_path.rglob("*.html")}
    assert len(pages) > 30
    outside = re.compile(r"""(?:src=|<link[^>]*href=|@import |url\()["']?(https?:|//)""")
    sheets = {path: path.read_text(encoding="utf-8") for path in tmp_path.rglob("*.css")}
    assert [path.name for path, text in (pages | sheets).items() if outside.search(text)] == []
    keys = pages[tmp_path / "reference/campaign-file.html"]
    for section, field in Campaign.model_fields.items():
        assert f">{section}<" in keys
        for key in _keys(section) if marker_of(field) else ():
            assert f">{key}<" in keys, f"{section}.{key}"
    assert "csp_al.open_run" in pages[tmp_path / "reference/python.html"]
    assert "--control-size" in pages[tmp_path / "reference/commands.html"]


@pytest.mark.long
def test_the_first_tutorial_works_to_the_letter(tmp_path):
    own = [block for block in blocks("yaml", "bash") if block.page == FIRST]
    (campaign,) = [block for block in own if block.language == "yaml"]
    (tmp_path / "al4.yaml").write_text(campaign.text)
    said = {}
    for words in (words for block in own if block.language == "bash" for words in commands(block)):
        if words[0] == "csp-al":
            said[words[1]] = _run(words, tmp_path)
    assert "fine" in said["validate"]
    assert "Judgement: settled" in said["run"]
    assert "P6_3/mmc" in said["results"]
    assert (tmp_path / "runs/al4/report.html").stat().st_size > 1e6
    assert list((tmp_path / "export/al4/winners-cif").glob("*.cif"))
    assert (tmp_path / "export/al4/winners.extxyz").is_file()


def _run(words: list[str], folder: Path) -> str:
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "csp_al", *words[1:]]
    ended = subprocess.run(
        command, cwd=folder, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, f"{' '.join(words)}: {ended.stdout}{ended.stderr}"
    return ended.stdout
