"""VASP as the reference: what it is given, what it answers, and what becomes of its failures.

A VASP of our own (fake_vasp.py) breaks in ways in which the real one does; none is installed where tests run.
"""

import gzip
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import ase
import numpy as np
import pandas as pd
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.io import read

from csp_al import claim
from csp_al.campaign import CampaignError, campaign_template, open_campaign
from csp_al.campaign.machine import Machine
from csp_al.engine import worker
from csp_al.engine.tasks import create_task, label_task, read_result, task_id
from csp_al.interfaces import ReferenceFailedError
from csp_al.reference.evaluate import single_point
from csp_al.reference.references import build_reference
from csp_al.reference.vasp import VaspReference
from csp_al.reference.vasp_output import results_of
from csp_al.reference.vasp_program import VERSION
from csp_al.running.checks import checked_campaign
from csp_al.store.method import method_of

POTCAR = """\
  PAW_{lexch} {setup} 04Jan2001
   3.00000000000000
 parameters from PSCTR are:
   VRHFIN ={element}: s2p1
   LEXCH  = {lexch}
   EATOM  =    53.7936 eV,    3.9538 Ry
   TITEL  = PAW_PBE {setup} 04Jan2001
   ENMAX  =  {enmax:.3f}; ENMIN  =  180.225 eV
{more} End of Dataset
"""


def potcar(root, element, setup="", *, folder="potpaw_PBE", enmax=240.3, lexch="PE", more=""):
    place = root / folder / (setup or element)
    place.mkdir(parents=True, exist_ok=True)
    text = POTCAR.format(element=element, setup=setup or element, enmax=enmax, lexch=lexch, more=more)
    (place / "POTCAR").write_text(text)
    return place / "POTCAR"


@pytest.fixture
def potcars(tmp_path):
    """Headers of datasets; the fake VASP reads no more."""
    potcar(tmp_path / "potcars", "Al")
    potcar(tmp_path / "potcars", "Ni", enmax=269.5)
    potcar(tmp_path / "potcars", "Ni", "Ni_pv", enmax=367.9)
    return tmp_path / "potcars"


@pytest.fixture
def machine(tmp_path, potcars, monkeypatch):
    """A machine whose VASP is the fake one."""
    program = tmp_path / "bin" / "vasp_std"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} {Path(__file__).with_name("fake_vasp.py")} "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("FAKE_VASP_NOTES", str(tmp_path / "notes"))
    for name in ("VASP_PP_PATH", "PMG_VASP_PSP_DIR"):
        monkeypatch.delenv(name, raising=False)
    return Machine(programs={"vasp_std": str(program)}, pseudo_dir=str(potcars))


@pytest.fixture
def root(tmp_path):
    (tmp_path / "tasks").mkdir()
    return tmp_path / "tasks"


def alloy():
    """Species in turns, so that VASP's order is another one."""
    atoms = bulk("AlNi", "cesiumchloride", a=2.88).repeat((2, 1, 1))
    atoms.rattle(0.1, seed=1)
    return atoms


def section(**keys):
    return VaspReference(kind="vasp", **{"time_limit": 60} | keys)


def label(root, machine, **keys):
    name = create_task(root, label_task(alloy(), section(**keys)))
    worker.run_task(root, name, machine)
    return read_result(root, name)


def test_label_is_what_vasprun_says_in_the_order_of_the_atoms(root, machine):
    result = label(root, machine)
    atoms = alloy()
    atoms.calc = EMT()
    assert result.status == "done", result.reason
    assert result.done.energy == pytest.approx(atoms.get_potential_energy() - 400, abs=1e-6)
    np.testing.assert_allclose(result.done.forces, atoms.get_forces(), atol=1e-6)
    np.testing.assert_allclose(result.done.stress, atoms.get_stress(voigt=False), atol=1e-6)
    left = {path.name for path in root.rglob("attempt-1/*")}
    assert {"INCAR", "KPOINTS", "POSCAR", "OUTCAR", "vasprun.xml"} <= left
    assert not {"POTCAR", "WAVECAR"} & left  # a run directory is handed on, a licence is not


def test_input_has_cutoff_mesh_smearing_and_what_the_user_adds(tmp_path, machine):
    given = section(
        kspacing=0.4, smearing=0.2, setups={"Ni": "Ni_pv"},
        incar={"ISPIN": 2, "magmom": {"Ni": 0.6}, "ALGO": "Fast", "LDAU_LUJ": {"Ni": {"L": 2, "U": 4.0, "J": 0.0}}},
    )  # fmt: skip
    single_point(build_reference(given, ["Al", "Ni"], machine), alloy(), tmp_path)
    lines = {" ".join(line.split()) for line in (tmp_path / "INCAR").read_text().splitlines()}
    for line in (
        "ENCUT = 478.270000", "SIGMA = 0.200000", "ISMEAR = 0", "ALGO = Fast", "ISPIN = 2", "NSW = 0", "ISIF = 2",
        "LWAVE = .FALSE.", "MAGMOM = 2*0.0000 2*0.6000", "LDAUU = 0.000 4.000",
    ):  # fmt: skip
        assert line in lines, (line, lines)
    assert (tmp_path / "KPOINTS").read_text().split("\n")[2:4] == ["Gamma", "3 6 6"]
    assert read(tmp_path / "POSCAR").get_chemical_symbols() == ["Al", "Al", "Ni", "Ni"]


@pytest.mark.parametrize(
    ("way", "remedy"),
    [
        ("mixing", "slower mixing"), ("zhegv", "all bands at once"), ("scalapack", "LAPACK instead of ScaLAPACK"),
        ("symmetry", "no symmetry"), ("memory", "a smaller workspace"), ("killed", "a smaller workspace"),
    ],
)  # fmt: skip
def test_failure_is_cured_by_the_remedy_meant_for_it(root, machine, monkeypatch, way, remedy):
    monkeypatch.setenv("FAKE_VASP", way)
    result = label(root, machine)
    assert result.status == "done", result.reason
    assert remedy in result.attempts[-1].remedy


@pytest.mark.parametrize(
    ("way", "words"),
    [
        ("hopeless", "SCF not converged (as many electronic steps as NELM)"),
        ("cut off", "vasprun.xml: a single point cut off before the end of the step"),
        ("no end", "output ends early: exit status 0"),
        ("nan", "not finite: energy"),
    ],
)
def test_what_is_not_whole_or_not_converged_is_no_label(root, machine, monkeypatch, way, words):
    monkeypatch.setenv("FAKE_VASP", way)
    result = label(root, machine)
    assert result.status == "failed"
    assert words in result.reason.words


def test_vasp_that_hangs_is_ended_in_time(tmp_path, root, machine, monkeypatch):
    monkeypatch.setenv("FAKE_VASP", "hang")
    result = label(root, machine, time_limit=3)
    assert result.reason.words == "one evaluation took longer than 3 s (reference.time_limit)"
    assert [pid for pid in noted(tmp_path) if claim.start_time(pid) is not None] == []
    assert not [path for path in root.rglob("*") if path.name in ("POTCAR", "WAVECAR")]


def noted(tmp_path):
    return [int(pid) for pid in (tmp_path / "notes").read_text().split()]


def test_mpi_is_that_of_the_machine_file(tmp_path, machine):
    several = machine.model_copy(update={"cores_per_label": 4, "launcher": ("srun", "-n", "{cores}")})
    calculator = build_reference(section(), ["Al", "Ni"], several).calculator(alloy(), tmp_path)
    assert calculator.argv[:3] == ["srun", "-n", "4"]
    assert calculator.argv[3].endswith("vasp_std")


# datasets


def test_datasets_are_found_where_ase_and_pymatgen_keep_them(tmp_path, machine, monkeypatch):
    place = tmp_path / "mine"
    (place / "POT_GGA_PAW_PBE_54").mkdir(parents=True)
    text = potcar(tmp_path / "elsewhere", "Al").read_bytes()
    (place / "POT_GGA_PAW_PBE_54" / "POTCAR.Al.gz").write_bytes(gzip.compress(text))
    monkeypatch.setenv("PMG_VASP_PSP_DIR", str(place))
    bare = machine.model_copy(update={"pseudo_dir": None})
    reference = build_reference(section(pp="PBE_54"), ["Al"], bare)
    assert reference.check() == []
    atoms = bulk("Al")
    assert np.isfinite(single_point(reference, atoms, tmp_path).energy)
    monkeypatch.setenv("VASP_PP_PATH", str(tmp_path / "elsewhere"))
    assert build_reference(section(), ["Al"], bare).found["Al"].path.parts[-3:] == ("potpaw_PBE", "Al", "POTCAR")


def test_cutoff_and_checksums_are_written_out_and_hold(tmp_path, machine, potcars):
    pinned = build_reference(section(setups={"Ni": "Ni_pv"}), ["Al", "Ni"], machine).pinned()
    assert pinned.encut == pytest.approx(1.3 * 367.9)
    assert pinned.setups == {"Al": "Al", "Ni": "Ni_pv"}
    tasks = [task_id(label_task(alloy(), one)) for one in (pinned, pinned.model_copy(update={"pseudo_dir": "x"}))]
    assert tasks[0] == tasks[1]
    potcar(potcars, "Ni", "Ni_pv", enmax=367.9, more=" another\n")
    ((key, message),) = build_reference(pinned, ["Al", "Ni"], machine).check()
    assert key == "checksums"
    assert "the POTCAR of Ni (PAW_PBE Ni_pv 04Jan2001) is not the one that checksums tell of" in message


CAMPAIGN = """\
name: al2
pool: {{formula: Al2, size: 24, volume_per_atom: [13, 22]}}
reference: {{kind: vasp, pseudo_dir: potcars, time_limit: 60, max_fail_fraction: 0.8{more}}}
potential: {{members: 2, features: 16, interactions: 1, cutoff: 4.5, steps: 30, batch_size: 8}}
relax: {{max_steps: 20}}
select: {{per_cycle: 8, clusters: 8}}
stop: {{top_k: 2, max_cycles: 2}}
finish: {{max_steps: 5}}
"""


def campaign_file(tmp_path, more="", text=CAMPAIGN):
    path = tmp_path / "al2.yaml"
    path.write_text(text.format(more=more))
    return path


def problems(tmp_path, machine, more="", text=CAMPAIGN):
    with pytest.raises(CampaignError) as caught:
        checked_campaign(campaign_file(tmp_path, more, text), machine)
    return str(caught.value)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (", incar: {ISPN: 2}", "reference.incar.ispn: VASP has no such key, did you mean ispin?"),
        (", incar: {ENCUT: 500}", "not to be set here: set reference.encut"),
        (", incar: {NSW: 10}", "a label is a single point"),
        (", incar: {MAGMOM: 5}", "values by element are expected"),
        (", incar: {MAGMOM: {Fe: 5}}", "magmom: Fe is none of Al"),
        (", incar: {ALGO: 'Fast; NSW = 3'}", "is expected, not"),
        (", incar: {nelm: 100, NELM: 200}", "stands there twice"),
        (", setups: {Al: Al_sv}", "no POTCAR of Al_sv in"),
        (", setups: {Al: Ni}", "is a dataset of Ni, not of Al"),
        (", pp: LDA", "none of the folders LDA, potpaw_LDA, potpaw, POT_LDA_PAW is in"),
        (", checksums: {Al: abcd}", "is not the one that checksums tell of"),
        (", remedies: [{when: SCF, say: more, set: {encut: 300}}]", "a remedy cannot change encut"),
        (", kpts: [4, 4, 4]", "reference.kpts: unknown key; here it is kspacing"),
        (", ecutwfc: 40", "reference.ecutwfc: unknown key; here it is encut, in eV"),
        (", ispin: 2", "reference.ispin: unknown key; here it belongs into incar"),
    ],
)
def test_wrong_setup_is_found_before_anything_starts(tmp_path, machine, more, said):
    assert said in problems(tmp_path, machine, more)
    assert "al2.yaml:3:" in problems(tmp_path, machine, more)


def test_datasets_of_two_functionals_and_folders_that_are_not_there_are_named(tmp_path, machine, potcars):
    binary = CAMPAIGN.replace("formula: Al2", "formula: Al2Ni2")
    potcar(potcars, "Ni", lexch="CA")
    assert "made for different functionals" in problems(tmp_path, machine, text=binary)
    nowhere = CAMPAIGN.replace("pseudo_dir: potcars", "pseudo_dir: nowhere")
    assert "reference.pseudo_dir: there is no folder" in problems(tmp_path, machine, text=nowhere)
    unset = CAMPAIGN.replace("pseudo_dir: potcars, ", "")
    said = problems(tmp_path, machine.model_copy(update={"pseudo_dir": None}), text=unset)
    assert "name the folder of your POTCARs here, or set VASP_PP_PATH or PMG_VASP_PSP_DIR" in said


def test_program_that_is_not_there_or_is_not_vasp_is_named(tmp_path, machine):
    gone = machine.model_copy(update={"programs": {"vasp_std": "/nowhere/vasp_std"}})
    assert "/nowhere/vasp_std cannot be run (No such file or directory); put vasp_std on PATH" in problems(
        tmp_path, gone
    )
    other = machine.model_copy(update={"programs": {"vasp_std": shutil.which("true")}})
    assert "does not say that it is VASP, but: nothing" in problems(tmp_path, other)


def test_low_cutoff_and_keys_that_nobody_knows_are_warned_of(tmp_path, machine, capsys):
    checked_campaign(campaign_file(tmp_path, ", encut: 200, incar: {lqwxyz: true}"), machine)
    said = capsys.readouterr().err
    assert "200 eV is below the 240.3 eV that the POTCAR of PAW_PBE Al 04Jan2001 asks for" in said
    assert "lqwxyz: neither ASE nor pymatgen knows it" in said


def test_template_of_a_campaign_with_vasp_is_read_back(tmp_path):
    (tmp_path / "si8.yaml").write_text(campaign_template("si8", "Si8", "vasp"))
    assert open_campaign(tmp_path / "si8.yaml").campaign.reference == VaspReference(kind="vasp")


def csp_al(tmp_path, machine, *words):
    (tmp_path / "here.yaml").write_text(f"slots: 2\nprograms: {{vasp_std: {machine.programs['vasp_std']}}}\n")
    command = [sys.executable, "-c", "from csp_al.cli import app; app()", *words, "--machine", "here.yaml"]
    return subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


@pytest.mark.long
def test_campaign_that_is_killed_goes_on_whatever_becomes_of_single_labels(tmp_path, machine, monkeypatch):
    monkeypatch.setenv("FAKE_VASP", "by turns")
    campaign_file(tmp_path)
    run = tmp_path / "runs" / "al2"
    killed = csp_al(tmp_path, machine, "run", "al2.yaml")
    while len(list(run.glob("tasks/*/result.json"))) < 8:
        assert killed.poll() is None, killed.communicate()
        time.sleep(0.1)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    went_on = csp_al(tmp_path, machine, "run", "al2.yaml")
    said, _ = went_on.communicate()
    assert went_on.returncode == 0, said
    results = {
        path.parent.name: read_result(run / "tasks", path.parent.name) for path in run.glob("tasks/*/result.json")
    }
    asked = [task for path in run.glob("cycle-*/label/labels.csv") for task in pd.read_csv(path)["task"]]
    assert len(asked) >= 2 * 8
    asked += json.loads((run / "check" / "tasks.json").read_text())
    assert set(asked) == {name for name, result in results.items() if result.kind == "label"}  # one may be of both
    labels = [results[name] for name in asked]
    assert any(result.status == "done" and len(result.attempts) > 1 for result in labels)
    assert all(result.reason.words for result in labels if result.status == "failed")
    assert not [path for path in run.rglob("*") if path.name in ("POTCAR", "WAVECAR")]
    assert re.search(r'"vasp_std": "6\.4\.2"', (run / "provenance.json").read_text())
    assert "_tcod_software_package_version   6.4.2" in next(run.glob("winners/*.cif")).read_text()


REAL = Path(ase.__file__).parent / "test" / "testdata" / "vasp"
"""Outputs of VASP 5.3 and 6, which come with ASE."""


@pytest.mark.skipif(not REAL.is_dir(), reason="this ASE came without its test data")
def test_outputs_of_real_vasp_are_read_as_ase_reads_them(tmp_path):
    shutil.copy(REAL / "vasprun_dfpt.xml", tmp_path / "vasprun.xml")
    shutil.copy(REAL / "OUTCAR_example_1", tmp_path / "OUTCAR")
    found, atoms = results_of(tmp_path, 0, "", ""), read(REAL / "vasprun_dfpt.xml")
    assert found["energy"] == pytest.approx(atoms.get_potential_energy(force_consistent=True))
    np.testing.assert_allclose(found["forces"], atoms.get_forces())
    np.testing.assert_allclose(found["stress"], atoms.get_stress())
    assert VERSION.search((REAL / "OUTCAR_example_1").read_text())[1] == "5.3.3"
    (tmp_path / "OUTCAR").write_text((REAL / "OUTCAR_example_1").read_text()[:100_000])
    with pytest.raises(ReferenceFailedError, match="output ends early: exit status 0"):
        results_of(tmp_path, 0, "", "")


def test_method_in_files_for_a_paper_tells_datasets_and_no_place(tmp_path, machine):
    section = build_reference(VaspReference(kind="vasp", pseudo_dir="potcars"), ["Al"], machine, tmp_path).pinned()
    campaign = open_campaign(campaign_file(tmp_path)).campaign.model_copy(update={"reference": section})
    settings = method_of(tmp_path, campaign).settings
    assert settings["checksums"] == section.checksums
    assert settings["encut"] == pytest.approx(1.3 * 240.3)
    assert "pseudo_dir" not in settings
