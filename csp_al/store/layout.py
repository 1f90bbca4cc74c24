"""What each stage of a run directory holds: the names of its files, and how they are written and read.

    layout.RANKING.write(aside, table)
    table = layout.RANKING.read(stage_folder(run, "rank", cycle))

Whoever does a stage writes here, and whoever asks for it, the loop or a table, reads here.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, TypeVar

import pandas as pd

from csp_al import hdf5
from csp_al.files import DamagedError, write_json
from csp_al.interfaces import Verdict
from csp_al.store.run_directory import cycle_folder, cycles
from csp_al.store.stages import file_of, is_published, manifest
from csp_al.structures import Labels, Picks, Prediction, Relaxed, Structures

if TYPE_CHECKING:
    from ase import Atoms

T = TypeVar("T")
Outside = Literal["elsewhere", "pool", "check", "winners"]
InCycle = Literal["label", "train", "relax", "rank", "verdict", "select"]
TASKS: Final = "tasks.json"
"""Ids of the tasks of a stage, there as soon as they are asked for."""


@dataclass(frozen=True)
class Content(Generic[T]):
    """A file of a stage."""

    name: str
    put: Callable[[Path, T], None]
    get: Callable[[Path], T]

    def write(self, folder: Path, content: T) -> None:
        """Write it into the folder of a stage that is not yet published. Raises OSError."""
        self.put(folder / self.name, content)

    def read(self, folder: Path) -> T:
        """Read it from a published stage. Raises DamagedError where it is not what was written, or not of the stage."""
        path = file_of(folder, self.name)
        try:
            return self.get(path)
        except FileNotFoundError as error:
            raise DamagedError(path, "the file is missing") from error
        except (ValueError, TypeError, LookupError) as error:
            raise DamagedError(path, f"not readable ({type(error).__name__})") from error

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


def _table(name: str, **keywords: Any) -> Content[pd.DataFrame]:
    def read(path: Path) -> pd.DataFrame:
        return pd.read_csv(path, float_precision="round_trip", **keywords)

    return Content(name, lambda path, table: table.to_csv(path, index=False), read)


def _json(name: str) -> Content[Any]:
    return Content(name, write_json, lambda path: json.loads(path.read_text(encoding="utf-8")))


def _read_verdict(path: Path) -> Verdict:
    return Verdict(**json.loads(path.read_text(encoding="utf-8")))


def _write_crystals(path: Path, crystals: list[Atoms]) -> None:
    from ase.io import write

    write(path, crystals)


def _read_crystals(path: Path) -> list[Atoms]:
    from ase.io import read

    crystals: list[Atoms] = read(path, index=":")
    return crystals


# elsewhere, and of every cycle: label
LABELS: Final = _arrays("labels.h5", Labels)
# elsewhere
SOURCES: Final = _table("table.csv", keep_default_na=False)
"""Id, source, place, known, status, reason of each label from elsewhere."""
# pool
CANDIDATES: Final = _arrays("structures.h5", Structures)
ORIGINS: Final = _table("table.csv")
"""Where each candidate is from, see `csp_al.generate.generate_pool`."""
# check
CHECK: Final = _json("check.json")
"""``evaluations`` beside labels, and ``slopes``."""
# label
LABEL_TASKS: Final = _table("labels.csv")
"""Candidate, task, status, reason, cost_s of each label, and its source where it is from elsewhere."""
WALK_FORWARD: Final = _json("walk_forward.json")
"""How well the labels had been predicted; not in the first cycle."""
CHECKS: Final = _json("checks.json")
"""How far labels from elsewhere were from what the reference says."""
# train, beside what the ensemble writes
LEARNING_CURVE: Final = _table("learning_curve.csv")
TRAINING: Final = _json("training.json")
# relax
RELAXED: Final = _arrays("relaxed.h5", Relaxed)
# rank
RANKING: Final = _table("ranking.csv")
# verdict
VERDICT: Final = Content("verdict.json", lambda path, verdict: write_json(path, asdict(verdict)), _read_verdict)
# select
PICKS: Final = _arrays("picks.h5", Picks)
PREDICTED: Final = _arrays("predicted.h5", Prediction)
# winners
RESULTS: Final = _json("results.json")
RESULT_TABLE: Final = _table("table.csv")
SUMMARY: Final = _json("summary.json")
CRYSTALS: Final = Content("winners.extxyz", _write_crystals, _read_crystals)
