"""What is wrong with a campaign file, and where: one problem a line, all of them at once."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from csp_al.printing import printable

KeyPath = tuple[Any, ...]
"""Where a value stands: ("pool", "min_distance", "Si-Si"), ("pool", "seeds", 0)."""

MAX_SHOWN = 50  # problems printed; a file with more is of another kind, or broken early on
SOURCE_WIDTH = 140  # characters of a source line that are printed


@dataclass(frozen=True)
class Location:
    """A place in a file: line and column from 1, and the source line. Line 0 stands for the file as a whole."""

    path: Path
    line: int = 0
    column: int = 0
    source: str = ""

    def __str__(self) -> str:
        return f"{self.path}:{self.line}:{self.column}" if self.line else str(self.path)

    @property
    def excerpt(self) -> str:
        """The source line, cut to a readable width, and a caret under the column."""
        start = max(0, self.column - SOURCE_WIDTH // 2) if len(self.source) > SOURCE_WIDTH else 0
        source = printable(self.source[start : start + SOURCE_WIDTH])
        margin = re.sub(r"[^\t]", " ", source[: self.column - 1 - start])
        return f"  {source}\n  {margin}^"


@dataclass(frozen=True)
class Finding:
    """What is wrong with the value of a key, or with the key itself, before it is known where in a file it stands."""

    key: KeyPath
    message: str
    at_key: bool = False

    def __str__(self) -> str:
        return ": ".join(part for part in (dotted(self.key), self.message) if part)


@dataclass(frozen=True)
class Problem:
    """A finding in its file."""

    location: Location
    key: KeyPath
    message: str

    def __str__(self) -> str:
        head = ": ".join(part for part in (str(self.location), dotted(self.key), self.message) if part)
        return f"{head}\n{self.location.excerpt}" if self.location.line else head


class CampaignError(Exception):
    """A campaign file that cannot be used; its text has every problem, in the order of the file."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(sorted(problems, key=lambda p: (p.location.line, p.location.column)))
        shown = [str(problem) for problem in self.problems[:MAX_SHOWN]]
        if len(self.problems) > MAX_SHOWN:
            shown.append(f"... and {len(self.problems) - MAX_SHOWN} more")
        super().__init__("\n".join(shown))


class Misfit(ValueError):  # noqa: N818 - several findings, not one error
    """Values of one section that do not fit together; the keys of the findings are those of the section."""

    def __init__(self, findings: Iterable[Finding]) -> None:
        self.findings = tuple(findings)
        super().__init__("; ".join(map(str, self.findings)))


def dotted(key: KeyPath) -> str:
    """A key path as people write it: pool.seeds[0]."""
    text = "".join(f"[{part}]" if type(part) is int else f".{shown(part)}" for part in key)
    return text.removeprefix(".")


def shown(value: Any) -> str:
    """A value as a message quotes it: short, on one line, nothing that a terminal would act upon."""
    text = value if isinstance(value, str) else _as_yaml(value)
    return printable(text if len(text) <= 60 else f"{text[:57]}...")


def _as_yaml(value: Any) -> str:
    """As it would stand in the file; collections by their kind, since they can be long."""
    match value:
        case None:
            return "nothing"
        case bool():
            return str(value).lower()
        case dict():
            return "keys with values"
        case list() | tuple():
            return "a list"
        case int() if abs(value) >= 10**50:  # Python refuses to print integers of thousands of digits
            return "an integer of more than 50 digits"
    return str(value)
