"""A process that answers questions over its pipes, until it dies or is no longer needed.

    running = start([sys.executable, worker.__file__], threads=2)
    answer = running.ask(question)
    running.end()

Both are bytes that begin with their length (`csp_al.foundation.worker.HEAD`); an answer is returned without it.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Final

from csp_al.campaign.machine import THREADS
from csp_al.foundation.worker import HEAD
from csp_al.interruption import safe_point

LOOK: Final = 0.2  # s between looks at whether we are to end
GRACE: Final = 5.0  # s for a process to end by itself
LOG_BYTES: Final = 1_000_000  # what a model prints is kept up to that
LONGEST: Final = 1 << 48  # bytes of a message: the first eight characters of a text, read as a length, are more


class DeathError(Exception):
    """A process has died; the message is how."""


class NoPythonError(Exception):
    """A program is not there, or is none that answers; the message is what it does and what helps."""


@dataclass(frozen=True)
class Process:
    """One that was started. After an error of `ask` it is gone."""

    process: subprocess.Popen[bytes]
    folder: TemporaryDirectory[str]
    """Where it is: some calculators write into the current folder."""

    @property
    def log(self) -> Path:
        """What it prints."""
        return Path(self.folder.name) / "log"

    def ask(self, question: bytes) -> bytes:
        """Send and receive. Raises DeathError where it has died, and NoPythonError."""
        try:
            return self._send_and_receive(question)
        except (EOFError, BrokenPipeError) as error:
            raise DeathError(self._end_in_words()) from error
        except BaseException:  # of a signal too: half an answer must not pass for the next one
            self.kill()
            raise

    def end(self) -> None:
        """Let it end by itself, and kill it where it does not."""
        _pipe(self.process.stdin).close()
        self._end_in_words()

    def kill(self) -> None:
        """End it and all that it has started, at once."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)  # its session is its own
        self.process.wait()
        _pipe(self.process.stdin).close()
        _pipe(self.process.stdout).close()
        self.folder.cleanup()

    def _send_and_receive(self, question: bytes) -> bytes:
        with suppress(FileNotFoundError):  # somebody tidies up folders of temporary files
            if self.log.stat().st_size > LOG_BYTES:
                os.truncate(self.log, 0)
        rest = memoryview(question)
        while rest:
            rest = rest[os.write(_pipe(self.process.stdin).fileno(), rest) :]
        head = self._read(HEAD.size)
        (length,) = HEAD.unpack(head)
        if length > LONGEST:
            raise NoPythonError(f"says {head!r}... where a Python would load it; name one that has it")
        return self._read(length)

    def _read(self, size: int) -> bytes:
        """So many bytes, with an ear for signals: an answer may take minutes."""
        pipe = _pipe(self.process.stdout).fileno()
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

    def _end_in_words(self) -> str:
        """Of a process that ends by itself, or should: how it ended."""
        try:
            status = self.process.wait(GRACE)
        except subprocess.TimeoutExpired:
            status = -signal.SIGKILL
        last = _last_line(self.log)
        self.kill()
        how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        return f"{how} ({last})" if last else how


def start(command: Sequence[str], threads: int) -> Process:
    """A new process in a folder of its own. Raises NoPythonError, and OSError where there is no room for the folder."""
    folder = TemporaryDirectory(prefix="csp-al-foundation-", ignore_cleanup_errors=True)
    with (Path(folder.name) / "log").open("ab") as log:
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                bufsize=0,
                cwd=folder.name,
                start_new_session=True,  # a key pressed in the terminal is for us alone
                env=os.environ | dict.fromkeys(THREADS, str(threads)),
            )
        except OSError as error:
            folder.cleanup()
            msg = f"cannot be started ({error.strerror}); name a Python that has it"
            raise NoPythonError(msg) from error
    return Process(process, folder)


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None  # opened by `start`
    return pipe


def _last_line(log: Path) -> str:
    """That says something."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
