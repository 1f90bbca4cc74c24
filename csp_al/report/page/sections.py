"""What the sections of a page say, as words, rows and tables; the template says where they stand."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import Final

import pandas as pd

import csp_al
from csp_al import objective
from csp_al.campaign.models import Campaign
from csp_al.reasons import without_numbers
from csp_al.report.page.cells import Column, Table, counts, table_of
from csp_al.report.plan import duration
from csp_al.report.status import RunStatus
from csp_al.report.tables import Run
from csp_al.select.resolution import ranks
from csp_al.store.layout import stage_folder
from csp_al.store.method import Method
from csp_al.store.run_directory import FIRST, STAGES, Provenance, published_stages
from csp_al.store.stages import history, is_published, manifest, seconds_of
from csp_al.structures import Status

Rows = list[tuple[str, str]]
"""A name, and what there is to say of it."""

MOST_WORDS: Final = 200
"""Letters of a reason that is counted."""
E, M = objective.UNIT, f"m{objective.UNIT}"
RESULTS: Final = {
    "told": Column("#", "d", "", "rank; the same where energies are too near to each other to be told apart"),
    "id": Column("candidate", "d"),
    "group": Column("space group"),
    "energy_per_atom": Column("energy", ".4f", E, "of the reference, after its own relaxation"),
    "energy_above_best": Column("above", ".1f", M, "distance from the lowest", 1000),
    "volume_per_atom": Column("volume", ".2f", "Å³/atom"),
    "predicted_energy_per_atom": Column("predicted", ".4f", E, "by the potentials, before the reference relaxed it"),
    "predicted_sigma": Column("spread", ".1f", M, "of the potentials", 1000),
    "off": Column("off", ".1f", M, "predicted minus found", 1000),
    "times_reached": Column("reached", "d", "", "candidates that came to rest in this crystal"),
    "fmax": Column("force left", ".3f", "eV/Å", "the largest one after the relaxation"),
    "converged": Column("converged"),
}
LEADERS: Final = {
    "place": Column("#", "d"),
    "id": Column("candidate", "d"),
    "group": Column("space group"),
    "energy_per_atom": Column("predicted", ".4f", E, "by the potentials"),
    "sigma_per_atom": Column("spread", ".1f", M, "of the potentials", 1000),
    "above": Column("above", ".1f", M, "distance from the lowest", 1000),
    "volume_per_atom": Column("volume", ".2f", "Å³/atom"),
    "times_reached": Column("reached", "d", "", "candidates that came to rest in this crystal"),
    "reason": Column("its relaxation"),
}
CYCLES: Final = {
    "cycle": Column("cycle", "d"),
    "labels_done": Column("labels", "d", "", "so far"),
    "labels_failed": Column("failed", "d", "", "labels so far that failed or were rejected"),
    "reference_evaluations": Column("evalu-ations", "d", "", "calls of the reference so far"),
    "best_predicted_energy_per_atom": Column("lowest predicted", ".4f", E),
    "best_labelled_energy_per_atom": Column("lowest label", ".4f", E, "so far; labels are not at rest"),
    "energy_mae_mev_per_atom": Column("energy error", ".1f", M, "mean error of what had been predicted of the labels"),
    "energy_apart_mev_per_atom": Column("median", ".1f", M, "median error, without the shift common to all"),
    "forces_mae_ev_per_angstrom": Column("force error", ".3f", "eV/Å", "mean error of the components"),
    "stress_mae_gpa": Column("stress error", ".2f", "GPa", "mean error of the components"),
    "energy_within_1_sigma": Column("energy in 1 sigma", ".0%", "", "share of the errors that the spread covers"),
    "forces_within_1_sigma": Column("forces in 1 sigma", ".0%", "", "share of the errors that the spread covers"),
    "stable_cycles": Column("same", "d", "", "cycles in a row in which the leaders stayed the same"),
    "unseen": Column("unseen", ".0%", "", "chance that one more candidate finds a new minimum (Good-Turing)"),
}
SUBSCRIPTS: Final = str.maketrans("123456789", "₁₂₃₄₅₆₇₈₉")


def results(run: Run) -> Table:
    """The ranked crystals."""
    rows, campaign = run.results, run.campaign
    told = ranks(run.result_rows, campaign.finish.fmax, campaign.stop.tolerance)
    groups = zip(rows["space_group_symbol"], rows["space_group_number"], strict=True)
    group = [named(symbol, number) for symbol, number in groups]
    words = rows["converged"].map({True: "yes", False: "NO"})
    off = rows["predicted_energy_per_atom"] - rows["energy_per_atom"]
    columns = RESULTS
    if campaign.unlabelled:  # a foundation's zero of energy is its own, and it tells no spread
        columns = {name: column for name, column in RESULTS.items() if name not in {"predicted_sigma", "off"}}
    return table_of(rows.assign(told=told, group=group, off=off, converged=words), columns)


def leaders(chosen: pd.DataFrame, groups: list[str]) -> Table:
    """Rows of a ranking that lead; ``groups`` are their space groups."""
    above = chosen["energy_per_atom"] - chosen["energy_per_atom"].min()
    return table_of(chosen.assign(place=range(1, len(chosen) + 1), group=groups, above=above), LEADERS)


def named(symbol: str, number: int) -> str:
    """A space group for people, its screw axes as they are printed: P6₃/mmc (194)."""
    shown = re.sub(r"_([1-9])", lambda found: found[1].translate(SUBSCRIPTS), symbol)
    return f"{shown} ({number})"


def cycles(table: pd.DataFrame) -> Table:
    """A row for each cycle, of `Run.cycles`."""
    return table_of(table, CYCLES)


def left_out(run: Run) -> list[str]:
    """What the reference relaxed and is not ranked, a line each: what failed, and what came to be the same crystal."""
    summary = run.summary or {"failed": [], "merged": []}
    lines = []
    for failed in summary["failed"]:
        energy = failed.get("predicted_energy_per_atom")
        predicted = "" if energy is None else f", predicted {energy:.3f} {E}"
        lines.append(f"candidate {failed['id']}{predicted}, could not be relaxed: {failed['reason']}")
    for first, *others in summary["merged"]:
        lines.append(f"candidate{'s' * (len(others) > 1)} {', '.join(map(str, others))}: the same crystal as {first}")
    return lines


def tiles(now: RunStatus, cycles: int) -> Rows:
    """The few figures on top."""
    best, labels = now.best, now.labels
    word = now.judgement.word if now.judgement else "none before the end"
    by = ", predicted" if best and best.by != "reference" else ""
    done = f"{labels.done}{f', {labels.failed} failed' if labels.failed else ''}"
    return [
        ("judgement", word),
        (f"lowest {objective.NAME}{by}", objective.show(best.energy_per_atom) if best else "none yet"),
        ("evaluations", str(now.reference_evaluations)),
        ("labels", f"{done}{f', {labels.from_elsewhere} from elsewhere' if labels.from_elsewhere else ''}"),
        ("cycles", str(cycles)),
        ("wall time", duration(now.elapsed_s)),
    ]


def asked(campaign: Campaign, method: Method) -> Rows:
    """What the campaign file asks for."""
    searched = f"; those of {campaign.search_pool.formula} are searched" if campaign.search_pool else ""
    programs = " and ".join(f"{name} {version}" for name, version in method.programs.items())
    calculator = getattr(campaign.reference, "calculator", "")
    crystals, fmax = campaign.winners, campaign.finish.fmax
    rows = [("Candidates", f"{campaign.candidates}{searched}; seed {campaign.seed}")]
    if grow := campaign.pools[-1].grow:
        rows.append(("Offspring", f"{grow.offspring} in each of {grow.generations} generations of a cycle"))
    rows.append(("Reference method", f"{calculator} ({programs})" if calculator else programs))
    if campaign.labels:
        rows.append(("Labels from elsewhere", ", ".join(file.path for file in campaign.labels)))
    if campaign.foundation:
        alone = ", which ranks alone: no label is asked for" if campaign.unlabelled else ""
        rows.append(("Begins with", f"{campaign.foundation.model}{alone}"))
    if not campaign.unlabelled:
        rows += _search(campaign)
    return [*rows, ("In the end", f"the lowest {crystals} crystals are relaxed by the reference, to {fmax:g} eV/Å")]


def _search(campaign: Campaign) -> Rows:
    members = getattr(campaign.potential, "members", None)
    kind, rules, budget = campaign.potential.kind, campaign.stop, campaign.budget
    hours = f", {budget.hours:g} h" if budget.hours is not None else ""
    return [
        ("Ensemble", f"{members} potentials of kind {kind}" if members else kind),
        ("Labelled first", f"{campaign.select.strategy}; {campaign.select.per_cycle} labels in a cycle"),
        ("Budget", f"at most {budget.labels} labels{hours}, {rules.max_cycles} cycles"),
        ("The search stops", ", ".join(_rules(campaign))),
    ]


def _rules(campaign: Campaign) -> Iterator[str]:
    rules = campaign.stop
    within = objective.show_difference(rules.tolerance)
    yield f"when the lowest {rules.top_k} crystals stayed the same for {rules.patience} cycles, to within {within}"
    if rules.challenge:
        yield "after a challenge of other kinds of candidates"
    if rules.max_error is not None:
        yield f"and the newest labels were off by at most {objective.show_difference(rules.max_error)}"


def funnel(run: Run, labels: pd.DataFrame) -> list[Table]:
    """From the candidates to the ranked crystals: how many, and why the others ended; labels are `Run.labels`."""
    pool, ranking, summary = run.pool, run.ranking(), run.summary
    tables = []
    if len(pool):
        origins = pool["origin"].where(pool["generation"].isna(), "bred").replace("", "unknown")
        tables.append(counts(f"{len(pool)} candidates, by origin", Counter(origins)))
    if len(ranking):
        basins = ranking.loc[ranking["trusted"], "basin"].nunique()
        heading = f"{len(ranking)} relaxed by the potentials, {basins} different minima; they stopped"
        tables.append(counts(heading, Counter(ranking["reason"])))
    own, given = labels[labels["id"] >= 0], labels[labels["id"] < 0]
    if len(own):
        ends = (_end(status, reason) for status, reason in zip(own["status"], own["reason"], strict=True))
        tables.append(counts(f"{len(own)} labels asked for", Counter(ends)))
    if len(given):
        tables.append(counts(f"{len(given)} labels from elsewhere", Counter(given["status"])))
    if summary:
        final = Counter({"ranked": len(run.result_rows)})
        final["the same crystal as another"] = sum(len(group) - 1 for group in summary["merged"])
        final.update(_end("failed", one["reason"]) for one in summary["failed"])
        tables.append(counts(f"{final.total()} relaxed by the reference", +final))
    return tables


def _end(status: str, reason: str) -> str:
    """What became of a calculation, with the first line of the reason, without the numbers by which cells differ."""
    if status == Status.DONE:
        return status
    first = next(filter(None, map(str.strip, reason.splitlines())), "no reason given")
    return f"{status}: {without_numbers(first)[:MOST_WORDS]}"


def evaluations(run: Run) -> Table:
    """Calls of the reference by what for."""
    final = run.summary["evaluations"]["final_relaxations"] if run.summary else 0
    spent = {"labels": int(run.outcomes["evaluations"].sum()), "check of the reference": run.check_evaluations}
    return counts("evaluations of the reference", spent | ({"final relaxations": final} if run.summary else {}))


def wall_times(run: Run) -> Table:
    """What each stage took, all cycles together."""
    names = [name for _, name, _ in published_stages(run.path)]
    seconds = pd.Series([seconds_of(folder) for _, _, folder in published_stages(run.path)], dtype="float64")
    table = seconds.groupby(names).agg(["sum", "count"]).reindex([*FIRST, *STAGES, "winners"]).dropna()
    table = table.rename_axis("stage").reset_index().assign(time=[duration(one) for one in table["sum"]])
    columns = {"stage": Column("wall time of"), "count": Column("times", ".0f"), "time": Column("in all")}
    return table_of(table, columns | {"sum": Column("seconds", ".1f", bar=True)})


def provenance(began: Provenance, method: Method, seed: int) -> Rows:
    """When, with what and by what it was computed."""
    packages = ", ".join(f"{name} {version}" for name, version in began.get("packages", {}).items() if version)
    cores = f", {cores} cores" if (cores := began.get("cores")) else ""
    return [
        ("begun", began.get("started", "unknown")),
        ("by", f"csp_al {method.version}, Python {began.get('python', 'unknown')}"),
        ("on", f"{began.get('platform', 'unknown')}{cores}"),
        ("seed", str(seed)),
        ("reference", ", ".join(f"{name} {version}" for name, version in method.programs.items())),
        ("packages", packages or "unknown"),
        ("this page by", f"csp_al {csp_al.__version__}"),
    ]


def checksums(run: Run) -> Rows:
    """SHA-256 of what was published last, which holds those of all before; and of the files of the winners."""
    places = published_stages(run.path)
    if not places:
        return []
    _, _, last = places[-1]
    rows = [(f"all up to {last.relative_to(run.path).as_posix()}", history(last) or "")]
    winners = stage_folder(run.path, "winners")
    if is_published(winners):
        rows += [(f"winners/{name}", digest) for name, digest in sorted(manifest(winners)["files"].items())]
    return rows
