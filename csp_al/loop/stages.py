"""The stages of a cycle: each reads what earlier ones published, and publishes its own.

A stage is a function of a `Drive` and of the stages before it. What it returns is read back from what it published,
so that a continued campaign goes on from the very same numbers.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from ase.data import atomic_numbers

from csp_al.campaign import Campaign, resolve
from csp_al.campaign.potentials import potential_kind
from csp_al.engine.tasks import label_task
from csp_al.events import CycleJudged, Noted
from csp_al.files import write_json
from csp_al.generate import generate_candidates, is_searched
from csp_al.hdf5 import load, save
from csp_al.interfaces import Ensemble, Verdict
from csp_al.loop.drive import Drive
from csp_al.loop.random_streams import (
    CLUSTER,
    DRAW,
    EXPLORE,
    FIRST_PERTURB,
    PERTURB,
    RELAXED_CLOSEST,
    TRAIN,
    first_cells,
    least_distances,
    stream,
    to_label,
)
from csp_al.loop.tasks import labels_of, refuse_many_failures, run_all
from csp_al.relax.limits import Limits
from csp_al.relax.relaxation import relax as relax_all
from csp_al.relax.relaxation import relax_pool
from csp_al.report.tables import open_run
from csp_al.select.cluster import k_means
from csp_al.select.descriptor import with_descriptor
from csp_al.select.pick import pick
from csp_al.select.ranking import rank as ranked
from csp_al.select.ranking import representatives, rows_of
from csp_al.select.score import score
from csp_al.select.stopping import Judged, Rules, Spent, Top, top_of, verdict
from csp_al.select.walk_forward import walk_forward
from csp_al.store.run_directory import cycle_folder, log, seconds_spent
from csp_al.store.stages import file_of
from csp_al.structures import Ints, Labels, Prediction, Relaxed, Status, Structures, concatenate

EXPLORED = 5
"""Of so many labels asked for in a cycle one goes to an explorer, see `_explorers`; of fewer none."""

RELAXED_VOLUME = 2.0
"""A relaxation may leave the range of volumes that candidates are generated with by this factor."""

DESCRIBED = "The potential gives no features: a descriptor, SOAP averaged over atoms, tells clusters and basins apart"


@dataclass(frozen=True)
class Picks:
    """What is labelled next: perturbed structures, and where they stood before that."""

    structures: Structures
    origin: Structures


@dataclass
class Progress:
    """What a campaign knows so far; ``top`` are the leading crystals of the last cycle judged.

    ``searched`` are the ids of the candidates that may lead: all, or those of the search pool.
    """

    pool: Structures
    searched: Ints
    labels: list[Labels] = field(default_factory=list)
    origins: list[Structures] = field(default_factory=list)
    ensemble: Ensemble | None = None
    relaxed: Relaxed | None = None
    table: pd.DataFrame = field(default_factory=pd.DataFrame)
    top: Top | None = None
    verdict: Verdict | None = None

    @property
    def judged(self) -> Judged | None:
        """The last cycle as it was judged; None in the first."""
        return None if self.top is None or self.verdict is None else Judged(self.top, self.verdict.stable_cycles)

    @property
    def all_labels(self) -> Labels:
        """Every label so far, failed ones and those from elsewhere included."""
        return concatenate(self.labels)

    @property
    def labelled(self) -> Structures:
        """Every candidate that was labelled so far, as it stood before it was perturbed."""
        return concatenate([self.pool.take([]), *self.origins])


def generate(drive: Drive) -> Progress:
    """The candidates: all there is to begin with."""

    def write(folder: Path) -> None:
        campaign = drive.campaign
        structures, table = generate_candidates(campaign.pools, campaign.seed, drive.report, drive.base)
        save(folder / "structures.h5", structures)
        table.to_csv(folder / "table.csv", index=False)

    folder = drive.stage(drive.run / "pool", write)
    structures = load(file_of(folder, "structures.h5"), Structures)
    return Progress(structures, structures.ids[is_searched(pd.read_csv(file_of(folder, "table.csv")))])


def draw(drive: Drive, progress: Progress) -> Picks:
    """The labels of the first cycle: a random draw from the pool, perturbed, since symmetry leaves hardly any forces.

    Of a search pool there is none among them.
    """
    rng = stream(drive.campaign, 0, DRAW)
    pool = progress.pool
    if drive.campaign.search_pool is not None:
        pool = pool.take(~np.isin(pool.ids, progress.searched))
    most = min(drive.campaign.select.per_cycle, drive.campaign.budget.labels, len(pool))
    drawn = pool.take(np.sort(rng.choice(len(pool), size=most, replace=False)))
    return Picks(to_label(drive.campaign, drawn, 0, FIRST_PERTURB), drawn)


def label(drive: Drive, cycle: int, picks: Picks) -> Labels:
    """What the reference method says of the picks, and how well it had been predicted."""

    def write(folder: Path) -> None:
        reference = drive.campaign.reference
        tasks = [label_task(atoms, reference) for atoms in picks.structures.to_atoms()]
        names, results = run_all(drive.run, drive.engine, folder, tasks, drive.report)
        refuse_many_failures(results, reference.max_fail_fraction)
        labels = labels_of(picks.structures, results, cycle)
        save(folder / "labels.h5", labels)
        columns = {"candidate": picks.structures.ids, "task": names, "status": labels.status, "reason": labels.reason}
        pd.DataFrame(columns | {"cost_s": labels.cost}).to_csv(folder / "labels.csv", index=False)
        if cycle > 0:
            predicted = load(cycle_folder(drive.run, cycle - 1) / "select" / "predicted.h5", Prediction)
            write_json(folder / "walk_forward.json", walk_forward(predicted, labels))

    return load(file_of(drive.stage(cycle_folder(drive.run, cycle) / "label", write), "labels.h5"), Labels)


def train(drive: Drive, cycle: int, progress: Progress) -> Ensemble:
    """The ensemble, trained on every usable label so far."""
    section = drive.campaign.potential
    kind = potential_kind(section)

    def write(folder: Path) -> None:
        seed = [drive.campaign.seed, cycle, TRAIN]
        start = progress.ensemble
        if start is None or not getattr(section, "warm_start", False):
            start = kind.new(section, seed, drive.device)
        trained = start.train(progress.all_labels.usable, seed, drive.report)
        trained.ensemble.save(folder)
        trained.curve.to_csv(folder / "learning_curve.csv", index=False)
        write_json(folder / "training.json", {"left_out": trained.left_out})

    folder = drive.stage(cycle_folder(drive.run, cycle) / "train", write)
    return kind.load(folder, section, drive.device)


def relax(drive: Drive, cycle: int, progress: Progress, ensemble: Ensemble) -> Relaxed:
    """Every candidate at rest on the ensemble's mean energy, see `relax_pool`; features tell crystals apart."""

    def write(folder: Path) -> None:
        section, limits = drive.campaign.relax, relaxation_limits(drive.campaign)
        starts = first_cells(drive.campaign, progress.pool, cycle)
        relaxed = relax_pool(starts, progress.relaxed, ensemble, section, limits, drive.report)
        if not ensemble.gives.features:
            if cycle == 0:
                drive.tell(Noted(DESCRIBED))
            relaxed = with_descriptor(relaxed)
        save(folder / "relaxed.h5", relaxed)

    return load(file_of(drive.stage(cycle_folder(drive.run, cycle) / "relax", write), "relaxed.h5"), Relaxed)


def rank(drive: Drive, cycle: int, relaxed: Relaxed) -> pd.DataFrame:
    """Score, cluster and basin of every candidate."""

    def write(folder: Path) -> None:
        section = drive.campaign.select
        clusters = k_means(relaxed.prediction.features, stream(drive.campaign, cycle, CLUSTER), section.groups)
        ranked(relaxed, score(relaxed, section.force_weight), clusters).to_csv(folder / "ranking.csv", index=False)

    folder = drive.stage(cycle_folder(drive.run, cycle) / "rank", write)
    return pd.read_csv(file_of(folder, "ranking.csv"), float_precision="round_trip")


def judge(drive: Drive, cycle: int, relaxed: Relaxed, table: pd.DataFrame, progress: Progress) -> Verdict:
    """Whether the leading crystals are still changing; ``progress`` moves on to this cycle."""
    campaign, rules = drive.campaign, drive.campaign.stop
    folder = cycle_folder(drive.run, cycle) / "verdict"

    def write(partial: Path) -> None:
        sought = table[table["id"].isin(progress.searched)]
        leaders = representatives(sought, relaxed.structures, rules.top_k, rules.tolerance)
        top = top_of(relaxed, leaders["id"])
        spent = Spent(cycle + 1, len(progress.all_labels.asked_for), seconds_spent(drive.run, folder) / 3600)
        said = verdict(top, progress.judged, sought, spent, Rules(rules, campaign.budget, campaign.select.per_cycle))
        write_json(partial / "verdict.json", asdict(said))

    drive.stage(folder, write)
    said = open_run(drive.run).verdict(cycle)
    assert said is not None  # it is published
    if said.stop:
        drive.end_with(folder)
    progress.relaxed, progress.table, progress.verdict = relaxed, table, said
    progress.top = top_of(relaxed, said.top)
    _tell_of_cycle(drive, cycle, progress)
    return said


def select(drive: Drive, cycle: int, progress: Progress, ensemble: Ensemble, relaxed: Relaxed) -> Picks:
    """The best-scored candidates of different clusters, a few `_explorers`, all perturbed, with their predictions."""

    def write(folder: Path) -> None:
        per_cycle = drive.campaign.select.per_cycle
        exploring = per_cycle // EXPLORED
        chosen = pick(progress.table, relaxed.structures, progress.labelled, per_cycle - exploring)
        origin = relaxed.structures.take(rows_of(relaxed.structures, chosen))
        if exploring and len(chosen):
            others = progress.pool.take(~np.isin(progress.pool.ids, chosen))
            origin = concatenate([origin, _explorers(drive, cycle, others, exploring, ensemble)])
        perturbed = to_label(drive.campaign, origin, cycle, PERTURB)
        save(folder / "picks.h5", Picks(perturbed, origin))
        # as read back: neighbour lists remembered from the relaxation would change the last bits
        save(folder / "predicted.h5", ensemble.fresh().predict(perturbed))

    return load(file_of(drive.stage(cycle_folder(drive.run, cycle) / "select", write), "picks.h5"), Picks)


def _explorers(drive: Drive, cycle: int, others: Structures, count: int, ensemble: Ensemble) -> Structures:
    """Candidates drawn at random, each where the ensemble takes it from its first cell.

    An ensemble that is shown nothing but what leads forgets the ways down. It takes most first cells to minima that
    are none, which are never labelled otherwise, since no candidate stands lowest there.
    """
    rng = stream(drive.campaign, cycle, EXPLORE)
    drawn = others.take(np.sort(rng.choice(len(others), size=min(count, len(others)), replace=False)))
    starts = first_cells(drive.campaign, drawn, cycle)
    # as read back, see `select`
    return relax_all(starts, ensemble.fresh(), drive.campaign.relax, relaxation_limits(drive.campaign)).structures


def relaxation_limits(campaign: Campaign) -> Limits:
    """How far a relaxation may go beyond the bounds that candidates are generated within."""
    distances = {}
    for pair, distance in least_distances(campaign, RELAXED_CLOSEST).items():
        a, b = (atomic_numbers[symbol] for symbol in pair.split("-"))
        distances[a, b] = distances[b, a] = distance
    volumes = [resolve(pool).volume_per_atom for pool in campaign.pools]
    least, most = min(least for least, _ in volumes), max(most for _, most in volumes)
    return Limits(distances, (least / RELAXED_VOLUME, most * RELAXED_VOLUME))


def _tell_of_cycle(drive: Drive, cycle: int, progress: Progress) -> None:
    """One line on the cycle, for the panel and the log."""
    errors = open_run(drive.run).walk_forward(cycle) or {}
    labels, said = progress.all_labels.asked_for, progress.verdict
    judged = CycleJudged(
        cycle=cycle,
        from_elsewhere=len(progress.all_labels) - len(labels),
        labels=len(labels),
        failed=int((labels.status != Status.DONE).sum()),
        best=said.energies[0] if said and said.energies else None,
        energy_error=errors.get("energy_mae_mev_per_atom"),
        force_error=errors.get("forces_mae_ev_per_angstrom"),
        stable=said.stable_cycles if said else 0,
        unseen=said.unseen if said else None,
        reason=said.reason if said else "",
    )
    log(drive.run, "cycle", **asdict(judged))
    drive.tell(judged)
