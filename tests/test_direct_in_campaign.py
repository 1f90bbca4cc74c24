"""A direct relaxer in a campaign: what it may start, what is told of it, and that a campaign with it can be trusted."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ase.build import bulk
from outcomes import outcome
from small_run import cut_after, go_on, run_to_its_end

from csp_al import open_run
from csp_al.campaign import read_campaign
from csp_al.campaign.errors import CampaignError
from csp_al.direct.relaxer import Predicted
from csp_al.direct.starts import COUNTED, SAMPLE, in_words, starts_of
from csp_al.events import Noted
from csp_al.interfaces import CONVERGED, OUT_OF_STEPS
from csp_al.loop import direct
from csp_al.loop.stage import do_stage
from csp_al.relax.limits import Limits
from csp_al.report.plan import describe_plan, plan
from csp_al.report.status import status
from csp_al.report.status_in_words import describe
from csp_al.store import layout
from csp_al.store.stages import is_published, manifest
from csp_al.structures import Prediction, Relaxed, Structures

CAMPAIGN = """\
name: directed
seed: 2
pool:
  formula: Al4
  size: 24
  volume_per_atom: [13, 22]
  symmetric_fraction: 0
  grow: {offspring: 12, generations: 2, parents: 5}
reference: {kind: ase, calculator: ase.calculators.emt.EMT}
potential: {members: 2, features: 8, interactions: 1, cutoff: 5.0, steps: 40, batch_size: 8}
relax: {uncertainty: 30, uncertainty_floor: 3}
direct: {kind: deeprelax, pairs: 24, members: 2, steps: 6}
select: {per_cycle: 5, clusters: 6}
stop: {top_k: 3, max_cycles: 3}
finish: {max_steps: 2}
"""
LIMITS = Limits({(13, 13): 1.5}, (5.0, 50.0))


@pytest.fixture(scope="module")
def told():
    return []


@pytest.fixture(scope="module", autouse=True)
def asked_whatever_it_learnt():
    """So small a training helps nothing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(direct, "HELPS", np.inf)
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory, told):
    return open_run(run_to_its_end(tmp_path_factory.mktemp("directed"), CAMPAIGN, told.append))


# --- which starts are taken


class Relaxer:
    """Brings crystals where it was told, sure of those that it was told."""

    def __init__(self, ends, sure):
        self.ends, self.sure = ends, np.array(sure)
        self.asked = None

    def predict(self, structures, free):
        assert free.all()
        self.asked = structures.ids
        return Predicted(self.ends, np.zeros(len(self.ends)), self.sure)


class BestVolume:
    """An ensemble of which crystals are the lower, the nearer they are to 16.5 Å^3 per atom."""

    def fresh(self):
        return self

    def predict(self, structures):
        return SimpleNamespace(energy=(structures.volumes - 16.5 * structures.counts) ** 2)


def crystals(*lattice_constants):
    cubes = [bulk("Al", cubic=True, a=a) for a in lattice_constants]
    return Structures.from_atoms(cubes, ids=range(10, 10 + len(cubes)))


def test_start_is_taken_where_the_relaxer_is_sure_and_the_ensemble_finds_it_lower():
    first = crystals(4.3, 4.3, 4.3, 4.3, 4.3)
    #                good  not sure  higher  too close  unrelated
    relaxer = Relaxer(crystals(4.05, 4.05, 4.6, 2.0), [True, False, True, True])
    starts = starts_of(relaxer, first, np.array([True] * 4 + [False]), BestVolume(), LIMITS)
    assert relaxer.asked.tolist() == [10, 11, 12, 13]
    assert (starts.proposed, starts.accepted.tolist()) == (4, [0])
    np.testing.assert_allclose(starts.structures.cells[:, 0, 0], [4.05, 4.3, 4.3, 4.3, 4.3])
    np.testing.assert_array_equal(starts.structures.ids, first.ids)
    np.testing.assert_array_equal(starts.originals.cells, first.cells[:1])


def test_start_of_numbers_that_are_not_finite_is_not_taken():
    ends = crystals(4.05, 4.05)
    ends.positions[0, 0] = np.nan
    starts = starts_of(Relaxer(ends, [True, True]), crystals(4.3, 4.3), np.ones(2, bool), BestVolume(), LIMITS)
    assert starts.accepted.tolist() == [1]


def test_without_a_relaxer_or_without_related_cells_all_begin_where_they_would():
    first = crystals(4.3, 4.2)
    for relaxer, related in ((None, [True, True]), (Relaxer(first, [True, True]), [False, False])):
        starts = starts_of(relaxer, first, np.array(related), BestVolume(), LIMITS)
        assert starts.structures is first
        assert (starts.proposed, len(starts.accepted), len(starts.originals)) == (0, 0, 0)


def test_a_small_sample_of_the_accepted_is_compared():
    first, ends = crystals(*[4.3] * 35), crystals(*[4.05] * 35)
    starts = starts_of(Relaxer(ends, [True] * 35), first, np.ones(35, bool), BestVolume(), LIMITS)
    assert len(starts.accepted) == 35
    assert 5 <= len(starts.compared) <= SAMPLE
    assert len(np.unique(starts.compared)) == len(starts.compared)


def test_worth_counts_steps_of_both_ways_and_ends_that_differ():
    """Four were compared: the same end, a lower crystal, none at all, and one whose original came nowhere."""
    first = crystals(4.3, 4.3, 4.3, 4.3)
    starts = starts_of(Relaxer(crystals(*[4.05] * 4), [True] * 4), first, np.ones(4, bool), BestVolume(), LIMITS)
    bcc = bulk("Al", "bcc", a=3.2, cubic=True).repeat((2, 1, 1))
    ends = Structures.from_atoms([*crystals(*[4.05] * 7).to_atoms(), bcc])
    ends = ends.take([0, 1, 2, 3, 4, 7, 5, 6])  # of the original of the second
    energy = np.array([0, 0, 0, 0, 0.001, 0.2, 0, 0]) * 4
    reasons = [CONVERGED, CONVERGED, OUT_OF_STEPS, CONVERGED, CONVERGED, CONVERGED, CONVERGED, OUT_OF_STEPS]
    relaxed = Relaxed(ends, predicted(ends, energy), np.array(reasons), np.array([5, 6, 30, 1, 10, 20, 40, 50]))
    expected = (4, 4, 3, 5 + 6 + 30, 10 + 20 + 40, 2, 1, 0)
    assert starts.worth(relaxed) == dict(zip(COUNTED, expected, strict=True))
    assert in_words(starts.worth(relaxed)) == (
        "4 starts proposed, 4 accepted; of 3 relaxed from both, 13.7 steps instead of 23.3, and 2 with another end "
        "(1 lower, 0 higher)"
    )


def predicted(structures, energy):
    n, atoms = len(structures), len(structures.numbers)
    zeros = np.zeros(n)
    return Prediction(
        energy=energy, energy_sigma=zeros, forces=np.zeros((atoms, 3)), forces_sigma=np.zeros(atoms),
        stress=np.zeros((n, 3, 3)), stress_sigma=zeros, features=np.zeros((n, 2)),
    )  # fmt: skip


# --- a campaign


def test_nothing_is_proposed_for_random_cells_or_before_enough_came_to_rest(run):
    for cycle in range(3):
        learnt = layout.LEARNT.read(run.path / f"cycle-{cycle:02d}" / "direct")
        assert learnt["helps"] == (learnt["pairs"] >= 24) == is_published(learnt_model(run.path, cycle))
    first = run.direct.set_index("cycle")
    assert layout.STARTS.read(run.path / "cycle-00" / "relax")["proposed"] == 0
    trained = first.index[first["helps"]].min()
    for cycle in range(1, 3):
        proposed = layout.STARTS.read(run.path / f"cycle-{cycle:02d}" / "relax")["proposed"]
        rested = (run.ranking(cycle - 1)["reason"] == CONVERGED).sum()
        assert proposed == (rested if cycle > trained else 0)
    assert trained < 2


def learnt_model(path, cycle):
    return path / f"cycle-{cycle:02d}" / "direct" / layout.RELAXER


def test_offspring_and_candidates_relaxed_again_are_proposed_and_told(run, told):
    last = run.direct.iloc[-1]
    words = [event.text for event in told if isinstance(event, Noted) and "direct relaxer" in event.text]
    assert any(word.startswith("cycle 2, offspring: by the direct relaxer 24 starts proposed") for word in words)
    assert any(word.startswith("cycle 2, relaxed again: by the direct relaxer") for word in words)
    assert last["proposed"] > 24
    assert 0 < last["accepted"] <= last["proposed"]
    assert last["compared"] <= 3 * SAMPLE
    said = describe(status(run.path))
    assert f"direct      cycle 2: {last['proposed']} starts proposed, {last['accepted']} accepted" in said


def test_all_offspring_are_kept_to_learn_from(run):
    for cycle in range(3):
        folder = run.path / f"cycle-{cycle:02d}" / "grow"
        bred, ends, joined = layout.BRED.read(folder), layout.BRED_ENDS.read(folder), layout.CANDIDATES.read(folder)
        assert len(bred) == len(ends) == 24
        np.testing.assert_array_equal(bred.ids, ends.structures.ids)
        assert set(joined.ids) <= set(bred.ids)


@pytest.mark.parametrize(
    "keep",
    ["cycle-01/relax", *(pytest.param(f"cycle-0{place}", marks=pytest.mark.long) for place in ("0/relax", "1/direct"))],
)
def test_campaign_that_is_continued_ends_the_same(run, tmp_path, keep):
    continued = cut_after(run.path, tmp_path, keep)
    go_on(continued)
    assert outcome(continued) == outcome(run.path)


def test_stages_done_by_themselves_are_the_drivers_own(run, tmp_path):
    alone = cut_after(run.path, tmp_path, "cycle-01/relax")
    aside = do_stage(alone, "cycle-01/direct", torch.device("cpu"), lambda _: None)
    expected = manifest(run.path / "cycle-01" / "direct")["files"]
    assert expected.keys() >= {"relaxer/relaxer.json", "relaxer/weights.pt"}
    assert {name: (aside / name).read_bytes() for name in expected} == {
        name: (run.path / "cycle-01" / "direct" / name).read_bytes() for name in expected
    }


def test_relaxer_that_is_no_better_than_nothing_on_what_it_has_not_seen_is_not_asked(run, tmp_path, monkeypatch):
    monkeypatch.setattr(direct, "HELPS", 0.0)
    alone, told = cut_after(run.path, tmp_path, "cycle-01/relax"), []
    learnt = layout.LEARNT.get(do_stage(alone, "cycle-01/direct", torch.device("cpu"), told.append) / "learnt.json")
    assert not learnt["helps"]
    (word,) = [event.text for event in told if isinstance(event, Noted)]
    assert word.startswith(f"cycle 1, direct relaxer: {learnt['pairs']} relaxations to learn from; of those held out")
    assert word.endswith(f"without it {learnt['before']:.2g} Å: it is not asked")
    go_on(alone)
    later = open_run(alone).direct.set_index("cycle")
    assert not later["helps"].iloc[-1]
    assert later["proposed"].iloc[-1] == 0
    assert describe(status(alone)).count(": it is not asked") == 1


def test_plan_names_the_stage_only_where_it_is(run, finished_run):
    assert "train, relax, direct, grow, rank" in describe_plan(plan(run.campaign, run.path))
    assert "direct" not in describe_plan(plan(open_run(finished_run).campaign, finished_run))


def test_campaign_without_one_has_no_trace_of_it(finished_run):
    assert open_run(finished_run).direct.empty
    assert status(finished_run).direct is None
    assert layout.STARTS.name not in manifest(finished_run / "cycle-01" / "relax")["files"]


# --- what a campaign file may say


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("kind: deeprelax, pairs: 24", "kind: dogss", r"12:16: direct.kind: unknown word dogss; allowed: deeprelax"),
        ("pairs: 24", "pairs: 5", r"12:34: direct.pairs: it must be at least 20, not 5"),
        ("members: 2, steps: 6", "members: 1", r"12:47: direct.members: it must be at least 2, not 1"),
        (
            "  grow: {offspring: 12, generations: 2, parents: 5}\n",
            "  max_attempts: 9\n",
            r"12:34: direct.pairs: it would wait for 24 relaxations of 20 candidates that do not grow in number",
        ),
    ],
)
def test_what_cannot_work_is_refused_with_its_place(tmp_path, old, new, said):
    file = tmp_path / "directed.yaml"
    text = CAMPAIGN.replace("size: 24", "size: 20") if "grow" in old else CAMPAIGN
    assert old in text
    file.write_text(text.replace(old, new, 1))
    with pytest.raises(CampaignError, match=f"directed.yaml:{said}"):
        read_campaign(file)


def test_relaxer_that_nothing_could_be_asked_is_refused(tmp_path):
    file = tmp_path / "directed.yaml"
    text = CAMPAIGN.replace("  grow: {offspring: 12, generations: 2, parents: 5}\n", "")
    file.write_text(f"{text}foundation: {{model: chgnet}}\nbudget: {{labels: 0}}\n")
    with pytest.raises(CampaignError, match=r":11:1: direct: without labels there is one cycle, and a pool that does"):
        read_campaign(file)
