"""Campaigns whose every change of a file is a point to stop at: killed there, or out of room from there on (Linux).

    shim = Shim(folder)  # compiles io_shim.c, which counts
    with Server(shim) as server:
        shim.kill(trial / "runs", 17)  # the process that makes call 17 below this folder, whichever process that is
        status = server.run(trial, ["run", "small.yaml"])  # csp-al, its output in trial/output.txt
        shim.calls, shim.notes()

To import what a driver needs takes longer than a small campaign, so the server imports it once, and every run is
forked from it.
"""

from __future__ import annotations

import gc
import json
import math
import mmap
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, NoReturn, Self

COUNT, TRACE, KILL, FAIL = range(4)
"""Modes of io_shim.c."""

HEAD = struct.Struct("=QQQII")  # count, at, again, mode, error; the folder's name follows
SIZE = 4096
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
TOO_LONG = "too long"
IMPORTED = (
    "csp_al.cli.driver", "csp_al.running.run", "csp_al.engine.local", "csp_al.loop.search", "csp_al.potential.training",
    "csp_al.potential.networks.schnet",
    "csp_al.report.tables", "numba.np.ufunc.parallel", "pymatgen.core", "sklearn.cluster",
)  # fmt: skip
"""What a driver imports on its way, by the modules that import the rest. None of it may start a thread."""


class NoShimError(Exception):
    """The shim cannot be made here; the message says why."""


class Note(NamedTuple):
    """A call that was noted; ``process`` is "driver", "worker" or "attempt"."""

    number: int
    pid: int
    call: str
    path: str
    process: str


class Shim:
    """The shim, compiled into the folder, and what it is told. Raises NoShimError."""

    def __init__(self, folder: Path) -> None:
        self.library = _compiled(folder)
        self.control = folder / "control"
        self.report = folder / "control.report"
        self.control.write_bytes(bytes(SIZE))
        with self.control.open("r+b") as file:
            self._shared = mmap.mmap(file.fileno(), SIZE)

    @property
    def environment(self) -> dict[str, str]:
        """What a program, and all that it starts, must find in its environment to be counted."""
        return {"LD_PRELOAD": str(self.library), "CSP_IO_CONTROL": str(self.control)}

    def count(self, folder: Path) -> None:
        """Count from now on the calls that change files below the folder."""
        self._tell(folder, COUNT)

    def trace(self, folder: Path) -> None:
        """Count and note them."""
        self._tell(folder, TRACE)

    def kill(self, folder: Path, at: int, again: int = 0) -> None:
        """Count them, and kill the process that comes to this one; it is noted.

        Those that are left go on, and the one that comes to the call so many later is killed likewise, the last one.
        """
        self._tell(folder, KILL, at, again=again)

    def fail(self, folder: Path, at: int, error: int) -> None:
        """Count them, and from this one on let all that may need room fail with this number of `errno`."""
        self._tell(folder, FAIL, at, error=error)

    @property
    def calls(self) -> int:
        """How many were counted."""
        count: int = HEAD.unpack_from(self._shared)[0]
        return count

    def notes(self) -> list[Note]:
        """What was noted since the shim was last told what to do."""
        lines = self.report.read_text(errors="replace").splitlines() if self.report.exists() else []
        return [_note(*line.split("\t")) for line in lines]

    def _tell(self, folder: Path, mode: int, at: int = 0, *, again: int = 0, error: int = 0) -> None:
        name = os.fsencode(folder.resolve())
        self._shared[HEAD.size :] = bytes(SIZE - HEAD.size)  # no folder: nothing is counted while the rest changes
        self.report.unlink(missing_ok=True)
        HEAD.pack_into(self._shared, 0, 0, at, again, mode, error)
        self._shared[HEAD.size : HEAD.size + len(name)] = name


class Server:
    """A process that has imported what a driver needs, and forks one for each run."""

    def __init__(self, shim: Shim) -> None:
        paths = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            env=os.environ | shim.environment | {"PYTHONPATH": paths} | dict.fromkeys(THREADS, "1"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.communicate()

    def run(
        self, folder: Path, arguments: Sequence[str], seconds: float = 150, signalled: tuple[int, float] = (0, math.inf)
    ) -> int:
        """Run `csp-al` in the folder: its exit status, negative for a signal. Raises TimeoutError.

        ``signalled`` is a signal that it gets, and after how many seconds. A run that takes too long leaves the Python
        stack of its driver at the end of output.txt, and is killed.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        request = {"folder": str(folder), "arguments": list(arguments), "seconds": seconds, "signalled": signalled}
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline().strip()
        if answer == TOO_LONG:
            raise TimeoutError(f"{folder}: longer than {seconds:g} s\n{(folder / 'output.txt').read_text()}")
        return int(answer)


def _compiled(folder: Path) -> Path:
    compiler = next((name for name in ("cc", "gcc", "g++") if shutil.which(name)), None)
    if sys.platform != "linux" or compiler is None:
        raise NoShimError("the shim that counts calls needs Linux and a C compiler")
    library = folder / "io_shim.so"
    options = ["-x", "c", "-shared", "-fPIC", "-O2", "-U_FORTIFY_SOURCE"]
    subprocess.run([compiler, *options, "-o", library, Path(__file__).with_name("io_shim.c"), "-ldl"], check=True)
    return library


def processes_in(folder: Path) -> list[str]:
    """Command lines of the processes that work in the folder or below."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it ends while it is looked at
            if (process / "cwd").resolve().is_relative_to(folder.resolve()):
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return found


def _note(number: str, pid: str, call: str, path: str, line: str, parents: str) -> Note:
    process = "driver" if "csp_al.engine.worker" not in line else "worker"
    return Note(int(number), int(pid), call, path, "attempt" if "csp_al.engine.worker" in parents else process)


def _serve() -> None:
    for name in IMPORTED:
        import_module(name)
    gc.freeze()
    for line in sys.stdin:
        request = json.loads(line)
        assert len(os.listdir("/proc/self/task")) == 1  # noqa: PTH208 - a fork would lose the other threads
        child = os.fork()
        if child == 0:
            _be_the_driver(Path(request["folder"]), request["arguments"])
        print(_wait(child, request["seconds"], *request["signalled"]), flush=True)


def _be_the_driver(folder: Path, arguments: list[str]) -> NoReturn:
    import faulthandler

    from csp_al.cli import app

    status = 1
    try:
        os.chdir(folder)
        nothing = os.open(os.devnull, os.O_RDONLY)
        output = os.open("output.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        for source, target in ((nothing, 0), (output, 1), (output, 2)):
            os.dup2(source, target)
        faulthandler.register(signal.SIGUSR1)
        app(arguments)
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _wait(child: int, seconds: float, number: int, moment: float) -> int | str:
    began = time.monotonic()
    while (passed := time.monotonic() - began) < seconds:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if passed >= moment:
            os.kill(child, number)
            moment = math.inf
        time.sleep(0.01)
    os.kill(child, signal.SIGUSR1)
    time.sleep(1)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return TOO_LONG


if __name__ == "__main__":
    _serve()
