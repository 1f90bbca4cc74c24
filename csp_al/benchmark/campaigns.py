"""Campaigns of several seeds side by side, each by `csp-al run` in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from csp_al.campaign.machine import THREADS, usable_cores
from csp_al.interfaces import State

DONE, NO_RESULT, IN_USE = 0, 1, 3
"""Exit statuses of `csp-al run`."""
LINES = 8
"""Of what a campaign printed last, shown where it failed."""
LOOK = 3.0
"""s between two looks at a run directory that another driver has."""


class CampaignFailedError(Exception):
    """A campaign could not be run to its end; the message has its last lines, ``status`` its exit status."""

    def __init__(self, log: Path, status: int) -> None:
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-LINES:]
        self.status = status
        super().__init__("\n  ".join([f"{log}: exit status {status}:", *(lines or ["nothing was printed"])]))


def run_campaigns(
    file: Path, options: Sequence[str], runs: dict[int, Path], slots: int, report: Callable[[int, int], None]
) -> None:
    """Run a campaign file with each seed in its run directory, ``slots`` of them at a time, or go on with them.

    What they print goes to ``DIRECTORY.log``. A run directory that another driver has, such as one that outlived a
    benchmark that was killed, is waited for. Raises `CampaignFailedError` for the first that cannot go on; the others
    are ended then, and can be continued.
    """
    processes: list[subprocess.Popen[bytes]] = []
    over = threading.Event()
    threads_each = str(max(1, usable_cores() // slots))

    def start(seed: int, log: Path) -> int:
        command = [sys.executable, "-P", "-m", "csp_al", "run", str(file), "--seed", str(seed), "--slots", "1"]
        with log.open("ab") as output:
            process = subprocess.Popen(
                [*command, "--directory", str(runs[seed]), *options],
                stdout=output,
                stderr=subprocess.STDOUT,
                env=os.environ | dict.fromkeys((*THREADS, "NUMBA_NUM_THREADS"), threads_each),
            )
        processes.append(process)
        if over.is_set():
            process.terminate()
        return process.wait()

    def run(seed: int) -> None:
        log = runs[seed].with_name(f"{runs[seed].name}.log")
        while (status := start(seed, log)) == IN_USE and not over.wait(LOOK):
            pass
        if status != DONE and not (status == NO_RESULT and why_no_result(runs[seed])):
            raise CampaignFailedError(log, status)

    with ThreadPoolExecutor(slots) as threads:
        try:
            futures = [threads.submit(run, seed) for seed in runs]
            report(0, len(runs))
            for done, future in enumerate(as_completed(futures), start=1):
                future.result()
                report(done, len(runs))
        except BaseException:
            over.set()
            threads.shutdown(wait=False, cancel_futures=True)
            for process in processes:
                process.terminate()
            raise


def why_no_result(run: Path) -> str:
    """Why a campaign ended without a result, in its own words; empty if it did not end so."""
    log = run / "log.jsonl"
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
    last = json.loads(lines[-1]) if lines else {}
    return str(last["reason"]) if last.get("event") == State.FAILED else ""
