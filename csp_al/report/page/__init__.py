"""One page of a campaign for people, `report.html`: it needs no network and no other file.

    write_report(Path("runs/si8"))

The browser is told to load nothing (a content security policy) and to run the three scripts of the page alone, whose
checksums stand there: what texts of a run hold stays text.
"""

from __future__ import annotations

import json
from base64 import b64encode
from dataclasses import replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from csp_al.files import DamagedError, open_plain, write_atomically
from csp_al.printing import printable_lines
from csp_al.report import cycle_figures, figures
from csp_al.report.method_in_words import as_yaml, papers_of
from csp_al.report.page import sections
from csp_al.report.page.views import candidates, found_so_far
from csp_al.report.status import RunStatus, status
from csp_al.report.status_in_words import MANY, describe
from csp_al.report.tables import Run, open_run
from csp_al.store.method import method_of
from csp_al.store.run_directory import provenance_of

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

NAME: Final = "report.html"
HERE: Final = Path(__file__).parent
POINTS: Final = 5000
"""Candidates or labels at most in a figure: a browser draws each as an element of its own."""


def write_report(run: Path, to: Path | None = None) -> Path:
    """Write the page of a run directory, whatever its state, into it or to a file; return where.

    Raises NoRunError, DamagedError, and ValueError for a folder that is not there.
    """
    path = to or run / NAME
    page = render(open_run(run), status(run))
    if not path.parent.is_dir():
        raise ValueError(f"{path}: there is no folder {path.parent}; make it first")
    if path.is_dir():
        raise ValueError(f"{path}: a folder, where the name of a file is expected, such as {path / NAME}")
    write_atomically(path, page)
    return path


def render(run: Run, now: RunStatus) -> str:
    """The page as HTML."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from plotly.offline import get_plotlyjs

    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: printable_lines(value) if type(value) is str else value,  # or it is marked as safe
        trim_blocks=True,
        lstrip_blocks=True,
    )
    scripts = [get_plotlyjs(), _asset("3Dmol-min.js"), _asset("report.js")]
    return environment.get_template("report.html.jinja").render(
        content(run, now),
        style=_asset("report.css"),
        scripts=scripts,
        digests=[b64encode(sha256(script.encode()).digest()).decode() for script in scripts],
        licence=_asset("3Dmol-LICENSE.txt"),
    )


def content(run: Run, now: RunStatus) -> dict[str, Any]:
    """Everything that the template shows of a run."""
    campaign, method = run.campaign, method_of(run.path, run.campaign)
    every = run.pool_map()
    points = thinned(every, ["labelled", "picked", "leading"])
    found, table = found_so_far(run)
    cycles, labels, judgement = run.cycles, run.labels, run.judged("DIR")  # whoever reads it is elsewhere
    drawn = _figures(run, now.members, cycles, labels, points)
    return {
        "campaign": campaign,
        "now": now,
        "written": datetime.now(UTC).strftime("%d %B %Y, %H:%M UTC"),
        "tiles": sections.tiles(now, len(cycles)),
        "asked": sections.asked(campaign, method),
        "file": _campaign_file(run.path),
        "settings": as_yaml(campaign.written()),
        "method": method,
        "reference": as_yaml(dict(method.settings)),
        "judgement": judgement,
        "in_words": describe(replace(now, judgement=judgement)),
        "results": table,
        "left_out": sections.left_out(run),
        "crystals": in_script(json.dumps(found)),
        "candidates": in_script(json.dumps(candidates(run, points))),
        "not_drawn": len(every) - len(points),
        "figures": {name: in_script(figure.to_json()) for name, figure in drawn.items()},
        "cycles": sections.cycles(cycles),
        "funnel": sections.funnel(run, labels),
        "evaluations": sections.evaluations(run),
        "wall_times": sections.wall_times(run),
        "provenance": sections.provenance(provenance_of(run.path), method, campaign.seed),
        "checksums": sections.checksums(run),
        "papers": papers_of(campaign, method),
    }


def thinned(table: pd.DataFrame, always: list[str]) -> pd.DataFrame:
    """At most some `POINTS` rows, evenly spread over the order of the table, and all of which one of these is true."""
    if len(table) <= POINTS:
        return table
    kept = table[always].any(axis=1) if always else np.zeros(len(table), bool)
    kept |= np.isin(np.arange(len(table)), np.linspace(0, len(table) - 1, POINTS).astype(int))
    return table[kept]


def _figures(
    run: Run, members: int | None, cycles: pd.DataFrame, labels: pd.DataFrame, points: pd.DataFrame
) -> dict[str, go.Figure]:
    """Those for which there is something to draw, by name."""
    drawn = {}
    if len(cycles):
        drawn["convergence"] = figures.convergence(cycles, run.results, run.reference_evaluations)
        drawn["costs"] = cycle_figures.costs(cycles)
    if cycles["energy_mae_mev_per_atom"].notna().any():
        drawn["errors"] = cycle_figures.prediction_errors(cycles)
        drawn["calibration"] = cycle_figures.calibration(cycles, members or MANY)
    if labels["predicted_energy_per_atom"].notna().any():
        drawn["parity"] = figures.parity(thinned(labels, []))
    if len(points):
        drawn["map"] = figures.pool_map(points)
    return drawn


def _campaign_file(run: Path) -> str:
    """The campaign file as it was given; empty where it is not there."""
    try:
        with open_plain(run / "campaign.yaml") as file:
            return file.read(1_000_000).decode(errors="replace")
    except (FileNotFoundError, DamagedError):
        return ""


def in_script(text: str) -> str:
    """JSON that no tag of HTML can be in, nor end."""
    return text.replace("<", "\\u003c")


def _asset(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")
