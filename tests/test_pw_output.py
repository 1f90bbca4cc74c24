"""An output of pw.x gives its whole single points, with the energy whose derivatives the forces are, and says of the
others why they are none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase.io import read
from ase.units import Bohr, Ry

from csp_al.interfaces import Failure
from csp_al.reference.pw_frames import CUT_OFF, NOT_SCF, OLD_BASIS, UNCONVERGED, frames_in
from csp_al.reference.pw_output import results_in, why_no_result
from csp_al.structure_files import read_text

DATA = Path(__file__).parent / "data"
SCF = (DATA / "pw" / "al2-scf.out").read_text()
RELAX = (DATA / "pw" / "deeper" / "al2-relax.out").read_text()


def of(name: str) -> str:
    """Of pw.x 6.7 at 16 Ry, without what it says of its iterations, its bands and its time."""
    return (DATA / "pw-others" / name).read_text()


def reasons(output: str) -> list[str]:
    return [frame.wrong for frame in frames_in(output)]


@pytest.mark.parametrize("name", ["pw/al2-scf.out", "pw/deeper/al2-relax.out"])
def test_frames_are_those_that_ase_reads_where_it_can(name):
    frames, by_ase = frames_in((DATA / name).read_text()), read(DATA / name, index=":")
    assert len(frames) == len(by_ase)
    for frame, atoms in zip(frames, by_ase, strict=True):
        assert frame.wrong == ""
        np.testing.assert_allclose(frame.atoms.positions, atoms.positions, atol=1e-5)
        np.testing.assert_allclose(frame.atoms.cell.array, atoms.cell.array, atol=1e-5)
        assert frame.energy == pytest.approx(atoms.get_potential_energy(force_consistent=True), abs=1e-4)
        np.testing.assert_allclose(frame.forces, atoms.get_forces(), atol=1e-5)
        np.testing.assert_allclose(frame.stress, atoms.get_stress(voigt=False), atol=1e-6)


def test_energy_of_a_hybrid_functional_is_the_last_with_exchange():
    (frame,) = frames_in(of("si2-pbe0.out"))
    assert frame.energy == pytest.approx(-15.60348966 * Ry)
    assert frame.wrong == ""


def test_final_scf_of_a_vc_relax_replaces_the_step_in_the_old_basis():
    frames = frames_in(of("si2-vc-relax.out"))
    assert [frame.wrong for frame in frames] == ["", "", "", OLD_BASIS, ""]
    before, final = frames[-2:]
    np.testing.assert_allclose(final.atoms.positions, before.atoms.positions, atol=1e-5)
    assert final.energy - before.energy < -0.1  # eV: so much does the basis say at 16 Ry
    assert frames[0].atoms.cell.volume < final.atoms.cell.volume - 5


def test_forces_are_the_total_ones_where_contributions_are_printed_too():
    output = of("al2-spin-verbose.out")
    assert "non-local contrib.  to forces" in output
    (frame,) = frames_in(output)
    first = next(line for line in output.splitlines() if "atom    1 type  1   force" in line)
    wanted = [float(word) * Ry / Bohr for word in first.split("=")[1].split()]
    np.testing.assert_allclose(frame.forces[0], wanted)
    assert frame.wrong == ""


def test_an_scf_that_may_fail_is_not_converged_whatever_pw_says():
    output = of("si2-scf-may-fail.out")
    assert "convergence has been achieved" in output
    assert reasons(output) == [UNCONVERGED, UNCONVERGED]
    reason = why_no_result(output, "", 0)
    assert reason is not None
    assert reason.kind == Failure.SCF_NOT_CONVERGED
    assert why_no_result(SCF, "", 0) is None


def test_whole_steps_of_an_output_that_is_cut_off_count_wherever_it_is_cut():
    whole = frames_in(RELAX)
    ends = [at + len("\n") for at in range(len(RELAX)) if RELAX.startswith("\n", at)]
    seen = set()
    for end in ends[::7]:
        frames = frames_in(RELAX[:end])
        good = [frame for frame in frames if not frame.wrong]
        assert set(reasons(RELAX[:end])) <= {"", CUT_OFF}
        for frame, wanted in zip(good, whole, strict=False):
            np.testing.assert_array_equal(frame.forces, wanted.forces)
            np.testing.assert_array_equal(frame.stress, wanted.stress)
            assert frame.energy == wanted.energy
        seen.add(len(good))
    assert seen == {0, 1, 2, 3, 4}


def test_several_runs_in_one_file_are_read_with_their_own_cells_and_k_points():
    other = SCF.replace("number of k points=     8", "number of k points=    27").replace("5.404617", "5.604617")
    one, two, three = frames_in(RELAX[: RELAX.rindex("JOB DONE")] + other + SCF)[-3:]
    assert [one.wrong, two.wrong, three.wrong] == ["", "", ""]
    assert two.atoms.cell.volume / three.atoms.cell.volume == pytest.approx((5.604617 / 5.404617) ** 3)
    np.testing.assert_allclose(three.atoms.positions, frames_in(SCF)[0].atoms.positions)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda text: text.replace("Self-consistent Calculation", "Band Structure Calculation"), NOT_SCF),
        (lambda text: text.replace("has been achieved in", "NOT achieved after"), UNCONVERGED),
        (lambda text: text.replace("total   stress", "no stress"), "without stress"),
        (lambda text: text.replace("Forces acting", "No forces"), "without forces"),
        (lambda text: text.replace("Forces acting", "x").replace("total   stress", "x"), "without forces, stress"),
        (lambda text: text.replace("0.00599114", "**************"), "with numbers that cannot be read"),
        (lambda text: text.replace("-0.00059742", "NaN", 1), "with numbers that cannot be read"),
        (lambda text: text.replace("   0.6818182", "************"), "without a structure that can be read"),
        (
            lambda text: text.replace("scf accuracy    <          1.3E-09", "scf accuracy    <          1.3E-03"),
            UNCONVERGED,
        ),
        (
            lambda text: text.replace("     Forces", "     External forces energy = 0.1 Ry\n     Forces"),
            "with external forces, which belong to no energy",
        ),
    ],
)
def test_a_single_point_that_is_no_label_says_why(change, reason):
    assert change(SCF) != SCF
    assert reasons(change(SCF)) == [reason]


def test_an_output_that_ended_before_its_first_single_point_has_no_frames():
    assert frames_in(SCF.partition("Self-consistent")[0]) == []
    assert frames_in("") == []


@pytest.mark.parametrize(
    ("label", "kind", "element"),
    [
        ("Al", "Al", "Al"),
        ("Fe1", "Fe", "Fe"),
        ("Fe_a", "Fe", "Fe"),
        ("O2-", "O", "O"),
        ("fe", "Fe", "Fe"),
        ("D", "H", "H"),
    ],
)
def test_species_are_elements_whatever_they_are_called(label, kind, element):
    output = SCF.replace("        Al             3.00", f"        {label:<15}3.00").replace(
        "Al( 1.00)", f"{kind}( 1.00)"
    )
    output = output.replace("           Al  tau", f"           {label:<5}tau")
    assert set(frames_in(output)[0].atoms.symbols) == {element}


@pytest.mark.parametrize("unit", ["alat", "bohr", "angstrom", "crystal"])
def test_positions_are_read_in_each_unit_with_or_without_flags(unit):
    first = frames_in(SCF)[0].atoms
    alat = 5.404617 * Bohr
    values = {
        "alat": first.positions / alat, "bohr": first.positions / Bohr, "angstrom": first.positions,
        "crystal": first.get_scaled_positions(wrap=False),
    }[unit]  # fmt: skip
    rows = "\n".join(f"Al {x:.10f} {y:.10f} {z:.10f}" for x, y, z in values)
    again = SCF[SCF.index("     Self-consistent") :]
    step = f"\nATOMIC_POSITIONS ({unit})\n{rows} 0 0 0\n\n{again}"
    frames = frames_in(SCF[: SCF.index("   This run was")] + step)
    assert [frame.wrong for frame in frames] == ["", ""]
    np.testing.assert_allclose(frames[1].atoms.positions, first.positions, atol=1e-6)


def test_cells_of_a_vc_relax_are_read_in_units_of_the_lattice_parameter_that_they_tell():
    cell = "\nCELL_PARAMETERS (alat=  5.60000000)\n  1.0 0.0 0.0\n  0.0 1.0 0.0\n  0.0 0.1 1.4\n"
    rows = "\nATOMIC_POSITIONS (crystal)\nAl 0.0 0.0 0.0\nAl 0.5 0.5 0.5\n\n"
    again = SCF[SCF.index("     Self-consistent") :]
    frames = frames_in(SCF[: SCF.index("   This run was")] + cell + rows + again)
    np.testing.assert_allclose(frames[1].atoms.cell.array, 5.6 * Bohr * np.array([[1, 0, 0], [0, 1, 0], [0, 0.1, 1.4]]))
    np.testing.assert_allclose(frames[1].atoms.get_scaled_positions()[1], 0.5)


def test_numbers_that_fortran_prints_without_a_blank_are_told_apart():
    output = SCF.replace(
        "force =    -0.00059742   -0.00097534    0.00599114", "force = -1234.00059742-1234.00097534 1234.00599114"
    )
    np.testing.assert_allclose(
        frames_in(output)[0].forces[0] * Bohr / Ry, [-1234.00059742, -1234.00097534, 1234.00599114]
    )


def test_bytes_that_are_no_utf8_and_windows_line_ends_change_nothing(tmp_path):
    path = tmp_path / "scf.out"
    path.write_bytes(SCF.replace("from scf.in", "from /home/jos\xe9/scf.in").replace("\n", "\r\n").encode("latin-1"))
    (frame,) = frames_in(read_text(path))
    np.testing.assert_array_equal(frame.forces, frames_in(SCF)[0].forces)


def test_results_of_our_own_outputs_are_the_same_numbers_as_those_of_labels_from_elsewhere():
    own, (frame,) = results_in(SCF, 2), frames_in(SCF)
    assert own["energy"] == own["free_energy"] == frame.energy
    np.testing.assert_array_equal(own["forces"], frame.forces)
    with pytest.raises(ValueError, match="no forces in it"):
        results_in(SCF, 3)
