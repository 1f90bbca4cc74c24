"""Figures of what each cycle did, drawn from `csp_al.report.tables.Run.cycles`; see `csp_al.report.figures`.

prediction_errors(run.cycles).show()
"""

from __future__ import annotations

from typing import Final

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from csp_al.report.figures import BLUE, GREY, ORANGE, SKY, blank
from csp_al.select.walk_forward import right_spread

GREEN, AMBER, PURPLE = "#009E73", "#E69F00", "#CC79A7"
STAGES: Final = {
    "label": (BLUE, ""), "train": (AMBER, ""), "relax": (GREEN, ""), "grow": (PURPLE, ""),
    "rank": (SKY, "/"), "verdict": (ORANGE, "/"), "select": (GREY, "/"),
}  # fmt: skip
"""Colour and pattern of each stage of a cycle."""
WIDE: Final = 30
"""Times the smallest error, beyond which errors stand on a logarithmic axis."""
UNITS: Final = (("h", 3600), ("min", 60), ("s", 1))


def prediction_errors(cycles: pd.DataFrame) -> go.Figure:
    """How far the labels of each cycle were from what had been predicted, before the ensemble learnt from them.

    The table is `Run.cycles`.
    """
    figure = blank("Energies: predicted against labelled", "Cycle", "Error (meV/atom)")
    lines = (
        ("energy_mae_mev_per_atom", "mean error", BLUE, "circle"),
        ("energy_apart_mev_per_atom", "median error, without the shift common to all", ORANGE, "square"),
    )
    for column, name, colour, symbol in lines:
        _add_line(figure, cycles, column, name, colour, symbol, "%{y:.1f} meV/atom")
    errors = cycles[[column for column, *_ in lines]].to_numpy()
    if np.nanmax(errors) > WIDE * np.nanmin(errors):
        figure.update_yaxes(type="log", dtick=1)
    else:
        figure.update_yaxes(rangemode="tozero")
    _number(figure, cycles)
    return figure


def calibration(cycles: pd.DataFrame, members: int) -> go.Figure:
    """How many errors lay within one sigma, cycle by cycle; dotted, how many would if the spread were right.

    The table is `Run.cycles`; of an ensemble of few members a spread that is right covers less than 0.68.
    """
    figure = blank("Errors within one sigma of the ensemble", "Cycle", "Share of the errors")
    styles = (("energy", BLUE, "circle"), ("forces", ORANGE, "square"), ("stress", GREEN, "diamond"))
    for quantity, colour, symbol in styles:
        _add_line(figure, cycles, f"{quantity}_within_1_sigma", quantity, colour, symbol, "%{y:.0%}")
        right, _, _ = right_spread(quantity, members)
        figure.add_hline(y=right, line={"color": colour, "width": 1.5, "dash": "dot"})
    figure.update_yaxes(range=[0, 1.02], tickformat=".0%")
    _number(figure, cycles)
    return figure


def costs(cycles: pd.DataFrame) -> go.Figure:
    """Wall time of each cycle by stage; the table is `Run.cycles` or `Run.effort`."""
    seconds = cycles[[f"seconds_{stage}" for stage in STAGES]].rename(columns=lambda name: name.split("_")[1])
    unit, length = next((unit for unit in UNITS if seconds.sum(axis=1).max() > 2 * unit[1]), UNITS[-1])
    figure = blank("Wall time by stage", "Cycle", f"Time ({unit})")
    for stage, (colour, pattern) in STAGES.items():
        if seconds[stage].notna().any():
            figure.add_bar(
                x=cycles["cycle"],
                y=seconds[stage] / length,
                name=stage,
                marker={"color": colour, "pattern": {"shape": pattern, "fgcolor": "white", "size": 6}},
                hovertemplate=f"cycle %{{x}}: %{{y:.1f}} {unit}",
            )
    figure.update_layout(barmode="stack", bargap=0.2, legend_traceorder="normal")
    _number(figure, cycles)
    return figure


def _number(figure: go.Figure, cycles: pd.DataFrame) -> None:
    """Name every cycle below the axis, or as many as there is room for."""
    figure.update_xaxes(tick0=0, dtick=max(1, len(cycles) // 10))


def _add_line(
    figure: go.Figure, cycles: pd.DataFrame, column: str, name: str, colour: str, symbol: str, shown: str
) -> None:
    """A column of the table of cycles against their numbers."""
    figure.add_scatter(
        x=cycles["cycle"],
        y=cycles[column],
        name=name,
        mode="lines+markers",
        line={"color": colour, "width": 2},
        marker={"size": 8, "symbol": symbol},
        hovertemplate=f"cycle %{{x}}: {shown}",
    )
