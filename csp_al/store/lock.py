"""One driver for each run directory.

The lock is a claim (`csp_al.claim`): it ends with its holder on this host, however that ends, and a minute after its
last sign of life on another. The file's content says who holds it.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from csp_al import claim
from csp_al.interruption import is_interruptible

LOCK = "LOCK"


class InUseError(Exception):
    """Another driver has the run directory; the message says which, where and since when."""


class TakenOverError(InUseError):
    """The run directory was this driver's and is no longer; the message says whose it is."""


@contextmanager
def locked(run: Path) -> Iterator[Callable[[], None]]:
    """Hold the run directory. Raises InUseError if another driver does.

    A driver that slept so long that another took over gets SIGTERM from itself when it wakes up, where signals are
    heard (`csp_al.interruption.interruptible`). Whatever ends it then,
    such as a file that the other has moved, becomes a TakenOverError, which the function that is yielded raises too.
    """
    mine = claim.take(run, LOCK)
    if mine is None:
        raise InUseError(_who(run))

    def still_ours() -> None:
        if claim.is_lost(mine):
            raise TakenOverError(_who_took(run))

    ended = threading.Event()
    heart = threading.Thread(target=_beat, args=(mine, ended), daemon=True)
    heart.start()
    try:
        yield still_ours
    finally:
        ended.set()
        heart.join()
        still_ours()
        claim.clear(run, LOCK)


def holder(run: Path) -> dict[str, Any] | None:
    """Host, pid and since when, of the driver that has the run directory now; None if there is none."""
    return claim.owner(run, LOCK)


def watched_holder(run: Path) -> dict[str, Any] | None:
    """As `holder`, for whoever has time: one of another host that looks dead is watched for a sign of life."""
    return claim.watched_owner(run, LOCK)


def _beat(mine: Path, ended: threading.Event) -> None:
    while not ended.wait(claim.HEARTBEAT):
        claim.touch(mine)
        with suppress(OSError):  # the file system is away for a while
            if claim.is_lost(mine):
                if is_interruptible():  # else it is heard at the next word of how far a stage is
                    os.kill(os.getpid(), signal.SIGTERM)
                return


def _who(run: Path) -> str:
    found = holder(run) or {"pid": "?", "host": "?", "since": "just now"}
    return (
        f"{run} is in use by another driver: process {found['pid']} on {found['host']}, since {found['since']}. "
        f"Wait for it, watch it with 'csp-al watch {run}', or end it with 'csp-al stop {run}'."
    )


def _who_took(run: Path) -> str:
    found = holder(run)
    if found is None:
        return f"{run} is no longer this driver's: it was moved or removed, or another driver took over and has ended."
    return (
        f"Another driver took over {run} while this one slept: process {found['pid']} on {found['host']}, since "
        f"{found['since']}. This one ends. Watch the other with 'csp-al watch {run}'."
    )
