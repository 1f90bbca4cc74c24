"""Checking a campaign file runs nothing that it names, but for ASE's own calculators; what would be run is told."""

from __future__ import annotations

from pathlib import Path
from zipfile import ZipFile

import pytest
from typer.testing import CliRunner

from csp_al.cli import app

HEAD = "name: al4\npool: {formula: Al4, size: 12, min_distance: {Al-Al: 2.2}, volume_per_atom: [13, 23]}\n"
MODULE = """\
from pathlib import Path

from ase.calculators.emt import EMT

Path("imported").touch()


class Mine(EMT):
    pass
"""


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch) -> Path:
    """Where the campaign file and a module of its author's are."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "foreign_code.py").write_text(MODULE)
    (tmp_path / "foreign_typo.py").write_text("def f(:\n")
    return tmp_path


def csp_al(verb: str, sections: str, *words: str) -> tuple[int, str]:
    Path("al4.yaml").write_text(HEAD + sections)
    ended = CliRunner().invoke(app, [verb, "al4.yaml", *words])
    assert ended.exception is None or isinstance(ended.exception, SystemExit), ended.exception
    return ended.exit_code, ended.output


def ase(calculator: str, parameters: str = "{}") -> str:
    return f"reference: {{kind: ase, calculator: {calculator}, parameters: {parameters}}}\n"


def test_calculator_of_the_author_is_found_and_parsed_and_not_run(place):
    code, said = csp_al("validate", ase("foreign_code.Mine"))
    assert code == 0
    assert f"al4.yaml:3:36: reference.calculator: foreign_code.Mine ({place / 'foreign_code.py'}) was found" in said
    assert "fine" in said
    assert not (place / "imported").exists()
    code, said = csp_al("validate", ase("foreign_code.Mine"), "--trust")
    assert (code, "was found" in said) == (0, False)
    assert (place / "imported").exists()


def test_module_in_folders_that_are_no_packages_is_found_and_not_run(place):
    (place / "codes" / "inner").mkdir(parents=True)
    (place / "codes" / "inner" / "mine.py").write_text(MODULE)
    code, said = csp_al("validate", ase("codes.inner.mine.Mine"))
    assert code == 0
    assert f"({place / 'codes' / 'inner' / 'mine.py'}) was found" in said
    code, said = csp_al("validate", ase("codes.inner.mime.Mine"))
    assert (code, "no module 'mime'" in said) == (2, True)
    assert not (place / "imported").exists()


@pytest.mark.parametrize("words", [(), ("--trust",)])
def test_module_in_an_archive_is_found(place, monkeypatch, words):
    with ZipFile(place / "packed.zip", "w") as archive:
        archive.writestr("packed_calculator.py", "from ase.calculators.emt import EMT as Packed\n")
    monkeypatch.syspath_prepend(place / "packed.zip")
    code, said = csp_al("validate", ase("packed_calculator.Packed"), *words)
    assert (code, "packed.zip" in said) == (0, not words)


def test_calculator_of_ase_imports_nothing_from_beside_the_campaign_file(place):
    (place / "psi4.py").write_text(MODULE)
    assert csp_al("validate", ase("ase.calculators.psi4.Psi4"))[0] == 2
    assert not (place / "imported").exists()


@pytest.mark.parametrize(
    ("calculator", "words"),
    [
        ("foreign_code.Mime", "has no 'Mime'; did you mean Mine?"),
        ("foreign_typo.f", "foreign_typo.py:1: "),
        ("foreign_nowhere.f", "no module 'foreign_nowhere'; put it beside the campaign file"),
        ("foreign_code", "no import path"),
        ("ase.calculators.emt.EMTX", "has no 'EMTX'; did you mean EMT?"),
        ("subprocess.getoutput", "is of Python's standard library, which has no ASE calculator"),
        ("os.mkdir", "is of Python's standard library, which has no ASE calculator"),
    ],
)
def test_what_can_be_wrong_with_a_calculator_is_told_without_running_it(place, calculator, words):
    code, said = csp_al("validate", ase(calculator, "{path: ran, cmd: touch ran}"))
    assert code == 2
    assert words in said
    assert not (place / "imported").exists()


@pytest.mark.parametrize(
    ("calculator", "parameters"),
    [
        ("ase.calculators.cp2k.CP2K", "{command: touch ran}"),
        ("ase.calculators.castep.Castep", "{castep_command: touch ran}"),
        ("ase.calculators.socketio.SocketIOCalculator", "{log: ran, unixsocket: ran}"),
        ("csp_al.reference.codes.cp2k", "{command: touch ran, kspacing: 1, inp: ''}"),
        ("csp_al.files.make_directory", "{path: ran}"),
        ("ase.calculators.emt.np.save", "{file: ran, arr: 1}"),
        ("numpy.save", "{file: ran, arr: 1}"),
    ],
)
def test_programs_and_functions_that_are_no_calculators_are_not_started(place, calculator, parameters):
    code, said = csp_al("validate", ase(calculator, parameters))
    assert code == 0
    assert "was found, and is not run here" in said
    assert "--trust makes it" in said
    assert {path.name for path in place.iterdir()} == {"al4.yaml", "foreign_code.py", "foreign_typo.py"}


def test_calculators_of_ase_and_of_ours_are_made_and_their_keywords_checked():
    assert csp_al("validate", ase("ase.calculators.emt.EMT"))[0] == 0
    code, said = csp_al("validate", ase("csp_al.reference.classical.lennard_jones", "{depth: 1}"))
    assert code == 2
    assert "give the keywords that it takes" in said


def test_what_runs_is_refused_in_words_where_it_is_no_calculator(place):
    code, said = csp_al("run", ase("subprocess.getoutput", "{cmd: touch ran}"))
    assert (code, (place / "ran").exists()) == (2, False)
    assert "which has no ASE calculator" in said


@pytest.mark.parametrize("verb", ["validate", "plan"])
def test_kinds_by_their_path_are_not_imported(place, verb):
    sections = "reference: {kind: foreign_code.Mine, depth: 1}\npotential: {kind: foreign_code.Mine, some: 3}\n"
    code, said = csp_al(verb, sections)
    assert code == (0 if verb == "validate" else 2)
    assert "reference.kind" in said
    assert "is not run here" in said
    assert not (place / "imported").exists()
    assert csp_al(verb, sections, "--trust")[0] == 2
    assert (place / "imported").exists()
