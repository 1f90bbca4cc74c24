"""Room on the disk, looked at before it is needed."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Final

RESERVE: Final = 100_000_000
"""Bytes that are left alone, so that what runs can still write down how it ended."""

MACHINE: Final = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE,
                  errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EFBIG, errno.ENOTCONN}  # fmt: skip
"""Errors that say that the machine is at fault, and that will pass or be mended."""

FULL: Final = ("No space left on device", "quota exceeded")
"""What the operating system says, in whoever's words, of a disk that is full."""


def require_space(folder: Path, need: int = 0) -> None:
    """Raise OSError (ENOSPC) where less is free than what is needed (bytes) and the reserve."""
    free = shutil.disk_usage(folder).free
    if free < need + RESERVE:
        wanted = f"{(need + RESERVE) / 1e6:.0f} MB are wanted, {free / 1e6:.0f} MB are free"
        raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)}; {wanted}", str(folder))


def is_machine_failure(error: OSError) -> bool:
    """Whether the error is one of the machine, such as a full disk, and not of what was asked for."""
    return error.errno in MACHINE


def says_full(words: str) -> bool:
    """Whether an error's words hold those of the operating system for a full disk."""
    return any(said in words for said in FULL)
