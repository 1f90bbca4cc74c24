"""Crystals as pictures for print: energy against volume, and energy by rank. No browser is needed.

draw(crystals, Path("energies.pdf"))
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from ase import Atoms

BLUE: Final = "#0072B2"
NAMED: Final = 12
"""Points at most that have their space group beside them."""


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
