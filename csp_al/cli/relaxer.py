"""`csp-al relaxer`: direct relaxers, trained, tested and applied."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from csp_al.cli.failures import in_words
from csp_al.cli.options import Verbs
from csp_al.printing import say

if TYPE_CHECKING:
    from csp_al.direct.pairs import Pairs
    from csp_al.direct.relaxer import Predicted, Relaxer
    from csp_al.structures import Structures

relaxer = typer.Typer(
    cls=Verbs,
    help="Train, test and apply a network that predicts the relaxed crystal from the unrelaxed one, in one step.",
    no_args_is_help=True,
)

PairsFile = Annotated[
    Path,
    typer.Argument(metavar="PAIRS", help="extxyz of unrelaxed structures, with relaxed_positions, relaxed_cell"),
]
Model = Annotated[Path, typer.Argument(metavar="MODEL", help="folder of a trained relaxer")]
Device = Annotated[str, typer.Option(help="where the network runs: auto, cpu, cuda, cuda:1, mps")]
Count = Annotated[int | None, typer.Option(min=2, help="networks that are asked together; default: 4, 2")]


@relaxer.command("train")
@in_words
def train_relaxer(
    pairs: PairsFile,
    out: Annotated[Path, typer.Option(help="folder of the model; a training that was cut off goes on there")],
    kind: Annotated[
        Literal["deeprelax", "dogss"],
        typer.Option(help="deeprelax: atoms and cell, with an uncertainty; dogss: a fixed cell, as surfaces have"),
    ] = "deeprelax",
    members: Count = None,
    steps: Annotated[int | None, typer.Option(min=1, help="training steps of each member; default: 800, 1200")] = None,
    seed: Annotated[int, typer.Option(min=0, help="the same seed gives the same model")] = 0,
    device: Device = "auto",
) -> None:
    """Train a relaxer on pairs, or go on with a training that was cut off."""
    from csp_al.direct.pairs import PairsError, read_pairs
    from csp_al.direct.section import DEFAULTS
    from csp_al.direct.training import train
    from csp_al.potential.devices import describe_device, resolve_device

    where = resolve_device(device)
    read = read_pairs(pairs)
    given = {"members": members, "steps": steps, "seed": seed}
    section = DEFAULTS[kind].model_copy(update={key: value for key, value in given.items() if value is not None})
    say(f"{kind}: {len(read)} pairs, {section.members} members, {describe_device(where)}")
    try:
        with _progress("training") as report:

            def tell(member: int, epoch: int, epochs: int, loss: float) -> None:
                words = f"member {member + 1} of {section.members}, loss of pairs held out {loss:.4g}"
                report(member * epochs + epoch, section.members * epochs, words, epoch == epochs)

            trained = train(read, section, out, where, tell)
    except PairsError as error:
        raise PairsError(f"{pairs}: {error}") from error
    say(_learnt(trained))
    say(f"Wrote {out}. Next: csp-al relaxer test {out} PAIRS, with pairs that it has not seen")


@relaxer.command("test")
@in_words
def test_relaxer(
    model: Model,
    pairs: PairsFile,
    reference: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="campaign file whose reference tells forces and counts steps to rest"),
    ] = None,
    machine: Annotated[str | None, typer.Option(help="machine file: a name, or a path ending in .yaml")] = None,
    device: Device = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="print JSON, for programs")] = False,
) -> None:
    """Compare predicted with relaxed structures, beside doing nothing and, where cells move, volumes by composition."""
    from csp_al.direct.metrics import displacements, spearman, table_row, within_one_size
    from csp_al.direct.pairs import read_pairs

    learnt, read = _load(model, device), read_pairs(pairs)
    _refuse_moving_cells(learnt, read, model, pairs)
    predicted = _predict(learnt, read.start, read.free, pairs)
    guesses = {"nothing": read.start}
    if learnt.volumes is not None:
        guesses["volumes"] = learnt.volumes.scaled(read.start)
    guesses[learnt.section.kind] = predicted.structures
    error = displacements(read, predicted.structures)
    sizes = read.start.counts
    told: dict[str, Any] = {
        "pairs": len(read),
        "rows": {name: table_row(read, guess) for name, guess in guesses.items()},
        "trusted": float(predicted.trusted.mean()),
        "spearman": {
            "uncertainty": spearman(predicted.uncertainty, error),
            "within_one_size": within_one_size(predicted.uncertainty, error, sizes),
            "number_of_atoms": spearman(sizes.astype(float), error),
        },
    }
    if reference is not None:
        told["reference"] = _by_reference(reference, machine, read, guesses)
    say(json.dumps(_finite(told), indent=1) if as_json else _as_text(told))


@relaxer.command("apply")
@in_words
def apply_relaxer(
    model: Model,
    structures: Annotated[Path, typer.Argument(metavar="STRUCTURES", help="any file of structures that ASE reads")],
    out: Annotated[Path, typer.Option(help="file to write; extxyz has the uncertainty of each structure")],
    device: Device = "auto",
) -> None:
    """Predict relaxed structures. An uncertainty above what the pairs held out had is told: then do not trust it."""
    from csp_al.direct.apply import predicted_atoms, read_to_relax, write_frames

    learnt = _load(model, device)
    if out.exists():
        raise ValueError(f"{out} exists; choose another name, or remove it first")
    frames = read_to_relax(structures)
    predicted = _predict(learnt, frames.structures, frames.free, structures)
    write_frames(out, predicted_atoms(frames, predicted))
    doubtful = int((~predicted.trusted).sum())
    say(f"Wrote {out}: {len(predicted.structures)} structures, uncertainty up to {predicted.uncertainty.max():.3g} Å")
    if doubtful:
        say(f"{doubtful} of them are not to be trusted (above {learnt.gate:.3g} Å): unlike the pairs learnt from")


def _load(model: Path, device: str) -> Relaxer:
    from csp_al.direct.relaxer import load_relaxer
    from csp_al.potential.devices import resolve_device

    return load_relaxer(model, resolve_device(device))


def _predict(learnt: Relaxer, structures: Structures, free: Any, path: Path) -> Predicted:
    try:
        return learnt.predict(structures, free)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _refuse_moving_cells(learnt: Relaxer, read: Pairs, model: Path, pairs: Path) -> None:
    if (learnt.cell != "fixed") != read.moves_cell:
        has, lacks = (pairs, model) if read.moves_cell else (model, pairs)
        raise ValueError(
            f"{has} moves cells (relaxed_cell), {lacks} does not: test on pairs like those of the training"
        )


def _learnt(trained: Relaxer) -> str:
    about = trained.learnt or {}
    return (
        f"{about['held_out']} pairs held out: {about['displacement']:.4g} Å from rest, "
        f"{about['displacement_of_doing_nothing']:.4g} Å without a relaxer"
    )


def _by_reference(path: Path, machine: str | None, read: Pairs, guesses: dict[str, Structures]) -> dict[str, Any]:
    """Steps to rest by the reference of a campaign file, from each guess."""
    import numpy as np
    from ase.data import chemical_symbols

    from csp_al.campaign import open_campaign
    from csp_al.campaign.machine import read_machine
    from csp_al.direct.trial import compared, ways_to_rest
    from csp_al.importing import beside
    from csp_al.reference.references import build_reference

    file = open_campaign(path)
    species = [chemical_symbols[number] for number in np.unique(read.start.numbers)]
    with beside(path.parent):
        method = build_reference(file.campaign.reference, species, read_machine(machine), path.parent)
        if wrong := method.check():
            raise ValueError("\n".join(str(file.problem(("reference", key), message)) for key, message in wrong))
        finish = file.campaign.finish
        ways = {}
        for name, guess in guesses.items():
            with _progress(f"relaxations from {name}") as report:
                ways[name] = ways_to_rest(
                    method,
                    read,
                    guess,
                    finish.fmax,
                    finish.max_steps,
                    lambda done, every, report=report: report(done, every, "", done == every),  # type: ignore[misc]
                )
    return {name: compared(ways["nothing"], way, read.start.counts.astype(float)) for name, way in ways.items()}


COLUMNS = ("displacement", "worse", "adwt", "coordinates", "cell", "volume", "match")
HEADINGS = ("", "displaced", "worse", "ADwT", "coordinates", "cell", "volume", "match")


def _as_text(told: dict[str, Any]) -> str:
    widths = [10, 10, 6, 6, 12, 8, 8, 6]
    lines = [f"{told['pairs']} pairs; displacements, coordinates and cells in Å, volumes in Å^3"]
    rows = [HEADINGS] + [(name, *(f"{row[key]:.3f}" for key in COLUMNS)) for name, row in told["rows"].items()]
    lines += ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    ranks = told["spearman"]
    within = ranks["within_one_size"]
    lines.append(
        f"uncertainty against displacement, Spearman: {ranks['uncertainty']:.2f}; "
        f"within one size {'-' if math.isnan(within) else f'{within:.2f}'}; "
        f"by the number of atoms alone {ranks['number_of_atoms']:.2f}; trusted {told['trusted']:.0%}"
    )
    for name, row in told.get("reference", {}).items():
        lines.append(
            f"reference from {name}: {row['steps']:.1f} steps (from the original {row['steps_from_original']:.1f}), "
            f"more for {row['more_steps']:.0%}, as low or lower {row['as_low']:.0%}, AFbT {row['afbt']:.2f}, "
            f"{row['compared']} compared"
        )
    return "\n".join(lines)


def _finite(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    return None if isinstance(content, float) and not math.isfinite(content) else content


@contextmanager
def _progress(doing: str) -> Iterator[Callable[[int, int, str, bool], None]]:
    """A bar on a terminal, elsewhere a line where one is due: ``report(done, all, words, due)``."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda done, every, words, due: say(f"{doing}: {done} of {every} {words}", err=True) if due else None
        return
    columns = (TextColumn(doing), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, TextColumn("{task.description}"), console=console) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, every, words, _: bar.update(task, completed=done, total=every, description=words)
