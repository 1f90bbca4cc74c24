"""Figures of a run, drawn from the tables of `csp_al.report.tables`; the same for notebooks and reports.

    convergence(run.cycles, run.results, run.reference_evaluations).show()

Colours are those of Okabe and Ito (https://jfly.uni-koeln.de/color/) and the map cividis (J. R. Nuñez et al.,
PLoS ONE 13, e0199239 (2018)), which can be told apart with any kind of colour vision.
"""

from __future__ import annotations

from html import escape
from typing import Final

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.colors import sample_colorscale

from csp_al.printing import printable
from csp_al.structures import Ints

BLUE, SKY, ORANGE, BLACK, GREY = "#0072B2", "#56B4E9", "#D55E00", "#222222", "#999999"
SCALE: Final = "cividis"
WIDTH, TALL = 760, 580
FAR: Final = 0.8
"""Quantile of the pool's energies at which the colours of the map end, so that the low ones can be told apart."""
NEARLY_ALL: Final = 0.95
"""Quantile of the labels' energies at which the axes of the parity plot may end."""
NAMED: Final = 8
"""Cycles at most that a legend names; the colours of more stand beside a bar."""
GHOST: Final = 1.0
"""eV/atom below the lowest reference energy: what is predicted lower is no crystal, and is named at the edge instead of
setting the scale."""


def convergence(cycles: pd.DataFrame, results: pd.DataFrame, reference_evaluations: int) -> go.Figure:
    """Best energy against reference evaluations: predicted, labelled, and at the end relaxed by the reference.

    Tables are `Run.cycles` and `Run.results`, either may be empty; evaluations are `Run.reference_evaluations`.
    """
    figure = blank("Best energy found", "Reference evaluations", "Energy (eV/atom)")
    lines = (
        ("best_labelled_energy_per_atom", "lowest label so far", GREY, "square"),
        ("best_predicted_energy_per_atom", "lowest prediction", BLUE, "circle"),
    )
    for column, name, colour, symbol in lines:
        figure.add_scatter(
            x=cycles["reference_evaluations"],
            y=cycles[column],
            name=name,
            mode="lines+markers",
            line={"color": colour, "width": 2},
            marker={"size": 8, "symbol": symbol},
            customdata=cycles["cycle"],
            hovertemplate="cycle %{customdata}: %{y:.4f} eV/atom",
        )
    if not results.empty:
        best = results.iloc[0]
        figure.add_scatter(
            x=[reference_evaluations],
            y=[best["energy_per_atom"]],
            name="lowest, relaxed by the reference",
            mode="markers",
            marker={"size": 14, "symbol": "star", "color": ORANGE},
            hovertemplate=f"{plain(best['space_group_symbol'])}: %{{y:.4f}} eV/atom",
        )
    truth = pd.concat([cycles["best_labelled_energy_per_atom"], results["energy_per_atom"]])
    _name_ghosts(figure, cycles["reference_evaluations"], cycles["best_predicted_energy_per_atom"], truth)
    return figure


def parity(labels: pd.DataFrame) -> go.Figure:
    """Predicted against reference energies, each predicted before its label was known; bars are 1 sigma.

    The table is `Run.labels`; labels without a prediction (cycle 0) or without a result are left out.
    """
    known = labels.dropna(subset=["energy_per_atom", "predicted_energy_per_atom"])
    figure = blank("Energies predicted before labelling", "Reference (eV/atom)", "Predicted (eV/atom)", TALL)
    if not known.empty:
        ends = known[["energy_per_atom", "predicted_energy_per_atom"]].to_numpy()
        limits = [max(float(ends.min()), known["energy_per_atom"].min() - GHOST), float(ends.max())]
        line = {"color": GREY, "width": 1}
        figure.add_scatter(x=limits, y=limits, mode="lines", line=line, showlegend=False, hoverinfo="skip")
    cycles = known["cycle"].nunique()
    for colour, (cycle, rows) in zip(_shades(cycles), known.groupby("cycle"), strict=True):
        figure.add_scatter(
            x=rows["energy_per_atom"],
            y=rows["predicted_energy_per_atom"],
            error_y={"array": rows["predicted_sigma_per_atom"], "thickness": 1, "width": 0, "color": colour},
            mode="markers",
            name=f"cycle {cycle}",
            showlegend=cycles <= NAMED,
            marker={"color": colour, "size": 7},
            customdata=rows[["id", "predicted_sigma_per_atom"]],
            hovertemplate="%{customdata[0]}: %{x:.3f}, predicted %{y:.3f} ± %{customdata[1]:.3f} eV/atom",
        )
    if cycles > NAMED:
        _add_bar_of_cycles(figure, known["cycle"])
    reference, predicted = known["energy_per_atom"], known["predicted_energy_per_atom"]
    _name_ghosts(figure, reference, predicted, reference)
    _leave_out_the_highest(figure, known[["energy_per_atom", "predicted_energy_per_atom"]])
    figure.update_yaxes(scaleanchor="x", constrain="domain")
    figure.update_xaxes(constrain="domain")
    return figure


def pool_map(points: pd.DataFrame) -> go.Figure:
    """The pool in the plane of its two main components, coloured by predicted energy; what was picked is ringed.

    The table is `Run.pool_map`. Candidates above the `FAR` quantile of the energies all have the last colour.
    """
    title, shares = "The pool as the potential sees it", (0.0, 0.0)
    if not points.empty:
        title += f", cycle {points['cycle'].iloc[0]}"
        shares = (100 * points["x_share"].iloc[0], 100 * points["y_share"].iloc[0])
    x, y = (f"Component {number} ({share:.0f}% of the variance)" for number, share in enumerate(shares, start=1))
    figure = blank(title, x, y, TALL)
    above = points["energy_per_atom"] - points["energy_per_atom"].min()
    ordered = points.assign(above=above).sort_values("above", ascending=False)  # the lowest are drawn on top
    far = float(above.quantile(FAR)) if len(above) else 1.0
    bar = {"title": {"text": "Predicted energy<br>above lowest<br>(eV/atom)"}, "thickness": 14}
    scale = {"size": 9, "colorscale": SCALE, "cmin": 0, "cmax": far, "colorbar": bar}
    for labelled, edge in ((False, 0.0), (True, 1.5)):
        rows = ordered[ordered["labelled"] == labelled]
        figure.add_scatter(
            x=rows["x"],
            y=rows["y"],
            mode="markers",
            name="labelled so far",
            showlegend=labelled,
            marker={"color": rows["above"], "showscale": not labelled, "line": {"width": edge, "color": SKY}, **scale},
            customdata=rows.assign(why=rows["reason"].map(plain))[["id", "energy_per_atom", "sigma_per_atom", "why"]],
            hovertemplate="%{customdata[0]}: %{customdata[1]:.3f} ± %{customdata[2]:.3f} eV/atom, %{customdata[3]}",
        )
    marks = (("picked", "picked next", "circle-open", ORANGE), ("leading", "leading crystals", "star-open", BLACK))
    for column, name, symbol, colour in marks:
        rows = points[points[column]]
        marker = {"size": 16, "symbol": symbol, "color": colour, "line": {"width": 2}}
        if not rows.empty:
            figure.add_scatter(x=rows["x"], y=rows["y"], mode="markers", name=name, marker=marker, hoverinfo="skip")
    return figure


def learning_curves(curves: pd.DataFrame) -> go.Figure:
    """Loss in training and on held-out labels, cycle after cycle: mean of the members, and their range for the latter.

    The table is `Run.learning_curves`. A dotted line marks where a cycle begins, with new labels.
    """
    figure = blank("Learning curves", "Epoch, over all cycles (dotted: a cycle begins)", "Loss (weighted squares)")
    start = 0
    for cycle, rows in curves.groupby("cycle"):
        epochs = rows.groupby("epoch")[["training", "validation"]]
        x = np.arange(start, start + len(epochs))
        _learning_curve(figure, x, epochs.mean(), epochs.min(), epochs.max(), legend=start == 0)
        line = {"color": GREY, "width": 1, "dash": "dot"}
        figure.add_vline(x=start, line=line, annotation={"text": str(cycle), "font": {"color": GREY}})
        start += len(epochs)
    figure.update_yaxes(type="log", dtick=1, exponentformat="power")
    return figure


def _learning_curve(
    figure: go.Figure, x: Ints, mean: pd.DataFrame, least: pd.DataFrame, most: pd.DataFrame, *, legend: bool
) -> None:
    """Draw one cycle's."""
    figure.add_scatter(
        x=np.concatenate([x, x[::-1]]),
        y=np.concatenate([most["validation"], least["validation"][::-1]]),
        fill="toself",
        fillcolor="rgba(0, 114, 178, 0.2)",
        line={"width": 0},
        showlegend=False,
        hoverinfo="skip",
    )
    named = (("validation", "held out: mean and range of members", BLUE), ("training", "training: mean", ORANGE))
    for column, name, colour in named:
        line = {"color": colour, "width": 2}
        figure.add_scatter(x=x, y=mean[column], mode="lines", name=name, line=line, showlegend=legend)


def plain(text: str) -> str:
    """A text of a run, whose tags Plotly would follow, and fill in what it names in braces."""
    return escape(printable(text), quote=False).replace("%", "%\u200b")


def blank(title: str, x: str, y: str, height: int = 460) -> go.Figure:
    """A figure with its axes and nothing in it."""
    axis = {"showline": True, "linecolor": BLACK, "ticks": "outside", "gridcolor": "#eeeeee", "zeroline": False}
    return go.Figure(
        layout={
            "template": "plotly_white",
            "title": {"text": title, "x": 0.01, "xanchor": "left", "y": 0.97, "yanchor": "top"},
            "width": WIDTH,
            "height": height,
            "margin": {"t": 90, "l": 80, "r": 30, "b": 70},
            "font": {"size": 14, "color": BLACK},
            "xaxis": axis | {"title": {"text": x}},
            "yaxis": axis | {"title": {"text": y}},
            "legend": {"orientation": "h", "yanchor": "bottom", "y": 1.0, "x": 0},
        }
    )


def _name_ghosts(figure: go.Figure, x: pd.Series, predicted: pd.Series, truth: pd.Series) -> None:
    """End the energy axis a little below the truth where predictions go far below it, and write those at its end."""
    floor = truth.min() - GHOST
    ghosts = predicted < floor
    if not ghosts.any():
        return
    top = max(truth.max(), predicted.max())
    figure.update_yaxes(range=[floor, top + 0.05 * (top - floor)])
    for place, energy in zip(x[ghosts], predicted[ghosts], strict=True):
        figure.add_annotation(
            x=place, y=floor, yanchor="bottom", text=f"{energy:.1f} ↓", showarrow=False, font={"color": BLUE}
        )


def _leave_out_the_highest(figure: go.Figure, energies: pd.DataFrame) -> None:
    """End both axes at what nearly all energies are below, where the others would take more than half of them."""
    if energies.empty:
        return
    low, high, highest = (
        float(end) for end in (energies.min().min(), energies.quantile(NEARLY_ALL).max(), energies.max().max())
    )
    low = max(low, float(energies.iloc[:, 0].min()) - GHOST)
    if highest - low <= 2 * (high - low):
        return
    margin = 0.05 * (high - low)
    above = int((energies > high + margin).any(axis=1).sum())
    ends = [low - margin, high + margin]
    figure.update_xaxes(range=ends)
    figure.update_yaxes(range=ends)
    figure.add_annotation(
        text=f"{above} higher: double-click shows all",
        x=0.02,
        y=0.98,
        xref="x domain",
        yref="y domain",
        xanchor="left",
        yanchor="top",
        showarrow=False,
    )


def _shades(count: int) -> list[str]:
    """Colours of an order, dark to light; never the palest, which white paper swallows."""
    return list(sample_colorscale(SCALE, np.linspace(0, 0.85, count).tolist())) if count else []


def _add_bar_of_cycles(figure: go.Figure, cycles: pd.Series) -> None:
    """Show what the `_shades` of these cycles mean."""
    bar = {"title": {"text": "Cycle"}, "thickness": 14}
    scale = {"colorscale": _shades(NAMED), "cmin": int(cycles.min()), "cmax": int(cycles.max()), "colorbar": bar}
    figure.add_scatter(
        x=[None], y=[None], mode="markers", showlegend=False, hoverinfo="skip", marker={"color": [0], **scale}
    )
