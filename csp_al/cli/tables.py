"""Tables for people and for programs."""

from __future__ import annotations

from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from csp_al import objective
from csp_al.campaign.errors import printable

WIDTH_OF_FILES = 120
"""Columns of what is printed to a file or a pipe, where rich would cut numbers to fit into 80."""


def results_table(rows: list[dict[str, Any]]) -> None:
    """Print the ranked structures, the best first."""
    unit = objective.UNIT
    table = Table(
        title=f"Distinct structures by reference {objective.NAME} ({unit}, m{unit} above the best, Å^3/atom)",
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=0,
        pad_edge=False,
    )
    headings = ("#", "id", "space group", "E", "above", "V", "predicted E", "reached", "conv.")
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "space group" else "right", no_wrap=True)
    for row in rows:
        table.add_row(
            str(row["rank"]),
            str(row["id"]),
            escape(printable(f"{row['space_group']['symbol']} ({row['space_group']['number']})")),
            f"{row['energy_per_atom']:.4f}",
            f"{1000 * row['energy_above_best']:.1f}",
            f"{row['volume_per_atom']:.2f}",
            f"{row['predicted_energy_per_atom']:.3f} ± {row['predicted_sigma']:.3f}",
            str(row["times_reached"]),
            "yes" if row["converged"] else "NO",
        )
    console = Console()
    if not console.is_terminal:
        console.width = WIDTH_OF_FILES
    console.print(table)
    console.print("predicted: by the ensemble, ± its spread; reached: candidates of the pool that came to rest there")


def results_as_csv(rows: list[dict[str, Any]]) -> str:
    """The ranked structures as CSV; the space group becomes two columns."""
    import pandas as pd

    text: str = pd.json_normalize(rows, sep="_").to_csv(index=False)
    return text
