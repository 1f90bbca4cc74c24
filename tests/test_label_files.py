"""Files of labels as the world writes them: what is clear is read, what is no label is told and left out, and what may
be meant in two ways is asked for."""

from __future__ import annotations

import bz2
import gzip
import lzma
from collections.abc import Callable
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.db import connect
from ase.stress import full_3x3_to_voigt_6_stress
from ase.units import GPa, Ry
from typer.testing import CliRunner

from csp_al.campaign import Campaign, CampaignError, campaign_schema, read_campaign
from csp_al.campaign.errors import Finding, Misfit
from csp_al.cli import app
from csp_al.loop import label_files
from csp_al.loop.label_set import read_labels
from csp_al.structures import Labels

PW = Path(__file__).parent / "data" / "pw"
CAMPAIGN = """\
name: warm
labels:
{labels}
pool: {{formula: Al4, size: 16, volume_per_atom: [12, 24]}}
reference: {{kind: ase, calculator: ase.calculators.emt.EMT}}
"""
STEP = """\
 <calculation>
{electrons}
  <structure>
   <crystal><varray name="basis">{cell}</varray></crystal>
   <varray name="positions">{scaled}</varray>
  </structure>
  <varray name="forces">{forces}</varray>
  <varray name="stress">{stress}</varray>
  <energy><i name="e_fr_energy">{energy:.8f}</i><i name="e_0_energy">{zero:.8f}</i></energy>
 </calculation>
"""
ELECTRONS = '  <scstep><energy><i name="e_fr_energy"> 1.0 </i></energy></scstep>\n'
PW_STEP = """\
     Self-consistent Calculation
!    total energy              = {energy:.8f} Ry
     convergence has been achieved in   8 iterations
"""


def crystals(count: int, seed: int = 0) -> list[Atoms]:
    """Rattled cells of four atoms, labelled by EMT."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        atoms = bulk("Al", cubic=True)
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + 0.03 * rng.normal(size=(3, 3))), scale_atoms=True)
        atoms.rattle(0.1, rng=rng)
        atoms.calc = EMT()
        results = {name: atoms.calc.get_property(name, atoms) for name in ("energy", "forces", "stress")}
        atoms.calc = SinglePointCalculator(atoms, **results)
        found.append(atoms)
    return found


def extxyz(path: Path, frames: list[Atoms], keys: Callable[[Atoms], dict[str, object]], forces: str = "forces") -> Path:
    """Frames with keys of one's own; a value of None leaves its key out."""
    lines = []
    for atoms in frames:
        cell = " ".join(f"{x:.10f}" for x in atoms.cell.array.ravel())
        said = " ".join(
            f'{key}="{" ".join(f"{x:.10f}" for x in np.ravel(value))}"' for key, value in keys(atoms).items()
        )
        column = f":{forces}:R:3" if forces else ""
        lines += [str(len(atoms)), f'Lattice="{cell}" Properties=species:S:1:pos:R:3{column} pbc="T T T" {said}']
        for position, force in zip(atoms.positions, atoms.calc.results["forces"], strict=True):
            numbers = [*position, *(force if forces else [])]
            lines.append("Al " + " ".join(f"{x:.10f}" for x in numbers))
    path.write_text("\n".join(lines) + "\n")
    return path


def energy(atoms: Atoms) -> float:
    return atoms.calc.results["energy"]


def tensor(atoms: Atoms) -> np.ndarray:
    return atoms.get_stress(voigt=False)


def vasprun(frames: list[Atoms], steps: int = 3, settings: str = "", zero: float = 0.01) -> str:
    def rows(array: np.ndarray) -> str:
        return "".join(f"<v>{' '.join(f'{x:.8f}' for x in row)}</v>" for row in array)

    atoms = "".join("<rc><c>Al</c><c>1</c></rc>" for _ in frames[0])
    text = (
        '<?xml version="1.0" encoding="ISO-8859-1"?>\n<modeling>\n'
        '<incar><i name="SYSTEM">Caff\xe8</i></incar>\n'
        f'<parameters><i type="int" name="NELM"> 8</i>{settings}</parameters>\n'
        f'<atominfo><array name="atoms"><set>{atoms}</set></array></atominfo>\n'
    )
    for frame in frames:
        text += STEP.format(
            electrons=ELECTRONS * steps, cell=rows(frame.cell.array),
            scaled=rows(frame.get_scaled_positions(wrap=False)),
            forces=rows(frame.calc.results["forces"]), stress=rows(-10 * tensor(frame) / GPa), energy=energy(frame),
            zero=energy(frame) + zero,
        )  # fmt: skip
    return text + "</modeling>\n"


def outcar(
    frames: list[Atoms], said: str = "aborting loop because EDIFF is reached", by: str = "  ", nelm: int = 60
) -> str:
    text = (
        " vasp.6.3.2 18Jan21\n POTCAR:    PAW_PBE Al 04Jan2001\n   VRHFIN =Al: s2p1\n"
        f"   ions per type =               4\n   NELM   =     {nelm};   NELMIN=  2; NELMDL= -5     # of ELM steps\n"
        "   ISIF   =      3    stress and relaxation\n"
    )
    for row, frame in enumerate(frames, start=1):
        s = -10 * tensor(frame) / GPa
        text += f"----------------------------------------- Iteration {row:6d}(   1)  ------\n"
        text += f"  free energy    TOTEN  =        99.0 eV\n------ Iteration {row:6d}(   8)  ------\n {said}\n"
        text += f"  in kB  {s[0, 0]:.5f} {s[1, 1]:.5f} {s[2, 2]:.5f} {s[0, 1]:.5f} {s[1, 2]:.5f} {s[2, 0]:.5f}\n"
        text += "      direct lattice vectors                 reciprocal lattice vectors\n"
        text += "".join(f"{' '.join(f'{x:.9f}' for x in (*v, *v))}\n" for v in frame.cell.array)
        text += " POSITION                                       TOTAL-FORCE (eV/Angst)\n ------\n"
        both = np.hstack([frame.positions, frame.calc.results["forces"]])
        text += "".join(f"{' '.join(f'{x:.6f}' for x in v)}\n" for v in both)
        text += f"  FREE ENERGIE OF THE ION-ELECTRON SYSTEM (eV)\n  free  energy {by} TOTEN  = {energy(frame):.8f} eV\n"
    return text


def gathered(folder: Path, *labels: str) -> tuple[Labels, list[str], list[str]]:
    """Labels of entries of the campaign file, the places of those that are used, and what was told."""
    path = folder / "warm.yaml"
    path.write_text(CAMPAIGN.format(labels="\n".join(f"  - {label}" for label in labels)))
    told: list[Finding] = []
    labels_, table = read_labels(read_campaign(path), folder, told.append)
    return labels_, table.loc[table["status"] == "done", "place"].tolist(), [finding.message for finding in told]


def refused(folder: Path, *labels: str) -> str:
    with pytest.raises(Misfit) as error:
        gathered(folder, *labels)
    said = str(error.value)
    for word in ("Error", "Traceback", "list index", "broadcast", "setting an array"):
        assert word not in said
    return said


def assert_are(labels: Labels, frames: list[Atoms], atol: float = 1e-6) -> None:
    labels = labels.take(np.arange(len(frames)))
    np.testing.assert_allclose(labels.energy, [energy(atoms) for atoms in frames], atol=atol)
    np.testing.assert_allclose(labels.forces, np.concatenate([a.calc.results["forces"] for a in frames]), atol=atol)
    np.testing.assert_allclose(labels.stress, [tensor(atoms) for atoms in frames], atol=atol)


# extxyz and other files, under keys of their own

FRAMES = crystals(12)


@pytest.mark.parametrize(
    ("keys", "forces", "said"),
    [
        (lambda a: {"energy": energy(a), "stress": tensor(a)}, "forces", ""),
        (lambda a: {"energy": energy(a), "stress": full_3x3_to_voigt_6_stress(tensor(a))}, "forces", "six numbers"),
        (lambda a: {"free_energy": energy(a), "stress": tensor(a)}, "forces", ""),
        (lambda a: {"energy": energy(a) + 1, "free_energy": energy(a), "stress": tensor(a)}, "forces", ""),
        (lambda a: {"energy": energy(a), "virial": -tensor(a) * a.cell.volume}, "forces", "virial"),
        (lambda a: {"energy": energy(a), "virials": -tensor(a) * a.cell.volume}, "forces", "virials"),
        (lambda a: {"REF_energy": energy(a), "REF_stress": tensor(a)}, "REF_forces", "REF_energy, "),
        (
            lambda a: {"dft_energy": energy(a), "dft_stress": full_3x3_to_voigt_6_stress(tensor(a))},
            "dft_forces", "dft_stress of six numbers",
        ),
        (lambda a: {"energy_vasp": energy(a), "virial_vasp": -tensor(a) * a.cell.volume}, "force_vasp", "energy_vasp"),
        (
            lambda a: {"energy": energy(a), "stress": tensor(a), "virial": -tensor(a) * a.cell.volume},
            "forces", "virial",
        ),
        (
            lambda a: {"REF_energy": energy(a), "REF_stress": tensor(a), "energy": energy(a) - 3},
            "REF_forces", "REF_forces",
        ),
        (lambda a: {"energy": energy(a), "stress": tensor(a), "energy_weight": 1, "formation_energy": 2}, "forces", ""),
    ],
)  # fmt: skip
def test_labels_are_read_under_the_keys_that_are_in_use(tmp_path, keys, forces, said):
    extxyz(tmp_path / "l.extxyz", FRAMES, keys, forces)
    labels, _, told = gathered(tmp_path, "l.extxyz")
    assert_are(labels, FRAMES)
    assert len(labels.usable) == 12
    assert bool(told) == bool(said)
    assert said in "".join(told)


def test_keys_of_ones_own_are_read_where_the_campaign_file_names_them(tmp_path):
    def keys(atoms: Atoms) -> dict[str, object]:
        return {"U": energy(atoms), "sigma": tensor(atoms), "energy": 5, "W": -tensor(atoms) * atoms.cell.volume}

    extxyz(tmp_path / "l.extxyz", FRAMES, keys, "F")
    for named in ("stress: sigma", "virial: W"):
        labels, _, told = gathered(tmp_path, f"{{path: l.extxyz, energy: U, forces: F, {named}}}")
        assert_are(labels, FRAMES)
        assert "labels taken from U, F" in told[0]
    said = refused(tmp_path, "l.extxyz")
    assert "12 without forces, stress (other keys there: F, U, W, sigma)" in said
    assert "12 without G (other keys there:" in refused(
        tmp_path, "{path: l.extxyz, energy: U, forces: G, stress: sigma}"
    )


@pytest.mark.parametrize(
    ("keys", "forces", "said"),
    [
        (
            lambda a: {"energy": energy(a), "stress": tensor(a)},
            "REF_forces", "energy, stress, REF_forces are of different methods",
        ),
        (
            lambda a: {"energy": energy(a), "REF_stress": tensor(a)},
            "forces", "REF_stress is not of the method of energy, forces",
        ),
        (
            lambda a: {"energy": energy(a), "stress": tensor(a), "REF_energy": energy(a) - 1},
            "forces:R:3:REF_forces", "the values of several methods stand side by side (",
        ),
        (
            lambda a: {"energy": energy(a), "stress": tensor(a), "virial": tensor(a)},
            "forces", "stress is not minus virial over the volume",
        ),
    ],
)  # fmt: skip
def test_values_that_may_be_meant_in_two_ways_are_asked_for(tmp_path, keys, forces, said):
    if ":" in forces:  # the forces of both methods are in the file
        extxyz(tmp_path / "l.extxyz", FRAMES, keys, "forces")
        frames = ase.io.read(tmp_path / "l.extxyz", index=":")
        for atoms in frames:
            atoms.arrays["REF_forces"] = 2 * atoms.calc.results["forces"]
        ase.io.write(tmp_path / "l.extxyz", frames)
    else:
        extxyz(tmp_path / "l.extxyz", FRAMES, keys, forces)
    words = refused(tmp_path, "l.extxyz")
    assert "labels[0]: l.extxyz, frame 0: " in words
    assert said in words
    assert "labels: [{path: ..., " in words


@pytest.mark.parametrize(
    ("keys", "forces", "said"),
    [
        (lambda a: {"energy": energy(a)}, "forces", "12 without stress"),
        (lambda a: {"energy": energy(a), "stress": [1, 2, 3]}, "forces", "12 with stress of shape (3,), where six"),
        (lambda a: {"energy": [1, 2], "stress": tensor(a)}, "forces", "12 with energy that is no number"),
        (lambda a: {"energy": energy(a), "stress": np.arange(9)}, "forces", "12 with stress that is not symmetric"),
        (lambda a: {"energy": energy(a), "stress": tensor(a), "forces": [1, 2, 3]}, "", "12 with forces of shape (3,)"),
    ],
)
def test_values_of_another_shape_are_told_and_never_spread(tmp_path, keys, forces, said):
    extxyz(tmp_path / "l.extxyz", FRAMES, keys, forces)
    assert said in refused(tmp_path, "l.extxyz")


def test_keys_of_a_database_are_read_as_those_of_a_file(tmp_path):
    with connect(tmp_path / "l.db", use_lock_file=False) as database:
        for atoms in FRAMES:
            data = {"REF_forces": atoms.calc.results["forces"], "REF_stress": tensor(atoms)}
            database.write(Atoms(atoms), REF_energy=energy(atoms), data=data)
    labels, _, _ = gathered(tmp_path, "l.db")
    assert_are(labels, FRAMES)


def test_whole_frames_of_an_extxyz_that_is_cut_off_count(tmp_path):
    path = extxyz(tmp_path / "l.extxyz", FRAMES, lambda a: {"energy": energy(a), "stress": tensor(a)})
    path.write_text(path.read_text()[:-150])
    labels, _, told = gathered(tmp_path, "l.extxyz")
    assert_are(labels, FRAMES[:11])
    assert "1 of 12 frames is no label: 1 unreadable (line 67: 4 atoms are announced, " in told[0]
    path.write_text(path.read_text().replace("Al 0", "Al zero", 1))
    labels, _, told = gathered(tmp_path, "l.extxyz")
    assert len(labels.usable) == 10


# VASP


@pytest.mark.parametrize(
    ("name", "packed"),
    [("vasprun.xml", bytes), ("vasprun.xml.gz", gzip.compress), ("vasprun.xml.bz2", bz2.compress),
     ("vasprun.xml.xz", lzma.compress), ("vasprun_relax1.xml", bytes)],
)  # fmt: skip
def test_vasprun_is_read_in_folders_compressed_or_not(tmp_path, name, packed):
    for number, atoms in enumerate(FRAMES):
        (tmp_path / "out" / f"{number:02d}").mkdir(parents=True)
        (tmp_path / "out" / f"{number:02d}" / name).write_bytes(packed(vasprun([atoms]).encode("latin-1")))
    labels, places, told = gathered(tmp_path, "out")
    assert_are(labels, FRAMES)
    assert places[3] == f"out/03/{name}, frame 0"
    assert told == []


def test_an_outcar_is_read_itself_and_in_a_folder_without_a_vasprun(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "OUTCAR").write_text(outcar(FRAMES))
    labels, places, _ = gathered(tmp_path, "OUTCAR")
    assert_are(labels, FRAMES, atol=2e-5)
    assert places[0] == "OUTCAR, frame 0"
    ase.io.write(tmp_path / "more.extxyz", crystals(10, seed=1))
    (tmp_path / "out" / "OUTCAR").write_text(outcar(FRAMES))
    assert len(gathered(tmp_path, "out", "more.extxyz")[1]) == 22
    (tmp_path / "out" / "vasprun.xml").write_text(vasprun(FRAMES[:3]), encoding="latin-1")
    assert len(gathered(tmp_path, "out", "more.extxyz")[1]) == 13


MORE = "more.extxyz"


@pytest.mark.parametrize(
    ("name", "text", "usable", "said"),
    [
        ("vasprun.xml", vasprun(FRAMES[:3], steps=8), 0, "3 not converged (as many electronic steps as NELM)"),
        ("vasprun.xml", vasprun(FRAMES[:3], steps=0), 0, "3 without electronic steps"),
        ("vasprun.xml", vasprun(FRAMES[:3], settings='<i name="ML_LMLFF"> T  </i><i name="ML_MODE">run</i>'),
         0, "3 of a machine-learnt force field"),
        ("vasprun.xml", vasprun(FRAMES[:3], steps=1, settings='<i type="logical" name="ML_FF"> .TRUE. </i>'),
         0, "3 of a machine-learnt force field"),
        ("vasprun.xml", vasprun(FRAMES[:3], settings='<i name="ISIF"> 1</i>'), 0, "3 with no more of the stress"),
        ("vasprun.xml", vasprun(FRAMES[:3])[:-400], 2, "1 cut off before the end of the step"),
        ("vasprun.xml", vasprun(FRAMES[:3]).replace(f"{energy(FRAMES[1]):.8f}", "****", 1), 2, "1 with numbers"),
        ("vasprun.xml", vasprun(FRAMES[:3])[:100], 0, "(out/vasprun.xml: as vasprun.xml: it is cut off"),
        ("OUTCAR", outcar(FRAMES[:3], "aborting loop EDIFF was not reached (unconverged)"), 0, "3 not converged"),
        ("OUTCAR", outcar(FRAMES[:3], "", nelm=8), 0, "3 not converged"),
        ("OUTCAR", outcar(FRAMES[:3], by="ML"), 0, "3 of a machine-learnt force field"),
        ("OUTCAR", outcar(FRAMES[:3])[:-60], 2, "1 cut off before the end of the step"),
        ("OUTCAR", outcar(FRAMES[:3])[60:].replace("VRHFIN", ""), 0, "1 file without a frame"),
    ],
)  # fmt: skip
def test_steps_of_vasp_that_are_no_labels_are_told_and_left_out(tmp_path, name, text, usable, said):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text(text, encoding="latin-1")
    ase.io.write(tmp_path / MORE, crystals(10, seed=1))
    if not usable:
        words = refused(tmp_path, "out", MORE)
        assert "labels[0]: out holds no labels: " in words
    else:
        labels, _, told = gathered(tmp_path, "out", MORE)
        words = told[0]
        assert len(labels.usable) == usable + 10
    assert said in words


def test_energy_of_vasp_is_the_free_energy_without_the_work_of_a_pressure(tmp_path):
    (tmp_path / "vasprun.xml").write_text(vasprun(FRAMES, settings='<i name="PSTRESS"> 20.0</i>'), encoding="latin-1")
    labels, _, _ = gathered(tmp_path, "vasprun.xml")
    works = [2 * GPa * atoms.cell.volume for atoms in FRAMES]
    np.testing.assert_allclose(
        labels.energy, [energy(a) - work for a, work in zip(FRAMES, works, strict=True)], atol=1e-6
    )


# folders


def test_files_of_a_folder_that_hold_no_labels_are_passed_over_and_told_all_at_once(tmp_path):
    scf = (PW / "al2-scf.out").read_text()
    (tmp_path / "out").mkdir()
    head = scf.partition("     Self-consistent")[0]
    crash = " %%%%%\n     Error in routine c_bands (1):\n     too many bands are not converged\n %%%%%\n"
    for name, text in {
        "a.out": scf, "b.out": head + "     Band Structure Calculation\n   JOB DONE.\n", "c.out": head + crash,
        "d.out": scf.replace("total   stress", ""), "job.out": "slurm says hello\n", "notes.txt": "x", "e.log": scf,
    }.items():  # fmt: skip
        (tmp_path / "out" / name).write_text(text)
    ase.io.write(tmp_path / MORE, crystals(10, seed=1))
    _, places, (told,) = gathered(tmp_path, MORE, "out")
    assert places[10:] == ["out/a.out, frame 0"]  # e.log says the same
    assert "2 of 4 frames are no labels: 1 of an nscf or bands calculation (out/b.out, frame 0)" in told
    assert "1 without stress (out/d.out, frame 0)" in told
    assert (
        "1 file without a frame (out/c.out: diagonalisation: too many bands are not converged (pw.x, c_bands))" in told
    )
    for good in ("a.out", "e.log"):
        (tmp_path / "out" / good).unlink()
    words = refused(tmp_path, MORE, "out")
    assert all(f"out/{name}.out" in words for name in "bcd")


def test_no_key_is_named_for_what_has_none(tmp_path, finished_run):
    said = refused(tmp_path, f"{{path: {PW}/al2-scf.out, energy: E}}")
    assert "an output of pw.x has no keys; leave energy out" in said
    said = refused(tmp_path, f"{{path: {PW}, energy: E}}")
    assert "is a folder of outputs, which have no keys; leave energy out" in said
    said = refused(tmp_path, f"{{path: {finished_run}, energy: E}}")
    assert "is a run directory, which has no keys; leave energy out" in said


# the same structure twice


def test_one_calculation_in_two_formats_is_one_label(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "vasprun.xml").write_text(vasprun(FRAMES), encoding="latin-1")
    shifted = [atoms.copy() for atoms in FRAMES]
    for atoms, frame in zip(shifted, FRAMES, strict=True):
        atoms.calc = frame.calc
        atoms.positions += atoms.cell[1] - atoms.cell[2]
    extxyz(
        tmp_path / "l.extxyz",
        shifted,
        lambda a: {"energy": energy(a), "stress": -a.calc.results["stress"][0] * np.eye(3)},
    )
    extxyz(tmp_path / "l.extxyz", FRAMES, lambda a: {"energy": energy(a), "stress": tensor(a)})
    labels, places, _ = gathered(tmp_path, "l.extxyz", "out")
    assert len(labels.usable) == 12
    assert places == [f"l.extxyz, frame {number}" for number in range(12)]
    assert labels.reason[12] == "the same structure as l.extxyz, frame 0"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda results: results | {"energy": results["energy"] + 0.4}, "eV/atom"),
        (lambda results: results | {"forces": 1.5 * results["forces"] + 0.2}, "forces that differ by"),
        (lambda results: results | {"stress": results["stress"] + 1 * GPa}, "stresses that differ by 1.00 GPa"),
    ],
)
def test_one_structure_with_two_values_names_both_places(tmp_path, change, said):
    other = FRAMES[5][[3, 1, 0, 2]]  # in another order, and in another cell
    results = {**FRAMES[5].calc.results, "forces": FRAMES[5].calc.results["forces"][[3, 1, 0, 2]]}
    other.positions += other.cell[0]
    other.calc = SinglePointCalculator(other, **results)
    ase.io.write(tmp_path / "a.traj", FRAMES)
    ase.io.write(tmp_path / "b.traj", [*crystals(2, seed=1), other])
    _, places, _ = gathered(tmp_path, "a.traj", "b.traj")
    assert len(places) == 14
    other.calc = SinglePointCalculator(other, **change(results))
    ase.io.write(tmp_path / "b.traj", [*crystals(2, seed=1), other])
    words = refused(tmp_path, "a.traj", "b.traj")
    assert "labels[1]: the same structure with different values: a.traj, frame 5 and b.traj, frame 2: " in words
    assert said in words


def test_what_is_left_out_is_told_by_validate_at_its_place_and_does_not_stop_it(tmp_path):
    frames = crystals(12)
    del frames[4].calc.results["stress"]
    ase.io.write(tmp_path / "l.traj", frames)
    path = tmp_path / "warm.yaml"
    path.write_text(CAMPAIGN.format(labels="  - l.traj"))
    said = CliRunner().invoke(app, ["validate", str(path)])
    assert said.exit_code == 0
    assert (
        "warm.yaml:3:5: labels[0]: l.traj: 1 of 12 frames is no label: 1 without stress (l.traj, frame 4)"
        in said.output
    )


def test_folder_in_which_something_cannot_be_read_is_named_in_words(tmp_path, monkeypatch):
    def gone(path: Path) -> str:
        raise FileNotFoundError(2, "No such file or directory", str(path))

    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "scf.out").write_text("")
    monkeypatch.setattr(label_files, "_kind", gone)
    assert "old cannot be read (" in (words := refused(tmp_path, "old"))
    assert "Errno" not in words


def test_energies_of_pw_are_of_the_last_functional_for_labels_from_elsewhere_too(tmp_path):
    scf = (PW / "al2-scf.out").read_text()
    last = "!!   total energy              =     -11.50000000 Ry\n     convergence has been"
    (tmp_path / "hybrid.out").write_text(scf.replace("     convergence has been", last))
    ase.io.write(tmp_path / MORE, crystals(10, seed=1))
    labels, _, _ = gathered(tmp_path, "hybrid.out", MORE)
    assert labels.energy[0] == pytest.approx(-11.5 * Ry)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (
            "5",
            "warm.yaml:3:5: labels[0]: a path, or a section such as {path: x.extxyz, energy: REF_energy}, is expected",
        ),
        ("{energy: a}", "warm.yaml:3:5: labels[0].path: missing"),
        ("{path: l.traj, energi: a}", "warm.yaml:3:20: labels[0].energi: unknown key, did you mean energy?"),
        ("{path: l.traj, energy: 3}", "warm.yaml:3:28: labels[0].energy: text is expected, not 3"),
        ("{path: l.traj, stress: x, virial: y}", "warm.yaml:3:31: labels[0].virial: stress and virial say the same"),
        ("{path: nowhere, energy: E}", "warm.yaml:3:5: labels[0]: there is no file or folder"),
    ],
)
def test_what_is_wrong_with_an_entry_is_told_at_its_place(tmp_path, entry, said):
    (tmp_path / "l.traj").touch()
    path = tmp_path / "warm.yaml"
    path.write_text(CAMPAIGN.format(labels=f"  - {entry}"))
    with pytest.raises(CampaignError) as error:
        read_campaign(path)
    assert said in str(error.value)


def test_an_entry_that_is_a_path_stays_one_in_the_record():
    campaign = {"name": "a", "pool": {"formula": "Al4"}, "reference": {"kind": "gpaw"}}
    listed = ["a.extxyz", {"path": "b.extxyz", "energy": "E"}]
    resolved = Campaign.model_validate(campaign | {"labels": listed}).model_dump(mode="json")
    assert resolved["labels"][0] == "a.extxyz"
    assert resolved["labels"][1]["energy"] == "E"
    assert Campaign.model_validate(resolved).model_dump(mode="json") == resolved
    items = campaign_schema()["properties"]["labels"]["items"]["anyOf"]
    assert items == [{"type": "string"}, {"$ref": "#/$defs/LabelFile"}]
