"""`csp-al show`: the life of a candidate, for people and for programs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from csp_al import objective
from csp_al.cli.tables import as_records, console_of_numbers, plain_table
from csp_al.files import finite
from csp_al.printing import printable, say
from csp_al.report.plan import duration

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table

    from csp_al.report.finals import End
    from csp_al.report.life import Life
    from csp_al.report.tables import Run


def life_as_json(life: Life) -> str:
    """The life as one JSON object; tables are lists of rows."""
    tables = {"cycles": as_records(life.cycles), "labels": as_records(life.labels)}
    end = None if life.end is None else asdict(life.end)
    said = {"id": life.id, "origin": life.origin, "offspring": life.offspring, **tables, "end": end}
    return json.dumps(finite(said), indent=1)


def say_life(life: Life, run: Run) -> None:
    """Print where a candidate is from, how it stood in each cycle, its labels, and what it ended as."""
    console, campaign = console_of_numbers(), run.campaign
    potential = campaign.foundation.model if campaign.foundation and campaign.unlabelled else "the ensemble"
    say(f"candidate  {life.id} of {run.path}")
    say("\n".join(_origin(life, set(run.pool["id"].astype(str)))))
    if len(life.cycles):
        console.print(_standings(life.cycles, f"As {potential} relaxed it, among all candidates"))
        console.print("leads: among the leaders of the cycle; picked: to be labelled in the next", soft_wrap=True)
    if len(life.labels):
        console.print(_labels(life.labels))
        console.print("off by: prediction minus label; of F and stress the mean over their components", soft_wrap=True)
    for row in life.labels[life.labels["reason"] != ""].to_dict("records"):
        say(f"label of cycle {row['cycle']} {row['status']}: {' '.join(str(row['reason']).split())}")
    say("\n".join(f"{'' if place else 'end':<11}{line}" for place, line in enumerate(_end(life, run))))
    say(f"structure  csp-al show {run.path} {life.id} --out FILE --at WHEN")
    say(f"           FILE such as {life.id}.cif, {life.id}.vasp, {life.id}.extxyz; WHEN: {', '.join(_moments(life))}")


def _origin(life: Life, pool: set[str]) -> Iterator[str]:
    """Where a candidate of a pool with these ids is from, a line for each thing to say."""
    origin = life.origin
    group = f"{origin['space_group'] or 'no group found'} ({origin['space_group_number'] or '-'})"
    cell = f"{group}, {origin['n_atoms']} atoms, {origin['volume_per_atom']:.2f} Å^3/atom"
    if parents := origin["parents"].split():
        first = f", in cycle {life.cycles['cycle'].min()}" if len(life.cycles) else ""
        names = [name if name in pool else f"{name} (which did not join the pool)" for name in parents]
        yield f"origin     {origin['origin']} of {' and '.join(names)}, generation {origin['generation']}{first}"
    else:
        asked = f", space group {origin['asked_group']} asked for" if origin["asked_group"] else ""
        yield f"origin     {origin['origin']}{asked}"
    yield f"           as it began: {cell}"
    if origin["note"]:
        yield f"           {origin['note']}"
    if not origin["searched"]:
        yield "           of the pool that is only labelled, not of the search pool"
    if life.offspring:
        yield f"offspring  {', '.join(map(str, life.offspring))}"


def _standings(cycles: pd.DataFrame, title: str) -> Table:
    table = plain_table(
        title,
        ("cycle", "place", f"predicted\n({objective.UNIT})", "V\n(Å^3/atom)", "lowest\nin basin", "times\nreached",
         "steps", "stopped because", "then"),
        left=("stopped because", "then"),
    )  # fmt: skip
    for row in cycles.to_dict("records"):
        marks = [word for word, holds in (("leads", row["leads"]), ("picked", row["picked"])) if holds]
        table.add_row(
            str(row["cycle"]),
            _whole(row["place"]),
            _uncertain(row["energy_per_atom"], row["sigma_per_atom"]),
            f"{row['volume_per_atom']:.2f}",
            _whole(row["lowest_in_basin"]),
            str(row["times_reached"]) if row["trusted"] else "-",
            str(row["steps"]),
            escape(printable(row["reason"])),
            ", ".join(marks),
        )
    return table


def _labels(labels: pd.DataFrame) -> Table:
    """Errors are of what was predicted before the label was learnt."""
    wrong = labels["predicted_energy_per_atom"] - labels["energy_per_atom"]
    title = "Labels, and by how much what was predicted of them before was off"
    table = plain_table(
        title,
        ("cycle", f"E\n({objective.UNIT})", f"predicted\n({objective.UNIT})", "E off by\n(meV/atom)",
         "F off by\n(eV/Å)", "stress off\nby (GPa)", "max F\n(eV/Å)", "core\ntime"),
    )  # fmt: skip
    for row, error in zip(labels.to_dict("records"), wrong, strict=True):
        table.add_row(
            str(row["cycle"]),
            _number(row["energy_per_atom"], ".4f") if row["status"] == "done" else escape(printable(row["status"])),
            _uncertain(row["predicted_energy_per_atom"], row["predicted_sigma_per_atom"]),
            _number(1000 * error, "+.1f"),
            _number(row["forces_mae_ev_per_angstrom"], ".3f"),
            _number(row["stress_mae_gpa"], ".2f"),
            _number(row["max_force"], ".3f"),
            duration(row["cost_s"]),
        )
    return table


def _end(life: Life, run: Run) -> Iterator[str]:
    """What a candidate ended as, a line for each thing to say."""
    end = life.end
    if end is None:
        yield f"the search has not ended; where it stands: csp-al status {run.path}"
        return
    started = ", from where it was labelled" if end.from_label else ""
    ranked = {row["rank"]: f"result {row['rank']} ({Path(row['cif']).stem})" for row in run.result_rows}
    if end.result is not None:
        twin = f"the same crystal as candidate {end.crystal}, " if end.crystal != life.id else ""
        yield f"{twin}{ranked[end.result]}"
        yield f"relaxed by the reference{started}: {_found(end)}"
    elif end.status is not None:
        yield f"the reference could not relax it{started} ({end.status}): {' '.join((end.reason or '').split())}"
    else:
        yield "not relaxed by the reference"
    if end.evaluations is not None:
        count = f"{end.evaluations} evaluation{'s' * (end.evaluations != 1)}"
        yield f"that took {count} of the reference, {duration(end.cost_s or 0.0)} of a core"
    if end.result is None or end.reached not in ((), (end.result,)):
        crystals = " and of ".join(ranked[rank] for rank in end.reached)
        none = "none of the crystals that the reference relaxed"
        yield f"by prediction it is {f'the crystal of {crystals}' if crystals else none}"


def _found(end: End) -> str:
    told = [] if end.energy_per_atom is None else [objective.show(end.energy_per_atom)]
    if end.fmax is not None:
        told.append(f"{'converged' if end.converged else 'NOT converged'}, largest force {end.fmax:.3f} eV/Å")
    return ", ".join(told) or "its task is gone"


def _moments(life: Life) -> list[str]:
    """What `--at` can be for this candidate."""
    cycles = [f"cycle-{cycle:02d}" for cycle in life.cycles["cycle"]]
    between = [f"{cycles[0]} to {cycles[-1]}"] if len(cycles) > 1 else cycles
    relaxed = life.end is not None and life.end.result is not None
    return ["first", *between, *["last"] * bool(cycles), *["reference"] * relaxed]


def _uncertain(value: float, sigma: float) -> str:
    spread = "" if sigma != sigma else f"±{sigma:.3f}"  # noqa: PLR0124 - not a number
    return _number(value, ".3f") + spread


def _number(value: float, form: str) -> str:
    return "-" if value != value else f"{value:{form}}"  # noqa: PLR0124 - not a number


def _whole(value: Any) -> str:
    return f"{value}" if isinstance(value, int) else "-"
