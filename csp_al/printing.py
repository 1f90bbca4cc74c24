"""Standard output of any encoding."""

from __future__ import annotations

import io
import sys


def replace_unknown_letters() -> None:
    """From now on letters that standard output and error cannot encode, such as Å in ASCII, are printed as ?."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
