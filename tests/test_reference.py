"""The reference method: calculators from a campaign file, their labels, and what is done about bad ones."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT
from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress
from ase.calculators.tersoff import Tersoff, TersoffParameters
from ase.filters import UnitCellFilter
from ase.optimize import BFGS
from ase.units import Bohr, GPa, Hartree
from scipy.special import erfc

from csp_al.campaign import CampaignError
from csp_al.campaign.machine import Machine
from csp_al.interfaces import ReferenceFailedError
from csp_al.reference.ase_calculator import AseReference, find_callable
from csp_al.reference.classical import ionic, lennard_jones, many_body, tersoff
from csp_al.reference.evaluate import TRAJECTORY, relax, single_point
from csp_al.reference.gpaw import LADDER as GPAW
from csp_al.reference.gpaw import GpawReference
from csp_al.reference.gpaw_calculators import pulay_energy
from csp_al.reference.kpoints import monkhorst_pack
from csp_al.reference.ladder import in_force
from csp_al.reference.references import build_reference
from csp_al.reference.sanity import why_insane
from csp_al.results import as_json
from csp_al.running.checks import checked_campaign

SILICON = {
    "m": 3, "gamma": 1, "lambda3": 0, "c": 100390, "d": 16.217, "h": -0.59825, "n": 0.78734, "beta": 1.1e-6,
    "lambda2": 1.73222, "B": 471.18, "R": 2.85, "D": 0.15, "lambda1": 2.4799, "A": 1830.8,
}  # fmt: skip
LJ = {"epsilon": 1.0, "sigma": 2.0, "cutoff": 5.0}


def ase_reference(path, **parameters):
    return build_reference(AseReference(kind="ase", calculator=path, parameters=parameters))


EMT_REFERENCE = ase_reference("ase.calculators.emt.EMT")
LJ_REFERENCE = ase_reference("csp_al.reference.classical.lennard_jones", **LJ)


SALT = bulk("NaCl", "rocksalt", a=5.6)


def perturbed(atoms, seed=0):
    rng = np.random.default_rng(seed)
    atoms = atoms.copy()
    atoms.set_cell(atoms.cell @ (np.eye(3) + rng.normal(0, 0.03, (3, 3))), scale_atoms=True)
    atoms.positions += rng.normal(0, 0.08, atoms.positions.shape)
    return atoms


def attempt(folder: Path, number: int) -> Path:
    directory = folder / f"attempt-{number}"
    directory.mkdir(parents=True)
    return directory


@pytest.mark.parametrize(
    ("calculator", "atoms"),
    [
        (lennard_jones(**LJ), bulk("Ar", "hcp", a=2.2, c=3.6)),  # cell shorter than half the cutoff
        (lennard_jones(**LJ), Atoms("NaXe", positions=[[0, 0, 0], [2.1, 0.4, 0]], cell=[4, 4.5, 3], pbc=True)),
        (tersoff(**{"Si-Si-Si": SILICON}), bulk("Si", "diamond", a=5.43)),
        (many_body("Tersoff_PRB_39_5566_Si_C"), bulk("SiC", "zincblende", a=4.32)),
        (many_body("Stillinger_Weber_PRB_31_5262_Si"), bulk("Si", "diamond", a=5.43)),
        (lennard_jones({"Na-Cl": 1.5, "Na-Na": 1, "Cl-Cl": 0.5}, {"Na-Cl": 2, "Na-Na": 2.5, "Cl-Cl": 2.2}, 5.0), SALT),
        (ionic({"Na": 1, "Cl": -1}, {"Cl-Na": {"A": 1256.3, "rho": 0.317, "C": 7.0}}, 9.0), SALT),
    ],
)
def test_classical_forces_and_stress_are_derivatives_of_the_energy(calculator, atoms):
    atoms = perturbed(atoms)
    atoms.calc = calculator
    np.testing.assert_allclose(atoms.get_forces(), calculate_numerical_forces(atoms, eps=1e-5), atol=2e-6)
    np.testing.assert_allclose(atoms.get_stress(), calculate_numerical_stress(atoms, eps=1e-5), atol=2e-7)


def test_lennard_jones_of_a_pair_is_the_force_shifted_formula():
    def plain(r):
        return 4 * LJ["epsilon"] * ((LJ["sigma"] / r) ** 12 - (LJ["sigma"] / r) ** 6)

    def slope(r):
        return 4 * LJ["epsilon"] * (-12 * LJ["sigma"] ** 12 / r**13 + 6 * LJ["sigma"] ** 6 / r**7)

    cutoff = LJ["cutoff"]
    for distance in (1.8, 2.3, 4.0, 4.999, 5.2):
        pair = Atoms("XeKr", positions=[[0, 0, 0], [distance, 0, 0]], cell=[20, 20, 20], pbc=True)
        pair.calc = lennard_jones(**LJ)
        expected = plain(distance) - plain(cutoff) - (distance - cutoff) * slope(cutoff) if distance < cutoff else 0.0
        assert pair.get_potential_energy() == pytest.approx(expected, abs=1e-12)


def test_lennard_jones_ground_state_is_hcp_five_mev_below_fcc(tmp_path):
    results = {}
    for name, atoms in {"hcp": bulk("Ar", "hcp", a=2.2, c=3.6), "fcc": bulk("Ar", "fcc", a=3.1)}.items():
        results[name] = relax(LJ_REFERENCE, atoms, attempt(tmp_path / name, 1), fmax=1e-4, max_steps=200)
        assert results[name].converged
    assert results["hcp"].energy / 2 == pytest.approx(-6.659, abs=1e-3)
    assert np.linalg.det(results["hcp"].cell) / 2 == pytest.approx(7.561, abs=2e-3)
    assert results["fcc"].energy - results["hcp"].energy / 2 == pytest.approx(0.005, abs=1e-3)


@pytest.mark.parametrize(
    ("pair", "deepest"), [("ArAr", (1.0, 2.6)), ("ArNe", (1.5, 2.08)), ("NeAr", (1.5, 2.08)), ("NeNe", (0.5, 2.288))]
)
def test_each_pair_of_a_mixture_has_its_own_well(pair, deepest):
    epsilon, sigma = deepest
    atoms = Atoms(pair, positions=[[0, 0, 0], [2 ** (1 / 6) * sigma, 0, 0]], cell=[90, 90, 90], pbc=True)
    wells = {"Ar-Ar": 1.0, "Ne-Ar": 1.5, "Ne-Ne": 0.5}, {"Ar-Ar": 2.6, "Ar-Ne": 2.08, "Ne-Ne": 2.288}
    atoms.calc = lennard_jones(*wells, cutoff=40.0)
    assert atoms.get_potential_energy() == pytest.approx(-epsilon, rel=1e-5)
    atoms.calc = lennard_jones({"Ar-Ar": 1.0}, 2.0, cutoff=40.0)
    if pair != "ArAr":
        with pytest.raises(ValueError, match=r"nothing is said of the pair (Ar-Ne|Ne-Ar|Ne-Ne); there are: Ar-Ar"):
            atoms.get_potential_energy()


@pytest.mark.parametrize(("structure", "a"), [("rocksalt", 5.64), ("cesiumchloride", 3.5), ("zincblende", 6.1)])
def test_sums_over_charges_are_near_those_of_ewald(structure, a):
    from pymatgen.analysis.ewald import EwaldSummation
    from pymatgen.io.ase import AseAtomsAdaptor

    atoms = bulk("NaCl", structure, a=a)
    atoms.calc = ionic({"Na": 1, "Cl": -1}, {}, cutoff=12.0)
    charged = AseAtomsAdaptor.get_structure(atoms).add_oxidation_state_by_element({"Na": 1, "Cl": -1})
    damping, cutoff = 0.2, 12.0
    of_each_charge = (erfc(damping * cutoff) / (2 * cutoff) + damping / np.sqrt(np.pi)) * Hartree * Bohr
    expected = EwaldSummation(charged).total_energy
    assert atoms.get_potential_energy() - 2 * of_each_charge == pytest.approx(expected, rel=2e-3)


@pytest.mark.parametrize(
    ("name", "crystal", "energy"),
    [
        ("Tersoff_PRB_39_5566_Si_C", bulk("Si", "diamond", a=5.432), -4.63),
        ("Stillinger_Weber_PRB_31_5262_Si", bulk("Si", "diamond", a=5.431), -4.3366),
        ("Tersoff_PRB_39_5566_Si_C", bulk("C", "diamond", a=3.566), -7.37),
    ],
)
def test_published_many_body_potentials_have_their_published_cohesive_energies(name, crystal, energy):
    crystal = crystal.copy()
    crystal.calc = many_body(name)
    assert crystal.get_potential_energy() / 2 == pytest.approx(energy, abs=0.006)


@pytest.mark.parametrize(
    ("repulsion", "said"),
    [
        ({"Na-CL": {"A": 1.0}}, "'Na-CL' is no pair of charges; did you mean Na-Cl"),
        ({"Cl-Na": {"Rho": 0.3}}, "repulsion of Cl-Na: nothing is called 'Rho'; did you mean rho"),
    ],
)
def test_repulsion_that_means_nothing_is_refused(repulsion, said):
    with pytest.raises(ValueError, match=said):
        ionic({"Na": 1, "Cl": -1}, repulsion, cutoff=9.0)


def test_an_ion_without_a_charge_is_named():
    atoms = SALT.copy()
    atoms.calc = ionic({"Na": 1}, {}, cutoff=9.0)
    with pytest.raises(ValueError, match="no charge is given for Cl"):
        atoms.get_potential_energy()


def test_an_unknown_set_of_parameters_is_named():
    with pytest.raises(ValueError, match="called 'Tersoff_PRB_39_5566'; did you mean Tersoff_PRB_39_5566_Si_C"):
        many_body("Tersoff_PRB_39_5566")


def test_tersoff_from_the_file_is_ases_tersoff():
    atoms = perturbed(bulk("Si", "diamond", a=5.43, cubic=True))
    atoms.calc = tersoff(**{"Si-Si-Si": SILICON})
    other = atoms.copy()
    other.calc = Tersoff({("Si", "Si", "Si"): TersoffParameters(**SILICON)})
    assert atoms.get_potential_energy() == other.get_potential_energy()
    perfect = bulk("Si", "diamond", a=5.432)
    perfect.calc = tersoff(**{"Si-Si-Si": SILICON})
    assert perfect.get_potential_energy() / 2 == pytest.approx(-4.6289, abs=2e-4)


DIMER = [[5.0, 5.0, 5.0], [7.3, 5.2, 4.9]]


@pytest.mark.parametrize(
    "positions",
    [
        DIMER,  # no atom has a second neighbour
        [*DIMER, [4.1, 6.9, 5.2]],  # one of the two has
        [*DIMER, [5.2, 7.99, 4.6]],  # a third atom at 3.0 Å, in the last hundredth of an Å of the cutoff
    ],
)
def test_tersoff_forces_of_bonds_without_further_neighbours_are_derivatives_of_the_energy(positions):
    atoms = Atoms(f"Si{len(positions)}", positions=positions, cell=[12, 11, 13], pbc=True)
    atoms.calc = tersoff(**{"Si-Si-Si": SILICON})
    assert np.linalg.norm(atoms.get_forces(), axis=1).max() > 0.1
    np.testing.assert_allclose(atoms.get_forces(), calculate_numerical_forces(atoms, eps=1e-5), atol=2e-6)
    np.testing.assert_allclose(atoms.get_stress(), calculate_numerical_stress(atoms, eps=1e-5), atol=2e-7)


def test_tersoff_dimer_is_the_pair_term_alone():
    atoms = Atoms("Si2", positions=DIMER, cell=[12, 11, 13], pbc=True)
    atoms.calc = tersoff(**{"Si-Si-Si": SILICON})
    r, p = np.linalg.norm(np.subtract(*DIMER)), SILICON  # within R - D, where the cutoff function is 1
    repulsion, attraction = p["A"] * np.exp(-p["lambda1"] * r), p["B"] * np.exp(-p["lambda2"] * r)
    assert atoms.get_potential_energy() == pytest.approx(repulsion - attraction, abs=1e-12)
    slope = -p["lambda1"] * repulsion + p["lambda2"] * attraction
    np.testing.assert_allclose(atoms.get_forces()[1], -slope * np.subtract(*DIMER[::-1]) / r, atol=1e-12)


@pytest.mark.parametrize("n", [0.787, 1.0, 2.0])
def test_tersoff_forces_vanish_as_a_third_atom_leaves_the_cutoff(n):
    def forces(distance):
        positions = [*DIMER, np.add(DIMER[0], [0, distance, 0])]
        atoms = Atoms("Si3", positions=positions, cell=[14, 16, 13], pbc=True)
        atoms.calc = tersoff(**{"Si-Si-Si": SILICON | {"n": n}})
        return atoms.get_forces()

    beyond = forces(3.1)
    for inside in (1e-3, 1e-5, 1e-9):
        assert np.abs(forces(3.0 - inside) - beyond).max() < 10 * inside ** (2 * 0.787 - 1)
    np.testing.assert_array_equal(forces(3.0), beyond)


@pytest.mark.parametrize(
    ("triples", "message"),
    [
        ({"Si-Si": SILICON}, "'Si-Si' is no triple"),
        ({"Si-Si-Si": SILICON | {"lamda1": 1.0}}, "did you mean lambda1"),
        ({"Si-Si-Si": {"m": 3}}, "missing: gamma"),
    ],
)
def test_wrong_tersoff_parameters_are_named(triples, message):
    with pytest.raises(ValueError, match=message):
        tersoff(**triples)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("no_such_module.Calculator", "no module 'no_such_module'"),
        ("ase.calculators.emmt.EMT", "did you mean emt"),
        ("ase.calculators.emt.Emt", "has no 'Emt'; did you mean EMT"),
        ("ase.calculators.tersoff.Tersoff.from_lamps", "Tersoff has no 'from_lamps'; did you mean from_lammps"),
        ("ase.calculators.emt", "is a module"),
        ("ase.calculators.emt.EMT.implemented_properties", "is a list"),
        ("ase calculators", "is no import path"),
    ],
)
def test_import_path_that_leads_nowhere_says_so(path, message):
    with pytest.raises(ValueError, match=message):
        find_callable(path)
    ((key, said),) = ase_reference(path).check()
    assert key == "calculator"
    assert not said.startswith("reference")


def test_a_module_whose_import_fails_is_told_from_one_that_is_missing(tmp_path, monkeypatch):
    (tmp_path / "needs_more.py").write_text("import not_installed_anywhere\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match="importing needs_more failed: No module named 'not_installed_anywhere'"):
        find_callable("needs_more.Calculator")


@pytest.mark.parametrize("at_import", [True, False])
def test_calculator_is_tried_in_a_process_of_its_own_which_may_die(tmp_path, monkeypatch, at_import):
    name = f"deadly_{at_import}"
    lines = ["import os, sys", "sys.dont_write_bytecode = True", "def calculator(): os._exit(1)"]
    (tmp_path / f"{name}.py").write_text("\n".join([*lines, "calculator()" if at_import else ""]))
    monkeypatch.syspath_prepend(tmp_path)
    before = sys.dont_write_bytecode
    ((key, message),) = build_reference(AseReference(kind="ase", calculator=f"{name}.calculator")).check()
    assert key == "calculator"
    assert "died" in message
    assert name not in sys.modules
    assert sys.dont_write_bytecode == before


def test_wrong_keywords_and_non_calculators_are_found_by_the_check():
    ((key, said),) = ase_reference("csp_al.reference.classical.lennard_jones", sigm=1).check()
    assert key == "parameters"
    assert "unexpected keyword" in said
    ((key, said),) = ase_reference("collections.OrderedDict").check()
    assert key == "calculator"
    assert "of Python's standard library, which has no ASE calculator" in said
    assert EMT_REFERENCE.check() == []


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("calculator: ase.calculators.emt.Emt", "3:36: reference.calculator: ase.calculators.emt.Emt: ase"),
        (
            "calculator: csp_al.reference.classical.lennard_jones, parameters: {sigm: 1}",
            "3:90: reference.parameters: csp_al.reference.classical.lennard_jones(sigm=1) failed",
        ),
        ("calculator: csp_al.reference.classical.lennard_jones", "3:1: reference.parameters: "),
    ],
)
def test_what_the_reference_lacks_is_said_once_at_its_place_in_the_file(tmp_path, reference, said):
    path = tmp_path / "campaign.yaml"
    path.write_text(f"name: a\npool: {{formula: Si8}}\nreference: {{kind: ase, {reference}}}\n")
    with pytest.raises(CampaignError) as caught:
        checked_campaign(path, Machine())
    (problem,) = caught.value.problems
    assert str(problem).removeprefix(f"{path}:").startswith(said)
    assert str(problem).splitlines()[0].count("reference.") == str(problem.message).count("reference.") + 1


def test_import_path_may_name_a_class_method(tmp_path):
    file = tmp_path / "Si.tersoff"
    file.write_text("Si Si Si " + " ".join(str(value) for value in SILICON.values()))
    reference = ase_reference("ase.calculators.tersoff.Tersoff.from_lammps", potential_file=str(file))
    atoms = bulk("Si", "diamond", a=5.432)
    assert single_point(reference, atoms, tmp_path).energy / 2 == pytest.approx(-4.6289, abs=2e-4)


def test_single_point_survives_as_json_and_equals_ase(tmp_path):
    atoms = perturbed(bulk("Al", cubic=True))
    result = single_point(EMT_REFERENCE, atoms, tmp_path)
    assert json.loads(json.dumps(as_json(result))) == as_json(result)
    atoms.calc = EMT()
    assert result.energy == atoms.get_potential_energy()
    np.testing.assert_array_equal(result.forces, atoms.get_forces())
    np.testing.assert_array_equal(result.stress, atoms.get_stress(voigt=False))
    assert result.fmax == pytest.approx(np.linalg.norm(atoms.get_forces(), axis=1).max())
    assert result.evaluations == 1


def test_relaxation_equals_ases_and_counts_every_evaluation(tmp_path):
    atoms = perturbed(bulk("Al", cubic=True))
    result = relax(EMT_REFERENCE, atoms, attempt(tmp_path, 1), fmax=0.02, max_steps=100)
    other = atoms.copy()
    other.calc = EMT()
    optimizer = BFGS(UnitCellFilter(other), logfile=None)
    assert optimizer.run(fmax=0.02, steps=100)
    assert result.energy == pytest.approx(other.get_potential_energy(), abs=1e-10)
    np.testing.assert_allclose(result.cell, other.cell.array, atol=1e-8)
    assert result.converged
    assert result.steps == optimizer.nsteps
    assert result.evaluations == optimizer.nsteps + 1
    assert len((tmp_path / "attempt-1" / TRAJECTORY).read_text().splitlines()) == result.evaluations


def test_relaxation_out_of_steps_is_a_result(tmp_path):
    atoms = perturbed(bulk("Al", cubic=True))
    result = relax(EMT_REFERENCE, atoms, attempt(tmp_path, 1), fmax=1e-6, max_steps=3)
    assert not result.converged
    assert (result.steps, result.evaluations) == (3, 4)


def test_interrupted_relaxation_goes_on_and_ends_where_an_undisturbed_one_ends(tmp_path):
    atoms = perturbed(bulk("Al", cubic=True))
    whole = relax(EMT_REFERENCE, atoms, attempt(tmp_path / "whole", 1), fmax=0.01, max_steps=100)
    lines = (tmp_path / "whole" / "attempt-1" / TRAJECTORY).read_text().splitlines(keepends=True)
    cut = tmp_path / "cut"
    (attempt(cut, 1) / TRAJECTORY).write_text("".join(lines[:4]) + lines[4][:50])
    (attempt(cut, 2) / TRAJECTORY).write_text("".join(lines[4:6]))
    rest = relax(EMT_REFERENCE, atoms, attempt(cut, 3), fmax=0.01, max_steps=100)
    assert rest.evaluations == whole.evaluations - 6
    assert as_json(replace(rest, evaluations=0)) == as_json(replace(whole, evaluations=0))


def test_frames_of_another_way_down_do_not_lose_those_that_fit(tmp_path):
    atoms = perturbed(bulk("Al", cubic=True))
    whole = relax(EMT_REFERENCE, atoms, attempt(tmp_path / "whole", 1), fmax=0.01, max_steps=100)
    other = atoms.copy()
    other.rattle(0.1, seed=3)
    relax(EMT_REFERENCE, other, attempt(tmp_path / "other", 1), fmax=0.01, max_steps=100)
    lines, others = (
        (tmp_path / name / "attempt-1" / TRAJECTORY).read_text().splitlines(keepends=True)
        for name in ("whole", "other")
    )
    cut = tmp_path / "cut"
    (attempt(cut, 1) / TRAJECTORY).write_text("".join(lines[:3] + others[:2]))
    (attempt(cut, 2) / TRAJECTORY).write_text("".join(lines[3:6]))
    rest = relax(EMT_REFERENCE, atoms, attempt(cut, 3), fmax=0.01, max_steps=100)
    assert rest.evaluations == whole.evaluations - 6
    assert as_json(replace(rest, evaluations=0)) == as_json(replace(whole, evaluations=0))


class Broken(Calculator):
    """A calculator that gives what it is told to."""

    implemented_properties = ("energy", "forces", "stress")

    def __init__(self, energy=0.0, force=0.0, error=None):
        super().__init__()
        self.values = energy, force, error

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        energy, force, error = self.values
        if error is not None:
            raise error
        self.results = {"energy": energy, "forces": np.full((len(atoms), 3), force), "stress": np.zeros(6)}


class Given:
    """A reference of one calculator."""

    name = "given"

    def __init__(self, calculator):
        self.made = calculator

    def calculator(self, atoms, directory):
        return self.made

    def kpoints(self, atoms):
        return None

    def check(self):
        return []


@pytest.mark.parametrize(
    ("calculator", "reason"),
    [
        (Broken(energy=np.nan), "not finite: energy"),
        (Broken(force=np.inf), "not finite: forces"),
        (Broken(error=ZeroDivisionError("0.0 to a\nnegative power")), "^ZeroDivisionError: 0.0 to a negative power$"),
        (Broken(error=MemoryError()), "out of memory: MemoryError"),
    ],
)
def test_failure_of_the_calculator_has_one_line_as_its_reason(calculator, reason, tmp_path):
    atoms = bulk("Al", cubic=True)
    with pytest.raises(ReferenceFailedError, match=reason):
        single_point(Given(calculator), atoms, tmp_path)
    with pytest.raises(ReferenceFailedError, match=reason):
        relax(Given(calculator), atoms, attempt(tmp_path, 1), fmax=0.05, max_steps=5)


def test_calculator_without_stress_is_refused(tmp_path):
    class Stressless(Broken):
        implemented_properties = ("energy", "forces")

    with pytest.raises(ReferenceFailedError, match="a reference must give energy, forces and stress"):
        single_point(Given(Stressless()), bulk("Al"), tmp_path)


def test_insane_labels_are_named():
    atoms = bulk("Al", cubic=True)
    still, strong = np.zeros((4, 3)), np.full((4, 3), 100.0)
    close = Atoms([13, 8], positions=[[0, 0, 0], [0.5, 0, 0]], cell=[5, 5, 5], pbc=True)
    across = Atoms("Al", cell=[0.9, 5, 5], pbc=True)  # too close to its own image
    assert why_insane(atoms, -1.0, still, np.zeros((3, 3)), 100, 20) is None
    assert "energy, stress" in str(why_insane(atoms, np.inf, still, np.full((3, 3), np.nan), 100, 20))
    assert "force of 173.2 eV/Å, allowed up to 100" in str(why_insane(atoms, 0.0, strong, np.zeros((3, 3)), 100, 20))
    assert "atoms too close: Al-O 0.50 Å apart, allowed from 0.75 Å" in str(
        why_insane(close, 0.0, still[:2], np.zeros((3, 3)), 100, 20)
    )
    assert "Al-Al 0.90 Å" in str(why_insane(across, 0.0, still[:1], np.zeros((3, 3)), 100, 20))


def test_k_points_are_no_further_apart_than_asked_and_no_closer_than_needed():
    assert monkhorst_pack(Atoms(cell=[10, 10, 10], pbc=True), 2 * np.pi / 10) == [1, 1, 1]
    assert monkhorst_pack(Atoms(cell=[2, 4, 40], pbc=True), 0.3) == [11, 6, 1]
    atoms = perturbed(bulk("Si", "diamond", a=5.43))
    reciprocal = 2 * np.pi * np.linalg.inv(atoms.cell.array).T
    for length, divisions in zip(np.linalg.norm(reciprocal, axis=1), monkhorst_pack(atoms, 0.25), strict=True):
        assert length / divisions <= 0.25 < length / (divisions - 1)


def test_gpaw_check_names_missing_datasets_and_functionals():
    pytest.importorskip("gpaw")
    section = GpawReference()
    assert build_reference(section, ["Si", "O"]).check() == []
    ((key, said),) = build_reference(section, ["Si", "Po"]).check()
    assert key == "kind"
    assert "Po.PBE" in said
    ((key, said),) = build_reference(GpawReference(parameters={"nonsense": 3}), ["Si"]).check()
    assert (key, "unexpected keyword argument 'nonsense'" in said) == ("parameters", True)
    ((key, said),) = build_reference(GpawReference(xc="PBEE"), ["Si"]).check()
    assert key == "xc"
    assert "no functional 'PBEE'" in said


def test_gpaw_forces_and_stress_are_derivatives_of_its_energy_and_its_remedy_gives_the_same(tmp_path):
    pytest.importorskip("gpaw")
    section = GpawReference(cutoff=250, kspacing=3, parameters={"convergence": {"density": 1e-6}})
    references = [build_reference(in_force(section, remedies)) for remedies in ([], GPAW)]
    atoms = bulk("Si", "diamond", a=5.43)
    atoms.positions[1] += [0.15, 0.05, -0.1]

    def label(atoms, number=0):
        return single_point(references[number], atoms, tmp_path)

    plain, gentle = label(atoms), label(atoms, 1)
    assert gentle.energy == pytest.approx(plain.energy, abs=2e-4)
    np.testing.assert_allclose(gentle.forces, plain.forces, atol=5e-3)
    assert (tmp_path / "gpaw.txt").exists()

    energies = []
    for sign in (-1, 1):
        moved = atoms.copy()
        moved.positions[1, 0] += sign * 0.01
        energies.append(label(moved).energy)
    assert plain.forces[1][0] == pytest.approx((energies[0] - energies[1]) / 0.02, abs=0.02)

    energies = []
    for sign in (-1, 1):
        strained = atoms.copy()
        strained.set_cell(atoms.cell @ np.diag([1 + sign * 0.005, 1, 1]), scale_atoms=True)
        energies.append(label(strained).energy)
    derivative = (energies[1] - energies[0]) / 0.01 / atoms.get_volume()
    assert plain.stress[0][0] == pytest.approx(derivative, abs=0.003)  # the plane waves of each cell are its own


def test_gpaw_remedy_leaves_the_physics_alone():
    again, gentle = GPAW
    assert again.set == {}
    assert set(gentle.set) == {"parameters"}
    assert set(gentle.set["parameters"]).isdisjoint(
        {"mode", "xc", "kpts", "occupations", "setups", "charge", "spinpol"}
    )


ALONE = ("env", "CORES={cores}")  # a launcher of one process, whatever the cores


def test_gpaw_in_processes_of_its_own_gives_the_same_and_ends_them(tmp_path):
    pytest.importorskip("gpaw")
    section = GpawReference(cutoff=200, kspacing=3)
    atoms = bulk("Si", "diamond", a=5.43)
    atoms.positions[1] += [0.15, 0.05, -0.1]
    here = single_point(build_reference(section), atoms, tmp_path)
    machine = Machine(cores_per_label=2, launcher=ALONE)
    calculator = build_reference(section, ["Si"], machine).calculator(atoms, tmp_path)
    there = single_point(Given(calculator), atoms, tmp_path)
    assert there.energy == pytest.approx(here.energy, abs=1e-6)
    np.testing.assert_allclose(there.forces, here.forces, atol=1e-4)
    np.testing.assert_allclose(there.stress, here.stress, atol=1e-5)
    process = calculator.inner.protocol.proc
    calculator.inner.__del__()
    assert process.poll() == 0


def test_gpaw_without_mpi_is_refused_for_labels_of_several_cores():
    pytest.importorskip("gpaw")
    ((key, said),) = build_reference(GpawReference(), ["Si"], Machine(cores_per_label=2, launcher=ALONE)).check()
    assert key == "kind"
    assert said.startswith("GPAW does not run on 2 cores (env: ")
    ((_, said),) = build_reference(
        GpawReference(), ["Si"], Machine(cores_per_label=2, launcher=("nowhere", "{cores}"))
    ).check()
    assert "nowhere does not start GPAW" in said


def test_pulay_stress_is_that_of_the_hard_atoms_and_fades_with_the_cutoff():
    pytest.importorskip("gpaw")
    oxygen = [pulay_energy("O", "PBE", cutoff) for cutoff in (340, 450, 700)]
    assert oxygen[0] < oxygen[1] < -1 < oxygen[2] <= 0
    assert pulay_energy("Si", "PBE", 340) == pytest.approx(0, abs=0.01)
    # corundum at 340 eV, 8.74 Å^3/atom: 136 GPa said, -9 by differences of energies
    stress = (4 * pulay_energy("Al", "PBE", 340) + 6 * oxygen[0]) / 87.4 / GPa
    assert stress == pytest.approx(-145, abs=40)


class Meshed:
    """A reference whose energy depends on the mesh of the cell that its calculator was made for."""

    name = "meshed"

    def __init__(self):
        self.made = []

    def kpoints(self, atoms):
        return [round(atoms.get_volume())]

    def calculator(self, atoms, directory):
        self.made.append(self.kpoints(atoms))
        return Shifted(self.kpoints(atoms)[0])


class Shifted(EMT):
    def __init__(self, shift):
        super().__init__()
        self.shift = shift

    def calculate(self, *arguments, **keywords):
        super().calculate(*arguments, **keywords)
        for name in ("energy", "free_energy"):
            self.results[name] += self.shift


def test_last_cell_has_a_single_point_of_its_own_mesh_also_when_it_was_interrupted(tmp_path):
    start = bulk("Al", cubic=True, a=4.2)
    whole = Meshed()
    result = relax(whole, start, attempt(tmp_path / "whole", 1), fmax=0.01, max_steps=40)
    assert whole.made == [[74], whole.kpoints(Atoms(cell=result.cell))]
    assert whole.made[1] != [74]
    plain = Atoms("Al4", positions=result.positions, cell=result.cell, pbc=True, calculator=EMT())
    assert result.energy == pytest.approx(plain.get_potential_energy() + whole.made[1][0], abs=1e-9)
    assert result.evaluations == result.steps + 2  # the first, and the last of another mesh

    lines = (tmp_path / "whole" / "attempt-1" / TRAJECTORY).read_text().splitlines(keepends=True)
    for done in (2, len(lines) - 1, len(lines)):
        folder = tmp_path / f"cut-{done}"
        (attempt(folder, 1) / TRAJECTORY).write_text("".join(lines[:done]))
        again = relax(Meshed(), start, attempt(folder, 2), fmax=0.01, max_steps=40)
        assert again.energy == pytest.approx(result.energy, abs=1e-9)
        assert again.evaluations == len(lines) - done


# --- results of other shapes


class Shaped(EMT):
    """EMT whose results are handed out otherwise."""

    def __init__(self, **changes):
        super().__init__()
        self.changes = changes

    def calculate(self, *args, **kwargs):
        super().calculate(*args, **kwargs)
        for name, change in self.changes.items():
            self.results[name] = change(self.results[name])


class Shapes:
    """A reference of one calculator."""

    name = "shapes"

    def __init__(self, **changes):
        self.changes = changes

    def calculator(self, atoms, directory):
        return Shaped(**self.changes)

    def kpoints(self, atoms):
        return None


def nine(stress):
    xx, yy, zz, yz, xz, xy = stress
    return np.array([xx, xy, xz, xy, yy, yz, xz, yz, zz])


@pytest.mark.parametrize(
    "changes",
    [
        {"energy": lambda e: np.array([e]), "free_energy": lambda e: np.array([[e]])},
        {"stress": nine},
        {"stress": lambda s: nine(s).reshape(3, 3)},
        {"stress": list, "forces": lambda f: f.tolist()},
    ],
)
def test_results_in_another_clear_shape_are_taken(tmp_path, changes):
    atoms = perturbed(bulk("Al", cubic=True))
    plain, other = (single_point(reference, atoms, tmp_path) for reference in (EMT_REFERENCE, Shapes(**changes)))
    assert other.energy == plain.energy
    np.testing.assert_array_equal(other.forces, plain.forces)
    np.testing.assert_allclose(other.stress, plain.stress, atol=1e-12)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"free_energy": lambda e: np.array([e, e])}, r"energy of shape \(2,\); one number is expected"),
        ({"forces": lambda f: f[:1]}, r"forces of shape \(1, 3\) for 4 atoms; \(4, 3\) is expected"),
        ({"forces": lambda f: f.ravel()}, r"forces of shape \(12,\) for 4 atoms"),
        ({"stress": lambda s: s[:3]}, r"stress of shape \(3,\); six numbers in Voigt's order"),
        ({"forces": lambda f: "none"}, "forces: numbers are expected, not str"),
    ],
)
def test_results_in_no_clear_shape_are_named(tmp_path, changes, words):
    with pytest.raises(ReferenceFailedError, match=words):
        single_point(Shapes(**changes), perturbed(bulk("Al", cubic=True)), tmp_path)
