"""Who has something: one living process, wherever it runs.

A claim is a file that only one process can create, holding its host, process id and start time, the folder that it was
made in, and a token that no other claim has. Its owner touches it every few seconds. It is stale when its process is
gone from this host; on another host when it was not touched for a minute, by the clock of the file system, nor while it
was watched, since clocks are set; and on this host likewise where it came with a copy of the folder. A stale claim is
taken over by creating the next one (``claim``, ``claim.1``, ...), which again only one process can do; the last one
counts.
"""

from __future__ import annotations

import json
import os
import re
import secrets
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
WATCH: Final = 2.5 * HEARTBEAT  # s for which a claim that looks stale is watched for a touch
LOOK: Final = 0.5  # s between two looks at it
NAME: Final = "claim"
MARK: Final = "CSP_AL_OWNER"
"""Variable of the environment by which a worker marks all that it starts; a claim tells its owner's."""

_touched: dict[Path, float] = {}
_tokens: dict[Path, str] = {}
"""Of the claims that this process took, lest it takes the claim of another for its own: folders move and begin anew."""
_watched: dict[Path, tuple[float, float]] = {}
"""Claims that look stale: the time of their last touch, and since when they are watched, by this process's clock."""


def take(folder: Path, name: str = NAME) -> Path | None:
    """Claim the folder for this process: the claim, or None if a living process has it."""
    newest = _newest(folder, name)
    if newest is not None and not _is_stale(newest):
        if newest in _watched:
            time.sleep(LOOK)
        elif newest.exists():
            return None
        return take(folder, name)
    path = folder / f"{name}.{_generation(newest) + 1}" if newest else folder / name
    token = secrets.token_hex(8)
    if not _create(path, token):
        return None
    _tokens[path] = token
    if newest is not None and not _is_stale(newest):  # cleared meanwhile; others count anew
        release(path)
        return take(folder, name)
    return path


def touch(claim: Path) -> None:
    """Say that the owner lives; to be called often, writes only every few seconds, and never in another's claim."""
    if time.monotonic() - _touched.get(claim, -HEARTBEAT) >= HEARTBEAT:
        with suppress(OSError):  # it was released, or the file system is away for a while
            if _is_ours(claim):
                os.utime(claim)
        _touched[claim] = time.monotonic()


def release(claim: Path) -> None:
    """Give up what is not finished. Older, stale claims stay: removing them would let two processes create the next."""
    with suppress(OSError):  # its owner ends, which says as much
        if _is_ours(claim):
            claim.unlink()
    _forget(claim)


def clear(folder: Path, name: str = NAME) -> None:
    """Remove every claim of what is finished, the owner's own last."""
    for path in sorted(_all(folder, name), key=_generation):
        with suppress(OSError):
            path.unlink()
        _forget(path)


def is_lost(claim: Path) -> bool:
    """Whether the claim is no longer this process's, which may happen to one that slept.

    Another has taken it over, or the folder was moved away, with or without another in its place.
    """
    try:
        return _newest(claim.parent, claim.name.split(".")[0]) != claim or not _is_ours(claim)
    except FileNotFoundError:
        return True


def token(folder: Path, name: str = NAME) -> str | None:
    """What tells the claim that counts now from every other; None where there is none."""
    newest = _newest(folder, name)
    try:
        return None if newest is None else (_read(newest) or {}).get("token")
    except FileNotFoundError:
        return None


def owner(folder: Path, name: str = NAME) -> dict[str, Any] | None:
    """Host, pid and since when, of the living process that has the folder; None if there is none."""
    newest = _newest(folder, name)
    try:
        if newest is None or not _lives(newest, looking=True):
            return None
        return _read(newest) or {"host": "?", "pid": "?", "since": "just now"}
    except FileNotFoundError:
        return None


def watched_owner(folder: Path, name: str = NAME) -> dict[str, Any] | None:
    """As `owner`; but an owner of another host that looks silent is watched for a touch, since clocks differ."""
    found, newest = owner(folder, name), _newest(folder, name)
    with suppress(FileNotFoundError):  # it has just been cleared
        if found is not None or newest is None or _is_of_here(_read(newest) or {"host": "", "start": ""}):
            return found
        touched, since = newest.stat().st_mtime, time.monotonic()
        while time.monotonic() - since < WATCH:
            time.sleep(LOOK)
            if newest.stat().st_mtime != touched:
                return _read(newest)
    return None


def marks_of_the_dead(folder: Path, name: str = NAME) -> set[str]:
    """Marks of owners on this host that have died with the folder in hand: what they started may still run.

    A claim that came with a copy of the folder may be stale, and its owner alive.
    """
    marks: set[str] = set()
    for claim in _all(folder, name):
        with suppress(FileNotFoundError):  # it has just been cleared
            found = _read(claim)
            if found and found.get("mark") and _is_of_here(found) and start_time(found["pid"]) != found["start"]:
                marks.add(str(found["mark"]))
    return marks


def is_taken(folder: Path) -> bool:
    """Whether a living process has the folder; for whoever may write there."""
    newest = _newest(folder, NAME)
    try:
        return newest is not None and _lives(newest)
    except FileNotFoundError:
        return False


def _forget(claim: Path) -> None:
    _touched.pop(claim, None)
    _watched.pop(claim, None)
    _tokens.pop(claim, None)


def _all(folder: Path, name: str) -> list[Path]:
    """Claims of a folder; none where there is no folder. Raises OSError for one that cannot be read."""
    try:
        found = list(folder.iterdir())  # to glob, what cannot be read is empty, and a claim would seem lost
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [path for path in found if re.fullmatch(rf"{name}(\.[0-9]+)?", path.name)]


def _newest(folder: Path, name: str) -> Path | None:
    return max(_all(folder, name), key=_generation, default=None)


def _generation(claim: Path) -> int:
    return int(claim.suffix[1:] or 0)


def _is_ours(claim: Path) -> bool:
    """Whether a file is a claim that this process took. Raises FileNotFoundError where there is none."""
    return claim in _tokens and (_read(claim) or {}).get("token") == _tokens[claim]


def _create(path: Path, token: str) -> bool:
    """Make the claim, whole from the beginning; False if another was faster."""
    content = json.dumps(_identity(path.parent) | {"token": token}).encode()
    with written_aside(path, content) as aside:
        try:
            os.link(aside, path)
        except FileExistsError:
            return aside.stat().st_nlink > 1  # over a network the link may be made and the answer lost
        except OSError:
            return _create_without_links(path, content)
    return True


def _create_without_links(path: Path, content: bytes) -> bool:
    """The same where a file has one name only; a reader may meet it before it has its content."""
    try:
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError:
        return False
    try:
        os.write(handle, content)
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
    if found is not None and _is_of_here(found):
        lives = found["start"] is not None and bool(found["start"] == start_time(found["pid"]))
        copied = found.get("folder") not in (None, _number(claim.parent))
        # nobody touches the claim of a copy; but some file systems number their folders anew from time to time
        return lives and (not copied or _is_touched(claim, looking=looking))
    # not ours to look up, or its owner was killed between creating and writing it
    return _is_touched(claim, looking=looking)


def _is_touched(claim: Path, *, looking: bool) -> bool:
    """Whether somebody touches the claim, or may: a clock that was set makes any look old, until the next touch."""
    age = _age(claim, looking=looking)
    if looking:
        return age < STALE
    touched, now = claim.stat().st_mtime, time.monotonic()
    before, since = _watched.get(claim, (touched, now))
    if abs(age) < STALE or touched != before:
        _watched.pop(claim, None)
        return True
    _watched[claim] = (touched, since)
    return now - since < WATCH


def _is_of_here(found: dict[str, Any]) -> bool:
    """Whether the process of a claim can be looked up: same host, same processes, and the host is up since then.

    Hosts share names, and all of them number their first processes alike; only when it booted tells one from another.
    """
    boot = str(found["start"]).split(" ")[0] if _boot() else ""
    return (found["host"], found.get("namespace"), boot) == (socket.gethostname(), _namespace(), _boot())


def _number(folder: Path) -> int:
    """Inode of a folder: it stays where the folder is moved, and a copy has another."""
    return folder.stat().st_ino


def _read(claim: Path) -> dict[str, Any] | None:
    try:
        with open_plain(claim) as file:
            found = json.loads(file.read())
        return found if {"host", "pid", "start"} <= found.keys() and isinstance(found["pid"], int) else None
    except (ValueError, AttributeError, RecursionError, DamagedError):
        return None


def _age(claim: Path, *, looking: bool) -> float:
    """Seconds since the last touch, by the clock of the file system unless this is but a look, which writes nothing."""
    now = time.time()
    if not looking:
        with suppress(OSError), written_aside(claim, b"") as probe:
            now = probe.stat().st_mtime
    return now - claim.stat().st_mtime


def _identity(folder: Path) -> dict[str, Any]:
    return {
        "folder": _number(folder),
        "host": socket.gethostname(),
        "namespace": _namespace(),
        "pid": os.getpid(),
        "start": start_time(os.getpid()),
        "mark": os.environ.get(MARK, ""),
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
    return _start_by_ps(pid)


def _start_by_ps(pid: int) -> str | None:
    """The same words whatever the language and the time zone of whoever asks."""
    command, env = ["ps", "-o", "lstart=", "-p", str(pid)], os.environ | {"LC_ALL": "C", "TZ": "UTC"}
    found = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
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
