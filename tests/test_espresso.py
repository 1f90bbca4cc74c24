"""Quantum ESPRESSO as the reference: what it is given, what it answers, and what becomes of its failures.

A pw.x of our own (fake_pw.py) breaks in every way that the real one does; the real one is asked where it is installed
and ESPRESSO_PSEUDO names a folder of pseudopotentials.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.io import read
from ase.units import Ry
from typer.testing import CliRunner

from csp_al import claim
from csp_al.campaign import CampaignError, open_campaign
from csp_al.campaign.machine import THREADS, Machine
from csp_al.campaign.references import Remedy
from csp_al.cli import app
from csp_al.engine import worker
from csp_al.engine.tasks import create_task, label_task, read_result, relax_task, task_id
from csp_al.files import write_sealed
from csp_al.interfaces import Failure, Reason, ReferenceFailedError
from csp_al.reference.children import one_thread_each
from csp_al.reference.espresso import LADDER as ESPRESSO
from csp_al.reference.espresso import EspressoReference
from csp_al.reference.evaluate import single_point
from csp_al.reference.gpaw import LADDER as GPAW
from csp_al.reference.gpaw import GpawReference
from csp_al.reference.ladder import as_told, in_force, ladder, next_remedy, recognised
from csp_al.reference.pw_output import results_in, why_no_result
from csp_al.reference.references import build_reference
from csp_al.results import as_json, outcome_of
from csp_al.running.checks import checked_campaign, reference_of

ERROR = "     Error in routine {} (1):\n      {}\n"
HEADER = '<UPF version="2.0.1">\n<PP_HEADER element="{}" pseudo_type="{}" functional="{}" z_valence="{}" {}/>\n</UPF>\n'


def pseudo(folder, element, name="", kind="NC", functional="PBE", valence=3.0, more=""):
    folder.mkdir(exist_ok=True)
    path = folder / (name or f"{element}.upf")
    path.write_text(HEADER.format(element, kind, functional, valence, more))
    return path


@pytest.fixture
def pseudos(tmp_path):
    """Headers of a soft and a hard pseudopotential; a fake pw.x reads no more."""
    pseudo(tmp_path / "pseudos", "Al", more='wfc_cutoff="20" rho_cutoff="80"')
    pseudo(tmp_path / "pseudos", "Ni", kind="US", valence=8, more='wfc_cutoff="45" rho_cutoff="400"')
    return tmp_path / "pseudos"


@pytest.fixture
def machine(tmp_path, pseudos, monkeypatch):
    """A machine whose pw.x is the fake one."""
    program = tmp_path / "bin" / "pw.x"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} {Path(__file__).with_name("fake_pw.py")} "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("FAKE_PW_NOTES", str(tmp_path / "notes"))
    monkeypatch.delenv("ESPRESSO_PSEUDO", raising=False)
    return Machine(programs={"pw.x": str(program)}, pseudo_dir=str(pseudos))


@pytest.fixture
def root(tmp_path):
    (tmp_path / "tasks").mkdir()
    return tmp_path / "tasks"


def aluminium():
    atoms = bulk("Al", cubic=True)
    atoms.rattle(0.1, seed=1)
    return atoms


def section(**keys):
    return EspressoReference(kind="espresso", **{"ecutwfc": 20, "time_limit": 60} | keys)


def label(root, machine, way="", monkeypatch=None, **keys):
    """The result of labelling aluminium by a pw.x that breaks in this way."""
    if monkeypatch:
        monkeypatch.setenv("FAKE_PW", way)
    name = create_task(root, label_task(aluminium(), section(**keys)))
    worker.run_task(root, name, machine)
    return read_result(root, name)


def wait_until_gone(pids):
    """Wait for the end of these processes, which is a moment after whoever ends them; at most ten seconds."""
    deadline = time.monotonic() + 10
    while alive := [pid for pid in pids if claim.start_time(pid) is not None]:
        assert time.monotonic() < deadline, alive
        time.sleep(0.02)


def noted(tmp_path):
    return [int(pid) for pid in (tmp_path / "notes").read_text().split()]


def test_label_is_what_pw_says_in_units_of_ase(root, machine):
    result = label(root, machine)
    atoms = aluminium()
    atoms.calc = EMT()
    assert result.status == "done"
    assert result.done.energy == pytest.approx(
        atoms.get_potential_energy() - 400, rel=1e-6
    )  # ASE reads Ry and bohr of CODATA 2006
    np.testing.assert_allclose(result.done.forces, atoms.get_forces(), atol=1e-5)
    np.testing.assert_allclose(result.done.stress, atoms.get_stress(voigt=False), atol=1e-5)
    assert not list(root.rglob("scratch"))


def test_input_has_cutoffs_mesh_smearing_and_what_the_user_adds(tmp_path, machine):
    given = section(
        kspacing=0.4, smearing=0.2, bands=1.5,
        namelists={"system": {"nspin": 2, "starting_magnetization(Ni)": 0.5, "Hubbard_U(Ni)": 4.0},
                   "electrons": {"mixing_beta": 0.3}},
        cards=("HUBBARD (ortho-atomic)", "U Ni-3d 4.0"),
    )  # fmt: skip
    atoms = bulk("AlNi", "cesiumchloride", a=2.88)
    single_point(build_reference(given, ["Al", "Ni"], machine), atoms, tmp_path)
    text = " ".join((tmp_path / "espresso.pwi").read_text().split())
    for words in (
        "ecutwfc = 20.0", "ecutrho = 400.0", f"degauss = {0.2 / Ry:.6g}"[:14], "nbnd = 10", "nspin = 2",
        "starting_magnetization(2) = 0.5", "hubbard_u(2) = 4.0", "mixing_beta = 0.3", "tstress = .true.",
        "K_POINTS automatic 6 6 6 0 0 0", "HUBBARD (ortho-atomic) U Ni-3d 4.0",
    ):  # fmt: skip
        assert words in text
    assert "starting_magnetization(1) = 0.0" in text
    assert len(read(tmp_path / "espresso.pwi")) == 2


@pytest.mark.parametrize(
    ("way", "reason"),
    [
        ("garbage", "output cannot be read: no energy, no forces, no stress in it"),
        ("truncated", "output ends early: exit status 0, after: "),
        ("nan", "not finite: energy"),
        ("stars", "output cannot be read: numbers too large for their columns"),
        ("hopeless", "SCF not converged: 100 steps, accuracy 0.03904423 Ry"),
        ("input", "input refused: bad line in namelist &system"),
    ],
)
def test_failure_that_nothing_cures_is_recorded_with_its_reason(root, machine, way, reason, monkeypatch):
    result = label(root, machine, way, monkeypatch)
    assert result.status == "failed"
    assert result.reason.words.startswith(reason)
    assert result.evaluations == len(result.attempts)
    assert [a.status for a in result.attempts] == ["failed"] * len(result.attempts)
    assert len({a.remedy for a in result.attempts}) == len(result.attempts)


def test_full_disk_is_no_failure_of_the_label(root, machine, monkeypatch):
    with pytest.raises(OSError, match=r"disk full: error writing file scratch/pw\.wfc1"):
        label(root, machine, "davcio", monkeypatch)
    assert list(root.glob("*/result.json")) == []


@pytest.mark.parametrize(
    ("way", "reason", "remedies"),
    [
        ("scf", "SCF not converged", ["slower mixing, more steps"]),
        ("local-TF", "SCF not converged", ["slower mixing, more steps", "local Thomas-Fermi mixing of more steps"]),
        (
            "plain",
            "SCF not converged",
            [
                "slower mixing, more steps",
                "local Thomas-Fermi mixing of more steps",
                "conjugate gradients, very slow plain mixing",
            ],
        ),
        (
            "ppcg",
            "diagonalisation: too many bands",
            [
                "more bands",
                "conjugate gradients",
                "projected preconditioned conjugate gradients, random first waves",
            ],
        ),
        (
            "less memory",
            "out of memory: cannot allocate enough",
            ["a smaller workspace", "conjugate gradients, which need the least memory"],
        ),
        ("S matrix", "diagonalisation: S matrix not positive definite (pw.x, cdiaghg)", ["more bands"]),
        ("bands", "diagonalisation: too many bands", ["more bands", "conjugate gradients"]),
        ("cholesky", "diagonalisation: problems computing cholesky", ["more bands", "conjugate gradients"]),
        ("charge", "charge is wrong", ["more bands", "conjugate gradients"]),
        ("symmetry", "symmetry: some of the original symmetry", ["no symmetry"]),
        ("memory", "out of memory: insufficient virtual memory", ["a smaller workspace"]),
        ("disk", "disk full: forrtl: No space left on device", ["once more: others may have made room"]),
        ("crash", "killed by SIGSEGV", ["once more, as it was"]),
        ("killed", "killed by SIGKILL, by the kernel if memory ran out", ["a smaller workspace"]),
        ("silent", "no output: pw.x ended with exit status 0", ["once more, as it was"]),
        ("abort", "MPI: MPI_ABORT was invoked", ["once more, as it was"]),
    ],
)
def test_failure_is_cured_by_the_remedies_for_its_reason(root, machine, way, reason, remedies, monkeypatch):
    result = label(root, machine, way, monkeypatch)
    assert result.status == "done"
    assert result.attempts[0].reason.words.startswith(reason)
    assert [a.remedy for a in result.attempts] == ["", *remedies]
    assert result.cost >= sum(a.cost for a in result.attempts) > 0


def test_remedies_leave_the_energy_surface_alone():
    for remedy in ESPRESSO:
        assert set(remedy.set) <= {"namelists", "bands"}
        keys = {key for settings in remedy.set.get("namelists", {}).values() for key in settings}
        assert keys.isdisjoint({"ecutwfc", "ecutrho", "degauss", "smearing", "occupations", "nspin", "conv_thr"})
        assert section().with_settings(remedy.set).ecutwfc == 20


def test_remedies_never_undo_what_is_more_patient_already():
    patient = section(namelists={"electrons": {"mixing_beta": 0.1, "electron_maxstep": 500}}, bands=2)
    cured = in_force(patient, ESPRESSO)
    assert cured.namelists["electrons"]["electron_maxstep"] == 500
    assert cured.namelists["electrons"]["mixing_beta"] == 0.05
    assert in_force(patient, ESPRESSO[:2]).namelists["electrons"]["mixing_beta"] == 0.1
    assert cured.bands == 2
    gentle = in_force(GpawReference(parameters={"maxiter": 2000, "eigensolver": {"name": "rmm-diis", "keep": 1}}), GPAW)
    assert gentle.parameters["maxiter"] == 2000
    assert gentle.parameters["eigensolver"] == {"name": "davidson", "niter": 3}


def test_gamma_alone_is_a_mesh_too(tmp_path, machine):
    """pw.x has an algorithm for it that takes half the time, and ended in another state for rock salt."""
    single_point(build_reference(section(kspacing=5), ["Al"], machine), bulk("Al"), tmp_path)
    assert "K_POINTS automatic 1 1 1 0 0 0" in " ".join((tmp_path / "espresso.pwi").read_text().split())


def test_more_bands_are_never_fewer_than_pw_takes_for_a_metal(tmp_path, machine):
    def bands(**keys):
        single_point(build_reference(section(**keys), ["Al"], machine), bulk("Al"), tmp_path)
        return int(re.search(r"nbnd\s+= (\d+)", (tmp_path / "espresso.pwi").read_text())[1])

    assert bands(bands=1.6) == 6  # 1.5 pairs of electrons, and 4 more
    assert bands(bands=8) == 12
    assert bands(bands=1.6, namelists={"system": {"noncolin": True}}) == 11


def test_more_time_as_a_remedy_is_given(root, machine, monkeypatch):
    more = {"when": "took longer", "say": "more time", "set": {"time_limit": 4}}
    result = label(root, machine, "hang", monkeypatch, time_limit=1, remedies=[more])
    assert [str(a.reason or "") for a in result.attempts] == [
        f"one evaluation took longer than {limit} s (reference.time_limit)" for limit in (1, 4)
    ]


def test_users_remedy_comes_before_ours(root, machine, monkeypatch):
    mine = {"when": "^SCF", "say": "my own", "set": {"namelists": {"electrons": {"mixing_beta": 0.2}}}}
    result = label(root, machine, "scf", monkeypatch, remedies=[mine])
    assert [a.remedy for a in result.attempts] == ["", "my own"]


def test_pw_that_hangs_is_ended_in_time_with_all_that_it_started(tmp_path, root, machine, monkeypatch):
    started = time.monotonic()
    result = label(root, machine, "hang", monkeypatch, time_limit=3)
    assert time.monotonic() - started < 10
    assert result.status == "failed"
    assert result.reason.words == "one evaluation took longer than 3 s (reference.time_limit)"
    pids = noted(tmp_path)
    assert len(pids) == 2  # pw.x and its helper, which is in a process group of its own
    wait_until_gone(pids)
    assert not list(root.rglob("scratch"))


@pytest.mark.skipif(sys.platform != "linux", reason="needs that a process may die with its parent")
def test_pw_dies_with_a_killed_worker(tmp_path, root, machine, monkeypatch):
    monkeypatch.setenv("FAKE_PW", "hang")
    name = create_task(root, label_task(aluminium(), section()))
    command = [sys.executable, "-m", "csp_al.engine.worker", str(root), machine.model_dump_json()]
    process = subprocess.Popen(command, stdin=subprocess.PIPE)
    process.stdin.write(f"{name}\n".encode())
    process.stdin.flush()
    deadline = time.monotonic() + 30
    while not (tmp_path / "notes").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.kill()
    process.wait()
    wait_until_gone(noted(tmp_path)[:1])
    for pid in noted(tmp_path)[1:]:  # what pw.x itself left behind is not ours to know after a kill -9
        os.kill(pid, signal.SIGKILL)


def test_missing_program_is_named(root, machine):
    gone = machine.model_copy(update={"programs": {"pw.x": "/nowhere/pw.x"}})
    assert label(root, gone).reason.words == "cannot run: /nowhere/pw.x (No such file or directory)"


def test_relaxation_goes_on_with_its_remedy_to_the_same_end(root, machine, monkeypatch):
    name = create_task(root, relax_task(aluminium(), section(), 0.1, 50))
    worker.run_task(root, name, machine)
    whole = read_result(root, name)
    assert whole.done.converged
    assert np.linalg.norm(whole.done.forces, axis=1).max() < 0.1

    monkeypatch.setenv("FAKE_PW", "scf")  # from its first evaluation on it needs a remedy
    cured = create_task(root, relax_task(aluminium(), section(), 0.1, 49))
    worker.run_task(root, cured, machine)
    result = read_result(root, cured)
    assert [a.status for a in result.attempts] == ["failed", "done"]
    assert result.done.energy == pytest.approx(whole.done.energy, abs=1e-6)
    assert result.evaluations == whole.evaluations + 1


CAMPAIGN = """\
name: al2
pool: {{formula: Al2, size: 24, volume_per_atom: [13, 22]}}
reference: {{kind: espresso, pseudo_dir: pseudos, ecutwfc: 20, time_limit: 60, max_fail_fraction: 0.8{more}}}
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


def csp_al(tmp_path, machine, *words):
    (tmp_path / "here.yaml").write_text(f"slots: 2\nprograms: {{pw.x: {machine.programs['pw.x']}}}\n")
    command = [sys.executable, "-c", "from csp_al.cli import app; app()", *words, "--machine", "here.yaml"]
    return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)


@pytest.mark.long
def test_campaign_goes_on_whatever_becomes_of_single_labels(tmp_path, machine, monkeypatch):
    monkeypatch.setenv("FAKE_PW", "by turns")
    campaign_file(tmp_path)
    ran = csp_al(tmp_path, machine, "run", "al2.yaml")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    run = tmp_path / "runs" / "al2"
    results = [read_result(run / "tasks", path.parent.name) for path in run.glob("tasks/*/result.json")]
    labels = [result for result in results if result.kind == "label"]
    assert len(labels) == 20 + 4  # and what the check of forces and stress takes
    failed = [result for result in labels if result.status == "failed"]
    rescued = [result for result in labels if result.status == "done" and len(result.attempts) > 1]
    assert failed
    assert rescued
    assert all(result.reason.words for result in failed)
    assert not list(run.rglob("scratch"))
    assert [pid for pid in noted(tmp_path) if claim.start_time(pid) is not None] == []
    assert '"pw.x": "7.3.1"' in (run / "provenance.json").read_text()

    # the campaign can be taken up again, by its file or its directory, and is refused with another pseudopotential
    monkeypatch.chdir(tmp_path)

    def again(*words):
        return CliRunner().invoke(app, [*words, "--machine", "here.yaml"])

    shutil.rmtree(run / "winners")
    for words in (("run", "al2.yaml"), ("resume", "runs/al2", "--trust")):
        taken_up = again(*words)
        assert taken_up.exit_code == 0, taken_up.output
    pseudo(tmp_path / "pseudos", "Al", valence=3.1)
    changed = again("run", "al2.yaml")
    assert changed.exit_code == 2
    assert "reference.checksums.Al: " in changed.stderr
    resumed = again("resume", "runs/al2", "--trust")
    assert resumed.exit_code == 2
    assert "Al.upf of Al is not the file that checksums tell of" in resumed.stderr


def problems(tmp_path, machine, more="", text=CAMPAIGN):
    with pytest.raises(CampaignError) as caught:
        checked_campaign(campaign_file(tmp_path, more, text), machine)
    return str(caught.value)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (", namelists: {system: {nspn: 2}}", "namelists.system.nspn: pw.x has no such key in system, did you mean"),
        (", namelists: {electrons: {nspin: 2}}", "pw.x has no such key in electrons; it belongs to system"),
        (", namelists: {sistem: {nspin: 2}}", "no namelist of a single point, did you mean system?"),
        (", namelists: {system: {degauss: 0.1}}", "not to be set here: set reference.smearing, in eV"),
        (", namelists: {system: {nspin: [2]}}", "a number, text, true or false is expected, not a list"),
        (", remedies: [{when: SCF, say: more, set: {bandz: 1}}]", "remedies[0].set.bandz: unknown key, did you"),
        (", remedies: [{when: SCF, say: more, set: {kspacing: 1}}]", "a remedy cannot change kspacing: its labels"),
        (", namelists: {electrons: {scf_must_converge: false}}", "what has not converged is no label"),
        (", namelists: {electrons: {mixing_beta: 0.2, Mixing_Beta: 0.3}}", "mixing_beta stands there twice"),
        (", namelists: {system: {starting_magnetization(Fe): 0.5}}", "starting_magnetization(Fe): Fe is none of Al"),
        (", remedies: [{when: SCF, say: more, set: {kind: ase}}]", "a remedy cannot change kind"),
        (", remedies: [{when: '(', say: more}]", "remedies[0].when: '(' is no regular expression"),
        (", remedies: [{say: more}]", "remedies[0].when: missing"),
        (", pseudopotentials: {Al: Ni.upf}", "Ni.upf is a pseudopotential of Ni, not of Al"),
        (", pseudopotentials: {Al: Al2.upf}", "there is no file"),
        (", checksums: {Al: abcd}", "Al.upf of Al is not the file that checksums tell of"),
    ],
)  # fmt: skip
def test_wrong_setup_is_found_before_anything_starts(tmp_path, machine, more, said):
    assert said in problems(tmp_path, machine, more)
    assert "al2.yaml:3:" in problems(tmp_path, machine, more)


def test_pseudopotentials_that_are_missing_ambiguous_or_of_several_functionals_are_named(tmp_path, machine, pseudos):
    binary = CAMPAIGN.replace("formula: Al2", "formula: Al2Ni2")
    pseudo(pseudos, "Ni", functional="SLA PW PBX PBC")  # PBE by its parts
    checked_campaign(campaign_file(tmp_path, text=binary), machine)
    pseudo(pseudos, "Ni", functional="LDA")
    assert "made for different functionals (Al.upf: PBE, Ni.upf: LDA)" in problems(tmp_path, machine, text=binary)
    pseudo(pseudos, "Ni", name="ni_soft.UPF")
    assert "several files for Ni" in problems(tmp_path, machine, text=binary)
    assert "no file for Fe" in problems(tmp_path, machine, text=CAMPAIGN.replace("Al2", "Al2Fe2"))
    nowhere = CAMPAIGN.replace("pseudo_dir: pseudos", "pseudo_dir: nowhere")
    assert "reference.pseudo_dir: there is no folder" in problems(tmp_path, machine, text=nowhere)
    unset = CAMPAIGN.replace("pseudo_dir: pseudos, ", "")
    said = problems(tmp_path, machine.model_copy(update={"pseudo_dir": None}), text=unset)
    assert "set ESPRESSO_PSEUDO" in said


def test_program_that_is_not_there_or_is_not_pw_is_named(tmp_path, machine):
    gone = machine.model_copy(update={"programs": {"pw.x": "/nowhere/pw.x"}})
    assert "/nowhere/pw.x cannot be run (No such file or directory); put pw.x on PATH" in problems(tmp_path, gone)
    other = machine.model_copy(update={"programs": {"pw.x": shutil.which("true")}})
    assert "does not say that it is pw.x" in problems(tmp_path, other)


def test_cutoff_below_the_suggestion_is_warned_of_with_both(tmp_path, machine, capsys):
    path = campaign_file(tmp_path, text=CAMPAIGN.replace("ecutwfc: 20", "ecutwfc: 15"))
    checked_campaign(path, machine)
    assert "reference.ecutwfc: 15 Ry is below the 20 Ry that Al.upf suggests" in capsys.readouterr().err


def test_spin_that_nothing_starts_is_warned_of(machine):
    def warnings(**system):
        return build_reference(section(namelists={"system": system}), ["Ni"], machine).warnings()[-1:]

    assert "starting_magnetization" not in str(warnings(nspin=2, **{"starting_magnetization(Ni)": 0.5}))
    assert "nspin is 2 without a starting_magnetization" in str(warnings(nspin=2))


def test_cutoffs_and_checksums_are_written_out_when_a_campaign_begins(tmp_path, machine):
    text = CAMPAIGN.replace("formula: Al2", "formula: Al2Ni2").replace("ecutwfc: 20, ", "")
    campaign = open_campaign(campaign_file(tmp_path, text=text)).campaign
    reference = reference_of(campaign, machine, tmp_path).pinned()
    assert (reference.ecutwfc, reference.ecutrho) == (45, 400)
    assert reference.pseudopotentials == {"Al": "Al.upf", "Ni": "Ni.upf"}
    assert all(len(checksum) == 64 for checksum in reference.checksums.values())


def test_task_depends_on_what_the_pseudopotentials_are_and_not_on_where(tmp_path, machine, pseudos):
    def name(folder):
        reference = build_reference(section(pseudo_dir=str(folder)), ["Al"], machine)
        return task_id(label_task(aluminium(), reference.pinned()))

    copied = tmp_path / "copied"
    shutil.copytree(pseudos, copied)
    assert name(copied) == name(pseudos)
    pseudo(copied, "Al", valence=3.1, more='wfc_cutoff="20" rho_cutoff="80"')
    assert name(copied) != name(pseudos)


def test_label_is_refused_with_another_pseudopotential_than_the_campaigns(tmp_path, machine, pseudos):
    reference = build_reference(section(), ["Al"], machine)
    given = reference.pinned()
    pseudo(pseudos, "Al", valence=3.1)
    with pytest.raises(ReferenceFailedError, match="is not the file that checksums tell of"):
        single_point(build_reference(given, ["Al"], machine), aluminium(), tmp_path)


def test_pseudopotential_may_be_named_below_the_folder(tmp_path, machine, pseudos):
    (pseudos / "soft").mkdir()
    pseudo(pseudos / "soft", "Al", valence=1.0)
    reference = build_reference(section(pseudopotentials={"Al": "soft/Al.upf"}), ["Al"], machine)
    assert reference.check() == []
    assert reference.pinned().pseudopotentials == {"Al": "soft/Al.upf"}
    single_point(build_reference(reference.pinned(), ["Al"], machine), aluminium(), tmp_path)
    assert "soft/Al.upf" in (tmp_path / "espresso.pwi").read_text()


def test_keys_are_read_as_pw_reads_them():
    keys = {"system": {"Starting_Magnetization(Fe)": 0.5, "Occupations": "fixed"}, "electrons": {"Mixing_beta": 0.3}}
    assert section(namelists=keys).namelists == {
        "system": {"starting_magnetization(Fe)": 0.5, "occupations": "fixed"}, "electrons": {"mixing_beta": 0.3},
    }  # fmt: skip


def test_programs_of_several_processes_have_one_thread_each(monkeypatch):
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "8")
    assert {one_thread_each()[name] for name in THREADS} == {"1"}


def test_last_energy_counts_and_nothing_between_it_and_the_forces_matters():
    output = (Path(__file__).parent / "data" / "pw" / "al2-scf.out").read_text()
    plain = results_in(output, 2)
    assert plain["energy"] == pytest.approx(-9.29081800 * Ry)
    read_by_ase = read(Path(__file__).parent / "data" / "pw" / "al2-scf.out")
    np.testing.assert_allclose(plain["forces"], read_by_ase.get_forces(), atol=1e-6)
    np.testing.assert_allclose(plain["stress"], read_by_ase.get_stress(), atol=1e-7)
    last = "!!   total energy              =     -11.50000000 Ry\n     convergence has been"
    hybrid = output.replace("     convergence has been", last)
    assert results_in(hybrid, 2)["energy"] == pytest.approx(-11.5 * Ry)
    end = "End of self-consistent calculation"
    hubbard = output.replace(
        end, f"{end}\n\n=================== HUBBARD OCCUPATIONS ===================\n ------ ATOM    1\n"
    )
    np.testing.assert_array_equal(results_in(hubbard, 2)["forces"], plain["forces"])
    with pytest.raises(ValueError, match="no forces in it"):
        results_in(output.replace("atom    2 type", "atom  of type"), 2)


@pytest.mark.parametrize(
    ("output", "errors", "status", "kind", "words"),
    [
        ("convergence NOT achieved after *** iterations: stopping", "", 2,
         Failure.SCF_NOT_CONVERGED, "SCF not converged: *** steps"),
        (ERROR.format("mix_rho", "factorization"), "", 1,
         Failure.SCF_NOT_CONVERGED, "SCF not converged: factorization (pw.x, mix_rho)"),
        (ERROR.format("efermig", "internal error, cannot bracket Ef"), "", 1,
         Failure.FERMI_ENERGY, "Fermi energy: internal error"),
        (ERROR.format("c_bands", "too many bands are not converged"), "", 1,
         Failure.DIAGONALISATION, "diagonalisation: too many bands"),
        (ERROR.format("davcio", "error while reading from file x"), "", 1,
         Failure.SCRATCH, "scratch: error while reading"),
        (ERROR.format("n_plane_waves", "No plane waves found: running on too many"), "", 1,
         Failure.TOO_MANY_CORES, "too many cores"),
        (ERROR.format("s_psi", "error in input"), "", 1, Failure.OTHER, "error: error in input (pw.x, s_psi)"),
        ("Program PWSCF", "", 137, Failure.KILLED, "killed by SIGKILL, by the kernel if memory ran out"),
        ("Program PWSCF", "", -11, Failure.CRASHED, "killed by SIGSEGV"),
        ("Program PWSCF", "oom-kill event", 137, Failure.OUT_OF_MEMORY, "out of memory: oom-kill"),
        ("Program PWSCF", "write: No space left on device", 1, Failure.DISK_FULL, "disk full: write"),
        ("", "There are not enough slots available", 1, Failure.MPI, "MPI: There are not enough slots"),
        ("", "", 1, Failure.NO_OUTPUT, "no output: pw.x ended with exit status 1"),
        ("Program PWSCF", "", 1, Failure.INCOMPLETE_OUTPUT, "output ends early: exit status 1"),
    ],
)  # fmt: skip
def test_what_pw_says_becomes_a_reason(output, errors, status, kind, words):
    said = why_no_result(output, errors, status)
    assert said.kind is kind
    assert said.words.startswith(words)


def test_complaints_of_libraries_that_got_over_it_are_no_reason():
    assert why_no_result("JOB DONE", "ibv_create_qp: Cannot allocate memory, falling back to TCP", 0) is None


def test_better_wording_of_a_reason_breaks_no_remedy_of_ours_while_a_users_goes_by_the_words():
    mine = Remedy(when="^SCF", say="my own", set={"namelists": {"electrons": {"mixing_beta": 0.3}}})
    rungs = ladder(section(remedies=[mine]))
    assert next_remedy(rungs, [], Reason(Failure.SCF_NOT_CONVERGED, "SCF not converged: 80 steps")) == mine
    for kind in set().union(*(remedy.kinds for remedy in ESPRESSO)):
        first = next(remedy for remedy in ESPRESSO if kind in remedy.kinds)
        assert next_remedy(rungs, [], Reason(kind, "put in other words")) == first
    assert next_remedy(rungs, [], Reason(Failure.TIME_LIMIT, "one evaluation took longer than 3 s")) is None


@pytest.mark.parametrize("ladder_of", [ESPRESSO, GPAW])
def test_remedies_of_a_ladder_are_told_apart_in_an_outcome(ladder_of):
    for remedy in ladder_of:
        assert recognised(ladder_of, json.loads(json.dumps(as_told(remedy)))) == remedy
        assert recognised(ladder_of, as_told(remedy) | {"when": "as versions before kinds wrote"}) == remedy
        assert recognised(ladder_of, as_told(remedy) | {"set": {"ecutwfc": 1}}) is None


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("SCF not converged: 80 steps, accuracy 0.1 Ry", Failure.SCF_NOT_CONVERGED),
        ("diagonalisation: S matrix not positive definite (pw.x, cdiaghg)", Failure.DIAGONALISATION),
        ("charge is wrong: imaginary charge (pw.x, sum_band)", Failure.WRONG_CHARGE),
        ("Fermi energy: internal error (pw.x, efermig)", Failure.FERMI_ENERGY),
        ("symmetry: not a group (pw.x, sgam_at)", Failure.SYMMETRY),
        ("out of memory: MemoryError", Failure.OUT_OF_MEMORY),
        ("killed by SIGKILL, by the kernel if memory ran out; see attempt-1/output.log", Failure.KILLED),
        ("killed by SIGSEGV, a crash in compiled code; see attempt-1/output.log", Failure.CRASHED),
        ("MPI: not enough slots", Failure.MPI),
        ("scratch: error reading (pw.x, davcio)", Failure.SCRATCH),
        ("no output: pw.x ended with exit status 1", Failure.NO_OUTPUT),
        ("output ends early: exit status 1", Failure.INCOMPLETE_OUTPUT),
        ("output cannot be read: no forces in it", Failure.OTHER),
        ("one evaluation took longer than 3 s (reference.time_limit)", Failure.TIME_LIMIT),
        ("OSError: [Errno 28] No space left on device: 'x'", Failure.DISK_FULL),
    ],
)  # fmt: skip
def test_reason_of_a_file_without_kinds_is_known_by_its_words(words, kind):
    told = {"status": "failed", "reason": words, "remedies": [], "seconds": 1.0, "cost": 1.0, "evaluations": 1}
    outcome = outcome_of(told | {"values": None}, Path("outcome.json"))
    assert outcome.reason == Reason(kind, words)
    assert as_json(outcome) == told | {"reason_kind": kind.value, "values": None}


def test_attempt_of_a_version_without_kinds_is_followed_by_the_next_remedy(root, machine, monkeypatch):
    monkeypatch.setenv("FAKE_PW", "plain")
    name = create_task(root, label_task(aluminium(), section()))
    first, second = root / name / "attempt-1", root / name / "attempt-2"
    first.mkdir()
    second.mkdir()
    before = {
        "status": "failed", "reason": "SCF not converged: 80 steps", "remedies": [], "seconds": 1.0,
        "cost": 1.0, "evaluations": 1, "values": None,
    }  # fmt: skip
    told = {"when": "^SCF not converged", **as_told(ESPRESSO[0])}
    write_sealed(first / "outcome.json", "outcome", before)
    write_sealed(second / "outcome.json", "outcome", before | {"remedies": [told]})
    worker.run_task(root, name, machine)
    attempts = read_result(root, name).attempts
    assert [attempt.remedy for attempt in attempts] == ["", *(remedy.say for remedy in ESPRESSO[:3])]


def test_unconverged_calculation_is_no_result_though_pw_calls_the_job_done():
    output = "convergence NOT achieved after 80 iterations: stopping\n JOB DONE.\n"
    assert why_no_result(output, "", 0) == Reason(Failure.SCF_NOT_CONVERGED, "SCF not converged: 80 steps")
    assert why_no_result("Program PWSCF v.6.7\n JOB DONE.\n", "", 0) is None


REAL = pytest.mark.skipif(
    not (shutil.which("pw.x") and os.environ.get("ESPRESSO_PSEUDO")), reason="needs pw.x, and ESPRESSO_PSEUDO"
)


@REAL
@pytest.mark.long
def test_real_pw_gives_derivatives_of_its_energy_and_the_ladder_the_same_answer(tmp_path):
    plain = EspressoReference(kind="espresso", ecutwfc=24, kspacing=0.8, namelists={"electrons": {"conv_thr": 1e-9}})
    atoms = bulk("Si", "diamond", a=5.43)
    atoms.positions[1] += [0.15, 0.05, -0.1]

    def energy_and(atoms, given=plain):
        return single_point(build_reference(given, ["Si"]), atoms, tmp_path)

    result = energy_and(atoms)
    energies = []
    for sign in (-1, 1):
        moved = atoms.copy()
        moved.positions[1, 0] += sign * 0.01
        energies.append(energy_and(moved).energy)
    assert result.forces[1][0] == pytest.approx((energies[0] - energies[1]) / 0.02, abs=5e-3)
    energies = []
    for sign in (-1, 1):
        strained = atoms.copy()
        strained.set_cell(atoms.cell @ np.diag([1 + sign * 0.01, 1, 1]), scale_atoms=True)
        energies.append(energy_and(strained).energy)
    derivative = (energies[1] - energies[0]) / 0.02 / atoms.get_volume()
    assert result.stress[0][0] == pytest.approx(derivative, abs=3e-3)
    for remedy in ESPRESSO:
        cured = energy_and(atoms, in_force(plain, [remedy]))
        assert cured.energy == pytest.approx(result.energy, abs=2e-4), remedy.say
        np.testing.assert_allclose(cured.forces, result.forces, atol=5e-3, err_msg=remedy.say)
