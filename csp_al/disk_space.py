"""Room on the disk, looked at before it is needed."""

from __future__ import annotations

import errno
import os
import shutil
import sys
from pathlib import Path
from typing import Final

RESERVE: Final = 100_000_000
"""Bytes that are left alone, so that what runs can still write down how it ended."""

MACHINE: Final = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE,
                  errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EFBIG, errno.ENOTCONN, errno.ESHUTDOWN,
                  errno.ETIMEDOUT, errno.EHOSTDOWN, errno.EAGAIN}  # fmt: skip
"""Errors that say that the machine is at fault, and that will pass or be mended: no room, no permission, a file system
that is away, no further file or process."""

ROOM: Final = {errno.ENOSPC, errno.EDQUOT}
"""Those that say that there is no room."""

FULL: Final = ("No space left on device", "quota exceeded")
"""What the operating system says, in whoever's words, of a disk that is full."""


def free_bytes(folder: Path) -> int:
    """Room on the disk that a folder is on; no end of it where the file system does not tell how large it is."""
    usage = shutil.disk_usage(folder)
    return usage.free if usage.total else sys.maxsize


def require_space(folder: Path, need: int = 0) -> None:
    """Raise OSError (ENOSPC) where less is free than what is needed (bytes) and the reserve."""
    free = free_bytes(folder)
    if free < need + RESERVE:
        wanted = f"{(need + RESERVE) / 1e6:.0f} MB are wanted, {free / 1e6:.0f} MB are free"
        raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)}; {wanted}", str(folder))


def machine_failure_in_words(error: OSError, folder: Path) -> str:
    """What the machine failed at, and where it ran out of room, the folders below this one that take most of it."""
    said = f"{error.filename or folder}: {error.strerror or error}"
    if error.errno not in ROOM:
        return said
    largest = ", ".join(f"{path} ({size / 1e6:.0f} MB)" for path, size in largest_folders(folder))
    return f"{said}. The largest folders: {largest or 'none'}"


def largest_folders(folder: Path, count: int = 3) -> list[tuple[Path, int]]:
    """The folders here and below whose own files take most room, largest first, and how much, in bytes."""
    sizes = {Path(here): sum(_size(Path(here) / name) for name in names) for here, _, names in os.walk(folder)}
    return sorted(sizes.items(), key=lambda one: -one[1])[:count]


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except OSError:  # it has just been removed
        return 0


def is_machine_failure(error: OSError) -> bool:
    """Whether the error is one of the machine, such as a full disk, and not of what was asked for."""
    return error.errno in MACHINE


def says_full(words: str) -> bool:
    """Whether an error's words hold those of the operating system for a full disk."""
    return any(said in words for said in FULL)
