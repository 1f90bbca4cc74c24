"""What each stage of a run directory holds: the names of its files, and how they are written and read.

    layout.RANKING.write(aside, table)
    table = layout.RANKING.read(stage_folder(run, "rank", cycle))

Whoever does a stage writes here, and whoever asks for it, the loop or a table, reads here.
"""

from __future__ import annotations

from collections.abc import Callable, Sized
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, TypeVar, cast

import numpy as np
import pandas as pd
from pydantic import TypeAdapter

from csp_al import hdf5
from csp_al.asked import Asked
from csp_al.files import DamagedError, open_plain, read_json, read_plain, write_json
from csp_al.interfaces import Verdict
from csp_al.store import records
from csp_al.store.run_directory import cycle_folder, cycles
from csp_al.store.stages import file_of, is_published, manifest
from csp_al.structures import Ints, Labels, Picks, Prediction, Relaxed, Strings, Structures

if TYPE_CHECKING:
    from ase import Atoms

T = TypeVar("T")
Outside = Literal["elsewhere", "pool", "foundation", "check", "winners"]
InCycle = Literal["label", "train", "relax", "direct", "grow", "rank", "verdict", "select"]
_KNOWN: Final = ("id", "rank", "space_group")
WIDEST: Final = 1000
"""Bytes of the first line of a table at most: pandas takes minutes for names of columns by the thousand."""
MOST_CYCLES: Final = 2**31
TASKS: Final = "tasks.json"
"""Ids of the tasks of a stage, there as soon as they are asked for."""


@dataclass(frozen=True)
class Ids:
    """Those of structures, (n,)."""

    ids: Ints


@dataclass(frozen=True)
class Outcomes:
    """What is counted of n labels, each (n,): a part of `Labels`. Raises ValueError for arrays of other shapes."""

    structures: Ids
    status: Strings
    evaluations: Ints

    def __post_init__(self) -> None:
        shapes = {array.shape for array in (self.structures.ids, self.status, self.evaluations)}
        if shapes != {(len(self),)}:
            raise ValueError(f"shapes {shapes}")

    def __len__(self) -> int:
        return self.status.size


@dataclass(frozen=True)
class Content(Generic[T]):
    """A file of a stage."""

    name: str
    put: Callable[[Path, T], None]
    get: Callable[[Path], T]

    def write(self, folder: Path, content: T) -> None:
        """Write it into the folder of a stage that is not yet published. Raises OSError."""
        self.put(folder / self.name, content)

    def read(self, folder: Path, rows: int | None = None) -> T:
        """Read it from a published stage; ``rows`` is how many there must be, where that is known.

        Raises DamagedError where it is not what was written, or not of the stage.
        """
        path = file_of(folder, self.name)
        try:
            content = self.get(path)
        except FileNotFoundError as error:
            raise DamagedError(path, "the file is missing") from error
        except (ValueError, TypeError, LookupError, AttributeError, OverflowError) as error:
            raise DamagedError(path, f"not readable ({type(error).__name__})") from error
        if rows is not None and (found := len(cast("Sized", content))) != rows:
            raise DamagedError(path, f"{found} rows, where there must be {rows}")
        return content

    def is_in(self, folder: Path) -> bool:
        """Whether it was published with the stage."""
        return self.name in manifest(folder)["files"]


def stage_folder(run: Path, stage: Outside | InCycle, cycle: int | None = None) -> Path:
    """Folder of a stage, whether it is there or not."""
    return run / stage if cycle is None else cycle_folder(run, cycle) / stage


def folders_of(run: Path, stage: str) -> dict[int, Path]:
    """Cycle and folder of every published stage of this name, in order."""
    folders = {cycle: cycle_folder(run, cycle) / stage for cycle in cycles(run)}
    return {cycle: folder for cycle, folder in folders.items() if is_published(folder)}


def _arrays(name: str, kind: type[T]) -> Content[T]:
    return Content(name, hdf5.save, lambda path: hdf5.load(path, kind))


def _table(name: str, columns: records.Columns, optional: records.Columns, **keywords: Any) -> Content[pd.DataFrame]:
    types = columns | optional

    def read(path: Path) -> pd.DataFrame:
        with open_plain(path) as file:
            if not file.readline(WIDEST).endswith(b"\n"):
                raise DamagedError(path, "no names of columns in its first line")
            file.seek(0)
            table = pd.read_csv(
                file, dtype=types, usecols=types.__contains__, index_col=False, float_precision="round_trip", **keywords
            )
        if missing := [name for name in columns if name not in table]:
            raise DamagedError(path, f"no column {missing[0]}")
        return table

    return Content(name, lambda path, table: table.to_csv(path, index=False), read)


def _json(name: str, record: TypeAdapter[Any]) -> Content[Any]:
    return Content(name, write_json, lambda path: read_json(path, record))


def _read_verdict(path: Path) -> Verdict:
    said = read_json(path, records.VERDICT)
    if len(said.top) != len(said.energies):
        raise DamagedError(path, f"{len(said.top)} crystals lead, with {len(said.energies)} energies")
    if not 0 <= said.stable_cycles < MOST_CYCLES:
        raise DamagedError(path, "stable_cycles is no number of cycles")
    return said


def _write_crystals(path: Path, crystals: list[Atoms]) -> None:
    from ase.io import write

    write(path, crystals)


def _read_crystals(path: Path) -> list[Atoms]:
    """Atoms, energy, forces, stress and what `_KNOWN` names; whatever else a file holds stays there."""
    from ase.io.extxyz import key_val_str_to_dict

    from csp_al.structure_files import extxyz_frames

    return [_crystal(frame, path) for frame in extxyz_frames(read_plain(path).decode(), key_val_str_to_dict)]


def _crystal(frame: Atoms | str, path: Path) -> Atoms:
    from ase import Atoms
    from ase.calculators.singlepoint import SinglePointCalculator

    if isinstance(frame, str):
        raise DamagedError(path, frame)
    crystal = Atoms(frame.numbers, positions=frame.positions, cell=frame.cell, pbc=True)
    found = {name: frame.calc.results[name] for name in ("energy", "forces", "stress")}
    if not all(np.isfinite(one).all() for one in (frame.positions, frame.cell.array, *found.values())):
        raise DamagedError(path, "numbers that are not finite")
    if crystal.cell.rank < 3:
        raise DamagedError(path, "a cell without volume")
    crystal.calc = SinglePointCalculator(crystal, **found)
    crystal.info |= {key: int(frame.info[key]) for key in _KNOWN}
    return crystal


# elsewhere, and of every cycle: label
LABELS: Final = _arrays("labels.h5", Labels)
OUTCOMES: Final = _arrays("labels.h5", Outcomes)
"""What is counted of them, without reading the rest."""
# elsewhere
SOURCES: Final = _table("table.csv", records.SOURCES, {}, keep_default_na=False)
"""Id, source, place, known, status, reason of each label from elsewhere."""
# pool
CANDIDATES: Final = _arrays("structures.h5", Structures)
ORIGINS: Final = _table("table.csv", records.ORIGINS, records.BRED | {"searched": "bool"})
"""Where each candidate is from, see `csp_al.generate.generate_pool` and `csp_al.loop.grow`."""
# check
CHECK: Final = _json("check.json", records.CHECK)
"""``evaluations`` beside labels, and ``slopes``."""
# label
LABEL_TASKS: Final = _table("labels.csv", records.LABEL_TASKS, {"source": "str"})
"""Candidate, task, status, reason, cost_s of each label, and its source where it is from elsewhere."""
CAME_IN: Final = _arrays("came_in.h5", Asked)
"""What each label was asked for, row by row; where some may be out while the loop goes on."""
OUT: Final = _arrays("out.h5", Asked)
"""Those that were still out then."""
OUT_TASKS: Final = _json("out.json", records.NAMES)
"""The tasks of `OUT`, row by row."""
WALK_FORWARD: Final = _json("walk_forward.json", records.WALK_FORWARD)
"""How well the labels had been predicted; not in the first cycle."""
BELOW: Final = _arrays("foundation.h5", Prediction)
"""What the foundation says of the labels, where there is one."""
FOUNDATION: Final = _json("foundation.json", records.FOUNDATION)
"""How well the labels had been predicted by it, and by the ensemble, see `csp_al.select.walk_forward.compared`."""
CHECKS: Final = _json("checks.json", records.ANYTHING)
"""How far labels from elsewhere were from what the reference says."""
# train, beside what the ensemble writes
LEARNING_CURVE: Final = _table("learning_curve.csv", records.LEARNING_CURVE, {})
TRAINING: Final = _json("training.json", records.ANYTHING)
ON_FOUNDATION: Final = "on_foundation"
"""Key of it: whether the ensemble adds to the foundation; there is none where that was not asked, or no longer."""
# relax, and foundation
RELAXED: Final = _arrays("relaxed.h5", Relaxed)
LOWER_ENDS: Final = _arrays("lower_ends.h5", Relaxed)
"""Of candidates that do not stand at the lowest of their ends, see `csp_al.select.ends`."""
# direct, beside the relaxer
LEARNT: Final = _json("learnt.json", records.LEARNT)
RELAXER: Final = "relaxer"
"""Folder of the direct relaxer, if there were pairs enough."""
# grow, beside the offspring that stay
BRED: Final = _arrays("bred.h5", Structures)
BRED_ENDS: Final = _arrays("bred_relaxed.h5", Relaxed)
"""All offspring and where they came to rest, for a direct relaxer to learn from."""
# relax, and grow
STARTS: Final = _json("starts.json", records.STARTS)
"""What starts from a direct relaxer were worth, see `csp_al.direct.starts`."""
# rank, and foundation
RANKING: Final = _table("ranking.csv", records.RANKING, {"lowest_basin": "int64"})
# verdict
VERDICT: Final = Content("verdict.json", lambda path, verdict: write_json(path, asdict(verdict)), _read_verdict)
# select
PICKS: Final = _arrays("picks.h5", Picks)
PREDICTED: Final = _arrays("predicted.h5", Prediction)
# winners
BEGUN: Final = _arrays("begun.h5", Structures)
"""What the reference relaxed in the end, as it was before, lowest predicted first; older runs have none."""
RESULTS: Final = _json("results.json", records.RESULTS)
RESULT_TABLE: Final = _table("table.csv", {}, {})
SUMMARY: Final = _json("summary.json", records.SUMMARY)
CRYSTALS: Final = Content("winners.extxyz", _write_crystals, _read_crystals)
