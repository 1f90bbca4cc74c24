"""Seeds are the crystals that their files mean, or are refused in words before anything is spent."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc100
from ase.io import write
from typer.testing import CliRunner

from csp_al.campaign import resolve
from csp_al.campaign.models import Pool
from csp_al.cli import app
from csp_al.generate.pool import generate_pool
from csp_al.generate.seeds import find_seeds

CAMPAIGN = """\
name: s
pool:
  formula: Al4
  size: {size}
  volume_per_atom: [12, 24]
  seeds: [{seeds}]
reference: {{kind: ase, calculator: ase.calculators.emt.EMT}}
select: {{per_cycle: 2}}
"""
CIF = """\
data_x
_cell_length_a 4.05
_cell_length_b 4.05
_cell_length_c 4.05
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
{symmetry}
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
{occupancy}
{sites}
"""
FCC = "_space_group_IT_number 225"
POSCAR = "x\n{scale}\n{cell}\n{species}\nDirect\n0 0 0\n0 .5 .5\n.5 0 .5\n.5 .5 0\n"
CUBIC = "4.05 0 0\n0 4.05 0\n0 0 4.05"


def cif(*sites: str, symmetry: str = FCC, occupied: bool = False) -> str:
    occupancy = "_atom_site_occupancy" if occupied else ""
    return CIF.format(symmetry=symmetry, sites="\n".join(sites), occupancy=occupancy)


def found(folder: Path, *files: str, formula: str = "Al4") -> tuple[list[Atoms], list[str]]:
    seeds, wrong = find_seeds(files, resolve(Pool(formula=formula)), folder)
    return seeds, [message for _, message in wrong]


def validate(folder: Path, seeds: str, size: int = 4) -> tuple[int, str]:
    path = folder / "s.yaml"
    path.write_text(CAMPAIGN.format(seeds=seeds, size=size))
    said = CliRunner().invoke(app, ["validate", str(path)])
    assert said.exception is None or isinstance(said.exception, SystemExit), said.exception
    return said.exit_code, said.output


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("number.cif", cif("Al1 Al 0 0 0")),
        ("full.cif", cif("Al1 Al 0 0 0 1", occupied=True)),
        ("rounded.cif", cif("Al1 Al 0 0 0 1.0(2)", occupied=True)),
        ("untold.cif", cif("Al1 Al 0 0 0 ?", occupied=True)),
        ("mark.cif", "\ufeff" + cif("Al1 Al 0 0 0")),
        ("windows.cif", cif("Al1 Al 0 0 0").replace("\n", "\r\n")),
        ("none.cif", cif("Al1 Al 0 0 0", "Al2 Al 0 .5 .5", "Al3 Al .5 0 .5", "Al4 Al .5 .5 0", symmetry="")),
        ("POSCAR", POSCAR.format(scale="1.0", cell=CUBIC, species="Al\n4")),
        ("POSCAR", "\ufeff" + POSCAR.format(scale="1.0", cell=CUBIC, species="Al\n4")),
        ("POSCAR", POSCAR.format(scale="-66.430125", cell="1 0 0\n0 1 0\n0 0 1", species="Al\n4")),
        ("POSCAR", POSCAR.format(scale="-66.430125", cell="0 1 0\n1 0 0\n0 0 1", species="Al\n4")),
        ("POSCAR", POSCAR.format(scale="1.0", cell=CUBIC, species="Al Al\n2 2")),
        ("POSCAR", POSCAR.format(scale="1.0", cell="0 4.05 0\n4.05 0 0\n0 0 4.05", species="Al\n4")),
    ],
)
def test_a_file_that_means_fcc_aluminium_gives_it(tmp_path, name, text):
    (tmp_path / name).write_text(text, encoding="utf-8", newline="")
    (seed,), wrong = found(tmp_path, name)
    assert wrong == []
    assert len(seed) == 4
    assert seed.cell.volume == pytest.approx(4.05**3, rel=1e-6)
    distances = seed.get_all_distances(mic=True)[np.triu_indices(4, 1)]
    np.testing.assert_allclose(distances, 4.05 / np.sqrt(2), rtol=1e-6)


def test_a_skewed_cell_is_the_same_crystal(tmp_path):
    atoms = bulk("Al", cubic=True)
    atoms.set_cell(np.array([[1, 0, 0], [5, 1, 0], [-4, 3, 1]]) @ atoms.cell.array, scale_atoms=False)
    write(tmp_path / "skewed.vasp", atoms, format="vasp")
    (seed,), wrong = found(tmp_path, "skewed.vasp")
    assert wrong == []
    assert seed.cell.volume == pytest.approx(bulk("Al", cubic=True).cell.volume)


@pytest.mark.parametrize(
    ("symmetry", "site", "atoms"),
    [
        ("_space_group_IT_number 227", "Al1 Al 0 0 0", 8),
        ("_symmetry_space_group_name_H-M 'F d -3 m :2'", "Al1 Al .125 .125 .125", 8),
        ("_symmetry_space_group_name_H-M 'F d -3 m :1'", "Al1 Al 0 0 0", 8),
        (
            "_symmetry_space_group_name_H-M 'F d -3 m :2'\nloop_\n_symmetry_equiv_pos_as_xyz\nx,y,z\n-x,-y,-z",
            "Al1 Al .1 .2 .3",
            2,
        ),
    ],
)
def test_the_origin_of_a_space_group_is_the_one_that_the_file_means(tmp_path, symmetry, site, atoms):
    (tmp_path / "x.cif").write_text(cif(site, symmetry=symmetry))
    (seed,), wrong = found(tmp_path, "x.cif", formula="Al2")
    assert (wrong, len(seed)) == ([], atoms)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("half.cif", cif("Al1 Al 0 0 0 0.5", occupied=True), "not fully occupied (occupancy: Al1 0.5)"),
        ("mixed.cif", cif("Al1 Al 0 0 0 0.5", "Cu1 Cu 0 0 0 0.5", occupied=True), "occupancy: Al1 0.5, Cu1 0.5"),
        ("almost.cif", cif("Al1 Al 0 0 0 0.98(1)", occupied=True), "occupancy: Al1 0.98"),
        ("same.cif", cif("Al1 Al 0 0 0", "Cu1 Cu 0 0 0"), "atoms of different elements on one site"),
        ("twice.cif", cif("Al1 Al 0 0 0", "Mg1 Mg .5 .5 .5", "O1 O .25 .25 .25", symmetry="_space_group_IT_number 227"),
         "space group 227 is described from two origins, which give"),
        ("torn.cif", "data_x\n_cell_length_a 5\nloop_\n", "holds no structure"),
        ("noise.cif", "not a cif at all", "cannot be read (as cif: it is cut off, damaged, or of another format"),
        ("empty.extxyz", "", "cannot be read ("),
        ("POSCAR", "x\n1\n", "cannot be read (as vasp: it is cut off"),
        ("foo.dat", "hello", "cannot be read ("),
        ("torn.extxyz", '2\nLattice="4 0 0 0 4 0 0 0 4"\nAl 0 0 0\n', "line 1: 2 atoms are announced, 1 are there"),
    ],
)  # fmt: skip
def test_what_is_no_crystal_is_refused_in_our_words(tmp_path, name, text, said):
    (tmp_path / name).write_text(text)
    seeds, wrong = found(tmp_path, name)
    assert seeds == []
    assert len(wrong) == 1
    assert wrong[0].startswith(name)
    assert said in wrong[0]
    for word in ("Error", "Traceback", "list index", "broadcast", "None"):
        assert word not in wrong[0]


def test_a_slab_is_no_bulk_crystal(tmp_path):
    write(tmp_path / "slab.extxyz", fcc100("Al", (1, 1, 4), vacuum=8, periodic=False))
    seeds, (wrong,) = found(tmp_path, "slab.extxyz")
    assert seeds == []
    assert "slab.extxyz, frame 0: not periodic in three directions (pbc T T F)" in wrong


def test_a_seed_that_is_there_already_is_refused_wherever_it_stands(tmp_path):
    atoms = bulk("Al", cubic=True)
    write(tmp_path / "a.cif", atoms)
    turned = atoms.copy()
    turned.rotate(30, "x", rotate_cell=True)
    turned.positions += turned.cell[0] + turned.cell[2]
    write(tmp_path / "b.extxyz", [bulk("Al"), turned[[2, 0, 3, 1]]])
    seeds, wrong = found(tmp_path, "a.cif", "b.extxyz")
    assert wrong == ["b.extxyz, frame 1: the same structure as a.cif, frame 0; leave one out"]
    assert len(seeds) == 3


def test_all_that_is_wrong_with_seeds_is_told_by_validate_at_its_place(tmp_path):
    (tmp_path / "half.cif").write_text(cif("Al1 Al 0 0 0 0.5", occupied=True))
    write(tmp_path / "cu.cif", bulk("Cu", cubic=True))
    write(tmp_path / "molecule.xyz", Atoms("Al2", positions=[(0, 0, 0), (0, 0, 2.8)]))
    write(tmp_path / "good.cif", bulk("Al", cubic=True))
    code, said = validate(tmp_path, "half.cif, good.cif, cu.cif, molecule.xyz")
    assert code == 2
    assert ":6:11: pool.seeds[0]: half.cif, frame 0: sites that are not fully occupied" in said
    assert ":6:31: pool.seeds[2]: cu.cif, frame 0: composition Cu4, this pool takes multiples of Al only" in said
    assert ":6:39: pool.seeds[3]: molecule.xyz, frame 0: no periodic cell" in said
    assert "seeds[1]" not in said


def test_a_pool_may_have_no_candidates_but_ones_own(tmp_path):
    write(tmp_path / "a.extxyz", [bulk("Al"), bulk("Al", "bcc", a=3.2), bulk("Al", cubic=True)])
    code, said = validate(tmp_path, "a.extxyz", size=0)
    assert (code, "fine. your own candidates of Al4" in said) == (0, True)
    structures, table = generate_pool(Pool(formula="Al4", size=0, seeds=("a.extxyz",)), seed=1, folder=tmp_path)
    assert structures.counts.tolist() == [1, 1, 4]
    assert set(table.origin) == {"seed"}
    write(tmp_path / "one.extxyz", bulk("Al"))
    code, said = validate(tmp_path, "one.extxyz", size=0)
    assert code == 2
    assert "pool.seeds: one candidate in all" in said
