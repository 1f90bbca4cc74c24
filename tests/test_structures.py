"""Batches of crystals keep every number, whatever is cut from them, joined to them or written to disk."""

from dataclasses import fields, is_dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import h5py
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.io.ase import AseAtomsAdaptor

from csp_al.files import OtherVersionError
from csp_al.hdf5 import load, save
from csp_al.structures import (
    Labels,
    Prediction,
    Relaxed,
    Structures,
    choose,
    concatenate,
    pointer,
    ragged_indices,
    take,
)

FAST = settings(max_examples=40, deadline=None)
SIZES = st.lists(st.integers(1, 5), max_size=6)
SEEDS = st.integers(0, 2**32 - 1)
WORDS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)


def random_atoms(rng: np.random.Generator, size: int) -> Atoms:
    cell = 4 * np.eye(3) + rng.normal(size=(3, 3))
    return Atoms(rng.integers(1, 90, size), positions=rng.normal(scale=5, size=(size, 3)), cell=cell, pbc=True)


def random_structures(rng: np.random.Generator, sizes: list[int]) -> Structures:
    return Structures.from_atoms([random_atoms(rng, size) for size in sizes], ids=rng.permutation(99)[: len(sizes)])


def random_labels(rng: np.random.Generator, sizes: list[int], words: list[str] | None = None) -> Labels:
    n, structures = len(sizes), random_structures(rng, sizes)
    return Labels(
        structures=structures,
        energy=np.where(rng.random(n) < 0.3, np.nan, rng.normal(size=n)),
        forces=rng.normal(size=(len(structures.numbers), 3)),
        stress=rng.normal(size=(n, 3, 3)),
        status=np.array(rng.choice(["done", "failed", "rejected"], n), dtype=np.str_),
        reason=np.array(words if words is not None else ["not converged"] * n, dtype=np.str_).reshape(n),
        cost=rng.random(n),
        evaluations=rng.integers(0, 9, n),
        cycle=rng.integers(0, 9, n),
    )


def random_relaxed(rng: np.random.Generator, sizes: list[int]) -> Relaxed:
    n, structures = len(sizes), random_structures(rng, sizes)
    prediction = Prediction(
        energy=rng.normal(size=n),
        energy_sigma=rng.random(n),
        forces=rng.normal(size=(len(structures.numbers), 3)),
        forces_sigma=rng.random(len(structures.numbers)),
        stress=rng.normal(size=(n, 3, 3)),
        stress_sigma=rng.random(n),
        features=rng.normal(size=(n, 7)),
    )
    return Relaxed(structures, prediction, np.array(["converged"] * n, dtype=np.str_), rng.integers(1, 300, n))


def assert_equal(one: Any, other: Any) -> None:
    """Every array of both, dtype's kind and shape included."""
    assert type(one) is type(other)
    for field in fields(one):
        ours, theirs = getattr(one, field.name), getattr(other, field.name)
        if is_dataclass(ours):
            assert_equal(ours, theirs)
        else:
            assert ours.dtype.kind == theirs.dtype.kind, field.name
            assert ours.shape == theirs.shape, field.name
            np.testing.assert_array_equal(ours, theirs, err_msg=field.name)


def assert_same_atoms(one: Atoms, other: Atoms) -> None:
    np.testing.assert_array_equal(one.numbers, other.numbers)
    np.testing.assert_array_equal(one.positions, other.positions)
    np.testing.assert_array_equal(one.cell.array, other.cell.array)
    assert other.pbc.all()


def rows_one_by_one(relaxed: Relaxed, row: int) -> dict[str, Any]:
    """What belongs to one structure, cut out by hand."""
    a, b = relaxed.structures.ptr[row], relaxed.structures.ptr[row + 1]
    structures, prediction = relaxed.structures, relaxed.prediction
    return {
        "id": structures.ids[row],
        "numbers": structures.numbers[a:b].tolist(),
        "positions": structures.positions[a:b].tolist(),
        "cell": structures.cells[row].tolist(),
        "energy": prediction.energy[row],
        "energy_sigma": prediction.energy_sigma[row],
        "forces": prediction.forces[a:b].tolist(),
        "forces_sigma": prediction.forces_sigma[a:b].tolist(),
        "stress": prediction.stress[row].tolist(),
        "stress_sigma": prediction.stress_sigma[row],
        "features": prediction.features[row].tolist(),
        "reason": relaxed.reason[row],
        "steps": relaxed.steps[row],
    }


@FAST
@given(sizes=SIZES, seed=SEEDS)
def test_ase_atoms_survive_a_round_trip(sizes, seed):
    rng = np.random.default_rng(seed)
    atoms = [random_atoms(rng, size) for size in sizes]
    structures = Structures.from_atoms(atoms)
    for before, after in zip(atoms, structures.to_atoms(), strict=True):
        assert_same_atoms(before, after)
    np.testing.assert_array_equal(structures.ids, np.arange(len(sizes)))
    np.testing.assert_array_equal(structures.counts, np.array(sizes, dtype=int))
    np.testing.assert_array_equal(structures.system, [row for row, size in enumerate(sizes) for _ in range(size)])
    np.testing.assert_allclose(structures.volumes, [a.cell.volume for a in atoms])


@FAST
@given(sizes=SIZES, seed=SEEDS)
def test_pymatgen_structures_survive_a_round_trip(sizes, seed):
    structures = random_structures(np.random.default_rng(seed), sizes)
    back = [AseAtomsAdaptor.get_atoms(structure) for structure in structures.to_pymatgen()]
    for before, after in zip(structures.to_atoms(), back, strict=True):
        np.testing.assert_array_equal(before.numbers, after.numbers)
        np.testing.assert_allclose(after.positions, before.positions, atol=1e-8)
        np.testing.assert_allclose(after.cell.array, before.cell.array, atol=1e-8)


@FAST
@given(sizes=SIZES, seed=SEEDS, data=st.data())
def test_labels_with_any_text_survive_a_file(sizes, seed, data):
    words = data.draw(st.lists(WORDS, min_size=len(sizes), max_size=len(sizes)))
    labels = random_labels(np.random.default_rng(seed), sizes, words)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "labels.h5"
        save(path, labels)
        assert_equal(load(path, Labels), labels)


@pytest.mark.parametrize("sizes", [[], [1], [3, 1, 4]])
def test_structures_and_relaxed_survive_a_file(tmp_path, sizes):
    rng = np.random.default_rng(1)
    for batch in (random_structures(rng, sizes), random_relaxed(rng, sizes)):
        save(tmp_path / "batch.h5", batch)
        assert_equal(load(tmp_path / "batch.h5", type(batch)), batch)


def test_a_file_of_another_format_is_refused(tmp_path):
    path = tmp_path / "structures.h5"
    save(path, Structures.from_atoms([bulk("Si")]))
    with h5py.File(path, "a") as file:
        file.attrs["format"] = 999
    with pytest.raises(OtherVersionError, match=r"structures\.h5: format 999, this version of csp_al reads 2"):
        load(path, Structures)


@FAST
@given(sizes=SIZES.filter(bool), seed=SEEDS, data=st.data())
def test_take_cuts_what_belongs_to_the_rows_in_their_order(sizes, seed, data):
    relaxed = random_relaxed(np.random.default_rng(seed), sizes)
    rows = data.draw(st.lists(st.integers(0, len(sizes) - 1), max_size=8))
    taken = take(relaxed, np.array(rows, dtype=np.int64), relaxed.structures)
    assert len(taken) == len(taken.structures) == len(rows)
    for place, row in enumerate(rows):
        assert rows_one_by_one(taken, place) == rows_one_by_one(relaxed, row)
    assert_equal(relaxed.structures.take(rows), taken.structures)


@FAST
@given(sizes=SIZES, seed=SEEDS)
def test_a_mask_takes_the_same_as_its_rows_and_usable_labels_are_those_done(sizes, seed):
    labels = random_labels(np.random.default_rng(seed), sizes)
    mask = labels.status == "done"
    assert_equal(labels.take(mask), labels.take(np.flatnonzero(mask)))
    assert_equal(labels.usable, labels.take([row for row, status in enumerate(labels.status) if status == "done"]))


@FAST
@given(parts=st.lists(SIZES, min_size=1, max_size=4), seed=SEEDS)
def test_concatenate_keeps_every_row_of_every_part(parts, seed):
    rng = np.random.default_rng(seed)
    batches = [random_relaxed(rng, sizes) for sizes in parts]
    joined = concatenate(batches)
    expected = [rows_one_by_one(batch, row) for batch in batches for row in range(len(batch))]
    assert [rows_one_by_one(joined, row) for row in range(len(joined))] == expected


@FAST
@given(sizes=SIZES, seed=SEEDS)
def test_choose_takes_each_structure_from_the_batch_that_the_mask_names(sizes, seed):
    rng = np.random.default_rng(seed)
    old = random_relaxed(rng, sizes)
    structures = old.structures.moved(old.structures.positions + 1, old.structures.cells + 1)
    new = random_relaxed(rng, sizes).prediction
    mask = rng.random(len(sizes)) < 0.5
    chosen = Relaxed(
        choose(mask, structures, old.structures, structures),
        choose(mask, new, old.prediction, structures),
        old.reason,
        old.steps,
    )
    both = [old, Relaxed(structures, new, old.reason, old.steps)]
    for row, is_new in enumerate(mask):
        assert rows_one_by_one(chosen, row) == rows_one_by_one(both[int(is_new)], row)


@FAST
@given(pairs=st.lists(st.tuples(st.integers(0, 50), st.integers(0, 5))))
def test_pointers_and_ragged_indices_equal_a_loop(pairs):
    starts = np.array([start for start, _ in pairs], dtype=np.int64)
    counts = np.array([count for _, count in pairs], dtype=np.int64)
    expected = [start + place for start, count in pairs for place in range(count)]
    assert ragged_indices(starts, counts).tolist() == expected
    assert pointer(counts).tolist() == [sum(counts[:end]) for end in range(len(pairs) + 1)]
