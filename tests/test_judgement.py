"""What results are worth: a table of campaigns, and what is said of each."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from csp_al.campaign.models import Stop
from csp_al.cli import app
from csp_al.report.tables import open_run
from csp_al.select.judgement import ENDED_BY, EXTEND, NOT_TRUSTED, SETTLED, Figures, judge
from csp_al.select.resolution import ranks
from csp_al.store.changes import FINISHING, STOPPING

RIGHT = Figures(
    stopped="the lowest 3 crystals stayed the same for 2 cycles",
    settled=True,
    rules=Stop(),
    unseen=0.1,
    error=0.009,
    within=0.6,
    ids=[136, 127, 9],
    found=[-3.593, -3.586, -3.558],
    predicted=[-3.580, -3.584, -3.552],
    sigmas=[0.004, 0.004, 0.012],
    converged=[True, True, True],
    reached=3,
)
"""A search that found LiGaSi's lowest crystal."""


def test_the_command_that_goes_on_has_the_seed_that_the_run_has():
    said = judge(replace(RIGHT, stopped="8 cycles done, the most that stop.max_cycles allows", seed=3), "runs/si8")
    helps = said.reasons[0].helps
    assert helps.startswith("a larger stop.max_cycles")
    assert helps.endswith("csp-al run FILE --seed 3 --directory runs/si8")


def with_shift(shift: float, alone: float = 0.0) -> dict[str, list[float]]:
    return {"predicted": [energy + shift + alone * (row == 0) for row, energy in enumerate(RIGHT.found)]}


@pytest.mark.parametrize(
    ("change", "word", "said"),
    [
        ({}, SETTLED, "to within 10 meV/atom"),
        ({"error": 0.028}, SETTLED, "to within 28 meV/atom"),  # what lies 5 meV/atom below may be hidden
        (with_shift(0.09), SETTLED, "to within 10 meV/atom"),  # all leaders alike: none ranks differently
        ({"converged": [True, False, False]}, SETTLED, "to within 10 meV/atom"),
        ({"failed": [-3.3]}, SETTLED, "to within 10 meV/atom"),
        ({"reached": 0, "bred": True}, SETTLED, "to within 10 meV/atom"),
        ({"stopped": "80 cycles done, the most that stop.max_cycles allows", "settled": False}, EXTEND, "max_cycles"),
        ({"stopped": "95 labels; 10 more would exceed budget.labels, 100", "settled": False}, EXTEND, "budget.labels"),
        ({"settled": None}, EXTEND, "stop.challenge"),
        ({"rules": Stop(challenge=False)}, EXTEND, "stop.challenge"),
        ({"settled": False}, EXTEND, "stop.patience"),
        ({"unseen": 0.6, "settled": False}, EXTEND, "pool.size"),
        ({"reached": 1}, EXTEND, "luck"),
        ({"error": 0.04}, EXTEND, "stop.max_error: 0.03"),
        ({"error": 0.04, "rules": Stop(max_error=None)}, EXTEND, "stop.max_error: 0.03"),
        ({"error": 0.15}, EXTEND, "off by 150 meV/atom"),
        ({"error": None, "within": None}, EXTEND, "none of the newest labels"),
        ({"error": np.nan}, EXTEND, "none of the newest labels"),
        ({"predicted": [np.nan, -3.58, -3.55]}, NOT_TRUSTED, "no finite numbers"),
        ({"predicted": [-3.55, -3.56, -3.59]}, EXTEND, "candidate 9, is 35 meV/atom higher"),
        ({"error": 0.029, "predicted": [-3.58, -3.585, -3.57]}, EXTEND, "the next may be lower"),
        ({"error": 0.029, "predicted": [-3.58, -3.585, -3.57], "all_relaxed": True}, SETTLED, "to within"),
        (with_shift(0.0, 0.23), EXTEND, "candidate 136 was predicted at -3.363 ± 0.004 eV/atom"),
        ({"converged": [False, True, True]}, EXTEND, "finish.max_steps"),
        ({"failed": [-3.58]}, EXTEND, "csp-al resume runs/a --retry failed"),
        ({"failed": [np.nan]}, EXTEND, "csp-al resume runs/a --retry failed"),
        ({"reference": ["stress xx: 5 GPa said, 9 by differences"]}, NOT_TRUSTED, "csp-al doctor --reference FILE"),
        ({"relaxations": "290 of 300 relaxations stopped in their first step"}, NOT_TRUSTED, "in their first step"),
        ({"converged": [False, False, False]}, NOT_TRUSTED, "none of the final relaxations converged"),
        (with_shift(0.0, 0.6), NOT_TRUSTED, "candidate 136 was predicted at -2.993 ± 0.004 eV/atom"),
        (with_shift(2.1), NOT_TRUSTED, "2100 meV/atom apart"),
        ({"error": 1.963, "within": 0.0}, NOT_TRUSTED, "off by 1963 meV/atom"),
    ],
)
def test_judgement_and_the_rule_behind_it(change, word, said):
    judgement = judge(replace(RIGHT, **change), "runs/a")
    assert judgement.word == word
    assert any(said in f"{reason.what} {reason.helps}" for reason in judgement.reasons), judgement.reasons


def test_keys_that_help_may_be_changed_in_a_run_that_has_ended():
    changes = [{"settled": False}, {"error": 0.04}, {"converged": [False, True, True]}, {"converged": [False] * 3}]
    changes += [{"stopped": f"{key} reached", "settled": False} for key in ENDED_BY]
    changes += [{"predicted": [-3.55, -3.56, -3.59]}]
    for change in changes:
        told = [
            reason.helps for reason in judge(replace(RIGHT, **change)).reasons if "in the campaign file" in reason.helps
        ]
        assert told
        assert {key for words in told for key in re.findall(r"[a-z]+\.[a-z_]+", words)} <= {*STOPPING, *FINISHING}


def test_one_winner_far_from_its_prediction_is_not_excused():
    one = {"ids": [1], "found": [-0.006], "predicted": [2.1], "sigmas": [0.0], "converged": [True]}
    assert judge(replace(RIGHT, **one)).word == NOT_TRUSTED
    near = one | {"predicted": [0.02], "sigmas": [0.01]}
    (reason,) = judge(replace(RIGHT, **near, error=0.029)).reasons
    assert reason.what.startswith("only one crystal was relaxed, and the newest labels were off by 29 meV/atom")
    assert judge(replace(RIGHT, **near, all_relaxed=True)).word == SETTLED


def test_energies_that_relaxations_do_not_tell_apart_share_a_rank():
    def rows(*above: float, fmax: float = 0.01) -> list[dict[str, float]]:
        return [{"energy_per_atom": -4.0 + one, "fmax": fmax} for one in above]

    assert ranks(rows(0.0, 0.0002, 0.0011, 0.0014, 0.1), 0.05, 0.01) == [1, 1, 1, 4, 5]
    assert ranks(rows(0.0, 0.0002), 0.01, 0.01) == [1, 2]
    assert ranks(rows(0.0, 0.009, 0.011, fmax=0.5), 0.05, 0.01) == [1, 1, 3]  # not converged; but never above tolerance
    assert ranks([], 0.05, 0.01) == []


def test_results_status_summary_and_the_notebook_tell_the_same(finished_run):
    run = open_run(finished_run)
    judgement = run.judgement
    kept = json.loads((finished_run / "winners" / "summary.json").read_text())["judgement"]
    assert (kept["word"], kept["lines"]) == (judgement.word, list(judgement.lines))
    assert run.summary["judgement"]["word"] == judgement.word
    told = CliRunner().invoke(app, ["results", str(finished_run)]).output
    assert told.startswith(f"Judgement: {judgement.word}")
    assert all(reason.what in told for reason in judgement.reasons)
    status = json.loads(CliRunner().invoke(app, ["status", "--json", str(finished_run)]).output)
    assert status["judgement"]["word"] == judgement.word
    assert judgement.word in CliRunner().invoke(app, ["status", str(finished_run)]).output
