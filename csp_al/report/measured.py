"""A measured powder pattern, as diffractometers and their programs write it: two columns, 2θ and intensity.

    measured = read_measured(Path("measured.xy"))

Columns are separated by blanks, tabs, commas or semicolons; further ones, as errors, are not read. Numbers may have a
decimal comma where something else separates them. Lines before the first with two numbers are a header, and lines that
begin with a sign of a comment stand anywhere.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import numpy as np

from csp_al.printing import printable
from csp_al.report.powder import Pattern
from csp_al.structure_files import read_text

COMMENTS: Final = ("#", "!", ";", "%", "*", "'", '"', "/")
FEWEST: Final = 50
"""Points of a pattern."""
WIDEST: Final = 0.25
"""Degrees of 2θ, the usual step at most: what is wider is a list of peaks, or misses them."""


def read_measured(path: Path) -> Pattern:
    """The points of a file with ascending angles, the mean where one is repeated. Raises ValueError in words."""
    try:
        points = np.array(_points(read_text(path)), dtype=float).reshape(-1, 2)
        _refuse(points)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    angles, which = np.unique(points[:, 0], return_inverse=True)
    return Pattern(angles, np.bincount(which, points[:, 1]) / np.bincount(which))


def _points(text: str) -> list[tuple[float, float]]:
    points: list[tuple[float, float]] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip() or line.lstrip().startswith(COMMENTS):
            continue
        point = _point(line)
        if point is not None:
            points.append(point)
        elif points:
            shown = printable(line.strip())[:30]
            raise ValueError(f"line {number}: two numbers are expected, 2θ and intensity, not {shown!r}")
    return points


def _point(line: str) -> tuple[float, float] | None:
    """The first two numbers of a line; None where it does not begin with two."""
    words = [word for word in re.split(r"[;\s]+", line) if word.strip(",")]
    words = [word.strip(",").replace(",", ".") for word in words] if len(words) >= 2 else line.split(",")
    try:
        return float(words[0]), float(words[1])
    except (ValueError, IndexError):
        return None


def _refuse(points: np.ndarray) -> None:
    """Raise ValueError, in words, for what is no pattern."""
    if len(points) < FEWEST:
        raise ValueError(
            f"{len(points)} lines with two numbers, 2θ and intensity; a pattern has {FEWEST} or more. Of other formats "
            "(xrdml, raw, brml) the program of the diffractometer writes two columns"
        )
    angles, intensities = np.unique(points[:, 0]), points[:, 1]
    if not np.isfinite(points).all():
        raise ValueError("numbers that are not finite")
    if angles[0] < 0 or angles[-1] > 180:
        raise ValueError(f"angles from {angles[0]:g} to {angles[-1]:g}, where 2θ in degrees is expected first")
    if len(angles) < FEWEST or (step := float(np.median(np.diff(angles)))) > WIDEST:
        told = f"steps of {step:g}° in 2θ" if len(angles) >= FEWEST else f"{len(angles)} different angles"
        raise ValueError(f"{told}, so a list of peaks, or too coarse for any; {WIDEST}° or less is needed")
    if np.ptp(intensities) == 0:
        raise ValueError("all intensities are equal")
