"""Who works on a task: one living process, wherever it runs.

A claim is a file that only one process can create, holding its host, process id and start time. Its owner touches it
every few seconds. It is stale when its process is gone from this host, or on another host when it was not touched for
a minute. A stale claim is taken over by creating the next one (``claim``, ``claim.1``, ...), which again only one
process can do; the last one counts.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Final

HEARTBEAT: Final = 5.0  # s between two touches
STALE: Final = 60.0  # s without a touch after which another host's claim is given up


def take(folder: Path) -> Path | None:
    """Claim the task in the folder for this process: the claim, or None if a living process has it."""
    newest = _newest(folder)
    try:
        if newest is not None and _lives(newest):
            return None
    except FileNotFoundError:  # released between the two looks; what comes after it is not ours to number
        return take(folder)
    path = folder / f"claim.{_generation(newest) + 1}" if newest else folder / "claim"
    try:
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError:  # another was faster
        return None
    try:
        os.write(handle, _identity().encode())
    finally:
        os.close(handle)
    return path


def touch(claim: Path) -> None:
    """Say that the owner lives; to be called often, writes only every few seconds."""
    with suppress(FileNotFoundError):
        if time.time() - claim.stat().st_mtime > HEARTBEAT:
            os.utime(claim)


def release(claim: Path) -> None:
    """Give up an unfinished task. Older, stale claims stay: removing them would let two processes create the next."""
    claim.unlink(missing_ok=True)


def clear(folder: Path) -> None:
    """Remove every claim of a task that has a result."""
    for path in folder.glob("claim*"):
        path.unlink(missing_ok=True)


def is_taken(folder: Path) -> bool:
    """Whether a living process has the task."""
    newest = _newest(folder)
    try:
        return newest is not None and _lives(newest)
    except FileNotFoundError:
        return False


def _newest(folder: Path) -> Path | None:
    return max(folder.glob("claim*"), key=_generation, default=None)


def _generation(claim: Path) -> int:
    return int(claim.suffix[1:] or 0)


def _lives(claim: Path) -> bool:
    content = claim.read_text(encoding="utf-8")
    touched = claim.stat().st_mtime
    try:
        owner = json.loads(content)
        if owner["host"] == socket.gethostname():
            return owner["start"] is not None and bool(owner["start"] == start_time(owner["pid"]))
    except (ValueError, KeyError, TypeError):
        pass  # its owner was killed, or is now, between creating and writing it: its age decides
    return time.time() - touched < STALE


def _identity() -> str:
    return json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "start": start_time(os.getpid())})


def start_time(pid: int) -> str | None:
    """When a process of this host started, as text that no other process of this id will share; None if it is gone.

    On Linux the boot's id and the clock ticks since then, from /proc; elsewhere what ps says, to the second.
    """
    if Path("/proc/self/stat").exists():
        try:
            stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
        except (FileNotFoundError, ProcessLookupError):
            return None
        state, *fields = stat.rpartition(")")[2].split()  # the name before may hold spaces and parentheses
        return None if state in "ZX" else f"{_boot()} {fields[18]}"
    found = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return found.stdout.strip() or None


@cache
def _boot() -> str:
    path = Path("/proc/sys/kernel/random/boot_id")
    return path.read_text(encoding="utf-8").strip() if path.exists() else ""
