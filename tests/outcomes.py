"""What a run directory came to, as far as it must not depend on interruptions."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd

from csp_al.engine.tasks import read_result
from csp_al.report.tables import open_run
from csp_al.store.run_directory import published_stages
from csp_al.store.stages import manifest
from csp_al.structures import Status

VARYING = ("labels.csv", "labels.h5", "summary.json", "check.json")
"""Files that hold costs, or counts that an interruption adds to; without those they are compared by `_constant`."""


def outcome(run: Path) -> dict[str, object]:
    """Checksums of the files of all stages, and what else of labels, winners and tasks must be the same."""
    files: dict[str, object] = {}
    for cycle, stage, folder in published_stages(run):
        for name, checksum in manifest(folder)["files"].items():
            files[f"{cycle}/{stage}/{name}"] = _constant(folder / name) if name in VARYING else checksum
    labels = open_run(run).all_labels
    assert labels is not None
    numbers = {name: getattr(labels, name).tobytes() for name in ("energy", "forces", "stress", "status", "reason")}
    return files | numbers | {"results": sorted(path.parent.name for path in run.glob("tasks/*/result.json"))}


def computed_twice(journal: Path) -> list[str]:
    """Structures that stand in a journal of `counting_emt` more than once."""
    counted = Counter(journal.read_text().split())
    return [structure for structure, times in counted.items() if times > 1]


def cut_off(run: Path) -> int:
    """Attempts at calculations that were ended with their worker, each in its one evaluation under way."""
    results = filter(None, (read_result(run / "tasks", path.parent.name) for path in run.glob("tasks/*/result.json")))
    return sum(attempt.status is Status.INTERRUPTED for result in results for attempt in result.attempts)


def _constant(path: Path) -> Any:
    if path.suffix == ".csv":
        return pd.read_csv(path).drop(columns="cost_s").to_csv()
    if path.suffix == ".json":
        content = json.loads(path.read_text(encoding="utf-8"))
        return {key: value for key, value in content.items() if key != "evaluations"}
    return None  # labels.h5, whose arrays are compared one by one
