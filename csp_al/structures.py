"""Crystals in batches: what flows between the rooms of the loop.

Everything is flat and ragged: the atoms of n structures lie in one array of N rows, and ``ptr`` (n+1) says where each
structure begins. Units are ASE's: eV, Å, eV/Å, eV/Å^3; cells hold their vectors in rows; stress is positive under
tension, as in ASE.

    structures = Structures.from_atoms([bulk("Si"), bulk("Al")])
    structures.take([1]).to_atoms()
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    from ase import Atoms
    from pymatgen.core import Structure

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Strings = NDArray[np.str_]
T = TypeVar("T")


class Status(StrEnum):
    """How a calculation by the reference method ended."""

    DONE = "done"
    FAILED = "failed"
    """Without a result."""
    REJECTED = "rejected"
    """With a result that is not to be believed."""
    INTERRUPTED = "interrupted"
    """Cut off with the worker that had it; only an attempt ends so, and another follows."""


@dataclass(frozen=True)
class Structures:
    """Periodic crystals. Shapes: ids (n,), ptr (n+1,), numbers (N,), positions (N, 3) Å, cells (n, 3, 3) Å in rows."""

    ids: Ints
    ptr: Ints
    numbers: Ints
    positions: Floats
    cells: Floats

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def counts(self) -> Ints:
        """Atoms of each structure, (n,)."""
        return np.diff(self.ptr)

    @property
    def system(self) -> Ints:
        """Row of the structure that each atom belongs to, (N,)."""
        return np.repeat(np.arange(len(self)), self.counts)

    @property
    def volumes(self) -> Floats:
        """Cell volumes, (n,), Å^3."""
        return np.abs(np.linalg.det(self.cells))

    def largest(self, of_atoms: Floats) -> Floats:
        """The largest of a number per atom (N,) in each structure, (n,); NaN where one is."""
        return np.maximum.reduceat(of_atoms, self.ptr[:-1]) if len(self) else np.zeros(0)

    def atoms_of(self, rows: ArrayLike) -> Ints:
        """Indices of the atoms of the structures in these rows, in their order."""
        rows = np.asarray(rows, dtype=np.int64)
        return ragged_indices(self.ptr[rows], self.counts[rows])

    def take(self, rows: ArrayLike) -> Structures:
        """The structures in these rows (indices or a mask), in their order."""
        rows = _as_rows(rows)
        atoms = self.atoms_of(rows)
        return Structures(
            ids=self.ids[rows],
            ptr=pointer(self.counts[rows]),
            numbers=self.numbers[atoms],
            positions=self.positions[atoms],
            cells=self.cells[rows],
        )

    def moved(self, positions: Floats, cells: Floats) -> Structures:
        """The same atoms elsewhere: positions (N, 3) and cells (n, 3, 3) in Å."""
        return replace(self, positions=positions, cells=cells)

    @classmethod
    def from_atoms(cls, atoms: Sequence[Atoms], ids: ArrayLike | None = None) -> Structures:
        """Structures of ASE atoms; ids are 0, 1, 2, ... unless given."""
        return cls(
            ids=np.asarray(np.arange(len(atoms)) if ids is None else ids, dtype=np.int64),
            ptr=pointer([len(a) for a in atoms]),
            numbers=np.concatenate([np.zeros(0, np.int64), *(a.numbers for a in atoms)]).astype(np.int64),
            positions=np.concatenate([np.zeros((0, 3)), *(a.positions for a in atoms)]),
            cells=np.array([a.cell.array for a in atoms], dtype=float).reshape(-1, 3, 3),
        )

    def to_atoms(self) -> list[Atoms]:
        """ASE atoms, periodic in three directions."""
        from ase import Atoms

        return [
            Atoms(self.numbers[a:b], positions=self.positions[a:b], cell=cell, pbc=True)
            for a, b, cell in zip(self.ptr[:-1], self.ptr[1:], self.cells, strict=True)
        ]

    def to_pymatgen(self) -> list[Structure]:
        """Pymatgen structures."""
        from pymatgen.io.ase import AseAtomsAdaptor

        return [AseAtomsAdaptor.get_structure(atoms) for atoms in self.to_atoms()]


@dataclass(frozen=True)
class Labels:
    """What the reference method said of n structures, failures included.

    Energy (n,) eV, forces (N, 3) eV/Å, stress (n, 3, 3) eV/Å^3; NaN where the `Status` (n,) is not DONE, for a reason
    in words (n,). Cost (n,) is in core seconds, evaluations (n,) counts calls of the reference method, cycle (n,) says
    when it was asked for. The ids of the structures are those of the candidates that they came from, and negative
    for labels from elsewhere; several labels of one crystal have one id.
    """

    structures: Structures
    energy: Floats
    forces: Floats
    stress: Floats
    status: Strings
    reason: Strings
    cost: Floats
    evaluations: Ints
    cycle: Ints

    def __len__(self) -> int:
        return len(self.energy)

    def take(self, rows: ArrayLike) -> Labels:
        """The labels in these rows (indices or a mask), in their order."""
        return take(self, _as_rows(rows), self.structures)

    @property
    def strength(self) -> Floats:
        """Mean squared force, (eV/Å)^2, plus the square of the virial per atom, eV^2, (n,)."""
        structures = self.structures
        forces = np.add.reduceat((self.forces**2).sum(axis=1), structures.ptr[:-1]) / structures.counts
        virial = (structures.volumes / structures.counts)[:, None, None] * self.stress
        strength: Floats = forces + (virial**2).sum(axis=(1, 2))
        return strength

    @property
    def usable(self) -> Labels:
        """The labels that a potential may learn from."""
        return self.take(self.status == Status.DONE)


@dataclass(frozen=True)
class Prediction:
    """Mean and spread of an ensemble over n structures.

    Energy and its sigma (n,) eV; forces (N, 3) eV/Å and their sigma (N,), the root of the summed variances of the
    three components; stress (n, 3, 3) eV/Å^3 and its sigma (n,), likewise; features (n, d), the pooled scalar
    representations of all members side by side.
    """

    energy: Floats
    energy_sigma: Floats
    forces: Floats
    forces_sigma: Floats
    stress: Floats
    stress_sigma: Floats
    features: Floats

    def __len__(self) -> int:
        return len(self.energy)


def is_finite(prediction: Prediction, structures: Structures) -> Bools:
    """Whether energy, forces and stress of each structure are finite, (n,)."""
    finite: Bools = np.isfinite(prediction.energy) & np.isfinite(prediction.stress).all(axis=(1, 2))
    return finite & np.isfinite(structures.largest(np.abs(prediction.forces).max(axis=1)))


@dataclass(frozen=True)
class Relaxed:
    """Where n candidates came to rest: the last trustworthy frame, what was predicted for it, why it stopped there.

    Reason (n,) is one of `csp_al.interfaces.STOP_REASONS`; steps (n,) counts the evaluations on the way there.
    """

    structures: Structures
    prediction: Prediction
    reason: Strings
    steps: Ints

    def __len__(self) -> int:
        return len(self.steps)


@dataclass(frozen=True)
class Picks:
    """What is labelled next: perturbed structures, and where they stood before that."""

    structures: Structures
    origin: Structures


def pointer(counts: ArrayLike) -> Ints:
    """Start of each structure in flat arrays, and the end: (n,) counts to (n+1,)."""
    return np.concatenate([[0], np.cumsum(np.asarray(counts, dtype=np.int64))]).astype(np.int64)


def ragged_indices(starts: Ints, counts: Ints) -> Ints:
    """Indices start, start+1, ..., start+count-1 of every pair, one after the other."""
    ends = np.cumsum(counts)
    total = int(ends[-1]) if len(ends) else 0
    return np.arange(total) - np.repeat(ends - counts, counts) + np.repeat(starts, counts)


def take(batch: T, rows: Ints, structures: Structures) -> T:
    """Rows of a dataclass of arrays: per-atom arrays are told from per-structure ones by their name.

    ``structures`` is the whole batch that the rows refer to.
    """
    atoms = structures.atoms_of(rows)
    parts: dict[str, Any] = {}
    for field in fields(batch):  # type: ignore[arg-type]
        value = getattr(batch, field.name)
        if isinstance(value, Structures):
            parts[field.name] = value.take(rows)
        elif is_dataclass(value):
            parts[field.name] = take(value, rows, structures)
        else:
            parts[field.name] = value[atoms if field.name in PER_ATOM else rows]
    return type(batch)(**parts)


PER_ATOM = frozenset({"positions", "numbers", "forces", "forces_sigma"})


def scatter(batch: T, mask: NDArray[np.bool_], structures: Structures) -> T:
    """The reverse of `take` for a mask: the rows of a batch of floats where it holds, and NaN elsewhere."""
    parts: dict[str, Any] = {}
    for field in fields(batch):  # type: ignore[arg-type]
        rows = mask[structures.system] if field.name in PER_ATOM else mask
        value = getattr(batch, field.name)
        parts[field.name] = np.full((len(rows), *value.shape[1:]), np.nan)
        parts[field.name][rows] = value
    return type(batch)(**parts)


def choose(mask: NDArray[np.bool_], new: T, old: T, structures: Structures) -> T:
    """Of two batches of the same structures, the new one where the mask (n,) holds, and else the old one."""
    atoms = mask[structures.system]
    parts: dict[str, Any] = {}
    for field in fields(new):  # type: ignore[arg-type]
        ours, theirs = getattr(new, field.name), getattr(old, field.name)
        if field.name == "ptr":
            parts[field.name] = ours
            continue
        rows = atoms if field.name in PER_ATOM else mask
        parts[field.name] = np.where(rows.reshape(-1, *[1] * (ours.ndim - 1)), ours, theirs)
    return type(new)(**parts)


def concatenate(parts: Iterable[T]) -> T:
    """One batch of several, in their order; at least one part, all of one type."""
    batches = list(parts)
    first = batches[0]
    joined: dict[str, Any] = {}
    for field in fields(first):  # type: ignore[arg-type]
        values = [getattr(batch, field.name) for batch in batches]
        if is_dataclass(values[0]):
            joined[field.name] = concatenate(values)
        elif field.name == "ptr":
            joined[field.name] = pointer(np.concatenate([np.diff(ptr) for ptr in values]))
        else:
            joined[field.name] = np.concatenate(values)
    return type(first)(**joined)


def _as_rows(rows: ArrayLike) -> Ints:
    array = np.asarray(rows)
    if array.dtype == bool:
        return np.flatnonzero(array)
    return array.astype(np.int64)
