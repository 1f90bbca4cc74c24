"""What a calculation prints, in a file that stays small: its beginning and its end.

printed, output = os.pipe()
...  # somebody prints into output
while take_in(printed, Path("output.log")):
    ...
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Final

KEPT: Final = 200_000  # bytes of the beginning, and of the end
CHUNK: Final = 65536  # bytes, of a pipe of Linux
CHUNKS: Final = 64  # taken in at most before the caller can look at something else
LEFT_OUT: Final = b"\n[... what was printed here is left out: the first and the last %d kB are kept ...]\n" % (
    KEPT // 1000
)


def take_in(pipe: int, log: Path) -> bool:
    """Move what waits in a pipe that does not block to the end of the log; False when nobody can write any longer.

    What finds no room in the log, or no log, is lost: it is not what the calculation was for.
    """
    for _ in range(CHUNKS):
        try:
            printed = os.read(pipe, CHUNK)
        except BlockingIOError:
            return True
        if not printed:
            return False
        with suppress(OSError):
            with log.open("ab") as file:
                file.write(printed)
            shorten(log)
    return True


def shorten(log: Path) -> None:
    """Leave out the middle of a log that has become long; one that is not there is left alone."""
    with suppress(FileNotFoundError):
        if log.stat().st_size > 3 * KEPT:  # a look is cheap, also over a network; it is asked for all the time
            _leave_out_the_middle(log)


def _leave_out_the_middle(log: Path) -> None:
    with log.open("r+b") as file:
        file.seek(-KEPT, os.SEEK_END)
        end = file.read()
        file.seek(KEPT)
        file.write(LEFT_OUT + end)
        file.truncate()
