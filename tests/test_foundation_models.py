"""Foundation potentials in processes of their own: right numbers, whatever dies or is missing."""

import hashlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import closing, suppress
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import psutil
import pytest
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.emt import EMT

from csp_al.foundation import worker
from csp_al.foundation.client import DEATHS, Client, FoundationError
from csp_al.foundation.process import LOG_BYTES
from csp_al.interruption import Interrupted, interruptible
from csp_al.structures import Structures

EMT_PATH = "ase.calculators.emt.EMT"

MODULE = '''
import os, signal, subprocess, sys, time
from pathlib import Path
from ase.calculators.calculator import Calculator
from ase.calculators.emt import EMT


def shifted(shift=0.0, file=None, folder=None, deep=None):
    """EMT with another zero."""
    class Shifted(EMT):
        def calculate(self, *arguments, **keywords):
            super().calculate(*arguments, **keywords)
            self.results["energy"] += shift
    if file is not None:
        assert Path(file).is_absolute() and Path(file).is_file()
    if deep is not None:
        assert Path(deep["files"][0]).is_absolute()
    if folder is not None:
        assert Path(folder).is_dir()
    return Shifted()


class NoStress(EMT):
    implemented_properties = ["energy", "forces"]


class Chatty(EMT):
    def calculate(self, *arguments, **keywords):
        print("x" * 800_000)
        Path("droppings").write_text("here")
        super().calculate(*arguments, **keywords)


class Slow(EMT):
    def calculate(self, *arguments, **keywords):
        time.sleep(60)


class Parent(EMT):
    """Has a child."""
    def __init__(self, notes):
        super().__init__()
        child = subprocess.Popen(["sleep", "60"])
        Path(notes).write_text(str(child.pid))


class Deadly(EMT):
    """Ends its process over large cells; or, with a folder for its memory, once."""
    def __init__(self, killed=False, once=None):
        super().__init__()
        self.killed, self.once = killed, once and Path(once, "notes")

    def calculate(self, atoms, *arguments, **keywords):
        if len(atoms) > 2 and not (self.once and self.once.exists()):
            sys.stderr.write("it burns\\n")
            sys.stderr.flush()
            if self.once:
                self.once.touch()
            if self.killed:
                os.kill(os.getpid(), signal.SIGKILL)
            os._exit(7)
        super().calculate(atoms, *arguments, **keywords)


def stillborn():
    os._exit(7)


class Counting(EMT):
    """Remembers how often it was asked; cannot be made where a file is."""
    def __init__(self, notes):
        super().__init__()
        self.calls = 0
        if Path(notes).exists():
            raise ValueError("no more")

    def calculate(self, *arguments, **keywords):
        super().calculate(*arguments, **keywords)
        self.calls += 1
        self.results["energy"] += 1e-3 * self.calls


def wrong(**keywords):
    raise ValueError("no\\nsense")


def nothing():
    return None
'''


def pickled():
    """What would run something when it is read."""
    return np.array([object()], dtype=object)


def rattled(atoms: Atoms, seed: int = 0) -> Atoms:
    """Off its symmetry in every way."""
    rng = np.random.default_rng(seed)
    atoms = atoms.copy()
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + 0.03 * rng.normal(size=(3, 3))), scale_atoms=True)
    atoms.positions += 0.08 * rng.normal(size=atoms.positions.shape)
    return atoms


def crystals() -> list[Atoms]:
    """Of different sizes, one with a left-handed cell."""
    salt = bulk("NaCl", "rocksalt", a=5.64, cubic=True)
    mirrored = rattled(bulk("GaAs", "zincblende", a=5.65), seed=2)
    mirrored.set_cell(mirrored.cell.array[[1, 0, 2]])
    return [rattled(salt), rattled(bulk("Al", cubic=True), seed=1), mirrored, rattled(bulk("Si"), seed=3)]


def metals() -> Structures:
    return Structures.from_atoms([rattled(bulk(metal, cubic=True), seed) for seed, metal in enumerate(("Al", "Cu"))])


@pytest.fixture(scope="module")
def emt():
    with closing(Client(EMT_PATH, {})) as client:
        yield client


@pytest.fixture
def folder(tmp_path) -> Path:
    """That of a campaign file, with a module."""
    (tmp_path / "my_models.py").write_text(MODULE)
    return tmp_path


def of_module(name, folder, parameters=None) -> Client:
    return Client(f"my_models.{name}", parameters or {}, folders=[folder])


def pid_of(client: Client) -> int:
    assert client._worker is not None
    return client._worker.process.pid


def wait_until(holds, seconds=10.0):
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


# What the models say.


def _chgnet_calculator(**keywords):
    from chgnet.model import CHGNet
    from chgnet.model.dynamics import CHGNetCalculator

    model = CHGNet.load(model_name=keywords.get("model_name", "0.3.0"), use_device="cpu", verbose=False)
    return CHGNetCalculator(model, use_device="cpu")


def _sevennet_calculator(name):
    from sevenn.calculator import SevenNetCalculator

    return SevenNetCalculator(name, device="cpu")


MODELS = {
    "chgnet": (0.02, _chgnet_calculator),
    "sevennet-0": (0.005, lambda: _sevennet_calculator("7net-0")),
}


@pytest.fixture(scope="module", params=MODELS)
def named(request):
    """A model that is known by name, its tolerance in eV/Å, and its package's own calculator."""
    if not find_spec({"chgnet": "chgnet", "sevennet-0": "sevenn"}[request.param]):
        pytest.skip("not installed")
    with closing(Client(request.param, {})) as client:
        yield client, *MODELS[request.param]


def test_forces_and_stress_are_the_slopes_of_the_energy(named):
    client, tolerance, _ = named
    start = Structures.from_atoms(crystals()[:1])
    _, forces, stress = client.predict(start)

    step = 0.01  # Å
    moves = [sign * step * move.reshape(-1, 3) for move in np.eye(forces.size) for sign in (1, -1)]
    moved = [start.moved(start.positions + move, start.cells).to_atoms()[0] for move in moves]
    energy, _, _ = client.predict(Structures.from_atoms(moved))
    assert np.abs(forces.ravel() + (energy[::2] - energy[1::2]) / (2 * step)).max() < tolerance

    step = 0.003
    strains = [sign * step * strain.reshape(3, 3) for strain in np.eye(9) for sign in (1, -1)]
    strained = []
    for strain in strains:
        deformation = np.eye(3) + (strain + strain.T) / 2
        strained += start.moved(start.positions @ deformation, start.cells @ deformation).to_atoms()
    energy, _, _ = client.predict(Structures.from_atoms(strained))
    slopes = ((energy[::2] - energy[1::2]) / (2 * step * start.volumes)).reshape(3, 3)
    assert np.abs(stress[0] - slopes).max() < 0.1 * units.GPa


def test_a_batch_says_what_single_crystals_say_and_the_calculator_of_the_package(named):
    client, _, calculator = named
    atoms = crystals()
    structures = Structures.from_atoms(atoms)
    energy, forces, stress = client.predict(structures)
    theirs = calculator()
    for row, crystal in enumerate(atoms):
        one = client.predict(structures.take([row]))
        own = slice(structures.ptr[row], structures.ptr[row + 1])
        assert abs(one[0][0] - energy[row]) < 1e-5 * len(crystal)
        assert np.allclose(one[1], forces[own], atol=1e-4)
        assert np.allclose(one[2][0], stress[row], atol=1e-5)
        crystal.calc = theirs
        assert abs(crystal.get_potential_energy() - energy[row]) < 1e-5 * len(crystal)
        assert np.allclose(crystal.get_forces(), forces[own], atol=1e-4)
        handed = np.sign(np.linalg.det(crystal.cell.array)) if client.model == "chgnet" else 1  # theirs has a signed V
        assert np.allclose(handed * crystal.get_stress(voigt=False), stress[row], atol=1e-5)


def test_the_same_batch_has_the_same_numbers_from_the_first_call_on(named):
    structures = Structures.from_atoms(crystals())
    with closing(Client(named[0].model, {})) as fresh:
        first = [fresh.predict(structures) for _ in range(3)]
    for other in (*first[1:], named[0].predict(structures)):
        for ours, theirs in zip(first[0], other, strict=True):
            assert np.array_equal(ours, theirs)


def test_what_a_model_cannot_judge_is_nan_and_spoils_nothing_else(named):
    client = named[0]
    good = crystals()
    lonely = Atoms("NaCl", positions=[[0, 0, 0], [9, 9, 9]], cell=[18, 18, 18], pbc=True)
    alone = Atoms("Na", cell=[18, 18, 18], pbc=True)
    dense = Atoms("Al8", positions=0.4 * np.indices((2, 2, 2)).reshape(3, -1).T, cell=[0.8] * 3, pbc=True)
    polonium = bulk("Po", "sc", a=3.35)
    atoms = [lonely, good[0], alone, dense, polonium, good[1], good[3]]
    structures = Structures.from_atoms(atoms)
    energy, forces, stress = client.predict(structures)
    assert list(client.failures) == [0, 2, 3, 4]
    assert "no neighbour" in client.failures[0]
    assert "no neighbour" in client.failures[2]
    assert "more than any crystal" in client.failures[3]
    assert client.failures[4] == "ValueError: the model has never seen Po"
    bad = np.isin(np.arange(len(atoms)), list(client.failures))
    assert np.array_equal(np.isnan(energy), bad)
    assert np.array_equal(np.isnan(stress).all(axis=(1, 2)), bad)
    assert np.array_equal(np.isnan(forces).all(axis=1), bad[structures.system])
    expected = client.predict(structures.take(~bad))
    assert np.allclose(energy[~bad], expected[0], atol=1e-5)
    assert np.allclose(forces[~bad[structures.system]], expected[1], atol=1e-4)
    assert not client.failures


def test_atoms_in_one_place_spoil_nothing_else(named):
    good = crystals()
    twice = good[1].copy()
    twice.positions[1] = twice.positions[0]
    energy, _, _ = named[0].predict(Structures.from_atoms([good[0], twice, good[1]]))
    expected, _, _ = named[0].predict(Structures.from_atoms([good[0], good[1]]))
    assert np.allclose(energy[[0, 2]], expected, atol=1e-5)


def test_a_model_tells_what_it_is(named):
    about = named[0].about()
    (file, digest), *none = about.weights.items()
    assert not none
    package = "chgnet" if named[0].model == "chgnet" else "sevenn"
    (path,) = Path(find_spec(package).origin).parent.rglob(file) if package == "chgnet" else [
        Path(find_spec(package).origin).parent / "pretrained_potentials/SevenNet_0__11Jul2024" / file
    ]  # fmt: skip
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert len(about.elements) == 89
    assert set(about.versions) == {package}
    assert about.functional == "PBE"
    assert not {"Po", "At", "Rn", "Fr", "Ra"} & set(about.elements)


def test_unknown_parameters_are_an_error_in_one_line(named):
    with closing(Client(named[0].model, {"size": "large"})) as client, pytest.raises(FoundationError) as raised:
        client.about()
    assert "\n" not in str(raised.value)
    assert "parameter" in str(raised.value)


@pytest.mark.skipif(not find_spec("chgnet"), reason="not installed")
def test_other_weights_of_chgnet():
    atoms = crystals()[0]
    with closing(Client("chgnet", {"model_name": "r2scan"})) as client:
        assert client.about().functional == "r2SCAN"
        energy, _, _ = client.predict(Structures.from_atoms([atoms]))
    atoms.calc = _chgnet_calculator(model_name="r2scan")
    assert abs(atoms.get_potential_energy() - energy[0]) < 1e-5 * len(atoms)


@pytest.mark.skipif(not find_spec("sevenn"), reason="not installed")
def test_the_larger_sevennet():
    atoms = crystals()[3]
    with closing(Client("sevennet-l3i5", {})) as client:
        assert list(client.about().weights) == ["checkpoint_l3i5.pth"]
        energy, forces, _ = client.predict(Structures.from_atoms([atoms]))
    atoms.calc = _sevennet_calculator("7net-l3i5")
    assert abs(atoms.get_potential_energy() - energy[0]) < 1e-5 * len(atoms)
    assert np.allclose(atoms.get_forces(), forces, atol=1e-4)


# Any ASE calculator.


def test_an_import_path_is_asked_one_by_one(emt):
    structures = metals()
    energy, forces, stress = emt.predict(structures)
    for row, atoms in enumerate(structures.to_atoms()):
        atoms.calc = EMT()
        assert energy[row] == atoms.get_potential_energy()
        assert np.array_equal(forces[structures.ptr[row] : structures.ptr[row + 1]], atoms.get_forces())
        assert np.array_equal(stress[row], atoms.get_stress(voigt=False))
    about = emt.about()
    assert list(about.versions) == ["ase"]
    assert (about.weights, about.elements, about.functional) == ({}, None, None)


def test_a_calculator_that_fails_for_one_crystal_goes_on_with_the_others(emt):
    energy, _, _ = emt.predict(Structures.from_atoms([bulk("Al"), bulk("Si"), bulk("Cu")]))
    assert np.array_equal(np.isnan(energy), [False, True, False])
    assert list(emt.failures) == [1]
    assert emt.failures[1].startswith(("NotImplementedError", "KeyError"))


def test_an_empty_batch_needs_no_process():
    shapes = [array.shape for array in Client("no.such", {}).predict(Structures.from_atoms([]))]
    assert shapes == [(0,), (0, 3), (0, 3, 3)]


def test_a_module_beside_the_campaign_file_and_its_files_of_weights(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder))
    (folder / "some.model").write_text("weights")
    (folder / "deep").write_text("more")
    parameters = {"shift": 2.5, "file": "some.model", "deep": {"files": ["~/deep"], "word": "large"}, "folder": "~/"}
    with closing(of_module("shifted", folder, parameters)) as client:
        energy, _, _ = client.predict(metals())
        weights = client.about().weights
    with closing(Client(EMT_PATH, {})) as plain:
        assert np.allclose(energy, plain.predict(metals())[0] + 2.5)
    assert weights == {
        "some.model": hashlib.sha256(b"weights").hexdigest(),
        "~/deep": hashlib.sha256(b"more").hexdigest(),
    }


def test_files_and_folders_lie_beside_the_campaign_file_wherever_modules_are(folder, tmp_path_factory):
    base = tmp_path_factory.mktemp("base")
    for name in ("a", "b"):
        (base / name).mkdir()
        (base / name / "m.pt").write_text(name)
    parameters = {"file": "a/m.pt", "deep": {"files": ["b/m.pt"]}, "folder": "a"}
    with closing(Client("my_models.shifted", parameters, folders=[folder], base=base)) as client:
        assert client.about().weights == {
            "a/m.pt": hashlib.sha256(b"a").hexdigest(),
            "b/m.pt": hashlib.sha256(b"b").hexdigest(),
        }


def test_a_module_is_taken_from_the_first_folder_and_what_it_imports_from_the_environment(tmp_path, monkeypatch):
    for number, name in enumerate(("environment", "first", "second")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "helper.py").write_text(f"VALUE = {number}")
        (tmp_path / name / "my_models.py").write_text(f"__version__ = {name!r}\nimport helper, other\n{MODULE}")
    (tmp_path / "environment/my_models.py").write_text("raise ImportError")
    (tmp_path / "first/ase.py").write_text("raise ImportError")
    (tmp_path / "second/other.py").write_text("import helper; assert helper.VALUE == 0")
    (tmp_path / "second/only_here").mkdir()
    (tmp_path / "second/only_here/__init__.py").write_text(f"__version__ = 'package'\n{MODULE}")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "environment"), prepend=os.pathsep)
    folders = [tmp_path / "first", tmp_path / "second"]
    for module, version in (("my_models", "first"), ("only_here", "package")):
        with closing(Client(f"{module}.shifted", {}, folders=folders)) as client:
            assert client.about().versions == {module: version}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("my_models.wrong", "my_models.wrong: ValueError: no sense"),
        ("my_models.nothing", "not an ASE calculator"),
        ("my_models.NoStress", "gives no stress"),
        ("my_models.missing", "my_models.missing"),
        ("not_there.at_all", "no module not_there"),
        ("ase.calculators.emt.ETM", "ase.calculators.emt.ETM"),
    ],
)
def test_what_cannot_be_made_is_told_in_one_line(folder, name, words):
    with closing(Client(name, {}, folders=[folder])) as client, pytest.raises(FoundationError) as raised:
        client.about()
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)
    assert client._worker is None


def test_what_a_calculator_prints_and_writes_is_in_nobodys_way(folder, monkeypatch):
    monkeypatch.chdir(folder)
    before = set(folder.iterdir())
    with closing(of_module("Chatty", folder)) as client:
        for _ in range(3):
            client.predict(metals())
        place = Path(client._worker.folder.name)
        assert (place / "log").stat().st_size < LOG_BYTES + 2_000_000
    assert not place.exists()
    assert {path for path in folder.iterdir() if path.name != "__pycache__"} == before


# Processes.


def test_a_killed_process_is_followed_by_another_that_says_the_same(folder):
    with closing(of_module("shifted", folder, {"shift": 1.0})) as client:
        before = client.predict(metals())
        killed = pid_of(client)
        os.kill(killed, signal.SIGKILL)
        after = client.predict(metals())
        assert pid_of(client) != killed
    for ours, theirs in zip(before, after, strict=True):
        assert np.array_equal(ours, theirs)


@pytest.mark.parametrize(("killed", "how"), [(False, "ended with status 7"), (True, "was killed by SIGKILL")])
def test_crystals_that_kill_every_process_are_failures_and_the_rest_goes_on(folder, killed, how):
    small = [rattled(bulk(metal), seed) for seed, metal in enumerate(("Al", "Cu", "Au"))]
    large = [rattled(bulk(metal, cubic=True), seed) for seed, metal in enumerate(("Cu", "Al"))]
    structures = Structures.from_atoms([small[0], large[0], small[1], small[2], large[1]])
    bad = np.array([False, True, False, False, True])
    with closing(of_module("Deadly", folder, {"killed": killed})) as client:
        energy, forces, stress = client.predict(structures)
        assert client.failures == dict.fromkeys((1, 4), f"its process {how} (it burns)")
        expected = client.predict(structures.take(~bad))
        assert not client.failures
        client.predict(structures.take([4]))
        assert client.failures == {0: f"its process {how} (it burns)"}
        assert client.reasons == {f"its process {how} (it burns)": 3}
    assert np.array_equal(np.isnan(energy), bad)
    assert np.array_equal(np.isnan(stress).all(axis=(1, 2)), bad)
    assert np.array_equal(np.isnan(forces).all(axis=1), bad[structures.system])
    assert np.array_equal(energy[~bad], expected[0])
    assert np.array_equal(forces[~bad[structures.system]], expected[1])
    assert np.array_equal(stress[~bad], expected[2])


def test_a_process_that_dies_once_over_a_question_changes_nothing(folder, emt):
    with closing(of_module("Deadly", folder, {"once": "."})) as client:
        answer = client.predict(metals())
        assert not client.failures
    assert (folder / "notes").exists()
    for ours, theirs in zip(answer, emt.predict(metals()), strict=True):
        assert np.array_equal(ours, theirs)


def test_a_model_over_whose_loading_every_process_dies_is_given_up(folder):
    with closing(of_module("stillborn", folder)) as client:
        with pytest.raises(FoundationError, match=f"ended with status 7, {DEATHS} times in a row"):
            client.predict(metals())
        assert client._worker is None


def test_a_calculator_that_was_made_anew_remembers_nothing(folder):
    with closing(of_module("Counting", folder, {"notes": str(folder / "notes")})) as client:
        client.renew()
        assert client._worker is None
        first, again = client.predict(metals())[0], client.predict(metals())[0]
        assert np.allclose(again - first, 2e-3, atol=1e-9)
        running = pid_of(client)
        client.renew()
        assert pid_of(client) == running
        assert np.array_equal(client.predict(metals())[0], first)
        os.kill(running, signal.SIGKILL)
        client.renew()
        assert np.array_equal(client.predict(metals())[0], first)
        (folder / "notes").touch()
        with pytest.raises(FoundationError, match="ValueError: no more"):
            client.renew()
        assert client._worker is None


def test_a_calculator_that_was_asked_nothing_is_not_made_anew(folder):
    with closing(of_module("Counting", folder, {"notes": str(folder / "notes")})) as client:
        client.about()
        (folder / "notes").touch()  # none can be made from now on
        client.renew()
        client.predict(metals())
        with pytest.raises(FoundationError, match="ValueError: no more"):
            client.renew()


def test_a_model_that_is_known_by_name_is_not_made_anew(named):
    named[0].about()
    running = pid_of(named[0])
    named[0]._what, what = {"of no": "use"}, named[0]._what
    named[0].renew()
    named[0]._what = what
    assert pid_of(named[0]) == running


def test_no_room_for_temporary_files_is_the_machines_failure(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    with pytest.raises(FileNotFoundError):
        Client(EMT_PATH, {}).about()


def test_a_model_that_changes_meanwhile_is_not_asked_on(folder):
    (folder / "some.model").write_text("weights")
    with closing(of_module("shifted", folder, {"file": "some.model"})) as client:
        client.about()
        os.kill(pid_of(client), signal.SIGKILL)
        (folder / "some.model").write_text("others")
        with pytest.raises(FoundationError, match="has changed"):
            client.predict(metals())


def test_closing_ends_the_process_and_what_it_has_started(folder):
    client = of_module("Parent", folder, {"notes": str(folder / "notes")})
    client.about()
    processes = pid_of(client), int((folder / "notes").read_text())
    assert not any(map(is_gone, processes))
    client.close()
    client.close()
    wait_until(lambda: all(map(is_gone, processes)))


def test_a_process_ends_with_its_parent_though_a_fork_of_that_lives_on(folder):
    script = f"""
import os, sys, time
from pathlib import Path
from csp_al.foundation.client import Client
client = Client({EMT_PATH!r}, {{}})
client.about()
if os.fork() == 0:
    time.sleep(60)
    os._exit(0)
print(client._worker.process.pid, flush=True)
time.sleep(60)
"""
    parent = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        start_new_session=True,
        env=os.environ | {"TMPDIR": str(folder)},  # what is killed leaves its folder
    )
    try:
        pid = int(parent.stdout.readline())
        assert not is_gone(pid)
        parent.kill()
        parent.wait()
        if sys.platform == "linux":
            wait_until(lambda: is_gone(pid))
    finally:
        with suppress(ProcessLookupError):
            os.killpg(parent.pid, signal.SIGKILL)
        parent.stdout.close()


def test_a_signal_cuts_a_question_short_and_the_next_one_gets_its_own_answer(folder):
    with closing(of_module("Slow", folder)) as client:
        client.about()
        busy = pid_of(client)
        threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM)).start()
        begun = time.monotonic()
        with interruptible(), pytest.raises(Interrupted):
            client.predict(metals())
        assert time.monotonic() - begun < 5
        assert client._worker is None
        assert is_gone(busy)


def test_a_python_that_cannot_be_started_is_named(tmp_path):
    python = str(tmp_path / "bin/python")
    with pytest.raises(FoundationError, match=r"bin/python cannot be started \(No such file or directory\)"):
        Client("chgnet", {}, command=[python]).about()


@pytest.mark.parametrize(
    ("program", "words"),
    [("print('welcome to this environment', flush=True)", "says b'welcome '"), ("import sys; sys.exit(3)", "status 3")],
)
def test_a_program_that_is_no_python_is_named(program, words):
    with pytest.raises(FoundationError, match=words):
        Client("chgnet", {}, command=[sys.executable, "-c", program]).about()


WITHOUT = "import runpy, sys; sys.modules[{!r}] = None; runpy.run_path(sys.argv[-1], run_name='__main__')"


@pytest.mark.parametrize(("model", "package"), [("chgnet", "chgnet"), ("sevennet-0", "sevenn")])
def test_a_missing_package_names_what_to_install(model, package):
    command = [sys.executable, "-c", WITHOUT.format(package)]
    with pytest.raises(FoundationError) as raised:
        Client(model, {}, command=command).about()
    assert str(raised.value).startswith(f"{package} is not installed in the environment of {sys.executable}")
    assert f"pip install '{package}>=" in str(raised.value)


HIDING = """
import runpy, sys
from importlib.machinery import PathFinder
from types import SimpleNamespace

def find(name, *_):
    if name != {0!r}:
        return None
    spec = PathFinder.find_spec(name, [place for place in sys.path if not place.endswith("-packages")])
    if spec is None:
        raise ModuleNotFoundError(name=name)
    return spec

sys.meta_path.insert(0, SimpleNamespace(find_spec=find))
runpy.run_path(sys.argv[-1], run_name="__main__")
"""


@pytest.mark.parametrize(("model", "package"), [("chgnet", "chgnet"), ("sevennet-0", "sevenn")])
def test_what_lies_beside_the_campaign_file_is_never_run_for_a_model_of_ours(folder, monkeypatch, model, package):
    (folder / package).mkdir()
    (folder / package / "__init__.py").write_text(f"from pathlib import Path\nPath({str(folder / 'run')!r}).touch()")
    monkeypatch.chdir(folder)
    command = [sys.executable, "-c", HIDING.format(package)]
    for python in (command, [sys.executable]):
        with suppress(FoundationError), closing(Client(model, {}, command=python, folders=[folder, Path()])) as client:
            client.about()
    with pytest.raises(FoundationError, match=f"{package} is not installed in the environment of"):
        Client(model, {}, command=command, folders=[folder, Path()]).about()
    assert not (folder / "run").exists()
    with suppress(FoundationError), closing(Client(f"{package}.thing", {}, folders=[folder])) as client:
        client.about()
    assert (folder / "run").exists()  # as it should for an import path


def test_only_what_an_import_path_needs_may_lie_beside_the_campaign_file():
    def words(model, module):
        return Client(model, {})._in_words("", module)

    assert words("sevennet-0", "torch_geometric") == "sevennet-0: no module torch_geometric; install it"
    assert words("a.b", "ase") == "a.b: no module ase; install it"
    assert words("a.b", "a") == "a.b: no module a; install it, or put it beside the campaign file"


def test_our_own_environment_has_extras():
    client = Client("sevennet-0", {})
    words = client._in_words("ModuleNotFoundError: No module named 'sevenn'", "sevenn")
    assert words == "sevenn is not installed; pip install 'csp_al[sevennet]'"


def test_no_pickle_is_read():
    message = worker.pack({"a": 1}, numbers=np.arange(3))
    text, arrays = worker.unpack(message[worker.HEAD.size :])
    assert text == {"a": 1}
    assert np.array_equal(arrays["numbers"], [0, 1, 2])
    hostile = worker.pack(None, numbers=pickled())
    with pytest.raises(ValueError, match="allow_pickle"):
        worker.unpack(hostile[worker.HEAD.size :])
