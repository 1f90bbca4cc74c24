"""SIGTERM and SIGINT, heard at safe points: between steps of training, between looks at calculations.

    with interruptible():
        for step in steps:
            safe_point()

An exception that a signal raises wherever it meets the program may come out of compiled code as another one, or not at
all. So a signal is noted, and raised at the next safe point; where none comes in time it is raised where it stands.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

ENDS: Final = (signal.SIGTERM, signal.SIGINT)
PATIENCE: Final = 2.0
"""s from a signal to the next safe point, beyond which it is not waited for."""

MOMENT: Final = 0.1
"""s after which a signal comes again that was lost in compiled code."""

_heard: list[int] = []
"""The signals that have come within `interruptible`."""

_listening: list[bool] = []
"""Whether we are within it."""


class Interrupted(BaseException):
    """SIGTERM or SIGINT, and the exit status for it; not an Exception, so that nothing on the way swallows it."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.status = 128 + number
        super().__init__(signal.Signals(number).name)


def is_interruptible() -> bool:
    """Whether we are within `interruptible`."""
    return bool(_listening)


def safe_point() -> None:
    """Raise `Interrupted` if a signal has come."""
    if _heard:
        raise Interrupted(_heard[0])


@contextmanager
def interruptible() -> Iterator[None]:
    """Turn SIGTERM and SIGINT into `Interrupted`, so that everything is closed on the way out."""
    hook = sys.unraisablehook

    def hear(number: int, _: FrameType | None) -> None:
        _heard.append(number)
        if len(_heard) > 1:
            raise Interrupted(_heard[0])
        _come_again(number, PATIENCE)

    def lost(what: sys.UnraisableHookArgs) -> None:
        if isinstance(what.exc_value, Interrupted):
            _come_again(what.exc_value.number, MOMENT)
        else:
            hook(what)

    before = {number: signal.signal(number, hear) for number in ENDS}
    sys.unraisablehook = lost
    _listening.append(True)
    try:
        yield
    finally:
        _listening.pop()
        _heard.clear()
        sys.unraisablehook = hook
        for number, handler in before.items():
            signal.signal(number, handler)


def end_in_peace() -> None:
    """Let no further signal, where signals are ours, keep us from ending what we have started, which takes seconds."""
    for number in ENDS if _listening else ():
        signal.signal(number, signal.SIG_IGN)


def _come_again(number: int, seconds: float) -> None:
    """Send the signal to this process again, unless nobody listens any more by then."""

    def send() -> None:
        if callable(signal.getsignal(number)) and _heard:
            os.kill(os.getpid(), number)

    timer = threading.Timer(seconds, send)
    timer.daemon = True
    timer.start()
