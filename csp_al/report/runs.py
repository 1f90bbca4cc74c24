"""Several run directories as long tables, for those who compare seeds or methods. Nothing is ever written.

runs = csp_al.open_runs("runs/si8-seed-*")
runs.cycles.groupby("run")["reference_evaluations"].max()
runs.leaders  # what each found, and which found the same
runs.comparison.crystals  # all that they found, matched
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from glob import glob
from pathlib import Path

import numpy as np
import pandas as pd

from csp_al.report.columns import CYCLES, LABELS, LEADERS, RESULTS, typed
from csp_al.report.comparison import Comparison, compare
from csp_al.report.tables import Run, open_run
from csp_al.select.identity import distinct
from csp_al.store.records import Columns
from csp_al.store.run_directory import SETTINGS, NoRunError
from csp_al.structures import Structures


def open_runs(*patterns: str | Path) -> Runs:
    """Open every run directory that fits a pattern such as `runs/si8-seed-*`, in the order of their numbers.

    What else fits is left out. Raises NoRunError for a pattern that none fits.
    """
    return Runs([open_run(path) for pattern in patterns for path in _fitting(pattern)])


def _fitting(pattern: str | Path) -> list[Path]:
    names = glob(str(pattern))  # noqa: PTH207 - that of a path takes no absolute pattern
    found = sorted((path for path in map(Path, names) if (path / SETTINGS).is_file()), key=_by_number)
    if not found:
        raise NoRunError(f"{pattern}: no run directory fits this pattern; 'csp-al run FILE --seeds 1-10' makes ten")
    return found


@dataclass(frozen=True)
class Runs:
    """Run directories, read anew at each look; each table has the columns of `Run`'s, after run (its path) and seed."""

    runs: Sequence[Run]

    @property
    def cycles(self) -> pd.DataFrame:
        """How each search went, see `Run.cycles`."""
        return self._joined(lambda run: run.cycles, CYCLES)

    @property
    def labels(self) -> pd.DataFrame:
        """Every label that was asked for, see `Run.labels`."""
        return self._joined(lambda run: run.labels, LABELS)

    @property
    def results(self) -> pd.DataFrame:
        """The winners: the ranked crystals of the runs that have ended, see `Run.results`."""
        return self._joined(lambda run: run.results, RESULTS)

    @property
    def leaders(self) -> pd.DataFrame:
        """The lowest crystal of each run that has ended, columns `LEADERS`.

        ``crystal`` has one number for what is one crystal, to within ``stop.tolerance`` of the first run: 1 the lowest.
        """
        ended = [run for run in self.runs if run.result_rows]
        rows = [
            {
                "run": str(run.path),
                "seed": run.campaign.seed,
                "strategy": run.campaign.select.strategy,
                "judgement": said.word if (said := run.judgement) else "",
                "reference_evaluations": run.reference_evaluations,
                **run.results.iloc[0][["id", "energy_per_atom", "space_group_symbol", "times_reached"]].to_dict(),
            }
            for run in ended
        ]
        return typed(pd.DataFrame(rows).assign(crystal=_crystals(ended)) if rows else None, LEADERS)

    @property
    def comparison(self) -> Comparison:
        """The runs side by side: their crystals matched, what they took, what differs in their settings.

        Raises ValueError for runs that cannot be compared (`csp_al.report.comparison.compare`).
        """
        return compare(self.runs)

    def _joined(self, table: Callable[[Run], pd.DataFrame], columns: Columns) -> pd.DataFrame:
        parts = [table(run).assign(run=str(run.path), seed=run.campaign.seed) for run in self.runs]
        filled = [part for part in parts if len(part)]
        return typed(
            pd.concat(filled, ignore_index=True) if filled else None, {"run": "str", "seed": "int64", **columns}
        )


def _crystals(runs: Sequence[Run]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """A number for the lowest crystal of each run, the same for the same crystal, 1 for the lowest."""
    lowest = Structures.from_atoms([run.winners[0] for run in runs])
    energies = np.array([run.result_rows[0]["energy_per_atom"] for run in runs])
    groups = distinct(lowest, energies, runs[0].campaign.stop.tolerance, len(runs))
    numbers = np.zeros(len(runs), np.int64)
    for number, group in enumerate(groups, start=1):
        numbers[group] = number
    return numbers


def _by_number(path: Path) -> list[tuple[int, str]]:
    """The parts of a name, so that seed-10 comes after seed-9."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", str(path))]
