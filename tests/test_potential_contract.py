"""Every kind of potential keeps the contract, and the contract notices who does not."""

from __future__ import annotations

import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import numpy as np
import pytest
from conftest import CAMPAIGN
from typer.testing import CliRunner

from csp_al.campaign import CampaignError, read_campaign
from csp_al.cli import app
from csp_al.cli.trust import refuse_code
from csp_al.interfaces import STALLED, Gives
from csp_al.kinds import OURS, POTENTIALS
from csp_al.loop.bodies import DESCRIBED
from csp_al.potential.contract import check_kind
from csp_al.report.tables import open_run
from csp_al.store.links import UntrustedError
from csp_al.store.run_directory import read_campaign_of
from csp_al.testing import check_potential

KIND = "csp_al_example.potential.KIND"
SMALLER = (
    CAMPAIGN.replace("size: 24", "size: 10")
    .replace("max_steps: 40", "max_steps: 20")
    .replace("per_cycle: 8, clusters: 8", "per_cycle: 4, clusters: 4")
    .replace("max_cycles: 3", "max_cycles: 2")
)

SMALL = {"members": 2, "features": 8, "interactions": 2, "cutoff": 4.0, "radial": 8, "batch_size": 4, "steps": 15}


@pytest.mark.parametrize("name", OURS[POTENTIALS])
def test_every_kind_of_ours_keeps_the_contract(name, tmp_path):
    check_potential({"kind": name, **SMALL}, tmp_path)


def test_forces_that_are_no_gradient_keep_the_contract_too(tmp_path):
    check_potential({"kind": "leignn", "mode": "direct", **SMALL}, tmp_path)


def test_kinds_are_known_without_torch():
    script = (
        "import sys; from csp_al.kinds import OURS, POTENTIALS, find; "
        "kinds = [find(POTENTIALS, name) for name in OURS[POTENTIALS]]; "
        "print([kind.gives(kind.section()).features for kind in kinds]); "
        "sys.exit('torch' in sys.modules or 'schnetpack' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "[320, 320, 320, 160, 320]"), done.stderr


@pytest.mark.long
def test_an_ensemble_that_another_one_leads_keeps_the_contract(tmp_path):
    check_potential({"kind": "forcenet", "polish": "schnet", **SMALL}, tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("potential", ["leignn, mode: direct", "forcenet, polish: schnet"])
def test_a_campaign_ends_where_forces_are_no_gradient(potential, tmp_path):
    source, run = tmp_path / "al4.yaml", tmp_path / "al4"
    source.write_text(
        CAMPAIGN.replace("{members: 2,", f"{{kind: {potential}, members: 2,").replace("steps: 50", "steps: 200")
    )
    ended = CliRunner().invoke(app, ["run", str(source), "--directory", str(run), "--slots", "1", "--device", "cpu"])
    assert ended.exit_code == 0, ended.output
    opened = open_run(run)
    assert (opened.results["energy_per_atom"] < 0.1).any()
    stalled = [(opened.relaxed(cycle).reason == STALLED).any() for cycle in range(2)]
    assert "polish" in potential or not any(stalled)


@pytest.fixture
def example(monkeypatch):
    """The potential of a package that is not ours."""
    monkeypatch.syspath_prepend(Path(__file__).parent / "example_package")
    return resolve_name("csp_al_example.potential:KIND")


def test_a_potential_of_another_package_keeps_the_contract(example, tmp_path):
    check_potential({"kind": KIND}, tmp_path)


@dataclass(frozen=True)
class Changed:
    """An ensemble that breaks its contract in one place."""

    inner: Any
    changes: dict[str, Callable]

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def predict(self, structures):
        return self.changes.get("predict", lambda value, _: value)(self.inner.predict(structures), structures)

    def fresh(self):
        return replace(self)

    def train(self, *details):
        trained = self.inner.train(*details)
        return self.changes.get("train", lambda value: value)(
            replace(trained, ensemble=Changed(trained.ensemble, self.changes))
        )


def single(prediction, _):
    return replace(prediction, energy=prediction.energy.astype(np.float32))


def half_forces(prediction, _):
    return replace(prediction, forces=0.5 * prediction.forces)


def half_stress(prediction, _):
    return replace(prediction, stress=0.5 * prediction.stress)


def along_x(prediction, structures):
    sums = np.add.reduceat(structures.positions[:, 0], structures.ptr[:-1]) if len(structures) else 0
    return replace(prediction, energy=prediction.energy + 0.1 * sums)


def of_the_batch(prediction, structures):
    return replace(prediction, energy_sigma=prediction.energy_sigma + 0.01 * len(structures))


def per_cell(prediction, _):
    return replace(prediction, energy=prediction.energy + 1)


def pushed(prediction, _):
    return replace(prediction, forces=prediction.forces + 0.1)


def with_features(prediction, structures):
    return replace(prediction, features=structures.volumes[:, None])


def never_better(trained):
    return replace(trained, curve=trained.curve.assign(training=1.0))


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"predict": single}, "energy is float32, not float64"),
        ({"predict": half_forces}, "forces are not the derivative of the energy"),
        ({"predict": half_stress}, "the stress is not the derivative of the energy"),
        ({"predict": along_x}, "not the same when turned: energy"),
        ({"predict": pushed}, "forces push a whole crystal by"),
        ({"predict": of_the_batch}, "structures predicted alone differ from a batch: energy_sigma"),
        ({"predict": per_cell}, "not the same when the cell is doubled, but for twice the energy: energy"),
        ({"predict": with_features}, r"features has the shape \(8, 1\), not \(8, 0\)"),
        ({"train": never_better}, "training lowers no loss"),
    ],
)
def test_the_contract_says_what_a_potential_does_not_keep(changes, complaint, example, tmp_path):
    kind = replace(example, new=lambda *details: Changed(example.new(*details), changes))
    with pytest.raises(AssertionError, match=complaint):
        check_kind(kind, example.section(), tmp_path)


def test_the_contract_notices_a_seed_that_decides_nothing_and_a_quantity_that_is_denied_and_given(example, tmp_path):
    rng = np.random.default_rng(1)
    kind = replace(example, new=lambda section, _, device: example.new(section, rng.integers(9, size=3), device))
    with pytest.raises(AssertionError, match="a seed makes two different ensembles"):
        check_kind(kind, example.section(), tmp_path)
    kind = replace(example, gives=lambda _: Gives(spread=False))
    with pytest.raises(AssertionError, match="the ensemble gives something else than its kind says"):
        check_kind(kind, example.section(), tmp_path)


def test_what_a_potential_lacks_is_said_at_its_kind_in_the_file(example, tmp_path, monkeypatch):
    module = sys.modules["csp_al_example.potential"]
    monkeypatch.setattr(module, "KIND", replace(example, gives=lambda _: Gives(stress=False)))
    path = tmp_path / "al4.yaml"
    path.write_text(
        CAMPAIGN.replace(
            "{members: 2, features: 16, interactions: 2, cutoff: 5.0, steps: 50, batch_size: 8}",
            f"{{members: 2, kind: {KIND}}}",
        )
    )
    with pytest.raises(
        CampaignError, match=r"al4.yaml:5:31: potential.kind: it gives no stress, without which no cell"
    ):
        read_campaign(path)


def test_the_contract_notices_files_that_are_run_when_they_are_read(example, tmp_path):
    @dataclass(frozen=True)
    class Pickled(type(example.new(example.section(), [1], None))):
        def save(self, folder):
            (folder / "all.pkl").write_bytes(pickle.dumps(vars(self)))

    def of(ensemble):
        return Pickled(**vars(ensemble))

    kind = replace(
        example,
        new=lambda *details: of(example.new(*details)),
        load=lambda folder, *_: Pickled(**pickle.loads((folder / "all.pkl").read_bytes())),
    )
    with pytest.raises(AssertionError, match="it reads a pickle"):
        check_kind(kind, example.section(), tmp_path)


def test_a_campaign_runs_with_a_potential_without_features(example, tmp_path):
    """Its kind is known by its path; what tells its crystals apart is said once."""
    source, run = tmp_path / "al4.yaml", tmp_path / "al4"
    potential = re.search("potential: .*", SMALLER)[0]
    source.write_text(SMALLER.replace(potential, f"potential: {{kind: {KIND}, members: 2}}"))
    ended = CliRunner().invoke(app, ["run", str(source), "--directory", str(run), "--slots", "1", "--device", "cpu"])
    assert ended.exit_code == 0, ended.output
    assert ended.output.count(DESCRIBED) == 1
    opened = open_run(run)
    table = opened.ranking()
    assert table.loc[table["trusted"], "basin"].ge(0).mean() > 0.9
    assert len(set(table["cluster"])) > 3
    assert np.isfinite(opened.pool_map(1)[["x", "y"]]).all(axis=None)
    assert opened.results["energy_per_atom"].min() < 0.05
    with pytest.raises(UntrustedError, match=f"potential.kind: {KIND}"):
        refuse_code(read_campaign_of(run), run)
