"""Tables for a page: what each cell shows, and what it is sorted by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import pandas as pd

MISSING: Final = "-"


class Column(NamedTuple):
    """How a column is shown: heading, format of its numbers ("" for texts) after scaling, unit, what it means.

    A bar shows the share of the largest number of the column.
    """

    heading: str
    form: str = ""
    unit: str = ""
    about: str = ""
    scale: float = 1.0
    bar: bool = False


class Cell(NamedTuple):
    """A text, the value by which it is sorted (None: last), and the length of its bar in percent, if it has one."""

    text: str
    value: float | str | None
    share: float | None = None


@dataclass(frozen=True)
class Table:
    """Columns, and rows of as many cells."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]


def table_of(frame: pd.DataFrame, columns: Mapping[str, Column]) -> Table:
    """The columns of these names, in this order."""
    cells = [_cells(frame[name], column) for name, column in columns.items()]
    return Table(list(columns.values()), list(zip(*cells, strict=True)))


def counts(title: str, numbers: Mapping[str, int]) -> Table:
    """How many of each: a table with bars, the most first."""
    frame = pd.DataFrame({"what": list(numbers), "count": list(numbers.values())})
    ordered = frame.sort_values("count", ascending=False, kind="stable")
    return table_of(ordered, {"what": Column(title), "count": Column("number", "d", bar=True)})


def _cells(values: pd.Series[Any], column: Column) -> list[Cell]:
    if not column.form:
        return [Cell(str(value), str(value)) for value in values]
    scaled = [None if pd.isna(value) else column.scale * value for value in values]
    most = max((number for number in scaled if number is not None), default=0)
    return [Cell(MISSING, None) if number is None else _cell(number, column, most) for number in scaled]


def _cell(number: float, column: Column, most: float) -> Cell:
    text = format(round(number) if column.form == "d" else number, column.form)
    return Cell(text, float(number), 100 * number / most if column.bar and most else None)
