"""Neighbour graphs of batches of crystals, from matscipy's neighbour list.

matscipy was taken because schnetpack brings it along, and because it is right where crystals in a search are
unkind: cells smaller than the cutoff, and strongly skewed ones (tested against ASE's list). vesin is 2.5 times as fast
(0.14 against 0.35 ms for Si16 and 6 Å); with a skin, building lists is a tenth of a relaxation's time.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from matscipy.neighbours import neighbour_list
from numpy.typing import NDArray

from csp_al.potential.networks.member import Graph
from csp_al.structures import Floats, Ints, Structures, pointer, ragged_indices

SKIN = 0.5
"""Å; relaxations of random cells take as long with 0.7 and 1.0."""

REMEMBERED = 4096
"""Lists, at most; those not asked for longest are forgotten."""


@dataclass(frozen=True)
class Edges:
    """Neighbours in a batch, each pair once: pointer (n+1,), source and target atoms (E,), vectors (E, 3) Å."""

    ptr: Ints
    source: Ints
    target: Ints
    vectors: Floats


def find_edges(structures: Structures, cutoff: float) -> Edges:
    """All pairs within the cutoff (Å), periodic images and self-images included, grouped by structure."""
    return NeighbourLists(cutoff, skin=0.0).edges(structures)


class NeighbourLists:
    """Neighbours within a cutoff (Å) of structures that move little from call to call.

    The list of a structure, told by its id, reaches further than the cutoff by a skin (Å) and is built again only when
    an atom outside it may have come within the cutoff. Which lists are remembered changes nothing but the time.
    """

    def __init__(self, cutoff: float, skin: float = SKIN) -> None:
        self.cutoff = cutoff
        self.skin = skin
        self._lists: dict[int, _List] = {}

    def edges(self, structures: Structures) -> Edges:
        """All pairs within the cutoff, periodic images and self-images included, grouped by structure."""
        if not len(structures):
            return Edges(pointer([]), np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 3)))
        lists = self._lists_of(structures)
        counts = np.array([len(each.source) for each in lists])
        moves = np.repeat(structures.ptr[:-1], counts)
        source = np.concatenate([each.source for each in lists]) + moves
        target = np.concatenate([each.target for each in lists]) + moves
        shifts = np.concatenate([each.shifts for each in lists])
        owner = np.repeat(np.arange(len(lists)), counts)
        vectors = structures.positions[target] - structures.positions[source]
        vectors += np.einsum("ei,eij->ej", shifts, structures.cells[owner])
        near = np.einsum("ei,ei->e", vectors, vectors) < self.cutoff**2
        kept = np.bincount(owner[near], minlength=len(lists))
        return Edges(pointer(kept), source[near], target[near], vectors[near])

    def _lists_of(self, structures: Structures) -> list[_List]:
        known = [self._lists.pop(int(identity), None) for identity in structures.ids]
        valid = self._still_valid(structures, known)
        lists = [
            old if old is not None and good else _build(structures, row, self.cutoff + self.skin)
            for row, (old, good) in enumerate(zip(known, valid, strict=True))
        ]
        if self.skin:
            self._lists |= {int(identity): each for identity, each in zip(structures.ids, lists, strict=True)}
            while len(self._lists) > max(REMEMBERED, len(lists)):
                del self._lists[next(iter(self._lists))]
        return lists

    def _still_valid(self, structures: Structures, known: list[_List | None]) -> NDArray[np.bool_]:
        """Whether no pair beyond the skin can have come within the cutoff, (n,).

        A pair at distance r when the list was built, whose cell has since been deformed by F and whose atoms have moved
        by at most d besides, is now at least r sigma - 2 d apart, with sigma the least singular value of F.
        """
        valid = np.array(
            [old is not None and len(old.positions) == n for old, n in zip(known, structures.counts, strict=True)]
        )
        if valid.any():
            same, old = structures.take(valid), [each for each, good in zip(known, valid, strict=True) if each and good]
            deformation = np.stack([each.inverse for each in old]) @ same.cells
            expected = np.concatenate([each.positions for each in old])
            expected = np.einsum("ni,nij->nj", expected, deformation[same.system])
            far = same.largest(np.linalg.norm(same.positions - expected, axis=1))
            least = np.linalg.svd(deformation, compute_uv=False)[:, -1]
            valid[valid] = (self.cutoff + self.skin) * least - 2 * far >= self.cutoff
        return valid


@dataclass(frozen=True)
class _List:
    """Where a structure stood when its list was built, the inverse of its cell, and its pairs: the atoms and shifts."""

    positions: Floats
    inverse: Floats
    source: NDArray[np.int32]
    target: NDArray[np.int32]
    shifts: NDArray[np.int32]


def _build(structures: Structures, row: int, cutoff: float) -> _List:
    """The list of one structure; of a pair and its reverse the first."""
    positions = structures.positions[structures.ptr[row] : structures.ptr[row + 1]]
    cell = structures.cells[row]
    source, target, shifts = neighbour_list(
        "ijS", positions=positions, cell=cell, pbc=np.ones(3, dtype=bool), cutoff=cutoff
    )
    forward = np.sign(shifts) @ [4, 2, 1] > 0  # the first component that is not zero is positive
    once = (source < target) | ((source == target) & forward)
    return _List(
        positions,
        np.linalg.inv(cell),
        source[once].astype(np.int32),
        target[once].astype(np.int32),
        shifts[once].astype(np.int32),
    )


def build_graph(
    structures: Structures, edges: Edges, rows: Ints, device: torch.device, dtype: torch.dtype = torch.float32
) -> Graph:
    """The graph of the structures in these rows, in their order."""
    counts = structures.counts[rows]
    atoms = structures.atoms_of(rows)
    edge_counts = np.diff(edges.ptr)[rows]
    chosen = ragged_indices(edges.ptr[rows], edge_counts)
    move = np.repeat(pointer(counts)[:-1] - structures.ptr[rows], edge_counts)
    integers = {
        "numbers": structures.numbers[atoms],
        "system": np.repeat(np.arange(len(rows)), counts),
        "counts": counts,
        "source": edges.source[chosen] + move,
        "target": edges.target[chosen] + move,
        "pointer": pointer(edge_counts),
    }
    return Graph(
        **{name: torch.from_numpy(array).to(device) for name, array in integers.items()},
        volumes=torch.from_numpy(structures.volumes[rows]).to(device, dtype),
        vectors=torch.from_numpy(edges.vectors[chosen]).to(device, dtype),
    )


def batches_by_edges(edges: Edges, most: int) -> list[Ints]:
    """Rows in consecutive batches of at most so many edges; a structure with more has a batch of its own."""
    batches: list[Ints] = []
    start, sizes = 0, np.diff(edges.ptr)
    total = 0
    for row, size in enumerate(sizes):
        if row > start and total + size > most:
            batches.append(np.arange(start, row))
            start, total = row, 0
        total += int(size)
    if len(sizes):
        batches.append(np.arange(start, len(sizes)))
    return batches
