"""Crystals as pictures for print: energy against volume, energy by rank, powder patterns. No browser is needed.

draw(crystals, Path("energies.pdf"))
draw_pattern(pattern, lines, "01-TiO2-136", Path("01-TiO2-136.png"))
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from csp_al.report.powder import Lines, Pattern

if TYPE_CHECKING:
    from ase import Atoms

BLUE: Final = "#0072B2"
NAMED: Final = 12
"""Points at most that have their space group beside them, and lines that have their hkl."""
APART: Final = 1.0
"""Degrees between lines that are named, so that names do not lie upon each other."""


def draw(crystals: Sequence[Atoms], path: Path) -> None:
    """Write both pictures side by side; the suffix of the path says in which format.

    ``info`` of the crystals has space_group (its number), and energy_per_atom or predicted_energy_per_atom (eV).
    """
    from matplotlib.figure import Figure

    predicted = "energy_per_atom" not in crystals[0].info
    key = "predicted_energy_per_atom" if predicted else "energy_per_atom"
    ordered = sorted(crystals, key=lambda atoms: atoms.info[key])
    above = [1000 * (atoms.info[key] - ordered[0].info[key]) for atoms in ordered]
    figure = Figure(figsize=(8.0, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    volumes = [atoms.get_volume() / len(atoms) for atoms in ordered]
    ranks = list(range(1, len(ordered) + 1))
    for axes, places, name in ((left, volumes, "Volume (Å³/atom)"), (right, ranks, "Rank")):
        axes.plot(places, above, "o", color=BLUE, markersize=5)
        axes.set_xlabel(name)
        axes.margins(0.12)
        axes.spines[["top", "right"]].set_visible(False)
        for place, height, atoms in list(zip(places, above, ordered, strict=True))[:NAMED]:
            axes.annotate(
                str(atoms.info["space_group"]),
                (place, height),
                textcoords="offset points",
                xytext=(5, 3),
                fontsize=7,
                color="#555555",
            )
    right.xaxis.get_major_locator().set_params(integer=True)
    left.set_ylabel(
        "Predicted energy above\nthe lowest (meV/atom)" if predicted else "Energy above the lowest\n(meV/atom)"
    )
    figure.savefig(path, dpi=200)


def draw_pattern(pattern: Pattern, lines: Lines, name: str, path: Path) -> None:
    """A computed powder pattern, the places of its lines below it, and hkl at the strongest."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.plot(pattern.angles, pattern.intensities, color=BLUE, linewidth=0.9)
    axes.plot(lines.angles, np.full(len(lines.angles), -4.0), "|", color="#555555", markersize=6)
    for row in _strongest(lines):
        place = lines.angles[row]
        height = float(pattern.intensities[np.abs(pattern.angles - place) < APART / 4].max(initial=0.0))
        axes.annotate(
            lines.hkl[row],
            (place, height),
            textcoords="offset points",
            xytext=(0, 3),
            ha="center",
            va="bottom",
            rotation=90,
            fontsize=7,
            color="#555555",
        )
    axes.set(xlim=(pattern.angles[0], pattern.angles[-1]), ylim=(-8, 125))
    axes.set_xlabel(f"2θ (°), wavelength {lines.wavelength:g} Å")
    axes.set_ylabel("Intensity (highest: 100)")
    axes.set_title(name, fontsize=9, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def _strongest(lines: Lines) -> list[int]:
    """Rows of the lines that are named, none too near to a stronger one."""
    named: list[int] = []
    for row in np.argsort(-lines.intensities, kind="stable").tolist():
        if len(named) < NAMED and all(abs(lines.angles[row] - lines.angles[other]) > APART for other in named):
            named.append(row)
    return named
