"""The verbs of `csp-al`.

Exit status: 0 done; 1 the campaign ended without a result; 2 bad input; 3 the run directory is in use; 75 the machine
failed, such as a full disk; 143 or 130 stopped. After 75, 143 and 130 it can be continued. Heavy imports live inside
the verbs, so that `--help` answers at once.
"""

from __future__ import annotations

import json
from contextlib import nullcontext
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from csp_al.cli.failures import in_words
from csp_al.cli.options import Verbs
from csp_al.cli.relaxer import relaxer
from csp_al.printing import replace_unknown_letters, say

app = typer.Typer(
    cls=Verbs,
    help="Find the most stable crystal structures of a composition with few DFT calculations.",
    epilog="Exit status: 0 done; 1 the campaign ended without a result; 2 bad input; 3 the run directory is in use; "
    "75 the machine failed, such as a full disk; 143 or 130 stopped. After 75, 143 and 130 it can be continued.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)
app.add_typer(relaxer, name="relaxer")

File = Annotated[Path, typer.Argument(metavar="FILE", help="campaign file")]
RunDirectory = Annotated[Path, typer.Argument(metavar="DIR", help="run directory")]
Json = Annotated[bool, typer.Option("--json", help="print JSON, for programs")]
Slots = Annotated[int | None, typer.Option(min=1, help="labels side by side; default: as many as the cores allow")]
MachineName = Annotated[
    str | None, typer.Option("--machine", help="machine file: a name, or a path ending in .yaml; default: default")
]
Repair = Annotated[bool, typer.Option("--repair", help="set aside what is damaged and do it again")]
Trust = Annotated[
    bool, typer.Option("--trust", help="the run directory is mine: its code, its file names, its links may be followed")
]
RunCode = Annotated[
    bool, typer.Option("--trust", help="the campaign file is mine: run the code of others than ASE that it names")
]
Retry = Annotated[
    list[str] | None,
    typer.Option(metavar="TASK", help="try a failed calculation again: its id, or 'failed' for all of them"),
]
Verbose = Annotated[bool, typer.Option("-v", "--verbose", help="tell how far each stage is, and each calculation")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="tell nothing but warnings and how it ended")]
Wavelength = Annotated[
    str | None, typer.Option(help="of powder patterns: CuKa, CuKa1, MoKa, CoKa1 and the like, or Å; default: CuKa")
]
Device = Annotated[str, typer.Option(help="where the potentials run: auto, cpu, cuda, cuda:1, mps")]


def _say_version(asked: bool) -> None:  # noqa: FBT001 - typer's
    if asked:
        import csp_al

        say(f"csp-al {csp_al.__version__}")
        raise typer.Exit


@app.callback()
def to_any_terminal(
    version: Annotated[  # noqa: ARG001 - its callback answers
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="print the version")
    ] = False,
) -> None:
    """What a terminal or a file has no letters for is printed as question marks: it ends nothing."""
    replace_unknown_letters()


class What(StrEnum):
    """What `export` writes."""

    WINNERS = "winners"
    RELAXED = "relaxed"
    LABELS = "labels"
    POOL = "pool"
    PAIRS = "pairs"


@app.command()
@in_words
def init(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="file to write, e.g. si8.yaml")],
    formula: Annotated[str, typer.Option(help="atoms per cell, e.g. Si8 or Al4O6; with --z those of a formula unit")],
    reference: Annotated[
        str, typer.Option(help="gpaw, espresso, vasp, ase, or a kind of an installed package")
    ] = "gpaw",
    z: Annotated[int, typer.Option("--z", min=1, help="formula units per cell: --formula SiO2 --z 4 is Si4O8")] = 1,
    short: Annotated[bool, typer.Option("--short", help="only what a first campaign is about")] = False,
) -> None:
    """Write a commented campaign file with every default shown."""
    from csp_al.campaign import campaign_template, species_counts
    from csp_al.reference.ase_calculator import unknown_to_emt

    if z > 1:
        formula = "".join(f"{symbol}{z * count}" for symbol, count in species_counts(formula).items())
    text = campaign_template(path.stem, formula, reference, short=short)
    if not path.parent.is_dir():
        raise ValueError(f"{path}: there is no folder {path.parent}; make it first")
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        msg = f"{path} exists; choose another name, or remove it first"
        raise ValueError(msg) from None
    lacks = unknown_to_emt(species_counts(formula)) if reference == "ase" else ""  # EMT is what such a file names
    say(f"Wrote {path}. {f'Mind reference.calculator: {lacks}. ' * bool(lacks)}Next: csp-al validate {path}")


@app.command()
@in_words
def validate(path: File, machine: MachineName = None, trust: RunCode = False, as_json: Json = False) -> None:
    """Check a campaign file: keys, values, elements, programs, pseudopotentials. Runs no code that the file names."""
    from csp_al.campaign import CampaignError
    from csp_al.campaign.machine import read_machine
    from csp_al.cli.tables import problems_as_json
    from csp_al.importing import looking_only
    from csp_al.running.checks import checked_campaign

    try:
        with nullcontext() if trust else looking_only():
            campaign = checked_campaign(path, read_machine(machine)).campaign
    except CampaignError as error:
        if as_json:
            say(problems_as_json(error.problems))
            raise typer.Exit(2) from error
        raise
    if as_json:
        say(problems_as_json(()))
        return
    say(f"{path}: fine. {campaign.candidates}. Next: csp-al run {path}")


@app.command()
@in_words
def plan(
    path: File,
    directory: Annotated[Path | None, typer.Option(help="run directory")] = None,
    machine: MachineName = None,
    trust: RunCode = False,
    as_json: Json = False,
) -> None:
    """Show the stages, labels, time and disk that a campaign may take. Starts nothing."""
    from csp_al.campaign import read_campaign
    from csp_al.campaign.machine import read_machine
    from csp_al.cli.trust import refuse_unknown_kinds
    from csp_al.importing import looking_only
    from csp_al.report.plan import describe_plan
    from csp_al.report.plan import plan as plan_campaign

    with nullcontext() if trust else looking_only():
        campaign = read_campaign(path)
        refuse_unknown_kinds(campaign, path)
        run = directory or default_directory(campaign.name)
        planned = plan_campaign(campaign, run, read_machine(machine))
        say(json.dumps(planned, indent=1) if as_json else describe_plan(planned))


@app.command()
@in_words
def run(
    path: File,
    directory: Annotated[Path | None, typer.Option(help="run directory; default: runs/NAME here")] = None,
    machine: MachineName = None,
    slots: Slots = None,
    device: Device = "auto",
    seed: Annotated[int | None, typer.Option(min=0, help="instead of the seed in the file")] = None,
    seeds: Annotated[
        str | None,
        typer.Option(help="several, e.g. 1-10 or 1,4,7: one after the other, each in a run directory NAME-seed-N"),
    ] = None,
    repair: Repair = False,
    trust: Trust = False,
    retry: Retry = None,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Start a campaign, or continue it where it stopped."""
    from csp_al.campaign.machine import read_machine
    from csp_al.cli.driver import Start, drive
    from csp_al.cli.seeds import drive_each, seeds_of
    from csp_al.running.checks import checked_campaign

    if seed is not None and seeds is not None:
        raise ValueError("--seed and --seeds: give one of them")
    several = None if seeds is None else seeds_of(seeds)
    loudness = _loudness(verbose, quiet)
    here = read_machine(machine)
    campaign = checked_campaign(path, here).campaign
    if seed is not None:
        campaign = campaign.model_copy(update={"seed": seed})
    run = directory or default_directory(campaign.name)
    start = Start(
        path, path.parent, run, here, slots, device, repair, tuple(retry or ()), trust=trust, loudness=loudness
    )
    raise typer.Exit(drive(campaign, start) if several is None else drive_each(campaign, start, several))


@app.command()
@in_words
def resume(
    directory: RunDirectory,
    machine: MachineName = None,
    slots: Slots = None,
    device: Device = "auto",
    repair: Repair = False,
    trust: Trust = False,
    retry: Retry = None,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Continue the campaign of a run directory."""
    from csp_al.campaign.machine import read_machine
    from csp_al.cli.driver import Start, drive
    from csp_al.cli.trust import refuse_code
    from csp_al.running.checks import checked_again
    from csp_al.store.run_directory import folder_of_campaign, read_campaign_of

    loudness = _loudness(verbose, quiet)
    here = read_machine(machine)
    if not trust:
        refuse_code(read_campaign_of(directory), directory)
    campaign = read_campaign_of(directory, trust=True)
    base = folder_of_campaign(directory)
    campaign = checked_again(campaign, here, base)
    start = Start(
        None, base, directory, here, slots, device, repair, tuple(retry or ()), trust=trust, loudness=loudness
    )
    raise typer.Exit(drive(campaign, start))


@app.command()
@in_words
def status(directory: RunDirectory, as_json: Json = False) -> None:
    """Show how far a campaign is and what it has found."""
    from dataclasses import asdict

    from csp_al.report.status import status as status_of
    from csp_al.report.status_in_words import describe

    now = status_of(directory)
    say(json.dumps(asdict(now), indent=1) if as_json else describe(now))


@app.command()
@in_words
def watch(directory: RunDirectory) -> None:
    """Follow a campaign that runs in another terminal, or on another host, until it ends. Ctrl-C ends the look alone.

    Exit status: 0 it has results; 1 it has none, since it failed, was stopped, or its driver died.
    """
    from csp_al.cli.watch import follow

    raise typer.Exit(follow(directory))


@app.command()
@in_words
def results(
    directory: RunDirectory,
    as_json: Json = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="print CSV, for programs")] = False,
    top: Annotated[int | None, typer.Option(min=1, help="show only so many, the lowest")] = None,
    describe: Annotated[
        bool, typer.Option("--describe", help="also prototype, density, neighbours, and space groups at two tolerances")
    ] = False,
    known: Annotated[
        Path | None, typer.Option(metavar="FILE", help="also the nearest of these crystals: a CIF, extxyz or folder")
    ] = None,
    xrd: Annotated[
        Path | None, typer.Option(metavar="FILE", help="also rank by agreement with this powder pattern: 2θ, intensity")
    ] = None,
    wavelength: Wavelength = None,
) -> None:
    """Show the ranked distinct structures."""
    from csp_al.cli.crystals import look_closer, say_closer
    from csp_al.cli.tables import results_as_csv, say_results, say_where_it_stands
    from csp_al.report.tables import open_run

    if as_json and as_csv:
        raise ValueError("--json and --csv: give one of them")
    opened = open_run(directory)
    rows = look_closer(opened, opened.result_rows[:top], known, xrd, wavelength, describe=describe)
    if not rows:
        say(say_where_it_stands(directory), err=as_json or as_csv)
    if as_json:
        say(json.dumps(rows, indent=1))
    elif as_csv:
        say(results_as_csv(rows))
    elif rows:
        say_results(opened, top)
        say_closer(rows)


@app.command()
@in_words
def report(
    directory: RunDirectory,
    to: Annotated[Path | None, typer.Option(metavar="FILE", help="file to write; default: DIR/report.html")] = None,
) -> None:
    """Write a page of a campaign, running or ended, for a browser: crystals, figures, costs. It needs no network."""
    from csp_al.report.page import write_report

    path = write_report(directory, to)
    say(f"Wrote {path} ({path.stat().st_size / 1e6:.1f} MB). Open it in a browser; it can be sent as it is")


@app.command()
@in_words
def show(
    directory: RunDirectory,
    identity: Annotated[int, typer.Argument(metavar="ID", help="number of a candidate, as results and tables have it")],
    at: Annotated[
        str | None,
        typer.Option(
            metavar="WHEN",
            help="with --out: first, as generated; cycle-03, as it stood then; last, as it stands; reference, as that "
            "relaxed it; default: the last of these that there is",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="write its structure; the format by the name: .cif, POSCAR, .extxyz, ..."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show the life of a candidate: its origin, every cycle, its labels, what it ended as; or write its structure."""
    from csp_al.cli.life import life_as_json, say_life
    from csp_al.report.life import structure_at
    from csp_al.report.save import save
    from csp_al.report.tables import open_run

    opened = open_run(directory)
    if out is not None:
        structure, when = structure_at(opened, identity, at)
        what = save(structure, out)
        say(json.dumps([str(out)]) if as_json else f"Wrote {out}: candidate {identity} {when}; {what}")
        return
    if at is not None:
        raise ValueError(f"--at {at} says which structure is written; say where with --out, e.g. --out {identity}.cif")
    life = opened.life(identity)
    say(life_as_json(life)) if as_json else say_life(life, opened)


@app.command()
@in_words
def compare(
    directories: Annotated[list[Path], typer.Argument(metavar="DIR", help="run directories, two or more")],
    as_json: Json = False,
) -> None:
    """Show runs side by side: crystals matched, what each run took, settings that differ."""
    from csp_al.cli.comparison import comparison_as_json, say_comparison
    from csp_al.report.comparison import compare as compare_runs
    from csp_al.report.tables import open_run

    found = compare_runs([open_run(directory) for directory in directories])
    say(comparison_as_json(found)) if as_json else say_comparison(found)


@app.command()
@in_words
def export(
    directory: RunDirectory,
    what: Annotated[
        What, typer.Option(help="which structures; relaxed: the minima as predicted; pairs: for csp-al relaxer")
    ] = What.WINNERS,
    formats: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="cif, poscar, extxyz, ase-db, pymatgen, optimade, xrd, png or pdf; several separated by commas; "
            "default: cif of winners and relaxed candidates, extxyz of others",
        ),
    ] = None,
    to: Annotated[Path | None, typer.Option(help="folder to write into; default: export/NAME here")] = None,
    within: Annotated[
        float | None,
        typer.Option(
            min=0, help="with --what relaxed: only those at most so many meV/atom above the lowest; default: all"
        ),
    ] = None,
    wavelength: Wavelength = None,
    as_json: Json = False,
) -> None:
    """Write structures for other programs and for a paper, pictures of their energies, and powder patterns."""
    from csp_al.report.export import export as write

    if formats is None:
        formats = "cif" if what in {What.WINNERS, What.RELAXED} else "extxyz"
    written = write(directory, formats.split(","), what.value, to, within, wavelength)
    say(json.dumps([str(path) for path in written], indent=1) if as_json else "\n".join(map(str, written)))


@app.command()
@in_words
def stop(directory: RunDirectory) -> None:
    """Ask the driver of a run to end cleanly; calculations under way are ended, and taken up again later."""
    from csp_al.cli.trust import how_to_continue
    from csp_al.engine.exchange import Exchange
    from csp_al.store.lock import holder
    from csp_al.store.run_directory import POTENTIALS, read_campaign_of, request_stop

    campaign = read_campaign_of(directory)
    driver = holder(directory)
    if driver is None:
        jobs = [job for name in ("tasks", POTENTIALS) for job in Exchange(directory / name).dismiss()]
        left = f"its pilots are told to end; jobs, if you want to cancel some: {' '.join(jobs)}"
        say(f"{directory}: no driver is running; {left if jobs else 'nothing to stop'}")
        return
    request_stop(directory, str(driver.get("token")))
    say(f"Asked process {driver['pid']} on {driver['host']} to stop. {how_to_continue(campaign, directory)}")


@app.command()
@in_words
def doctor(
    reference: Annotated[
        Path | None, typer.Option(metavar="FILE", help="check the reference of this campaign file with single points")
    ] = None,
    machine: MachineName = None,
    as_json: Json = False,
) -> None:
    """Show what this machine has: reference programs, GPU, MPI, scheduler; and the remedy where something lacks.

    With --machine NAME of a cluster: what a tiny job finds there, which is submitted and waited for. With --reference
    FILE: whether forces and stress of its reference are derivatives of the energy, and what it costs.
    """
    from csp_al.campaign.machine import read_machine
    from csp_al.cli.tables import say_lines
    from csp_al.engine.engines import examine_machine
    from csp_al.interruption import Interrupted, interruptible
    from csp_al.report.doctor import examine

    if reference is not None:
        from csp_al.cli.reference_test import try_reference

        raise typer.Exit(try_reference(reference, read_machine(machine)))
    there = None if machine is None else examine_machine(read_machine(machine))
    try:
        with interruptible():  # what was started for it is ended
            say_lines(examine() if there is None else there, as_json=as_json)
    except Interrupted as end:
        raise typer.Exit(end.status) from None


@app.command()
@in_words
def benchmark(
    path: File,
    seeds: Annotated[
        int, typer.Option(min=2, help="number of campaigns; their seeds count up from that of the file")
    ] = 10,
    target: Annotated[
        Path | None, typer.Option(metavar="STRUCTURE", help="file with the crystal to be found; ASE reads it")
    ] = None,
    target_energy: Annotated[
        float | None,
        typer.Option(help="energy to be found, eV/atom; default: the lowest that a campaign or random search finds"),
    ] = None,
    directory: Annotated[Path | None, typer.Option(help="default: benchmarks/NAME here")] = None,
    machine: MachineName = None,
    slots: Annotated[int | None, typer.Option(min=1, help="processes side by side; default: one for each core")] = None,
    device: Device = "auto",
    control_size: Annotated[
        int | None, typer.Option(min=1, help="candidates of each pool that random search relaxes; default: all")
    ] = None,
    repair: Repair = False,
    as_json: Json = False,
) -> None:
    """Compare campaigns with random search, which relaxes the candidates of the same pools with the reference.

    A hit is as low as the target within stop.tolerance, and with --target the same crystal. The control is kept beside
    the directory, for other settings of the same pools.
    """
    from csp_al.campaign.machine import read_machine
    from csp_al.cli.benchmark import run_benchmark

    if target is not None and target_energy is not None:
        raise ValueError("--target and --target-energy: give one of them")
    options = ["--machine", machine] if machine else []
    here = read_machine(machine)
    aim = target or target_energy
    status = run_benchmark(
        path, seeds, aim, directory, here, slots, options, control_size, device=device, repair=repair, as_json=as_json
    )
    raise typer.Exit(status)


@app.command()
@in_words
def schema() -> None:
    """Print the JSON schema of the campaign file, for editors."""
    from csp_al.campaign import campaign_schema

    say(json.dumps(campaign_schema(), indent=1))


def _loudness(verbose: bool, quiet: bool) -> int:  # noqa: FBT001 - two options
    from csp_al.cli.panel import NORMAL, QUIET, VERBOSE

    if verbose and quiet:
        raise ValueError("--verbose and --quiet: give one of them")
    return VERBOSE if verbose else QUIET if quiet else NORMAL


def default_directory(name: str) -> Path:
    """Where a campaign runs unless told otherwise."""
    return Path("runs") / name
