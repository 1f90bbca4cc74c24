"""The success rates of campaign and control against reference evaluations, for print."""

from __future__ import annotations

from pathlib import Path
from typing import Any

BLUE, ORANGE = "#0072B2", "#D55E00"


def draw(result: dict[str, Any], path: Path) -> None:
    """Write the figure of a benchmark's result; the suffix of the path says in which format."""
    from matplotlib.figure import Figure

    curve = result["curve"]
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.subplots()
    sides = (("campaign", "campaigns", BLUE), ("control", "random search", ORANGE))
    for key, name, colour in sides:
        side, found = curve[key], result[key]
        label = f"{name}: {found['found']} of {found['of']}"
        axes.step(curve["evaluations"], side["value"], where="post", color=colour, label=label)
        axes.fill_between(
            curve["evaluations"], side["low"], side["high"], step="post", color=colour, alpha=0.2, linewidth=0
        )
    axes.set(xscale="log", ylim=(-0.02, 1.02))
    axes.set_xlabel("Reference evaluations")
    axes.set_ylabel("Share of runs that found the target")
    kind = {0.0: "P1 cells", 1.0: "symmetric cells"}.get(result["symmetric_fraction"], "P1 and symmetric cells")
    what = f"{result['formula']}, {result['candidates']} {kind}, {len(result['seeds'])} seeds"
    axes.set_title(f"{what}; 95% intervals", loc="left")
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=200)
