"""Where a potential gives no features, a descriptor tells crystals apart."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.filters import FrechetCellFilter
from ase.optimize import LBFGS
from ase.spacegroup import crystal
from hypothesis import given, settings
from hypothesis import strategies as st
from matscipy.calculators.manybody import Manybody
from matscipy.calculators.manybody.explicit_forms import StillingerWeber
from matscipy.calculators.manybody.explicit_forms.stillinger_weber import Stillinger_Weber_PRB_31_5262_Si
from scipy.spatial.transform import Rotation
from test_select import batch

from csp_al.campaign.checks import lacking
from csp_al.interfaces import Gives
from csp_al.select.descriptor import describe, with_descriptor
from csp_al.select.identity import basins
from csp_al.structures import Structures

EDGE = 2.76
HEXAGONAL = np.array([[EDGE, 0, 0], [-EDGE / 2, EDGE * np.sqrt(3) / 2, 0], [0, 0, EDGE * np.sqrt(8 / 3)]])


def crystals() -> dict[str, Atoms]:
    stacked = [(0, 0, 0), (1 / 3, 2 / 3, 0.25), (0, 0, 0.5), (2 / 3, 1 / 3, 0.75)]
    return {
        "diamond": bulk("Si", a=5.43),
        "lonsdaleite": crystal(
            ["Si"], [(1 / 3, 2 / 3, 0.0625)], spacegroup=194, cellpar=[3.84, 3.84, 6.27, 90, 90, 120]
        ),
        "bct-5": crystal(["Si"], [(0, 0, 0.203)], spacegroup=139, cellpar=[3.32, 3.32, 6.0, 90, 90, 90]),
        "beta-tin": crystal(["Si"], [(0, 0, 0)], spacegroup=141, cellpar=[4.81, 4.81, 2.65, 90, 90, 90]),
        "fcc": bulk("Si", "fcc", a=3.9),
        "hcp": bulk("Si", "hcp", a=EDGE, c=EDGE * np.sqrt(8 / 3)),
        "dhcp": Atoms("Si4", scaled_positions=stacked, cell=HEXAGONAL * [[1], [1], [2]], pbc=True),
        "bcc": bulk("Si", "bcc", a=3.1),
        "simple cubic": bulk("Si", "sc", a=2.5),
    }


def noisy(atoms: Atoms, noise: float, rng: np.random.Generator) -> Atoms:
    copy = atoms.repeat((max(1, 8 // len(atoms)), 1, 1))
    copy.positions += rng.normal(scale=noise, size=copy.positions.shape)
    return copy


def random_cells(count: int, rng: np.random.Generator) -> list[Atoms]:
    """So that features spread as in a pool."""
    cells = []
    while len(cells) < count:
        atoms = Atoms("Si8", cell=rng.uniform(4, 7, 3), scaled_positions=rng.random((8, 3)), pbc=True)
        atoms.set_cell(atoms.cell * np.cbrt(160 / atoms.cell.volume), scale_atoms=True)
        if (atoms.get_all_distances(mic=True) + 9 * np.eye(8)).min() > 1.7:
            cells.append(atoms)
    return cells


def at_one_volume(atoms: Atoms) -> Atoms:
    """So that volumes tell nothing."""
    atoms.set_cell(atoms.cell * np.cbrt(20 * len(atoms) / atoms.cell.volume), scale_atoms=True)
    return atoms


def test_basins_tell_close_crystals_apart_and_copies_of_one_together():
    rng = np.random.default_rng(1)
    names = [name for name in crystals() for _ in range(5)]
    copies = [at_one_volume(noisy(crystals()[name], 0.01, rng)) for name in names]
    pool = [*copies, *random_cells(40, rng)]
    found = basins(with_descriptor(batch(pool, np.full(len(pool), -4.0), np.zeros((len(pool), 0)))))
    of_names = {name: {found[row] for row, other in enumerate(names) if other == name} for name in crystals()}
    assert {name: len(basin) for name, basin in of_names.items()} == dict.fromkeys(crystals(), 1)
    assert len(set.union(*of_names.values())) == len(of_names)


def relaxed(atoms: Atoms, rng: np.random.Generator) -> Atoms:
    start = atoms.copy()
    start.rattle(0.1, rng=rng)
    start.set_cell(start.cell.array @ (np.eye(3) + 0.02 * rng.normal(size=(3, 3))), scale_atoms=True)
    start.calc = Manybody(**StillingerWeber(Stillinger_Weber_PRB_31_5262_Si))
    LBFGS(FrechetCellFilter(start), logfile=None).run(fmax=0.05, steps=200)
    return start


@pytest.mark.parametrize("name", ["diamond", "bct-5"])
def test_two_relaxations_of_one_crystal_share_a_basin(name):
    rng = np.random.default_rng(2)
    ends = [relaxed(crystals()[name].repeat((2, 1, 1)), rng) for _ in range(4)]
    energies = [end.get_potential_energy() / len(end) for end in ends]
    others = [*random_cells(30, rng), *crystals().values()]
    pool = batch([*ends, *others], [*energies, *np.full(len(others), energies[0])], np.zeros((4 + len(others), 0)))
    assert len(set(basins(with_descriptor(pool))[:4].tolist())) == 1


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_the_descriptor_is_the_same_for_a_crystal_turned_moved_permuted_repeated_or_scaled(seed):
    rng = np.random.default_rng(seed)
    atoms = Atoms(
        "Al2O2", cell=4.5 * np.eye(3) + 0.3 * rng.normal(size=(3, 3)), scaled_positions=rng.random((4, 3)), pbc=True
    )
    turned = atoms.copy()
    turned.set_cell(atoms.cell.array @ Rotation.random(random_state=seed % 1000).as_matrix(), scale_atoms=True)
    moved = atoms[rng.permutation(4)]
    moved.positions += rng.normal(size=3)
    scaled = atoms.copy()
    scaled.set_cell(1.1 * atoms.cell.array, scale_atoms=True)
    rows = describe(Structures.from_atoms([atoms, turned, moved, scaled, atoms.repeat((2, 1, 1))]))
    np.testing.assert_allclose(rows[1:], np.broadcast_to(rows[0], rows[1:].shape), atol=1e-6 * np.abs(rows[0]).max())
    exchanged = atoms.copy()
    exchanged.numbers = np.where(atoms.numbers == 8, 13, 8)
    assert np.abs(describe(Structures.from_atoms([atoms, exchanged]))[1] - rows[0]).max() > 0.01 * np.abs(rows[0]).max()


def test_candidates_without_an_energy_have_no_descriptor():
    pool = batch([bulk("Al"), bulk("Al", a=0.01), bulk("Al")], [-3.0, np.nan, -3.0], np.zeros((3, 0)))
    features = with_descriptor(pool).prediction.features
    assert np.isfinite(features[[0, 2]]).all()
    assert np.isnan(features[1]).all()
    nothing = batch([bulk("Al", a=0.01)], [np.nan], np.zeros((1, 0)))
    assert basins(with_descriptor(nothing)).tolist() == [-1]


@pytest.mark.parametrize("quantity", ["energy", "stress", "spread"])
def test_a_campaign_is_refused_what_its_potential_does_not_give(quantity):
    assert not list(lacking(Gives(conservative=False)))
    (finding,) = lacking(Gives(**{quantity: False}))
    assert finding.key == ("potential", "kind")
    assert f"it gives no {quantity}" in finding.message


def test_features_that_nothing_gives_are_asked_for_with_what_to_install(monkeypatch):
    monkeypatch.setattr("csp_al.campaign.checks.DESCRIPTOR", "no_such_library")
    assert not list(lacking(Gives(features=8)))
    (finding,) = lacking(Gives())
    assert str(finding).endswith("no_such_library, which then does, is not installed; pip install 'csp_al[descriptor]'")
