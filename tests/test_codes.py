"""ABINIT and CP2K, where they are installed: derivatives of the energy, and words for what went wrong."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk

from csp_al.campaign import read_campaign
from csp_al.interfaces import ReferenceFailedError
from csp_al.reference.codes import ABINIT_ERROR, CP2K_DRAWING, CP2K_ERROR
from csp_al.reference.evaluate import single_point
from csp_al.reference.references import build_reference

SMALL = Path(__file__).parent.parent / "campaigns" / "small"
CODES = [
    pytest.param(code, wrong, said, marks=pytest.mark.skipif(not shutil.which(program), reason=f"needs {program}"))
    for code, program, wrong, said in (
        ("abinit", "abinit", {"nstep": 2}, "^SCF not converged: ABINIT ran out of steps"),
        ("abinit", "abinit", {"ecutx": 2}, "^ABINIT: .*ECUTX"),
        ("cp2k", "cp2k_shell", {"max_scf": 2}, "^SCF not converged: CP2K ran out of steps"),
        ("cp2k", "cp2k_shell", {"pseudo_potential": "GTH-XX"}, "^CP2K: .*potential <GTH-XX> .*was not found"),
    )
]


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as workers have it


def silicon():
    atoms = bulk("Si", "diamond", a=5.43)
    atoms.positions[1] += [0.15, 0.05, -0.1]
    return atoms


def reference(code, **parameters):
    section = read_campaign(SMALL / f"si2-{code}.yaml").reference
    cheap = {"kspacing": 0.9, **parameters}
    return build_reference(section.model_copy(update={"parameters": section.parameters | cheap}))


@pytest.mark.long
@pytest.mark.parametrize(("code", "wrong", "said"), CODES)
def test_failures_are_told_in_the_words_of_the_code(tmp_path, code, wrong, said):
    with pytest.raises(ReferenceFailedError, match=said):
        single_point(reference(code, **wrong), silicon(), tmp_path)


@pytest.mark.long
@pytest.mark.parametrize(("code", "wrong", "said"), CODES[1::2])
def test_forces_are_derivatives_of_the_energy_in_a_folder_of_any_length(tmp_path, code, wrong, said):
    folder = tmp_path / ("x" * 60) / ("y" * 60)  # CP2K takes no name of more than 80 characters
    folder.mkdir(parents=True)
    energies = []
    for step in (-0.01, 0.01):
        atoms = silicon()
        atoms.positions[1, 0] += step
        energies.append(single_point(reference(code), atoms, folder).energy)
    force = single_point(reference(code), silicon(), folder).forces[1][0]
    assert force == pytest.approx((energies[0] - energies[1]) / 0.02, abs=5e-3)
    assert np.abs(force) > 0.1


def test_reasons_are_found_in_what_the_codes_print():
    printed = "--- !ERROR\nsrc_file: m_dtfil.F90\nmessage: |\n    Missing psp file\n...\n"
    assert ABINIT_ERROR.search(printed)[2].split() == ["Missing", "psp", "file"]
    stars = "*" * 79
    drawn = f"\n {stars}\n *   ___   *\n * [ABORT]   *\n *  \\___/  basis set not found *\n *   |   *\n {stars}\n"
    assert CP2K_DRAWING.sub(" ", CP2K_ERROR.search(drawn)[1]).split() == ["basis", "set", "not", "found"]


@pytest.mark.parametrize(
    ("code", "parameters", "said"),
    [
        ("abinit", {"command": "mpirum -n 2 abinit"}, "command: mpirum is not on this machine; put it on PATH"),
        ("cp2k", {"command": "/opt/cp2k_shell"}, "command: /opt/cp2k_shell is not on this machine"),
        ("abinit", {"command": "true", "pp_paths": "/no/psps"}, "pp_paths: there is no folder /no/psps"),
    ],
)
def test_programs_and_folders_that_are_not_there_are_found_before_anything_runs(code, parameters, said):
    [(key, message)] = reference(code, **parameters).check()
    assert key == "parameters"
    assert said in message
