"""Neighbour graphs of batches of crystals, from matscipy's neighbour list.

matscipy was taken because schnetpack brings it along, and because it is right where crystals in a search are
unkind: cells smaller than the cutoff, and strongly skewed ones (tested against ASE's list).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from matscipy.neighbours import neighbour_list

from csp_al.potential.architecture import Graph
from csp_al.structures import Floats, Ints, Structures, pointer, ragged_indices


@dataclass(frozen=True)
class Edges:
    """Neighbour pairs of a batch: pointer (n+1,), source and target atoms (E,), vectors (E, 3) Å."""

    ptr: Ints
    source: Ints
    target: Ints
    vectors: Floats


def find_edges(structures: Structures, cutoff: float) -> Edges:
    """All pairs within the cutoff (Å), periodic images and self-images included, grouped by structure."""
    parts = [
        neighbour_list("ijD", positions=structures.positions[a:b], cell=cell, pbc=np.ones(3, dtype=bool), cutoff=cutoff)
        for a, b, cell in zip(structures.ptr[:-1], structures.ptr[1:], structures.cells, strict=True)
    ]
    if not parts:
        return Edges(pointer([]), np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 3)))
    starts = structures.ptr[:-1]
    return Edges(
        ptr=pointer([len(source) for source, _, _ in parts]),
        source=np.concatenate([source + start for (source, _, _), start in zip(parts, starts, strict=True)]),
        target=np.concatenate([target + start for (_, target, _), start in zip(parts, starts, strict=True)]),
        vectors=np.concatenate([vectors for _, _, vectors in parts]),
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
