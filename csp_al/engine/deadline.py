"""How long an evaluation may take, where time in which it was stopped does not count.

    deadline = Deadline(limit, stopped)
    while not deadline.is_over():
        ...  # look, often

A scheduler suspends jobs, and a laptop sleeps: neither says anything of a calculation.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

ASLEEP: Final = 5.0  # s between two looks, beyond which whoever looks was stopped himself
OFTEN: Final = 5.0  # s between two looks at whether a calculation is stopped, which means a look at all processes


class Deadline:
    """Begins anew with `restart`; ``limit`` in s, ``stopped`` says whether the calculation is stopped now."""

    def __init__(self, limit: float, stopped: Callable[[], bool], clock: Callable[[], float] = time.monotonic) -> None:
        self._limit, self._stopped, self._clock = limit, stopped, clock
        self._looked = self._asked = clock()
        self.restart()

    def restart(self) -> None:
        """The next evaluation has begun."""
        self._end = self._clock() + self._limit

    def is_over(self) -> bool:
        """Whether the limit has passed; to be asked every fraction of a second."""
        now = self._clock()
        since, self._looked = now - self._looked, now
        if since > ASLEEP:
            self._end += since
            self._asked = now
        elif now - self._asked > min(OFTEN, self._limit / 10):
            self._end += (now - self._asked) if self._stopped() else 0.0
            self._asked = now
        return now > self._end
