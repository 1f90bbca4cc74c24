"""Wait for tasks, by looking at their results."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from csp_al.engine.tasks import is_done
from csp_al.interfaces import Engine

SHORTEST: Final = 0.01  # s between two looks while results come in
LONGEST: Final = 0.2  # s between two looks otherwise; an idle slot waits half as long on average


def run_tasks(
    engine: Engine,
    root: Path,
    ids: Iterable[str],
    report: Callable[[int, int], None],
    should_stop: Callable[[], bool],
) -> None:
    """Submit the tasks that have no result and return when all have one, or as soon as ``should_stop()`` says so.

    ``report(done, all)`` is called at the start and with every result; a lost task is submitted again.
    """
    names = list(dict.fromkeys(ids))
    pending = [name for name in names if not is_done(root, name)]
    for name in pending:
        engine.submit(name)
    report(len(names) - len(pending), len(names))
    pause = SHORTEST
    while pending and not should_stop():
        engine.tick()
        for name in engine.lost():
            engine.submit(name)
        left = [name for name in pending if not is_done(root, name)]
        if len(left) < len(pending):
            report(len(names) - len(left), len(names))
            pause = SHORTEST
        else:
            pause = min(2 * pause, LONGEST)
        pending = left
        if pending:
            time.sleep(pause)
