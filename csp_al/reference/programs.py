"""Programs of references: how they are run, and what the way in which one ended says.

status = run(["mpirun", "-n", "8", "pw.x", "-in", "pw.in"], folder, "pw.out", "pw.err")
reason = by_sign(SIGNS, output) or killed(status)
"""

from __future__ import annotations

import re
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from csp_al.interfaces import Failure, Reason, ReferenceFailedError
from csp_al.reference.children import die_with_parent, one_thread_each

Signs = Sequence[tuple[Failure, str, Sequence[str]]]
"""Kinds of failures, how words of them begin, and regular expressions of which one is found."""

SIGNS: Final[Signs] = (
    (Failure.DISK_FULL, "disk full", ("No space left on device", "Disk quota exceeded", "disk is full")),
    (Failure.OUT_OF_MEMORY, "out of memory", (
        "insufficient virtual memory", "insufficient memory", "[Cc]annot allocate", "[Oo]ut of memory",
        "Error allocating", "oom-kill",
    )),
    (Failure.CANNOT_RUN, "cannot run", ("error while loading shared libraries", "not executable")),
    (Failure.TIME_LIMIT, "out of time", ("Maximum CPU time exceeded",)),
)  # fmt: skip
"""What is looked for in all that was written, before a program's own errors, which may only follow from it."""

LAUNCHER: Final = re.compile(r".*(?:not enough slots|mpi_init.* failed|MPI_ABORT was invoked|ORTE was unable).*")
SCRATCH: Final = "scratch"  # below the attempt's folder; it does not outlive the attempt
PATIENCE: Final = 30.0  # s in which a program has said its version


def run(command: Sequence[str], directory: Path, output: str, errors: str) -> int:
    """The exit status of a program that runs in this folder and writes into these files there; it dies with us.

    Raises ReferenceFailedError where it cannot be started.
    """
    try:
        with (directory / output).open("wb") as out, (directory / errors).open("wb") as err:
            return subprocess.run(
                command, cwd=directory, stdin=subprocess.DEVNULL, stdout=out, stderr=err, check=False,
                env=one_thread_each(), preexec_fn=die_with_parent,
            ).returncode  # fmt: skip
    except OSError as error:
        words = f"cannot run: {command[0]} ({error.strerror})"
        raise ReferenceFailedError(words, Failure.CANNOT_RUN) from error


def ask(command: Sequence[str], program: str, files: dict[str, str] | None = None) -> str:
    """What a program says of itself, errors last, in a folder with these files alone. Raises ReferenceFailedError."""
    line = " ".join(command)
    with tempfile.TemporaryDirectory() as folder:  # it leaves files
        for name, text in (files or {}).items():
            (Path(folder) / name).write_text(text, encoding="utf-8")
        try:
            ran = subprocess.run(
                command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
                timeout=PATIENCE, check=False, env=one_thread_each(), preexec_fn=die_with_parent,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise ReferenceFailedError(f"{line} said nothing in {PATIENCE:g} s; is it {program}?") from error
        except OSError as error:
            remedy = f"put {program} on PATH (on clusters: module load), or into the machine file's programs"
            raise ReferenceFailedError(f"{line} cannot be run ({error.strerror}); {remedy}") from error
    return f"{ran.stdout}\n{ran.stderr}"


def is_another(command: Sequence[str], program: str, said: str) -> ReferenceFailedError:
    """That a program, by what it said, is not the one that was meant."""
    last = next((line for line in reversed(said.splitlines()) if line.strip()), "nothing")
    return ReferenceFailedError(f"{' '.join(command)} does not say that it is {program}, but: {last.strip()[:200]}")


def by_sign(signs: Signs, written: str) -> Reason | None:
    """The first of these signs that stands there."""
    for kind, what, patterns in signs:
        if found := re.search(f".*(?:{'|'.join(patterns)}).*", written):
            return Reason(kind, f"{what}: {tidy(found[0])}")
    return None


def launcher(errors: str) -> Reason | None:
    """What MPI's launcher complained of."""
    found = LAUNCHER.search(errors)
    return Reason(Failure.MPI, f"MPI: {tidy(found[0])}") if found else None


def killed(status: int) -> Reason | None:
    """By which signal it ended; launchers report one as 128 + its number."""
    number = -status if status < 0 else status - 128
    name = next((known.name for known in signal.Signals if known == number), "")
    if name == "SIGKILL":
        return Reason(Failure.KILLED, "killed by SIGKILL, by the kernel if memory ran out")
    return Reason(Failure.CRASHED, f"killed by {name}") if name else None


def cut_short(program: str, output: str, errors: str, status: int, *, done: bool) -> Reason | None:
    """That it wrote nothing, or not to its end, or that it says of itself that it failed."""
    if not output.strip():
        return Reason(Failure.NO_OUTPUT, f"no output: {program} ended with exit status {status}{_after(errors)}")
    if not done:
        return Reason(Failure.INCOMPLETE_OUTPUT, f"output ends early: exit status {status}{_after(output)}")
    words = f"exit status {status}: {program} says that the job is done, and that it failed"
    return Reason(Failure.OTHER, words) if status else None


def tidy(line: str) -> str:
    """One line of a program's output, fit to print."""
    return "".join(letter if letter.isprintable() else "?" for letter in " ".join(line.split()))[:200]


def _after(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return f", after: {tidy(lines[-1])}" if lines else ""
