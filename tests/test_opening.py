"""First cells that are too tight for the reference are opened and labelled again, whatever interrupts that."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from outcomes import outcome
from small_run import run_to_its_end
from test_check import CAMPAIGN as SLOPES
from test_check import csp_al as csp_al_with_odd_slopes

from csp_al.campaign import read_campaign
from csp_al.campaign.machine import Machine
from csp_al.engine.engines import start_engine
from csp_al.events import Noted
from csp_al.loop.drive import Drive
from csp_al.loop.opening import ROUNDS, STRETCH
from csp_al.loop.search import search
from csp_al.loop.tasks import TooManyFailedError, refuse_many_failures
from csp_al.reasons import Failure, Reason
from csp_al.report.status import status
from csp_al.report.status_in_words import describe
from csp_al.report.tables import open_run
from csp_al.results import Result
from csp_al.store.lock import locked
from csp_al.store.run_directory import prepare
from csp_al.structures import Status

CAMPAIGN = """\
name: argon
pool: {formula: Ar2, size: 6MORE}
reference:
  kind: ase
  calculator: csp_al.reference.classical.lennard_jones
  parameters: {epsilon: 0.0104, sigma: 3.4, cutoff: 8.5}
potential: {members: 2, features: 8, interactions: 1, cutoff: 5.0, steps: 5}
relax: {max_steps: 3}
select: {per_cycle: 4, clusters: 4}
stop: {top_k: 1, max_cycles: 1}
finish: {max_steps: 2}
"""
TIGHT = ", volume_per_atom: [4, 14], min_distance: {Ar-Ar: 1.5}"
"""Å^3 and Å: at 1.5 Å two atoms push each other apart with 1e4 eV/Å."""


def tight(folder: Path, tell=lambda *_: None, text: str = CAMPAIGN.replace("MORE", TIGHT)) -> Path:
    """Run the campaign in the folder, or go on with it, and return its run directory."""
    source, run = folder / "argon.yaml", folder / "argon"
    source.write_text(text)
    run.mkdir(exist_ok=True)
    campaign = read_campaign(source)
    with locked(run):
        prepare(run, campaign, source, {})
        engine = start_engine(run / "tasks", Machine(slots=2))
        try:
            search(Drive(campaign, run, folder, torch.device("cpu"), tell, engine))
        finally:
            engine.close()
    return run


@pytest.fixture(scope="module")
def told() -> list[str]:
    return []


@pytest.fixture(scope="module")
def opened(tmp_path_factory, told) -> Path:
    """A run whose first cells were too tight, and what it told. To be read, never written."""
    return tight(
        tmp_path_factory.mktemp("opened"), lambda event: told.append(event.text) if isinstance(event, Noted) else None
    )


def test_argon_with_all_defaults_of_the_pool_ends_with_crystals(tmp_path):
    run = open_run(run_to_its_end(tmp_path, CAMPAIGN.replace("MORE", "")))
    assert (run.labels["status"] == "done").all()
    assert len(run.results) == 1


def test_tight_cells_are_opened_until_their_labels_are_sane(opened):
    labels = open_run(opened).all_labels
    rejected = labels.status == "rejected"
    assert rejected.any()
    for identity in np.unique(labels.structures.ids):
        rows = np.flatnonzero(labels.structures.ids == identity)
        assert len(rows) <= ROUNDS + 1
        assert labels.status[rows[-1]] == "done"
        assert rejected[rows[:-1]].all()
        cells = labels.structures.cells[rows]
        np.testing.assert_allclose(cells, [STRETCH**turn * cells[0] for turn in range(len(rows))])


def test_what_opening_cost_is_counted_and_told(opened, told):
    run = open_run(opened)
    more = len(run.labels) - run.labels["id"].nunique()
    assert more > 0
    assert run.summary["evaluations"]["labels"] == len(run.labels)
    counts = status(opened).labels
    assert (counts.opened, counts.done + counts.failed) == (more, len(run.labels))
    assert f"; {more} of cells that were enlarged" in describe(status(opened))
    assert sum(int(words.split()[0]) for words in told if "enlarged by 10% and labelled again: " in words) == more
    assert "reference.max_force" in told[0]
    assert (opened / "log.jsonl").read_text().count('"cells opened"') == sum("enlarged" in words for words in told)


def test_campaign_killed_between_openings_ends_as_one_left_alone(opened, tmp_path):
    def die(event: object) -> None:
        if isinstance(event, Noted):
            raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            tight(tmp_path, die)
    assert outcome(tight(tmp_path)) == outcome(opened)


def test_openings_keep_the_budget(tmp_path):
    text = CAMPAIGN.replace("MORE", TIGHT) + "budget: {labels: 5}\n"
    with pytest.raises(TooManyFailedError, match=r"pool\.min_distance"):
        tight(tmp_path, text=text)
    events = (tmp_path / "argon" / "log.jsonl").read_text()
    assert events.count('"cells opened"') == 1


def test_forces_in_another_unit_are_found_though_all_first_cells_are_tight(tmp_path):
    (tmp_path / "al4.yaml").write_text(SLOPES.format(parameters="force: 50"))
    ran = csp_al_with_odd_slopes(tmp_path, "run", "al4.yaml", "--slots", "1")
    assert ran.returncode == 1
    assert "forces or stress of the reference are not the derivatives of its energy:" in ran.stdout
    results = [json.loads(path.read_text()) for path in (tmp_path / "runs" / "al4" / "tasks").glob("*/result.json")]
    assert any(result["reason_kind"] == "too_strong_forces" for result in results)


def failed(kind: Failure, words: str) -> Result:
    wrong = Status.REJECTED if kind is Failure.TOO_STRONG_FORCES else Status.FAILED
    return Result(None, "0" * 20, "label", wrong, Reason(kind, words), 1.0, 1, [], "here", "", "")


@pytest.mark.parametrize(
    ("kind", "said", "unsaid"),
    [
        (Failure.TOO_STRONG_FORCES, "(pool.min_distance) or volumes (pool.volume_per_atom)", "Mend the reference"),
        (Failure.SCF_NOT_CONVERGED, "Mend the reference section", "pool.min_distance"),
    ],
)
def test_advice_names_the_keys_that_help(kind, said, unsaid):
    with pytest.raises(TooManyFailedError) as ended:
        refuse_many_failures([failed(kind, "force of 2e4 eV/Å")] * 3, 0.5)
    assert said in str(ended.value)
    assert unsaid not in str(ended.value)
