"""What more can be said of ranked crystals: what they are, which known ones they are, whether a measured pattern fits.

    rows = with_agreement(run, run.result_rows, read_measured(path), wavelength_of("CuKa"))
    rows[0]["xrd"]["agreement"]

Each function gives the rows of results with one key more. It takes tenths of a second for each crystal, so nothing of
it is done unasked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from csp_al.files import DamagedError
from csp_al.report.description import describe
from csp_al.report.known_crystals import Known, comparable, nearest
from csp_al.report.powder import Pattern, compared, lines_for
from csp_al.store import layout

if TYPE_CHECKING:
    from ase import Atoms

    from csp_al.report.tables import Run

Row = dict[str, Any]


def ranked_crystals(run: Run) -> list[tuple[Row, Atoms]]:
    """The rows of the results with their atoms. Raises DamagedError where they do not belong together."""
    rows = run.result_rows
    crystals = {atoms.info["id"]: atoms for atoms in run.winners}
    if sorted(row["id"] for row in rows) != sorted(crystals):
        raise DamagedError(run.path / "winners" / layout.CRYSTALS.name, "other crystals than in results.json")
    return [(row, crystals[row["id"]]) for row in rows]


def with_descriptions(run: Run, rows: Sequence[Row]) -> list[Row]:
    """Key ``description``: see `csp_al.report.description.Description`."""
    crystals = _crystals(run)
    return [row | {"description": describe(crystals[row["id"]]).as_json()} for row in rows]


def with_known(run: Run, rows: Sequence[Row], known: Sequence[Known]) -> list[Row]:
    """Key ``known``: the nearest known crystal, or None. Raises ValueError where none has the composition of these."""
    formulas = sorted({row["formula"] for row in rows})
    if rows and not any(comparable(known, formula) for formula in formulas):
        theirs = sorted({one.atoms.get_chemical_formula() for one in known})
        raise ValueError(f"no known crystal is of {', '.join(formulas)}: those given are {', '.join(theirs[:6])}")
    crystals = _crystals(run)
    found = [nearest(crystals[row["id"]], known) for row in rows]
    return [row | {"known": one and one.as_json()} for row, one in zip(rows, found, strict=True)]


def with_agreement(run: Run, rows: Sequence[Row], measured: Pattern, wavelength: float) -> list[Row]:
    """Key ``xrd``, see `csp_al.report.powder.Fit`, and its own rank in it; the best agreement first.

    Raises ValueError where no crystal has a line among the measured angles.
    """
    crystals = _crystals(run)
    lines = [lines_for(measured, crystals[row["id"]], wavelength) for row in rows]
    low, high = measured.angles[0], measured.angles[-1]
    if rows and not any(((low < each.angles) & (each.angles < high)).any() for each in lines):
        raise ValueError(
            f"no crystal has a line between {low:g} and {high:g}° at {wavelength:g} Å; are these 2θ, in degrees, "
            "and is --wavelength right?"
        )
    fits = [asdict(compared(measured, each)) for each in lines]
    order = sorted(range(len(rows)), key=lambda at: -fits[at]["agreement"])
    return [rows[at] | {"xrd": {"rank": rank} | fits[at]} for rank, at in enumerate(order, start=1)]


def _crystals(run: Run) -> dict[int, Atoms]:
    return {row["id"]: atoms for row, atoms in ranked_crystals(run)}
