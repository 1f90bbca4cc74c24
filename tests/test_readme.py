"""What the README shows is true of what is shipped."""

import re
import shutil
from pathlib import Path

import pytest
from pydantic import TypeAdapter
from ruamel.yaml import YAML

from csp_al.campaign import read_campaign
from csp_al.campaign.machine import Machine, read_machine
from csp_al.campaign.references import AnyReference
from csp_al.cli import app
from csp_al.report.plan import describe_plan, plan

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


def cluster_file() -> str:
    """The machine file of a cluster, which `test_cluster` runs."""
    (machine,) = [yaml for yaml in blocks("yaml") if yaml.startswith("engine:")]
    return machine


def test_the_worked_campaign_file_is_the_shipped_one(tmp_path):
    shown = tmp_path / "shown.yaml"
    shown.write_text(blocks("yaml")[0])
    assert read_campaign(shown) == read_campaign(ROOT / "campaigns" / "al8-emt.yaml")


@pytest.mark.parametrize("name", sorted(path.name for path in (ROOT / "campaigns").glob("*.yaml")))
def test_every_shipped_campaign_is_in_the_table(name):
    assert f"`campaigns/{name}`" in README


def test_every_reference_section_and_machine_shown_can_be_read(tmp_path):
    sections = [yaml for yaml in blocks("yaml")[1:] if yaml.startswith("reference:")]
    assert len(sections) == 5
    for section in sections:
        TypeAdapter(AnyReference).validate_python(YAML(typ="safe").load(section)["reference"])
    (machine,) = [yaml for yaml in blocks("yaml") if yaml.startswith("slots:")]
    assert Machine.model_validate(YAML(typ="safe").load(machine)).cores_per_label == 8
    (tmp_path / "mycluster.yaml").write_text(cluster_file())
    assert read_machine(str(tmp_path / "mycluster.yaml")).labels_at_once == 4


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


def test_every_verb_is_explained():
    verbs = {command.name or command.callback.__name__ for command in app.registered_commands}
    assert [verb for verb in sorted(verbs) if f"csp-al {verb}" not in README] == []
