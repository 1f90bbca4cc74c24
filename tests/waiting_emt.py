"""EMT that keeps some of its results back: labels that come in late, however fast the machine is."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import Any

from ase.calculators.emt import EMT

SHARE = 0.3
LONGEST = 300.0  # s


class WaitingEMT(EMT):
    """EMT that waits with one structure in three of the first cycle of a ``run`` until an ensemble is trained."""

    def __init__(self, run: str) -> None:
        super().__init__()
        self.begins, self.ends = Path(run, "check/manifest.json"), Path(run, "cycle-00/train/manifest.json")

    def calculate(self, atoms: Any = None, *args: Any, **kwargs: Any) -> None:
        super().calculate(atoms, *args, **kwargs)
        digest = hashlib.sha256(atoms.positions.round(1).tobytes()).digest()
        longest = time.monotonic() + LONGEST
        while digest[0] < SHARE * 256 and self.begins.exists() and not self.ends.exists():
            assert time.monotonic() < longest
            time.sleep(0.05)
