"""Campaigns of several seeds side by side, each by `csp-al run` in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from csp_al.campaign.machine import usable_cores
from csp_al.reference.children import THREADS

ENDED = (0, 1)
"""Exit statuses of a campaign that came to its end, with a result or without."""


class CampaignFailedError(Exception):
    """A campaign could not be run to its end; the message has its last line, ``status`` its exit status."""

    def __init__(self, log: Path, status: int) -> None:
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        self.status = status
        super().__init__(f"{log}: exit status {status}: {lines[-1] if lines else 'nothing was printed'}")


def run_campaigns(
    file: Path, options: Sequence[str], runs: dict[int, Path], slots: int, report: Callable[[int, int], None]
) -> None:
    """Run a campaign file with each seed in its run directory, ``slots`` of them at a time, or go on with them.

    What they print goes to ``DIRECTORY.log``. Raises `CampaignFailedError` for the first that cannot go on; the
    others are ended then, and can be continued.
    """
    processes: list[subprocess.Popen[bytes]] = []
    threads_each = str(max(1, usable_cores() // slots))

    def run(seed: int) -> None:
        log = runs[seed].with_suffix(".log")
        with log.open("wb") as output:
            command = [sys.executable, "-P", "-m", "csp_al", "run", str(file), "--seed", str(seed), "--slots", "1"]
            process = subprocess.Popen(
                [*command, "--directory", str(runs[seed]), *options],
                stdout=output,
                stderr=subprocess.STDOUT,
                env=os.environ | dict.fromkeys((*THREADS, "NUMBA_NUM_THREADS"), threads_each),
            )
            processes.append(process)
            status = process.wait()
        if status not in ENDED:
            raise CampaignFailedError(log, status)

    with ThreadPoolExecutor(slots) as threads:
        try:
            futures = [threads.submit(run, seed) for seed in runs]
            report(0, len(runs))
            for done, future in enumerate(as_completed(futures), start=1):
                future.result()
                report(done, len(runs))
        except BaseException:
            threads.shutdown(wait=False, cancel_futures=True)
            for process in processes:
                process.terminate()
            raise
