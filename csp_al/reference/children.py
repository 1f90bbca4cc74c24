"""Programs that run for us: how they share the machine, and that they do not outlive us.

    adopt_orphans()
    before = descendants()
    ...  # programs are started, which start others, which part with all of them
    end_all(lambda: descendants() - before)

A process whose parent has died goes to the next one above that adopts orphans, so that a worker finds all that its
calculations have started, daemons too (Linux). Where a worker was killed itself, whoever goes on knows what it has
started by the mark in its environment, which they inherit, and by its session.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Final, TypeVar

import psutil

from csp_al.campaign.machine import THREADS
from csp_al.claim import MARK
from csp_al.interruption import ENDS, safe_point
from csp_al.printing import say

PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h
PR_SET_CHILD_SUBREAPER: Final = 36

PATIENCE: Final = 10.0  # s after which what does not end, as where a file system hangs, is left alone
LOOK: Final = 0.5  # s in which killed processes end

T = TypeVar("T")


def in_a_child(function: Callable[[], T]) -> T:
    """What the function returns, called in a process of its own: what it imports, changes and leaves open ends with it.

    What it returns goes through pickle. Raises EOFError where its process dies, or the function raises.
    """
    sys.stdout.flush()  # else the child prints it too
    forking = get_context("fork")
    ours, theirs = forking.Pipe(duplex=False)
    child = forking.Process(target=_answer, args=(function, theirs))
    child.start()
    theirs.close()
    try:
        answer: T = ours.recv()
        child.join(PATIENCE)
    except EOFError:
        safe_point()  # a key pressed in the terminal is for both
        raise
    finally:
        child.kill()
        child.join()
    return answer


def _answer(function: Callable[[], object], pipe: Connection) -> None:
    for number in ENDS:
        signal.signal(number, signal.SIG_DFL)
    pipe.send(function())


def one_thread_each() -> dict[str, str]:
    """The environment of a program whose cores are used by processes; several of them share the machine unbound.

    Open MPI binds the first process of every program to the first core, so that two programs would share one.
    """
    bound = {"OMPI_MCA_hwloc_base_binding_policy": "none", "PRTE_MCA_hwloc_default_binding_policy": "none"}
    return os.environ | dict.fromkeys(THREADS, "1") | bound


def die_with_parent() -> None:
    """To be called in a new process: it is killed when the process that made it ends, however that ends (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def adopt_orphans() -> None:
    """From now on, processes below this one whose parents have died become its children (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def descendants() -> set[psutil.Process]:
    """All processes below this one; where orphans are not adopted, those of this one's mark too."""
    found = set(psutil.Process().children(recursive=True))
    mark = os.environ.get(MARK)
    if mark and sys.platform != "linux":
        found |= _started_by({mark}) - {psutil.Process()}
    return found


def wake(pid: int) -> None:
    """Let a child of ours go on if it was suspended while we were not."""
    with suppress(psutil.Error):  # it has just ended
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_STOPPED:
            process.resume()


def any_stopped() -> bool:
    """Whether a process below this one is suspended, as schedulers do with jobs that make room for others."""
    for process in descendants():
        with suppress(psutil.Error):  # it ends while it is looked at
            if process.status() == psutil.STATUS_STOPPED:
                return True
    return False


def end_all(find: Callable[[], set[psutil.Process]]) -> None:
    """Kill what is found, and look again, until nothing is: what is being killed may start another."""
    deadline = time.monotonic() + PATIENCE
    while found := find():
        for process in found:
            with suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(found, timeout=LOOK)  # which reaps those that are ours
        if time.monotonic() > deadline:
            say(f"cannot end {', '.join(str(process.pid) for process in found)}: they hang in the kernel", err=True)
            return


def end_started_by(marks: AbstractSet[str], sessions: AbstractSet[int] = frozenset()) -> None:
    """End what inherited one of these marks, or is of one of the sessions: those that have just lost their first.

    The number of a session is given to no other process while one of its own lives, but may be later.
    """
    if marks:
        end_all(lambda: _started_by(marks, sessions))


def _started_by(marks: AbstractSet[str], sessions: AbstractSet[int] = frozenset()) -> set[psutil.Process]:
    return {process for process in psutil.process_iter() if _is_of(process, marks, sessions)}


def _is_of(process: psutil.Process, marks: AbstractSet[str], sessions: AbstractSet[int]) -> bool:
    with suppress(psutil.Error, OSError):  # it ends while it is looked at, or is another user's
        if process.environ().get(MARK) in marks:
            return True
    with suppress(psutil.Error, OSError):
        return os.getsid(process.pid) in sessions and process.status() != psutil.STATUS_ZOMBIE
    return False
