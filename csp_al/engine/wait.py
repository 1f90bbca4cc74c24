"""Wait for tasks, by looking at their results."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
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
    out: int = 0,
) -> None:
    """Submit the tasks that have no result and return when all have one, or as soon as ``should_stop()`` says so.

    ``report(done, all)`` is called at the start and with every result; a lost task is submitted again. ``out``: how
    many need not be waited for.
    """
    names = list(dict.fromkeys(ids))
    pending = [name for name in names if not is_done(root, name)]
    for name in pending:
        engine.submit(name)
    report(len(names) - len(pending), len(names))
    pause = SHORTEST
    while len(pending) > out and not should_stop():
        _tend(engine)
        left = [name for name in pending if not is_done(root, name)]
        if len(left) < len(pending):
            report(len(names) - len(left), len(names))
            pause = SHORTEST
        else:
            pause = min(2 * pause, LONGEST)
        pending = left
        if len(pending) > out:
            time.sleep(pause)


@contextmanager
def going_on(engine: Engine, root: Path, ids: Iterable[str]) -> Iterator[None]:
    """Keep these tasks going, beside whatever is done meanwhile, which must leave the engine alone.

    Raises in the end what `Engine.tick` raised.
    """
    pending = [name for name in ids if not is_done(root, name)]
    if not pending:
        yield
        return
    for name in pending:
        engine.submit(name)
    over = threading.Event()
    with ThreadPoolExecutor(1, "engine") as beside:
        ticking = beside.submit(_tick, engine, over)
        try:
            yield
        finally:
            over.set()
        ticking.result()


def _tick(engine: Engine, over: threading.Event) -> None:
    while not over.is_set():
        _tend(engine)
        over.wait(LONGEST)


def _tend(engine: Engine) -> None:
    engine.tick()
    for name in engine.lost():
        engine.submit(name)
