"""What the README shows is true of what is shipped."""

import re
from pathlib import Path

import pytest

from csp_al.campaign import read_campaign
from csp_al.cli import app

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


def test_the_worked_campaign_file_is_the_shipped_one(tmp_path):
    shown = tmp_path / "shown.yaml"
    shown.write_text(blocks("yaml")[0])
    assert read_campaign(shown) == read_campaign(ROOT / "campaigns" / "al8-emt.yaml")


@pytest.mark.parametrize("name", sorted(path.name for path in (ROOT / "campaigns").glob("*.yaml")))
def test_every_shipped_campaign_is_in_the_table(name):
    assert f"`campaigns/{name}`" in README


def test_every_verb_is_explained():
    verbs = {command.name or command.callback.__name__ for command in app.registered_commands}
    assert [verb for verb in sorted(verbs) if f"csp-al {verb}" not in README] == []
