"""What a job of a cluster finds there: `csp-al doctor --machine NAME` submits a tiny one and waits for it.

for ok, what, remedy in probe(jobs, crew, machine): ...
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter

from csp_al.campaign.machine import Machine, usable_cores
from csp_al.engine.fleet import Crew
from csp_al.engine.jobs import Jobs, RefusedError, in_one_line, last_words
from csp_al.files import read_json, write_json
from csp_al.interfaces import Line

LOOK: Final = 1.0  # s between two looks
ASK: Final = 10.0  # s between two questions to the scheduler
LATE: Final = 10.0  # s within which what a job wrote is seen after its end
SKEW: Final = 5.0  # s by which clocks may differ
STARTS: Final = 60  # s within which the launcher starts
SOUGHT: Final = ("pw.x", "vasp_std", "cp2k.psmp", "abinit")
ASKED, FOUND = "asked.json", "found.json"


@dataclass(frozen=True)
class Found:
    """What a job found: on which host, with which Python and csp_al, how many cores.

    ``ahead``: s by which its clock is ahead of that of the file system.
    ``device``: where stages of the loop would run; None where it does none.
    ``programs`` by name where each is, None where it is not there; ``launched`` so many processes did the launcher
    start, None where it was not tried, and its last words.
    """

    host: str
    python: str
    csp_al: str
    cores: int
    ahead: float
    programs: dict[str, str | None]
    launched: int | None
    said: str
    device: str | None = None


_FOUND: Final = TypeAdapter(Found)


def probe(jobs: Jobs, crew: Crew, machine: Machine) -> Iterator[Line]:
    """Submit a job, wait until it has begun and ended, and tell what it found, below the current folder."""
    folder = Path(tempfile.mkdtemp(prefix=".csp-al-doctor-", dir=Path.cwd()))
    write_json(folder / ASKED, {"machine": crew.terms.machine, "device": crew.terms.stages})
    command = [*crew.python, "-P", "-m", "csp_al.engine.probe", str(folder)]
    began = time.monotonic()
    try:
        known = jobs.submit(folder, "csp-al-doctor", command, crew.cores_per_node)
    except RefusedError as refused:
        shutil.rmtree(folder, ignore_errors=True)
        yield False, f"job: refused: {refused}", "look at partition or queue, account and options of the machine file"
        return
    try:
        yield True, f"job: {jobs.scheduler} took it as {known['job_id']}; it is waited for", ""
        found, words = _wait(jobs, known, folder)
        seconds = time.monotonic() - began
    finally:
        jobs.cancel([known])
        shutil.rmtree(folder, ignore_errors=True)
    if found is None:
        said = words or "nothing that is seen here"
        remedy = f"is {folder.parent} on a file system that the nodes share, and {crew.python[0]} there?"
        yield False, f"job: ended and left no answer; it said {said}", remedy
        return
    yield True, f"job: ran on {found.host}, {seconds:.0f} s after it was submitted", ""
    yield True, f"file system: {folder.parent} is shared", ""
    yield from _told(found, machine)
    if found.device is not None:
        right = found.device == crew.terms.stages
        remedy = "the Python of the job needs a torch for this GPU: setup, or programs: {python: ...}"
        yield right or None, f"there: potentials are trained, and relax, on {found.device}", remedy


def _wait(jobs: Jobs, known: dict[str, str | int | None], folder: Path) -> tuple[Found | None, str]:
    """What the job found, or its last words."""
    asked, over = time.monotonic(), None
    while not (folder / FOUND).exists():
        now = time.monotonic()
        if over is None and now - asked > ASK:
            asked = now
            over = now if jobs.are_over([known])[0] else None
        if over is not None and now - over > LATE:
            return None, last_words(folder)
        time.sleep(LOOK)
    return read_json(folder / FOUND, _FOUND), ""


def _told(found: Found, machine: Machine) -> Iterator[Line]:
    ours = f"{sys.version_info.major}.{sys.version_info.minor}"
    same = found.python.startswith(f"{ours}.")
    remedy = "name the same Python in the machine file, programs: {python: ...}, or activate it in setup"
    yield same or None, f"there: Python {found.python}{'' if same else f', here {ours}'}", remedy
    here = version("csp_al")
    yield found.csp_al == here, f"there: csp_al {found.csp_al}, here {here}", remedy
    enough = found.cores >= machine.cores_per_label
    yield enough, f"there: {found.cores} cores usable", "the scheduler gave fewer than a label has: cores_per_node"
    right = abs(found.ahead) < SKEW
    where = "is" if right else f"is {abs(found.ahead):.0f} s {'ahead of' if found.ahead > 0 else 'behind'}"
    yield right or None, f"there: the clock {where} that of the file system", "core hours will be told wrongly"
    for name, place in found.programs.items():
        lacks = "only if a campaign needs it: load it in setup, or name it in programs"
        yield (True if place else None), f"there: {name}: {place or 'not on PATH'}", lacks
    if found.launched is not None:
        right = found.launched == machine.cores_per_label
        words = f"there: {' '.join(machine.command(''))}starts {found.launched} of {machine.cores_per_label} processes"
        yield (
            right,
            words + ("" if right or not found.said else f" ({found.said})"),
            "mend launcher in the machine file",
        )


def _look(folder: Path, machine: Machine, device: str) -> Found:
    """What there is where this runs, as labels need it, or stages of the loop on a device."""
    (folder / "clock").touch()
    ahead = time.time() - (folder / "clock").stat().st_mtime
    launched, said = _launch(machine) if machine.cores_per_label > 1 and not device else (None, "")
    sought = machine.programs if device else dict.fromkeys((*SOUGHT, *machine.programs))
    programs = {name: shutil.which(machine.alone(name)[0]) for name in sought}
    return Found(
        socket.gethostname(),
        sys.version.split()[0],
        version("csp_al"),
        usable_cores(),
        ahead,
        programs,
        launched,
        said,
        _device(device) if device else None,
    )


def _device(wanted: str) -> str:
    """The device that there is for stages, "cpu" where the one that is wanted is not there."""
    from csp_al.potential.devices import available_devices

    return wanted if wanted in available_devices() else "cpu"


def _launch(machine: Machine) -> tuple[int, str]:
    """How many processes the launcher starts, and what it says."""
    *launcher, _ = machine.command("python")
    try:
        command = [*launcher, sys.executable, "-c", "print('here')"]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=STARTS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return 0, in_one_line(error)
    return ran.stdout.count("here"), in_one_line(ran.stderr)[-200:]


if __name__ == "__main__":
    asked_in = Path(sys.argv[1])
    asked = json.loads((asked_in / ASKED).read_text(encoding="utf-8"))
    found_there = _look(asked_in, Machine.model_validate(asked["machine"]), device=asked["device"])
    write_json(asked_in / FOUND, asdict(found_there))
