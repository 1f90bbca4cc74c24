"""A foundation potential, asked in a process of its own, which outlives what is asked but not who asks.

    chgnet = Client("chgnet", {})
    chgnet.about().elements
    energy, forces, stress = chgnet.predict(structures)
    chgnet.close()

Universal potentials do not share an environment with each other, load slowly, and grow; so one is loaded once, in the
environment that has it, and what happens there does not happen here.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any, Final

import numpy as np

from csp_al.foundation import worker
from csp_al.interruption import safe_point
from csp_al.structures import Floats, Structures

PACKAGES: Final = {"chgnet": ("chgnet", "chgnet>=0.4.2"), "sevenn": ("sevennet", "sevenn>=0.13")}
"""What a model that is known by name needs: the extra of csp_al that has it, and what pip calls it elsewhere."""

DEATHS: Final = 3
"""Processes that may die on one question before it is given up."""

LOOK: Final = 0.2  # s between looks at whether we are to end
GRACE: Final = 5.0  # s for a process to end by itself
LOG_BYTES: Final = 1_000_000  # what a model prints is kept up to that
LONGEST: Final = 1 << 48  # bytes of a message: the first eight characters of a text, read as a length, are more
THREADS: Final = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")


@dataclass(frozen=True)
class About:
    """What a model is: versions of its packages, checksums (sha256) of its files of weights by their names.

    Elements and functional are None where they are not known.
    """

    versions: dict[str, str]
    weights: dict[str, str]
    elements: list[str] | None
    functional: str | None


class FoundationError(Exception):
    """A model cannot be asked; the message is one line, with what to do."""


@dataclass(frozen=True)
class _Worker:
    process: subprocess.Popen[bytes]
    folder: TemporaryDirectory[str]
    """Where it is: some calculators write into the current folder."""

    @property
    def log(self) -> Path:
        """What it prints."""
        return Path(self.folder.name) / "log"


class Client:
    """A model, asked in a process of its own, which is started when it is first needed.

    ``command`` is the Python to run, ``folders`` are where modules of import paths are looked for after all others,
    that of the campaign file first; names of files in the parameters may be relative to that.
    """

    def __init__(
        self,
        model: str,
        parameters: Mapping[str, Any],
        *,
        command: Sequence[str] = (sys.executable,),
        folders: Sequence[Path] = (),
        device: str = "cpu",
        threads: int = 1,
    ) -> None:
        self.model = model
        self.failures: dict[int, str] = {}
        """Rows of the last batch that the model could not judge, and why."""
        self._command = list(command)
        self._threads = threads
        self._what = {
            "model": model,
            "parameters": dict(parameters),
            "folders": [str(folder.resolve()) for folder in folders],
            "device": device,
            "threads": threads,
        }
        self._worker: _Worker | None = None
        self._about: About | None = None

    def about(self) -> About:
        """What it is. Raises FoundationError where it cannot be loaded."""
        if self._about is None:
            self._ask(None)
        assert self._about is not None  # else it raised
        return self._about

    def predict(self, structures: Structures) -> tuple[Floats, Floats, Floats]:
        """Energy (n,) eV, forces (N, 3) eV/Å, stress (n, 3, 3) eV/Å^3, NaN where the model could not judge: `failures`.

        Raises FoundationError where there is nobody to ask.
        """
        self.failures = {}
        if not len(structures):
            return np.zeros(0), np.zeros((0, 3)), np.zeros((0, 3, 3))
        question = worker.pack(
            None,
            numbers=structures.numbers,
            positions=structures.positions,
            cells=structures.cells,
            ptr=structures.ptr,
        )
        failed, arrays = self._ask(question)
        self.failures = dict(failed)
        return arrays["energy"], arrays["forces"], arrays["stress"]

    def close(self) -> None:
        """End the process; who asks again starts another."""
        if self._worker is not None:
            _pipe(self._worker.process.stdin).close()
            self._end()

    def _ask(self, question: bytes | None) -> Any:
        """The answer; a process that dies over it is followed by another."""
        why = ""
        for _ in range(DEATHS):
            try:
                running = self._worker or self._start()
                return None if question is None else self._exchange(running, question)
            except (EOFError, BrokenPipeError):
                why = self._end()
            except BaseException:  # of a signal too: half an answer must not pass for the next one
                self._kill()
                raise
        raise FoundationError(f"{self.model}: its process, {self._python}, {why}, {DEATHS} times in a row")

    def _start(self) -> _Worker:
        """A new process that has loaded the model. Raises FoundationError where it cannot."""
        folder = TemporaryDirectory(prefix="csp-al-foundation-", ignore_cleanup_errors=True)
        with (Path(folder.name) / "log").open("ab") as log:
            try:
                process = subprocess.Popen(
                    [*self._command, worker.__file__],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    bufsize=0,
                    cwd=folder.name,
                    start_new_session=True,  # a key pressed in the terminal is for us alone
                    env=os.environ | dict.fromkeys(THREADS, str(self._threads)),
                )
            except OSError as error:
                folder.cleanup()
                msg = f"{self.model}: {self._python} cannot be started ({error.strerror}); name a Python that has it"
                raise FoundationError(msg) from error
        self._worker = _Worker(process, folder)
        told, _ = self._exchange(self._worker, worker.pack(self._what))
        if told.get("error"):
            raise FoundationError(self._in_words(told["error"], told["missing"]))
        about = About(told["version"], told["weights"], told["elements"], told["functional"])
        if self._about not in (None, about):
            raise FoundationError(f"{self.model} has changed while it was used: it was {self._about}, it is {about}")
        self._about = about
        return self._worker

    def _exchange(self, running: _Worker, question: bytes) -> tuple[Any, dict[str, Any]]:
        """Send and receive. Raises EOFError or BrokenPipeError where the process has died."""
        with suppress(FileNotFoundError):  # somebody tidies up folders of temporary files
            if running.log.stat().st_size > LOG_BYTES:
                os.truncate(running.log, 0)
        rest = memoryview(question)
        while rest:
            rest = rest[os.write(_pipe(running.process.stdin).fileno(), rest) :]
        head = self._read(running, worker.HEAD.size)
        (length,) = worker.HEAD.unpack(head)
        if length > LONGEST:
            msg = f"{self.model}: {self._python} says {head!r}... where a Python would load it; name one that has it"
            raise FoundationError(msg)
        return worker.unpack(self._read(running, length))

    def _read(self, running: _Worker, size: int) -> bytes:
        """So many bytes, with an ear for signals: an answer may take minutes."""
        pipe = _pipe(running.process.stdout).fileno()
        poll = select.poll()
        poll.register(pipe, select.POLLIN)
        parts = []
        while size:
            safe_point()
            if not poll.poll(1000 * LOOK):
                continue
            part = os.read(pipe, min(size, 1 << 20))
            if not part:
                raise EOFError
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    @property
    def _python(self) -> str:
        return " ".join(self._command)

    def _in_words(self, error: str, missing: str | None) -> str:
        """Why it cannot be loaded, and what helps."""
        own = self._command == [sys.executable]
        where = "" if own else f" in the environment of {self._python}"
        if missing in PACKAGES and self.model in worker.FILES:
            extra, package = PACKAGES[missing]
            return f"{missing} is not installed{where}; pip install '{f'csp_al[{extra}]' if own else package}'"
        if missing:
            return f"{self.model}: no module {missing}{where}; install it there, or put it beside the campaign file"
        return f"{self.model}{where}: {error}"

    def _end(self) -> str:
        """Of a process that ends by itself, or should: how it ended, in words."""
        assert self._worker is not None  # who calls has it
        process = self._worker.process
        try:
            status = process.wait(GRACE)
        except subprocess.TimeoutExpired:
            status = -signal.SIGKILL
        last = _last_line(self._worker.log)
        self._kill()
        how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        return f"{how} ({last})" if last else how

    def _kill(self) -> None:
        """End the process and all that it has started, at once."""
        if self._worker is None:
            return
        process, folder = self._worker.process, self._worker.folder
        self._worker = None
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # its session is its own
        process.wait()
        _pipe(process.stdin).close()
        _pipe(process.stdout).close()
        folder.cleanup()


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None  # opened in _start
    return pipe


def _last_line(log: Path) -> str:
    """That says something."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
