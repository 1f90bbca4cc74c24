"""Pipes with high numbers: calculations write to, and close, the low ones by guess."""

from __future__ import annotations

import fcntl
import os
import resource
from typing import Final

HIGHEST: Final = 1024  # tables of open files grow with the highest number, and select takes no higher one
ROOM: Final = 16  # numbers below that for ours


def high_pipe() -> tuple[int, int]:
    """The two ends of a pipe, which does not block who reads it."""
    reads, writes = map(high_number, os.pipe())
    os.set_blocking(reads, False)
    return reads, writes


def high_number(descriptor: int) -> int:
    """A high number for an open file, which programs that are started do not inherit; the low one is closed."""
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = HIGHEST if allowed == resource.RLIM_INFINITY else min(allowed, HIGHEST)
    high = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, most - ROOM)
    os.close(descriptor)
    return high
