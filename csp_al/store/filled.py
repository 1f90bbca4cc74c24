"""A stage that another process has done, in its partial folder, until a driver publishes it.

    fill(run, folder, after, write)  # there
    seconds = take_filled(run, folder, after)  # here; None: it is still to be done

A file that is written last says that all is there, and what it was made from. Nobody else may fill the folder
meanwhile.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from csp_al.files import DamagedError, OtherVersionError, read_sealed, sha256, write_sealed
from csp_al.store.lock import LOCK, locked
from csp_al.store.run_directory import SETTINGS
from csp_al.store.stages import flushed, history, make_aside, partial

FILLED: Final = "filled.json"


def fill(run: Path, folder: Path, after: Path | None, write: Callable[[Path], None]) -> None:
    """Do a stage that follows from the published stage ``after``, without publishing it."""
    aside = make_aside(folder)
    with locked(aside):
        started = time.monotonic()
        write(aside)
        seconds = time.monotonic() - started
        content = {"seconds": seconds, "from": _made_from(run, after), "files": _files(aside)}
        write_sealed(aside / FILLED, "filled", content)


def take_filled(run: Path, folder: Path, after: Path | None) -> float | None:
    """How long it took (s) to do the stage, if its partial folder is ready to be published as it is; else None.

    It is not where the settings of the run, or the stages before, are others now.
    """
    aside = partial(folder)
    try:
        content = read_sealed(aside / FILLED, "filled")
    except (FileNotFoundError, DamagedError, OtherVersionError):
        return None
    if content["from"] != _made_from(run, after) or content["files"] != _files(aside):
        return None
    (aside / FILLED).unlink()
    return float(content["seconds"])


def _made_from(run: Path, after: Path | None) -> list[str | None]:
    return [sha256(run / SETTINGS), history(after)]


def _files(aside: Path) -> dict[str, str]:
    return {name: checksum for name, checksum in flushed(aside).items() if name not in (FILLED, LOCK)}
