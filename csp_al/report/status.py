"""How far a campaign is: read from its published stages, its task directories, its lock and its log."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from csp_al.campaign.models import Campaign
from csp_al.engine.tasks import read_result
from csp_al.interfaces import State, Verdict
from csp_al.report.labels import count_opened
from csp_al.report.live import read_log, tasks_of
from csp_al.report.pilots import Pilots, pilots
from csp_al.report.plan import mean_cycle, schedule
from csp_al.report.tables import Run, open_run
from csp_al.results import Result
from csp_al.select.judgement import Judgement
from csp_al.select.ranking import stopped_at_once
from csp_al.store import layout
from csp_al.store.lock import holder
from csp_al.store.run_directory import FIRST, LAST, POTENTIALS, STAGES, Place, cycles, published_stages, under_way
from csp_al.store.stages import is_published
from csp_al.structures import Status

if TYPE_CHECKING:
    import pandas as pd


WITH_TASKS: Final = ("check", "label", LAST)
"""Stages that ask the reference."""


@dataclass(frozen=True)
class LabelCounts:
    """Labels that the campaign asked for itself, and those from elsewhere.

    Failed ones include those that are rejected; pending ones were asked for and have no result;
    those from elsewhere are the usable ones that the campaign began with, which are not among those done; opened ones
    are among those done or failed: cells of the first cycle, once it has ended, that were rejected as they were before.
    """

    done: int
    failed: int
    pending: int
    from_elsewhere: int
    opened: int = 0


@dataclass(frozen=True)
class Best:
    """The candidate that is lowest so far, energy in eV/atom, by "reference" or "potential", which has a spread."""

    id: int
    energy_per_atom: float
    by: str
    sigma: float | None = None


@dataclass(frozen=True)
class Leaders:
    """The top k of the last cycle judged, as `csp_al.interfaces.Verdict` has it."""

    ids: list[int]
    energies_per_atom: list[float]
    stable_cycles: int
    patience: int
    unseen: float
    verdict: str


@dataclass(frozen=True)
class Stop:
    """Why the search is over, in words, and whether it is sure of its leaders; None while it is not over."""

    reason: str | None
    settled: bool | None


@dataclass(frozen=True)
class RunStatus:
    """State of a run directory, as `csp-al status --json` prints it.

    - stage: the one under way, or the last one
    - reference_evaluations: calls of the reference method so far, final relaxations included
    - best and top_k: None before the first ranking; lowest_label: eV/atom, of the last cycle judged
    - relaxations: in words, where nearly all of the last ranking stopped at once; None elsewhere
    - walk_forward: how well the latest labels were predicted (`csp_al.select.walk_forward`); None in cycle 0
    - foundation: how it ranks the labels beside the ensemble (`csp_al.report.tables.Run.foundation`); None without one
    - direct: the last row of `csp_al.report.tables.Run.direct` that was asked for starts, else the last; None without
    - members: of the ensemble; None where the potential is none of ours
    - judgement: what the results are worth (`csp_al.select.judgement`); None before there are any
    - check: what the check of the reference found that is not equal, a line each
    - pilots: those of a campaign on a cluster (`csp_al.report.pilots`); None elsewhere
    - potentials: the same of the job that trains and relaxes, where there is one; its slots are one
    - elapsed_s: wall time of the stages, interruptions left out
    - eta_s: what is left at most, from the mean of the cycles so far and the cycles that the campaign file allows;
      the final relaxations count from their first result on; None where nothing is known or nothing will come
    """

    name: str
    state: State
    cycle: int | None
    stage: str | None
    labels: LabelCounts
    reference_evaluations: int
    best: Best | None
    lowest_label: float | None
    top_k: Leaders | None
    relaxations: str | None
    walk_forward: dict[str, Any] | None
    foundation: dict[str, Any] | None
    direct: dict[str, Any] | None
    members: int | None
    stop: Stop
    judgement: Judgement | None
    elapsed_s: float
    eta_s: float | None
    check: list[str]
    pilots: Pilots | None
    potentials: Pilots | None


def status(run: Path) -> RunStatus:
    """How far the run directory is. Raises NoRunError if there is none."""
    opened = open_run(run)
    campaign, verdict, (events, _) = opened.campaign, opened.verdict(), read_log(opened.path)
    place = under_way(opened.path)
    tasks = tasks_of(place) if place is not None and place[1] in WITH_TASKS else _out(opened)
    results = [result for task in tasks if (result := read_result(opened.path / "tasks", task))]
    pending = len(tasks) - len(results)
    # the first cycle of a campaign with labels from elsewhere checks some of them, and labels nothing
    checking = bool(campaign.labels) and place is not None and place[0] == 0
    in_cycles = (place is None or place[1] not in (*FIRST, LAST)) and not checking
    state = _state(opened.path, events)
    so_far = _seconds_under_way(events) if state is State.RUNNING and place else 0.0
    cycle, stage = _where(opened.path, place)
    labels = _label_counts(opened, results if in_cycles else [], pending if in_cycles else 0)
    over = state in (State.FINISHED, State.FAILED)
    return RunStatus(
        name=campaign.name,
        state=state,
        cycle=cycle,
        stage=stage,
        labels=labels,
        reference_evaluations=opened.reference_evaluations + sum(result.evaluations for result in results),
        best=_best(opened, verdict),
        lowest_label=_lowest_label(events),
        top_k=_leaders(verdict, campaign),
        relaxations=stopped_at_once(opened.ranking()) or None,
        walk_forward=opened.walk_forward(),
        foundation=opened.foundation,
        direct=_direct(opened.direct),
        members=_members(campaign),
        stop=Stop(_why_over(verdict, state, events), verdict.settled if verdict else None),
        judgement=opened.judgement,
        elapsed_s=opened.seconds + so_far,
        eta_s=_eta(opened, verdict, state, place, so_far, len(results), pending),
        check=opened.check_findings,
        pilots=pilots(opened.path, labels.done + labels.failed, 0 if over else _to_come(opened, verdict, labels)),
        potentials=pilots(opened.path, tasks=POTENTIALS),
    )


def _to_come(run: Run, verdict: Verdict | None, labels: LabelCounts) -> int:
    """Labels that may still come, at most."""
    if verdict is not None and verdict.stop:
        return 0
    table = run.effort
    asked = int(table[["labels_done", "labels_failed"]].iloc[-1].sum()) if len(table) else 0
    ahead = sum(schedule(run.campaign, len(run.pool), len(table), asked))
    return max(labels.pending, ahead - (labels.done + labels.failed - asked))


def _out(run: Run) -> list[str]:
    """Labels that were asked for and are out while a stage that needs none is under way."""
    last = next(reversed(layout.folders_of(run.path, "label").values()), None)
    return layout.OUT_TASKS.read(last) if last is not None and layout.OUT_TASKS.is_in(last) else []


def _label_counts(run: Run, fresh: Sequence[Result], pending: int) -> LabelCounts:
    """Those of the published stages, and the fresh ones of the stage under way."""
    labels = run.outcomes
    usable, own = labels["status"] == Status.DONE, labels["id"] >= 0
    done = int((usable & own).sum())
    here = sum(result.done is not None for result in fresh)
    return LabelCounts(
        done=done + here,
        failed=int(own.sum()) - done + len(fresh) - here,
        pending=pending,
        from_elsewhere=int(usable.sum()) - done,
        opened=count_opened(labels),
    )


def _direct(table: pd.DataFrame) -> dict[str, Any] | None:
    asked = table[table["proposed"] > 0]
    rows: list[dict[str, Any]] = json.loads((table if asked.empty else asked).tail(1).to_json(orient="records"))
    return rows[0] if rows else None


def _members(campaign: Campaign) -> int | None:
    members = getattr(campaign.potential, "members", None)
    return members if isinstance(members, int) and members > 1 else None


def _leaders(verdict: Verdict | None, campaign: Campaign) -> Leaders | None:
    if verdict is None:
        return None
    return Leaders(
        verdict.top, verdict.energies, verdict.stable_cycles, campaign.stop.patience, verdict.unseen, verdict.reason
    )


def _state(run: Path, events: list[dict[str, Any]]) -> State:
    if is_published(run / "winners"):
        return State.FINISHED
    if holder(run) is not None:
        return State.RUNNING
    if not events:
        return State.NEW
    return State.FAILED if events[-1]["event"] == State.FAILED else State.INTERRUPTED


def _where(run: Path, place: Place | None) -> tuple[int | None, str | None]:
    """The last cycle begun, and the stage under way or else the last one published."""
    begun, last = cycles(run), place or next(reversed(published_stages(run)), None)
    return begun[-1] if begun else None, last[1] if last else None


def _seconds_under_way(events: list[dict[str, Any]]) -> float:
    started = [event["time"] for event in events if event["event"] == "stage started"]
    return max(0.0, (datetime.now(UTC) - datetime.fromisoformat(started[-1])).total_seconds()) if started else 0.0


def _best(run: Run, verdict: Verdict | None) -> Best | None:
    for row in run.result_rows[:1]:
        return Best(row["id"], row["energy_per_atom"], "reference")
    if verdict is None or not verdict.top:
        return None
    ranking = run.ranking().set_index("id")["sigma_per_atom"]
    return Best(verdict.top[0], verdict.energies[0], "potential", ranking.get(verdict.top[0]))


def _lowest_label(events: list[dict[str, Any]]) -> float | None:
    """As the log tells it of the last cycle; that of older runs does not."""
    told = [event.get("labelled") for event in events if event["event"] == "cycle"]
    return told[-1] if told and isinstance(told[-1], float) else None


def _why_over(verdict: Verdict | None, state: State, events: list[dict[str, Any]]) -> str | None:
    if state is State.FAILED:
        return str(events[-1].get("reason"))
    return verdict.reason if verdict and verdict.stop else None


def _eta(
    run: Run, verdict: Verdict | None, state: State, place: Place | None, so_far: float, done: int, pending: int
) -> float | None:
    if state in (State.FINISHED, State.FAILED, State.NEW):
        return None
    if place is not None and place[1] == "winners":
        return so_far / done * pending if done and so_far else None
    if verdict is None or verdict.stop:
        return None
    table, campaign = run.effort, run.campaign
    seconds = table[[f"seconds_{stage}" for stage in STAGES]].sum(axis=1)
    judged = table["seconds_verdict"].notna()
    one = mean_cycle(table, campaign)
    if one is None:
        return None
    mean, asked = sum(one.values()), int(table.loc[judged, ["labels_done", "labels_failed"]].iloc[-1].sum())
    left = len(schedule(campaign, len(run.pool), int(judged.sum()), asked))
    if campaign.budget.hours is not None:
        left = min(left, max(1, math.ceil((3600 * campaign.budget.hours - float(seconds[judged].sum())) / mean)))
    return max(0.0, left * mean - float(seconds[~judged].sum()) - so_far)
