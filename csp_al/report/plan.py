"""What a campaign may cost, before it starts and after its first cycle.

    print(describe_plan(plan(read_campaign("si8.yaml"), Path("runs/si8"))))

Every figure is an upper bound or says on what it rests. A search usually stops earlier, when its leading crystals no
longer change.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pandas as pd

from csp_al.campaign.clusters import Cluster
from csp_al.campaign.machine import Machine, usable_cores
from csp_al.campaign.models import Campaign
from csp_al.reference.references import reference_kind
from csp_al.report.pilots import pilots
from csp_al.report.tables import Run, open_run
from csp_al.store.disk_use import cycle_bytes, most_atoms, size_of_pools
from csp_al.store.run_directory import SETTINGS, STAGES

CHECKS: Final = 2
"""Labels of a source from elsewhere that are computed again at most, before it is trusted."""


FEW_SLOTS: Final = 4
"""Of fewer it costs little that some wait."""


@dataclass(frozen=True)
class Measured:
    """What a run has shown so far: core seconds a call of the reference; wall seconds (`mean_cycle`), bytes a cycle."""

    labels: int
    opened: int
    core_seconds: float
    seconds: dict[str, float]
    bytes_per_cycle: float


def plan(campaign: Campaign, run: Path | None, machine: Machine | None = None) -> dict[str, Any]:
    """Stages, labels, final relaxations, time and disk that a campaign may take at most; starts nothing.

    ``run`` is its run directory, if there is one: from its first finished cycle on, times and disk are measured
    there. ``machine`` is where it will run; of a cluster, pilots are told. Labels of first cells that will have to be
    opened come on top, those that were are among the labels. Ranges are [least, most]; what cannot be known yet is
    None, and ``basis`` says why. Core hours are those of the reference method, of pilots also those in which they are
    idle; hours of wall time are those of the cycles.
    """
    opened = open_run(run) if run is not None and (run / SETTINGS).exists() else None
    candidates = size_of_pools(campaign) if opened is None or opened.pool.empty else len(opened.pool)
    measured = _measured(opened) if opened is not None else None
    again = measured.opened if measured else 0
    labels = schedule(campaign, candidates, asked=again)
    checks = CHECKS * len(campaign.labels)
    final = campaign.final_relaxations * (campaign.finish.max_steps + 1)
    seconds, basis = _core_seconds(campaign, measured)
    return {
        "name": campaign.name,
        "formula": " and ".join(pool.formula for pool in campaign.pools),
        "reference": campaign.reference.kind,
        "candidates": candidates,
        "stages": ["pool", *_before_cycles(campaign), *_stages_of(campaign), "winners"],
        "stages_of_a_cycle": _stages_of(campaign),
        "cycles_at_most": len(labels),
        "labels_at_most": sum(labels) + again,
        "labels_done": measured.labels if measured else 0,
        "sources_elsewhere": len(campaign.labels),
        "checks_at_most": checks,
        "final_relaxations_at_most": campaign.final_relaxations,
        "final_evaluations_at_most": final,
        "core_hours": {
            "labels": seconds and [(sum(labels) + again + checks) * one / 3600 for one in seconds],
            # a relaxation that starts near a minimum may need few steps; how many, nobody knows beforehand
            "final_relaxations": seconds and [campaign.winners * seconds[0] / 3600, final * seconds[1] / 3600],
            "basis": basis,
        },
        "slots": _slots(machine),
        "in_flight": _in_flight_for(campaign, _slots(machine)),
        "pilots": _pilots(machine, run, measured.labels if measured else 0, sum(labels) + again),
        "seconds_per_cycle": measured.seconds if measured else None,
        "hours_at_most": sum(measured.seconds.values()) * len(labels) / 3600 if measured else None,
        "disk_bytes": _disk(campaign, candidates, labels, measured),
        "disk_free_bytes": shutil.disk_usage(_nearest(run or Path.cwd())).free,
    }


def describe_plan(planned: dict[str, Any]) -> str:
    """The plan in plain lines, for people."""
    hours, seconds = planned["core_hours"], planned["seconds_per_cycle"]
    lines = [
        f"{planned['name']}: {planned['candidates']} candidates of {planned['formula']}",
        f"stages            {', '.join(planned['stages'])}; in every cycle: {', '.join(planned['stages_of_a_cycle'])}",
        f"cycles            at most {planned['cycles_at_most']}",
        f"labels            {_labels(planned)}",
        *_elsewhere(planned),
        f"final relaxations at most {planned['final_relaxations_at_most']}, and one more for each that fails",
        f"                  with at most {planned['final_evaluations_at_most']} evaluations, together",
        f"core time         labels {_core_time(hours['labels'])},",
        f"                  final relaxations {_core_time(hours['final_relaxations'])}",
        f"                  {hours['basis']}",
    ]
    if planned["in_flight"]:
        lines.append(f"slots             {planned['slots']}, most of which wait while potentials are trained;")
        lines.append(f"                  with select.in_flight: {planned['in_flight']} hardly any does")
    if planned["pilots"]:
        lines.append(f"pilots            {_in_words(planned['pilots'])}")
    if seconds is None:
        lines.append("wall time         unknown before the first cycle")
    else:
        stages = ", ".join(f"{stage} {duration(seconds[stage])}" for stage in planned["stages_of_a_cycle"])
        lines.append(
            f"wall time         at most {duration(3600 * planned['hours_at_most'])} for the cycles; one takes: {stages}"
        )
    needed, free = planned["disk_bytes"] / 1e6, planned["disk_free_bytes"] / 1e6
    lines.append(f"disk              about {needed:.1f} MB; {free:.0f} MB are free" + ": too little" * (free < needed))
    if planned["labels_at_most"]:
        lines.append("The search ends earlier when its leading crystals no longer change.")
    return "\n".join(lines)


def _slots(machine: Machine | None) -> int | None:
    """Labels side by side at most, where that is known."""
    if machine is None:
        return None
    if isinstance(machine, Cluster):
        return machine.labels_at_once * machine.blocks[1]
    return machine.slots or usable_cores() // machine.cores_per_label


def _in_flight_for(campaign: Campaign, slots: int | None) -> int | None:
    """Labels in flight (``select.in_flight``) that keep so many slots busy; None where they are, or are too few.

    Simulated (``analysis/benchmarks/slots.py``), 16 slots are busy 18% of the time with none, and 88% with 24.
    """
    select = campaign.select
    if slots is None or slots < FEW_SLOTS or 2 * slots <= select.per_cycle or select.in_flight >= slots:
        return None
    enough = 3 * slots // 2
    candidates, labels = size_of_pools(campaign), campaign.budget.labels
    return enough if select.per_cycle + enough <= min(candidates, labels) else None


def _labels(planned: dict[str, Any]) -> str:
    """How many, and that there may be more than planned, as long as nobody knows."""
    if planned["labels_at_most"] == 0:
        return "none: the foundation alone ranks the candidates"
    unknown = planned["labels_done"] == planned["sources_elsewhere"] == 0
    more = "; more, within the budget, where first cells must be enlarged" if unknown else ""
    return f"at most {planned['labels_at_most']} single points, {planned['labels_done']} done{more}"


def _elsewhere(planned: dict[str, Any]) -> list[str]:
    sources, checks = planned["sources_elsewhere"], planned["checks_at_most"]
    told = f"{sources} {'source' if sources == 1 else 'sources'} instead of a first draw; at most {checks} are computed"
    return [f"from elsewhere    {told} again, to check them"] if sources else []


def duration(seconds: float) -> str:
    """A time in the unit that suits: 0.4 s, 42 s, 3.5 min, 2.1 h."""
    if seconds < 100:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def schedule(campaign: Campaign, candidates: int, cycles: int = 0, asked: int = 0) -> list[int]:
    """Labels of each cycle still to come, at most, when so many cycles are over and so many labels were asked for."""
    per_cycle, budget = campaign.select.per_cycle, campaign.budget.labels
    coming = []
    if cycles == 0:  # the first draw takes what the budget has, as little as it may be
        coming.append(0 if campaign.labels else min(campaign.select.at_first, budget, candidates))
    each, left = min(per_cycle, candidates), budget - asked - sum(coming)
    paid = (left - per_cycle) // max(each, 1) + 1 if left >= per_cycle else 0
    return coming + [each] * min(paid, max(0, campaign.stop.max_cycles - cycles - len(coming)))


def _measured(run: Run) -> Measured | None:
    """None before the first cycle that labelled candidates has been judged."""
    cycles, labels = run.effort, run.labels
    seconds = mean_cycle(cycles, run.campaign)
    if seconds is None:
        return None
    used = sum(path.stat().st_size for path in run.path.rglob("*") if path.is_file())
    return Measured(
        labels=int((labels["id"] >= 0).sum()),
        opened=run.opened,
        core_seconds=float(labels["cost_s"].sum() / max(1, labels["evaluations"].sum())),
        seconds=seconds,
        bytes_per_cycle=used / len(_judged(cycles)),
    )


def mean_cycle(cycles: pd.DataFrame, campaign: Campaign) -> dict[str, float] | None:
    """Wall seconds of each stage of a cycle to come, from the mean of those judged; None before there is one.

    ``cycles`` is that table of a run, or `effort`. In the first cycle candidates are relaxed once, in later ones up to
    twice: the first one's relaxations count twice. Where a foundation went first, they are as many as the later ones.
    """
    judged = _judged(cycles)
    if judged.empty:
        return None
    seconds = judged[[f"seconds_{stage}" for stage in STAGES]].copy()
    if campaign.foundation is None:
        seconds.loc[judged["cycle"] == 0, "seconds_relax"] *= 2
    means = seconds.mean().fillna(0.0)
    return {stage: float(means[f"seconds_{stage}"]) for stage in STAGES}


def _pilots(machine: Machine | None, run: Path | None, done: int, at_most: int) -> dict[str, Any] | None:
    """Of a cluster: how many there are at most, and what those that there were have cost; None elsewhere."""
    seen = pilots(run, done, max(0, at_most - done)) if run is not None else None
    cluster = machine if isinstance(machine, Cluster) else None
    if seen is None and cluster is None:
        return None
    return {
        "at_most": cluster and cluster.blocks[1],
        "cores": cluster and cluster.cores,
        "labels_at_once": cluster and cluster.blocks[1] * cluster.labels_at_once,
        "core_hours": seen and seen.core_hours,
        "core_hours_to_come": seen and seen.core_hours_to_come,
    }


def _in_words(planned: dict[str, Any]) -> str:
    most, to_come = planned["at_most"], planned["core_hours_to_come"]
    parts = [f"at most {most} of {planned['cores']} cores, {planned['labels_at_once']} labels at once"] if most else []
    if planned["core_hours"] is not None:
        parts.append(f"{planned['core_hours']:.3g} core hours so far")
    if to_come:
        parts.append(f"at most {to_come:.3g} to come for labels, as those so far went")
    return "; ".join(parts)


def _before_cycles(campaign: Campaign) -> list[str]:
    """What a foundation does before the first label."""
    return ["foundation"] if campaign.foundation is not None and not campaign.unlabelled else []


def _stages_of(campaign: Campaign) -> list[str]:
    """Those of a cycle."""
    left_out = {"label", "train", "select"} if campaign.unlabelled else set()
    if campaign.pools[-1].grow is None:
        left_out.add("grow")
    if campaign.direct is None:
        left_out.add("direct")
    return [stage for stage in STAGES if stage not in left_out]


def _judged(cycles: pd.DataFrame) -> pd.DataFrame:
    """Cycles that labelled candidates and were judged: one that begins with labels from elsewhere takes less."""
    return cycles[cycles["seconds_verdict"].notna() & (cycles["labels_done"] + cycles["labels_failed"] > 0)]


def _core_seconds(campaign: Campaign, measured: Measured | None) -> tuple[list[float] | None, str]:
    """Core seconds a call of the reference method, [least, most], and what that rests on."""
    if measured is not None:
        return [measured.core_seconds] * 2, f"measured: {measured.core_seconds:.3g} core seconds per single point"
    estimate = reference_kind(campaign.reference).core_seconds
    if estimate is None:
        return None, "unknown before the first cycle"
    seconds, basis = estimate(campaign.reference, most_atoms(campaign))
    return list(seconds), basis


def _disk(campaign: Campaign, candidates: int, labels: list[int], measured: Measured | None) -> int:
    """Bytes of the run directory at its end."""
    if measured is not None:
        return int(measured.bytes_per_cycle * len(labels))
    pool_and_end = cycle_bytes(campaign, candidates, campaign.final_relaxations)
    return pool_and_end + sum(cycle_bytes(campaign, candidates, count) for count in labels)


def _nearest(folder: Path) -> Path:
    """The folder, or the first above it that is there."""
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())


def _core_time(hours: list[float] | None) -> str:
    if hours is None:
        return "unknown"
    least, most = (duration(3600 * value) for value in hours)
    return f"at most {most}" if least == most else f"{least} to {most}"
