"""Labels from elsewhere begin a campaign: whole, judged, checked against its reference, and told apart from its own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import ase.io
import numpy as np
import pandas as pd
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from ase.db import connect
from ase.units import GPa
from typer.testing import CliRunner

from csp_al.campaign import read_campaign
from csp_al.campaign.machine import Machine
from csp_al.cli import app
from csp_al.engine.engines import start_engine
from csp_al.engine.tasks import read_result
from csp_al.events import Advanced, Event, Listener, StageStarted
from csp_al.loop.drive import Drive
from csp_al.loop.imported import rows_to_check
from csp_al.loop.label_set import read_labels
from csp_al.loop.search import search
from csp_al.report import figures
from csp_al.report.export import export
from csp_al.report.plan import describe_plan, plan, schedule
from csp_al.report.status import LabelCounts, status
from csp_al.report.status_in_words import describe
from csp_al.report.tables import open_run
from csp_al.store.run_directory import prepare, published_stages
from csp_al.store.stages import manifest
from csp_al.structures import Labels

DATA = Path(__file__).parent / "data"
OUTPUTS = DATA / "pw"
"""Of pw.x 6.7, PBE at 20 Ry, without what it says of its iterations and its time: a single point, and a relaxation."""
CAMPAIGN = """\
name: warm
seed: 3
labels: {labels}
pool: {{formula: {formula}, size: 16, volume_per_atom: [12, 24]}}
reference: {{kind: ase, calculator: ase.calculators.emt.EMT, max_force: 20, max_fail_fraction: 0.9}}
potential: {{members: 2, features: 8, interactions: 1, cutoff: 4.0, steps: 10, batch_size: 8}}
relax: {{max_steps: 15, uncertainty: 3}}
select: {{per_cycle: 3, clusters: 4}}
stop: {{top_k: 1, max_cycles: {cycles}, patience: 5}}
finish: {{max_steps: 5}}
budget: {{labels: {budget}}}
"""


def campaign_file(folder: Path, *labels: object, formula: str = "Al4", cycles: int = 2, budget: int = 60) -> Path:
    path = folder / "warm.yaml"
    listed = json.dumps([str(label) for label in labels])
    path.write_text(CAMPAIGN.format(labels=listed, formula=formula, cycles=cycles, budget=budget))
    return path


def crystals(count: int, symbols: str = "Al2", calculator: Callable[[], object] = EMT, seed: int = 0) -> list[Atoms]:
    """Rattled cells, each labelled by the calculator."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        atoms = bulk("Al", "fcc", a=4.05 * rng.uniform(0.95, 1.1), cubic=True)[: len(Atoms(symbols))]
        atoms.symbols = Atoms(symbols).symbols
        if len(atoms) == 2:  # two of the four atoms of a cubic cell are far too dilute
            atoms.set_cell(atoms.cell.array * [1, 1, 0.6], scale_atoms=True)
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + 0.03 * rng.normal(size=(3, 3))), scale_atoms=True)
        atoms.rattle(0.1, rng=rng)
        atoms.calc = calculator()
        labelled(atoms, atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress())
        found.append(atoms)
    return found


def labelled(atoms: Atoms, energy: float, forces: np.ndarray, stress: np.ndarray) -> None:
    atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces, stress=stress)


def written(path: Path, frames: list[Atoms]) -> Path:
    ase.io.write(path, frames)
    return path


def run(path: Path, verb: str = "run") -> tuple[int, str]:
    """Exit status and all that was printed, on one line."""
    said = CliRunner().invoke(app, [verb, str(path), *(["--slots", "1", "--device", "cpu"] if verb == "run" else [])])
    assert said.exception is None or isinstance(said.exception, SystemExit), said.exception
    return said.exit_code, said.output


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def warm(tmp_path_factory, finished_run) -> Path:
    """A finished campaign that began with the labels of another run and of a database, and may ask for 7 of its own."""
    folder = tmp_path_factory.mktemp("warm")
    with connect(folder / "old.db", use_lock_file=False) as database:
        for atoms in crystals(12):
            database.write(atoms)
    path = campaign_file(folder, finished_run, "old.db", cycles=5, budget=7)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        code, said = run(path)
    assert code == 0, said
    return folder / "runs" / "warm"


# a campaign that begins with labels from elsewhere


def test_usable_labels_of_a_run_are_those_of_the_first_cycle(warm, finished_run):
    old = open_run(finished_run).all_labels.usable
    new = open_run(warm).all_labels
    new = new.take(np.arange(len(old)))
    for name in ("energy", "forces", "stress"):
        np.testing.assert_array_equal(getattr(new, name), getattr(old, name))
    np.testing.assert_array_equal(new.structures.positions, old.structures.positions)
    assert set(new.status) == {"done"}
    assert set(new.cycle) == {0}
    assert not new.cost.any()
    assert not new.evaluations.any()
    assert (new.structures.ids < 0).all()
    # perturbed copies of one candidate must not stand on both sides of a validation
    same = old.structures.ids[:, None] == old.structures.ids
    np.testing.assert_array_equal(new.structures.ids[:, None] == new.structures.ids, same)


def test_two_labels_of_a_database_are_computed_again_and_none_of_a_run(warm):
    labels = open_run(warm).labels
    first = labels[labels["cycle"] == 0]
    checked = first[first["task"] != ""]
    assert [place.startswith("old.db, frame ") for place in checked["source"]] == [True, True]
    database = first[first["source"].str.startswith("old.db")]
    energies = database["energy_per_atom"].sort_values()
    assert sorted(checked["energy_per_atom"]) == [energies.iloc[0], energies.iloc[6]]
    assert checked["evaluations"].tolist() == [1, 1] == [first["evaluations"].sum() / 2] * 2
    assert (checked["cost_s"] > 0).all()
    assert len(database) == 12  # the check is no label of its own
    checks = json.loads((warm / "cycle-00" / "label" / "checks.json").read_text())
    assert all(check["energy_mev_per_atom"] < 1e-6 and check["stress_gpa"] < 1e-6 for check in checks)
    for check in checks:
        assert read_result(warm / "tasks", check["task"]).kind == "label"


def test_budget_counts_the_labels_that_the_campaign_asks_for(warm):
    opened = open_run(warm)
    own = opened.labels[opened.labels["id"] >= 0]
    assert len(own) == 6  # of 7, in threes
    assert set(own["cycle"]) == {1, 2}
    assert opened.summary["stop"] == "not settled: 6 labels requested; 3 more would exceed budget.labels, 7"
    given = len(opened.labels) - 6
    assert opened.summary["labels"] == {"asked_for": 6, "from_elsewhere": given}
    evaluations = opened.summary["evaluations"]
    assert evaluations["labels"] == 2 + own["evaluations"].sum()
    assert opened.reference_evaluations == evaluations["all"]


def test_tables_and_status_tell_labels_from_elsewhere_from_those_asked_for(warm):
    opened, now = open_run(warm), status(warm)
    labels = opened.labels
    usable = int(((labels["status"] == "done") & (labels["id"] < 0)).sum())
    assert opened.cycles["labels_from_elsewhere"].tolist() == [usable] * 3
    assert (opened.cycles["labels_done"] + opened.cycles["labels_failed"]).tolist() == [0, 3, 6]
    assert np.isnan(opened.cycles["best_labelled_energy_per_atom"].iloc[0])
    own = labels[(labels["id"] >= 0) & (labels["status"] == "done")]
    assert opened.cycles["best_labelled_energy_per_atom"].iloc[-1] == own["energy_per_atom"].min()
    assert set(own["source"]) == {""}
    assert now.labels == LabelCounts(done=len(own), failed=6 - len(own), pending=0, from_elsewhere=usable)
    assert f"; {usable} from elsewhere" in describe(now)
    assert opened.walk_forward(0) is None
    assert opened.walk_forward(1)["labels"] <= 3
    assert not opened.pool_map(0)["labelled"].any()


def test_picks_are_not_kept_from_candidates_by_labels_from_elsewhere(warm):
    opened = open_run(warm)
    assert len(set(opened.picks(0).tolist())) == 3
    own = opened.labels[opened.labels["cycle"] == 1]
    assert own["id"].tolist() == opened.picks(0).tolist()


def test_plan_has_no_first_draw_and_counts_the_checks(warm, finished_run):
    campaign = open_run(warm).campaign
    assert schedule(campaign, 16) == [0, 3, 3]
    before = plan(campaign, None)
    assert (before["labels_at_most"], before["sources_elsewhere"], before["checks_at_most"]) == (6, 2, 4)
    assert "2 sources instead of a first draw; at most 4 are computed again" in describe_plan(before)
    assert "elsewhere" not in describe_plan(plan(open_run(finished_run).campaign, None))
    after = plan(campaign, warm)
    assert after["labels_done"] == 6
    labelling = open_run(warm).cycles["seconds_label"].iloc[1:].mean()  # the first cycle computed two, to check
    assert after["seconds_per_cycle"]["label"] == pytest.approx(labelling)


def test_exported_labels_from_elsewhere_are_named_so_and_serve_as_a_source_again(warm, here):
    export(warm, ["extxyz", "cif"], "labels", here)
    usable = open_run(warm).all_labels.usable
    names = [path.name for path in (here / "labels-cif").iterdir()]
    assert sum(name.startswith("elsewhere-") for name in names) == (usable.structures.ids < 0).sum()
    labels, _ = read_labels(read_campaign(campaign_file(here, "labels.extxyz")), here)
    np.testing.assert_allclose(labels.energy, usable.energy, atol=1e-7)
    np.testing.assert_allclose(labels.stress, usable.stress, atol=1e-7)


def test_labels_of_a_run_alone_cost_no_evaluation(here, finished_run):
    code, said = run(campaign_file(here, finished_run, cycles=1))
    assert code == 0, said
    opened = open_run(here / "runs" / "warm")
    assert opened.labels["evaluations"].sum() == 0
    assert opened.reference_evaluations == opened.summary["evaluations"]["final_relaxations"]
    assert figures.convergence(opened.cycles, opened.results, opened.reference_evaluations).data
    assert plan(opened.campaign, opened.path)["core_hours"]["basis"] == "unknown before the first cycle"


def test_labels_of_other_cells_and_stoichiometries_serve_a_larger_cell(here):
    written(here / "small.extxyz", [*crystals(8, "AlCu"), *crystals(6, "Al3Cu")])
    code, said = run(campaign_file(here, "small.extxyz", formula="Al4Cu2", cycles=1))
    assert code == 0, said
    labels = open_run(here / "runs" / "warm").labels
    assert len(labels) == 14
    assert labels["evaluations"].sum() == 2


# interruptions


class Killed(BaseException):
    """The driver ends here."""


def drive(folder: Path, source: Path, tell: Listener = lambda _: None) -> None:
    """A driver without its command line, told to ``tell`` what it does."""
    campaign, place = read_campaign(source), folder / "run"
    place.mkdir(exist_ok=True)
    prepare(place, campaign, source, {})
    engine = start_engine(place / "tasks", Machine(slots=1))
    try:
        search(Drive(campaign, place, source.parent, torch.device("cpu"), tell, engine))
    finally:
        engine.close()


def outcome(folder: Path) -> dict[str, str]:
    """Checksums of all that must not depend on interruptions; costs do."""
    return {
        f"{cycle}/{stage}/{name}": checksum
        for cycle, stage, place in published_stages(folder / "run")
        for name, checksum in manifest(place)["files"].items()
        if name not in ("labels.csv", "labels.h5", "summary.json")
    }


def test_a_campaign_interrupted_at_each_stage_ends_as_an_undisturbed_one(here):
    source = campaign_file(here, written(here / "old.extxyz", crystals(12)))
    (here / "whole").mkdir()
    drive(here / "whole", source)
    seen: set[Event] = set()

    def die(event: Event) -> None:
        """At the beginning of each stage, and at the first sight of each number of things done."""
        if event not in seen and isinstance(event, StageStarted | Advanced) and len(seen) < 40:
            seen.add(event)
            raise Killed

    (here / "torn").mkdir()
    while True:
        try:
            drive(here / "torn", source, die)
        except Killed:
            continue
        break
    assert len(seen) > 10
    assert outcome(here / "torn") == outcome(here / "whole")
    torn, whole = (open_run(here / name / "run").all_labels for name in ("torn", "whole"))
    for name in ("energy", "forces", "stress", "status", "cycle"):  # an interrupted evaluation is counted as begun
        np.testing.assert_array_equal(getattr(torn, name), getattr(whole, name))


def test_labels_are_copied_so_that_a_campaign_outlives_its_sources(here):
    old = written(here / "old.extxyz", crystals(12))
    source = campaign_file(here, "old.extxyz", cycles=1)

    def die(event: Event) -> None:
        if event == StageStarted(None, "pool"):
            raise Killed

    with pytest.raises(Killed):
        drive(here, source, die)
    assert status(here / "run").stage == "elsewhere"
    old.unlink()
    code = CliRunner().invoke(app, ["resume", str(here / "run"), "--trust", "--slots", "1", "--device", "cpu"])
    assert code.exit_code == 0, code.output


def test_status_while_labels_are_checked_counts_evaluations_and_no_labels(here):
    source = campaign_file(here, written(here / "old.extxyz", crystals(12)))

    def die(event: Event) -> None:
        if event == Advanced(2, 2):
            raise Killed

    with pytest.raises(Killed):
        drive(here, source, die)
    now = status(here / "run")
    assert (now.cycle, now.stage, now.eta_s) == (0, "label", None)
    assert now.labels == LabelCounts(done=0, failed=0, pending=0, from_elsewhere=0)
    assert now.reference_evaluations == 2


# labels of other settings


def test_labels_of_another_method_end_the_campaign_with_both_values(here):
    def lj() -> LennardJones:
        return LennardJones(sigma=2.5, epsilon=0.3, rc=6.0)

    frames = crystals(12, calculator=lj)
    written(here / "lj.extxyz", frames)
    written(here / "right.extxyz", crystals(12, seed=1))
    path = campaign_file(here, "right.extxyz", "lj.extxyz")
    code, said = run(path)
    assert code == 1
    assert "20 usable labels from elsewhere, 4 rejected" in said
    lowest = min(range(12), key=lambda frame: frames[frame].get_potential_energy())
    there = frames[lowest].get_potential_energy() / 2
    again = frames[lowest].copy()
    again.calc = EMT()
    assert f"lj.extxyz, frame {lowest}: {there:.4f} eV/atom there, {again.get_potential_energy() / 2:.4f} here" in said
    assert "allowed 5" in said
    assert "Leave the source out" in said
    assert "right.extxyz" not in said
    run_directory = here / "runs" / "warm"
    now = status(run_directory)
    assert now.state == "failed"
    assert "lj.extxyz" in now.stop.reason
    assert now.reference_evaluations == 4
    assert run(path)[0] == 1  # the same again, and nothing is computed for it
    assert len(list((run_directory / "tasks").glob("*/attempt-*"))) == 4


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda e, f, s: (e, f + np.array([0, 0.2, 0]), s), "force along y on atom "),
        (lambda e, f, s: (e, f, -s), "positive under tension"),  # as VASP and pw.x print it
    ],
)
def test_forces_and_stress_are_compared_too(here, change, said):
    frames = crystals(12)
    for atoms in frames:
        labelled(atoms, *change(*(atoms.calc.results[name] for name in ("energy", "forces", "stress"))))
    code, printed = run(campaign_file(here, written(here / "old.extxyz", frames)))
    assert code == 1
    assert said in printed
    assert "eV/atom there" not in printed


def test_a_label_that_cannot_be_computed_again_is_not_trusted(here):
    (here / "broken.py").write_text(
        "from ase.calculators.emt import EMT\n"
        "class Broken(EMT):\n"
        "    def calculate(self, *args, **kwargs):\n"
        "        raise RuntimeError('not converged')\n"
    )
    path = campaign_file(here, written(here / "old.extxyz", crystals(12)))
    path.write_text(path.read_text().replace("ase.calculators.emt.EMT", "broken.Broken"))
    code, said = run(path)
    assert code == 1
    assert "old.extxyz, frame " in said
    assert "it cannot be computed again (RuntimeError: not converged)" in said


def test_a_run_of_other_settings_is_refused_with_the_difference(here, finished_run):
    path = campaign_file(here, finished_run)
    path.write_text(path.read_text().replace("emt.EMT,", "emt.EMT, parameters: {asap_cutoff: true},"))
    for verb in ("validate", "run"):
        code, said = run(path, verb)
        assert code == 2
        assert said.startswith("warm.yaml:3:10: labels[0]: ") or ":3:10: labels[0]: " in said
        assert "parameters.asap_cutoff: None then, True now" in said
        assert "max_force" not in said  # a limit, 10 in the one and 20 in the other
    assert not (here / "runs").exists()


# sources that cannot be used


def told(here: Path, *labels: str, formula: str = "Al4") -> str:
    code, said = run(campaign_file(here, *labels, formula=formula), "validate")
    assert code == 2
    return said.splitlines()[0]


def test_a_missing_path_is_told_at_its_place(here):
    written(here / "a.extxyz", crystals(10))
    assert ":3:22: labels[1]: there is no file or folder" in told(here, "a.extxyz", "nowhere")


def test_a_path_given_twice_is_told(here):
    written(here / "a.extxyz", crystals(10))
    assert "labels[1]: a.extxyz is there already" in told(here, "a.extxyz", "a.extxyz")


def test_a_file_that_is_no_structure_is_told(here):
    (here / "notes.extxyz").write_text("milk\neggs\n")
    assert ":3:10: labels[0]: notes.extxyz cannot be read (" in told(here, "notes.extxyz")


def test_a_folder_without_outputs_is_told(here):
    (here / "empty").mkdir()
    (here / "empty" / "slurm-1.out").write_text("nothing of pw.x\n")
    assert "labels[0]: empty is no run directory and holds no outputs of pw.x" in told(here, "empty")


def test_a_damaged_run_directory_is_told(here):
    (here / "old").mkdir()
    (here / "old" / "resolved.json").write_text("{}")
    assert "labels[0]: old/resolved.json: not readable" in told(here, "old").replace(str(here) + "/", "")


def without(quantity: str) -> Callable[[Atoms], None]:
    return lambda atoms: atoms.calc.results.pop(quantity)


def not_a_number(quantity: str) -> Callable[[Atoms], None]:
    return lambda atoms: labelled(atoms, **atoms.calc.results | {quantity: np.nan * atoms.calc.results[quantity]})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (without("stress"), "1 without stress"),
        (without("forces"), "1 without forces"),
        (lambda atoms: setattr(atoms, "calc", None), "1 without energy, forces, stress"),
        (lambda atoms: atoms.set_pbc([True, True, False]), "1 not periodic in three directions"),
        (not_a_number("forces"), "1 not finite: forces"),
        (not_a_number("energy"), "1 not finite: energy"),
    ],
)
def test_a_frame_that_is_no_label_is_told_by_file_and_number_and_left_out(here, change, said):
    frames = crystals(12)
    change(frames[7])
    if frames[7].calc is not None:
        frames[7].calc.atoms = frames[7].copy()  # results belong to the atoms as they are now
    written(here / "old.traj", frames)
    path = campaign_file(here, "old.traj")
    code, printed = run(path, "validate")
    assert code == 0
    assert f":3:10: labels[0]: old.traj: 1 of 12 frames is no label: {said} (old.traj, frame 7)" in printed
    labels, table = gathered(here, "old.traj")
    assert len(labels.usable) == 11
    assert "old.traj, frame 7" not in set(table["place"])


def test_all_labels_of_other_elements_are_told_at_once(here):
    frames = crystals(12)
    frames[3].symbols[1] = frames[7].symbols[1] = "Ni"
    frames[5].symbols[0] = "Cu"
    for atoms in (frames[3], frames[5], frames[7]):
        atoms.calc.atoms = atoms.copy()
    written(here / "old.traj", frames)
    code, printed = run(campaign_file(here, "old.traj"), "validate")
    assert code == 2
    assert "labels[0]: old.traj, frame 3: Ni is not in pool.formula, Al4 (and 1 label more)" in printed
    assert "labels[0]: old.traj, frame 5: Cu is not in pool.formula, Al4; leave" in printed


def test_too_few_labels_are_refused(here):
    written(here / "few.extxyz", crystals(9))
    assert ":3:9: labels: 9 usable labels in all; an ensemble needs at least 10" in told(here, "few.extxyz")


def test_labels_without_one_of_the_species_are_refused(here):
    written(here / "al.extxyz", crystals(12))
    said = told(here, "al.extxyz", formula="Al2Cu2")
    assert ":3:9: labels: no usable label has Cu, which pool.formula, Al2Cu2, asks for" in said


# what is read, and how


def gathered(here: Path, *sources: str | Path) -> tuple[Labels, pd.DataFrame]:
    return read_labels(read_campaign(campaign_file(here, *sources)), here)


def test_outputs_in_a_folder_are_read_in_sorted_order_and_each_is_one_crystal(here):
    written(here / "more.extxyz", crystals(6))
    labels, table = gathered(here, OUTPUTS, "more.extxyz")
    names = ["al2-scf.out, frame 0", *(f"deeper/al2-relax.out, frame {step}" for step in range(4))]
    assert table["place"].tolist()[:5] == [f"{OUTPUTS}/{name}" for name in names]
    assert labels.structures.ids.tolist() == [-1, -2, -2, -2, -2, -3, -4, -5, -6, -7, -8]
    np.testing.assert_allclose(labels.energy[:2], [-126.4080075, -126.4049128], atol=1e-6)  # -9.2908... Ry
    # in the output 0.00565952 Ry/bohr along z on the first atom, and 177.33 kbar of pressure along it
    assert labels.forces[0, 2] == pytest.approx(0.1540384, abs=1e-6)
    assert labels.stress[0, 2, 2] == pytest.approx(0.1106867, abs=1e-6)


def test_energies_of_vasp_are_those_that_belong_to_the_forces(here):
    written(here / "more.extxyz", crystals(12))
    labels, table = gathered(here, DATA / "vasp", "more.extxyz")
    assert table["place"][0] == f"{DATA}/vasp/vasprun.xml, frame 0"
    assert labels.energy[0] == -7.4  # and not -7.39, extrapolated to no smearing
    assert labels.stress[0, 2, 2] / GPa == pytest.approx(2)  # VASP prints -20 kbar under tension


def test_labels_of_pw_are_not_taken_for_those_of_emt(here):
    written(here / "more.extxyz", crystals(12))
    code, said = run(campaign_file(here, OUTPUTS, "more.extxyz"))
    assert code == 1
    assert "al2-relax.out, frame 3: -63.2055 eV/atom there" in said


def test_labels_that_are_not_sane_are_kept_as_rejected_with_their_reason(here):
    frames = crystals(12)
    results = frames[4].calc.results
    labelled(frames[4], results["energy"], results["forces"] + [[0, 30, 0], [0, -30, 0]], results["stress"])
    close = Atoms("Al2", positions=[[0, 0, 0], [0, 0, 0.5]], cell=[3, 3, 4], pbc=True)
    labelled(close, 0.0, np.zeros((2, 3)), np.zeros(6))
    labels, table = gathered(here, written(here / "old.extxyz", [*frames, close]))
    assert np.flatnonzero(labels.status == "rejected").tolist() == [4, 12]
    assert "allowed up to 20 (reference.max_force)" in labels.reason[4]
    assert "atoms too close" in labels.reason[12]
    assert np.isnan(labels.energy[[4, 12]]).all()
    assert len(labels.usable) == 12 - 1
    assert table["reason"].tolist() == labels.reason.tolist()


def test_a_structure_is_learned_once_though_two_sources_have_it(here):
    frames = crystals(12)
    written(here / "a.traj", frames)
    written(here / "b.traj", frames[:3])
    labels, table = gathered(here, "a.traj", "b.traj")
    assert len(labels.usable) == 12
    assert table["reason"].tolist()[12:] == [f"the same structure as a.traj, frame {row}" for row in range(3)]
    assert rows_to_check(labels, table).size == 2  # nothing of b.traj is used, so nothing need be checked


def test_forces_are_those_of_the_atoms_whatever_was_held_fixed(here):
    frames = crystals(12)
    forces = frames[0].get_forces()
    frames[0].set_constraint(FixAtoms([0, 1]))
    written(here / "old.traj", frames)
    labels, _ = gathered(here, "old.traj")
    np.testing.assert_allclose(labels.forces[:2], forces)


def test_steps_of_one_relaxation_alone_are_refused(here, monkeypatch):
    monkeypatch.setattr("csp_al.loop.label_set.LEAST", 4)
    with pytest.raises(ValueError, match="labels: all labels are of one crystal, on its way to rest"):
        gathered(here, OUTPUTS / "deeper")
