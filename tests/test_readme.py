"""What the README shows is true of what is shipped, and short."""

import re
import subprocess

from documented import ROOT, blocks

from csp_al.campaign import read_campaign

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_it_is_read_in_minutes():
    assert len(README.splitlines()) <= 150


def test_the_worked_campaign_file_is_the_shipped_one(tmp_path):
    (campaign,) = [block for block in blocks("yaml") if block.page == "README.md"]
    (tmp_path / "shown.yaml").write_text(campaign.text)
    assert read_campaign(tmp_path / "shown.yaml") == read_campaign(ROOT / "campaigns" / "al8-emt.yaml")


def test_its_test_command_is_what_the_workflow_runs():
    extract = next(line for line in (ROOT / ".ci/run").read_text().splitlines() if line.startswith("command="))
    script = f'{extract}\nprintf %s "$command"'
    command = subprocess.run(["bash", "-euc", script], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert command == README.split("<!-- test command -->\n```bash\n")[1].split("\n```")[0]
    assert command.splitlines()[-1] == ".venv-test/bin/pytest -q"
    assert ".ci/run" in (ROOT / ".github/workflows/ci.yml").read_text()


def test_its_picture_is_small_and_every_link_leads_somewhere():
    for page in ("README.md", "CONTRIBUTING.md"):
        links = re.findall(r"\]\((?!https?:)([^)#]+)\)", (ROOT / page).read_text(encoding="utf-8"))
        assert links
        assert [link for link in links if not (ROOT / link).is_file()] == []
    assert 20_000 < (ROOT / "docs/pictures/report.png").stat().st_size < 200_000


def test_its_figures_are_those_of_the_measurements():
    measured = (ROOT / "docs/explanation/benchmarks.md").read_text(encoding="utf-8")
    rows = [line for line in README.splitlines() if re.search(r"\d+ of \d+ \|", line)]
    assert len(rows) == 5
    for row in rows:
        system, found, evaluations, of_random_search, ratio = [cell.strip() for cell in row.strip("|").split("|")]
        (line,) = [line for line in measured.splitlines() if line.startswith(f"| {system} |")]
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        assert [cells[1], cells[3], cells[4]] == [found, evaluations, of_random_search]
        assert cells[5].startswith(f"{ratio} [")
