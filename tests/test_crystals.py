"""What is said of crystals beside their energies: symmetry, prototype, density, neighbours, the nearest known one."""

import json

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, make_supercell
from titania import titania
from typer.testing import CliRunner

from csp_al.cif import write_cif
from csp_al.cli.app import app
from csp_al.report.description import describe
from csp_al.report.details import ranked_crystals
from csp_al.report.known_crystals import Known, nearest, read_known
from csp_al.report.powder import lines_of, pattern_of
from csp_al.report.prototypes import Prototype
from csp_al.report.tables import open_run


def as_relaxed(atoms, shift=0.02, strain=1.01):
    """As a relaxation may leave a crystal: in a skewed larger cell, its atoms some hundredths of an Å off."""
    larger = make_supercell(atoms, [[1, 1, 0], [0, 1, 0], [0, 0, 1]])
    larger.set_cell(strain * larger.cell.array, scale_atoms=True)
    larger.rattle(shift, seed=1)
    larger.rotate(30, (1, 2, 3), rotate_cell=True)
    return larger


@pytest.mark.parametrize(
    ("atoms", "kind", "label", "density", "coordination"),
    [
        (titania("rutile"), "Rutile (C4)", "A2B_tP6_136_f_a", 4.25, {"Ti": [6], "O": [3]}),
        (titania("anatase"), "Anatase (C5)", "A2B_tI12_141_e_a", 3.89, {"Ti": [6], "O": [3]}),
        (titania("brookite"), "Brookite (C21)", "A2B_oP24_61_2c_c", 4.13, {"Ti": [6], "O": [3]}),
        (bulk("NaCl", "rocksalt", 5.64), "Halite (B1)", "AB_cF8_225_a_b", 2.17, {"Na": [6], "Cl": [6]}),
        (bulk("CsCl", "cesiumchloride", 4.12), "B2", "AB_cP2_221_a_b", 4.0, {"Cs": [8], "Cl": [8]}),
        (bulk("Si"), "diamond (A4)", "A_cF8_227_a", 2.33, {"Si": [4]}),
        (bulk("Mg"), "Magnesium (A3)", "A_hP2_194_c", 1.74, {"Mg": [12]}),
        (bulk("Al"), "Copper (A1)", "A_cF4_225_a", 2.70, {"Al": [12]}),
        (bulk("As", "rhombohedral", a=4.13, alpha=54.1, basis=[[0.227] * 3, [-0.227] * 3]), "alpha As (A7)",
         "A_hR2_166_c", 5.77, {"As": [3]}),
    ],
)  # fmt: skip
def test_crystals_that_everybody_knows_are_described_as_everybody_knows_them(atoms, kind, label, density, coordination):
    said = describe(atoms)
    assert said.kind.removeprefix("isopointal to ") == kind
    assert said.label == label
    assert said.density == pytest.approx(density, abs=0.03)
    assert said.coordination == coordination
    assert said.space_group == said.strict_space_group


def test_a_crystal_that_is_not_quite_at_rest_is_described_as_what_it_is_nearly():
    said = describe(as_relaxed(titania("rutile"), 0.004))
    assert (said.space_group.number, said.strict_space_group.number) == (136, 1)
    assert said.prototype.name == said.kind == "Rutile (C4)"
    assert said.density == pytest.approx(4.25 / 1.01**3, abs=0.01)


def test_a_crystal_of_no_known_kind_has_its_label_alone():
    rng = np.random.default_rng(0)
    said = describe(Atoms("Al4", scaled_positions=rng.random((4, 3)), cell=[4, 4.5, 5], pbc=True))
    assert said.prototype == Prototype(None)
    assert said.kind == said.label == "A_aP4_1_4a"


def test_sites_with_other_neighbours_are_told_apart():
    assert describe(titania("baddeleyite")).neighbours == "Ti 7, O 3/4"


def test_a_result_is_laid_upon_the_known_crystal_that_it_is():
    known = [Known(name, titania(name)) for name in ("anatase", "rutile", "brookite")]
    found = nearest(as_relaxed(titania("rutile")), known)
    assert (found.name, found.same) == ("rutile", True)
    assert 0.01 < found.distance < 0.06
    assert found.volume == pytest.approx(1.01**3)
    assert nearest(as_relaxed(titania("rutile"), shift=0.004), known).distance < found.distance
    assert nearest(titania("baddeleyite"), known) is None
    assert nearest(bulk("Al"), known) is None


def test_a_distorted_crystal_is_near_and_not_the_same():
    known, distorted = titania("rutile"), titania("rutile")
    distorted.positions[2:] += 0.35 * np.random.default_rng(0).choice([-1, 1], (4, 3))
    found = nearest(distorted, [Known("rutile", known)])
    assert (found.name, found.same) == ("rutile", False)
    assert 0.2 < found.distance < 0.7


def test_of_a_crystal_at_two_volumes_the_nearer_volume_is_told():
    known = [Known("old", bulk("Al", a=4.15)), Known("new", bulk("Al", a=4.06)), Known("older", bulk("Al", a=3.9))]
    assert nearest(bulk("Al", a=4.05), known).name == "new"


def test_known_crystals_have_the_names_that_their_files_give(tmp_path):
    folder = tmp_path / "known"
    folder.mkdir()
    for name in ("rutile", "anatase"):
        write_cif(folder / f"{name}.cif", titania(name), name, {})
    both = "\n".join((folder / f"{name}.cif").read_text() for name in ("rutile", "anatase"))
    (tmp_path / "both.cif").write_text(both)
    (tmp_path / "mineral.cif").write_text(
        both.replace("_cell_length_a", "_chemical_name_mineral 'The one'\n_cell_length_a", 1)
    )
    frames = [titania("brookite"), titania("brookite")]
    frames[0].info["name"] = "mine"
    ase.io.write(tmp_path / "frames.extxyz", frames)
    ase.io.write(folder / "POSCAR-x", titania("columbite"), format="vasp")
    (folder / "README.md").write_text("none of the structures")

    def names(path):
        known, left_out = read_known(path)
        assert left_out == []
        return [one.name for one in known]

    assert names(tmp_path / "both.cif") == ["rutile", "anatase"]
    assert names(tmp_path / "mineral.cif") == ["The one", "anatase"]
    assert names(tmp_path / "frames.extxyz") == ["mine", "frames, 2"]
    assert names(folder) == ["POSCAR-x", "anatase", "rutile"]
    (folder / "again.cif").write_text((folder / "rutile.cif").read_text())
    assert names(folder) == ["POSCAR-x", "rutile (again)", "anatase", "rutile (rutile)"]


def test_what_of_a_file_is_no_crystal_is_left_out_and_said(tmp_path):
    molecule = Atoms("O2", positions=[[0, 0, 0], [0, 0, 1.2]])
    file = tmp_path / "known.extxyz"
    ase.io.write(file, [molecule, titania("rutile")], format="extxyz")
    known, left_out = read_known(file)
    assert [one.name for one in known] == ["known, 2"]
    assert left_out == [
        f"{file}, structure 1: no periodic crystal; a cell of three vectors is needed, and pbc in all directions"
    ]
    ase.io.write(file, [molecule], format="extxyz")
    with pytest.raises(ValueError, match="structure 1: no periodic crystal"):
        read_known(file)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no structures in this folder"):
        read_known(tmp_path / "empty")


@pytest.fixture
def files(tmp_path, finished_run):
    """Known crystals of aluminium, and a pattern of the second one found."""
    _, second = (atoms for _, atoms in ranked_crystals(open_run(finished_run))[:2])
    crystals = [bulk("Al"), bulk("Al", "hcp", a=2.86, c=4.6), bulk("Al", "bcc", 3.2)]
    for atoms, name in zip(crystals, ("fcc", "hcp", "bcc"), strict=True):
        atoms.info["name"] = name
    ase.io.write(tmp_path / "known.extxyz", crystals)
    pattern = pattern_of(lines_of(second, 1.54184, 5, 90))
    noise = np.random.default_rng(0).random(len(pattern.angles))
    np.savetxt(tmp_path / "measured.xy", np.column_stack([pattern.angles, pattern.intensities + noise + 3]))
    return tmp_path


def results(*words):
    return CliRunner().invoke(app, ["results", *map(str, words)])


def test_results_show_what_is_asked_for(finished_run, files):
    rows = open_run(finished_run).result_rows
    plain = results(finished_run).output
    asked = ("--known", files / "known.extxyz", "--xrd", files / "measured.xy", "--describe")
    told = results(finished_run, *asked)
    assert told.exit_code == 0
    assert told.output.startswith(plain)
    for words in ("What they are", "g/cm^3", "Al 12", "The nearest known crystals", "By agreement with the measured"):
        assert words in told.output
        assert words not in plain
    found = json.loads(results(finished_run, *asked, "--json").output)
    assert found[0]["id"] == rows[1]["id"]
    assert found[0]["xrd"]["agreement"] > 0.95 > found[1]["xrd"]["agreement"]
    assert [row["xrd"]["rank"] for row in found] == list(range(1, len(rows) + 1))
    for row in found:
        assert {key: row[key] for key in rows[0]} == next(one for one in rows if one["id"] == row["id"])
        assert row["description"]["density_g_cm3"] == pytest.approx(26.98 * 1.66054 / row["volume_per_atom"], rel=1e-3)
    names = results(finished_run, *asked, "--csv").output.splitlines()[0].split(",")
    assert {"description_prototype", "known_name", "xrd_agreement"} <= set(names)


def test_another_space_group_at_the_strict_tolerance_is_told(finished_run):
    said = results(finished_run).output
    rows = open_run(finished_run)
    differ = {
        row["id"]
        for row, atoms in ranked_crystals(rows)
        if describe(atoms).strict_space_group.number != row["space_group"]["number"]
    }
    assert differ  # else this shows nothing
    line = next(line for line in said.splitlines() if line.startswith("space groups are those within 0.1 Å"))
    assert all(f"{identity} (" in line for identity in differ)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--xrd", "text.xy"], "text.xy: 0 lines with two numbers"),
        (["--xrd", "low.xy"], "no crystal has a line between 1 and 4.95° at 1.54184 Å; are these 2θ"),
        (["--xrd", "measured.xy", "--wavelength", "Cu"], "--wavelength Cu: neither Å"),
        (["--wavelength", "CuKa"], "--wavelength is that of a measured pattern; name its file with --xrd"),
        (["--known", "text.xy"], "text.xy: "),
        (["--known", "molecule.xyz"], "molecule.xyz, structure 1: no periodic crystal"),
        (["--known", "titania.extxyz"], "no known crystal is of Al4: those given are O4Ti2"),
        (["--known", "nowhere.cif"], "nowhere.cif: there is no such file"),
        (["--xrd", "nowhere.xy"], "nowhere.xy: there is no such file"),
    ],
)
def test_a_file_that_is_of_no_use_is_one_clear_line(finished_run, files, monkeypatch, words, message):
    monkeypatch.chdir(files)
    (files / "text.xy").write_text("nothing\nof the kind\n")
    np.savetxt("low.xy", np.column_stack([np.arange(1, 5, 0.05), np.arange(80) % 7]))
    ase.io.write("molecule.xyz", Atoms("O2", positions=[[0, 0, 0], [0, 0, 1.2]]))
    ase.io.write("titania.extxyz", titania("rutile"))
    told = results(finished_run, *words)
    assert told.exit_code == 2
    assert told.stdout == ""
    assert message in told.stderr
    assert len(told.stderr.splitlines()) == 1
