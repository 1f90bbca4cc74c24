"""One driver for each run directory.

The lock is the kernel's (flock), so that it ends with its holder, however that ends; the file's content is for
people and says who holds it.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

LOCK = "LOCK"


class InUseError(Exception):
    """Another driver has the run directory; the message says which, where and since when."""


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """Hold the run directory. Raises InUseError if another driver does."""
    handle = os.open(run / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InUseError(_who(run)) from error
        since = datetime.now(UTC).isoformat(timespec="seconds")
        me = {"host": socket.gethostname(), "pid": os.getpid(), "since": since}
        os.ftruncate(handle, 0)
        os.pwrite(handle, json.dumps(me).encode(), 0)
        yield
        os.ftruncate(handle, 0)
    finally:
        os.close(handle)


def holder(run: Path) -> dict[str, Any] | None:
    """Host, pid and since when, of the driver that has the run directory now; None if there is none."""
    try:
        handle = os.open(run / LOCK, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _content(run)
    finally:
        os.close(handle)
    return None


def _content(run: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads((run / LOCK).read_text(encoding="utf-8"))
    except ValueError:  # between taking the lock and writing who took it
        content = {"host": "?", "pid": "?", "since": "just now"}
    return content


def _who(run: Path) -> str:
    content = _content(run)
    return (
        f"{run} is in use by another driver: process {content['pid']} on {content['host']}, since {content['since']}. "
        f"Wait for it, watch it with 'csp-al status {run}', or end it with 'csp-al stop {run}'."
    )
