"""Candidates keep their bounds, follow from their seed alone, and say what stands in the way."""

import re
import subprocess
import sys
import time
from itertools import combinations_with_replacement, pairwise
from pathlib import Path

import numpy as np
import pytest
import spglib
from ase import Atoms
from ase.build import bulk, make_supercell
from ase.geometry import cell_to_cellpar
from ase.io import write
from ase.neighborlist import neighbor_list
from ase.spacegroup import crystal
from hypothesis import given, settings
from hypothesis import strategies as st

from csp_al import claim
from csp_al.campaign import CampaignError, Constraints, Pool, conflicts, read_campaign, resolve
from csp_al.generate import generate_candidates, generate_pool, repeated_cells
from csp_al.generate import pool as pool_module
from csp_al.generate.pool import is_symmetric
from csp_al.generate.random_cells import random_cell
from csp_al.generate.repeated_cells import repeated_cell
from csp_al.generate.space_groups import compatible_settings
from csp_al.generate.symmetric_cells import symmetric_cell
from csp_al.geometry import in_short_vectors, lattice_translations, shortest_distances, too_close
from csp_al.interfaces import UnplaceableError
from csp_al.reference.kpoints import monkhorst_pack
from csp_al.structures import Structures

FORMULAE = ["Si1", "Si2", "Si8", "Al4O6", "Na4Cl4", "Sr1Ti1O3"]
KNOWN = {
    "Si8": bulk("Si", cubic=True),
    "Na4Cl4": bulk("NaCl", "rocksalt", a=5.64, cubic=True),
    "Ga4As4": bulk("GaAs", "zincblende", a=5.653, cubic=True),
    "Al4": bulk("Al", cubic=True),
    "Cu4": bulk("Cu", cubic=True),
    "Cs1Cl1": bulk("CsCl", "cesiumchloride", a=4.12),
    "Al12O18": crystal(
        ["Al", "O"],
        [(0, 0, 0.3522), (0.3064, 0, 0.25)],
        spacegroup=167,
        cellpar=[4.759, 4.759, 12.991, 90, 90, 120],
    ),
}


def shortest_by_ase(atoms: Atoms) -> dict[str, float]:
    """An independent search: every neighbour that ASE lists, one by one."""
    shortest: dict[str, float] = {}
    for i, j, distance in zip(*neighbor_list("ijd", atoms, 5.0), strict=True):
        pair = "-".join(sorted((atoms.symbols[i], atoms.symbols[j])))
        shortest[pair] = min(distance, shortest.get(pair, np.inf))
    return shortest


def assert_keeps(atoms: Atoms, constraints: Constraints) -> None:
    volume = atoms.cell.volume / len(atoms)
    lengths, angles = np.split(cell_to_cellpar(atoms.cell), 2)
    assert atoms.symbols.formula.count() == constraints.counts
    assert atoms.pbc.all()
    assert constraints.volume_per_atom[0] - 1e-6 <= volume <= constraints.volume_per_atom[1] + 1e-6
    assert constraints.lengths[0] - 1e-5 <= lengths.min() <= lengths.max() <= constraints.lengths[1] + 1e-5
    assert constraints.angles[0] - 1e-5 <= angles.min() <= angles.max() <= constraints.angles[1] + 1e-5
    for pair, distance in shortest_by_ase(atoms).items():
        assert distance >= constraints.min_distance[pair] - 1e-9, pair


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    formula=st.sampled_from(FORMULAE),
    generator=st.sampled_from([random_cell, symmetric_cell]),
    bounds=st.sampled_from([{}, {"angles": (60, 120)}, {"angles": (30, 150), "lengths": (2.8, 12)}]),
)
def test_candidates_keep_composition_volume_lengths_angles_and_distances(seed, formula, generator, bounds):
    constraints = resolve(Pool(formula=formula, **bounds))
    assert_keeps(generator(constraints, np.random.default_rng(seed)), constraints)


@pytest.mark.parametrize("generator", [random_cell, symmetric_cell])
def test_dense_cells_are_filled(generator):
    pool = Pool(formula="Si16", min_distance={"Si-Si": 2.0}, volume_per_atom=(10, 11))  # 40% spheres: random ones jam
    constraints = resolve(pool)
    for seed in range(3):
        assert_keeps(generator(constraints, np.random.default_rng(seed)), constraints)


@pytest.mark.parametrize("seed", range(5))
def test_short_vectors_are_of_the_same_crystal_and_ask_for_no_more_k_points(seed):
    rng = np.random.default_rng(seed)
    skewed = [bulk("Si", "diamond", a=5.43), bulk("Al", "fcc", a=4.05)]
    for atoms in skewed:
        atoms.set_cell(np.array([[1, 0, 0], [rng.integers(2, 5), 1, 0], [3, -2, 1]]) @ atoms.cell.array)
    long, short = Structures.from_atoms(skewed, [4, 7]), in_short_vectors(Structures.from_atoms(skewed, [4, 7]))
    assert (short.positions == long.positions).all()
    assert short.ids.tolist() == [4, 7]
    assert np.linalg.det(short.cells) == pytest.approx(np.linalg.det(long.cells))
    for one, other in zip(long.to_atoms(), short.to_atoms(), strict=True):
        steps = other.cell.array @ np.linalg.inv(one.cell.array)
        assert steps == pytest.approx(np.rint(steps), abs=1e-9)
        assert np.prod(monkhorst_pack(other, 0.3)) < np.prod(monkhorst_pack(one, 0.3))
    assert (in_short_vectors(short).cells == short.cells).all()
    assert len(in_short_vectors(short.take([]))) == 0


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), skew=st.sampled_from([0, 1, 3]), size=st.sampled_from([1.5, 3.0, 6.0]))
def test_shortest_distances_agree_with_ase_in_small_and_skewed_cells(seed, skew, size):
    rng = np.random.default_rng(seed)
    cell = size * (np.eye(3) + 0.3 * rng.uniform(-1, 1, (3, 3)))
    cell[2] += skew * cell[0]
    atoms = Atoms("NaClNa", scaled_positions=rng.random((3, 3)), cell=cell, pbc=True)
    assert shortest_distances(atoms, 5.0) == pytest.approx(shortest_by_ase(atoms))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_lattice_translations_reach_every_image_that_counts(seed):
    rng = np.random.default_rng(seed)
    cell = 3 * (np.eye(3) + 0.3 * rng.uniform(-1, 1, (3, 3)))
    cell[1] += 2 * cell[0]
    difference = rng.uniform(-0.5, 0.5, 3) @ cell
    steps = np.stack(np.meshgrid(*[np.arange(-9, 10)] * 3), axis=-1).reshape(-1, 3)
    brute = np.linalg.norm(difference + steps @ cell, axis=1)
    found = np.linalg.norm(difference + lattice_translations(cell, 4.0), axis=1)
    assert np.sort(found[found < 4.0]) == pytest.approx(np.sort(brute[brute < 4.0]))
    assert not lattice_translations(cell, 4.0)[0].any()


def test_too_close_names_the_worst_pair_with_both_distances():
    salt = bulk("NaCl", "rocksalt", a=5.64)
    assert not too_close(salt, {"Na-Cl": 2.8, "Na-Na": 3.9})
    assert too_close(salt, {"Na-Cl": 3.0, "Na-Na": 4.0}) == "Cl-Na 2.82 Å apart, allowed from 3.00 Å"
    assert not too_close(salt, {})


@pytest.mark.parametrize("formula", KNOWN)
def test_default_bounds_hold_known_crystals(formula):
    assert_keeps(KNOWN[formula], resolve(Pool(formula=formula)))


def test_distances_given_in_the_file_replace_defaults_in_either_order():
    constraints = resolve(Pool(formula="Al4O6", min_distance={"O-Al": 1.5}))
    assert constraints.min_distance == pytest.approx({"Al-Al": 1.694, "Al-O": 1.5, "O-O": 0.924})


def test_every_candidate_is_the_same_for_any_number_of_workers_and_any_size():
    reports = []
    one, table_one = generate_pool(Pool(formula="Na2Cl2", size=50), seed=5)
    two, table_two = generate_pool(Pool(formula="Na2Cl2", size=50), 5, 2, lambda *done: reports.append(done))
    fewer, _ = generate_pool(Pool(formula="Na2Cl2", size=7), seed=5)
    other, _ = generate_pool(Pool(formula="Na2Cl2", size=50), seed=6)
    assert np.array_equal(one.positions, two.positions)
    assert np.array_equal(one.cells, two.cells)
    assert table_one.equals(table_two)
    assert np.array_equal(one.take(np.arange(7)).positions, fewer.positions)
    assert not np.isclose(one.volumes, other.volumes).any()
    assert reports[-1] == (50, 50)
    assert all(before[0] < after[0] for before, after in pairwise(reports))


def test_candidates_of_a_campaign_are_the_same_for_any_number_of_cores(monkeypatch):
    pools = [Pool(formula="Na2Cl2", size=30), Pool(formula="Na4Cl4", size=50)]
    asked, made = [], pool_module.generate_pool

    def noted(pool, seed, workers, *arguments, **keywords):
        asked.append(workers)
        return made(pool, seed, workers, *arguments, **keywords)

    monkeypatch.setattr(pool_module, "generate_pool", noted)
    one, table_one = generate_candidates(pools, 5, lambda *_: None, Path(), 16)
    assert max(asked) <= 1  # a process takes longer to start than so few take to make
    monkeypatch.setattr(pool_module, "PER_PROCESS", 25)
    several, table_several = generate_candidates(pools, 5, lambda *_: None, Path(), 16)
    assert asked[2:] == [1, 2]
    assert np.array_equal(one.positions, several.positions)
    assert np.array_equal(one.cells, several.cells)
    assert table_one.equals(table_several)


PARENT = """
from multiprocessing import active_children
from csp_al.campaign import Pool
from csp_al.generate import generate_candidates, generate_pool
from csp_al.generate import pool as pool_module
if __name__ == "__main__":
    tell = lambda *_: print(*(child.pid for child in active_children()), flush=True)
    generate_pool(Pool(formula="Si8", size=1_000_000), 1, 2, tell)
"""


def test_workers_do_not_outlive_their_parent(tmp_path):
    file = tmp_path / "parent.py"
    file.write_text(PARENT)
    parent = subprocess.Popen([sys.executable, str(file)], stdout=subprocess.PIPE, text=True)
    workers = [int(word) for word in parent.stdout.readline().split()]
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert len(workers) == 2
    deadline = time.monotonic() + 60
    while any(claim.start_time(worker) for worker in workers):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_global_randomness_plays_no_part():
    constraints = resolve(Pool(formula="Al4O6"))
    made = []
    for state in (1, 2):
        np.random.seed(state)  # noqa: NPY002
        before = np.random.get_state()[1].copy()  # noqa: NPY002
        made.append(symmetric_cell(constraints, np.random.default_rng(3)))
        assert np.array_equal(np.random.get_state()[1], before)  # noqa: NPY002
    assert made[0] == made[1]


@pytest.mark.parametrize("fraction", [0, 0.1, 1 / 3, 0.5, 0.9, 1])
def test_the_share_of_symmetric_candidates_is_exact_at_any_length(fraction):
    counts = np.cumsum([is_symmetric(index, fraction) for index in range(200)])
    assert np.abs(counts - fraction * np.arange(1, 201)).max() < 1


def test_table_tells_origin_group_and_volume_of_every_structure():
    structures, table = generate_pool(Pool(formula="Si4", size=20), seed=2)
    assert list(table.id) == list(structures.ids) == list(range(20))
    assert (table.origin == "symmetric").sum() == 10
    assert (table.asked_group.notna() == (table.origin == "symmetric")).all()
    assert (table[table.origin == "random"].space_group == "P1").all()
    assert table.volume_per_atom.to_numpy() == pytest.approx(structures.volumes / structures.counts)


def point_group_order(number: int) -> int:
    hall = next(hall for hall in range(1, 531) if spglib.get_spacegroup_type(hall).number == number)
    return len({rotation.tobytes() for rotation in spglib.get_symmetry_from_database(hall)["rotations"]})


def test_candidates_have_the_symmetry_that_was_asked_for():
    _, table = generate_pool(Pool(formula="Na4Cl4", size=300, symmetric_fraction=1), seed=3)
    asked = np.array([point_group_order(number) for number in table.asked_group])
    found = np.array([point_group_order(number) for number in table.space_group_number])
    assert (found % asked == 0).all()  # Lagrange: the asked group is contained in the one found
    assert (table.asked_group == table.space_group_number).mean() > 0.4  # special positions often raise it
    assert table.space_group_number.nunique() > 60


@pytest.mark.parametrize(("formula", "number"), [("Si8", 227), ("Si2", 227), ("Na4Cl4", 225), ("Mg2", 194)])
def test_prototypes_occur_among_symmetric_candidates(formula, number):
    _, table = generate_pool(Pool(formula=formula, size=500, symmetric_fraction=1), seed=1)
    assert (table.space_group_number == number).any()


def test_settings_have_the_multiplicities_of_the_tables():
    from pyxtal.symmetry import Group

    for setting in compatible_settings((24, 48)):
        group = Group(setting.number)
        centring = round(1 / abs(np.linalg.det(setting.primitive)))
        assert centring in {1, group.cellsize()}
        assert [site.multiplicity * centring for site in setting.sites] == [wp.multiplicity for wp in group]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"min_distance": {"Na-Na": 6.0}}, r"pool.min_distance.Na-Na: atoms 6 Å apart .* \(counting 4 atoms of Na\)"),
        (
            {"min_distance": {"Cl-Cl": 3.0, "Na-Cl": 3.0, "Na-Na": 3.0}, "volume_per_atom": (15, 18)},
            "counting 8 atoms of Na, Cl",
        ),
        ({"lengths": (1, 5), "volume_per_atom": (20, 22)}, r"pool.lengths: .* the most must be 5\.43 Å or more"),
        ({"lengths": (1, 2)}, r"no 2\.32 Å from its image \(Na-Na\) and span at most 8 Å\^3"),
        ({"angles": (120, 140)}, "pool.angles: .* below 120"),
    ],
)
def test_what_no_cell_can_meet_is_refused_at_once(keys, message):
    pool = Pool(formula="Na4Cl4", **keys)
    assert re.search(message, "; ".join(map(str, conflicts(pool))))
    with pytest.raises(UnplaceableError, match=message):
        generate_pool(pool, seed=1)


@pytest.mark.parametrize("workers", [1, 2])
def test_what_cannot_be_placed_ends_after_bounded_attempts_and_names_candidate_and_pair(workers):
    pool = Pool(
        formula="Na4Cl4", min_distance={"Na-Cl": 3.2}, volume_per_atom=(19, 20), size=40, max_attempts=20,
        symmetric_fraction=0,
    )  # fmt: skip
    assert not conflicts(pool)
    with pytest.raises(UnplaceableError, match=r"candidate \d+: no cell of 8 atoms in 20 attempts .* Cl-Na 3\.2 Å"):
        generate_pool(pool, 1, workers)


def test_bounds_on_lengths_that_no_volume_fits_are_named():
    pool = Pool(formula="Si8", lengths=(9, 10), volume_per_atom=(15, 16), angles=(85, 95), max_attempts=5)
    with pytest.raises(UnplaceableError, match="within lengths and angles"):
        generate_pool(pool, 1)


def test_a_symmetric_candidate_that_fails_becomes_p1_and_says_so():
    pool = Pool(formula="Si8", angles=(70, 80), size=4, symmetric_fraction=1, max_attempts=60)  # few groups allow it
    structures, table = generate_pool(pool, seed=1)
    fallen = table[table.origin == "random"]
    assert len(structures) == 4
    assert len(fallen) > 0
    assert fallen.note.str.startswith("P1 instead of symmetric: no space group held 8 atoms").all()
    assert (fallen.space_group == "P1").all()


def test_seeds_join_after_the_generated_candidates_in_any_number_of_formula_units(tmp_path):
    primitive = bulk("NaCl", "rocksalt", a=5.64)
    doubled = make_supercell(primitive, np.diag([1, 1, 2]))
    write(tmp_path / "seeds.extxyz", [primitive, doubled])
    write(tmp_path / "salt.cif", bulk("NaCl", "rocksalt", a=5.64, cubic=True))
    files = (str(tmp_path / "seeds.extxyz"), str(tmp_path / "salt.cif"))
    structures, table = generate_pool(Pool(formula="Na4Cl4", size=3, seeds=files), seed=1)
    plain, _ = generate_pool(Pool(formula="Na4Cl4", size=3), seed=1)
    assert list(table.origin[3:]) == ["seed"] * 3
    assert list(structures.counts) == [8, 8, 8, 2, 4, 8]
    assert (table.space_group_number[3:] == 225).all()
    assert table.note[4] == f"{files[0]}, frame 1"
    assert np.array_equal(structures.take([0, 1, 2]).positions, plain.positions)


def test_seeds_are_relative_to_the_folder_and_keep_the_name_that_they_were_given_by(tmp_path, monkeypatch):
    (tmp_path / "seeds").mkdir()
    write(tmp_path / "seeds" / "salt.cif", bulk("NaCl", "rocksalt", a=5.64, cubic=True))
    monkeypatch.chdir("/")
    pool = Pool(formula="Na4Cl4", size=1, seeds=("seeds/salt.cif",))
    structures, table = generate_pool(pool, seed=1, folder=tmp_path)
    assert structures.volumes[1] == pytest.approx(5.64**3)
    assert table.note[1] == "seeds/salt.cif, frame 0"
    with pytest.raises(ValueError, match=r"pool\.seeds: seeds/salt\.cif cannot be read"):
        generate_pool(pool, seed=1, folder=tmp_path / "seeds")


@pytest.mark.parametrize(
    ("atoms", "wrong"),
    [
        (bulk("Si"), "composition Si2, this pool takes multiples of NaCl only"),
        (Atoms("NaCl", positions=[(0, 0, 0), (2.8, 0, 0)]), "no periodic cell"),
        (bulk("NaCl", "rocksalt", a=2.0), "Cl-Na 1.00 Å apart, allowed from 1.88 Å"),
    ],
)
def test_unfit_seeds_are_refused_with_file_and_frame(tmp_path, atoms, wrong):
    file = tmp_path / "seeds.extxyz"
    write(file, [bulk("NaCl", "rocksalt", a=5.64), atoms])
    with pytest.raises(ValueError, match=f"seeds.extxyz, frame 1: {wrong}"):
        generate_pool(Pool(formula="Na4Cl4", size=1, seeds=(str(file),)), seed=1)


def test_seeds_that_cannot_be_read_are_refused_with_the_file(tmp_path):
    torn = tmp_path / "torn.cif"
    torn.write_text("data_x\n_cell_length_a 5\nloop_\n")
    for file in (torn, tmp_path / "missing.cif"):
        with pytest.raises(ValueError, match=f"{file.name} (cannot be read|holds no structure)"):
            generate_pool(Pool(formula="Na4Cl4", size=1, seeds=(str(file),)), seed=1)


def test_default_distances_are_set_for_every_pair_of_the_formula():
    for formula in FORMULAE:
        constraints = resolve(Pool(formula=formula))
        assert len(constraints.min_distance) == len(list(combinations_with_replacement(constraints.species, 2)))
        assert not conflicts(Pool(formula=formula))


# --- repeated cells


def test_repeated_cell_has_a_smaller_primitive_cell_before_it_is_shaken(monkeypatch):
    monkeypatch.setattr(repeated_cells, "SHAKES", (0.0,))
    constraints = resolve(Pool(formula="Na4Cl4"))
    for index in range(12):
        atoms = repeated_cell(constraints, np.random.default_rng([3, index]))
        assert atoms.get_chemical_symbols() == ["Na"] * 4 + ["Cl"] * 4
        times = int(atoms.info["note"].split()[0])
        assert times in (2, 4)
        primitive = spglib.find_primitive((atoms.cell.array, atoms.get_scaled_positions(), atoms.numbers), 1e-3)
        assert 8 % (len(primitive[2]) * times) == 0


def test_repeated_cells_are_shaken_keep_the_bounds_and_follow_from_the_seed():
    pool = Pool(formula="Si8", size=20, symmetric_fraction=0, sources=[{"kind": "repeated", "share": 1.0}])
    structures, table = generate_pool(pool, seed=4)
    again, _ = generate_pool(pool, seed=4)
    np.testing.assert_array_equal(structures.positions, again.positions)
    assert set(table["origin"]) == {"repeated"}
    assert table["note"].str.fullmatch(r"[248] times Si[421]?").all()
    assert (table["space_group"] == "P1").mean() > 0.5
    for atoms in structures.to_atoms():
        assert too_close(atoms, resolve(pool).min_distance) == ""
        assert resolve(pool).volume_per_atom[0] <= atoms.cell.volume / 8 <= resolve(pool).volume_per_atom[1]


def test_every_superlattice_is_one_way_to_repeat_a_cell():
    """As many as there are subgroups of this index in three dimensions (OEIS A001001)."""
    for times, count in ((1, 1), (2, 7), (3, 13), (4, 35), (6, 91)):
        ways = list(repeated_cells._superlattices(times))
        assert len(ways) == count
        assert all(round(np.linalg.det(way)) == times for way in ways)


def test_formula_without_a_smaller_cell_cannot_be_repeated():
    with pytest.raises(UnplaceableError, match="one formula unit"):
        repeated_cell(resolve(Pool(formula="NaCl")), np.random.default_rng(0))


def test_source_that_can_make_nothing_of_a_formula_is_found_before_anything_is_spent(tmp_path):
    file = tmp_path / "salt.yaml"
    file.write_text(
        "name: salt\n"
        "pool: {formula: NaCl, sources: [{kind: repeated, share: 0.5}]}\n"
        "reference: {kind: ase, calculator: ase.calculators.emt.EMT}\n"
    )
    with pytest.raises(CampaignError, match=r"salt.yaml:2:40: pool.sources\[0\].kind: the formula is one formula unit"):
        read_campaign(file)
