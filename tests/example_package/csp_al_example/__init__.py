"""What a package adds to csp_al, shown by an example: importing it leaves a line in a file that the tests name."""

from __future__ import annotations

import os
from pathlib import Path

if "CSP_AL_EXAMPLE_IMPORTED" in os.environ:
    with Path(os.environ["CSP_AL_EXAMPLE_IMPORTED"]).open("a", encoding="ascii") as file:
        file.write(f"{os.getpid()}\n")
