"""The run directory: where everything of a campaign lies, and what was running when it was made.

    runs/si8/
      campaign.yaml  resolved.json  provenance.json  LOCK  log.jsonl
      elsewhere/ (if labels come from there)  pool/  foundation/ (if there is one)  check/  winners/
      cycle-00/label/ train/ relax/ direct/ (if asked for) grow/ (if the pool grows) rank/ ... cycle-01/...
      tasks/<id>/  potentials/<id>/ (if a job does stages)

Nothing inside knows where the directory is, so it can be moved; where the campaign file was is kept as a hint.
"""

from __future__ import annotations

import json
import os
import platform
import re
import socket
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict

from csp_al import claim
from csp_al.campaign.messages import findings
from csp_al.campaign.models import Campaign
from csp_al.campaign.section import Trust
from csp_al.files import DamagedError, read_sealed, validated, write_atomically, write_sealed
from csp_al.importing import beside
from csp_al.store.lock import LOCK
from csp_al.store.stages import PARTIAL, manifest

SETTINGS = "resolved.json"  # written last, so that a run directory that has it has begun
PROVENANCE = "provenance.json"
STAGES = ("label", "train", "relax", "direct", "grow", "rank", "verdict", "select")
STAGES_OF_FORMAT_2 = ("label", "train", "relax", "rank", "verdict", "select")  # where no manifest tells needs
FIRST, LAST = ("elsewhere", "pool", "foundation", "check"), "winners"
PACKAGES = ("csp_al", "ase", "chgnet", "gpaw", "gpaw-data", "matscipy", "numpy", "pymatgen", "pyxtal", "schnetpack",
            "scikit-learn", "scipy", "sevenn", "spglib", "torch")  # fmt: skip
STOP_REQUEST = "STOP"
POTENTIALS: Final = "potentials"
"""Folder of stages that a job does, see `csp_al.loop.elsewhere`, as ``tasks`` is that of calculations."""


class Provenance(TypedDict, total=False):
    """What was running when a run began, as far as others ask for it."""

    started: str
    platform: str
    cores: int | None
    python: str
    folder: str
    programs: dict[str, str]
    packages: dict[str, str | None]
    seed: int | None


_PROVENANCE: Final = TypeAdapter(Provenance)
Place = tuple[int | None, str, Path]
"""Cycle (None outside the cycles), name and folder of a stage."""


class NoRunError(Exception):
    """There is no run directory there; the message says where and what to do."""


def prepare(run: Path, campaign: Campaign, source: Path | None, programs: dict[str, str]) -> None:
    """Write what a run directory is made with: the campaign file, as given and with every default, and provenance.

    ``programs`` are the versions of what the reference runs.
    """
    (run / "tasks").mkdir(parents=True, exist_ok=True)
    if source is not None:
        write_atomically(run / "campaign.yaml", source.read_bytes())
    if not (run / PROVENANCE).exists():
        folder = (source or run / "campaign.yaml").parent.resolve()
        content = provenance() | {"programs": programs, "folder": str(folder), "seed": campaign.seed}
        content |= {"strategy": campaign.select.strategy}
        write_sealed(run / PROVENANCE, "provenance", content, indent=1)
    write_sealed(run / SETTINGS, "settings", {"campaign": campaign.written()}, indent=1)


def read_campaign_of(run: Path, *, trust: Trust = False, base: Path | None = None) -> Campaign:
    """The campaign that a run directory belongs to, all defaults resolved. Raises NoRunError and DamagedError.

    Nothing that its author chose is imported: a section of a kind that is not ours is kept as it is, unless all kinds
    are trusted, or this one; modules are looked for in ``base``, by default where the campaign file was.
    """
    path = run / SETTINGS
    if run.is_file():
        raise NoRunError(f"{run}: a file, where a run directory is expected; 'csp-al run FILE' makes one, under runs/")
    try:
        content = read_sealed(path, "settings")["campaign"]
        with beside(base or folder_of_campaign(run)) if trust else nullcontext():
            return Campaign.recall(content, trust)
    except (FileNotFoundError, NotADirectoryError) as error:
        msg = f"{run}: no run directory (there is no {path.name}); 'csp-al run FILE' makes one, under runs/"
        raise NoRunError(msg) from error
    except DamagedError as error:
        raise DamagedError(path, f"{error.what}; 'csp-al run FILE --repair' writes it again") from error
    except ValidationError as error:
        raise DamagedError(path, f"no campaign ({next(findings(error, content, Campaign))})") from error
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedError(path, f"no campaign ({str(error).splitlines()[0]})") from error


def folder_of_campaign(run: Path) -> Path:
    """Where the campaign file was when the run began, if that is still there; else the run directory."""
    folder = Path(provenance_of(run).get("folder", run))
    try:
        return folder if folder.is_dir() else run
    except OSError:  # a name that no folder can have, or one that may not be looked at
        return run


def programs_of(run: Path) -> dict[str, str]:
    """Programs of the reference, and their versions, when the run began."""
    return provenance_of(run).get("programs", {})


def packages_of(run: Path) -> dict[str, str | None]:
    """Packages of Python, and their versions, when the run began; None for one that is not installed."""
    return provenance_of(run).get("packages", {})


def seed_of(run: Path) -> int | None:
    """The seed that the run began with, where it is known: the command line may have given another than the file."""
    return provenance_of(run).get("seed")


def provenance_of(run: Path) -> Provenance:
    """What was running when the run began; nothing where that cannot be read."""
    path = run / PROVENANCE
    try:
        return validated(_PROVENANCE, read_sealed(path, "provenance"), path)
    except (FileNotFoundError, DamagedError):  # a driver refuses what is damaged, or mends it
        return {}


def provenance() -> dict[str, Any]:
    """Versions and machine, for the record."""
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "host": socket.gethostname(),
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "python": sys.version.split()[0],
        "packages": {name: _version(name) for name in PACKAGES},
    }


def cycle_folder(run: Path, cycle: int) -> Path:
    """Folder of a cycle's stages."""
    return run / f"cycle-{cycle:02d}"


def cycles(run: Path) -> list[int]:
    """The cycles that have begun, in order."""
    found = [re.fullmatch(r"cycle-(\d{2,})", name) for name in _folders(run)]
    return sorted(int(name[1]) for name in found if name)


def published_stages(run: Path) -> list[Place]:
    """Every published stage, in the order of the loop."""
    return [(cycle, name, folder / name) for cycle, name, folder, there in _stages(run) if name in there]


def under_way(run: Path) -> Place | None:
    """The first stage that was begun and is not published; None if there is none."""
    begun = (
        (cycle, name, folder / name)
        for cycle, name, folder, there in _stages(run)
        if name not in there and name + PARTIAL in there
    )
    return next(begun, None)


def places(run: Path) -> list[Place]:
    """Every stage that was begun, or may be next, in the order of the loop."""
    return [(cycle, name, folder / name) for cycle, name, folder, _ in _stages(run)]


def _stages(run: Path) -> Iterator[tuple[int | None, str, Path, set[str]]]:
    """Of each of `places`: its cycle and name, the folder that it belongs in, and what folders are there."""
    outside = _folders(run)
    yield from ((None, name, run, outside) for name in FIRST)
    for cycle in cycles(run):
        folder = cycle_folder(run, cycle)
        there = _folders(folder)
        yield from ((cycle, name, folder, there) for name in STAGES)
    yield None, LAST, run, outside


def _folders(folder: Path) -> set[str]:
    """Names of the folders in a folder; none where it is not there."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if entry.is_dir()}
    except (FileNotFoundError, NotADirectoryError):
        return set()


def stages_needed(run: Path, folder: Path) -> list[Path]:
    """The stages that must be there as long as a published one is. Raises DamagedError."""
    named = manifest(folder)["needs"]
    if named is not None:
        return [run / name for name in named]
    if folder.parent == run:
        return []
    last, name = int(folder.parent.name.removeprefix("cycle-")), folder.name
    before = [cycle_folder(run, cycle) / stage for cycle in range(last) for stage in STAGES_OF_FORMAT_2]
    here = [folder.with_name(stage) for stage in STAGES_OF_FORMAT_2[: STAGES_OF_FORMAT_2.index(name)]]
    return [run / "pool", *before, *here]


def published_after(run: Path, folder: Path) -> list[Path]:
    """The published stages that come after a stage."""
    return [place for _, _, place in published_stages(run) if _order(run, place) > _order(run, folder)]


def log(run: Path, event: str, **details: Any) -> None:
    """Append a line to log.jsonl."""
    line = {"time": datetime.now(UTC).isoformat(timespec="seconds"), "event": event} | details
    with (run / "log.jsonl").open("ab+") as file:
        if file.tell():  # the end of a driver may have cut off the last line
            file.seek(-1, os.SEEK_END)
            file.write(b"\n" if file.read(1) != b"\n" else b"")
        file.write(json.dumps(line).encode() + b"\n")


def request_stop(run: Path, driver: str) -> None:
    """Ask the driver with this token to end cleanly, now or as soon as it listens; no other driver is meant."""
    write_atomically(run / STOP_REQUEST, driver)


def stop_requested(run: Path) -> bool:
    """Whether somebody asked the driver that has the run directory now to end."""
    try:
        asked = (run / STOP_REQUEST).read_text(encoding="utf-8")
    except FileNotFoundError:
        return False
    return asked == claim.token(run, LOCK)


def forget_stop_request(run: Path) -> None:
    """The driver that was asked has ended."""
    if stop_requested(run):
        (run / STOP_REQUEST).unlink(missing_ok=True)


def _order(run: Path, folder: Path) -> tuple[int, int]:
    """Where a stage comes in the loop."""
    if folder.parent == run:
        return (sys.maxsize, 0) if folder.name == LAST else (-1, FIRST.index(folder.name))
    return int(folder.parent.name.removeprefix("cycle-")), STAGES.index(folder.name)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
