"""Stages: folders that appear whole, by one rename, with the checksums of what they hold.

The state of a campaign is the set of its published stages; there is no state file to tear. A stage that was
interrupted leaves ``NAME.partial`` behind, which the next attempt replaces.

    folder = stage(run / "cycle-00" / "train", write)  # calls write(partial folder) unless the stage is there
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from csp_al.files import sha256, sync_directory, write_atomically

MANIFEST = "manifest.json"
FORMAT = 1


class DamagedError(Exception):
    """A published file is missing or not what was published; the message names it and says what to do."""


def stage(folder: Path, write: Callable[[Path], None]) -> Path:
    """The published folder, after ``write`` has filled it if it was not there. Raises DamagedError."""
    if not is_published(folder):
        _publish(folder, write)
    verify(folder)
    return folder


def is_published(folder: Path) -> bool:
    """Whether the stage is there."""
    return folder.is_dir()


def partial(folder: Path) -> Path:
    """Where a stage is written before it is published."""
    return folder.with_name(f"{folder.name}.partial")


def manifest(folder: Path) -> dict[str, Any]:
    """Format, checksum of each file, seconds taken, and when a published stage was finished. Raises DamagedError."""
    try:
        content: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        written, _ = content["format"], content["files"]
    except FileNotFoundError as error:
        raise _damaged(folder / MANIFEST, "the file is missing") from error
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(folder / MANIFEST, f"no manifest ({error})") from error
    if written != FORMAT:
        raise _damaged(folder / MANIFEST, f"format {written}, this version of csp_al reads {FORMAT}")
    return content


def verify(folder: Path) -> None:
    """Compare every file of a published stage with its checksum. Raises DamagedError for the first that differs."""
    for name, checksum in manifest(folder)["files"].items():
        path = folder / name
        if not path.is_file():
            raise _damaged(path, "the file is missing")
        if sha256(path) != checksum:
            raise _damaged(path, "its checksum differs from the one it was published with")


def _publish(folder: Path, write: Callable[[Path], None]) -> None:
    aside = partial(folder)
    if aside.exists():
        shutil.rmtree(aside)
    aside.mkdir(parents=True)
    started = time.monotonic()
    write(aside)
    files = sorted(path for path in aside.rglob("*") if path.is_file())
    for path in files:
        _flush(path)
    content = {
        "format": FORMAT,
        "files": {str(path.relative_to(aside)): sha256(path) for path in files},
        "seconds": round(time.monotonic() - started, 3),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    write_atomically(aside / MANIFEST, json.dumps(content, indent=1) + "\n")
    aside.rename(folder)
    sync_directory(folder.parent)


def _flush(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _damaged(path: Path, what: str) -> DamagedError:
    remedy = f"Remove the folder {path.parent} and every later stage; the next run does them again."
    return DamagedError(f"{path}: {what}. {remedy}")
