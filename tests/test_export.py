"""Exports: structures for other programs and for a paper, in a folder of the run's own."""

import hashlib
import json
import re
import shutil
from importlib.metadata import version
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase.build import bulk
from ase.db import connect
from monty.serialization import loadfn
from pymatgen.io.ase import AseAtomsAdaptor
from pymatgen.io.cif import CifFile
from titania import titania
from typer.testing import CliRunner

from csp_al.campaign import read_campaign
from csp_al.cli.app import app
from csp_al.direct.pairs import read_pairs
from csp_al.hdf5 import load
from csp_al.report.export import Exported, export
from csp_al.report.measured import read_measured
from csp_al.report.powder import lines_of
from csp_al.report.tables import open_run
from csp_al.select.identity import same_structure
from csp_al.store.run_directory import prepare
from csp_al.structures import Structures


@pytest.fixture(scope="module")
def run(finished_run):
    return open_run(finished_run)


@pytest.fixture(scope="module")
def labels(run):
    return run.all_labels


@pytest.fixture
def begun(tmp_path, finished_run):
    """A run directory in which nothing has been done."""
    source = finished_run / "campaign.yaml"
    prepare(tmp_path / "begun", read_campaign(source), source, {})
    return tmp_path / "begun"


def same_crystal(a, b, tolerance):
    """Same cell parameters and scaled positions, atom by atom, whatever the orientation."""
    assert a.get_chemical_symbols() == b.get_chemical_symbols()
    np.testing.assert_allclose(a.cell.cellpar(), b.cell.cellpar(), atol=tolerance)
    difference = a.get_scaled_positions() - b.get_scaled_positions()
    np.testing.assert_allclose(difference - np.round(difference), 0, atol=tolerance)


def test_exported_winners_are_the_winners(run, finished_run, tmp_path):
    paths = export(finished_run, ["cif", "poscar"], "winners", tmp_path / "new" / "folder")
    symmetric = [path for path in paths if path.parent.name == "winners-cif"]
    computed = [path for path in paths if path.parent.name == "as-computed"]
    poscars = [path for path in paths if path.name.startswith("POSCAR-")]
    assert [path.name for path in symmetric] == [row["cif"] for row in run.result_rows]
    for winner, cif, poscar in zip(run.winners, computed, poscars, strict=True):
        same_crystal(winner, ase.io.read(cif), 1e-4)
        same_crystal(winner, ase.io.read(poscar), 1e-8)
    for winner, cif in zip(run.winners, symmetric, strict=True):
        assert same_structure(winner, ase.io.read(cif))


def test_cif_of_a_winner_says_what_it_is(run, finished_run, tmp_path):
    paths = export(finished_run, ["CIF"], "winners", tmp_path)
    row, block = run.result_rows[0], CifFile.from_file(tmp_path / "winners-cif" / run.result_rows[0]["cif"]).data
    ((name, items),) = block.items()
    assert name == f"al4_{Path(row['cif']).stem}"
    assert float(items["_csp_al_energy_per_atom_eV"]) == pytest.approx(row["energy_per_atom"], abs=1e-6)
    assert json.loads(items["_csp_al_reference"])["calculator"] == "ase.calculators.emt.EMT"
    assert items["_csp_al_symmetry_tolerance_angstrom"] == "0.1"
    assert len({next(iter(CifFile.from_file(path).data)) for path in paths}) == len(paths)
    published = CifFile.from_file(finished_run / "winners" / row["cif"]).data
    assert published[name].data == items.data


def test_relaxed_candidates_are_distinct_and_their_energies_are_called_predictions(run, finished_run, tmp_path):
    (path, *_) = export(finished_run, ["extxyz", "cif"], "relaxed", tmp_path, within=50)
    (path,) = tmp_path.glob("*.extxyz")
    read = ase.io.read(path, index=":")
    energies = [atoms.info["predicted_energy_per_atom"] for atoms in read]
    assert energies == sorted(energies)
    assert energies[-1] - energies[0] <= 0.05
    ranking = run.ranking().set_index("id")
    assert energies[0] == pytest.approx(ranking.loc[ranking["trusted"], "energy_per_atom"].min())
    assert all(atoms.calc is None for atoms in read)
    assert len(list((tmp_path / "relaxed-cif").glob("*.cif"))) == len(read)
    more = export(finished_run, ["cif"], "relaxed", tmp_path)
    assert len(more) > 2 * len(read)


def test_relaxed_candidates_are_those_of_the_last_ranking(finished_run, tmp_path):
    running = shutil.copytree(finished_run, tmp_path / "running")
    shutil.rmtree(running / "cycle-02" / "rank")  # relaxed, not yet ranked
    export(running, ["extxyz"], "relaxed", tmp_path / "out")
    read = ase.io.read(tmp_path / "out" / "relaxed.extxyz", index=":")
    assert {atoms.info["cycle"] for atoms in read} == {1}


def test_exports_of_two_runs_never_mix(finished_run, tmp_path, monkeypatch):
    other = shutil.copytree(finished_run, tmp_path / "other")
    monkeypatch.chdir(tmp_path)
    written = export(finished_run, ["cif"], "winners")
    assert {path.parts[:2] for path in written} == {("export", "al4")}
    before = {path: path.read_bytes() for path in Path("export").rglob("*") if path.is_file()}
    (other / "provenance.json").write_text("{}")
    with pytest.raises(ValueError, match="files of the run al4 are there; choose another folder"):
        export(other, ["cif", "extxyz"], "labels", Path("export/al4"))
    assert {path: path.read_bytes() for path in Path("export").rglob("*") if path.is_file()} == before


def test_an_export_replaces_its_own_files_and_no_others(finished_run, tmp_path):
    export(finished_run, ["cif", "extxyz"], "winners", tmp_path)
    (tmp_path / "winners-cif" / "mine.cif").write_text("data_mine")
    export(finished_run, ["poscar"], "winners", tmp_path)
    export(finished_run, ["cif"], "winners", tmp_path)
    assert (tmp_path / "winners-cif" / "mine.cif").read_text() == "data_mine"
    sums = (tmp_path / "SHA256SUMS").read_text().splitlines()[1:]
    for line in sums:
        digest, name = line.split("  ")
        assert hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() == digest
    assert {line.split("  ")[1].partition("/")[0] for line in sums} == {
        "winners-cif", "winners-poscar", "winners.extxyz",
    }  # fmt: skip
    with (tmp_path / "winners.extxyz").open("a") as file:
        file.write("\n")
    with pytest.raises(ValueError, match=r"winners\.extxyz: changed since it was exported"):
        export(finished_run, ["extxyz"], "winners", tmp_path)
    (tmp_path / "labels.db").write_text("mine")
    (tmp_path / "winners.extxyz").unlink()
    with pytest.raises(ValueError, match=r"labels\.db: there already, of no export"):
        export(finished_run, ["ase-db"], "labels", tmp_path)
    assert (tmp_path / "labels.db").read_text() == "mine"


def test_readme_of_an_export_tells_method_settings_and_how_to_cite(run, finished_run, tmp_path):
    export(finished_run, ["extxyz"], "labels", tmp_path)
    text = (tmp_path / "README.md").read_text()
    for words in (
        "# Structures of al4",
        "calculator: ase.calculators.emt.EMT",
        "arXiv:2408.04073",
        run.summary["stop"],
        f"Judgement: {run.judgement.word} (",
        "| `labels.extxyz` | the single points by which the ensemble was trained: extended XYZ",
        "| Al 12 |",
    ):
        assert words in text
    assert f"ase {version('ase')}" in text
    for row in run.result_rows:
        assert f"| {Path(row['cif']).stem} | {row['energy_per_atom']:.4f} |" in text


@pytest.mark.parametrize("form", ["png", "PDF"])
@pytest.mark.parametrize("what", ["winners", "relaxed"])
def test_pictures_need_no_browser(finished_run, tmp_path, form, what):
    (path,) = export(finished_run, [form], what, tmp_path)
    assert path.name == f"{what}.{form.lower()}"
    assert path.read_bytes()[:4] in (b"\x89PNG", b"%PDF")


def test_exported_labels_carry_energies_forces_and_stress(finished_run, labels, tmp_path):
    (path,) = export(finished_run, ["extxyz"], "labels", tmp_path)
    usable, read = labels.usable, ase.io.read(path, index=":")
    assert len(read) == len(usable) < len(labels)
    for row, atoms in enumerate(read):
        assert (atoms.info["id"], atoms.info["cycle"]) == (usable.structures.ids[row], usable.cycle[row])
        assert atoms.get_potential_energy() == pytest.approx(usable.energy[row])
        np.testing.assert_allclose(atoms.get_forces(), usable.take([row]).forces, atol=1e-7)
        np.testing.assert_allclose(atoms.get_stress(voigt=False), usable.stress[row], atol=1e-7)
        np.testing.assert_allclose(atoms.positions, usable.structures.take([row]).positions, atol=1e-7)


def test_exported_database_can_be_searched_and_leaves_no_lock(finished_run, labels, tmp_path):
    (path,) = export(finished_run, ["ase-db"], "labels", tmp_path)
    (again,) = export(finished_run, ["ase-db"], "labels", tmp_path)
    assert {entry.name for entry in tmp_path.iterdir()} == {path.name, "README.md", "SHA256SUMS"}
    assert again == path
    usable = labels.usable
    rows = list(connect(path).select())
    assert [row.candidate for row in rows] == usable.structures.ids.tolist()
    np.testing.assert_allclose([row.energy for row in rows], usable.energy)
    np.testing.assert_allclose(rows[0].forces, usable.take([0]).forces)
    assert connect(path).count(cycle=1) == (usable.cycle == 1).sum()


def test_pymatgen_reads_crystals_with_what_is_known_of_them(run, finished_run, tmp_path):
    (path,) = export(finished_run, ["pymatgen"], "winners", tmp_path)
    for structure, atoms, row in zip(loadfn(path), run.winners, run.result_rows, strict=True):
        same_crystal(atoms, AseAtomsAdaptor.get_atoms(structure), 1e-8)
        assert structure.properties["energy"] == pytest.approx(atoms.get_potential_energy())
        assert structure.properties["id"] == row["id"]
        np.testing.assert_allclose(structure.site_properties["forces"], atoms.get_forces())
    (relaxed,) = export(finished_run, ["pymatgen"], "relaxed", tmp_path, within=50)
    assert all("predicted_energy_per_atom" in one.properties for one in loadfn(relaxed))
    assert not any("energy" in one.properties for one in loadfn(relaxed))


def test_optimade_has_the_structures_of_its_specification(run, finished_run, tmp_path):
    """All properties that v1.2.0 asks of a structure, in the forms that it asks for."""
    (path,) = export(finished_run, ["optimade"], "winners", tmp_path)
    document = json.loads(path.read_text(), parse_constant=pytest.fail)
    assert {"api_version", "query", "more_data_available"} <= set(document["meta"])
    assert len({entry["id"] for entry in document["data"]}) == len(run.winners)
    for entry, atoms, row in zip(document["data"], run.winners, run.result_rows, strict=True):
        assert entry["type"] == "structures"
        said = entry["attributes"]
        assert (said["elements"], said["nelements"], said["elements_ratios"]) == (["Al"], 1, [1.0])
        assert (said["chemical_formula_reduced"], said["chemical_formula_anonymous"]) == ("Al", "A")
        assert said["chemical_formula_descriptive"] == "Al4"
        assert (said["dimension_types"], said["nperiodic_dimensions"]) == ([1, 1, 1], 3)
        assert (said["nsites"], said["species_at_sites"]) == (4, ["Al"] * 4)
        assert said["species"] == [{"name": "Al", "chemical_symbols": ["Al"], "concentration": [1]}]
        assert said["structure_features"] == []
        assert {"last_modified", "immutable_id"} <= set(said)
        np.testing.assert_allclose(said["lattice_vectors"], atoms.cell.array)
        np.testing.assert_allclose(said["cartesian_site_positions"], atoms.positions, atol=1e-8)
        assert said["_cspal_energy_per_atom"] == pytest.approx(row["energy_per_atom"])
        assert all(re.fullmatch(r"(_cspal_)?[a-z0-9_]+", key) for key in said)


def test_formulae_of_optimade_are_sorted_as_it_says(finished_run, tmp_path, monkeypatch):
    rutile = titania("rutile")
    rutile.info |= {"id": 1, "name": "rutile", "predicted_sigma": np.float64("nan")}
    monkeypatch.setitem(export.__globals__["SOURCES"], "pool", lambda run: [Exported(rutile, "rutile")])
    (path,) = export(finished_run, ["optimade"], "pool", tmp_path)
    said = json.loads(path.read_text(), parse_constant=pytest.fail)["data"][0]["attributes"]
    assert (said["elements"], said["elements_ratios"]) == (["O", "Ti"], [pytest.approx(2 / 3), pytest.approx(1 / 3)])
    assert (said["chemical_formula_reduced"], said["chemical_formula_anonymous"]) == ("O2Ti", "A2B")
    assert said["chemical_formula_descriptive"] == "Ti2O4"
    assert said["_cspal_predicted_sigma"] is None


def test_powder_patterns_are_files_and_pictures(run, finished_run, tmp_path):
    paths = export(finished_run, ["xrd"], "winners", tmp_path, wavelength="MoKa")
    names = [Path(row["cif"]).stem for row in run.result_rows]
    assert sorted(path.name for path in paths) == sorted(f"{name}{end}" for name in names for end in (".png", ".xy"))
    for name, atoms in zip(names, run.winners, strict=True):
        assert "computed for 0.71073 Å" in (tmp_path / "winners-xrd" / f"{name}.xy").read_text()
        pattern = read_measured(tmp_path / "winners-xrd" / f"{name}.xy")
        assert pattern.intensities.max() == pytest.approx(100, abs=1e-3)
        lines = lines_of(atoms, 0.71073, 5, 90)
        strongest = lines.angles[np.argmax(lines.intensities)]
        assert abs(pattern.angles[np.argmax(pattern.intensities)] - strongest) < 0.5
        assert (tmp_path / "winners-xrd" / f"{name}.png").read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(ValueError, match="--wavelength is that of powder patterns, which --format xrd writes"):
        export(finished_run, ["cif"], "winners", tmp_path, wavelength="MoKa")


def test_exported_pool_is_the_pool(finished_run, tmp_path):
    (path,) = export(finished_run, ["extxyz"], "pool", tmp_path)
    pool = load(finished_run / "pool" / "structures.h5", Structures).to_atoms()
    for identity, (read, atoms) in enumerate(zip(ase.io.read(path, index=":"), pool, strict=True)):
        assert read.info["id"] == identity
        np.testing.assert_allclose(read.positions, atoms.positions, atol=1e-7)
        np.testing.assert_allclose(read.cell.array, atoms.cell.array, atol=1e-7)


def test_poscar_atoms_are_sorted_by_species(finished_run, tmp_path, monkeypatch):
    salt = bulk("NaCl", "rocksalt", 5.6, cubic=True)
    salt.info["name"] = "salt"
    monkeypatch.setitem(export.__globals__["SOURCES"], "pool", lambda run: [Exported(salt, "salt")])
    (path,) = export(finished_run, ["poscar"], "pool", tmp_path)
    assert path.read_text().split("\n")[5].split() == ["Cl", "Na"]


@pytest.mark.parametrize(
    ("formats", "what", "message"),
    [
        (["xyz"], "winners", "called 'xyz'; allowed: cif, poscar, extxyz, ase-db, pymatgen, optimade, xrd, png, pdf"),
        (["cif"], "losers", "no 'losers' to export; allowed: winners, relaxed, labels, pool"),
        (["cif"], "winners", "no winners yet"),
        (["cif", "png"], "labels", "png: pictures are of winners or relaxed candidates, not of labels"),
        (["xrd"], "pool", "xrd: powder patterns and pictures are of winners or relaxed candidates, not of pool"),
    ],
)
def test_what_cannot_be_exported_is_said(begun, tmp_path, formats, what, message):
    with pytest.raises(ValueError, match=message):
        export(begun, formats, what, tmp_path / "export")
    assert not (tmp_path / "export").exists()


def test_pairs_of_a_campaign_are_what_a_relaxer_reads(finished_run, tmp_path):
    (path,) = export(finished_run, ["extxyz"], "pairs", tmp_path)
    pairs, frames = read_pairs(path), ase.io.read(path, index=":")
    origins = [atoms.info["origin"] for atoms in frames]
    assert set(origins) == {"surrogate", "reference"}
    assert len(pairs) == len(frames)
    assert pairs.moves_cell
    with pytest.raises(ValueError, match="extxyz alone"):
        export(finished_run, ["cif"], "pairs", tmp_path)


def test_without_a_format_winners_are_cif_and_pairs_extxyz(finished_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for words, expected in (([], "winners-cif"), (["--what", "pairs"], "pairs.extxyz")):
        told = CliRunner().invoke(app, ["export", str(finished_run), *words])
        assert told.exit_code == 0, told.output
        assert expected in told.output
