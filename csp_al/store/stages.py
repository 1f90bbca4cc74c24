"""Stages: folders that appear whole, by one rename, with the checksums of what they hold.

The state of a campaign is the set of its published stages; there is no state file to tear. A stage that was
interrupted leaves ``NAME.partial`` behind, which the next attempt replaces. Each stage names the one that it follows
from by a digest of that one and of all before it, so that no stage can be taken for the sequel of another history.

    stage(run / "cycle-00" / "train", write, after=run / "cycle-00" / "label")
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import Field, FiniteFloat, TypeAdapter
from typing_extensions import TypedDict

from csp_al.files import (
    DamagedError,
    digest,
    make_directory,
    read_sealed,
    sha256,
    sync_directory,
    validated,
    write_sealed,
)  # fmt: skip

MANIFEST, PARTIAL = "manifest.json", ".partial"


class _Manifest(TypedDict):
    files: dict[str, str]
    after: str | None
    needs: Annotated[list[str], Field(fail_fast=True)] | None
    seconds: FiniteFloat


_MANIFEST: Final = TypeAdapter(_Manifest)


class UnconnectedError(DamagedError):
    """A published stage does not follow from the one before it."""


def stage(folder: Path, write: Callable[[Path], None], after: Path | None, needs: Sequence[str] = ()) -> None:
    """Publish a stage: ``write(partial folder)`` fills it, and it follows from the published stage ``after``.

    ``needs`` names the stages that must be there as long as this one is, such as cycle-00/label.
    """
    aside = partial(folder)
    if aside.exists():
        shutil.rmtree(aside)
    make_directory(aside)
    started = time.monotonic()
    write(aside)
    publish(folder, after, needs, time.monotonic() - started)


def publish(folder: Path, after: Path | None, needs: Sequence[str], seconds: float) -> None:
    """Publish a stage whose partial folder is filled, which took so long (s); see `stage`."""
    aside = partial(folder)
    content = {
        "files": flushed(aside),
        "after": history(after),
        "needs": list(needs),
        "seconds": round(seconds, 3),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    write_sealed(aside / MANIFEST, "manifest", content, indent=1)
    aside.rename(folder)
    sync_directory(folder.parent)


def flushed(aside: Path) -> dict[str, str]:
    """Checksum of each file of a partial folder, by name, once they are on the disk."""
    files = sorted(path for path in aside.rglob("*") if path.is_file())
    for path in files:
        _flush(path)
    return {path.relative_to(aside).as_posix(): sha256(path) for path in files}


def is_published(folder: Path) -> bool:
    """Whether the stage is there."""
    return folder.is_dir()


def partial(folder: Path) -> Path:
    """Where a stage is written before it is published."""
    return folder.parent / (folder.name + PARTIAL)


def manifest(folder: Path) -> dict[str, Any]:
    """Of a published stage: checksum of each file, digest of the stage before, needs, seconds taken, when finished.

    Raises DamagedError.
    """
    path = folder / MANIFEST
    try:
        content = read_sealed(path, "manifest")
    except FileNotFoundError as error:
        raise DamagedError(path, "the file is missing") from error
    validated(_MANIFEST, content, path)
    for name in (*content["files"], *(content["needs"] or ())):
        if not _is_inside(name):
            raise DamagedError(path, f"the name {name[:100]!r} leads out of the folder")
    return content


def seconds_of(folder: Path) -> float:
    """Wall time that a published stage took, s. Raises DamagedError."""
    return float(manifest(folder)["seconds"])


def file_of(folder: Path, name: str) -> Path:
    """A file of a published stage that was published with it. Raises DamagedError for any other."""
    if name not in manifest(folder)["files"]:
        raise DamagedError(folder / name, "it was not published with its stage")
    return folder / name


def verify(folder: Path) -> dict[str, Any]:
    """Compare every file of a published stage with its checksum; its `manifest`.

    Raises DamagedError for the first that differs.
    """
    content = manifest(folder)
    for name, checksum in content["files"].items():
        path = folder / name
        try:
            found = sha256(path)
        except FileNotFoundError as error:
            raise DamagedError(path, "the file is missing") from error
        if found != checksum:
            raise DamagedError(path, "its checksum differs from the one it was published with")
    return content


def follows(folder: Path, after: Path | None) -> None:
    """Check that a published stage was made from the stage that is now before it. Raises UnconnectedError."""
    if manifest(folder)["after"] != history(after):
        before = "nothing" if after is None else f"{after.parent.name}/{after.name} as it is now"
        raise UnconnectedError(folder, f"this stage was not made from {before}")


def history(folder: Path | None) -> str | None:
    """Digest of what a published stage holds and of all that it follows from; not of when it was made."""
    if folder is None:
        return None
    content = manifest(folder)
    return digest({"files": content["files"], "after": content["after"]})


def _is_inside(name: str) -> bool:
    parts = [part for part in name.split("/") if part not in {"", "."}]
    return bool(parts) and not name.startswith("/") and ".." not in parts and "\0" not in name


def _flush(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
