"""The machine file: where programs are, how many cores a label has, and what is wrong with it."""

import os
import subprocess
import sys

import pytest
from ase.build import bulk

from csp_al.campaign import CampaignError
from csp_al.campaign.machine import Machine, machine_folder, read_machine
from csp_al.engine.engines import check_machine, start_engine
from csp_al.engine.local import check
from csp_al.engine.tasks import create_task, label_task, read_result
from csp_al.engine.wait import run_tasks
from csp_al.interfaces import EngineKind
from csp_al.reference.ase_calculator import AseReference

TOY = "engine: slurm\nwalltime: 01:00:00\ncores_per_node: 4\n"


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
        ("- slots\n", "no keys and values; allowed: engine, slots, "),
        ("slots: 2\nengine: locel\n", ":2:9: engine: unknown engine locel, did you mean local?"),
        ("engine: condor\n", ":1:9: engine: unknown engine condor; allowed: local, slurm, pbs, lsf, sge, parsl"),
        ("engine: [local]\n", "engine: unknown engine a list; allowed: local"),
        ("slots: [1\n", ":2:1: "),
        ("engine: slurm\n", "cores_per_node: missing (cores of a node that a pilot asks for)"),
        ("engine: pbs\npartition: cpu\n", "partition: unknown key"),
        (f"{TOY}partitoin: cpu\n", ":4:1: partitoin: unknown key, did you mean partition?"),
        (f"{TOY}launcher: [srun]\n", ":4:11: launcher: {cores} must stand where the number of cores belongs"),
        (f"{TOY}blocks: [4, 2]\n", ":4:9: blocks: the least number comes first"),
        (f"{TOY}cores_per_label: 5\n", ":4:18: cores_per_label: 1 labels side by side on 5 cores each need 5 cores"),
        (f"{TOY}nodes_per_block: 2\n", ":4:18: nodes_per_block: labels of one core stay on the first node"),
        (f'{TOY}setup: ["module load qe\\nexit"]\n', ":4:8: setup: one line each is expected"),
        ("engine: slurm\nwalltime: 90\ncores_per_node: 4\n", ":2:11: walltime: text is expected, not 90"),
        ("engine: slurm\nwalltime: 00:00:50\ncores_per_node: 4\n", "walltime: HH:MM:SS in whole minutes is expected"),
        ("engine: parsl\n", "parsl: missing (file of Python with a Parsl Config, which is run)"),
        ("parsl: nowhere.py\n", ":1:8: parsl: "),
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
    assert check(Machine(), 8) == 8
    assert check(Machine(cores_per_label=3), 8) == 2
    with pytest.raises(ValueError, match="3 labels side by side on 4 cores each need 12 cores, this machine has 8"):
        check(Machine(slots=3, cores_per_label=4), 8)
    with pytest.raises(ValueError, match="this machine has 2"):
        check(Machine(cores_per_label=4), 2)


def test_workers_hold_programs_to_the_cores_of_their_label(tmp_path, monkeypatch):
    (tmp_path / "threads.py").write_text(
        "import os\nfrom ase.calculators.emt import EMT\n\n\n"
        "def calculator():\n    raise ValueError(os.environ['OMP_NUM_THREADS'])\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    root = tmp_path / "tasks"
    section = AseReference(kind="ase", calculator="threads.calculator")
    name = create_task(root, label_task(bulk("Al"), section))
    engine = start_engine(root, Machine(slots=1, cores_per_label=3))
    try:
        run_tasks(engine, root, [name], lambda *_: None, lambda: False)
    finally:
        engine.close()
    assert "ValueError: 3;" in read_result(root, name).reason.words


class Cluster(Machine):
    partition: str


STARTED = []
CLUSTER = EngineKind(Cluster, lambda *what: STARTED.append(what), lambda _: 100)


def test_an_engine_of_a_package_has_keys_of_its_own_in_the_machine_file(tmp_path):
    file = tmp_path / "big.yaml"
    file.write_text(f"engine: {__name__}.CLUSTER\npartition: night\n")
    machine = read_machine(str(file))
    assert machine.partition == "night"
    assert check_machine(machine) == 100  # more than the cores here
    start_engine(tmp_path, machine)
    assert [(tmp_path, machine)] == STARTED
    file.write_text(f"engine: {__name__}.CLUSTER\npartitoin: night\n")
    with pytest.raises(CampaignError, match=r":2:1: partitoin: unknown key, did you mean partition\?"):
        read_machine(str(file))
    file.write_text(f"engine: {__name__}.CLUSTR\n")
    with pytest.raises(CampaignError, match=r":1:9: engine: .*CLUSTR"):
        read_machine(str(file))


def run_python(words: str, **variables: str) -> str:
    environment = {key: value for key, value in os.environ.items() if not key.endswith(("_NUM_THREADS", "_POLICY"))}
    command = [sys.executable, "-c", words]
    return subprocess.run(command, env=environment | variables, capture_output=True, text=True, check=True).stdout


def test_threads_of_kernels_are_no_more_than_asked_for_and_wait_without_spinning():
    words = "import csp_al.potential.networks.schnet, numba, os; print(numba.config.NUMBA_NUM_THREADS)"
    assert run_python(words, OMP_NUM_THREADS="1") == "1\n"
    assert run_python("import csp_al.potential, os; print(os.environ['OMP_WAIT_POLICY'])") == "passive\n"
    said = run_python("import csp_al.potential, os; print(os.environ['OMP_WAIT_POLICY'])", OMP_WAIT_POLICY="active")
    assert said == "active\n"


def test_threads_that_a_users_module_asks_torch_for_do_not_count():
    words = (
        "import torch; from csp_al.potential.devices import use_cores; torch.set_num_threads(7); use_cores(1); "
        "print(torch.get_num_threads())"
    )
    assert run_python(words) == "1\n"


def test_a_pass_takes_the_threads_that_pay_for_its_size_and_gives_the_others_back():
    words = (
        "import torch; from csp_al.potential.devices import WORTH_A_THREAD, threads_for, use_cores\n"
        "use_cores(4)\n"
        "for size in (0, 2 * WORTH_A_THREAD - 1, 2 * WORTH_A_THREAD, 100 * WORTH_A_THREAD):\n"
        "    with threads_for(size): print(torch.get_num_threads(), end=' ')\n"
        "print(torch.get_num_threads())"
    )
    assert run_python(words) == "1 1 2 4 4\n"
