"""EMT that is slow, or that fails in some way, as long as a file is there, for tests of a machine that fails."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path
from typing import Any

from ase.calculators.emt import EMT

CAMPAIGN = """
name: small
seed: 3
pool: {{formula: Al4, size: 12, volume_per_atom: [13, 23], min_distance: {{Al-Al: 2.2}}}}
reference: {{kind: ase, calculator: faulty_emt.FaultyEMT, parameters: {{folder: {folder}}}, time_limit: 60}}
potential: {{members: 2, features: 8, interactions: 1, cutoff: 4.0, steps: 5}}
relax: {{uncertainty: 3}}
select: {{per_cycle: 4, clusters: 4}}
stop: {{top_k: 1, max_cycles: 1}}
finish: {{max_steps: 3}}
"""


class FaultyEMT(EMT):
    """EMT; while the file ``slow`` is there it waits, with ``full`` it finds no room, with ``away`` no licence server.

    With ``wrong`` it does not converge. Pids go to ``pids``.
    """

    def __init__(self, folder: str) -> None:
        super().__init__()
        self.folder = Path(folder)

    def calculate(self, atoms: Any = None, *args: Any, **kwargs: Any) -> None:
        with (self.folder / "pids").open("a", encoding="ascii") as file:
            file.write(f"{os.getpid()}\n")
        while (self.folder / "slow").exists():
            time.sleep(0.01)
        if (self.folder / "full").exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if (self.folder / "away").exists():
            raise RuntimeError("cannot reach the licence server")
        if (self.folder / "wrong").exists():
            raise RuntimeError("not converged")
        super().calculate(atoms, *args, **kwargs)
