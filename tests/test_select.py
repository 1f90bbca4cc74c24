"""Score, clusters, identity, picks, noise, verdict and walk-forward errors, on made-up batches of real crystals."""

import warnings
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
from ase import Atoms
from ase.build import bulk, make_supercell
from ase.geometry import get_distances
from ase.spacegroup import crystal
from ase.units import GPa
from scipy.spatial.transform import Rotation
from scipy.stats import chi2

from csp_al import interfaces as why
from csp_al.campaign.models import Budget, Stop
from csp_al.geometry import shortest_distances
from csp_al.select import (
    Judged,
    Missed,
    Rules,
    Spent,
    Top,
    basins,
    decay_amplitude,
    distinct,
    k_means,
    perturb,
    pick,
    rank,
    representatives,
    same_structure,
    score,
    times_reached,
    unseen_share,
    verdict,
    walk_forward,
)
from csp_al.select.challenge import average_distances, challengers, of_rare_kinds, strangers
from csp_al.select.ends import one_end_each
from csp_al.select.identity import count_arrivals, pairs_of_same
from csp_al.select.known import corrected, known_of
from csp_al.select.pick import same_geometry
from csp_al.select.walk_forward import COMPONENTS, COVERED, right_spread
from csp_al.structures import Labels, Prediction, Relaxed, Structures, concatenate

RULES = Stop(top_k=3, tolerance=0.01, patience=2, max_cycles=15)
BUDGET = Budget(labels=1000)


def diamond(a=5.43):
    return bulk("Si", "diamond", a, cubic=True)


def lonsdaleite():
    a = 5.43 / np.sqrt(2)
    return crystal("Si", [(1 / 3, 2 / 3, 1 / 16)], spacegroup=194, cellpar=[a, a, a * np.sqrt(8 / 3), 90, 90, 120])


def bc8():
    return crystal(
        "Si", [(0.1003, 0.1003, 0.1003)], spacegroup=206, cellpar=[6.64, 6.64, 6.64, 90, 90, 90], primitive_cell=True
    )


def r8():
    """The rhombohedral cell of J. Crain et al., Phys. Rev. B 50, 13043 (1994), axes of 5.62 Å at 110.07 degrees."""
    cell = [5.62, 5.62, 5.62, 110.07, 110.07, 110.07]
    return crystal(
        ["Si", "Si"], [(0.2922, 0.2922, 0.2922), (0.4597, -0.0353, 0.2641)], spacegroup=148, setting=2, cellpar=cell
    )


def simple_cubic():
    return bulk("Si", "sc", 2.53)


def beta_tin():
    return bulk("Si", "bct", a=4.69, c=2.58)


def perovskite(tilt):
    """SrTiO3, its octahedra turned about c, one this way and the next that, so that oxygen moves by so many Å."""
    atoms = crystal(
        ["Sr", "Ti", "O"],
        [(0.5, 0.5, 0.5), (0, 0, 0), (0.5, 0, 0)],
        spacegroup=221,
        cellpar=[3.9, 3.9, 3.9, 90, 90, 90],
    )
    atoms = atoms.repeat((2, 2, 1))
    for atom in atoms:
        x, y, z = np.round(2 * atom.position / 3.9).astype(int)  # titanium at even x, y and z
        if z % 2 == 0 and (x + y) % 2 == 1:
            turn = tilt * (-1) ** (x // 2 + y // 2)
            atom.position += [0, turn, 0] if x % 2 else [-turn, 0, 0]
    return atoms


CRYSTALS = {
    "diamond": diamond,
    "lonsdaleite": lonsdaleite,
    "bc8": bc8,
    "r8": r8,
    "sc": simple_cubic,
    "fcc": partial(bulk, "Si", "fcc", 3.88),
    "hcp": partial(bulk, "Si", "hcp", 2.74, c=2.74 * np.sqrt(8 / 3)),
    "bcc": partial(bulk, "Si", "bcc", 3.09),
}


def disguised(atoms, rng, noise=0.03, strain=0.005, cell=((1, 1, 0), (0, 1, 1), (0, 0, 1))):
    """The same crystal in another cell, rotated, shifted, in another order, as two relaxations leave it."""
    other = make_supercell(atoms, cell)
    other = other[rng.permutation(len(other))]
    bend = rng.uniform(-strain, strain, (3, 3))
    turn = Rotation.random(random_state=int(rng.integers(1000))).as_matrix()
    other.set_cell(other.cell.array @ (np.eye(3) + bend + bend.T) @ turn, scale_atoms=True)
    other.positions += rng.uniform(-noise, noise, (len(other), 3)) + rng.uniform(-5, 5, 3)
    other.wrap()
    return other


def batch(atoms, energies_per_atom, features=None, reason=why.CONVERGED, forces=0.0, ids=None):
    """What `relax` would have returned."""
    structures = Structures.from_atoms(atoms, ids)
    n, total = len(structures), len(structures.numbers)
    prediction = Prediction(
        energy=np.asarray(energies_per_atom, dtype=float) * structures.counts,
        energy_sigma=np.full(n, 0.1),
        forces=np.full((total, 3), forces / np.sqrt(3)),
        forces_sigma=np.linspace(0.1, 0.2, total),
        stress=np.zeros((n, 3, 3)),
        stress_sigma=np.zeros(n),
        features=np.asarray(energies_per_atom, dtype=float)[:, None] if features is None else features,
    )
    return Relaxed(structures, prediction, np.broadcast_to(reason, n).astype("U30"), np.full(n, 7))


def nothing():
    """Of a pool in which each candidate stands at the lowest of its ends."""
    return batch([], [])


def table_of(scores, clusters, trusted=True, energies=None, basins=None):
    n = len(scores)
    return pd.DataFrame(
        {
            "id": np.arange(n),
            "score": scores,
            "cluster": clusters,
            "basin": np.arange(n) if basins is None else basins,
            "trusted": np.broadcast_to(trusted, n),
            "energy_per_atom": scores if energies is None else energies,
        }
    )


def empty_history():
    return Structures.from_atoms([])


# score


def test_score_is_energy_per_atom_less_the_weighted_largest_mean_force():
    relaxed = batch([diamond(), lonsdaleite()], [-4.0, -3.0])
    relaxed.prediction.forces[3] = [3.0, 0.0, 4.0]
    relaxed.prediction.forces[8] = [0.0, -2.0, 0.0]
    assert score(relaxed, 0.5) == pytest.approx([-4.0 - 2.5, -3.0 - 1.0])
    assert score(relaxed, 0.0) == pytest.approx([-4.0, -3.0])


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_scores_worst(broken):
    relaxed = batch([diamond()] * 3, [-4.0, broken, -4.0])
    relaxed.prediction.forces[20] = broken
    scores = score(relaxed, 0.5)
    assert np.isfinite(scores[0])
    assert (scores[1:] == np.inf).all()


# clusters


def blobs(rng, groups=5, each=20, width=64):
    centres = rng.normal(size=(groups, width)) * 10.0 ** rng.integers(-4, 4, width)
    return np.repeat(centres, each, axis=0) * (1 + 1e-3 * rng.normal(size=(groups * each, width)))


def test_clusters_are_the_groups_that_the_features_form_whatever_their_scales():
    features = blobs(np.random.default_rng(0))
    found = k_means(features, np.random.default_rng(1), 5)
    assert found.tolist() == np.repeat(np.arange(5), 20).tolist()


def test_the_same_generator_gives_the_same_clusters():
    features = np.random.default_rng(0).normal(size=(300, 40))
    first, again = (k_means(features, np.random.default_rng([1, 2]), 50) for _ in range(2))
    other = k_means(features, np.random.default_rng([1, 3]), 50)
    assert (first == again).all()
    assert len(set(first.tolist())) == 50
    assert (first != other).any()


@pytest.mark.parametrize("rows", [0, 1, 3])
def test_fewer_rows_than_clusters_are_a_cluster_each(rows):
    features = np.random.default_rng(0).normal(size=(rows, 4))
    assert k_means(features, np.random.default_rng(0), 10).tolist() == list(range(rows))


def test_equal_rows_share_a_cluster_and_nobody_is_warned():
    rng = np.random.default_rng(0)
    different = rng.normal(size=(4, 8))
    features = different[[0, 1, 1, 2, 3, 3, 0]] + 1e-10 * rng.normal(size=(7, 8))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert k_means(features, rng, 6).tolist() == [0, 1, 1, 2, 3, 3, 0]
        assert len(set(k_means(features, rng, 3).tolist())) == 3


def test_constant_columns_do_not_matter():
    features = blobs(np.random.default_rng(0), groups=3)
    padded = np.column_stack([features, np.full(60, 0.1), np.zeros(60)])
    expected = np.repeat(np.arange(3), 20).tolist()
    assert k_means(padded, np.random.default_rng(1), 3).tolist() == expected
    assert set(k_means(np.full((5, 3), 0.1), np.random.default_rng(1), 3).tolist()) == {0}


def test_rows_that_are_not_finite_are_nowhere_and_disturb_nobody():
    features = blobs(np.random.default_rng(0), groups=3)
    features[[4, 50], 7] = [np.nan, np.inf]
    found = k_means(features, np.random.default_rng(1), 3)
    assert np.flatnonzero(found == -1).tolist() == [4, 50]
    assert len(set(found.tolist())) == 4


# identity


@pytest.mark.parametrize("name", CRYSTALS)
def test_a_crystal_is_the_same_in_another_cell_rotated_permuted_and_slightly_off(name):
    rng = np.random.default_rng(1)
    atoms = CRYSTALS[name]()
    assert all(same_structure(atoms, disguised(atoms, rng)) for _ in range(4))
    assert same_structure(atoms, atoms.repeat((2, 1, 1)))


def test_a_crystal_at_another_energy_takes_no_partner_from_one_at_the_same():
    """Of two crystals that the matcher does not tell apart, the second alone was found."""
    known, found = Structures.from_atoms([diamond(), diamond()]), Structures.from_atoms([diamond()])
    energies, there = np.array([0.0, 0.03]), np.array([0.03])
    assert pairs_of_same(known, found, energies, there, window=0.002) == [(1, 0)]
    assert pairs_of_same(known, found, energies, there) == [(0, 0)]


@pytest.mark.parametrize("name", CRYSTALS)
def test_a_crystal_is_the_same_in_a_larger_cell_with_long_vectors(name):
    rng = np.random.default_rng(1)
    atoms = CRYSTALS[name]()
    for _ in range(8):
        longer = np.diag([1, 1, 3]) + np.triu(rng.integers(-3, 4, (3, 3)), 1)
        skewed = longer @ (np.eye(3, dtype=int) + np.tril(rng.integers(-2, 3, (3, 3)), -1))
        assert same_structure(atoms, disguised(atoms, rng, cell=skewed))


def test_different_crystals_are_different():
    names = list(CRYSTALS)
    built = [CRYSTALS[name]() for name in names]
    for atoms in built:  # at one density, so that volumes alone tell nothing apart
        atoms.set_cell(atoms.cell * np.cbrt(19 * len(atoms) / atoms.get_volume()), scale_atoms=True)
    same = {(a, b) for i, a in enumerate(names) for j, b in enumerate(names) if same_structure(built[i], built[j])}
    assert same == {(name, name) for name in names}


def test_a_distorted_crystal_is_no_larger_cell_of_the_undistorted_one():
    arsenic = bulk("As", "rhombohedral", a=4.13, alpha=54.1, basis=[[0.227] * 3, [-0.227] * 3])
    assert not same_structure(arsenic, bulk("As", "sc", a=np.cbrt(arsenic.get_volume() / 2)))
    assert not same_structure(perovskite(tilt=0), perovskite(tilt=0.2))
    assert same_structure(perovskite(tilt=0), perovskite(tilt=0).repeat(2))


def test_a_compressed_crystal_is_another_one_but_a_little_pressure_is_not():
    assert same_structure(diamond(), diamond(5.43 * 1.02))
    assert not same_structure(diamond(), diamond(5.43 * 1.05))


def test_species_matter():
    assert not same_structure(bulk("GaAs", "zincblende", 5.5), bulk("Si", "diamond", 5.5))
    assert same_structure(bulk("GaAs", "zincblende", 5.5), bulk("AsGa", "zincblende", 5.5))


def test_distinct_goes_up_in_energy_and_groups_duplicates():
    rng = np.random.default_rng(0)
    atoms = [
        disguised(lonsdaleite(), rng),
        disguised(diamond(), rng),
        simple_cubic(),
        diamond(),
        lonsdaleite(),
        disguised(diamond(), rng),
    ]
    energies = np.array([-4.60, -4.627, -3.5, -4.629, -4.602, -4.621])
    structures = Structures.from_atoms(atoms)
    assert distinct(structures, energies, 0.01, 10) == [[3, 1, 5], [4, 0], [2]]
    assert distinct(structures, energies, 0.01, 2) == [[3, 1, 5], [4, 0]]
    assert distinct(structures, energies, 0.001, 3) == [[3], [1], [5]]


@pytest.mark.parametrize(
    ("sigmas", "groups"),
    [
        (None, [[0], [1]]),
        ([0.02, 0.02, 1.0], [[0, 1], [2]]),  # 28 meV/atom together
        ([0.0, 0.02, 1.0], [[0], [1]]),
        ([1.0, 1.0, 1.0], [[0, 1], [2]]),  # up to 30
        ([np.inf, 0.0, 0.0], [[0], [1]]),
    ],
)
def test_one_crystal_at_two_energies_is_one_as_far_as_the_ensemble_knows(sigmas, groups):
    structures = Structures.from_atoms([diamond(), diamond(), simple_cubic()])
    known = None if sigmas is None else np.array(sigmas)
    assert distinct(structures, np.array([-4.62, -4.595, -4.0]), 0.01, 2, known) == groups


def test_a_spread_however_large_hides_no_crystal_far_above_its_like():
    structures = Structures.from_atoms([diamond(), diamond()])
    assert distinct(structures, np.array([-4.62, -4.589]), 0.01, 2, np.ones(2)) == [[0], [1]]


def test_distinct_leaves_out_what_is_not_finite():
    structures = Structures.from_atoms([diamond(), simple_cubic(), lonsdaleite()])
    assert distinct(structures, np.array([np.nan, -3.0, np.inf]), 0.01, 5) == [[1]]
    assert distinct(structures, np.full(3, np.nan), 0.01, 5) == []


def test_distinct_compares_only_what_can_still_matter(monkeypatch):
    from csp_al.select import identity

    reduced = []
    original = identity._reduce
    monkeypatch.setattr(identity, "_reduce", lambda atoms: reduced.append(1) or original(atoms))
    structures = Structures.from_atoms([diamond(5.3 + 0.001 * i) for i in range(50)])
    assert distinct(structures, np.linspace(-4.6, -3.6, 50), 0.03, 2) == [[0, 1], [2, 3]]
    assert len(reduced) == 4


# basins


def wells(rng, sizes, noise=1.0):
    """Relaxed candidates that reached basins so many times, in random order, and the basin of each."""
    truth = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    energies = -4.6 + 0.02 * truth + 5e-4 * noise * rng.random(len(truth))
    edges = 5.43 + 0.01 * truth + 1e-3 * noise * rng.random(len(truth))
    centres = rng.normal(size=(len(sizes), 32)) + 3
    features = centres[truth] + 2e-3 * noise * rng.normal(size=(len(truth), 32))
    return batch([diamond(edge) for edge in edges], energies, features), truth


def test_basins_are_found_and_counted_upwards_in_energy():
    relaxed, truth = wells(np.random.default_rng(0), [5, 1, 8, 1, 3])
    found = basins(relaxed)
    assert (found == truth).all()
    assert (times_reached(found, found) == np.array([5, 1, 8, 1, 3])[truth]).all()


def test_crystals_that_share_a_basin_share_the_candidates_that_reached_it():
    # four candidates in a basin of two crystals that a poor potential takes for one; one alone in another basin
    crystals = [diamond(), lonsdaleite(), diamond(5.44), lonsdaleite(), bc8()]
    structures = Structures.from_atoms(crystals)
    shared = np.array([0, 0, 0, 0, 1])
    assert count_arrivals([[0], [1], [4]], shared, structures) == [2, 2, 1]
    assert count_arrivals([[1]], shared, structures) == [4]  # nobody else claims the basin
    assert count_arrivals([[0, 4], [1]], shared, structures) == [3, 2]  # a crystal that came from two basins
    assert count_arrivals([[0], [1]], np.array([0, 0, 0, -1, 1]), structures) == [2, 1]


def test_a_pool_that_reached_one_basin_only_is_not_torn_apart_by_its_noise():
    relaxed, _ = wells(np.random.default_rng(0), [40])
    assert set(basins(relaxed).tolist()) == {0}


@pytest.mark.parametrize("difference", ["energy", "volume", "features"])
def test_basins_differ_where_one_of_energy_volume_and_features_does(difference):
    edges, energies, features = np.full(4, 5.43), np.full(4, -4.6), np.ones((4, 8))
    if difference == "energy":
        energies[2:] += 0.01
    elif difference == "volume":
        edges[2:] *= 1.02
    else:
        features[2:, :4] *= 1.1
    found = basins(batch([diamond(edge) for edge in edges], energies, features))
    assert found.tolist() == [0, 0, 1, 1]


def test_untrusted_candidates_have_no_basin():
    features = np.ones((4, 3))
    features[1] = np.nan
    reasons = [why.CONVERGED, why.CONVERGED, why.TOO_CLOSE, why.UNCERTAIN]
    found = basins(batch([diamond()] * 4, [-4.6] * 4, features, reasons))
    assert found.tolist() == [0, -1, -1, 0]
    assert times_reached(found, found).tolist() == [2, 0, 0, 2]
    assert basins(batch([diamond()], [np.nan], reason=why.NOT_FINITE)).tolist() == [-1]


# ranking


def test_the_table_has_a_row_for_each_candidate_sorted_by_id():
    relaxed = batch(
        [diamond(), lonsdaleite(), diamond()],
        [-4.0, -3.0, np.nan],
        reason=[why.CONVERGED, why.UNCERTAIN, why.NOT_FINITE],
        forces=0.3,
        ids=[7, 2, 5],
    )
    scores = score(relaxed, 0.5)
    table = rank(relaxed, nothing(), scores, np.array([4, 5, 6]))
    assert list(table) == [
        "id",
        "energy_per_atom",
        "sigma_per_atom",
        "score",
        "max_force",
        "max_force_sigma",
        "volume_per_atom",
        "cluster",
        "basin",
        "lowest_basin",
        "reason",
        "steps",
        "trusted",
    ]
    assert table["id"].tolist() == [2, 5, 7]
    assert table["cluster"].tolist() == [5, 6, 4]
    assert table["trusted"].tolist() == [True, False, True]
    assert table["reason"].tolist() == [why.UNCERTAIN, why.NOT_FINITE, why.CONVERGED]
    assert table["score"].tolist() == pytest.approx([-3.15, np.inf, -4.15])
    row = table.iloc[2]
    assert row["sigma_per_atom"] == pytest.approx(0.1 / 8)
    assert row["max_force"] == pytest.approx(0.3)
    assert row["max_force_sigma"] == pytest.approx(relaxed.prediction.forces_sigma[7])
    assert row["volume_per_atom"] == pytest.approx(5.43**3 / 8)


def test_a_candidate_that_stands_for_a_crystal_is_counted_where_the_lowest_of_its_ends_is():
    relaxed = batch([diamond(), diamond(), lonsdaleite()], [-4.0, -4.0, -3.0], ids=[1, 2, 3])
    lower = batch([diamond()], [-4.0], ids=[3])
    table = rank(relaxed, lower, np.zeros(3), np.arange(3))
    assert table["basin"].tolist() == [0, 0, 1]
    assert table["lowest_basin"].tolist() == [0, 0, 0]
    assert unseen_share(table) == 0  # three independent draws found the same
    reached = times_reached(table["basin"].to_numpy(), table["lowest_basin"].to_numpy())
    assert reached.tolist() == [3, 3, 1]
    ends = concatenate([relaxed.structures, lower.structures])
    basin = np.concatenate([table["basin"], [0]])
    arrivals = count_arrivals([[0], [2]], basin, ends)
    assert arrivals == [3, 1]
    assert count_arrivals([[0, 2]], basin, ends) == [3]  # no candidate twice


# the ends of relaxations


def ends_of(*found):
    """Ends as (candidate, energy in eV/atom) or (candidate, energy, reason), of as many crystals as energies."""
    rows = [(*each, why.CONVERGED)[:3] for each in found]
    ids, energies, reasons = zip(*rows, strict=True)
    return batch([diamond()] * len(rows), energies, reason=list(reasons), ids=list(ids))


def stands(ends, not_searched=()):
    relaxed, lower = one_end_each(ends, np.isin(ends.structures.ids, not_searched, invert=True))
    energies = [each.prediction.energy / each.structures.counts for each in (relaxed, lower)]
    return dict(zip(relaxed.structures.ids.tolist(), energies[0].tolist(), strict=True)), dict(
        zip(lower.structures.ids.tolist(), energies[1].tolist(), strict=True)
    )


def test_a_candidate_stands_at_its_lowest_end_that_can_be_trusted():
    ends = ends_of((7, -4.0), (2, -5.0), (2, -4.0), (7, -9.0, why.TOO_CLOSE), (3, np.nan, why.NOT_FINITE))
    relaxed, lower = one_end_each(ends, np.ones(len(ends), bool))
    assert relaxed.structures.ids.tolist() == [2, 3, 7]
    assert relaxed.reason.tolist() == [why.CONVERGED, why.NOT_FINITE, why.CONVERGED]
    np.testing.assert_allclose(relaxed.prediction.energy[[0, 2]] / 8, [-5.0, -4.0])
    assert not len(lower)


def test_a_crystal_that_would_have_nobody_is_given_a_candidate_that_came_there_from_the_fullest():
    ends = ends_of((1, -5.0), (2, -5.0), (3, -5.0), (4, -4.5), (5, -4.5), (1, -4.0), (4, -4.0), (4, -3.5))
    assert stands(ends) == ({1: -4.0, 2: -5.0, 3: -5.0, 4: -3.5, 5: -4.5}, {1: -5.0, 4: -4.5})


def test_a_candidate_without_a_twin_keeps_its_place_also_in_a_full_basin():
    fcc, hcp = bulk("Si", "fcc", a=3.9).repeat(2), bulk("Si", "hcp", a=3.9 / np.sqrt(2)).repeat((2, 2, 1))
    cubic, energies = bulk("Si", "sc", a=2.5).repeat(2), [-5.0, -5.0, -4.999, -4.0, -4.0]
    ends = batch([fcc, fcc, hcp, diamond(), cubic], energies, np.zeros((5, 1)), ids=[1, 2, 3, 3, 1])
    assert stands(ends) == ({1: -4.0, 2: -5.0, 3: -4.999}, {1: -5.0})


def test_no_crystal_loses_its_last_candidate_to_a_higher_one():
    assert stands(ends_of((1, -5.0), (1, -4.0))) == ({1: -5.0}, {})


def test_candidates_that_may_not_lead_are_no_twins_and_stand_for_nobody():
    ends = ends_of((1, -5.0), (2, -5.0), (2, -4.0))
    assert stands(ends)[0] == {1: -5.0, 2: -4.0}
    assert stands(ends, not_searched=[1])[0] == {1: -5.0, 2: -5.0}
    twins = ends_of((1, -5.0), (2, -5.0), (3, -4.0), (2, -4.0))
    assert stands(twins, not_searched=[3])[0] == {1: -5.0, 2: -4.0, 3: -4.0}


@pytest.mark.parametrize("reason", [why.UNCERTAIN, why.TOO_CLOSE])
def test_nobody_stands_for_an_end_that_is_no_rest(reason):
    assert stands(ends_of((1, -5.0), (2, -5.0), (1, -4.0, reason)))[1] == {}


@pytest.mark.parametrize("reason", why.STOP_REASONS)
def test_only_ghosts_are_not_trusted(reason):
    table = rank(batch([diamond()], [-4.0], reason=reason), nothing(), np.zeros(1), np.zeros(1, int))
    assert table["trusted"].tolist() == [reason not in {why.TOO_CLOSE, why.VOLUME, why.NOT_FINITE}]


def test_representatives_are_the_lowest_candidates_of_different_crystals_whatever_their_clusters():
    rng = np.random.default_rng(0)
    atoms = [
        disguised(diamond(), rng),
        diamond(),  # 11: the lowest of its kind
        disguised(diamond(), rng),  # 12: another cluster, the same crystal once more
        lonsdaleite(),  # 13: the same cluster as diamond, another crystal
        simple_cubic(),  # 14: a ghost
        simple_cubic(),  # 15: the only one of its cluster
    ]
    reasons = [why.CONVERGED] * 4 + [why.VOLUME, why.CONVERGED]
    ids = np.array([10, 11, 12, 13, 14, 15])
    relaxed = batch(atoms, [-4.620, -4.629, -4.625, -4.61, -9.0, -3.5], reason=reasons, ids=ids)
    table = rank(relaxed, nothing(), np.zeros(6), np.array([0, 0, 1, 0, 3, 4]))
    shuffled = relaxed.structures.take(rng.permutation(6))
    assert representatives(table, shuffled, 5, 0.01)["id"].tolist() == [11, 13, 15]
    assert representatives(table, shuffled, 2, 0.01)["id"].tolist() == [11, 13]
    assert representatives(table[table["id"] == 14], shuffled, 2, 0.01).empty


# picks


def crystals(n):
    return Structures.from_atoms([diamond(5.3 + 0.01 * i) for i in range(n)])


def test_picks_are_the_best_scored_of_different_clusters():
    table = table_of([-3.0, -5.0, -4.9, -4.0, -1.0], [0, 1, 1, 2, 3])
    assert pick(table, crystals(5), empty_history(), 3).tolist() == [1, 3, 0]


def test_when_the_clusters_are_used_up_their_second_best_follow():
    table = table_of([-5.0, -4.9, -4.8, -1.0, -0.5], [0, 0, 0, 1, 1])
    assert pick(table, crystals(5), empty_history(), 4).tolist() == [0, 3, 1, 4]
    assert pick(table, crystals(5), empty_history(), 50).tolist() == [0, 3, 1, 4, 2]


def test_untrusted_candidates_come_last_and_those_without_a_score_never():
    table = table_of([-9.0, -1.0, np.inf, -2.0, -8.0], [0, 1, 2, 1, 3], trusted=[False, True, False, True, False])
    assert pick(table, crystals(5), empty_history(), 10).tolist() == [3, 1, 0, 4]


def test_equal_scores_are_taken_in_the_order_of_their_ids():
    table = table_of([-1.0] * 4, [3, 2, 1, 0]).sample(frac=1, random_state=0)
    assert pick(table, crystals(4), empty_history(), 3).tolist() == [0, 1, 2]


def test_no_candidate_is_labelled_twice_in_one_geometry():
    structures = crystals(4)
    table = table_of([-4.0, -3.0, -2.0, -1.0], [0, 1, 2, 3])
    moved = structures.positions.copy()
    moved[0, 0] += 0.01  # candidate 0, hardly moved since
    moved[8, 0] += 0.3  # candidate 1, moved since
    history = structures.moved(moved, structures.cells).take([0, 1])
    assert pick(table, structures, history, 2).tolist() == [1, 2]
    twice = structures.take([1, 0, 1])  # the same id again, in the present geometry
    assert pick(table, structures, twice, 2).tolist() == [2, 3]
    other_ids = replace(structures, ids=structures.ids + 100)  # the same geometries, of other candidates
    assert pick(table, structures, other_ids, 2).tolist() == [0, 1]


def test_the_best_of_a_cluster_that_was_labelled_before_makes_room_for_its_second():
    table = table_of([-4.0, -3.0, -2.0], [0, 0, 1])
    assert pick(table, crystals(3), crystals(3).take([0]), 2).tolist() == [1, 2]


def test_a_basin_gives_one_pick_in_a_cycle_before_everything_else_has_given_one():
    table = table_of([-5.0, -4.9, -4.8, -1.0], [0, 1, 2, 3], basins=[0, 0, 1, 2])
    assert pick(table, crystals(4), empty_history(), 3).tolist() == [0, 2, 3]
    assert pick(table, crystals(4), empty_history(), 4).tolist() == [0, 2, 3, 1]


def test_a_basin_with_a_label_where_it_stands_is_passed_over_for_a_new_one():
    table = table_of([-5.0, -4.9, -4.8, -1.0], [0, 0, 0, 1], basins=[0, 0, 1, 2])
    structures = crystals(4)
    assert pick(table, structures, structures.take([0]), 2).tolist() == [2, 3]
    cells = structures.cells * np.array([1.05, 1, 1, 1])[:, None, None]  # the basin has moved since
    earlier = structures.moved(structures.positions, cells).take([0])
    assert pick(table, structures, earlier, 2).tolist() == [0, 3]


def test_candidates_without_a_basin_are_no_twins():
    table = table_of([-5.0, -4.9], [0, 1], basins=[-1, -1])
    assert pick(table, crystals(2), empty_history(), 2).tolist() == [0, 1]


def test_nothing_left_to_pick_is_no_error():
    table = table_of([-4.0, np.inf], [0, 1])
    assert pick(table, crystals(2), crystals(2).take([0]), 2).tolist() == []


def test_a_geometry_is_the_same_when_rotated_translated_and_wrapped():
    rng = np.random.default_rng(0)
    atoms = diamond()
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + 0.2 * rng.normal(size=(3, 3))), scale_atoms=True)
    atoms.positions += 0.2 * rng.normal(size=(8, 3))
    other = atoms.copy()
    turn = Rotation.random(random_state=3).as_matrix()
    other.set_cell(other.cell.array @ turn, scale_atoms=True)
    other.positions += [1.0, 2.0, 3.0]
    other.positions += rng.integers(-2, 3, (8, 3)) @ other.cell.array

    def same(a: Atoms, b: Atoms) -> bool:
        return same_geometry(a.cell.array, a.positions, b.cell.array, b.positions)

    assert same(atoms, other)
    assert same(other, atoms)
    for shift, expected in [(0.06, True), (0.16, False)]:
        displaced = other.copy()
        displaced.positions[5, 1] += shift
        assert same(atoms, displaced) is expected
    for strain, expected in [(0.002, True), (0.03, False)]:
        strained = other.copy()
        strained.set_cell(strained.cell.array * (1 + strain), scale_atoms=True)
        assert same(atoms, strained) is expected


def test_a_mirror_image_is_another_geometry():
    atoms = Atoms("Si4", cell=[5, 6, 7], pbc=True, scaled_positions=np.random.default_rng(0).random((4, 3)))
    assert not same_geometry(atoms.cell.array, atoms.positions, atoms.cell.array, -atoms.positions)


# perturbing


def stream(cycle):
    return lambda identity: np.random.default_rng([1, cycle, 4, identity])


def test_atoms_move_by_uniform_noise_and_the_cell_by_a_symmetric_strain():
    amplitude = 0.1
    structures = Structures.from_atoms([diamond()] * 200)
    perturbed = perturb(structures, amplitude, stream(0), {})
    strains = np.linalg.inv(structures.cells) @ perturbed.cells - np.eye(3)
    assert strains == pytest.approx(np.swapaxes(strains, 1, 2), abs=1e-12)
    assert 0.9 * amplitude < np.abs(strains).max() * 5.43 <= amplitude * (1 + 1e-9)
    affine = np.einsum("ni,nij->nj", structures.positions, (np.eye(3) + strains)[structures.system])
    noise = perturbed.positions - affine
    assert 0.99 * amplitude < np.abs(noise).max() <= amplitude * (1 + 1e-9)
    assert noise.std() == pytest.approx(amplitude / np.sqrt(3), rel=0.03)
    assert noise.mean() == pytest.approx(0, abs=0.003)


def test_the_amplitude_fades_with_the_cycles():
    assert decay_amplitude(0.4, 0.6, 0) == 0.4
    assert decay_amplitude(0.4, 0.6, 3) == pytest.approx(0.4 * 0.6**3)


def test_each_structure_is_shaken_by_its_own_stream():
    structures = crystals(4)
    together = perturb(structures, 0.1, stream(2), {"Si-Si": 1.6})
    alone = perturb(structures.take([2]), 0.1, stream(2), {"Si-Si": 1.6})
    assert (together.take([2]).positions == alone.positions).all()
    assert (together.take([2]).cells == alone.cells).all()
    assert (perturb(structures, 0.1, stream(3), {}).positions != together.positions).all()
    assert together.ids.tolist() == [0, 1, 2, 3]


def test_no_noise_leaves_structures_as_they_are():
    structures = crystals(2)
    assert (perturb(structures, 0.0, stream(0), {}).positions == structures.positions).all()
    assert len(perturb(empty_history(), 0.1, stream(0), {})) == 0


def test_atoms_are_not_pushed_closer_than_the_floor():
    structures = Structures.from_atoms([diamond()] * 40)
    free = perturb(structures, 0.4, stream(0), {})
    held = perturb(structures, 0.4, stream(0), {"Si-Si": 2.2})
    shortest = [[shortest_distances(a, 4.0)["Si-Si"] for a in s.to_atoms()] for s in (free, held)]
    assert min(shortest[0]) < 2.2
    assert min(shortest[1]) >= 2.2
    assert (np.abs(held.positions - structures.positions).reshape(40, -1).max(axis=1) > 0).all()


def test_a_structure_that_is_too_close_already_stays_as_it_is():
    structures = Structures.from_atoms([diamond()])
    held = perturb(structures, 0.4, stream(0), {"Si-Si": 2.5})
    assert (held.positions == structures.positions).all()
    assert (held.cells == structures.cells).all()


# verdict


def top(atoms, energies, ids=None, sigma=0.0):
    return Top(Structures.from_atoms(atoms, ids), np.array(energies), np.full(len(energies), sigma))


def counts_table(counts, reason=why.CONVERGED):
    basin = np.repeat(np.arange(len(counts)), counts)
    return pd.DataFrame({"basin": basin, "reason": reason, "trusted": True})


def judge(
    now, then, stable=0, cycle=3, labels=100, hours=0.0, rules=RULES, budget=BUDGET, per_cycle=50, error=None,
    below=None, counts=(3, 1),
):  # fmt: skip
    before = None if then is None else Judged(then, stable)
    spent = Spent(cycle + 1, labels, hours)
    return verdict(now, before, counts_table(counts), spent, Rules(rules, budget, per_cycle), Missed(error, below))


THREE = (diamond, lonsdaleite, simple_cubic)


def test_the_same_crystals_with_the_same_energies_stop_the_search_after_patience_cycles():
    rng = np.random.default_rng(0)
    then = top([make() for make in THREE], [-4.62, -4.61, -4.0], ids=[1, 2, 3])
    now = top([disguised(make(), rng) for make in THREE], [-4.618, -4.615, -4.005], ids=[9, 8, 7])
    once = judge(now, then, stable=0)
    assert (once.stop, once.stable_cycles) == (False, 1)
    assert once.reason == (
        "continues: unchanged for 1 cycle; stop.patience asks for 2 in a row, the next after a challenge of other "
        "kinds of candidates"
    )
    twice = judge(now, then, stable=1)
    assert (twice.stop, twice.stable_cycles) == (True, 2)
    assert twice.reason == (
        "settled: the lowest 3 crystals stayed the same for 2 cycles, after a challenge of other kinds of candidates; "
        "their energies, after subtracting the shift common to all, changed by no more than 10 meV/atom or the spread "
        "of the ensemble"
    )
    assert (once.settled, twice.settled) == (None, True)
    assert twice.top == [9, 8, 7]
    assert twice.energies == [-4.618, -4.615, -4.005]
    assert twice.unseen == 0.25


@pytest.mark.parametrize("shift", [-0.02, 0.02])
def test_an_energy_that_moves_either_way_is_a_change(shift):
    atoms = [make() for make in THREE]
    result = judge(top(atoms, [-4.62 + shift, -4.5, -4.0]), top(atoms, [-4.62, -4.5, -4.0]), stable=1)
    assert (result.stop, result.stable_cycles) == (False, 0)
    assert result.reason == "continues: 1 of their energies changed by up to 20 meV/atom"


@pytest.mark.parametrize(
    ("sigma", "shift", "stable"),
    [(0.02, 0.028, 1), (0.02, 0.029, 0), (1.0, 0.099, 1), (1.0, 0.101, 0), (np.nan, 0.02, 0)],
)
def test_an_energy_may_move_by_what_the_ensemble_does_not_know_up_to_ten_tolerances(sigma, shift, stable):
    atoms = [make() for make in THREE]
    then = top(atoms, [-4.62, -4.5, -4.0], sigma=sigma)
    now = top(atoms, [-4.62 + shift, -4.5, -4.0], sigma=sigma)
    assert judge(now, then).stable_cycles == stable
    fcc = CRYSTALS["fcc"]()
    swapped = top([*atoms[:2], fcc], [-4.62, -4.5, -4.0 - shift], sigma=sigma)
    assert judge(swapped, then).stable_cycles == stable
    assert judge(top([*atoms[:2], fcc], [-4.62, -4.5, -4.2], sigma=sigma), then).stable_cycles == 0


@pytest.mark.parametrize(("shift", "stable"), [(-0.06, 1), (0.06, 1), (-0.12, 0), (0.12, 0)])
def test_what_all_energies_move_by_together_is_no_change_up_to_ten_tolerances(shift, stable):
    atoms, energies = [make() for make in THREE], np.array([-4.62, -4.5, -4.0])
    then = top(atoms, energies)
    assert judge(top(atoms, energies + shift), then).stable_cycles == stable
    assert judge(top(atoms, energies + shift + [0, 0, 0.02]), then).stable_cycles == 0
    fcc = CRYSTALS["fcc"]()
    assert judge(top([*atoms[:2], fcc], energies + shift), then).stable_cycles == stable
    assert judge(top([*atoms[:2], fcc], energies + shift - [0, 0, 0.02]), then).stable_cycles == 0


def test_what_one_of_two_crystals_or_a_single_one_moves_by_is_a_change():
    two = [diamond(), simple_cubic()]
    assert judge(top(two, [-4.62, -4.639]), top(two, [-4.62, -4.62])).stable_cycles == 0
    assert judge(top(two, [-4.56, -4.56]), top(two, [-4.62, -4.62])).stable_cycles == 1
    assert judge(top(two[:1], [-4.639]), top(two[:1], [-4.62])).stable_cycles == 0


@pytest.mark.parametrize("place", [0, 1])
def test_a_crystal_that_is_new_before_the_last_place_is_a_change_whatever_the_spread(place):
    energies = [-4.62, -4.61, -4.60]
    then = top([make() for make in THREE], energies, sigma=1.0)
    atoms = [make() for make in THREE[:2]]
    atoms.insert(place, CRYSTALS["fcc"]())
    now = top(atoms, [-4.65, -4.62, -4.61] if place == 0 else [-4.63, -4.615, -4.61], sigma=1.0)
    assert judge(now, then).stable_cycles == 0


def test_another_crystal_that_leads_alone_is_a_change_whatever_the_spread():
    rules = RULES.model_copy(update={"top_k": 1})
    then, now = top([diamond()], [-4.60], sigma=1.0), top([simple_cubic()], [-4.62], sigma=1.0)
    assert judge(now, then, rules=rules).stable_cycles == 0
    assert judge(top([diamond()], [-4.66], sigma=1.0), then, rules=rules).stable_cycles == 1


def test_another_crystal_is_a_change_even_with_the_same_energy():
    then = top([diamond(), simple_cubic()], [-4.62, -4.0])
    now = top([lonsdaleite(), simple_cubic()], [-4.62, -4.0])
    result = judge(now, then, stable=1)
    assert (result.stop, result.stable_cycles) == (False, 0)
    assert (
        result.reason == "continues: 1 new among the lowest 2 crystals; 1 lost from the lowest 2 of the previous cycle"
    )


def test_crystals_that_change_places_within_the_tolerance_are_no_change():
    then = top([diamond(), lonsdaleite(), simple_cubic()], [-4.620, -4.616, -4.0])
    now = top([lonsdaleite(), diamond(), simple_cubic()], [-4.618, -4.617, -4.0])
    assert judge(now, then).stable_cycles == 1


def test_a_swap_at_the_end_of_the_list_within_the_tolerance_is_no_change():
    fcc = CRYSTALS["fcc"]()
    then = top([diamond(), lonsdaleite(), simple_cubic()], [-4.62, -4.61, -4.0])
    near = top([diamond(), lonsdaleite(), fcc], [-4.62, -4.61, -4.004])
    lower = top([diamond(), lonsdaleite(), fcc], [-4.62, -4.61, -4.05])
    assert judge(near, then).stable_cycles == 1
    assert judge(lower, then).stable_cycles == 0


def test_a_crystal_that_joins_a_list_that_is_not_full_is_a_change():
    then = top([diamond(), lonsdaleite()], [-4.62, -4.61])
    now = top([diamond(), lonsdaleite(), simple_cubic()], [-4.62, -4.61, -4.0])
    assert judge(now, then).stable_cycles == 0
    assert judge(then, now).stable_cycles == 0


def test_there_is_nothing_to_compare_with_in_the_first_cycle_or_without_crystals():
    now = top([diamond()], [-4.62])
    first = judge(now, None, cycle=0)
    assert (first.stop, first.stable_cycles) == (False, 0)
    assert "no previous ranking" in first.reason
    nothing = top([], [])
    assert judge(nothing, nothing, stable=5).stable_cycles == 0
    assert judge(now, nothing, stable=5).stable_cycles == 0


@pytest.mark.parametrize(
    ("spent", "reason"),
    [
        ({"cycle": 14}, "15 cycles done, the most that stop.max_cycles allows"),
        ({"labels": 951}, "951 labels requested; 50 more would exceed budget.labels, 1000"),
        ({"hours": 2.5, "budget": Budget(hours=2)}, "2.5 h used; budget.hours allows 2 h"),
    ],
)
def test_a_campaign_ends_when_it_has_used_what_it_may(spent, reason):
    result = judge(top([diamond()], [-4.62]), None, **spent)
    assert (result.stop, result.settled) == (True, False)
    assert result.reason == f"not settled: {reason}"


def unchanged(stable=1, **keywords):
    leaders = top([make() for make in THREE], [-4.62, -4.61, -4.0])
    return judge(leaders, leaders, stable, **keywords)


def test_the_search_goes_on_while_the_newest_labels_were_off_by_too_much():
    far = unchanged(error=0.047)
    assert (far.stop, far.stable_cycles, far.settled) == (False, 2, None)
    assert far.reason == (
        "continues: unchanged, but the newest labels were off by 47 meV/atom; stop.max_error allows 30 meV/atom"
    )
    near = unchanged(error=0.004)
    assert (near.stop, near.settled) == (True, True)
    assert near.reason.endswith("; the newest labels were off by 4 meV/atom")
    assert unchanged(error=0.047, rules=RULES.model_copy(update={"max_error": None})).stop


def test_the_search_goes_on_after_a_label_far_below_its_prediction():
    surprised = unchanged(error=0.004, below=0.061)
    assert (surprised.stop, surprised.stable_cycles, surprised.settled) == (False, 2, None)
    assert surprised.reason == (
        "continues: unchanged, but one of the newest labels was 61 meV/atom lower than predicted; stop.max_error, "
        "30 meV/atom, allows 2 times itself"
    )
    assert unchanged(error=0.004, below=0.059).settled
    assert unchanged(below=0.061, rules=RULES.model_copy(update={"max_error": None})).stop


def test_one_cycle_is_no_patience_for_a_challenge():
    impatient = RULES.model_copy(update={"patience": 1})
    assert unchanged(0, rules=impatient).reason == (
        "continues: unchanged for 1 cycle; a challenge of other kinds of candidates comes first"
    )
    assert unchanged(1, rules=impatient).stop
    assert unchanged(0, rules=impatient.model_copy(update={"challenge": False})).stop


def test_what_stops_with_many_minima_reached_once_is_not_called_settled():
    said = unchanged(counts=(2, 1, 1, 1))
    assert (said.stop, said.settled, said.unseen) == (True, False, 0.6)
    assert said.reason.startswith("not settled (chance of unseen minima 60%; enlarge the pool): the lowest 3 crystals")


# what labels say of crystals


def known(crystals, predicted, labelled):
    """What is known of these crystals, which were labelled as they are."""
    batched = batch(crystals, predicted)
    return known_of(labels_of(batched, labelled), batched.structures, batched.prediction)


def moved(relaxed, of):
    return (corrected(relaxed, of).prediction.energy - relaxed.prediction.energy) / relaxed.structures.counts


def test_a_label_moves_the_energies_of_its_crystal_by_what_was_wrong_and_of_no_other():
    rng = np.random.default_rng(0)
    alike = [disguised(diamond(), rng, noise=0.01, strain=0.002) for _ in range(5)]
    relaxed = batch([*alike, bc8(), simple_cubic(), diamond()], [*5 * [-4.60], -4.5, -4.0, -4.60])
    relaxed.reason[7] = why.TOO_CLOSE
    of = known([diamond(), simple_cubic()], [-4.57, -4.0], [-4.59, -4.01])
    moves = moved(relaxed, of)
    assert moves[:5] == pytest.approx(np.full(5, -0.02), abs=0.003)
    assert moves[5:] == pytest.approx([0, -0.01, 0], abs=1e-6)
    assert (corrected(relaxed, of).prediction.energy_sigma == relaxed.prediction.energy_sigma).all()


@pytest.mark.parametrize("labels", [1, 30])
def test_however_many_labels_of_one_stacking_move_no_other(labels):
    fcc, hcp = bulk("Al", "fcc", a=4.05), bulk("Al", "hcp", a=4.05 / np.sqrt(2), c=4.05 / np.sqrt(2) * np.sqrt(8 / 3))
    of = known(labels * [fcc], np.full(labels, -3.0), np.full(labels, -3.1))
    assert moved(batch([fcc, hcp], [-3.0, -3.0]), of) == pytest.approx([-0.1, 0], abs=0.005)


def test_nothing_labelled_and_what_cannot_be_predicted_move_nothing():
    relaxed = batch([diamond(), bc8()], [-4.6, -4.5])
    assert (moved(relaxed, known([], [], [])) == 0).all()
    assert (moved(relaxed, known([diamond()], [np.nan], [-4.6])) == 0).all()
    assert moved(relaxed, known([diamond(), diamond()], [np.nan, -4.6], [-4.6, -4.7]))[0] == pytest.approx(-0.1)


def labels_of(labelled, energies_per_atom):
    """Labels of these structures, whose predicted forces and stress are right."""
    structures, n = labelled.structures, len(labelled)
    return Labels(
        structures=structures,
        energy=np.array(energies_per_atom) * structures.counts,
        forces=labelled.prediction.forces,
        stress=labelled.prediction.stress,
        status=np.full(n, "done"),
        reason=np.full(n, ""),
        cost=np.ones(n),
        evaluations=np.ones(n, np.int64),
        cycle=np.zeros(n, np.int64),
    )


# challenge


def test_of_rare_kinds_the_lower_half_is_asked():
    known, new = [diamond(), diamond(), lonsdaleite()], [bc8(), CRYSTALS["fcc"](), simple_cubic(), bc8()]
    candidates = batch([*known, *new], [-4.6, -4.6, -4.5, -4.3, -3.0, -4.0, -4.4])
    labelled = Structures.from_atoms(known)
    assert of_rare_kinds(candidates, labelled, 1).tolist() == [3]  # the second of a kind after the first of others
    assert of_rare_kinds(candidates, labelled, 2).tolist() == [2, 3]
    assert of_rare_kinds(candidates, labelled, 9).tolist() == [0, 1, 2, 6, 3, 5, 4]


def test_what_is_not_to_be_trusted_challenges_nobody():
    ghosts = batch([diamond(), simple_cubic()], [-40.0, -4.0], reason=why.TOO_CLOSE)
    assert len(challengers(ghosts, ghosts, Structures.from_atoms([]), 2)) == 0


def shaken(crystal: Atoms, seed: int) -> Atoms:
    crystal = crystal.copy()
    crystal.rattle(0.05, seed=seed)
    return crystal


def test_the_crystal_that_is_like_nothing_labelled_is_asked_first_whatever_its_energy():
    close_packed = [bulk("Si", "fcc", a=3.9), bulk("Si", "hcp", a=2.7), bulk("Si", "bcc", a=3.1)]
    known = [shaken(each, seed) for seed, each in enumerate(3 * close_packed)]
    diamond, chains = bulk("Si", "diamond", a=5.4), Atoms("Si", cell=[2.4, 9, 9], pbc=True)
    candidates = [*known, diamond, shaken(diamond, 9), chains]
    relaxed = batch(candidates, [*np.linspace(-5.10, -5.02, 9), -5.0, -5.0, -4.0])
    labelled = Structures.from_atoms(close_packed, range(3))
    assert strangers(relaxed, labelled, 1).tolist() in ([9], [10])
    asked = strangers(relaxed, labelled, 5)
    assert 11 not in asked  # no leader, however far
    assert len(set(asked.tolist())) == 5
    assert len(strangers(relaxed, relaxed.structures, 5)) == 0  # all were labelled


def test_a_candidate_is_asked_once_though_it_stands_in_two_places():
    relaxed = batch([bulk("Si", "diamond", a=5.4), bulk("Si", "sc", a=2.5), bulk("Si", "fcc", a=3.9)], 3 * [-5.0])
    same = replace(relaxed, structures=replace(relaxed.structures, ids=np.array([7, 7, 8])))
    asked = same.structures.ids[strangers(same, Structures.from_atoms([bulk("Si", "hcp", a=2.7)], [0]), 3)]
    assert sorted(asked.tolist()) == [7, 8]


def test_average_distances_belong_to_the_crystal_and_not_to_its_cell_or_volume():
    salt = bulk("NaCl", "rocksalt", a=5.6)
    squeezed = make_supercell(salt, [[1, 1, 0], [0, 1, 0], [0, 2, 3]])
    squeezed.rotate(33, (1, 2, 3), rotate_cell=True)
    squeezed.set_cell(0.9 * squeezed.cell.array, scale_atoms=True)
    other = bulk("NaCl", "zincblende", a=5.6)
    one, same, different = average_distances(Structures.from_atoms([salt, squeezed, other], range(3)))
    assert one == pytest.approx(same, abs=1e-8)
    assert np.linalg.norm(one - different) > 1


@pytest.mark.parametrize("spent", [{"cycle": 13}, {"labels": 950}, {"hours": 1.9, "budget": Budget(hours=2)}])
def test_what_just_fits_into_the_budget_is_still_done(spent):
    assert not judge(top([diamond()], [-4.62]), None, **spent).stop


def test_good_turing_counts_the_basins_that_converged_candidates_reached_once():
    table = counts_table([5, 1, 1, 3])
    assert unseen_share(table) == pytest.approx(0.2)
    ghosts = counts_table([1, 1, 1]).assign(trusted=False)
    halted = counts_table([1, 1, 1], reason=why.UNCERTAIN)
    assert unseen_share(pd.concat([table, ghosts, halted])) == pytest.approx(0.2)
    assert unseen_share(halted) == 1.0


def test_good_turing_estimates_the_weight_of_what_a_sample_missed():
    rng = np.random.default_rng(0)
    weights = rng.pareto(1.0, 300)
    weights /= weights.sum()
    estimates, truths = [], []
    for _ in range(200):
        drawn = rng.choice(300, size=200, p=weights)
        estimates.append(unseen_share(counts_table(np.bincount(drawn, minlength=300))))
        truths.append(1 - weights[np.unique(drawn)].sum())
    assert np.mean(estimates) == pytest.approx(np.mean(truths), rel=0.1)


# walk-forward errors


def labels_and_prediction(rng, n=400, sigma=0.1):
    """Labels that scatter around a prediction exactly as its sigmas say."""
    structures = Structures.from_atoms([diamond(), lonsdaleite()] * (n // 2))
    total = len(structures.numbers)
    upper = rng.normal(size=(n, 3, 3))
    prediction = Prediction(
        energy=rng.normal(size=n),
        energy_sigma=np.full(n, sigma),
        forces=rng.normal(size=(total, 3)),
        forces_sigma=np.full(total, sigma * np.sqrt(3)),
        stress=upper + np.swapaxes(upper, 1, 2),
        stress_sigma=np.full(n, sigma),
        features=np.zeros((n, 1)),
    )
    off = sigma / 3 * rng.normal(size=(n, 3, 3))
    labels = Labels(
        structures=structures,
        energy=prediction.energy + sigma * rng.normal(size=n),
        forces=prediction.forces + sigma * rng.normal(size=(total, 3)),
        stress=prediction.stress + (off + np.swapaxes(off, 1, 2)) / 2,
        status=np.full(n, "done"),
        reason=np.full(n, ""),
        cost=np.ones(n),
        evaluations=np.ones(n, dtype=np.int64),
        cycle=np.zeros(n, dtype=np.int64),
    )
    return prediction, labels


@pytest.mark.parametrize("members", [2, 3, 5])
@pytest.mark.parametrize("quantity", ["energy", "forces", "stress"])
def test_a_right_spread_is_that_of_members_of_which_the_truth_might_be_one(quantity, members):
    said = np.random.default_rng(0).normal(size=(100_000, members + 1, COMPONENTS[quantity]))
    truth, ensemble = said[:, 0], said[:, 1:]
    errors = np.linalg.norm(ensemble.mean(axis=1) - truth, axis=1)
    sigmas = np.sqrt(ensemble.var(axis=1, ddof=1).sum(axis=1))
    shares = [np.mean(errors <= times * sigmas) for times in (1, 2)]
    assert right_spread(quantity, members)[:2] == pytest.approx(shares, abs=0.01)
    assert right_spread(quantity, members)[2] == pytest.approx(np.quantile(errors / sigmas, COVERED), rel=0.02)


def test_walk_forward_errors_are_those_of_a_plain_sum_over_labels():
    predicted, labels = labels_and_prediction(np.random.default_rng(0), n=20)
    figures = walk_forward(predicted, labels)
    per_atom = 1000 * (predicted.energy - labels.energy) / labels.structures.counts
    assert figures["labels"] == figures["compared"] == 20
    assert figures["energy_mae_mev_per_atom"] == pytest.approx(np.abs(per_atom).mean())
    assert figures["energy_rmse_mev_per_atom"] == pytest.approx(np.sqrt((per_atom**2).mean()))
    assert figures["energy_below_mev_per_atom"] == pytest.approx(per_atom.max())
    assert figures["forces_mae_ev_per_angstrom"] == pytest.approx(np.abs(predicted.forces - labels.forces).mean())
    voigt = [0, 4, 8, 5, 2, 1]
    stress = (predicted.stress - labels.stress).reshape(-1, 9)[:, voigt] / GPa
    assert figures["stress_mae_gpa"] == pytest.approx(np.abs(stress).mean())
    assert figures["stress_rmse_gpa"] == pytest.approx(np.sqrt((stress**2).mean()))


def test_errors_that_follow_their_sigmas_lie_within_them_as_often_as_gaussians_do():
    figures = walk_forward(*labels_and_prediction(np.random.default_rng(0), n=2000))
    for times in (1, 2):
        assert figures[f"energy_within_{times}_sigma"] == pytest.approx(chi2.cdf(times**2, 1), abs=0.03)
        assert figures[f"forces_within_{times}_sigma"] == pytest.approx(chi2.cdf(3 * times**2, 3), abs=0.03)
    assert figures["energy_spread_factor"] == pytest.approx(1.0, abs=0.05)
    assert figures["forces_spread_factor"] == pytest.approx(np.sqrt(chi2.ppf(0.68, 3) / 3), abs=0.03)


def test_a_spread_that_is_too_small_is_told_with_its_factor():
    predicted, labels = labels_and_prediction(np.random.default_rng(0), n=2000)
    figures = walk_forward(replace(predicted, energy_sigma=predicted.energy_sigma / 4), labels)
    assert figures["energy_spread_factor"] == pytest.approx(4.0, abs=0.2)
    without = walk_forward(replace(predicted, energy_sigma=np.zeros(2000)), labels)
    assert without["energy_spread_factor"] is None
    assert without["energy_within_1_sigma"] == 0


def test_failed_labels_and_exploded_predictions_are_left_out():
    predicted, labels = labels_and_prediction(np.random.default_rng(0), n=10)
    expected = walk_forward(predicted, labels)
    failed = labels.take([*range(10), 0, 1, 2])
    failed.status[10:] = ["failed", "rejected", "done"]
    failed.energy[10:12] = np.nan
    failed.forces[80 - 20 :] = np.nan
    longer = replace(
        predicted, **{name: np.concatenate([v, v[:3]]) for name, v in vars(predicted).items() if "forces" not in name}
    )
    atoms = labels.structures.atoms_of([*range(10), 0, 1, 2])
    longer = replace(longer, forces=predicted.forces[atoms], forces_sigma=predicted.forces_sigma[atoms])
    longer.energy[12] = np.inf
    longer.stress[12] = np.nan
    figures = walk_forward(longer, failed)
    assert (figures.pop("labels"), figures.pop("compared")) == (11, 10)
    assert figures == pytest.approx({name: expected[name] for name in figures})


def test_no_label_gives_no_figure():
    predicted, labels = labels_and_prediction(np.random.default_rng(0), n=4)
    labels.status[:] = "failed"
    figures = walk_forward(predicted, labels)
    assert figures.pop("labels") == figures.pop("compared") == 0
    assert set(figures.values()) == {None}


def test_r8_is_built_as_published():
    """The shortest distances of R8 are bonds, four to each atom."""
    atoms = r8()
    _, distances = get_distances(atoms.positions, cell=atoms.cell, pbc=True)
    assert len(atoms) == 8
    assert 2.2 < np.sort(distances, axis=1)[:, 1].min() < 2.5
