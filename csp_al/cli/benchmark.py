"""`csp-al benchmark`: start it, show how far it is, print and keep what came out."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from csp_al import objective
from csp_al.benchmark.campaigns import CampaignFailedError
from csp_al.benchmark.comparison import CONTROL, Benchmark, compare
from csp_al.benchmark.figure import draw
from csp_al.benchmark.statistics import FEWEST, Interval, holds_median
from csp_al.benchmark.trial import LOW
from csp_al.campaign import Campaign
from csp_al.campaign.clusters import Cluster, OwnParsl
from csp_al.campaign.machine import Machine
from csp_al.cli.driver import MACHINE_FAILED, NO_RESULT, STOPPED
from csp_al.cli.tables import WIDTH_OF_FILES
from csp_al.disk_space import is_machine_failure, machine_failure_in_words
from csp_al.engine.engines import check_machine, start_engine
from csp_al.files import make_directory, write_json
from csp_al.foundation.client import FoundationError
from csp_al.foundation.universal import Universal
from csp_al.interruption import Interrupted, interruptible
from csp_al.loop.tasks import StoppedError
from csp_al.printing import say, say_over
from csp_al.running.checks import checked_campaign, for_workers, foundation_of, reference_of
from csp_al.store.lock import locked


def run_benchmark(
    path: Path,
    seeds: int,
    target: Path | float | None,
    directory: Path | None,
    machine: Machine,
    slots: int | None,
    options: list[str],
    control_size: int | None,
    *,
    device: str,
    repair: bool,
    as_json: bool = False,
) -> int:
    """Run or continue a benchmark and return the exit status."""
    if isinstance(machine, Cluster | OwnParsl):
        words = "campaigns of a benchmark run side by side on one machine, not in jobs of a cluster"
        raise ValueError(f"--machine: {words}")  # noqa: TRY004 - it is the user's
    campaign = checked_campaign(path, machine).campaign
    campaign = campaign.model_copy(update={"reference": reference_of(campaign, machine, path.parent).pinned()})
    directory = directory or Path("benchmarks") / campaign.name
    if directory.name == CONTROL:
        raise ValueError(f"{directory}: benchmarks keep their random searches there; choose another directory")
    if isinstance(target, float) and not math.isfinite(target):
        raise ValueError(f"--target-energy: {target} is no energy")
    slots = slots or check_machine(machine)
    workers = for_workers(machine.model_copy(update={"slots": slots}), campaign, path.parent)
    benchmark = Benchmark(
        file=path,
        campaign=campaign,
        base=path.parent,
        seeds=range(campaign.seed, campaign.seed + seeds),
        directory=directory,
        engine=lambda folder: start_engine(folder, workers),
        slots=slots,
        options=["--device", device, *options, *(["--repair"] if repair else [])],
        tell=(lambda *_: None) if as_json else _Progress().tell,
        control_size=control_size,
        mend=repair,
    )
    make_directory(directory)
    try:
        with interruptible(), locked(directory), _foundation(campaign, machine, path.parent, device) as foundation:
            benchmark = replace(benchmark, foundation=foundation)
            result = compare(benchmark, target)
            write_json(directory / "result.json", result)
            draw(result, directory / "success.png")
    except (Interrupted, StoppedError) as end:
        say("Stopped. Continue with the same command.", err=True)
        return end.status if isinstance(end, Interrupted) else STOPPED
    except OSError as trouble:
        if not is_machine_failure(trouble):
            raise
        said = machine_failure_in_words(trouble, directory)
        say(f"{said}. Continue with the same command.", err=True)
        return MACHINE_FAILED
    except CampaignFailedError as failure:
        say(str(failure), err=True)
        return failure.status
    except FoundationError as failure:
        say(f"{failure}. Continue with the same command.", err=True)
        return NO_RESULT
    if as_json:
        say((directory / "result.json").read_text(encoding="utf-8"))
        return 0
    print_result(result)
    say(f"All figures: {directory / 'result.json'}; picture: {directory / 'success.png'}")
    return 0


@contextmanager
def _foundation(campaign: Campaign, machine: Machine, base: Path, device: str) -> Iterator[Universal | None]:
    """The foundation of a campaign, while this lasts."""
    from csp_al.potential.devices import resolve_device

    foundation = foundation_of(campaign, machine, base, str(resolve_device(device))) if campaign.foundation else None
    try:
        yield foundation
    finally:
        if foundation is not None:
            foundation.close()


def print_result(result: dict[str, Any]) -> None:
    """Print a result as a table, and in words what it says."""
    target = result["target"]
    title = (
        f"{result['name']}: {result['candidates']} candidates of {result['formula']}, {len(result['seeds'])} seeds\n"
        f"Looked for: {target['words']}, {objective.show(target['energy'])} "
        f"within {objective.show_difference(target['tolerance'])}"
    )
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    for heading in ("", "found", "success", "median to first hit", "expected with restarts", "time of one (s)"):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    rival = [("foundation", f"{result['foundation']['model']}, no labels")] if result.get("foundation") else []
    for key, name in (("campaign", "campaign"), ("control", "random search"), *rival):
        side = result[key]
        table.add_row(
            name,
            f"{side['found']} of {side['of']}",
            _shares(side["success"]),
            *(_evaluations(side[figure]) for figure in ("median", "expected")),
            f"{side['seconds']:.0f}",
        )
    console = Console()
    if not console.is_terminal:
        console.width = WIDTH_OF_FILES
    console.print(table)
    for line in _sentences(result):
        console.print(line, highlight=False, soft_wrap=True)


def _sentences(result: dict[str, Any]) -> list[str]:
    return [
        *_without_result(result["trials"]),
        *_of_few_seeds(result),
        *(["Labels from elsewhere are not among the evaluations."] if result["labels_from_elsewhere"] else []),
        *_of_smaller_cells(result),
        *_of_smaller_control(result),
        *_of_rival(result),
        _saved(result),
        _stopping(result["stopping"], len(result["seeds"])),
        *_minima(result["minima"], result["winners"]),
    ]


def _without_result(trials: list[dict[str, Any]]) -> list[str]:
    failed = [trial for trial in trials if not trial["ended"]]
    return [f"Seed {trial['seed']} ended without a result: {_first_line(trial['reason'])}" for trial in failed]


def _of_few_seeds(result: dict[str, Any]) -> list[str]:
    """What so few seeds can show, where they are too few for intervals."""
    count, ours = len(result["seeds"]), result["campaign"]
    if count >= FEWEST:
        return []
    low, high = (100 * ours["success"][end] for end in ("low", "high"))
    shown = f"{count} seeds show that a campaign finds it in {low:.0f}% to {high:.0f}% of all cases, and no more"
    why = f"the median lies between the least and the most of {count} with a chance of {holds_median(count):.0%}"
    return [f"{shown}: {why}, so that evaluations have no interval of 95% here; from {FEWEST} seeds on they have."]


def _first_line(text: str) -> str:
    return text.partition("\n")[0]


def _of_smaller_cells(result: dict[str, Any]) -> list[str]:
    smaller = result["smaller_cells"]
    if smaller is None:
        return []
    each = f"a campaign made {_number(smaller['evaluations'])} of its evaluations on cells of {smaller['formula']}"
    return [f"By the median {each}, which are not searched; random search made none there."]


def _of_smaller_control(result: dict[str, Any]) -> list[str]:
    everything, some = result["candidates"], result["candidates_of_control"]
    return [f"Random search relaxed the first {some} of {everything} candidates."] if some < everything else []


def _of_rival(result: dict[str, Any]) -> list[str]:
    rival = result.get("foundation")
    if not rival:
        return []
    how = f"relaxed every candidate, and the reference its lowest crystals one after the other, {rival['crystals']} at"
    return [f"Without labels {rival['model']} {how} most."]


def _saved(result: dict[str, Any]) -> str:
    medians, expected = _ratio(result["ratio"]), _ratio(result["ratio_of_expected"])
    return f"Reference evaluations saved: {medians} by medians, {expected} by expectation with restarts."


def _stopping(stopping: dict[str, Any], campaigns: int) -> str:
    share = stopping["late_label_share"]
    late = "" if share is None else f"; {share:.0%} of their labels were asked for after it led"
    lost = f"and was lost again in {stopping['lost_again']}"
    enough = f"{_number(stopping['early_median'])} evaluations would have been enough (median)"
    soonest = f" Had each campaign stopped right after the cycle in which the target first led, {enough}."
    led = f"The target led in {stopping['target_led']} of {campaigns} campaigns, {lost}{late}."
    return led + (soonest if stopping["target_led"] else "")


def _minima(minima: dict[str, Any], most: int) -> list[str]:
    if not minima["known"]:
        return []
    known, found, share = minima["known"], minima["found"], minima["share"]
    low = f"Of {known} minima within {LOW:g} {objective.UNIT} of it that random search found"
    ours = f"campaigns, which report {most} crystals each at most, found {found} ({share:.0%})"
    return [f"{low}, {ours}, with {minima['evaluations_share']:.1%} of its evaluations."]


def _shares(interval: dict[str, Any]) -> str:
    return f"{interval['value']:.0%} [{interval['low']:.0%}, {interval['high']:.0%}]"


def _evaluations(interval: dict[str, Any]) -> str:
    if math.isnan(interval["low"]):
        return _number(interval["value"])
    return f"{_number(interval['value'])} [{_number(interval['low'])}, {_number(interval['high'])}]"


def _ratio(interval: dict[str, Any]) -> str:
    found = Interval(**interval)
    least = "at least " if found.bound else ""
    ends = "" if math.isnan(found.low) else f" [{found.low:.3g}, {found.high:.3g}]"
    return f"{least}{found.value:.3g}{ends}"


def _number(value: float) -> str:
    return "never" if value == float("inf") else f"{value:.0f}"


class _Progress:
    """A line that is written over on a terminal; elsewhere a line for each step, at its start."""

    def __init__(self) -> None:
        self.last = ""

    def tell(self, what: str, done: int, everything: int) -> None:
        """Hear that ``done`` of ``everything`` is there."""
        if sys.stdout.isatty():
            say_over(f"{what}: {done} of {everything}", last=done == everything)
        elif what != self.last:
            say(f"{what}: {done} of {everything}")
        self.last = what
