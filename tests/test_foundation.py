"""A foundation in a campaign: what it chooses, what the ensemble adds to it, and when it is let go."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.metadata import version
from importlib.util import find_spec
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from emt_aluminium import emt_labels
from outcomes import outcome
from small_run import cut_after, go_on, run_to_its_end
from typer.testing import CliRunner

from csp_al import open_run
from csp_al.benchmark.rival import foundation_first
from csp_al.benchmark.target import Target
from csp_al.benchmark.trial import leaders_by_cycle, relaxed_in_the_end, trial_of
from csp_al.campaign import read_campaign
from csp_al.campaign.errors import CampaignError
from csp_al.campaign.foundation import Foundation
from csp_al.campaign.machine import Machine
from csp_al.cli import app
from csp_al.engine.engines import start_engine
from csp_al.events import Noted, Warned
from csp_al.foundation.baseline import Baselined, Below, differences, held_out_loss
from csp_al.foundation.universal import build_foundation
from csp_al.importing import looking_only
from csp_al.interfaces import Gives, Trained
from csp_al.loop.below import ask_foundation, train_on_foundation
from csp_al.loop.stage import RefusedError, do_stage
from csp_al.potential.ensemble import new_ensemble
from csp_al.potential.schnet import SchnetPotential
from csp_al.report.plan import mean_cycle
from csp_al.running.checks import checked_campaign
from csp_al.select.walk_forward import compared, ranks_worse, together
from csp_al.store import layout
from csp_al.store.changes import ChangedError, accept
from csp_al.store.method import method_of
from csp_al.store.run_directory import published_stages, read_campaign_of
from csp_al.store.stages import stage
from csp_al.structures import Prediction, take

SOFT = """\
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT


class Soft(Calculator):
    implemented_properties = ["energy", "free_energy", "forces", "stress"]

    def __init__(self, factor=0.8, shift=-3.0):
        super().__init__()
        self.factor, self.shift, self.emt = factor, shift, EMT()

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        inner = self.atoms.copy()
        inner.calc = self.emt
        energy = self.factor * inner.get_potential_energy() + self.shift * len(inner)
        self.results = {
            "energy": energy,
            "free_energy": energy,
            "forces": self.factor * inner.get_forces(),
            "stress": self.factor * inner.get_stress(),
        }
"""
CAMPAIGN = """\
name: founded
seed: 2
pool: {formula: Al4, size: 12, volume_per_atom: [13, 22]}
reference: {kind: ase, calculator: ase.calculators.emt.EMT}
foundation: {model: soft.Soft}
potential: {members: 2, features: 8, interactions: 1, cutoff: 5.0, steps: 30, batch_size: 8}
relax: {max_steps: 40}
select: {per_cycle: 5, clusters: 6}
stop: {top_k: 3, max_cycles: 2}
finish: {max_steps: 10}
"""
CLOSE_PACKED = (225, 194)
"""Space groups of fcc, hcp and dhcp, which are 2 meV/atom apart."""
SECTION = SchnetPotential(members=2, features=8, interactions=1, cutoff=5.0, steps=40, batch_size=4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where campaign files find `Soft`."""
    place = tmp_path_factory.mktemp("founded")
    (place / "soft.py").write_text(SOFT)
    return place


@pytest.fixture(scope="module")
def told():
    return []


@pytest.fixture(scope="module")
def run(folder, told):
    return open_run(run_to_its_end(folder, CAMPAIGN, told.append))


@pytest.fixture(scope="module")
def unlabelled(folder):
    text = CAMPAIGN.replace("founded", "unlabelled") + "budget: {labels: 0}\n"
    return open_run(run_to_its_end(folder, text))


class Scaled:
    """A predictor that says so much of what labels say, of their structures alone."""

    def __init__(self, labels, factor):
        self.labels, self.factor, self.asked = labels, factor, 0
        self.gives = Gives(spread=False)

    def predict(self, structures):
        self.asked += len(structures)
        rows = [int(np.flatnonzero(np.isclose(self.labels.structures.cells, cell).all(axis=(1, 2)))[0])
                for cell in structures.cells]  # fmt: skip
        return take(prediction_of(self.labels, self.factor), np.array(rows, dtype=np.int64), self.labels.structures)

    def fresh(self):
        return self


def prediction_of(labels, factor=1.0):
    n, atoms = len(labels), len(labels.forces)
    return Prediction(
        energy=factor * labels.energy, energy_sigma=np.full(n, np.nan),
        forces=factor * labels.forces, forces_sigma=np.full(atoms, np.nan),
        stress=factor * labels.stress, stress_sigma=np.full(n, np.nan), features=np.zeros((n, 0)),
    )  # fmt: skip


# --- what an ensemble adds


def test_the_loss_of_held_out_labels_is_a_mean_of_the_lowest_of_each_member():
    curve = pd.DataFrame({"member": [0, 0, 1, 1], "validation": [3.0, 1.0, 4.0, 5.0], "epoch": [1, 2, 1, 2]})
    assert held_out_loss(curve) == pytest.approx(2)


@pytest.mark.parametrize(("loss_alone", "adds"), [(1e6, True), (1e-9, False)])
def test_an_ensemble_adds_to_a_foundation_unless_labels_held_out_are_predicted_better_without(loss_alone, adds):
    labels, told = emt_labels(12), []
    work = SimpleNamespace(foundation=Scaled(labels, 0.8), tell=told.append, report=lambda *_: None)
    progress = SimpleNamespace(all_labels=labels, below=[prediction_of(labels, 0.8)])
    start = new_ensemble(SECTION, [1], torch.device("cpu"))
    curve = pd.DataFrame({"epoch": [1, 1], "member": [0, 1], "training": 1.0, "validation": loss_alone})
    alone = Trained(start, curve, left_out=0)
    trained, said = train_on_foundation(work, 1, start, [1, 1], progress, alone)
    assert said["on_foundation"] is adds
    assert said["loss_on_foundation"] > 0
    assert isinstance(trained.ensemble, Baselined) is adds
    assert any("no better (of 12 labels" in event.text for event in told) is not adds


def test_a_foundation_that_is_silent_about_labels_or_contradicts_them_is_not_added_to():
    labels, ensemble = emt_labels(10), new_ensemble(SECTION, [1], torch.device("cpu"))
    said = prediction_of(labels)
    said.energy[0] = np.nan
    assert Baselined(ensemble, Scaled(labels, 1), Below(labels.structures, said)).can_help(labels)
    against = Below(labels.structures, prediction_of(labels, -0.1))
    assert not Baselined(ensemble, Scaled(labels, 1), against).can_help(labels)
    said.energy[1] = np.nan
    assert not Baselined(ensemble, Scaled(labels, 1), Below(labels.structures, said)).can_help(labels)


def test_labels_of_which_a_foundation_says_nothing_are_left_out():
    labels = emt_labels(6)
    said = prediction_of(labels, 0.5)
    said.forces[labels.structures.ptr[2]] = np.nan
    above = differences(labels, said)
    assert above.structures.ids.tolist() == [0, 1, 3, 4, 5]
    kept = labels.take([0, 1, 3, 4, 5])
    np.testing.assert_allclose(above.energy, 0.5 * kept.energy)
    np.testing.assert_allclose(above.forces, 0.5 * kept.forces)
    np.testing.assert_allclose(above.stress, 0.5 * kept.stress)


def test_an_ensemble_on_a_foundation_predicts_the_sum_and_learns_the_rest():
    labels = emt_labels(12)
    foundation = Scaled(labels, 0.8)
    untrained = Baselined(new_ensemble(SECTION, [1], torch.device("cpu")), foundation)
    trained = untrained.train(labels, [1, 0]).ensemble
    alone = untrained.ensemble.train(differences(labels, prediction_of(labels, 0.8)), [1, 0]).ensemble
    said, rest = trained.predict(labels.structures), alone.predict(labels.structures)
    np.testing.assert_allclose(said.energy, rest.energy + 0.8 * labels.energy)
    np.testing.assert_allclose(said.forces, rest.forces + 0.8 * labels.forces)
    np.testing.assert_allclose(said.stress, rest.stress + 0.8 * labels.stress)
    np.testing.assert_array_equal(said.energy_sigma, rest.energy_sigma)
    np.testing.assert_array_equal(said.features, rest.features)


def test_what_is_known_of_labels_is_not_asked_again():
    labels = emt_labels(8)
    foundation, ensemble = Scaled(labels, 0.8), new_ensemble(SECTION, [1], torch.device("cpu"))
    known = labels.take([0, 1, 2, 3, 4])
    founded = Baselined(ensemble, foundation, Below(known.structures, prediction_of(known, 0.8)))
    some = labels.structures.take([6, 2, 7, 0])
    said = founded.predict(replace(some, ids=np.array([90, 91, 92, 93])))
    assert foundation.asked == 2
    np.testing.assert_allclose(said.energy, Baselined(ensemble, foundation).predict(some).energy)
    founded.predict(known.structures)
    assert foundation.asked == 6


# --- how it ranks


def test_a_foundation_and_an_ensemble_are_compared_by_pairs_of_labels():
    labels = emt_labels(5)
    per_atom = labels.energy / labels.structures.counts
    reverse = replace(prediction_of(labels), energy=-labels.energy)
    figures = compared(reverse, prediction_of(labels), labels)
    assert figures["pairs"] == figures["right_by_ensemble"] == 10
    assert figures["right"] == 0
    first = compared(prediction_of(labels), None, labels)
    assert (first["pairs"], first["right"], first["right_by_ensemble"]) == (None, None, None)
    assert first["apart_mev_per_atom"] == pytest.approx(0)
    assert figures["apart_mev_per_atom"] == pytest.approx(2000 * np.median(np.abs(per_atom - np.median(per_atom))))
    assert together([first, figures, figures]) == {"pairs": 20, "right": 0, "right_by_ensemble": 20}


def test_a_foundation_that_ranks_far_worse_than_the_ensemble_is_told_of():
    assert "40 of 100 pairs of labels in the right order, the ensemble 51" in ranks_worse(
        {"pairs": 100, "right": 40, "right_by_ensemble": 51}
    )
    assert not ranks_worse({"pairs": 100, "right": 42, "right_by_ensemble": 51})
    assert not ranks_worse({"pairs": 40, "right": 0, "right_by_ensemble": 40})


def test_that_a_foundation_ranks_worse_is_told_once(tmp_path):
    labels, told, before = emt_labels(11), [], None
    work = SimpleNamespace(foundation=Scaled(labels, -1), run=tmp_path, tell=told.append)
    for cycle in range(3):
        folder = layout.stage_folder(tmp_path, "label", cycle)
        stage(folder, lambda aside: ask_foundation(work, aside, labels, prediction_of(labels)), before)
        before = folder
    assert ["0 of 55 pairs of labels in the right order, the ensemble 55" in event.text for event in told] == [True]


# --- in a campaign


def test_the_pool_comes_to_rest_on_the_foundation_before_the_first_label(run):
    stages = [folder.name for _, _, folder in sorted_stages(run)]
    assert stages[:4] == ["pool", "foundation", "check", "label"]
    table = layout.RANKING.read(run.path / "foundation")
    assert len(table) == 12
    assert (table["reason"] == "converged").mean() > 0.4


def test_the_first_labels_are_the_lowest_of_different_basins_and_one_in_five_as_generated(run):
    relaxed = layout.RELAXED.read(run.path / "foundation")
    table = layout.RANKING.read(run.path / "foundation")
    first = layout.LABELS.read(run.path / "cycle-00/label").structures
    assert len(first) == 5
    lowest = int(table.loc[table["trusted"], "energy_per_atom"].idxmin())
    assert first.ids[0] == table["id"][lowest]
    generated = run.pool_structures
    origin = [(relaxed.structures if row < 4 else generated) for row in range(5)]
    before = [each.volumes[each.ids == name][0] for each, name in zip(origin, first.ids, strict=True)]
    np.testing.assert_allclose(first.volumes, before, rtol=0.1)  # they are perturbed
    assert table.set_index("id").loc[first.ids[:4], "basin"].nunique() == 4


def test_the_ensemble_learns_what_the_reference_adds_where_that_is_little(run, told):
    training = json.loads((run.path / "cycle-00/train/training.json").read_text())
    assert training["loss_on_foundation"] < 0.5 * training["loss_alone"]
    notes = [event.text for event in told if isinstance(event, Noted)]
    assert any("The ensemble learns what the reference adds to the foundation" in text for text in notes)
    assert run.walk_forward()["energy_apart_mev_per_atom"] < 30


def test_a_foundation_that_is_no_help_is_not_learnt_upon(folder):
    told = []
    text = CAMPAIGN.replace("founded", "astray").replace("soft.Soft}", "soft.Soft, parameters: {factor: -1}}")
    run = open_run(run_to_its_end(folder, text, told.append))
    warned = [event.text for event in told if isinstance(event, Warned)]
    silent = "the foundation says too little of the labels: the ensemble learns without it"
    assert sum(silent in text for text in warned) == 1  # it is not tried again
    first, second = (json.loads((run.path / f"cycle-0{n}/train/training.json").read_text()) for n in (0, 1))
    assert (first["on_foundation"], first["loss_on_foundation"]) == (False, None)
    assert "on_foundation" not in second
    assert len(run.results) >= 1


def test_status_says_how_the_foundation_ranks_labels_beside_the_ensemble(run):
    figures = run.foundation
    assert figures["pairs"] == 10
    assert figures["right"] >= 9
    said = CliRunner().invoke(app, ["status", str(run.path)]).output
    assert f"{figures['right']} of 10 pairs in the right order, the ensemble {figures['right_by_ensemble']}" in said


def test_time_left_counts_the_first_relaxations_once_where_a_foundation_went_first(run):
    first, second = run.effort["seconds_relax"]
    assert mean_cycle(run.effort, run.campaign)["relax"] == pytest.approx((first + second) / 2)
    without = run.campaign.model_copy(update={"foundation": None})
    assert mean_cycle(run.effort, without)["relax"] == pytest.approx((2 * first + second) / 2)


@pytest.mark.parametrize(
    ("model", "found", "said"),
    [
        ("soft.Soft", {"soft": "0.4.2"}, {"ase": version("ase")}),  # as ASE's calculators and GPAW, which name none
        ("chgnet", {"pw.x": "7.2", "chgnet": "0.4.2"}, {"pw.x": "7.2"}),
        ("sevennet-0", {"pw.x": "7.2", "sevenn": "0.13.0"}, {"pw.x": "7.2"}),
    ],
)
def test_the_method_of_results_is_the_reference_and_not_the_foundation(run, monkeypatch, model, found, said):
    monkeypatch.setattr("csp_al.store.method.programs_of", lambda _: found)
    campaign = run.campaign.model_copy(update={"foundation": Foundation(model=model)})
    assert method_of(run.path, campaign).programs == said


@pytest.mark.long
@pytest.mark.parametrize("keep", ["pool", "foundation", "cycle-00/label", "cycle-00/train", "cycle-01/relax"])
def test_a_campaign_on_a_foundation_that_is_cut_off_ends_the_same(run, tmp_path, keep):
    copy = cut_after(run.path, tmp_path, keep)
    (copy.parent / "soft.py").write_text(SOFT)
    go_on(copy)
    assert outcome(copy) == outcome(run.path)


def test_the_stage_of_a_foundation_is_done_in_a_process_of_its_own(run, tmp_path):
    copy = cut_after(run.path, tmp_path, "pool")
    with pytest.raises(RefusedError, match=r"soft\.Soft, code of its author"):
        do_stage(copy, "foundation", torch.device("cpu"), lambda _: None)
    aside = do_stage(copy, "foundation", torch.device("cpu"), lambda _: None, trust=True)
    there, here = (layout.hdf5.load(place / "relaxed.h5", type(run.relaxed())) for place in
                   (run.path / "foundation", aside))  # fmt: skip
    np.testing.assert_array_equal(there.prediction.energy, here.prediction.energy)


def test_the_calculator_of_a_run_adds_the_foundation(run):
    with pytest.raises(ValueError, match="code of its author"):
        run.calculator()
    labels = layout.LABELS.read(run.path / "cycle-00/label")
    atoms = labels.structures.to_atoms()[0]
    atoms.calc = run.calculator(trust=True)
    assert atoms.get_potential_energy() / 4 == pytest.approx(labels.energy[0] / 4, abs=0.05)


# --- no labels at all


def test_without_labels_the_foundation_ranks_and_the_reference_relaxes(unlabelled):
    assert [folder.name for _, _, folder in sorted_stages(unlabelled)] == [
        "pool", "relax", "rank", "verdict", "winners"
    ]  # fmt: skip
    assert unlabelled.results["space_group_number"][0] in CLOSE_PACKED
    assert unlabelled.summary["evaluations"]["labels"] == 0
    assert unlabelled.judgement.word == "extend"
    assert "soft.Soft alone ranked the candidates" in str(unlabelled.judgement)


def test_results_say_that_a_foundation_ranked_them(unlabelled):
    runner = CliRunner()
    said = runner.invoke(app, ["results", str(unlabelled.path)]).output
    assert "predicted: by soft.Soft alone, whose zero is its own" in said
    rows = json.loads(runner.invoke(app, ["results", str(unlabelled.path), "--json"]).output)
    assert rows[0]["predicted_sigma"] is None
    assert "no labels were allowed" in runner.invoke(app, ["status", str(unlabelled.path)]).output


@pytest.mark.long
def test_a_search_without_labels_may_grow(folder):
    text = CAMPAIGN.replace("founded", "bred").replace("22]}", "22], grow: {offspring: 6, generations: 2, parents: 5}}")
    run = open_run(run_to_its_end(folder, text + "budget: {labels: 0}\n"))
    assert [folder.name for _, _, folder in sorted_stages(run)] == [
        "pool", "relax", "grow", "rank", "verdict", "winners"
    ]  # fmt: skip
    assert run.results["space_group_number"][0] in CLOSE_PACKED


def test_a_search_without_labels_can_be_judged_beside_others(unlabelled, tmp_path):
    def engine(folder):
        return start_engine(folder, Machine(slots=1))

    leaders = leaders_by_cycle(unlabelled, tmp_path, engine, lambda *_: None)
    final = relaxed_in_the_end(unlabelled, tmp_path, engine)
    target = Target(float(unlabelled.results["energy_per_atom"][0]), 0.01, "the lowest")
    trial = trial_of(unlabelled, leaders, final, final, target)
    assert trial.found
    assert trial.labels == trial.late_labels == 0
    assert trial.evaluations == unlabelled.reference_evaluations


def test_the_plan_of_a_search_without_labels_has_none(unlabelled):
    said = CliRunner().invoke(app, ["plan", "--trust", str(unlabelled.path.parents[1] / "unlabelled.yaml")]).output
    assert "labels            none: the foundation alone ranks the candidates" in said
    assert "stages            pool, relax, rank, verdict, winners" in said


def test_a_search_without_labels_stays_one_and_others_do_not_become_one(run, unlabelled):
    for one, labels in ((run, 0), (unlabelled, 20)):
        before = read_campaign_of(one.path, trust=True)
        now = before.model_copy(update={"budget": before.budget.model_copy(update={"labels": labels})})
        with pytest.raises(ChangedError, match="a search without labels is another one"):
            accept(one.path, before, now)


# --- with what else a campaign may have


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("imported", "relax:", "labels: [../runs/founded]\nrelax:"),
        ("larger", "relax:", "search_pool: {formula: Al8, size: 8, volume_per_atom: [13, 22]}\nrelax:"),
        ("guided", "{members: 2,", "{kind: forcenet, polish: schnet, members: 2,"),
        ("unadded", "soft.Soft}", "soft.Soft, baseline: false}"),
        ("growing", "22]}", "22], grow: {offspring: 6, generations: 2, parents: 5}}"),
    ],
)
def test_a_campaign_on_a_foundation_ends_and_goes_on_the_same_with(run, folder, tmp_path, name, old, new):
    home = folder / name
    home.mkdir()
    (home / "soft.py").write_text(SOFT)
    whole = run_to_its_end(home, CAMPAIGN.replace("founded", name).replace(old, new))
    assert len(open_run(whole).results) >= 1
    copy = cut_after(whole, tmp_path, "foundation")
    (tmp_path / "soft.py").write_text(SOFT)
    go_on(copy)
    assert outcome(copy) == outcome(whole)


# --- bad input


def wrong(folder, text):
    path = folder / "wrong.yaml"
    path.write_text(text)
    with pytest.raises(CampaignError) as error:
        checked_campaign(path, Machine())
    return str(error.value)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("soft.Soft", "chgent", "wrong.yaml:5:21: foundation.model: unknown word chgent, did you mean chgnet?"),
        ("soft.Soft", "soft.Sort", "foundation.model: soft.Sort"),
        ("soft.Soft", "sort.Soft", "foundation.model: sort.Soft"),
        ("soft.Soft}", "soft.Soft, parameters: {softness: 2}}", "foundation.model: soft.Soft"),
        ("soft.Soft}", "chgnet, parameters: {size: big}}", "foundation.parameters.size: no keyword of chgnet"),
        ("members: 2", "warm_start: true, members: 2", "potential.warm_start: weights that learned"),
        ("foundation: {model: soft.Soft}", "budget: {labels: 0}", "budget.labels: no labels at all"),
        ("soft.Soft}", "soft.Soft, weights: {soft.pth: 0123456789abcdef}}", "foundation.weights: the weights soft.pth"),
    ],
)
def test_what_is_wrong_with_a_foundation_is_told_with_its_place(folder, old, new, words):
    assert words in wrong(folder, CAMPAIGN.replace(old, new))


def test_a_look_does_not_start_a_foundation_of_ones_own(folder, capsys):
    path = folder / "looked.yaml"
    path.write_text(CAMPAIGN)
    with looking_only():
        checked_campaign(path, Machine())
    assert "soft.Soft was not started: it may run any code; --trust does that" in capsys.readouterr().err


def test_resume_refuses_a_foundation_of_the_author_unless_trusted(run):
    said = CliRunner().invoke(app, ["resume", str(run.path)])
    assert said.exit_code == 2
    assert "foundation.model: soft.Soft" in said.output


def test_weights_that_changed_end_a_campaign_before_it_goes_on(folder):
    (folder / "weights.txt").write_text("1")
    section = read_campaign(with_weights(folder)).foundation
    foundation = build_foundation(section, Machine(), folder)
    pinned = foundation.pinned()
    foundation.close()
    assert list(pinned.weights) == ["weights.txt"]
    (folder / "weights.txt").write_text("2")
    changed = build_foundation(pinned, Machine(), folder)
    (found,) = changed.check(["Al"])
    changed.close()
    assert "the weights weights.txt are not those that this tells of" in found.message


def with_weights(folder):
    (folder / "weighty.py").write_text(
        "from ase.calculators.emt import EMT\n\n\ndef calculator(path):\n    return EMT()\n"
    )
    path = folder / "weighty.yaml"
    path.write_text(CAMPAIGN.replace("soft.Soft}", "weighty.calculator, parameters: {path: weights.txt}}"))
    return path


def sorted_stages(run):
    return published_stages(run.path)


CHGNET = pytest.mark.skipif(find_spec("chgnet") is None, reason="CHGNet is not installed")


@CHGNET
def test_elements_that_a_foundation_has_never_seen_are_refused(folder):
    text = CAMPAIGN.replace("soft.Soft", "chgnet").replace("Al4", "Po4").replace("emt.EMT", "lj.LennardJones")
    assert "foundation.model: chgnet has never seen Po; choose another, or leave it out" in wrong(folder, text)


@CHGNET
def test_another_functional_than_that_of_the_foundation_is_told(folder, capsys):
    if find_spec("gpaw") is None:
        pytest.skip("GPAW is not installed")
    path = folder / "functional.yaml"
    gpaw = CAMPAIGN.replace("{kind: ase, calculator: ase.calculators.emt.EMT}", "{kind: gpaw, xc: LDA}")
    path.write_text(gpaw.replace("soft.Soft", "chgnet"))
    checked_campaign(path, Machine())
    assert "chgnet learned PBE, and the reference is LDA" in capsys.readouterr().err


# --- beside random search


def test_a_benchmark_has_the_lowest_of_a_foundation_relaxed_one_by_one(folder, tmp_path):
    path = folder / "rival.yaml"
    path.write_text(CAMPAIGN.replace("size: 12", "size: 6"))
    campaign, asked = read_campaign(path), []
    foundation = build_foundation(campaign.foundation, Machine(), folder)

    def engine(place):
        return start_engine(place, Machine(slots=1))

    def rival():
        return foundation_first(campaign, folder, tmp_path, foundation, engine, lambda *told: asked.append(told))

    try:
        found = rival()
    finally:
        foundation.close()
    relaxed = layout.RELAXED.read(tmp_path / "foundation")
    energies = relaxed.prediction.energy[np.isin(relaxed.structures.ids, found.structures.ids)]
    assert found.structures.ids[0] == relaxed.structures.ids[int(np.nanargmin(relaxed.prediction.energy))]
    assert (found.status == "done").all()
    assert 1 < len(found) == len(energies) <= 6
    assert asked
    np.testing.assert_array_equal(rival().energy, found.energy)  # nothing is asked again
