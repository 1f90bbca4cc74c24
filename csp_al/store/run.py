"""The run directory: where everything of a campaign lies, and what was running when it was made.

    runs/si8/
      campaign.yaml  resolved.json  provenance.json  LOCK  log.jsonl
      elsewhere/ (if labels come from there)  pool/  check/  winners/
      cycle-00/label/ train/ relax/ rank/ verdict/ select/  cycle-01/...
      tasks/<id>/

Nothing inside knows where the directory is, so it can be moved; where the campaign file was is kept as a hint.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import socket
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from csp_al.campaign.models import Campaign
from csp_al.files import write_atomically
from csp_al.store.stages import is_published, manifest

FORMAT = 1
STAGES = ("label", "train", "relax", "rank", "verdict", "select")
PACKAGES = ("csp_al", "ase", "gpaw", "gpaw-data", "matscipy", "numpy", "pymatgen", "pyxtal", "schnetpack",
            "scikit-learn", "scipy", "spglib", "torch")  # fmt: skip
STOP_REQUEST = "STOP"
Place = tuple[int | None, str, Path]
"""Cycle (None outside the cycles), name and folder of a stage."""


class ChangedError(Exception):
    """The campaign file is not the one that the run directory was made with; the message shows what differs."""


class NoRunError(Exception):
    """There is no run directory there; the message says where and what to do."""


def prepare(run: Path, campaign: Campaign, source: Path, programs: dict[str, str]) -> None:
    """Make the run directory for this campaign, or check that it is the same campaign's.

    ``source`` is the campaign file, which is kept as given; ``programs`` are the versions of what the reference runs.
    Raises ChangedError.
    """
    if (run / "resolved.json").exists():
        _refuse_changes(read_campaign_of(run), campaign, run)
        return
    run.mkdir(parents=True, exist_ok=True)
    (run / "tasks").mkdir(exist_ok=True)
    shutil.copyfile(source, run / "campaign.yaml")
    write_atomically(
        run / "provenance.json",
        json.dumps(provenance() | {"programs": programs, "folder": str(source.parent.resolve())}, indent=1) + "\n",
    )
    resolved = {"format": FORMAT, "campaign": campaign.model_dump(mode="json")}
    write_atomically(run / "resolved.json", json.dumps(resolved, indent=1) + "\n")


def read_campaign_of(run: Path) -> Campaign:
    """The campaign that a run directory belongs to, all defaults resolved. Raises NoRunError."""
    path = run / "resolved.json"
    if not path.is_file():
        msg = f"{run}: no run directory (there is no {path.name}); 'csp-al run FILE' makes one, under runs/"
        raise NoRunError(msg)
    try:
        return Campaign(**json.loads(path.read_text(encoding="utf-8"))["campaign"])
    except (ValueError, KeyError, TypeError) as error:
        msg = f"{path}: damaged, or of another version of csp_al ({str(error).splitlines()[0]})"
        raise NoRunError(msg) from error


def folder_of_campaign(run: Path) -> Path:
    """Where the campaign file was when the run began, if that is still there; else the run directory."""
    return next((path for path in [Path(_provenance(run).get("folder", run))] if path.is_dir()), run)


def programs_of(run: Path) -> dict[str, str]:
    """Programs of the reference, and their versions, when the run began."""
    programs: dict[str, str] = _provenance(run).get("programs", {})
    return programs


def _provenance(run: Path) -> dict[str, Any]:
    path = run / "provenance.json"
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return found


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
    names = [folder.name for folder in run.glob("cycle-*") if folder.is_dir()]
    return sorted(int(name.removeprefix("cycle-")) for name in names if re.fullmatch(r"cycle-\d{2,}", name))


def published_stages(run: Path) -> list[Place]:
    """Every published stage, in the order of the loop."""
    return [place for place in places(run) if is_published(place[2])]


def places(run: Path) -> list[Place]:
    """Every stage that was begun, or may be next, in the order of the loop."""
    found: list[Place] = [(None, name, run / name) for name in ("elsewhere", "pool", "check")]
    found += [(cycle, name, cycle_folder(run, cycle) / name) for cycle in cycles(run) for name in STAGES]
    return [*found, (None, "winners", run / "winners")]


def seconds_spent(run: Path) -> float:
    """Wall time of all published stages, s; interruptions do not count."""
    return sum(float(manifest(folder)["seconds"]) for _, _, folder in published_stages(run))


def log(run: Path, event: str, **details: Any) -> None:
    """Append a line to log.jsonl."""
    line = {"time": datetime.now(UTC).isoformat(timespec="seconds"), "event": event} | details
    with (run / "log.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def request_stop(run: Path) -> None:
    """Ask the driver of this run to end cleanly."""
    write_atomically(run / STOP_REQUEST, "")


def stop_requested(run: Path) -> bool:
    """Whether somebody asked the driver to end."""
    return (run / STOP_REQUEST).exists()


def forget_stop_request(run: Path) -> None:
    """A new driver starts without the old request."""
    (run / STOP_REQUEST).unlink(missing_ok=True)


def differences(before: Any, now: Any, where: str = "") -> list[str]:
    """What differs between two sections as JSON, a line for each key: what it was then, what it is now."""
    if isinstance(before, dict) and isinstance(now, dict):
        keys = [*before, *(key for key in now if key not in before)]
        return [
            line for key in keys for line in differences(before.get(key), now.get(key), f"{where}.{key}".lstrip("."))
        ]
    return [] if before == now else [f"{where}: {before!r} then, {now!r} now"]


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _refuse_changes(before: Campaign, now: Campaign, run: Path) -> None:
    # where something is, each machine has its own answer
    asides = {"reference": {"pseudo_dir"}}
    changes = differences(before.model_dump(mode="json", exclude=asides), now.model_dump(mode="json", exclude=asides))
    if changes:
        lines = "\n".join(f"  {change}" for change in changes)
        msg = (
            f"{run} was made with another campaign file:\n{lines}\n"
            "Give the new campaign another name (or --directory), or take the changes back."
        )
        raise ChangedError(msg)
