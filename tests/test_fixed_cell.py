"""A search that keeps the cell: nothing in it moves one, and what would have to is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.geometry import cellpar_to_cell, minkowski_reduce
from ase.optimize import BFGS
from outcomes import outcome
from small_run import cut_after, go_on, run_to_its_end
from test_opening import CAMPAIGN as ARGON
from test_opening import TIGHT, tight
from test_relax import WIDE, Stub

from csp_al import open_run
from csp_al.campaign import Pool, read_campaign
from csp_al.campaign.checks import lacking
from csp_al.campaign.errors import CampaignError
from csp_al.campaign.models import Relax
from csp_al.engine.tasks import relax_task, task_id
from csp_al.events import Noted
from csp_al.generate import generate_pool
from csp_al.interfaces import CONVERGED, Gives, UnplaceableError
from csp_al.loop.tasks import TooManyFailedError
from csp_al.reference.ase_calculator import AseReference
from csp_al.reference.evaluate import relax as relax_by_reference
from csp_al.reference.references import build_reference
from csp_al.relax.relaxation import relax
from csp_al.store import layout
from csp_al.structures import Structures

CAMPAIGN = """\
name: kept
seed: 1
pool:
  formula: Al8
  size: 20
  min_distance: {Al-Al: 2.2}
  sources: [{kind: given_cell, share: 1, lengths: [5.64, 5.64, 5.64], angles: [60, 60, 60]}]
reference: {kind: ase, calculator: ase.calculators.emt.EMT}
relax: {cell: fixed}
potential: {members: 2, features: 16, interactions: 2, cutoff: 5.0, steps: 60, batch_size: 8}
select: {per_cycle: 5, clusters: 6}
stop: {top_k: 1, max_cycles: 2}
"""
CELL = minkowski_reduce(cellpar_to_cell([5.64] * 3 + [60] * 3))[0]
SECTION = AseReference(kind="ase", calculator="ase.calculators.emt.EMT")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return open_run(run_to_its_end(tmp_path_factory.mktemp("kept"), CAMPAIGN))


def shaken(seed):
    atoms = bulk("Al", a=4.1, cubic=True)
    atoms.rattle(0.2, seed=seed)
    return atoms


# --- relaxations


@pytest.mark.parametrize("gives", [Gives(), Gives(stress=False)])
def test_atoms_alone_come_to_rest_where_ase_brings_them_also_without_a_stress(gives):
    def no_stress(_, prediction):
        return prediction if gives.stress else replace(prediction, stress=np.full_like(prediction.stress, np.nan))

    starts = Structures.from_atoms([shaken(1), shaken(2)])
    relaxed = relax(starts, Stub(EMT(), no_stress, gives=gives), Relax(cell="fixed", fmax=0.001, max_steps=200), WIDE)
    assert relaxed.reason.tolist() == [CONVERGED] * 2
    np.testing.assert_array_equal(relaxed.structures.cells, starts.cells)
    for atoms, energy in zip(starts.to_atoms(), relaxed.prediction.energy, strict=True):
        atoms.calc = EMT()
        BFGS(atoms, logfile=None).run(fmax=0.001)
        assert atoms.get_potential_energy() == pytest.approx(energy, abs=1e-4)


def test_reference_relaxes_atoms_alone_where_it_is_told_so(tmp_path):
    start = shaken(3)
    (tmp_path / "attempt-1").mkdir()
    reference = build_reference(SECTION)
    kept = relax_by_reference(reference, start, tmp_path / "attempt-1", fmax=0.01, max_steps=100, cell="fixed")
    assert kept.converged
    np.testing.assert_array_equal(kept.cell, start.cell.array)
    assert np.abs(kept.stress).max() > 0.01  # 2.7% too wide


def test_task_says_so_only_where_the_cell_is_fixed():
    free = relax_task(shaken(1), SECTION, 0.05, 100)
    assert "cell" not in free.inputs  # as before there was a choice
    assert task_id(free) != task_id(relax_task(shaken(1), SECTION, 0.05, 100, "fixed"))


# --- a campaign


def test_candidates_labels_and_winners_have_the_cell_that_was_given(run):
    assert set(run.pool["origin"]) == {"given_cell"}
    labels = run.all_labels
    ends = [layout.RELAXED.read(run.path / f"cycle-0{cycle}" / "relax").structures for cycle in range(2)]
    winners = Structures.from_atoms(run.winners)
    for structures in (run.pool_structures, labels.structures, *ends, winners):
        for cell in structures.cells:
            lattice = np.linalg.solve(CELL.T, cell.T)  # whole numbers: the same lattice
            np.testing.assert_allclose(lattice, lattice.round(), atol=1e-6)
            assert abs(np.linalg.det(lattice)) == pytest.approx(1)
    assert run.results["space_group_symbol"].iloc[0] == "Fm-3m"


def test_campaign_that_is_continued_ends_the_same(run, tmp_path):
    continued = cut_after(run.path, tmp_path, "cycle-00/relax")
    go_on(continued)
    assert outcome(continued) == outcome(run.path)


def test_cells_that_are_too_tight_are_not_opened(tmp_path):
    told = []
    text = ARGON.replace("MORE", TIGHT).replace("relax: {", "relax: {cell: fixed, ")
    with pytest.raises(TooManyFailedError, match="allowed up to"):
        tight(tmp_path, told.append, text)
    assert not any("enlarged" in event.text for event in told if isinstance(event, Noted))


# --- a given cell


def test_atoms_without_room_in_a_given_cell_are_refused_with_the_pair():
    source = {"kind": "given_cell", "share": 1, "lengths": [3, 3, 3]}
    pool = Pool.model_validate({"formula": "Al8", "size": 1, "max_attempts": 20, "sources": [source]})
    with pytest.raises(UnplaceableError, match=r"in a cell of 27 Å\^3: min_distance Al-Al .* leaves no room"):
        generate_pool(pool, 1)


# --- what a campaign file may say


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("cell: fixed", "cell: fixd", r"9:15: relax.cell: unknown word fixd, did you mean fixed"),
        ("  size: 20", "  size: 20\n  grow: {}", r"6:9: pool.grow: offspring change the cell, which relax.cell: fixed"),
        ("[60, 60, 60]", "[120, 120, 120]", r"7:\d+: pool.sources\[0\].angles: no cell has such angles"),
    ],
)
def test_what_cannot_work_is_refused_with_its_place(tmp_path, old, new, said):
    file = tmp_path / "kept.yaml"
    assert old in CAMPAIGN
    file.write_text(CAMPAIGN.replace(old, new, 1))
    with pytest.raises(CampaignError, match=f"kept.yaml:{said}"):
        read_campaign(file)


def test_potential_without_stress_is_refused_only_where_cells_move():
    gives = Gives(stress=False, features=8)
    assert not list(lacking(gives, moves_cell=False))
    (finding,) = lacking(gives)
    assert "it gives no stress, without which no cell can be relaxed (relax.cell: fixed keeps it)" in finding.message
