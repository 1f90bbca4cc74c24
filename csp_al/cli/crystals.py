"""What `csp-al results` shows of crystals beside their energies, each where it is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from csp_al import objective
from csp_al.cif import STRICT, SYMPREC
from csp_al.cli.tables import MOST_NAMED, console_of_numbers, plain_table
from csp_al.printing import printable, say

if TYPE_CHECKING:
    from csp_al.report.tables import Run

Row = dict[str, Any]


def look_closer(
    run: Run, rows: list[Row], known: Path | None, xrd: Path | None, wavelength: str | None, *, describe: bool
) -> list[Row]:
    """The rows with what was asked for, the files read first; by agreement where there is a pattern.

    Raises ValueError for a file that is none of the kind.
    """
    from csp_al.report.details import with_agreement, with_descriptions, with_known
    from csp_al.report.known_crystals import read_known
    from csp_al.report.measured import read_measured
    from csp_al.report.powder import RADIATION, wavelength_of

    if wavelength is not None and xrd is None:
        raise ValueError("--wavelength is that of a measured pattern; name its file with --xrd")
    crystals, left_out = read_known(known) if known else ([], [])
    pattern = read_measured(xrd) if xrd else None
    length = wavelength_of(wavelength or RADIATION)
    for line in left_out[:MOST_NAMED]:
        say(f"Left out: {line}", err=True)
    if len(left_out) > MOST_NAMED:
        say(f"Left out: {len(left_out) - MOST_NAMED} more", err=True)
    if describe:
        rows = with_descriptions(run, rows)
    if known:
        rows = with_known(run, rows, crystals)
    return rows if pattern is None else with_agreement(run, rows, pattern, length)


def say_closer(rows: Sequence[Row]) -> None:
    """Print a table of each thing that was asked for; nothing where nothing was."""
    for key, table in (("description", _descriptions), ("known", _known), ("xrd", _agreement)):
        if rows and key in rows[0]:
            table(rows)


def _descriptions(rows: Sequence[Row]) -> None:
    headings = "id", f"<within {SYMPREC} Å", f"<within {STRICT} Å", "<prototype", "g/cm^3", "<neighbours"
    cells = [
        (
            row["id"],
            row["space_group"]["symbol"],
            row["description"]["strict_space_group"]["symbol"],
            row["description"]["kind"],
            f"{row['description']['density_g_cm3']:.3f}",
            row["description"]["neighbours"],
        )
        for row in sorted(rows, key=_rank)
    ]
    _print("What they are", headings, cells)
    say("prototype: of the AFLOW library; isopointal: of its group and Wyckoff letters; else the label, as there")
    say("neighbours: as pymatgen's CrystalNN counts them")


def _known(rows: Sequence[Row]) -> None:
    cells = [
        (row["id"], *(_nearest(row["known"]) if row["known"] else ("-", "none is near", "", "")))
        for row in sorted(rows, key=_rank)
    ]
    _print("The nearest known crystals", ("id", "<known", "<is", "distance (Å)", "volume"), cells)
    say("distance: root mean square of all atoms, both crystals made equal in volume; volume: beside the known one's")


def _nearest(said: dict[str, Any]) -> tuple[str, ...]:
    kind = "the same" if said["same"] else "near"
    return said["name"], kind, f"{said['rms_A']:.3f}", _percent(said["volume_ratio"])


def _agreement(rows: Sequence[Row]) -> None:
    from csp_al.report.powder import SCALE, ZERO

    headings = "id", "agreement", f"above (m{objective.UNIT})", "<space group", "zero (°)", "lengths", "width (°)"
    cells = [
        (
            row["id"],
            f"{row['xrd']['agreement']:.3f}",
            f"{1000 * row['energy_above_best']:.1f}",
            row["space_group"]["symbol"],
            f"{row['xrd']['zero']:+.2f}",
            _percent(row["xrd"]["scale"]),
            f"{row['xrd']['width']:.2f}",
        )
        for row in rows
    ]
    _print("By agreement with the measured powder pattern", headings, cells)
    say("agreement: the correlation of both patterns without their background, 1 for equal ones. Fitted for it:")
    say(f"the zero by {ZERO:g}° at most (of Cu radiation), all lengths by {100 * SCALE:g}%, and the width of lines")


def _rank(row: Row) -> int:
    return int(row["rank"])


def _percent(factor: float) -> str:
    """How far a factor is from one."""
    return f"{100 * (factor - 1):+.1f}%"


def _print(title: str, headings: Sequence[str], cells: Sequence[Sequence[object]]) -> None:
    """A table whose columns are of numbers, but for those whose headings begin with ``<``."""
    names = [heading.removeprefix("<") for heading in headings]
    table = plain_table(title, names, [name for name, heading in zip(names, headings, strict=True) if name != heading])
    for row in cells:
        table.add_row(*(escape(printable(str(cell))) for cell in row))
    console_of_numbers().print(table)
