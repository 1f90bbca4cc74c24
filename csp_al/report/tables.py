"""A run directory as tables and structures, for notebooks, figures and the command line. Nothing is ever written.

    run = csp_al.open_run("runs/si8")
    run.cycles  # how the search went, a row for each cycle
    run.results  # the ranked crystals
    print(run.judgement)  # what they are worth
    run.structures([17, 3], cycle=-1)  # ASE atoms, as relaxed in the last cycle

What is not there yet gives an empty table with the right columns. Files are compared with their checksums when they
are first read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from csp_al.campaign.models import Campaign, species_counts
from csp_al.direct import starts
from csp_al.foundation.baseline import Baselined
from csp_al.importing import beside
from csp_al.interfaces import Verdict
from csp_al.kinds import POTENTIALS, is_ours
from csp_al.reference.derivatives import findings
from csp_al.report.columns import (
    CYCLES,
    DIRECT,
    LEARNING_CURVES,
    POOL,
    POOL_MAP,
    PREDICTION_ERRORS,
    RANKING,
    RESULTS,
    typed,
)
from csp_al.report.labels import count_opened, effort_table, label_table, lowest_labelled, outcome_table
from csp_al.report.projection import projected
from csp_al.select.identity import times_reached
from csp_al.select.judgement import Judgement, figures_of, judge
from csp_al.select.ranking import lowest_basin, rows_of, stopped_at_once
from csp_al.select.walk_forward import apart, together
from csp_al.store import layout
from csp_al.store.run_directory import cycle_folder, folder_of_campaign, published_stages, read_campaign_of
from csp_al.store.run_directory import cycles as cycles_of
from csp_al.store.stages import is_published, seconds_of, verify
from csp_al.structures import Ints, Labels, Relaxed, Structures, concatenate

if TYPE_CHECKING:
    from ase import Atoms

    from csp_al.interfaces import Ensemble
    from csp_al.report.calculator import EnsembleCalculator
    from csp_al.report.life import Life


def open_run(path: str | Path) -> Run:
    """Open a run directory to read it, whatever its state. Raises NoRunError if there is none."""
    run = Run(Path(path))
    _ = run.campaign
    return run


@dataclass(frozen=True)
class Run:
    """A run directory, read anew at each look: a campaign that goes on shows in the same object.

    Energies are in eV/atom, forces in eV/Å, volumes in Å^3/atom, stresses in GPa, times in s. Every method raises
    `csp_al.files.DamagedError` for a file that is not what was published.
    """

    path: Path
    _verified: set[Path] = field(default_factory=set, repr=False, compare=False)
    _took: dict[Path, float] = field(default_factory=dict, repr=False, compare=False)
    _counted: dict[Path, layout.Outcomes] = field(default_factory=dict, repr=False, compare=False)

    @property
    def campaign(self) -> Campaign:
        """The campaign file with every default."""
        return read_campaign_of(self.path)

    @property
    def pool(self) -> pd.DataFrame:
        """The candidates as generated or bred, columns `POOL`; beside a search pool only its own are ``searched``."""
        tables = [layout.ORIGINS.read(folder) for folder in self._pools()]
        tables = [table.assign(searched=table.get("searched", True)) for table in tables]
        return typed(pd.concat(tables, ignore_index=True) if tables else None, POOL)

    @property
    def labels(self) -> pd.DataFrame:
        """Every label asked for, in order, failed ones included, columns `LABELS`.

        Forces and stress are the largest norm over the atoms and the largest component. What was predicted is what
        the ensemble said before it had seen the label; there is nothing of the kind in cycle 0. Errors of forces and
        stress are means over their components (walk-forward, as in `cycles`). Labels from elsewhere
        stand there with a negative id and their ``source``; those that were computed again to check them have the
        cost and the evaluations of that.
        """
        return self._labels(self._whole_ones("label"))

    @property
    def outcomes(self) -> pd.DataFrame:
        """Every label asked for, as in `labels`, but with the columns `OUTCOMES` alone, for which less is read."""
        folders = self.published("label")
        return outcome_table({cycle: self._outcomes_of(folder) for cycle, folder in folders.items()})

    @property
    def opened(self) -> int:
        """Labels of first cells that were opened, since they were rejected as they were before."""
        return count_opened(self.outcomes)

    @property
    def all_labels(self) -> Labels | None:
        """Every label asked for, as arrays; None before the first."""
        parts = [layout.LABELS.read(folder) for folder in self._whole_ones("label").values()]
        return concatenate(parts) if parts else None

    @property
    def cycles(self) -> pd.DataFrame:
        """How the search went: a row for each cycle that has its labels, columns `CYCLES`.

        Labels, reference evaluations and the best labelled energy are totals up to and including the cycle; the best
        predicted energy is that of the cycle's own ranking; failed labels include rejected ones. Usable labels from
        elsewhere are counted by themselves and are not among the labelled energies. The check of the reference
        is among the evaluations, the final relaxations are not. Missing: what that cycle has not come to.
        """
        folders = self._whole_ones("label")
        labels = self._labels(folders)
        table = self._effort(folders, labels).set_index("cycle", drop=False)
        table["best_labelled_energy_per_atom"] = lowest_labelled(labels, list(folders))
        judged = pd.DataFrame([self._judged(cycle, folder) for cycle, folder in folders.items()], index=table.index)
        return typed(table.join(judged).reset_index(drop=True), CYCLES)

    @property
    def effort(self) -> pd.DataFrame:
        """The part of `cycles`, columns `EFFORT`, for which no values of labels are read."""
        return self._effort(self.published("label"), self.outcomes)

    @property
    def seconds(self) -> float:
        """Wall time of all published stages, s; interruptions do not count."""
        return sum(self._seconds().values())

    def ranking(self, cycle: int = -1) -> pd.DataFrame:
        """All candidates as relaxed in a cycle (-1: the last), trusted ones first, lowest first, columns `RANKING`.

        ``times_reached`` counts the candidates in the same basin, without those that were bred. Raises ValueError for a
        cycle without a ranking.
        """
        folder = self._of_cycle("rank", cycle)
        return typed(None, RANKING) if folder is None else _ranking_of(folder, self._bred())

    def rankings(self) -> Iterator[tuple[int, pd.DataFrame]]:
        """Every cycle that has a ranking, in order, with that; as `ranking`, one after the other."""
        bred = self._bred()
        for cycle, folder in self._whole_ones("rank").items():
            yield cycle, _ranking_of(folder, bred)

    @property
    def result_rows(self) -> list[dict[str, Any]]:
        """The ranked distinct crystals as `csp-al results --json` gives them; empty before the end."""
        folder = self._outside("winners")
        rows: list[dict[str, Any]] = [] if folder is None else layout.RESULTS.read(folder)
        return rows

    @property
    def results(self) -> pd.DataFrame:
        """The ranked distinct crystals, relaxed by the reference method, columns `RESULTS`."""
        rows = self.result_rows
        return typed(pd.json_normalize(rows, sep="_") if rows else None, RESULTS)

    @property
    def summary(self) -> dict[str, Any] | None:
        """Why the search stopped, evaluations by purpose, failed and merged candidates; None before the end."""
        folder = self._outside("winners")
        summary: dict[str, Any] | None = None if folder is None else layout.SUMMARY.read(folder)
        return summary

    @property
    def reference_evaluations(self) -> int:
        """Calls of the reference method in finished stages: its check, labels and final relaxations."""
        final = self.summary["evaluations"]["final_relaxations"] if self.summary else 0
        return int(self.outcomes["evaluations"].sum()) + int(final) + self.check_evaluations

    @property
    def check_evaluations(self) -> int:
        """Calls of the reference that its check took beside labels; 0 where there was none."""
        folder = self._outside("check")
        return 0 if folder is None else int(layout.CHECK.read(folder)["evaluations"])

    @property
    def check_findings(self) -> list[str]:
        """Where forces and stress of the reference were not quite the differences of its energies, a line each."""
        folder = self._outside("check")
        return [] if folder is None else findings(layout.CHECK.read(folder)["slopes"])

    @property
    def judgement(self) -> Judgement | None:
        """What the results are worth, by the rules of today (`csp_al.select.judgement`); None before there are any."""
        return self.judged(str(self.path))

    def judged(self, run: str) -> Judgement | None:
        """The same; ``run`` is the run directory as commands in it name it."""
        rows, summary, said = self.result_rows, self.summary, self.verdict()
        if not rows or summary is None or said is None:
            return None
        doubts = self.check_findings, stopped_at_once(self.ranking())
        return judge(figures_of(self.campaign, said, self._newest_errors(), rows, summary, doubts), run)

    @property
    def learning_curves(self) -> pd.DataFrame:
        """Losses of each member in each epoch of each cycle, columns `LEARNING_CURVES`."""
        folders = self._whole_ones("train")
        parts = [layout.LEARNING_CURVE.read(folder).assign(cycle=cycle) for cycle, folder in folders.items()]
        return typed(pd.concat(parts, ignore_index=True) if parts else None, LEARNING_CURVES)

    def structures(self, ids: int | Sequence[int] | Ints, cycle: int | None = None) -> list[Atoms]:
        """ASE atoms of these candidates, in this order: as generated, or as relaxed in a cycle (-1: the last).

        ``info`` has id and, where it applies, cycle. Raises ValueError for an id or a cycle that is not there.
        """
        wanted = np.atleast_1d(np.asarray(ids, dtype=np.int64))
        if cycle is None:
            structures = self.pool_structures
        else:
            structures = relaxed.structures if (relaxed := self.relaxed(cycle)) is not None else None
        missing = [] if structures is None else sorted(set(wanted.tolist()) - set(structures.ids.tolist()))
        if structures is None or missing:
            there = f"it has {len(structures)} candidates" if structures is not None else "it has no structures yet"
            msg = f"{self.path}: no candidate has the id {missing[0] if missing else wanted.tolist()}; {there}"
            raise ValueError(msg)
        atoms = structures.take(rows_of(structures, wanted)).to_atoms()
        info = {} if cycle is None else {"cycle": self._number("relax", cycle)}
        for identity, one in zip(wanted.tolist(), atoms, strict=True):
            one.info |= {"id": identity} | info
        return atoms

    @property
    def pool_structures(self) -> Structures | None:
        """The candidates as generated or bred, as arrays; None before there are any."""
        parts = [layout.CANDIDATES.read(folder) for folder in self._pools()]
        return concatenate(parts) if parts else None

    def relaxed(self, cycle: int = -1) -> Relaxed | None:
        """Where all candidates came to rest in a cycle, as arrays; None before the first relaxation."""
        folder = self._of_cycle("relax", cycle)
        if folder is None:
            return None
        bred = folder.with_name("grow")
        parts = [folder, self._whole(bred)] if is_published(bred) else [folder]
        return concatenate([layout.RELAXED.read(part) for part in parts])

    def verdict(self, cycle: int = -1) -> Verdict | None:
        """What was decided at the end of a cycle; None before the first decision."""
        folder = self._of_cycle("verdict", cycle)
        return None if folder is None else layout.VERDICT.read(folder)

    def walk_forward(self, cycle: int = -1) -> dict[str, Any] | None:
        """How well a cycle's labels had been predicted (`csp_al.select.walk_forward`); None for cycle 0."""
        folder = self._of_cycle("label", cycle)
        if folder is None or not layout.WALK_FORWARD.is_in(folder):
            return None
        figures: dict[str, Any] = layout.WALK_FORWARD.read(folder)
        return figures

    @property
    def foundation(self) -> dict[str, Any] | None:
        """How many pairs of labels the foundation has in the right order, and the ensemble; None where there is none.

        Keys: pairs, right, right_by_ensemble, of all cycles but the first, see `csp_al.select.walk_forward.compared`;
        apart_mev_per_atom: of the newest labels, the foundation's median error without the shift common to all.
        """
        if self.campaign.foundation is None:
            return None
        figures = [layout.FOUNDATION.read(folder) for folder in self._whole_ones("label").values()]
        if not figures:
            return None
        return together(figures) | {"apart_mev_per_atom": figures[-1]["apart_mev_per_atom"]}

    @property
    def direct(self) -> pd.DataFrame:
        """What a direct relaxer learnt from and what its starts were worth, a row for each cycle, columns `DIRECT`.

        Atoms of those held out were ``displacement`` Å from rest by it, and ``before``; it is asked where it helps.
        In a cycle starts were ``proposed`` and ``accepted``; those ``compared`` were relaxed from both: the sums of
        ``steps`` and of those from the original, and how many came to other ends, to lower and to higher ones.
        """
        rows = []
        for cycle, folder in self._whole_ones("direct").items():
            stages = [cycle_folder(self.path, cycle) / name for name in ("relax", "grow")]
            figures = [layout.STARTS.read(self._whole(stage)) for stage in stages if is_published(stage)]
            rows.append({"cycle": cycle, **layout.LEARNT.read(folder), **starts.together(figures)})
        return typed(pd.DataFrame(rows) if rows else None, DIRECT)

    def picks(self, cycle: int = -1) -> Ints:
        """Ids of the candidates that a cycle chose to be labelled next, in the order of their choice."""
        folder = self._of_cycle("select", cycle)
        return np.zeros(0, np.int64) if folder is None else layout.PICKS.read(folder).origin.ids

    def pool_map(self, cycle: int = -1) -> pd.DataFrame:
        """The trusted candidates of a cycle in the plane of their features' principal components, columns `POOL_MAP`.

        ``labelled``: up to and including the cycle; ``picked``: at its end, for the next; ``leading``: its top k.
        """
        ranking = self.ranking(cycle)
        if ranking.empty:
            return typed(None, POOL_MAP)
        number = self._number("rank", cycle)
        assert number is not None  # there is its ranking
        relaxed, labels = self.relaxed(number), self.outcomes
        assert relaxed is not None  # it was ranked
        picked = self.picks(number).tolist() if self._is_there("select", number) else []
        verdict = self.verdict(number) if self._is_there("verdict", number) else None
        table = projected(ranking[ranking["trusted"]], relaxed)
        marks = {
            "labelled": table["id"].isin(labels.loc[labels["cycle"] <= number, "id"]),
            "picked": table["id"].isin(picked),
            "leading": table["id"].isin(verdict.top if verdict else []),
        }
        return typed(table.assign(cycle=number, **marks), POOL_MAP)

    def calculator(self, cycle: int = -1, *, device: str = "cpu", trust: bool = False) -> EnsembleCalculator:
        """The ensemble of a cycle (-1: the last trained) as an ASE calculator, for the elements of the pool.

        A potential that is not of csp_al is code of its author, and run only with ``trust``. Raises ValueError for a
        cycle that has none.
        """
        from csp_al.campaign.potentials import potential_kind
        from csp_al.potential.devices import resolve_device
        from csp_al.report.calculator import EnsembleCalculator

        campaign = read_campaign_of(self.path, trust=trust)
        kind = campaign.potential.kind
        if not trust and not is_ours(POTENTIALS, kind):
            raise ValueError(f"{self.path}: {kind} is code of its author; with trust=True it is run")
        folder = self._of_cycle("train", cycle)
        if folder is None:
            raise ValueError(f"{self.path}: no ensemble has been trained yet")
        torch_device = resolve_device(device)
        with beside(folder_of_campaign(self.path)):
            ensemble = potential_kind(campaign.potential).load(folder, campaign.potential, torch_device)
        if campaign.foundation and layout.TRAINING.read(folder).get(layout.ON_FOUNDATION):
            ensemble = self._on_foundation(campaign, ensemble, str(torch_device), trust=trust)
        return EnsembleCalculator(ensemble, species_counts(campaign.pool.formula), str(self.path))

    def _on_foundation(self, campaign: Campaign, ensemble: Ensemble, device: str, *, trust: bool) -> Ensemble:
        """An ensemble that was trained on what the reference adds to a foundation, with that."""
        from csp_al.campaign.machine import read_machine
        from csp_al.foundation.universal import build_foundation

        section = campaign.foundation
        assert section is not None  # it was learnt upon
        if not (trust or section.is_ours):
            raise ValueError(f"{self.path}: {section.model} is code of its author; with trust=True it is run")
        foundation = build_foundation(section, read_machine(None), folder_of_campaign(self.path), device)
        if wrong := foundation.check(list(species_counts(campaign.pool.formula))):
            raise ValueError(f"{self.path}: {wrong[0]}")
        return Baselined(ensemble, foundation)

    @property
    def winners(self) -> list[Atoms]:
        """The ranked crystals with energy, forces and stress of the reference method; empty before the end."""
        folder = self._outside("winners")
        return [] if folder is None else layout.CRYSTALS.read(folder)

    @property
    def begun(self) -> Structures | None:
        """What the reference relaxed in the end, as it was before; None before the end, and in older runs."""
        folder = self._outside("winners")
        return layout.BEGUN.read(folder) if folder is not None and layout.BEGUN.is_in(folder) else None

    def life(self, identity: int) -> Life:
        """What became of a candidate, see `csp_al.report.life.Life`. Raises ValueError for an id that is not there."""
        from csp_al.report.life import life_of

        return life_of(self, identity)

    def labels_of(self, identity: int) -> pd.DataFrame:
        """The labels of one candidate, columns `LABELS`; only the cycles that have some are read."""
        asked = set(self.outcomes.loc[self.outcomes["id"] == identity, "cycle"])
        table = self._labels(
            {cycle: self._whole(at) for cycle, at in self.published("label").items() if cycle in asked}
        )
        return table[table["id"] == identity].reset_index(drop=True)

    def folder(self, stage: layout.Outside | layout.InCycle, cycle: int | None = -1) -> Path | None:
        """Folder of a published stage, if its checksums hold: of a cycle (-1: the last), or with None outside of them.

        None if it is not there. Raises ValueError for a cycle without it, where others have it.
        """
        return self._outside(stage) if cycle is None else self._of_cycle(stage, cycle)

    def published(self, stage: str) -> dict[int, Path]:
        """Cycle and folder of every published stage of this name, in order."""
        return layout.folders_of(self.path, stage)

    def _labels(self, folders: Mapping[int, Path]) -> pd.DataFrame:
        chose = {cycle: layout.stage_folder(self.path, "select", cycle - 1) for cycle in folders if cycle > 0}
        return label_table(folders, {cycle: self._whole(folder) for cycle, folder in chose.items()})

    def _effort(self, folders: Mapping[int, Path], labels: pd.DataFrame) -> pd.DataFrame:
        return effort_table(list(folders), labels, self.check_evaluations, self._seconds())

    def _judged(self, cycle: int, folder: Path) -> dict[str, Any]:
        """How well the labels of a cycle in this folder had been predicted, and what was decided at its end."""
        errors = layout.WALK_FORWARD.read(folder) if layout.WALK_FORWARD.is_in(folder) else {}
        row = {name: errors.get(name) for name in PREDICTION_ERRORS}
        if self._is_there("verdict", cycle):
            said = self.verdict(cycle)
            assert said is not None  # it is published
            row |= {name: getattr(said, name) for name in ("stop", "settled", "reason", "stable_cycles", "unseen")}
            row["best_predicted_energy_per_atom"] = min(said.energies, default=None)
        return row

    def _newest_errors(self) -> dict[str, Any]:
        """Errors of the last labels; the one that older runs do not keep is found from the labels."""
        errors = self.walk_forward() or {}
        if errors and "energy_apart_mev_per_atom" not in errors:
            last, folder = list(self.published("label").items())[-1]
            labels = self._labels({last: folder})
            wrong = 1000 * (labels["predicted_energy_per_atom"] - labels["energy_per_atom"])
            errors |= {"energy_apart_mev_per_atom": apart(wrong.to_numpy())}
        return errors

    def _bred(self) -> list[int]:
        """Ids of the candidates that were bred."""
        tables = [layout.ORIGINS.read(folder) for folder in self._whole_ones("grow").values()]
        return [name for table in tables for name in table["id"].tolist()]

    def _pools(self) -> list[Path]:
        """Folders of the stages that made candidates, in order; none before the first."""
        folder = self._outside("pool")
        return [] if folder is None else [folder, *self._whole_ones("grow").values()]

    def _outcomes_of(self, folder: Path) -> layout.Outcomes:
        """What is counted of the labels in a folder; read once for each."""
        if folder not in self._counted:
            self._counted[folder] = layout.OUTCOMES.read(self._whole(folder))
        return self._counted[folder]

    def _seconds(self) -> dict[tuple[int | None, str], float]:
        """Wall time of every published stage, by cycle and name, s; read once for each."""
        places = published_stages(self.path)
        self._took.update({folder: seconds_of(folder) for _, _, folder in places if folder not in self._took})
        return {(cycle, name): self._took[folder] for cycle, name, folder in places}

    def _of_cycle(self, stage: str, cycle: int) -> Path | None:
        """Folder of the stage in a cycle, -1 for the last; None if there is none of its name. Raises ValueError."""
        number = self._number(stage, cycle)
        return None if number is None else self._whole(cycle_folder(self.path, number) / stage)

    def _is_there(self, stage: str, cycle: int) -> bool:
        return is_published(cycle_folder(self.path, cycle) / stage)

    def _outside(self, stage: layout.Outside | layout.InCycle) -> Path | None:
        """Folder of a stage outside the cycles; None if it is not there."""
        folder = layout.stage_folder(self.path, stage)
        return self._whole(folder) if is_published(folder) else None

    def _number(self, stage: str, cycle: int) -> int | None:
        """The number of a cycle that has the stage, -1 for the last; None if there is none. Raises ValueError."""
        if cycle == -1:
            return next((one for one in reversed(cycles_of(self.path)) if self._is_there(stage, one)), None)
        if self._is_there(stage, cycle):
            return cycle
        there = list(self.published(stage))
        if there:
            msg = (
                f"{self.path}: cycle {cycle} has no finished stage {stage!r}; those with one: {there}, or -1, the last"
            )
            raise ValueError(msg)
        return None

    def _whole_ones(self, stage: str) -> dict[int, Path]:
        """Cycle and folder of every published stage of this name, in order, if their checksums hold."""
        return {cycle: self._whole(folder) for cycle, folder in self.published(stage).items()}

    def _whole(self, folder: Path) -> Path:
        """The folder of a published stage, if its checksums hold; compared once for each stage."""
        if folder not in self._verified:
            self._took[folder] = float(verify(folder)["seconds"])
            self._verified.add(folder)
        return folder


def _ranking_of(folder: Path, bred: Sequence[int]) -> pd.DataFrame:
    """The ranking in a folder, where the candidates with these ids were bred."""
    table = layout.RANKING.read(folder)
    drawn = ~table["id"].isin(bred).to_numpy()
    table["times_reached"] = times_reached(table["basin"].to_numpy(), lowest_basin(table), drawn)
    table = table.sort_values(["trusted", "energy_per_atom", "id"], ascending=[False, True, True])
    return typed(table.reset_index(drop=True), RANKING)
