"""CIF files for a paper: what is written is symmetric, and reads back as the same crystal."""

import ase.io
import numpy as np
import pytest
from ase.build import bulk, make_supercell
from ase.spacegroup import crystal
from pymatgen.core import Structure
from pymatgen.io.cif import CifFile
from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

from csp_al.cif import formula, space_group, write_cif
from csp_al.select.identity import same_structure

RUTILE = crystal(["Ti", "O"], [(0, 0, 0), (0.305, 0.305, 0)], spacegroup=136, cellpar=[4.59, 4.59, 2.96, 90, 90, 90])
CORUNDUM = crystal(
    ["Al", "O"], [(0, 0, 0.352), (0.306, 0, 0.25)], spacegroup=167, cellpar=[4.76, 4.76, 12.99, 90, 90, 120]
)
CRYSTALS = [
    (bulk("Si"), 227, 8), (bulk("NaCl", "rocksalt", 5.6), 225, 8), (bulk("SiC", "zincblende", 4.36), 216, 8),
    (bulk("Mg"), 194, 2), (bulk("ZnO", "wurtzite", 3.25, 5.2), 186, 4), (RUTILE, 136, 6), (CORUNDUM, 167, 30),
    (bulk("As", "rhombohedral", 4.13, alpha=54.1), 166, 6),
]  # fmt: skip


@pytest.mark.parametrize(("atoms", "group", "sites"), CRYSTALS, ids=[str(atoms.symbols) for atoms, *_ in CRYSTALS])
def test_crystal_in_a_skewed_cell_is_written_in_its_conventional_one(tmp_path, atoms, group, sites):
    skewed = make_supercell(atoms, [[1, 1, 0], [0, 1, 0], [0, 0, 1]])
    skewed.rattle(0.005, seed=1)
    skewed.rotate(30, (1, 2, 3), rotate_cell=True)
    path = tmp_path / "it.cif"
    write_cif(path, skewed, "it", {})
    structure, read = Structure.from_file(path), ase.io.read(path)
    assert space_group(skewed).number == group
    assert SpacegroupAnalyzer(structure, symprec=0.01).get_space_group_number() == group
    assert read.info["spacegroup"].no == group
    assert len(structure) == len(read) == sites
    assert same_structure(read, skewed)
    items = CifFile.from_file(path).data["it"]
    assert int(items["_symmetry_Int_Tables_number"]) == group
    assert int(items["_csp_al_strict_space_group_number"]) <= group


def test_crystal_without_symmetry_is_written_as_it_is(tmp_path):
    atoms = crystal(["Si", "O"], [(0.1, 0.2, 0.3), (0.5, 0.6, 0.9)], spacegroup=1, cellpar=[4, 5, 6, 80, 85, 95])
    write_cif(tmp_path / "it.cif", atoms, "it", {})
    assert same_structure(ase.io.read(tmp_path / "it.cif"), atoms)


def test_items_and_name_of_the_block_are_written_so_that_they_are_read_back(tmp_path):
    atoms = bulk("NaCl", "rocksalt", 5.6)
    long = '{"namelists": {"system": {"nspin": 2}}, "cards": ["; and so on", "it\'s"]}' * 3
    write_cif(tmp_path / "it.cif", atoms, "two words/1", {"_csp_al_m": long.replace(";", ","), "_csp_al_n": "it's"})
    ((name, items),) = CifFile.from_file(tmp_path / "it.cif").data.items()
    assert name == "two_words_1"
    assert items["_csp_al_m"].split() == long.replace(";", ",").split()
    assert items["_csp_al_n"] == "it's"
    assert items["_chemical_formula_sum"] == "Cl4 Na4"  # as the dictionary wants it


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ("Cl4Na4", "Na4Cl4"),
        ("CSi", "SiC"),
        ("O4Ti2", "Ti2O4"),
        ("H3N", "NH3"),
        ("O3SrTi", "SrTiO3"),
    ],
)
def test_formula_is_in_the_order_of_chemists(counts, expected):
    from ase import Atoms

    assert formula(Atoms(counts, positions=np.zeros((len(Atoms(counts)), 3)))) == expected
