"""The pool: all candidates of a campaign, each from its own random stream, and a table that says where each is from.

structures, table = generate_pool(Pool(formula="Si8", size=100), seed=1)
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from math import floor
from multiprocessing import get_context, parent_process
from pathlib import Path

import numpy as np
import pandas as pd
import spglib
from ase import Atoms
from numpy.typing import NDArray

from csp_al.campaign.constraints import Constraints, conflicts, resolve
from csp_al.campaign.models import Pool
from csp_al.campaign.sources import SourceSection
from csp_al.generate.random_cells import random_cell
from csp_al.generate.seeds import read_seeds
from csp_al.generate.sources import allot, candidate_of
from csp_al.importing import beside
from csp_al.interfaces import UnplaceableError
from csp_al.kinds import SOURCES, find
from csp_al.structures import Ints, Structures, concatenate

SYMPREC = 0.01
"""Å, within which spglib takes atoms to be related by symmetry."""
CHUNK = 20
"""Candidates made in one call of a worker process."""
PER_PROCESS = 1000
"""Candidates that are worth a process of their own: 4 s of work (4 ms each), of which it takes 3 s to start one."""


@dataclass(frozen=True)
class Candidate:
    """A structure, where it is from ("seed", or a kind of source), the group asked for, and what there is to say."""

    atoms: Atoms
    origin: str
    asked_group: int | None = None
    note: str = ""


@dataclass(frozen=True)
class Turn:
    """The candidate of an index, and how it is to be made: by a source, or else with a space group or without."""

    index: int
    source: SourceSection | None
    symmetric: bool


def generate_pool(
    pool: Pool,
    seed: int,
    workers: int = 1,
    report: Callable[[int, int], None] = lambda done, total: None,  # noqa: ARG005
    folder: Path = Path(),
    first: int = 0,
) -> tuple[Structures, pd.DataFrame]:
    """``pool.size`` generated candidates, ids ``first``, ``first`` + 1, ..., and after them the seeds from files.

    Candidate i follows from ``default_rng([seed, 0, 0, i])`` alone, whatever the number of worker processes;
    ``report(done, all)`` is called now and then. Names of seeds are relative to the folder, in which modules of sources
    are looked for first. Columns of the table, a row for each structure: id, origin (seed, or a kind of source such as
    random), asked_group (number, missing where none was), space_group and space_group_number (spglib, `SYMPREC`),
    n_atoms, volume_per_atom (Å^3), note.

    Raises UnplaceableError, which names the candidate and the constraint, and ValueError for unfit seeds.
    """
    impossible = conflicts(pool)
    if impossible:
        raise UnplaceableError("; ".join(map(str, impossible)))
    constraints = resolve(pool)
    seeds = [Candidate(atoms, "seed", note=atoms.info["seed"]) for atoms in read_seeds(pool.seeds, constraints, folder)]
    make = partial(_candidates, constraints, seed)
    turns = _turns(pool, first)
    chunks = [turns[start : start + CHUNK] for start in range(0, pool.size, CHUNK)]
    made: dict[int, list[Candidate]] = {}
    begin = partial(_begin, folder, [source.kind for source in pool.sources])
    for start, candidates in _each(make, chunks, workers, begin):
        made[start] = candidates
        report(sum(map(len, made.values())), pool.size)
    candidates = [candidate for start in sorted(made) for candidate in made[start]] + seeds
    ids = np.arange(first, first + len(candidates))
    return Structures.from_atoms([c.atoms for c in candidates], ids), origins(candidates, ids)


def generate_candidates(
    pools: Sequence[Pool], seed: int, report: Callable[[int, int], None], folder: Path, workers: int = 1
) -> tuple[Structures, pd.DataFrame]:
    """The candidates of several pools, numbered through, as of `generate_pool`; the last pool is the one searched.

    Where there are several the table has a column more, ``searched``. Up to so many workers are used as pay.
    """
    structures, table = generate_pool(pools[0], seed, _paying(pools[0], workers), report, folder)
    for pool in pools[1:]:
        more, rows = generate_pool(pool, seed, _paying(pool, workers), report, folder, first=len(structures))
        structures = concatenate([structures, more])
        table = pd.concat([table.assign(searched=False), rows.assign(searched=True)], ignore_index=True)
    return structures, table


def is_searched(table: pd.DataFrame) -> NDArray[np.bool_]:
    """Which candidates of a table of `generate_candidates` are searched, (n,); the others are labelled alone."""
    return table["searched"].to_numpy(bool) if "searched" in table else np.ones(len(table), dtype=bool)


def is_symmetric(index: int, fraction: float) -> bool:
    """Whether the candidate of this index gets a space group: the share is spread evenly over the indices."""
    return floor((index + 1) * fraction + 1e-9) > floor(index * fraction + 1e-9)


def _turns(pool: Pool, first: int) -> list[Turn]:
    """The turn of each generated candidate; space groups are spread over those that no source makes."""
    turns, others = [], first
    for index, choice in enumerate(allot([source.share for source in pool.sources], pool.size), start=first):
        if choice is None:
            turns.append(Turn(index, None, is_symmetric(others, pool.symmetric_fraction)))
            others += 1
        else:
            turns.append(Turn(index, pool.sources[choice], symmetric=False))
    return turns


def _each(
    make: Callable[[list[Turn]], list[Candidate]], chunks: list[list[Turn]], workers: int, begin: Callable[[], None]
) -> Iterator[tuple[int, list[Candidate]]]:
    """Each chunk's start and candidates, as they come; ``begin`` is what a worker process does first."""
    if workers <= 1 or len(chunks) <= 1:
        for chunk in chunks:
            yield chunk[0].index, make(chunk)
        return
    # spawn: a fork of a process that has threads, torch's for instance, may hang
    context = get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(chunks)), context, initializer=begin) as executor:
        starts: dict[Future[list[Candidate]], int] = {executor.submit(make, chunk): chunk[0].index for chunk in chunks}
        try:
            for future in as_completed(starts):
                yield starts[future], future.result()
        except BaseException:
            executor.shutdown(wait=False, cancel_futures=True)
            raise


def _paying(pool: Pool, workers: int) -> int:
    return min(workers, pool.size // PER_PROCESS)


def _begin(folder: Path, kinds: list[str]) -> None:
    """Sources are what they are in the parent, whatever else Python would find by the names of their modules."""
    _end_with_parent()
    with beside(folder):
        for kind in kinds:
            find(SOURCES, kind)


def _end_with_parent() -> None:
    """Ctrl-C is for the parent, and this process ends when that ends, however it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    parent = parent_process()
    assert parent is not None  # this is a worker
    parent.join()
    os._exit(1)


def _candidates(constraints: Constraints, seed: int, turns: list[Turn]) -> list[Candidate]:
    candidates = []
    for turn in turns:
        rng = np.random.default_rng([seed, 0, 0, turn.index])
        try:
            made = _made if turn.source is None else _made_by_source
            candidates.append(made(turn, constraints, rng))
        except UnplaceableError as error:
            msg = f"candidate {turn.index}: {error}"
            raise UnplaceableError(msg) from error
    return candidates


def _made(turn: Turn, constraints: Constraints, rng: np.random.Generator) -> Candidate:
    note = ""
    if turn.symmetric:
        from csp_al.generate.symmetric_cells import symmetric_cell

        try:
            atoms = symmetric_cell(constraints, rng)
        except UnplaceableError as error:
            note = f"P1 instead of symmetric: {error}"
        else:
            return Candidate(atoms, "symmetric", atoms.info["asked_group"])
    return Candidate(random_cell(constraints, rng), "random", note=note)


def _made_by_source(turn: Turn, constraints: Constraints, rng: np.random.Generator) -> Candidate:
    assert turn.source is not None
    try:
        atoms = candidate_of(turn.source, constraints, rng)
    except ValueError as error:
        msg = f"candidate {turn.index}: {error}"
        raise ValueError(msg) from error
    return Candidate(atoms, turn.source.kind, atoms.info.get("asked_group"), str(atoms.info.get("note", "")))


def origins(candidates: list[Candidate], ids: Ints) -> pd.DataFrame:
    """Where each candidate is from, a row for each, columns as `generate_pool` says."""
    groups = [_space_group(candidate.atoms) for candidate in candidates]
    return pd.DataFrame(
        {
            "id": ids,
            "origin": [c.origin for c in candidates],
            "asked_group": pd.array([c.asked_group for c in candidates], dtype="Int64"),
            "space_group": [symbol for symbol, _ in groups],
            "space_group_number": pd.array([number for _, number in groups], dtype="Int64"),
            "n_atoms": [len(c.atoms) for c in candidates],
            "volume_per_atom": [c.atoms.cell.volume / len(c.atoms) for c in candidates],
            "note": [c.note for c in candidates],
        }
    )


def _space_group(atoms: Atoms) -> tuple[str, int | None]:
    """Symbol and number by spglib; nothing where it finds none."""
    found = spglib.get_symmetry_dataset((atoms.cell.array, atoms.get_scaled_positions(), atoms.numbers), SYMPREC)
    return ("", None) if found is None else (str(found.international), int(found.number))
