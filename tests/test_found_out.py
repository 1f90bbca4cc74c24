"""Mistakes that a new user makes, found out before a calculation is spent on them."""

import pytest
from typer.testing import CliRunner

from csp_al.cli import app


def validate(folder, pool, reference):
    path = folder / "a.yaml"
    path.write_text(f"name: a\npool: {{{pool}}}\nreference: {{{reference}}}\n")
    return CliRunner().invoke(app, ["validate", str(path)])


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        (
            "kind: gpaw, cutoff: 30",
            "reference.cutoff: 30 eV is too low for plane waves; 30 Ry are 408 eV, 30 Ha 816 eV",
        ),
        ("kind: gpaw, cutoff: 100", "reference.cutoff: 100 eV is too low"),
        ("kind: vasp, encut: 40", "reference.encut: 40 eV is too low"),
        ("kind: espresso, ecutwfc: 500", "500 Ry are 6803 eV, more than any calculation takes; 500 eV are 36.7 Ry"),
        ("kind: ase, calculator: ase.calculators.emt.EMT", "reference.calculator: EMT has no B, Si, only Al, Cu"),
    ],
)
def test_reference_that_cannot_be_meant_is_refused(tmp_path, reference, said):
    found = validate(tmp_path, "formula: BNSi2, size: 12", reference)
    assert found.exit_code == 2
    assert said in found.stderr


def test_all_faults_of_a_file_are_told_at_once_where_its_program_lacks_too(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "a.yaml").write_text(
        "name: a\npool: {formula: Si8, sizes: 3}\nreference: {kind: vasp, kpts: 3, encut: 40, pseudo_dir: nowhere}\n"
        "select: {strategy: papr}\nstop: {top_k: 0}\n"
    )
    found = CliRunner().invoke(app, ["validate", str(tmp_path / "a.yaml")])
    assert found.exit_code == 2
    for said in (
        "2:22: pool.sizes: unknown key, did you mean size?",
        "3:19: reference.kind: vasp_std cannot be run",
        "3:25: reference.kpts: unknown key; here it is kspacing",
        "3:41: reference.encut: 40 eV is too low",
        "3:57: reference.pseudo_dir: there is no folder",
        "4:20: select.strategy: unknown word papr, did you mean paper?",
        "5:15: stop.top_k: it must be above 0",
    ):
        assert found.stderr.count(said) == 1, (said, found.stderr)
    monkeypatch.chdir(tmp_path)
    found = validate(tmp_path, "formula: Si8", "kind: espresso, pseudo_dir: nowhere}\nlabels: [a.yaml]\nstop: {")
    for said in ("there is no folder ", "labels[0]"):
        assert said in found.stderr


@pytest.mark.parametrize(
    ("pool", "said"),
    [
        ("formula: Al8, volume_per_atom: [100, 180]",
         "pool.volume_per_atom: 100 to 180 Å^3 is what a cell of 8 atoms takes, not an atom: perhaps [12.5, 22.5]"),
        ("formula: Al1000", "pool.formula: 1000 atoms in a cell"),
    ],
)  # fmt: skip
def test_pool_that_may_not_be_meant_is_warned_of(tmp_path, pool, said):
    found = validate(tmp_path, pool, "kind: ase, calculator: ase.calculators.emt.EMT")
    assert found.exit_code == 0
    assert f"Warning: {tmp_path}/a.yaml:2:" in found.stderr
    assert said in found.stderr
