"""A stage that another process has done, in its partial folder, until a driver publishes it.

    fill(folder, after, settings_of(run), write)  # there
    seconds = take_filled(run, folder, after)  # here; None: it is still to be done

A file that is written last says that all is there, and what it was made from. Nobody else may fill the folder
meanwhile.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from csp_al import claim
from csp_al.files import DamagedError, OtherVersionError, make_directory, read_sealed, sha256, write_sealed
from csp_al.store.lock import LOCK, locked
from csp_al.store.run_directory import SETTINGS
from csp_al.store.stages import flushed, history, partial

FILLED: Final = "filled.json"


def fill(folder: Path, after: Path | None, settings: str, write: Callable[[Path], None]) -> None:
    """Do a stage that follows from the published stage ``after``, without publishing it, unless that is done.

    ``settings`` is the checksum of those that it goes by, see `settings_of`. Raises InUseError where another process
    fills the folder, or has begun to while this one slept.
    """
    aside, made_from = partial(folder), [settings, history(after)]
    make_directory(aside)
    with locked(aside) as still_ours:
        if _filled(aside, made_from) is not None:
            return
        _clear(aside)
        started = time.monotonic()
        write(aside)
        seconds = time.monotonic() - started
        still_ours()
        write_sealed(aside / FILLED, "filled", {"seconds": seconds, "from": made_from, "files": _files(aside)})


def settings_of(run: Path) -> str:
    """Checksum of the settings of a run, as they stand now."""
    return sha256(run / SETTINGS)


def take_filled(run: Path, folder: Path, after: Path | None) -> float | None:
    """How long it took (s) to do the stage, if its partial folder is ready to be published as it is; else None.

    It is not where the settings of the run, or the stages before, are others now.
    """
    aside = partial(folder)
    if (seconds := _filled(aside, [settings_of(run), history(after)])) is not None:
        claim.clear(aside, LOCK)  # of a process that was killed before it could
        (aside / FILLED).unlink()
    return seconds


def _filled(aside: Path, made_from: list[str | None]) -> float | None:
    """As `take_filled`, and takes nothing."""
    try:
        content = read_sealed(aside / FILLED, "filled")
    except (FileNotFoundError, DamagedError, OtherVersionError):
        return None
    is_whole = content["from"] == made_from and content["files"] == _files(aside)
    return float(content["seconds"]) if is_whole else None


def _clear(aside: Path) -> None:
    """Remove what an earlier attempt left in a folder that is ours; claims stay, or two could take it at once."""
    for path in aside.iterdir():
        if path.name.partition(".")[0] == LOCK:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _files(aside: Path) -> dict[str, str]:
    """Checksums of all but the note and the claims."""
    return {
        name: checksum for name, checksum in flushed(aside).items() if name != FILLED and name.partition(".")[0] != LOCK
    }
