"""What users of command lines expect of one."""

import json
import re
from importlib.metadata import version

import pytest
from rich.console import Console
from typer.testing import CliRunner

import csp_al
from csp_al.campaign import Campaign, Pool, open_campaign
from csp_al.cli import app
from csp_al.cli.panel import NORMAL, QUIET, VERBOSE, Panel, _cycle_table
from csp_al.events import Advanced, Calculated, StageStarted, Warned
from csp_al.reference.gpaw import GpawReference


def run(*words):
    return CliRunner().invoke(app, list(words))


def test_version_is_told_on_the_command_line_and_in_python():
    assert run("--version").output.split() == ["csp-al", version("csp_al")]
    assert csp_al.__version__ == version("csp_al")
    assert set(dir(csp_al)) == {"__version__", "load_campaign", "open_run", "open_runs", "run"}


def test_help_has_a_short_option_everywhere_and_tells_the_exit_statuses():
    assert "75 the machine failed" in " ".join(run("-h").output.split())
    assert run("validate", "-h").output == run("validate", "--help").output


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["init", "b.yaml", "--formula", "Si4", "--z", "0"], 'it must be at least 1, not "0"'),
        (["init", "b.yaml", "--formula", "Si4", "--z", "x"], 'a whole number is expected, not "x"'),
        (["export", "runs/a", "--format", "cif", "--within", "x"], 'a number is expected, not "x"'),
        (["export", "runs/a", "--format", "cif", "--what", "foo"], "'--what': 'foo' is not one of 'winners'"),
    ],
)
def test_options_that_cannot_be_are_told_in_our_words(words, said, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    ended = run(*words)
    assert ended.exit_code == 2
    assert said in ended.stderr
    assert not re.search(r"Value error|Input should", ended.stderr)


def test_init_says_what_the_calculator_that_it_writes_lacks(tmp_path):
    told = run("init", str(tmp_path / "bn.yaml"), "--reference", "ase", "--formula", "BN", "--z", "4").stdout
    assert "Mind reference.calculator: EMT has no B, only Al, Cu" in told
    assert "Mind" not in run("init", str(tmp_path / "al.yaml"), "--reference", "ase", "--formula", "Al4").stdout


@pytest.mark.parametrize("kind", ["gpaw", "espresso", "vasp", "ase"])
def test_short_file_has_few_lines_and_is_read(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    assert run("init", "a.yaml", "--formula", "SiO2", "--z", "4", "--short", "--reference", kind).exit_code == 0
    assert len((tmp_path / "a.yaml").read_text().splitlines()) <= 14
    campaign = open_campaign(tmp_path / "a.yaml").campaign
    assert campaign.pool.formula == "Si4O8"
    run("init", "long.yaml", "--formula", "Si4O8", "--reference", kind)
    assert campaign.model_copy(update={"name": "long"}) == open_campaign(tmp_path / "long.yaml").campaign


def test_json_of_validate_has_every_problem_with_its_place(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("name: a\npool: {formula: Sj8}\nreference: {kind: gpaw, kpts: 3}\n")
    ended = run("validate", str(path), "--json")
    told = json.loads(ended.stdout)
    assert ended.exit_code == 2
    assert not told["fine"]
    assert [(one["line"], one["column"], one["key"]) for one in told["problems"]] == [
        (2, 17, "pool.formula"), (3, 25, "reference.kpts"),
    ]  # fmt: skip
    path.write_text("name: a\npool: {formula: Al8}\nreference: {kind: ase, calculator: ase.calculators.emt.EMT}\n")
    assert json.loads(run("validate", str(path), "--json").stdout) == {"fine": True, "problems": []}
    assert json.loads(run("plan", str(path), "--json").stdout)["labels_at_most"] > 0


def test_json_of_export_and_doctor(finished_run, tmp_path):
    written = json.loads(run("export", str(finished_run), "--format", "cif", "--to", str(tmp_path), "--json").stdout)
    assert str(tmp_path / "winners-cif") in written[0]
    assert {"ok", "what", "remedy"} == set(json.loads(run("doctor", "--json").stdout)[0])


def test_export_to_a_file_is_refused_in_words(finished_run, tmp_path):
    (tmp_path / "there").touch()
    ended = run("export", str(finished_run), "--format", "cif", "--to", str(tmp_path / "there"))
    assert ended.exit_code == 2
    assert ended.stderr == f"{tmp_path}/there: a file, where a folder is expected; name another with --to\n"


def panel_of(folder, loudness):
    campaign = Campaign(name="al4", pool=Pool(formula="Al4"), reference=GpawReference())
    with Panel(campaign, folder, loudness) as panel:
        panel.tell(StageStarted(3, "train"))
        for done in range(101):
            panel.tell(Advanced(done, 100))
        panel.tell(Calculated("a1", "failed", None, 2.5, "SCF not converged"))
        panel.tell(Warned("mind the gap"))


@pytest.mark.parametrize(
    ("loudness", "told"),
    [
        (QUIET, ["Warning: mind the gap"]),
        (NORMAL, ["running in", "cycle 3: training the ensemble", "Warning: mind the gap"]),
        (VERBOSE, ["running in", "cycle 3", *(f"{done} of 100" for done in range(10, 101, 10)),
                   "calculation a1 failed, 2.5 s of a core: SCF not converged", "Warning"]),
    ],
)  # fmt: skip
def test_quiet_tells_warnings_alone_and_verbose_each_calculation(capsys, tmp_path, loudness, told):
    panel_of(tmp_path, loudness)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(told)
    assert all(words in line for line, words in zip(lines, told, strict=True))


def test_shell_completes_verbs_and_options():
    def completed(words: str, place: int) -> list[str]:
        environment = {"_CSP_AL_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(place)}
        return CliRunner().invoke(app, [], prog_name="csp-al", env=environment).output.split()

    assert completed("csp-al va", 1) == ["validate"]
    assert completed("csp-al run --see", 2) == ["--seed", "--seeds"]


def test_lines_of_a_pipe_have_the_time(capsys, tmp_path):
    panel = Panel(Campaign(name="al4", pool=Pool(formula="Al4"), reference=GpawReference()), tmp_path)
    with panel:
        panel.tell(StageStarted(3, "train"))
    for line in capsys.readouterr().out.splitlines():
        assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \w", line)


def test_cycles_fit_into_eighty_columns_with_units_and_numbers_whole(capsys):
    row = ["12", "480", "12", "-310.123±0.012", "-310.1234", "1963.4", "0.1234", "2", "0.01"]
    Console(width=80).print(_cycle_table("al4", [row]))
    drawn = capsys.readouterr().out
    for word in (*row, "(eV/atom)", "(meV/atom)", "(eV/Å)"):
        assert word in drawn
