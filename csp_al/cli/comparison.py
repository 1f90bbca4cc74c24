"""`csp-al compare`: runs side by side, for people and for programs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from rich.markup import escape

from csp_al import objective
from csp_al.cli.tables import as_records, console_of_numbers, plain_table
from csp_al.files import finite
from csp_al.printing import printable, say
from csp_al.report.plan import duration

if TYPE_CHECKING:
    import pandas as pd

    from csp_al.report.comparison import Comparison

Row = tuple[str, list[str]]
"""What is in a row of a table, and its value in each run."""
LONGEST: Final = 40
"""Letters of a setting that are shown."""
NAMED: Final = 3
"""Keys that are named where references differ."""


def comparison_as_json(comparison: Comparison) -> str:
    """The comparison as one JSON object: tables are lists of rows, settings are by key and run."""
    said = {
        "runs": as_records(comparison.runs),
        "crystals": as_records(comparison.crystals),
        "settings": comparison.settings.to_dict("index"),
        "other_references": comparison.other_references,
    }
    return json.dumps(finite(said), indent=1)


def say_comparison(comparison: Comparison) -> None:
    """Print what each run took and found, the crystals matched, and the settings that differ."""
    runs, crystals, settings = comparison.runs, comparison.crystals, comparison.settings
    names = [f"run {place}" for place in range(1, len(runs) + 1)]
    for name, row in zip(names, runs.to_dict("records"), strict=True):
        say(f"{name}  {row['run']}: {row['state']}")
    for why, which in _stops(runs, names).items():
        say(f"why it ended, {', '.join(which)}: {why}")
    if others := comparison.other_references:
        more = f" and {len(others) - NAMED} more" * (len(others) > NAMED)
        say(
            f"\n{objective.NAMES.capitalize()} of these runs are NOT comparable, since their references differ: "
            f"{', '.join(others[:NAMED])}{more}.\n"
            "Those of crystals are shown above the lowest of each run, and crystals are matched by structure alone."
        )
    _print("What they took and found", _effort(runs), names)
    if len(crystals):
        what = f"m{objective.UNIT} above the lowest of its run" if others else objective.UNIT
        _print(f"Crystals that the reference relaxed ({what}; -: not among the results)", _found(comparison), names)
    else:
        say("\nNo run has results yet.")
    if len(settings):
        rows = zip(settings.index, settings.to_numpy().tolist(), strict=True)
        _print("Settings that differ", [(key, [_value(value) for value in row]) for key, row in rows], names)
    else:
        say("\nNo setting differs.")


def _print(title: str, rows: Sequence[Row], names: Sequence[str]) -> None:
    """A table with a column for each run; those that the terminal has no room for follow in further ones."""
    say(f"\n{title}")
    console = console_of_numbers()
    first = max(len(heading) for heading, _ in rows)
    widths = [max(len(name), *(len(values[place]) for _, values in rows)) for place, name in enumerate(names)]
    for columns in _fitting(widths, console.width - first - 2):
        table = plain_table("", ("", *(names[place] for place in columns)), left=("",))
        for heading, values in rows:
            table.add_row(*(escape(printable(text)) for text in (heading, *(values[place] for place in columns))))
        console.print(table)


def _fitting(widths: Sequence[int], room: int) -> Iterator[list[int]]:
    """Columns in groups that have room beside each other, at least one in each."""
    group: list[int] = []
    for place, width in enumerate(widths):
        if group and sum(widths[one] + 1 for one in group) + width > room:
            yield group
            group = []
        group.append(place)
    yield group


def _stops(runs: pd.DataFrame, names: Sequence[str]) -> dict[str, list[str]]:
    """Why the searches ended, each reason with the runs that it is of."""
    found: dict[str, list[str]] = {}
    for name, why in zip(names, runs["stop"], strict=True):
        if why:
            found.setdefault(why.removeprefix("settled: "), []).append(name)
    return found


def _effort(runs: pd.DataFrame) -> list[Row]:
    shown = runs.to_dict("records")
    lowest = [f"{row['best_energy_per_atom']:.4f}" if row["best_by"] == "reference" else "-" for row in shown]
    predicted = [f"{row['best_energy_per_atom']:.3f}" if row["best_by"] == "potential" else "-" for row in shown]
    rows = [
        ("judgement", [row["judgement"] or "-" for row in shown]),
        ("cycles", [str(row["cycles"]) for row in shown]),
        ("labels", [str(row["labels_done"]) for row in shown]),
        ("labels failed", [str(row["labels_failed"]) for row in shown]),
        ("labels from elsewhere", [str(row["labels_from_elsewhere"]) for row in shown]),
        ("evaluations in all", [str(row["reference_evaluations"]) for row in shown]),
        ("core time of the reference", [duration(row["reference_core_s"]) for row in shown]),
        ("wall time of the campaign", [duration(row["wall_s"]) for row in shown]),
        (f"lowest {objective.NAME} ({objective.UNIT})", lowest),
        (f"lowest predicted, not ended ({objective.UNIT})", predicted),
    ]
    return [row for row in rows if set(row[1]) not in ({"0"}, {"-"})]


def _found(comparison: Comparison) -> list[Row]:
    """A row for each crystal, with its energy in each run."""
    level, form = ("energy_above_best", ".1f") if comparison.other_references else ("energy_per_atom", ".4f")
    scale = 1000 if comparison.other_references else 1
    rows = []
    for number, table in comparison.crystals.groupby("crystal", sort=True):
        shown = dict(zip(table["run"], table[level], strict=True))
        groups = zip(table["space_group_symbol"], table["space_group_number"], strict=True)
        heading = f"{number:>3}  {', '.join(dict.fromkeys(f'{symbol} ({group})' for symbol, group in groups))}"
        values = [f"{scale * shown[run]:{form}}" if run in shown else "-" for run in comparison.runs["run"]]
        rows.append((heading, values))
    return rows


def _value(value: Any) -> str:
    """A setting as a campaign file has it, shortened."""
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."
