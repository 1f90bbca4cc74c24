"""The machine file: where programs are, how many cores a label has, and what is wrong with it."""

import pytest
from ase.build import bulk

from csp_al.campaign import CampaignError
from csp_al.campaign.machine import Machine, machine_folder, read_machine
from csp_al.engine.local import LocalEngine
from csp_al.engine.tasks import create_task, label_task, read_result
from csp_al.engine.wait import run_tasks
from csp_al.reference.ase_calculator import AseReference


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    machine_folder().mkdir(parents=True)
    return machine_folder()


def test_default_machine_is_read_where_there_is_one(folder):
    assert read_machine(None) == Machine()
    (folder / "default.yaml").write_text("cores_per_label: 2\n")
    assert read_machine(None).cores_per_label == 2
    (folder / "empty.yaml").write_text("# nothing\n")
    assert read_machine("empty") == Machine()


def test_missing_machine_is_named_with_those_that_are_there(folder):
    (folder / "cluster.yaml").write_text("slots: 4\n")
    with pytest.raises(ValueError, match=r"machine clustr: no file .*clustr.yaml; in .* there are cluster$"):
        read_machine("clustr")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("slots: 2\ncores_per_lable: 4\n", ":2:1: cores_per_lable: unknown key, did you mean cores_per_label?"),
        ("slots: many\n", ':1:8: slots: a whole number is expected, not "many"'),
        ("launcher: [mpirun, -n, 4]\n", "launcher[2]: text is expected"),
        ("launcher: [mpirun]\n", "{cores} must stand where the number of cores belongs"),
        ("- slots\n", "no keys and values; allowed: slots, "),
        ("slots: [1\n", ":2:1: "),
    ],
)
def test_each_mistake_in_a_machine_file_has_its_place(tmp_path, text, said):
    path = tmp_path / "here.yaml"
    path.write_text(text)
    with pytest.raises(CampaignError) as caught:
        read_machine(str(path))
    assert said in str(caught.value)


def test_commands_are_argument_lists_with_the_launcher_for_several_cores(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Machine().command("pw.x") == ["pw.x"]
    several = Machine(cores_per_label=4, launcher=("srun", "--ntasks={cores}"), programs={"pw.x": "bin/my pw.x"})
    assert several.command("pw.x") == ["srun", "--ntasks=4", str(tmp_path / "bin/my pw.x")]
    assert several.command("abinit") == ["srun", "--ntasks=4", "abinit"]


def test_cores_are_never_oversubscribed():
    assert Machine().slots_on(8) == 8
    assert Machine(cores_per_label=3).slots_on(8) == 2
    with pytest.raises(ValueError, match="3 labels side by side on 4 cores each need 12 cores, this machine has 8"):
        Machine(slots=3, cores_per_label=4).slots_on(8)
    with pytest.raises(ValueError, match="this machine has 2"):
        Machine(cores_per_label=4).slots_on(2)


def test_workers_hold_programs_to_the_cores_of_their_label(tmp_path, monkeypatch):
    (tmp_path / "threads.py").write_text(
        "import os\nfrom ase.calculators.emt import EMT\n\n\n"
        "def calculator():\n    raise ValueError(os.environ['OMP_NUM_THREADS'])\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    root = tmp_path / "tasks"
    section = AseReference(kind="ase", calculator="threads.calculator")
    name = create_task(root, label_task(bulk("Al"), section))
    engine = LocalEngine(root, slots=1, machine=Machine(cores_per_label=3))
    try:
        run_tasks(engine, root, [name], lambda *_: None, lambda: False)
    finally:
        engine.close()
    assert "ValueError: 3;" in read_result(root, name).reason.words
