"""Tables for people and for programs."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, JustifyMethod
from rich.markup import escape
from rich.table import Table

from csp_al import objective
from csp_al.campaign.errors import Problem, dotted
from csp_al.cif import STRICT, SYMPREC, strict_group
from csp_al.interfaces import Line
from csp_al.printing import printable, say
from csp_al.report.details import ranked_crystals
from csp_al.select.resolution import ranks

if TYPE_CHECKING:
    import pandas as pd

    from csp_al.report.tables import Run

WIDTH_OF_FILES = 120
"""Columns of what is printed to a file or a pipe, where rich would cut numbers to fit into 80."""

MOST_NAMED = 6
"""Crystals that are named in one line."""


def say_results(run: Run, top: int | None = None) -> None:
    """Print what the results of a run are worth, the best ``top`` of them, and what could not be ranked."""
    rows, campaign = run.result_rows, run.campaign
    if (judgement := run.judgement) is not None:
        say(f"Judgement: {judgement}")
    told = ranks(rows, campaign.finish.fmax, campaign.stop.tolerance)
    results_table(rows[:top], told, campaign.foundation.model if campaign.foundation and campaign.unlabelled else "")
    if differ := say_which_groups_differ(run, top):
        say(differ)
    if failed := say_what_failed(run.summary):
        say(failed)


def results_table(rows: list[dict[str, Any]], told: Sequence[int] = (), foundation: str = "") -> None:
    """Print the ranked structures, the best first; ``told`` are their ranks as far as energies can be told apart.

    ``foundation`` is the model that predicted them, where no ensemble did.
    """
    unit, told = objective.UNIT, told or [row["rank"] for row in rows]
    title = f"Distinct structures by reference {objective.NAME} ({unit}, m{unit} above the best, Å^3/atom)"
    headings = ("#", "id", "space group", "E", "above", "V", "predicted E", "reached", "conv.")
    table = plain_table(title, headings, left=("space group",))
    for row, rank in zip(rows, told, strict=False):
        table.add_row(
            str(rank),
            str(row["id"]),
            escape(printable(f"{row['space_group']['symbol']} ({row['space_group']['number']})")),
            f"{row['energy_per_atom']:.4f}",
            f"{1000 * row['energy_above_best']:.1f}",
            f"{row['volume_per_atom']:.2f}",
            _predicted(row),
            str(row["times_reached"]),
            "yes" if row["converged"] else "NO",
        )
    console = console_of_numbers()
    console.print(table)
    by = f"by {foundation} alone, whose zero is its own" if foundation else "by the ensemble, ± its spread"
    console.print(f"predicted: {by}; reached: how many candidates of the pool relaxed into the crystal")
    if len(set(told)) < len(told):
        console.print("same number: energies too near to each other for relaxations to this finish.fmax to rank them")


def plain_table(title: str, headings: Iterable[str], left: Collection[str] = ()) -> Table:
    """A table without rows: its columns are as wide as what is in them, at the right but for those at the left."""
    table = Table(title=escape(printable(title)), title_justify="left", box=SIMPLE_HEAD, padding=0, pad_edge=False)
    for heading in headings:
        justify: JustifyMethod = "left" if heading in left else "right"
        table.add_column(heading, justify=justify, no_wrap=heading not in left, overflow="fold")
    return table


def console_of_numbers() -> Console:
    """Standard output; what is no terminal is as wide as numbers need."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = WIDTH_OF_FILES
    return console


def as_records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a table as JSON: what is missing or not finite is null."""
    rows: list[dict[str, Any]] = json.loads(table.to_json(orient="records", double_precision=15))
    return rows


def _predicted(row: dict[str, Any]) -> str:
    """A predicted energy with its spread; without, where nothing tells of one."""
    spread = "" if row["predicted_sigma"] is None else f" ± {row['predicted_sigma']:.3f}"
    return f"{row['predicted_energy_per_atom']:.3f}{spread}"


def say_which_groups_differ(run: Run, top: int | None = None) -> str:
    """Which of the best ``top`` have another space group at the strict tolerance; empty if none has."""
    differ = [
        f"{row['id']} ({strict.symbol})"
        for row, atoms in ranked_crystals(run)[:top]
        if (strict := strict_group(atoms)).number != row["space_group"]["number"]
    ]
    if not differ:
        return ""
    more = f" and {len(differ) - MOST_NAMED} more" if len(differ) > MOST_NAMED else ""
    return (
        f"space groups are those within {SYMPREC} Å; within {STRICT} Å it is another of id "
        f"{', '.join(differ[:MOST_NAMED])}{more}"
    )


def say_what_failed(summary: dict[str, Any] | None) -> str:
    """Of crystals that the reference could not relax: which, how low they may be, and why; empty if none failed."""
    lines = []
    for failed in (summary or {}).get("failed", []):
        energy = failed.get("predicted_energy_per_atom")  # older runs do not say
        predicted = "" if energy is None else f", predicted {energy:.3f} {objective.UNIT}"
        lines.append(printable(f"  candidate {failed['id']}{predicted}: {' '.join(failed['reason'].split())}"))
    return "\n".join(["Not ranked, since the reference did not relax them:", *lines]) if lines else ""


def say_where_it_stands(run: Path) -> str:
    """Of a run directory without results: that there are none, where it stands, and what to do."""
    from csp_al.cli.trust import how_to_continue
    from csp_al.interfaces import State
    from csp_al.report.status import status
    from csp_al.store.run_directory import read_campaign_of

    now = status(run)
    place = f", cycle {now.cycle}" if now.cycle is not None else ""
    head = f"{run}: no results yet; the campaign is {now.state}{place}{f', {now.stage}' if now.stage else ''}"
    if now.state is State.RUNNING:
        return f"{head}. How far it is: csp-al status {run}"
    if now.state is State.FAILED:
        return f"{head}:\n{now.stop.reason}"
    return f"{head}. {how_to_continue(read_campaign_of(run), run)}"


def problems_as_json(problems: Sequence[Problem]) -> str:
    """What is wrong with a campaign file, each with its file, line, column (from 1; 0: none), key and message."""
    told = [
        {
            "file": str(one.location.path),
            "line": one.location.line,
            "column": one.location.column,
            "key": dotted(one.key),
            "message": one.message,
        }
        for one in problems
    ]
    return json.dumps({"fine": not told, "problems": told}, indent=1)


def results_as_csv(rows: list[dict[str, Any]]) -> str:
    """The ranked structures as CSV; the space group becomes two columns."""
    import pandas as pd

    from csp_al.report.columns import RESULTS

    table = pd.json_normalize(rows, sep="_") if rows else pd.DataFrame(columns=list(RESULTS))
    text: str = table.to_csv(index=False, lineterminator="\n")
    return text.removesuffix("\n")


def say_lines(lines: Iterable[Line], *, as_json: bool) -> None:
    """Print what was looked for, whether it is there, and the remedy where it is not; each line as soon as it comes."""
    if as_json:
        told = [{"ok": ok, "what": what, "remedy": None if ok else remedy or None} for ok, what, remedy in lines]
        say(json.dumps(told, indent=1))
        return
    signs = {True: "yes", False: "NO", None: "-"}
    for ok, what, remedy in lines:
        say(f"{signs[ok]:>4}  {what}" + (f"\n      {remedy}" if remedy and not ok else ""))
