"""Who has something: one living process, wherever it runs.

A claim is a file that only one process can create, holding its host, process id and start time. Its owner touches it
every few seconds. It is stale when its process is gone from this host, or on another host when it was not touched for
a minute, by the clock of the file system. A stale claim is taken over by creating the next one (``claim``,
``claim.1``, ...), which again only one process can do; the last one counts.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Final

from csp_al.files import DamagedError, open_plain, written_aside

HEARTBEAT: Final = 5.0  # s between two touches
STALE: Final = 60.0  # s without a touch after which another host's claim is given up
NAME: Final = "claim"

_touched: dict[Path, float] = {}


def take(folder: Path, name: str = NAME) -> Path | None:
    """Claim the folder for this process: the claim, or None if a living process has it."""
    newest = _newest(folder, name)
    if newest is not None and not _is_stale(newest):
        return None if newest.exists() else take(folder, name)
    path = folder / f"{name}.{_generation(newest) + 1}" if newest else folder / name
    if not _create(path):
        return None
    if newest is not None and not _is_stale(newest):  # cleared meanwhile; others count anew
        release(path)
        return take(folder, name)
    return path


def touch(claim: Path) -> None:
    """Say that the owner lives; to be called often, writes only every few seconds."""
    if time.monotonic() - _touched.get(claim, -HEARTBEAT) >= HEARTBEAT:
        with suppress(OSError):  # it was released, or the file system is away for a while
            os.utime(claim)
        _touched[claim] = time.monotonic()


def release(claim: Path) -> None:
    """Give up what is not finished. Older, stale claims stay: removing them would let two processes create the next."""
    with suppress(OSError):  # its owner ends, which says as much
        claim.unlink()
    _touched.pop(claim, None)


def clear(folder: Path, name: str = NAME) -> None:
    """Remove every claim of what is finished, the owner's own last."""
    for path in sorted(_all(folder, name), key=_generation):
        release(path)


def is_lost(claim: Path) -> bool:
    """Whether another process has taken the claim over, which may happen to one that slept."""
    newest = _newest(claim.parent, claim.name.split(".")[0])
    return newest is not None and newest != claim


def owner(folder: Path, name: str = NAME) -> dict[str, Any] | None:
    """Host, pid and since when, of the living process that has the folder; None if there is none."""
    newest = _newest(folder, name)
    try:
        if newest is None or not _lives(newest, looking=True):
            return None
        return _read(newest) or {"host": "?", "pid": "?", "since": "just now"}
    except FileNotFoundError:
        return None


def is_taken(folder: Path) -> bool:
    """Whether a living process has the folder; for whoever may write there."""
    newest = _newest(folder, NAME)
    try:
        return newest is not None and _lives(newest)
    except FileNotFoundError:
        return False


def _all(folder: Path, name: str) -> list[Path]:
    return [path for path in folder.glob(f"{name}*") if path.name == name or path.suffix[1:].isdecimal()]


def _newest(folder: Path, name: str) -> Path | None:
    return max(_all(folder, name), key=_generation, default=None)


def _generation(claim: Path) -> int:
    return int(claim.suffix[1:] or 0)


def _create(path: Path) -> bool:
    """Make the claim, whole from the beginning; False if another was faster."""
    with written_aside(path, json.dumps(_identity()).encode()) as aside:
        try:
            os.link(aside, path)
        except FileExistsError:
            return aside.stat().st_nlink > 1  # over a network the link may be made and the answer lost
        except OSError:
            return _create_without_links(path)
    return True


def _create_without_links(path: Path) -> bool:
    """The same where a file has one name only; a reader may meet it before it has its content."""
    try:
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError:
        return False
    try:
        os.write(handle, json.dumps(_identity()).encode())
    except OSError:
        path.unlink()
        raise
    finally:
        os.close(handle)
    return True


def _is_stale(claim: Path) -> bool:
    """Whether a claim is there whose owner is gone."""
    try:
        return not _lives(claim)
    except FileNotFoundError:
        return False


def _lives(claim: Path, *, looking: bool = False) -> bool:
    found = _read(claim)
    if found is not None and (found["host"], found.get("namespace")) == (socket.gethostname(), _namespace()):
        return found["start"] is not None and bool(found["start"] == start_time(found["pid"]))
    return (
        _age(claim, looking=looking) < STALE
    )  # not ours to look up, or its owner was killed between creating and writing it


def _read(claim: Path) -> dict[str, Any] | None:
    try:
        with open_plain(claim) as file:
            found = json.loads(file.read())
        return found if {"host", "pid", "start"} <= found.keys() and isinstance(found["pid"], int) else None
    except (ValueError, AttributeError, DamagedError):
        return None


def _age(claim: Path, *, looking: bool) -> float:
    """Seconds since the last touch, by the clock of the file system unless this is but a look, which writes nothing."""
    now = time.time()
    if not looking:
        with suppress(OSError), written_aside(claim, b"") as probe:
            now = probe.stat().st_mtime
    return now - claim.stat().st_mtime


def _identity() -> dict[str, Any]:
    return {
        "host": socket.gethostname(),
        "namespace": _namespace(),
        "pid": os.getpid(),
        "start": start_time(os.getpid()),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
    }


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


@cache
def _namespace() -> str | None:
    """What the process ids of this host are counted in: containers of one name may each have their own."""
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return None
