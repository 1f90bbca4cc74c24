"""The one door for what is printed: nothing that a terminal would act upon, in letters of any encoding.

    say(f"{run}: no driver is running")

Texts of run directories and file names may be a stranger's, and hold escape sequences.
"""

from __future__ import annotations

import io
import sys


def say(text: object, *, err: bool = False) -> None:
    """Print lines on standard output, or standard error, each made printable; JSON and CSV stay what they are."""
    print(printable_lines(str(text)), file=sys.stderr if err else sys.stdout, flush=True)


def say_over(text: str, *, last: bool) -> None:
    """Print a line of a terminal over the one before; the last one stays."""
    print(f"\r\x1b[K{printable(text)}", end="\n" if last else "", flush=True)


def printable(text: str) -> str:
    """The text with tabs kept and every other control character, and half of a surrogate pair, replaced."""
    return "".join(letter if letter == "\t" or letter.isprintable() else "\ufffd" for letter in text)


def printable_lines(text: str) -> str:
    """Several lines, each made printable."""
    return "\n".join(map(printable, text.split("\n")))


def replace_unknown_letters() -> None:
    """From now on letters that standard output and error cannot encode, such as Å in ASCII, are printed as ?."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
