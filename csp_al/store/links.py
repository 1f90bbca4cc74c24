"""What in a run directory leads out of it.

refuse_links(run)
"""

from __future__ import annotations

import os
from pathlib import Path


class UntrustedError(Exception):
    """The run directory would run code, or lead elsewhere; the message says which, and how to allow it."""


def refuse_links(run: Path) -> None:
    """Raise UntrustedError if the run directory has a symbolic link that leads out of it, a pipe or a device."""
    home = run.resolve()
    for folder, folders, files in os.walk(run):
        for path in (Path(folder, name) for name in (*folders, *files)):
            if path.is_symlink() and not is_within(path, home):
                what = "a symbolic link out of the run directory, and would be followed in writing and in removing"
            elif path.is_symlink() or path.is_file() or path.is_dir():
                continue
            else:
                what = "neither a file nor a folder, and reading it may never end"
            raise UntrustedError(f"{path} is {what}. Remove it, or, if you made it yourself, add --trust")


def is_within(path: Path, home: Path) -> bool:
    """Whether a path, its links followed, is this folder or in it."""
    try:
        return path.resolve().is_relative_to(home)
    except (OSError, RuntimeError, ValueError):  # it leads in a circle, or is no name
        return False
