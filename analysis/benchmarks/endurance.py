"""What a long campaign holds on to: memory, open files and processes, cycle after cycle.

    python analysis/benchmarks/endurance.py [--cycles 50] [--candidates 2000]

Runs a campaign of Al4 by EMT, which costs nothing, with a small ensemble, and looks at the driver and all that it has
started (Linux, /proc) at the end of each cycle. Growth is compared within the run: the last tenth of the cycles against
the second tenth, when everything has been loaded.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

CAMPAIGN = """
name: endurance
pool: {{formula: Al4, size: {candidates}, min_distance: {{Al-Al: 2.2}}, volume_per_atom: [13, 23]}}
reference: {{kind: ase, calculator: ase.calculators.emt.EMT, time_limit: 60}}
potential: {{members: 2, features: 8, interactions: 1, cutoff: 4.0, steps: 50}}
relax: {{max_steps: 100, uncertainty: 3}}
select: {{per_cycle: 5, clusters: 50}}
stop: {{top_k: 3, patience: {cycles}, max_cycles: {cycles}}}
budget: {{labels: {labels}}}
finish: {{max_steps: 20}}
"""
MIB = 2**20


class Look(NamedTuple):
    """What the driver and its children hold: resident memory (bytes), open files, processes; disk of the run."""

    memory: int
    children: int
    files: int
    processes: int


def look(pid: int) -> Look:
    """At a living driver."""
    family = [pid, *descendants(pid)]
    sizes = [resident(one) for one in family]
    files = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    return Look(sizes[0], sum(sizes[1:]), files, len(family))


def descendants(pid: int) -> list[int]:
    """Every process below this one."""
    found = [int(child) for file in Path(f"/proc/{pid}/task").glob("*/children") for child in file.read_text().split()]
    return [one for child in found for one in (child, *descendants(child))]


def resident(pid: int) -> int:
    """Bytes of memory; 0 for one that has just ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmRSS")), 0)


def judged(log: Path) -> int:
    """Cycles that are over."""
    return log.read_text(encoding="utf-8").count('"event": "cycle"') if log.exists() else 0


def watch(folder: Path, cycles: int, candidates: int) -> list[Look]:
    """Run the campaign and look at it once in each cycle."""
    text = CAMPAIGN.format(cycles=cycles, candidates=candidates, labels=5 * cycles + 5)
    (folder / "endurance.yaml").write_text(text, encoding="utf-8")
    command = [sys.executable, "-c", "from csp_al.cli import app; app()", "run", "endurance.yaml", "--slots", "2"]
    looks: list[Look] = []
    with (folder / "output.txt").open("wb") as output:
        driver = subprocess.Popen(command, cwd=folder, stdout=output, stderr=subprocess.STDOUT)
        while driver.poll() is None:
            if judged(folder / "runs" / "endurance" / "log.jsonl") > len(looks):
                looks.append(look(driver.pid))
                print(json.dumps({"cycle": len(looks) - 1, **looks[-1]._asdict()}), file=sys.stderr, flush=True)
            time.sleep(0.2)
    if driver.returncode:
        raise SystemExit((folder / "output.txt").read_text(encoding="utf-8"))
    return looks


def table(looks: list[Look]) -> str:
    """Early and late, and the worst ever."""
    tenth = max(1, len(looks) // 10)
    early, late, worst = (
        np.median(looks[tenth : 2 * tenth], axis=0),
        np.median(looks[-tenth:], axis=0),
        np.max(looks, axis=0),
    )
    lines = ["| | driver (MiB) | workers (MiB) | open files | processes |", "|---|---|---|---|---|"]
    for name, row in (("early", early), ("late", late), ("worst", worst)):
        lines.append(f"| {name} | {row[0] / MIB:.0f} | {row[1] / MIB:.0f} | {row[2]:.0f} | {row[3]:.0f} |")
    lines.append(f"| late / early | {late[0] / early[0]:.2f} | {late[1] / early[1]:.2f} | {late[2] / early[2]:.2f} | |")
    return "\n".join(lines)


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cycles", type=int, default=50)
    parser.add_argument("--candidates", type=int, default=2000)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        looks = watch(Path(folder), asked.cycles, asked.candidates)
        print(f"{len(looks)} cycles of {asked.candidates} candidates, {time.monotonic() - began:.0f} s\n")
        print(table(looks))


if __name__ == "__main__":
    main()
